//! Protocols with a receive buffer of their own.

use std::{
    cell::RefCell,
    io::{self, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    rc::Rc,
};

use velodrome::{BufferedProtocol, Event, Protocol, Transport, new_event_loop, run};

use crate::recorder::{Log, MEGABYTE, Recorder, the_loop, told, turns, until};

type AtBuffer = Box<dyn FnMut(&Transport)>;

/// Writes down what it is told, and does what it is asked to.
#[derive(Default)]
struct Buffered {
    log: Log,
    buffer: Vec<u8>,
    transport: Option<Transport>,
    panics_in: &'static str,
    at_buffer: Option<AtBuffer>,
    is_over: Rc<Event>,
}

impl Buffered {
    fn of(size: usize, log: &Log) -> Self {
        Buffered { buffer: vec![0; size], log: log.clone(), ..Buffered::default() }
    }

    fn note(&self, what: &str) {
        self.log.borrow_mut().push(what.into());
        assert!(self.panics_in != what, "{what} is broken");
    }
}

impl Protocol for Buffered {
    fn connection_made(&mut self, transport: Transport) {
        self.transport = Some(transport);
        self.note("made");
    }

    fn data_received(&mut self, _data: &[u8]) {
        self.note("data");
    }

    fn eof_received(&mut self) -> bool {
        self.note("eof");
        false
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        self.note(&error.map_or("lost".into(), |error| format!("lost {error}")));
        self.is_over.set();
    }

    fn pause_writing(&mut self) {
        self.note("pause");
    }

    fn buffered(&mut self) -> Option<&mut dyn BufferedProtocol> {
        self.note("buffered");
        Some(self)
    }
}

impl BufferedProtocol for Buffered {
    fn get_buffer(&mut self, size_hint: Option<usize>) -> &mut [u8] {
        assert_eq!(size_hint, None);
        self.note("get");
        if let Some(act) = &mut self.at_buffer {
            act(self.transport.as_ref().expect("the connection was made"));
        }
        &mut self.buffer
    }

    fn buffer_updated(&mut self, count: usize) {
        self.note("updated");
        self.log.borrow_mut().push(String::from_utf8_lossy(&self.buffer[..count]).into());
    }
}

/// What is told of a connection with this protocol, whose peer writes and ends its direction.
async fn told_of(protocol: Buffered, data: &[u8]) -> Vec<String> {
    let (log, is_over) = (protocol.log.clone(), protocol.is_over.clone());
    let (ours, mut peer) = UnixStream::pair().unwrap();
    the_loop().connect_accepted_socket(|| protocol, ours).await.unwrap();
    // In vain if the connection is lost already.
    let _ = peer.write_all(data).and_then(|()| peer.shutdown(Shutdown::Write));
    is_over.wait().await;
    turns(3).await;
    let told: Vec<_> = log.borrow().iter().filter(|line| *line != "buffered").cloned().collect();
    told
}

#[test]
fn each_read_asks_for_a_buffer_and_tells_how_much_is_in_it() {
    run(async {
        let expected = "made get updated abc get updated de get eof lost";
        assert_eq!(told_of(Buffered::of(3, &Log::default()), b"abcde").await.join(" "), expected);
    })
    .unwrap();
}

#[test]
fn a_protocol_is_asked_once_whether_it_has_a_buffer() {
    run(async {
        let log = Log::default();
        told_of(Buffered { panics_in: "data", ..Buffered::of(1, &log) }, b"many reads").await;
        let asked = log.borrow().iter().filter(|line| *line == "buffered").count();
        // And by each call of a method of its own.
        let calls =
            log.borrow().iter().filter(|line| ["get", "updated"].contains(&&***line)).count();
        assert_eq!(asked, 1 + calls);
    })
    .unwrap();
}

#[test]
fn an_empty_buffer_ends_the_connection() {
    let event_loop = new_event_loop();
    let reports = told(&event_loop);
    let trace = event_loop.run_until_complete(told_of(Buffered::of(0, &Log::default()), b"x"));
    let why = "get_buffer() returned an empty buffer";
    assert_eq!(trace.unwrap().join(" "), format!("made get lost {why}"));
    let message = format!("Fatal error: protocol.get_buffer() call failed.: {why}");
    assert_eq!(*reports.borrow(), [message]);
}

#[test]
fn a_panic_is_told_and_ends_the_connection() {
    for (method, name, trace) in [
        ("get", "get_buffer", "made get lost protocol.get_buffer() panicked: get is broken"),
        (
            "updated",
            "buffer_updated",
            "made get updated lost protocol.buffer_updated() panicked: updated is broken",
        ),
        ("buffered", "buffered", "made lost protocol.buffered() panicked: buffered is broken"),
    ] {
        let event_loop = new_event_loop();
        let reports = told(&event_loop);
        let protocol = Buffered { panics_in: method, ..Buffered::of(9, &Log::default()) };
        let told = event_loop.run_until_complete(told_of(protocol, b"x")).unwrap();
        assert_eq!(told.join(" "), trace);
        let message = format!("Fatal error: protocol.{name}() call failed.: {method} is broken");
        assert_eq!(*reports.borrow(), [message]);
    }
}

#[test]
fn protocols_of_both_kinds_follow_each_other() {
    run(async {
        let log = Log::default();
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let plain = Recorder::logging(&log);
        let (transport, plain) = the_loop().connect_accepted_socket(|| plain, ours).await.unwrap();
        let mut write_and_wait = async |data: &str, until_logged: &str| {
            peer.write_all(data.as_bytes()).unwrap();
            until(|| log.borrow().last().is_some_and(|line| line == until_logged)).await;
        };
        write_and_wait("1", "data 1").await;
        let mut buffered = Buffered::of(9, &log);
        buffered.transport = Some(transport.clone());
        let buffered = Rc::new(RefCell::new(buffered));
        transport.set_protocol(buffered.clone());
        write_and_wait("2", "2").await;
        transport.set_protocol(plain);
        write_and_wait("3", "data 3").await;
        transport.set_protocol(buffered);
        write_and_wait("4", "4").await;
    })
    .unwrap();
}

#[test]
fn get_buffer_may_close_or_write_too_much() {
    run(async {
        // asyncio reads what it has a buffer for, even if it is closed meanwhile.
        let close = |transport: &Transport| transport.close();
        let protocol =
            Buffered { at_buffer: Some(Box::new(close)), ..Buffered::of(9, &Log::default()) };
        assert_eq!(told_of(protocol, b"x").await.join(" "), "made get updated x lost");

        // What it is to be told of its own writes it is told when `buffer_updated` is through.
        let write = |transport: &Transport| {
            transport.write(&vec![0; 8 * MEGABYTE]);
            transport.abort();
        };
        let protocol =
            Buffered { at_buffer: Some(Box::new(write)), ..Buffered::of(9, &Log::default()) };
        assert_eq!(told_of(protocol, b"x").await.join(" "), "made get updated x pause lost");
    })
    .unwrap();
}
