//! Transports and protocols: asyncio's rules for who is called, when, and what may be done meanwhile.

mod buffered;
mod datagrams;
mod recorder;
mod servers;

use std::{
    cell::RefCell,
    io::{Read, Write},
    net,
    rc::Rc,
};

use recorder::{
    Log, MEGABYTE, Recorder, connected, over, read_what_is_there, the_loop, told, turns, until,
};
use rustix::net::{
    AddressFamily, Shutdown, SocketType, shutdown,
    sockopt::{socket_domain, socket_type},
};
use velodrome::{DatagramProtocol, new_event_loop, run};

// ---- the order of calls ----------------------------------------------------------------------

#[test]
fn a_connection_is_made_then_carries_data_then_ends_then_is_lost() {
    run(async {
        let log = Log::default();
        let (_, protocol, mut peer) = connected(Recorder::logging(&log)).await;
        assert_eq!(*log.borrow(), ["made"]);
        peer.write_all(b"hello").unwrap();
        until(|| log.borrow().len() == 2).await;
        drop(peer);
        over(&protocol).await;
        assert_eq!(*log.borrow(), ["made", "data hello", "eof", "lost"]);
    })
    .unwrap();
}

#[test]
fn connection_lost_is_called_once_and_not_inside_close() {
    run(async {
        let log = Log::default();
        let (transport, protocol, mut peer) = connected(Recorder::logging(&log)).await;
        transport.close();
        transport.close();
        transport.abort();
        assert!(transport.is_closing());
        assert_eq!(*log.borrow(), ["made"]);
        over(&protocol).await;
        transport.close();
        transport.abort();
        transport.write(b"nobody reads it");
        turns(3).await;
        assert_eq!(*log.borrow(), ["made", "lost"]);
        assert!(transport.get_protocol().is_none());
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the descriptor is closed");
    })
    .unwrap();
}

#[test]
fn a_transport_that_is_closed_before_its_begin_is_made_and_lost() {
    run(async {
        let log = Log::default();
        let recorder = Recorder {
            at_start: Some(Box::new(|transport| {
                transport.write(b"bye");
                transport.close();
            })),
            ..Recorder::logging(&log)
        };
        let (_, protocol, mut peer) = connected(recorder).await;
        over(&protocol).await;
        assert_eq!(*log.borrow(), ["made", "lost"]);
        let mut all = String::new();
        peer.read_to_string(&mut all).unwrap();
        assert_eq!(all, "bye");
    })
    .unwrap();
}

#[test]
fn a_half_closed_connection_still_carries_the_other_half() {
    run(async {
        let log = Log::default();
        let recorder = Recorder { keeps_open: true, ..Recorder::logging(&log) };
        let (transport, protocol, mut peer) = connected(recorder).await;
        peer.shutdown(net::Shutdown::Write).unwrap();
        until(|| log.borrow().len() == 2).await;
        turns(10).await;
        assert!(!transport.is_closing());
        transport.write(b"answer");
        transport.write_eof();
        transport.write_eof();
        let mut all = String::new();
        peer.read_to_string(&mut all).unwrap();
        assert_eq!(all, "answer");
        transport.close();
        over(&protocol).await;
        assert_eq!(*log.borrow(), ["made", "eof", "lost"]);
    })
    .unwrap();
}

#[test]
fn a_reset_is_what_the_connection_was_lost_by() {
    run(async {
        let log = Log::default();
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = Recorder::logging(&log);
        let (transport, protocol) =
            the_loop().create_connection(|| recorder, address).await.unwrap();
        assert_eq!(transport.peer_addr(), Some(address));
        let (peer, ours) = listener.accept().unwrap();
        assert_eq!(transport.local_addr(), Some(ours));
        transport.write(b"not read: closing resets the connection");
        drop(peer);
        over(&protocol).await;
        assert_eq!(log.borrow().len(), 2, "{log:?}");
        assert!(log.borrow()[1].contains("reset by peer"), "{log:?}");
    })
    .unwrap();
}

