//! One connection and the operation it is in the middle of.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loadgen::sys::{self, Epoll, Interest};
use loadgen::tls::{self, TlsStream};
use rustls::{ClientConfig, Connection, HandshakeKind};

use crate::exchange::Exchange;

pub enum Address {
    Tcp(SocketAddr),
    Tls(SocketAddr),
    Unix(PathBuf),
    Udp(SocketAddr),
}

/// `flush` fails with `WouldBlock` while bytes that `write` took wait for room in the socket.
pub trait Stream: Read + Write + AsRawFd {
    /// What makes it a TLS connection, if it is one.
    fn session(&mut self) -> Option<&mut Connection> {
        None
    }

    /// Over TLS: if the server has said that it will send no more, say the same, for which it waits.
    fn answer_goodbye(&mut self) -> io::Result<()> {
        Ok(())
    }
}
impl Stream for TcpStream {}
impl Stream for TlsStream {
    fn session(&mut self) -> Option<&mut Connection> {
        Some(&mut self.session)
    }

    fn answer_goodbye(&mut self) -> io::Result<()> {
        if self.peer_said_goodbye() {
            self.session.send_close_notify();
            self.flush()?;
        }
        Ok(())
    }
}
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

/// What every connection of a run does.
pub struct Work {
    pub address: Address,
    pub tls_version: tls::Version,
    pub exchange: Exchange,
    pub afterwards: Afterwards,
}

/// What follows an exchange. `Exchange::Connect` has no choice: there the server closes the connection.
#[derive(Clone, Copy, PartialEq)]
pub enum Afterwards {
    NextExchange,
    /// An orderly close, then another TLS connection with a session of its own.
    NewSession,
    /// An orderly close, then another TLS connection on which the session goes on.
    ResumedSession,
    Rest,
}

pub struct Client<'a> {
    index: usize,
    work: &'a Work,
    epoll: &'a Epoll,
    /// Sessions to resume are kept in here, so each client has its own.
    tls: Arc<ClientConfig>,
    stream: Box<dyn Stream>,
    stage: Stage,
    /// Counts operations; both sides know by it what the next one sends.
    sequence: usize,
    sent: usize,
    received: usize,
    /// In an upload, the first message that the server has yet to answer for.
    unacknowledged: usize,
    started: Instant,
    waits_for_room: bool,
    /// This operation is the last.
    is_leaving: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Handshaking,
    Exchanging,
    /// Nothing is left to say; the server's end is awaited.
    Closing,
    /// For ever.
    Uploading,
    /// For ever.
    Resting,
    /// Nothing more is done with this connection.
    Left,
}

/// What a client got done.
#[derive(Default)]
pub struct Progress {
    pub operations: usize,
    /// Of the one operation; an upload's are not told apart.
    pub latency: Option<Duration>,
}

impl<'a> Client<'a> {
    /// Connects and begins the first operation.
    pub fn connect(index: usize, work: &'a Work, epoll: &'a Epoll) -> io::Result<Self> {
        let started = Instant::now();
        let resumes = work.afterwards == Afterwards::ResumedSession;
        let tls = tls::client_config(resumes, work.tls_version);
        let stream = open(&work.address, &tls)?;
        epoll.add(stream.as_raw_fd(), index, Interest::Read)?;
        let mut client = Self {
            index,
            work,
            epoll,
            tls,
            stream,
            stage: Stage::Handshaking,
            sequence: first_sequence(index),
            sent: 0,
            received: 0,
            unacknowledged: first_sequence(index),
            started,
            waits_for_room: false,
            is_leaving: false,
        };
        client.begin()?;
        Ok(client)
    }

    /// Does what the socket allows. When that completes the operation: starts the next.
    pub fn advance(&mut self, scratch: &mut [u8]) -> io::Result<Progress> {
        if self.waits_for_room {
            self.send()?;
        }
        let completed = match self.stage {
            Stage::Handshaking => self.shake_hands(scratch)?,
            Stage::Exchanging => self.receive(scratch)? && !self.close()?,
            Stage::Closing => self.closed_by_server(scratch)?,
            Stage::Left => false,
            Stage::Resting => self.hear_nothing(scratch).map(|()| false)?,
            Stage::Uploading => {
                return Ok(Progress { operations: self.upload(scratch)?, latency: None })
            }
        };
        if !completed {
            return Ok(Progress::default());
        }
        let now = Instant::now();
        let latency = now - self.started;
        self.sequence += 1;
        self.sent = 0;
        self.received = 0;
        self.started = now;
        if self.is_leaving {
            self.stage = Stage::Left;
            self.epoll.remove(self.stream.as_raw_fd())?;
            return Ok(Progress { operations: 1, latency: Some(latency) });
        }
        if self.stage == Stage::Closing {
            // The server closed first; resetting spares both sides TIME_WAIT and with it the ephemeral ports.
            sys::reset_on_close(self.stream.as_raw_fd())?;
            self.stream = open(&self.work.address, &self.tls)?;
            self.epoll.add(self.stream.as_raw_fd(), self.index, Interest::Read)?;
        }
        match self.work.afterwards {
            Afterwards::Rest => self.stage = Stage::Resting,
            _ => self.begin()?,
        }
        Ok(Progress { operations: 1, latency: Some(latency) })
    }

    /// Makes the operation under way the last; over TLS an orderly close follows.
    pub fn leave(&mut self) {
        self.is_leaving = true;
        if self.stage == Stage::Uploading {
            // There is no good moment, and a server that only receives takes it well.
            self.stage = Stage::Left;
        }
    }

    pub fn has_left(&self) -> bool {
        self.stage == Stage::Left
    }

