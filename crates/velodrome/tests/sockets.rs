//! TCP, Unix and UDP sockets.

use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr},
    os::fd::AsFd,
    rc::Rc,
    thread,
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use velodrome::{
    TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream, create_task, gather, run, sleep,
    timeout,
};

const MEGABYTE: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(10);

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connecting = create_task(TcpStream::connect(address));
    let (accepted, peer) = listener.accept().await.unwrap();
    let connected = connecting.await.unwrap().unwrap();
    assert_eq!(connected.local_addr().unwrap(), peer);
    assert_eq!(connected.peer_addr().unwrap(), address);
    (connected, accepted)
}

async fn read_to_end(stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 10_007];
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => return all,
            count => all.extend(&buffer[..count]),
        }
    }
}

fn pattern(seed: usize) -> Vec<u8> {
    (0..MEGABYTE).map(|at| ((at + seed) % 251) as u8).collect()
}

#[test]
fn a_half_closed_connection_still_carries_the_other_half() {
    run(async {
        let (client, server) = tcp_pair().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&server).await, b"question");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(read_to_end(&client).await, b"answer");
    })
    .unwrap();
}

#[test]
fn an_end_that_comes_with_the_last_bytes_is_seen() {
    run(async {
        for size in [1, 7, 64, 4096] {
            let (client, server) = tcp_pair().await;
            let reading = create_task(async move { read_to_end(&server).await });
            sleep(Duration::from_millis(1)).await;
            client.write_all(&vec![1; size]).await.unwrap();
            drop(client);
            let all = timeout(LONG, reading).await.unwrap().unwrap();
            assert_eq!(all.len(), size);
        }
    })
    .unwrap();
}

#[test]
fn a_megabyte_both_ways_at_once_through_one_shared_stream() {
    run(async {
        let (client, server) = tcp_pair().await;
        let ends = [(Rc::new(client), 1), (Rc::new(server), 2)];
        let work = ends.into_iter().map(|(stream, seed)| async move {
            let writer = stream.clone();
            let writing = create_task(async move {
                writer.write_all(&pattern(seed)).await.unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let all = read_to_end(&stream).await;
            writing.await.unwrap();
            all == pattern(3 - seed)
        });
        let both = timeout(LONG, gather(work)).await.unwrap().unwrap();
        assert_eq!(both, [true, true]);
    })
    .unwrap();
}

#[test]
fn a_refused_connection_and_a_reset_keep_their_errors() {
    run(async {
        let address: SocketAddr = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let (client, server) = tcp_pair().await;
        client.write_all(b"unread").await.unwrap();
        sleep(Duration::from_millis(1)).await;
        drop(server);
        let reset = timeout(LONG, client.read(&mut [0; 8])).await.unwrap().unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        let broken = async {
            loop {
                if let Err(error) = client.write(&[0; 100]).await {
                    return error;
                }
            }
        };
        assert_eq!(broken.await.kind(), io::ErrorKind::BrokenPipe);
    })
    .unwrap();
}

#[test]
fn a_name_is_looked_up_and_a_bad_one_is_an_error() {
    run(async {
        let listener = TcpListener::bind(("localhost", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = TcpStream::connect(format!("localhost:{port}")).await.unwrap();
        drop(stream);
        assert!(TcpStream::connect("no port").await.is_err());
    })
    .unwrap();
}

#[test]
fn many_connections_are_served_side_by_side() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = create_task(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                create_task(async move {
                    let mut buffer = [0; 64];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        stream.write_all(&buffer[..count]).await.unwrap();
                    }
                })
                .detach();
            }
        });
        let clients = (0..100_u8).map(|number| async move {
            let stream = TcpStream::connect(address).await.unwrap();
            for _ in 0..5 {
                stream.write_all(&[number; 10]).await.unwrap();
                let mut answer = [0; 10];
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(answer, [number; 10]);
            }
        });
        gather(clients).await.unwrap();
        serving.cancel();
    })
    .unwrap();
}