#[test]
fn the_socket_can_be_looked_at_until_the_connection_is_lost() {
    let event_loop = new_event_loop();
    let runs = event_loop.clone();
    let transport = event_loop.run_until_complete(async move {
        let (lost, protocol, _peer) = connected(Recorder::default()).await;
        lost.close();
        assert_eq!(lost.with_socket(|socket| socket_domain(socket)), Some(Ok(AddressFamily::UNIX)));
        over(&protocol).await;
        assert_eq!(lost.with_socket(|_| ()), None);

        let local = "127.0.0.1:0".parse().ok();
        let datagrams = runs.create_datagram_endpoint(|| Nobody, local, None).await.unwrap().0;
        assert_eq!(
            datagrams.with_socket(|socket| socket_type(socket)),
            Some(Ok(SocketType::DGRAM))
        );
        connected(Recorder::default()).await.0
    });
    // It stays open while somebody looks at it.
    let looked = transport.unwrap().with_socket(|socket| {
        event_loop.close().unwrap();
        socket_domain(socket)
    });
    assert_eq!(looked, Some(Ok(AddressFamily::UNIX)));
}

struct Nobody;

impl DatagramProtocol for Nobody {}

// ---- reading ---------------------------------------------------------------------------------

#[test]
fn a_paused_transport_delivers_nothing_until_it_is_resumed() {
    run(async {
        let log = Log::default();
        let recorder = Recorder {
            at_data: Some(Box::new(|transport, _| transport.pause_reading())),
            ..Recorder::logging(&log)
        };
        let (transport, _, mut peer) = connected(recorder).await;
        peer.write_all(b"1").unwrap();
        until(|| !transport.is_reading()).await;
        peer.write_all(b"2").unwrap();
        turns(20).await;
        assert_eq!(*log.borrow(), ["made", "data 1"]);
        transport.resume_reading();
        assert!(transport.is_reading());
        until(|| log.borrow().len() == 3).await;
        assert_eq!(log.borrow()[2], "data 2");
    })
    .unwrap();
}

#[test]
fn a_protocol_may_put_another_one_in_its_place() {
    run(async {
        let (first, second) = (Log::default(), Log::default());
        let next = Rc::new(RefCell::new(Recorder::logging(&second)));
        let taken_over = next.clone();
        let recorder = Recorder {
            at_data: Some(Box::new(move |transport, _| {
                taken_over.borrow_mut().transport = Some(transport.clone());
                transport.set_protocol(taken_over.clone());
            })),
            ..Recorder::logging(&first)
        };
        let (transport, protocol, mut peer) = connected(recorder).await;
        peer.write_all(b"1").unwrap();
        until(|| first.borrow().len() == 2).await;
        assert_eq!(Rc::strong_count(&protocol), 1, "the transport let go of the first");
        peer.write_all(b"2").unwrap();
        until(|| second.borrow().len() == 1).await;
        transport.close();
        over(&next).await;
        assert_eq!(*first.borrow(), ["made", "data 1"]);
        assert_eq!(*second.borrow(), ["data 2", "lost"]);
    })
    .unwrap();
}

// ---- writing ---------------------------------------------------------------------------------

#[test]
fn a_write_beyond_the_mark_pauses_the_protocol_inside_it_and_an_empty_buffer_resumes_it() {
    run(async {
        let log = Log::default();
        let (transport, _, mut peer) = connected(Recorder::logging(&log)).await;
        transport.write(&vec![7; 4 * MEGABYTE]);
        assert_eq!(*log.borrow(), ["made", "pause"]);
        assert!(transport.get_write_buffer_size() > 64 * 1024);
        transport.write(b"once is enough");
        assert_eq!(log.borrow().len(), 2);
        let mut received = 0;
        until(|| {
            received += read_what_is_there(&mut peer);
            received == 4 * MEGABYTE + b"once is enough".len()
        })
        .await;
        until(|| log.borrow().len() == 3).await;
        assert_eq!(log.borrow()[2], "resume");
        assert_eq!(transport.get_write_buffer_size(), 0);
    })
    .unwrap();
}