    /// Begins an operation, as far as a new connection's handshake allows.
    fn begin(&mut self) -> io::Result<()> {
        let is_handshaking = self.stream.session().is_some_and(|session| session.is_handshaking());
        self.stage = match self.work.exchange {
            _ if is_handshaking => Stage::Handshaking,
            Exchange::Connect => Stage::Closing,
            Exchange::Upload { .. } => Stage::Uploading,
            _ => Stage::Exchanging,
        };
        match self.stage {
            Stage::Handshaking | Stage::Resting | Stage::Left => Ok(()),
            Stage::Closing => self.stream.answer_goodbye(),
            Stage::Exchanging => self.send(),
            Stage::Uploading => self.wait_for(Interest::ReadAndWrite),
        }
    }

    /// Never completes an operation.
    fn shake_hands(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        self.hear_nothing(scratch)?;
        let session = self.stream.session().expect("only TLS has a handshake");
        if let Some(kind) = session.handshake_kind().filter(|_| !session.is_handshaking()) {
            // A client's first connection has no session to resume.
            let is_resumable = self.work.afterwards == Afterwards::ResumedSession
                && self.sequence != first_sequence(self.index);
            if is_resumable != (kind == HandshakeKind::Resumed) {
                return Err(self.broken(&format!("the handshake was of the wrong kind: {kind:?}")));
            }
            self.begin()?;
        }
        Ok(false)
    }

    /// Takes what TLS itself has to say; anything else is too much.
    fn hear_nothing(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        match self.stream.read(scratch) {
            Ok(0) => Err(self.broken("the server closed the connection")),
            Ok(_) => Err(self.broken("bytes came where nothing was asked for")),
            Err(error) if would_retry(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends the connection after its exchange, if it is to end: true if the server's end is now awaited.
    fn close(&mut self) -> io::Result<bool> {
        let is_kept = matches!(self.work.afterwards, Afterwards::NextExchange | Afterwards::Rest);
        let Some(session) = self.stream.session().filter(|_| !is_kept || self.is_leaving) else {
            return Ok(false);
        };
        session.send_close_notify();
        self.stage = Stage::Closing;
        self.stream.flush()?;
        Ok(true)
    }

    fn send(&mut self) -> io::Result<()> {
        let blocked = !self.write()?;
        if blocked != self.waits_for_room {
            self.waits_for_room = blocked;
            self.wait_for(if blocked { Interest::ReadAndWrite } else { Interest::Read })?;
        }
        Ok(())
    }

    /// Writes what the socket has room for; true when that was all of the message.
    fn write(&mut self) -> io::Result<bool> {
        let request = self.work.exchange.request(self.sequence);
        loop {
            let unsent = &request[self.sent..];
            let result = match unsent {
                [] => self.stream.flush().map(|()| 0),
                _ => self.stream.write(unsent),
            };
            match result {
                Ok(_) if unsent.is_empty() => return Ok(true),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait_for(&self, interest: Interest) -> io::Result<()> {
        self.epoll.modify(self.stream.as_raw_fd(), self.index, interest)
    }

    /// Writes and reads once; the number of messages that the server has answered for meanwhile.
    fn upload(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        let Exchange::Upload { stride, .. } = self.work.exchange else {
            unreachable!("begin() chose this stage")
        };
        // Not more at once, so that the answers are read even if the server is the faster side.
        for _ in 0..stride {
            if !self.write()? {
                break;
            }
            self.sequence += 1;
            self.sent = 0;
        }
        let count = match self.stream.read(scratch) {
            Ok(0) => return Err(self.broken("the server closed the connection")),
            Ok(count) => count,
            Err(error) if would_retry(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        for answer in &scratch[..count] {
            let end = self.unacknowledged + stride;
            if end > self.sequence {
                return Err(self.broken("the answer came before the end of the request"));
            }
            if self.work.exchange.request(end - 1).last() != Some(answer) {
                return Err(self.broken("wrong bytes came back"));
            }
            self.unacknowledged = end;
        }
        self.received += count;
        Ok(count * stride)
    }

    /// Reads once (the poller is level-triggered) and compares; true when the reply is complete.
    fn receive(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        let count = match self.stream.read(scratch) {
            Ok(0) => return Err(self.broken("the server closed the connection")),
            Ok(count) => count,
            Err(error) if would_retry(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let awaited = &self.work.exchange.reply(self.sequence)[self.received..];
        if count > awaited.len() {
            return Err(self.broken("more bytes came back than were asked for"));
        }
        if scratch[..count] != awaited[..count] {
            return Err(self.broken("wrong bytes came back"));
        }
        self.received += count;
        let complete = count == awaited.len();
        if complete && self.sent < self.work.exchange.request(self.sequence).len() {
            return Err(self.broken("the answer came before the end of the request"));
        }
        Ok(complete)
    }

    fn closed_by_server(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        match self.stream.read(scratch) {
            Ok(0) => Ok(true),
            Ok(_) => Err(self.broken("bytes came where only an end was expected")),
            Err(error) if would_retry(&error) => self.stream.answer_goodbye().map(|()| false),
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

/// Far apart, so that an answer sent to the wrong connection is a wrong answer.
fn first_sequence(index: usize) -> usize {
    index * 37
}

fn open(address: &Address, tls: &Arc<ClientConfig>) -> io::Result<Box<dyn Stream>> {
    // Connecting blocks, which on this machine's own loopback is shorter than a turn of the poller.
    Ok(match address {
        Address::Tcp(address) => Box::new(open_tcp(address)?),
        Address::Tls(address) => Box::new(TlsStream::connect(open_tcp(address)?, tls.clone())?),
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