#[test]
fn a_read_that_is_given_up_loses_nothing() {
    run(async {
        let (client, server) = tcp_pair().await;
        let mut buffer = [0; 8];
        assert!(timeout(Duration::from_millis(1), server.read(&mut buffer)).await.is_err());
        client.write_all(b"late").await.unwrap();
        assert_eq!(timeout(LONG, server.read(&mut buffer)).await.unwrap().unwrap(), 4);
    })
    .unwrap();
}

#[test]
fn two_futures_of_one_task_both_wait_for_one_stream() {
    run(async {
        let (client, server) = tcp_pair().await;
        let server = Rc::new(server);
        let other = server.clone();
        let mut first = Box::pin(async move { other.read(&mut [0; 1]).await });
        let polled = timeout(Duration::from_millis(1), &mut first).await;
        assert!(polled.is_err());
        // One gives up, the other one goes on waiting in the same task.
        let mut buffer = [0; 1];
        let mut second = Box::pin(server.read(&mut buffer));
        assert!(timeout(Duration::from_millis(1), &mut second).await.is_err());
        let waiting = async { timeout(LONG, &mut first).await.unwrap().unwrap() };
        drop(second);
        client.write_all(b"x").await.unwrap();
        assert_eq!(waiting.await, 1);
    })
    .unwrap();
}

#[test]
fn bytes_behind_a_descriptor_that_is_not_taken_are_read() {
    run(async {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let reading = UnixStream::from_std(one).unwrap();
        // The loop has told of all that there was.
        assert!(timeout(Duration::from_millis(1), reading.read(&mut [0; 1])).await.is_err());
        let fds = [other.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&other, &[IoSlice::new(b"first")], &mut ancillary, SendFlags::empty()).unwrap();
        (&other).write_all(b"second").unwrap();
        let mut all: Vec<u8> = Vec::new();
        while all.len() < 11 {
            let mut buffer = [0; 64];
            let count = timeout(LONG, reading.read(&mut buffer)).await.unwrap().unwrap();
            all.extend(&buffer[..count]);
        }
        assert_eq!(all, b"firstsecond");
    })
    .unwrap();
}

#[test]
fn unix_sockets_have_a_path() {
    let directory = std::env::temp_dir().join(format!("velodrome-sockets-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("socket");
    run(async {
        let listener = UnixListener::bind(&path).unwrap();
        let connecting = create_task({
            let path = path.clone();
            async move { UnixStream::connect(path).await }
        });
        let server = listener.accept().await.unwrap();
        let client = connecting.await.unwrap().unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 5];
        server.read_exact(&mut buffer).await.unwrap();
        drop(client);
        let ended = server.read_exact(&mut buffer).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    })
    .unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn std_sockets_are_taken_over_and_given_back() {
    run(async {
        let (mut there, here) = std::os::unix::net::UnixStream::pair().unwrap();
        let stream = UnixStream::from_std(here).unwrap();
        there.write_all(b"ab").unwrap();
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.unwrap();
        let mut here = stream.into_std();
        here.set_nonblocking(false).unwrap();
        here.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
        assert!(UnixStream::from_std(here).is_ok(), "it was deregistered");
    })
    .unwrap();
}

#[test]
fn datagrams_keep_their_borders() {
    run(async {
        let here = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let there = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        here.connect(there.local_addr().unwrap()).await.unwrap();
        for text in ["one", "", "three"] {
            here.send(text.as_bytes()).await.unwrap();
        }
        let mut buffer = [0; 16];
        for text in ["one", "", "three"] {
            let (count, from) = there.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..count], from), (text.as_bytes(), here.local_addr().unwrap()));
        }
        let waiting = timeout(Duration::from_millis(1), there.recv(&mut buffer)).await;
        assert!(waiting.is_err());
    })
    .unwrap();
}

#[test]
fn a_peer_in_another_thread_is_served() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"ping").unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        answer
    });
    run(async {
        let listener = TcpListener::from_std(listener).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).await.unwrap();
        stream.write_all(&buffer).await.unwrap();
    })
    .unwrap();
    assert_eq!(&client.join().unwrap(), b"ping");
}