#[test]
fn the_protocol_is_resumed_at_the_low_mark_not_only_when_all_is_sent() {
    run(async {
        let log = Log::default();
        let (transport, _, mut peer) = connected(Recorder::logging(&log)).await;
        transport.set_write_buffer_limits(Some(2 * MEGABYTE), Some(2 * MEGABYTE));
        transport.write(&vec![7; 4 * MEGABYTE]);
        until(|| {
            read_what_is_there(&mut peer);
            log.borrow().len() == 3
        })
        .await;
        assert_eq!(*log.borrow(), ["made", "pause", "resume"]);
        assert!(transport.get_write_buffer_size() > 0);
    })
    .unwrap();
}

#[test]
fn a_protocol_that_fills_the_buffer_is_told_after_its_own_method() {
    run(async {
        let log = Log::default();
        let seen = log.clone();
        let recorder = Recorder {
            at_start: Some(Box::new(move |transport| {
                transport.write(&vec![7; 4 * MEGABYTE]);
                seen.borrow_mut().push("made is done".into());
            })),
            ..Recorder::logging(&log)
        };
        let (..) = connected(recorder).await;
        assert_eq!(*log.borrow(), ["made", "made is done", "pause"]);
    })
    .unwrap();
}

#[test]
fn a_protocol_that_is_borrowed_during_a_write_is_told_soon() {
    run(async {
        let log = Log::default();
        let (transport, protocol, _peer) = connected(Recorder::logging(&log)).await;
        let borrowed = protocol.borrow_mut();
        transport.write(&vec![7; 4 * MEGABYTE]);
        drop(borrowed);
        assert_eq!(*log.borrow(), ["made"]);
        turns(3).await;
        assert_eq!(*log.borrow(), ["made", "pause"]);
        assert!(!transport.is_closing());
    })
    .unwrap();
}

#[test]
fn close_sends_what_is_buffered_and_abort_drops_it() {
    run(async {
        for aborts in [false, true] {
            let (transport, protocol, mut peer) = connected(Recorder::default()).await;
            transport.write(&vec![7; 4 * MEGABYTE]);
            if aborts {
                transport.abort();
            } else {
                transport.close();
            }
            let is_over = protocol.borrow().is_over.clone();
            let mut received = 0;
            until(|| {
                received += read_what_is_there(&mut peer);
                is_over.is_set()
            })
            .await;
            peer.set_nonblocking(false).unwrap();
            received += peer.read_to_end(&mut Vec::new()).unwrap();
            assert_eq!(received == 4 * MEGABYTE, !aborts, "{received}");
        }
    })
    .unwrap();
}

#[test]
fn writes_that_are_joined_arrive_in_order_and_before_what_follows() {
    run(async {
        let (transport, _, mut peer) = connected(Recorder::default()).await;
        let mut expected = Vec::new();
        for round in 0..5_u8 {
            for part in 0..3 {
                transport.write(&[round, part]);
                expected.extend([round, part]);
            }
            transport.writelines([[round, 3], [round, 4]]);
            expected.extend([round, 3, round, 4]);
            turns(1).await;
        }
        transport.write(b"the");
        transport.write(b" end");
        transport.abort();
        expected.extend(b"the end");
        let mut all = Vec::new();
        until(|| peer.read_to_end(&mut all).is_ok()).await;
        assert_eq!(all, expected);
    })
    .unwrap();
}

#[test]
fn whoever_shuts_the_socket_down_does_not_overtake_joined_writes() {
    run(async {
        let (transport, _, mut peer) = connected(Recorder::default()).await;
        for _ in 0..2 {
            transport.write(b"a");
            transport.write(b"b");
            turns(1).await;
        }
        transport.write(b"the end");
        transport.with_socket(|socket| shutdown(socket, Shutdown::Write)).unwrap().unwrap();
        let mut all = Vec::new();
        until(|| peer.read_to_end(&mut all).is_ok()).await;
        assert_eq!(all, b"ababthe end");
    })
    .unwrap();
}

#[test]
fn limits_are_asyncios() {
    run(async {
        let (transport, ..) = connected(Recorder::default()).await;
        assert_eq!(transport.get_write_buffer_limits(), (16 * 1024, 64 * 1024));
        transport.set_write_buffer_limits(Some(100), None);
        assert_eq!(transport.get_write_buffer_limits(), (25, 100));
        transport.set_write_buffer_limits(None, Some(100));
        assert_eq!(transport.get_write_buffer_limits(), (100, 400));
        transport.set_write_buffer_limits(None, None);
        assert_eq!(transport.get_write_buffer_limits(), (16 * 1024, 64 * 1024));
        assert!(transport.can_write_eof());
    })
    .unwrap();
}

