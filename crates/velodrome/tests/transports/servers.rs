//! `create_connection` and `create_server`.

use std::{
    cell::{Cell, RefCell},
    env,
    io::{self, Read, Write},
    net,
    os::unix::net::UnixStream,
    process,
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use velodrome::{ServerOptions, TcpStream, create_task, new_event_loop, run, sleep, timeout};

use crate::recorder::{LONG, Log, MEGABYTE, Recorder, echo, over, the_loop, told, turns, until};

#[test]
fn a_megabyte_comes_back_from_an_echo_server() {
    run(async {
        let event_loop = the_loop();
        let server = event_loop.create_server(echo, "127.0.0.1:0").await.unwrap();
        let received = Rc::new(RefCell::new(Vec::<u8>::new()));
        let place = received.clone();
        let client = Recorder {
            at_data: Some(Box::new(move |_, data| place.borrow_mut().extend(data))),
            ..Recorder::default()
        };
        let (transport, protocol) =
            event_loop.create_connection(|| client, server.sockets()[0]).await.unwrap();
        let sent: Vec<u8> = (0..MEGABYTE).map(|at| (at % 251) as u8).collect();
        transport.write(&sent);
        until(|| received.borrow().len() == MEGABYTE).await;
        assert!(*received.borrow() == sent);
        transport.close();
        over(&protocol).await;
        server.close();
        timeout(LONG, server.wait_closed()).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_closed_server_accepts_no_more_and_waits_for_its_connections() {
    run(async {
        let event_loop = the_loop();
        let server = event_loop.create_server(echo, "127.0.0.1:0").await.unwrap();
        let address = server.sockets()[0];
        assert!(server.is_serving());
        let client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        server.close();
        server.close();
        assert!(!server.is_serving());
        assert!(server.sockets().is_empty());
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(timeout(Duration::from_millis(20), server.wait_closed()).await.is_err());
        client.write_all(b"y").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        server.close_clients();
        timeout(LONG, server.wait_closed()).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    })
    .unwrap();
}

#[test]
fn a_server_that_nobody_keeps_goes_on() {
    run(async {
        let server = the_loop().create_server(echo, "127.0.0.1:0").await.unwrap();
        let address = server.sockets()[0];
        drop(server);
        let client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_server_may_start_to_serve_later() {
    let path = env::temp_dir().join(format!("velodrome-start-{}", process::id()));
    run(async {
        let options = ServerOptions { start_serving: false, ..ServerOptions::default() };
        let event_loop = the_loop();
        let server = event_loop.create_server_with(echo, "127.0.0.1:0", options).await.unwrap();
        let address = server.sockets()[0];
        assert!(!server.is_serving());
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        server.start_serving().await.unwrap();
        server.start_serving().await.unwrap();
        assert!(server.is_serving());
        let client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        server.close();
        assert!(!server.is_serving());
        let closed = server.start_serving().await.unwrap_err();
        assert_eq!(closed.to_string(), "the server is closed");

        let server = event_loop.create_unix_server_with(echo, &path, options).await.unwrap();
        let refused = UnixStream::connect(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        server.start_serving().await.unwrap();
        UnixStream::connect(&path).unwrap();
        server.close();
        assert!(!path.exists());
    })
    .unwrap();
}

#[test]
fn a_server_that_never_served_frees_its_address() {
    run(async {
        let options = ServerOptions { start_serving: false, ..ServerOptions::default() };
        let event_loop = the_loop();
        let server = event_loop.create_server_with(echo, "127.0.0.1:0", options).await.unwrap();
        let address = server.sockets()[0];
        drop(server);
        let server = event_loop.create_server_with(echo, address, options).await.unwrap();
        // Both have the address as long as nobody listens.
        let other = event_loop.create_server_with(echo, address, options).await.unwrap();
        server.start_serving().await.unwrap();
        let taken = other.start_serving().await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert!(other.sockets().is_empty());
        timeout(LONG, other.wait_closed()).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_closed_loop_lets_no_server_start() {
    let event_loop = new_event_loop();
    let runs = event_loop.clone();
    let server = event_loop.run_until_complete(async move {
        let options = ServerOptions { start_serving: false, ..ServerOptions::default() };
        runs.create_server_with(echo, "127.0.0.1:0", options).await.unwrap()
    });
    let server = server.unwrap();
    event_loop.close().unwrap();
    let refused = run(async move { server.start_serving().await }).unwrap();
    assert_eq!(refused.unwrap_err().to_string(), "event loop is closed");
}

#[test]
fn two_servers_share_an_address_if_both_say_so() {
    run(async {
        let options = ServerOptions { reuse_port: true, ..ServerOptions::default() };
        let event_loop = the_loop();
        let one = event_loop.create_server_with(echo, "127.0.0.1:0", options).await.unwrap();
        let address = one.sockets()[0];
        let other = event_loop.create_server_with(echo, address, options).await.unwrap();
        assert_eq!(other.sockets(), [address]);
        let refused = event_loop.create_server(echo, address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    })
    .unwrap();
}

#[test]
fn serving_forever_ends_when_the_server_is_closed_and_its_connections_are_lost() {
    run(async {
        let options = ServerOptions { start_serving: false, ..ServerOptions::default() };
        let event_loop = the_loop();
        let server = event_loop.create_server_with(echo, "127.0.0.1:0", options).await.unwrap();
        let serves = server.clone();
        let serving = create_task(async move { serves.serve_forever().await });
        turns(2).await;
        assert!(server.is_serving());
        let twice = server.serve_forever().await.unwrap_err();
        let message = "the server is already being awaited on serve_forever()";
        assert_eq!(twice.to_string(), message);
        let client = TcpStream::connect(server.sockets()[0]).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        server.close();
        turns(5).await;
        assert!(!serving.done(), "it has a connection");
        assert_eq!(server.serve_forever().await.unwrap_err().to_string(), "the server is closed");
        drop(client);
        timeout(LONG, serving).await.unwrap().unwrap().unwrap();
    })
    .unwrap();
}

#[test]
fn cancelling_who_serves_forever_closes_the_server() {
    run(async {
        let server = the_loop().create_server(echo, "127.0.0.1:0").await.unwrap();
        let serves = server.clone();
        let serving = create_task(async move { serves.serve_forever().await });
        turns(2).await;
        assert!(server.is_serving());
        serving.cancel();
        assert!(serving.await.is_err());
        assert!(!server.is_serving() && server.sockets().is_empty());
        timeout(LONG, server.wait_closed()).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_factory_that_panics_costs_one_connection() {
    let event_loop = new_event_loop();
    let told = told(&event_loop);
    let runs = event_loop.clone();
    event_loop
        .run_until_complete(async move {
            let first = Cell::new(true);
            let factory = move || {
                assert!(!first.replace(false), "not this one");
                echo()
            };
            let server = runs.create_server(factory, "127.0.0.1:0").await.unwrap();
            let refused = TcpStream::connect(server.sockets()[0]).await.unwrap();
            assert_eq!(refused.read(&mut [0]).await.unwrap(), 0);
            let client = TcpStream::connect(server.sockets()[0]).await.unwrap();
            client.write_all(b"x").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
        })
        .unwrap();
    let message = "Error on transport creation for incoming connection: not this one";
    assert_eq!(*told.borrow(), [message]);
}

#[test]
fn a_factory_may_close_its_server_in_a_burst() {
    run(async {
        let event_loop = the_loop();
        let known = Rc::new(RefCell::new(None::<velodrome::Server>));
        let server = known.clone();
        let made = Rc::new(Cell::new(0));
        let count = made.clone();
        let factory = move || {
            count.set(count.get() + 1);
            server.borrow().as_ref().unwrap().close();
            echo()
        };
        let server = event_loop.create_server(factory, "127.0.0.1:0").await.unwrap();
        let address = server.sockets()[0];
        known.replace(Some(server.clone()));
        let clients: Vec<_> = (0..5).map(|_| net::TcpStream::connect(address).unwrap()).collect();
        until(|| !server.is_serving()).await;
        turns(3).await;
        assert_eq!(made.get(), 1);
        timeout(LONG, server.wait_closed()).await.unwrap();
        for mut client in clients {
            client.set_read_timeout(Some(LONG)).unwrap();
            let end = client.read(&mut [0]);
            let is_over = matches!(&end, Ok(0))
                || end.as_ref().is_err_and(|it| it.kind() == io::ErrorKind::ConnectionReset);
            assert!(is_over, "{end:?}");
        }
    })
    .unwrap();
}

#[test]
fn a_connection_that_nobody_waits_for_any_more_is_closed() {
    run(async {
        let log = Log::default();
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let event_loop = the_loop();
        let recorder = Recorder::logging(&log);
        let is_over = recorder.is_over.clone();
        let connecting = create_task(async move {
            event_loop.connect_accepted_socket(|| recorder, ours).await.map(drop)
        });
        sleep(Duration::ZERO).await;
        connecting.cancel();
        timeout(LONG, is_over.wait()).await.unwrap();
        assert_eq!(*log.borrow(), ["made", "lost"]);
        turns(2).await;
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    })
    .unwrap();
}

#[test]
fn a_server_whose_address_nobody_has_is_an_error() {
    run(async {
        // Of those that are kept for documentation.
        let refused = the_loop().create_server(echo, "192.0.2.1:0").await;
        assert_eq!(refused.err().unwrap().kind(), io::ErrorKind::AddrNotAvailable);
        let first = the_loop().create_server(echo, "127.0.0.1:0").await.unwrap();
        let refused = the_loop().create_server(echo, first.sockets()[0]).await;
        assert_eq!(refused.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    })
    .unwrap();
}

#[test]
fn a_unix_server_replaces_a_socket_that_was_left_and_removes_its_own() {
    let path = env::temp_dir().join(format!("velodrome-transports-{}", process::id()));
    run(async {
        let event_loop = the_loop();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let server = event_loop.create_unix_server(echo, &path).await.unwrap();
        let received = Log::default();
        let (transport, _) = event_loop
            .create_unix_connection(|| Recorder::logging(&received), &path)
            .await
            .unwrap();
        transport.write(b"x");
        until(|| received.borrow().len() == 2).await;
        assert_eq!(received.borrow()[1], "data x");
        assert_eq!((transport.peer_addr(), transport.local_addr()), (None, None));
        server.close();
        assert!(!path.exists());
    })
    .unwrap();
}

#[test]
fn another_loop_than_the_one_that_polls_is_refused() {
    run(async {
        let other = new_event_loop();
        let refused = other.create_connection(Recorder::default, "127.0.0.1:1").await;
        assert_eq!(refused.err().unwrap().to_string(), "no running event loop");
        let refused = other.create_server(echo, "127.0.0.1:0").await;
        assert_eq!(refused.err().unwrap().to_string(), "no running event loop");
    })
    .unwrap();
}

/// In a process of its own, since the limit is one of processes.
#[test]
fn a_server_without_descriptors_says_so_once_and_tries_again_after_a_second() {
    const ALONE: &str = "VELODROME_TEST_ALONE";
    if env::var_os(ALONE).is_none() {
        let name =
            "servers::a_server_without_descriptors_says_so_once_and_tries_again_after_a_second";
        let status = process::Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1"])
            .env(ALONE, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let event_loop = new_event_loop();
    let told = told(&event_loop);
    let runs = event_loop.clone();
    event_loop
        .run_until_complete(async move {
            let server = runs.create_server(echo, "127.0.0.1:0").await.unwrap();
            let mut client = net::TcpStream::connect(server.sockets()[0]).unwrap();
            let before = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..before }).unwrap();
            let begin = Instant::now();
            sleep(Duration::from_millis(100)).await;
            setrlimit(Resource::Nofile, before).unwrap();
            client.write_all(b"x").unwrap();
            client.set_nonblocking(true).unwrap();
            until(|| client.read(&mut [0]).is_ok()).await;
            assert!(begin.elapsed() >= Duration::from_secs(1));
        })
        .unwrap();
    assert_eq!(told.borrow().len(), 1, "{told:?}");
    assert!(told.borrow()[0].starts_with("socket.accept() out of system resource: "), "{told:?}");
}
