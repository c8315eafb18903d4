//! What a loop leaves behind: nothing, neither memory nor descriptors.

use std::{
    cell::Cell,
    fs,
    future::pending,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use velodrome::{
    Async, Protocol, Queue, TcpListener, TcpStream, Transport, UnixStream, create_task,
    new_event_loop, run, sleep,
};

const SHORT: Duration = Duration::from_millis(1);

/// Tests that count the process's descriptors go one by one.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // The thread of the last test may still be about to end, with what it has open.
    let (mut count, mut seen) = (descriptors(), 0);
    while seen < 5 {
        thread::sleep(Duration::from_millis(2));
        let now = descriptors();
        (count, seen) = (now, if now == count { seen + 1 } else { 0 });
    }
    alone
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_loop_that_is_dropped_without_close_frees_everything() {
    let _alone = alone();
    let before = descriptors();
    let alive = Rc::new(());
    let event_loop = new_event_loop();
    let (a, b, c) = (alive.clone(), alive.clone(), alive.clone());
    event_loop.run_until_complete(sleep(SHORT)).unwrap();
    event_loop
        .create_task(async move {
            let _held = a;
            // The loop is held by its own task, too, by way of a timer and a socket.
            let (_one, _other) = UnixStream::pair().unwrap();
            sleep(Duration::from_secs(60)).await;
        })
        .detach();
    event_loop.call_soon(move || drop(b));
    event_loop.call_later(Duration::from_secs(60), move || drop(c));
    event_loop.run_until_complete(sleep(SHORT)).unwrap();
    assert!(descriptors() > before);
    assert!(Rc::strong_count(&alive) > 1);
    drop(event_loop);
    assert_eq!(Rc::strong_count(&alive), 1);
    assert_eq!(descriptors(), before);
}

#[test]
fn close_gives_the_poller_back_while_the_loop_is_still_known() {
    let _alone = alone();
    let before = descriptors();
    let event_loop = new_event_loop();
    event_loop.run_until_complete(sleep(SHORT)).unwrap();
    assert_eq!(descriptors(), before + 4);
    event_loop.close().unwrap();
    // What wakes it may be in the hands of other threads.
    assert_eq!(descriptors(), before + 1);
    drop(event_loop);
    assert_eq!(descriptors(), before);
}

#[test]
fn connections_that_are_open_at_close_are_closed() {
    let _alone = alone();
    let before = descriptors();
    let alive = Rc::new(());
    let held = alive.clone();
    run(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        create_task(async move {
            let mut open = Vec::new();
            loop {
                open.push((listener.accept().await.unwrap(), held.clone()));
            }
        })
        .detach();
        for _ in 0..20 {
            let stream = TcpStream::connect(address).await?;
            create_task(async move { stream.read(&mut [0; 1]).await }).detach();
        }
        sleep(SHORT).await;
        Ok::<_, io::Error>(())
    })
    .unwrap()
    .unwrap();
    assert_eq!(descriptors(), before);
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[test]
fn a_future_that_is_dropped_frees_its_descriptors_at_once() {
    let _alone = alone();
    run(async {
        sleep(SHORT).await;
        let before = descriptors();
        let task = create_task(async {
            let (one, _other) = UnixStream::pair().unwrap();
            one.read(&mut [0; 1]).await
        });
        sleep(SHORT).await;
        assert_eq!(descriptors(), before + 2);
        task.cancel();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(descriptors(), before);
    })
    .unwrap();
}

#[test]
fn tasks_that_hold_each_other_are_freed() {
    let _alone = alone();
    let alive = Rc::new(());
    run(async {
        let queue = Rc::new(Queue::new());
        let (own, held) = (queue.clone(), alive.clone());
        let first = create_task(async move {
            let _held = held;
            let other: velodrome::Task<()> = own.get().await;
            other.await.unwrap();
        });
        let (handle, held) = (first.handle(), alive.clone());
        queue
            .put_nowait(create_task(async move {
                let _held = (held, handle, first);
                pending::<()>().await;
            }))
            .unwrap();
        sleep(SHORT).await;
        assert_eq!(Rc::strong_count(&alive), 3);
    })
    .unwrap();
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[test]
fn what_outlives_its_loop_is_dead_but_not_dangerous() {
    let _alone = alone();
    let before = descriptors();
    let (kept, timer) = run(async {
        let (one, other) = UnixStream::pair().unwrap();
        let mut timer = Box::pin(sleep(Duration::from_secs(60)));
        std::future::poll_fn(|context| {
            assert!(timer.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        ((one, other), timer)
    })
    .unwrap();
    drop(timer);
    drop(kept);
    assert_eq!(descriptors(), before);
}

#[test]
fn accept_goes_on_after_descriptors_ran_out() {
    let _alone = alone();
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        // The loop has opened all that it needs.
        sleep(SHORT).await;
        let mut hoard = Vec::new();
        let exhausted = loop {
            match fs::File::open("/dev/null") {
                Ok(file) => hoard.push(file),
                Err(error) => break error,
            }
        };
        assert_eq!(exhausted.raw_os_error(), Some(24), "EMFILE");
        let refused = listener.accept().await.unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(24));
        hoard.clear();
        let (server, _) = listener.accept().await.unwrap();
        server.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_number_that_another_socket_takes_is_not_confused() {
    let _alone = alone();
    run(async {
        for _ in 0..50 {
            let (one, other) = UnixStream::pair().unwrap();
            let waiting = create_task(async move { one.read(&mut [0; 8]).await });
            sleep(Duration::ZERO).await;
            // The event is on its way, and the socket goes.
            other.write_all(b"late").await.unwrap();
            waiting.cancel();
            assert!(waiting.await.is_err());
            drop(other);
            let (one, other) = UnixStream::pair().unwrap();
            let waiting = create_task(async move {
                let mut buffer = [0; 8];
                let count = one.read(&mut buffer).await.unwrap();
                buffer[..count].to_vec()
            });
            sleep(Duration::ZERO).await;
            sleep(Duration::ZERO).await;
            assert!(!waiting.done());
            other.write_all(b"new").await.unwrap();
            assert_eq!(waiting.await.unwrap(), b"new");
        }
    })
    .unwrap();
}

#[test]
fn readers_that_gave_up_leave_no_wakers_behind() {
    let _alone = alone();
    run(async {
        let (one, _other) = UnixStream::pair().unwrap();
        let one = Rc::new(one);
        let alive = Rc::new(());
        for _ in 0..1000 {
            let (one, held) = (one.clone(), alive.clone());
            let reading = create_task(async move {
                let _held = held;
                one.read(&mut [0; 1]).await
            });
            sleep(Duration::ZERO).await;
            sleep(Duration::ZERO).await;
            reading.cancel();
            assert!(reading.await.is_err());
        }
        let text = format!("{one:?}");
        assert_eq!(Rc::strong_count(&alive), 1);
        assert!(text.contains("waiting: 0"), "{text}");
    })
    .unwrap();
}

#[test]
fn a_descriptor_has_one_owner() {
    let _alone = alone();
    run(async {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let first = Async::new(&one).unwrap();
        let second = Async::new(&one).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AlreadyExists);
        drop(first);
        Async::new(&one).unwrap();
    })
    .unwrap();
}

/// Holds its transport, as the transport holds it.
struct Held {
    transport: Option<Transport>,
    lost: Rc<Cell<bool>>,
    _alive: Rc<()>,
}

impl Protocol for Held {
    fn connection_made(&mut self, transport: Transport) {
        // Something waits for the socket, and for the end of the batch.
        transport.write(&vec![7; 1 << 22]);
        self.transport = Some(transport);
    }

    fn connection_lost(&mut self, _error: Option<io::Error>) {
        self.lost.set(true);
    }
}

#[test]
fn transports_and_servers_that_are_open_at_close_are_closed_without_a_call() {
    let _alone = alone();
    let before = descriptors();
    let (alive, lost) = (Rc::new(()), Rc::new(Cell::new(false)));
    let event_loop = new_event_loop();
    let (runs, held, told) = (event_loop.clone(), alive.clone(), lost.clone());
    let factory = move || Held { transport: None, lost: told.clone(), _alive: held.clone() };
    let (transport, ending, server) = event_loop
        .run_until_complete(async move {
            let server = runs.create_server(factory.clone(), "127.0.0.1:0").await?;
            let address = server.sockets()[0];
            let (transport, _) = runs.create_connection(factory.clone(), address).await?;
            let (ending, _) = runs.create_connection(factory, address).await?;
            sleep(SHORT).await;
            io::Result::Ok((transport, ending, server))
        })
        .unwrap()
        .unwrap();
    // Its `connection_lost` waits in the queue.
    ending.abort();
    assert!(descriptors() > before + 4);
    assert!(Rc::strong_count(&alive) > 3);
    event_loop.close().unwrap();
    assert_eq!(Rc::strong_count(&alive), 1);
    assert!(!lost.get());
    // Who is left holding them can do no harm.
    assert!(transport.is_closing() && ending.is_closing());
    assert!(!server.is_serving());
    transport.write(b"x");
    transport.write_eof();
    transport.resume_reading();
    transport.close();
    server.close_clients();
    server.close();
    drop(event_loop);
    assert_eq!(descriptors(), before);
}

#[test]
fn connections_that_came_and_went_leave_nothing() {
    let _alone = alone();
    let (alive, lost) = (Rc::new(()), Rc::new(Cell::new(false)));
    let (held, told) = (alive.clone(), lost.clone());
    let factory = move || Held { transport: None, lost: told.clone(), _alive: held.clone() };
    let event_loop = new_event_loop();
    let runs = event_loop.clone();
    event_loop
        .run_until_complete(async move {
            sleep(SHORT).await;
            let before = descriptors();
            let server = runs.create_server(factory.clone(), "127.0.0.1:0").await?;
            for _ in 0..20 {
                let address = server.sockets()[0];
                let (transport, _) = runs.create_connection(factory.clone(), address).await?;
                transport.abort();
            }
            server.close();
            server.abort_clients();
            server.wait_closed().await;
            sleep(SHORT).await;
            drop(factory);
            assert_eq!(descriptors(), before);
            io::Result::Ok(())
        })
        .unwrap()
        .unwrap();
    assert_eq!(Rc::strong_count(&alive), 1);
    assert!(lost.get());
}

#[test]
fn a_protocol_whose_destructor_panics_does_not_keep_the_others() {
    struct Panics;
    impl Protocol for Panics {}
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("the destructor of a protocol");
        }
    }

    let _alone = alone();
    let before = descriptors();
    let alive = Rc::new(());
    let event_loop = new_event_loop();
    let (runs, held) = (event_loop.clone(), alive.clone());
    event_loop
        .run_until_complete(async move {
            let mut peers = Vec::new();
            for panics in [false, true, false] {
                let (ours, peer) = std::os::unix::net::UnixStream::pair()?;
                peers.push(peer);
                if panics {
                    runs.connect_accepted_socket(|| Panics, ours).await?;
                } else {
                    let held = Held { transport: None, lost: Rc::default(), _alive: held.clone() };
                    runs.connect_accepted_socket(|| held, ours).await?;
                }
            }
            io::Result::Ok(())
        })
        .unwrap()
        .unwrap();
    drop(event_loop);
    assert_eq!(Rc::strong_count(&alive), 1);
    assert_eq!(descriptors(), before);
}