#[test]
#[should_panic(expected = "high (1) must be >= low (2) must be >= 0")]
fn a_low_mark_above_the_high_one_is_a_mistake() {
    run(async {
        let (transport, ..) = connected(Recorder::default()).await;
        transport.set_write_buffer_limits(Some(1), Some(2));
    })
    .unwrap();
}

#[test]
#[should_panic(expected = "Cannot call write() after write_eof()")]
fn a_write_after_write_eof_is_a_mistake() {
    run(async {
        let (transport, ..) = connected(Recorder::default()).await;
        transport.write_eof();
        transport.write(b"x");
    })
    .unwrap();
}

// ---- panics ----------------------------------------------------------------------------------

/// What is told of a protocol that panics in `method`, and what the protocol was told.
fn panics_in(method: &'static str) -> (Vec<String>, Vec<String>) {
    let log = Log::default();
    let event_loop = new_event_loop();
    let told = told(&event_loop);
    let recorder = Recorder { panics_in: method, ..Recorder::logging(&log) };
    let with_loop = async {
        let (transport, protocol, mut peer) = connected(recorder).await;
        if method == "pause" {
            transport.write(&vec![7; 4 * MEGABYTE]);
        }
        // It is gone if the connection is.
        let _ = peer.write_all(b"x");
        if method == "eof" {
            drop(peer);
        } else if method == "lost" {
            transport.close();
        }
        over(&protocol).await;
    };
    event_loop.run_until_complete(with_loop).unwrap();
    event_loop.close().unwrap();
    (told.take(), log.take())
}

#[test]
fn a_panic_of_a_protocol_is_told_and_ends_the_connection() {
    let (told, log) = panics_in("made");
    assert_eq!(told, ["Fatal error: protocol.connection_made() call failed.: made is broken"]);
    assert_eq!(log, ["made", "lost protocol.connection_made() panicked: made is broken"]);

    let (told, log) = panics_in("data");
    assert_eq!(told, ["Fatal error: protocol.data_received() call failed.: data is broken"]);
    assert_eq!(log, ["made", "data x", "lost protocol.data_received() panicked: data is broken"]);

    let (told, log) = panics_in("eof");
    assert_eq!(told, ["Fatal error: protocol.eof_received() call failed.: eof is broken"]);
    assert_eq!(
        log,
        ["made", "data x", "eof", "lost protocol.eof_received() panicked: eof is broken"]
    );

    let (told, log) = panics_in("pause");
    assert_eq!(told, ["Fatal error: protocol.pause_writing() call failed.: pause is broken"]);
    assert_eq!(log, ["made", "pause", "lost protocol.pause_writing() panicked: pause is broken"]);

    let (told, log) = panics_in("lost");
    assert_eq!(told, ["Fatal error: protocol.connection_lost() call failed.: lost is broken"]);
    assert_eq!(log.last().unwrap(), "lost");
}

/// As its documentation says: the loop has no way to call it.
#[test]
#[allow(clippy::await_holding_refcell_ref)]
fn a_protocol_that_is_borrowed_across_an_await_loses_its_connection_and_the_loop_goes_on() {
    let log = Log::default();
    let event_loop = new_event_loop();
    let told = told(&event_loop);
    let recorder = Recorder::logging(&log);
    event_loop
        .run_until_complete(async {
            let (transport, protocol, mut peer) = connected(recorder).await;
            let borrowed = protocol.borrow_mut();
            peer.write_all(b"x").unwrap();
            until(|| transport.is_closing()).await;
            drop(borrowed);
            over(&protocol).await;
        })
        .unwrap();
    let message = "Fatal error: protocol.data_received() call failed.";
    assert_eq!(told.borrow().len(), 1, "{told:?}");
    assert!(told.borrow()[0].starts_with(message), "{told:?}");
    assert_eq!(log.borrow().len(), 2, "{log:?}");
    assert!(log.borrow()[1].starts_with("lost protocol.data_received() panicked"), "{log:?}");
}
