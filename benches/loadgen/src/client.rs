//! One connection and the operation it is in the middle of.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustls::ClientConnection;

use crate::exchange::Exchange;
use crate::sys::{self, Epoll, Interest};
use crate::tls::{self, TlsStream};

pub enum Address {
    Tcp(SocketAddr),
    Tls(SocketAddr),
    Unix(PathBuf),
    Udp(SocketAddr),
}

/// `flush` fails with `WouldBlock` while bytes that `write` took wait for room in the socket.
pub trait Stream: Read + Write + AsRawFd {
    /// What makes it a TLS connection, if it is one.
    fn session(&mut self) -> Option<&mut ClientConnection> {
        None
    }
}
impl Stream for TcpStream {}
impl Stream for UnixStream {}
impl Stream for Datagrams {}

/// A connected socket whose messages are datagrams: each is read and written in one piece.
struct Datagrams(UdpSocket);

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }
}

impl Write for Datagrams {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.0.send(datagram)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for Datagrams {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

pub struct Client<'a> {
    index: usize,
    address: &'a Address,
    stream: Box<dyn Stream>,
    sequence: usize,
    sent: usize,
    received: usize,
    started: Instant,
    waits_for_room: bool,
    /// The first request waits for the handshake, if there is one.
    is_handshaking: bool,
}

impl<'a> Client<'a> {
    /// Connects and sends the first request.
    pub fn connect(
        index: usize,
        address: &'a Address,
        exchange: &Exchange,
        epoll: &Epoll,
    ) -> io::Result<Self> {
        let started = Instant::now();
        let stream = open(address)?;
        epoll.add(stream.as_raw_fd(), index, Interest::Read)?;
        let mut client = Self {
            index,
            address,
            stream,
            // Far apart, so that an answer sent to the wrong connection is a wrong answer.
            sequence: index * 37,
            sent: 0,
            received: 0,
            started,
            waits_for_room: false,
            is_handshaking: false,
        };
        client.begin(exchange, epoll)?;
        Ok(client)
    }

    /// Does what the socket allows. When that completes the operation: starts the next, returns this one's latency.
    pub fn advance(
        &mut self,
        exchange: &Exchange,
        epoll: &Epoll,
        scratch: &mut [u8],
    ) -> io::Result<Option<Duration>> {
        if self.waits_for_room {
            self.send(exchange, epoll)?;
        }
        let completed = match exchange {
            Exchange::Connect => self.closed_by_server(scratch)?,
            _ => self.receive(exchange, scratch)?,
        };
        if self.is_handshaking && !self.session_is_handshaking() {
            self.is_handshaking = false;
            self.send(exchange, epoll)?;
        }
        if !completed {
            return Ok(None);
        }
        let now = Instant::now();
        let latency = now - self.started;
        self.sequence += 1;
        self.sent = 0;
        self.received = 0;
        self.started = now;
        if let Exchange::Connect = exchange {
            // The server closed first; resetting spares both sides TIME_WAIT and with it the ephemeral ports.
            sys::reset_on_close(self.stream.as_raw_fd())?;
            self.stream = open(self.address)?;
            epoll.add(self.stream.as_raw_fd(), self.index, Interest::Read)?;
        }
        self.begin(exchange, epoll)?;
        Ok(Some(latency))
    }

    fn begin(&mut self, exchange: &Exchange, epoll: &Epoll) -> io::Result<()> {
        self.is_handshaking = self.session_is_handshaking();
        if self.is_handshaking {
            return Ok(());
        }
        self.send(exchange, epoll)
    }

    fn session_is_handshaking(&mut self) -> bool {
        self.stream.session().is_some_and(|session| session.is_handshaking())
    }

    fn send(&mut self, exchange: &Exchange, epoll: &Epoll) -> io::Result<()> {
        let request = exchange.request(self.sequence);
        let blocked = loop {
            let unsent = &request[self.sent..];
            let result = match unsent {
                [] => self.stream.flush().map(|()| 0),
                _ => self.stream.write(unsent),
            };
            match result {
                Ok(_) if unsent.is_empty() => break false,
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        if blocked != self.waits_for_room {
            self.waits_for_room = blocked;
            let interest = if blocked { Interest::ReadAndWrite } else { Interest::Read };
            epoll.modify(self.stream.as_raw_fd(), self.index, interest)?;
        }
        Ok(())
    }

    /// Reads once (the poller is level-triggered) and compares; true when the reply is complete.
    fn receive(&mut self, exchange: &Exchange, scratch: &mut [u8]) -> io::Result<bool> {
        let count = match self.stream.read(scratch) {
            Ok(0) => return Err(self.broken("the server closed the connection")),
            Ok(count) => count,
            Err(error) if would_retry(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let awaited = &exchange.reply(self.sequence)[self.received..];
        if count > awaited.len() {
            return Err(self.broken("more bytes came back than were asked for"));
        }
        if scratch[..count] != awaited[..count] {
            return Err(self.broken("wrong bytes came back"));
        }
        self.received += count;
        let complete = count == awaited.len();
        if complete && self.sent < exchange.request(self.sequence).len() {
            return Err(self.broken("the answer came before the end of the request"));
        }
        Ok(complete)
    }

    fn closed_by_server(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        match self.stream.read(scratch) {
            Ok(0) => Ok(true),
            Ok(_) => Err(self.broken("bytes came where only an end was expected")),
            Err(error) if would_retry(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn broken(&self, what: &str) -> io::Error {
        io::Error::other(format!(
            "{what} (connection {}, message {}, after {} bytes of the answer)",
            self.index, self.sequence, self.received
        ))
    }
}

fn open(address: &Address) -> io::Result<Box<dyn Stream>> {
    // Connecting blocks, which on this machine's own loopback is shorter than a turn of the poller.
    Ok(match address {
        Address::Tcp(address) => Box::new(open_tcp(address)?),
        Address::Tls(address) => {
            Box::new(TlsStream::start(open_tcp(address)?, tls::client_config())?)
        }
        Address::Udp(address) => {
            let socket = UdpSocket::bind((address.ip(), 0))?;
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            Box::new(Datagrams(socket))
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            Box::new(stream)
        }
    })
}

fn open_tcp(address: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn would_retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
