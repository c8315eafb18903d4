//! One connection and the operations it is in the middle of.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::iter;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use loadgen::sys::{self, Epoll, Interest};
use loadgen::tls::{self, TlsStream};
use rustls::{ClientConfig, Connection, HandshakeKind};

use crate::exchange::Exchange;
use crate::report::Tally;
use crate::{websocket, Peer};

pub enum Address {
    Tcp(SocketAddr),
    Tls(SocketAddr),
    Unix(PathBuf),
    Udp(SocketAddr),
    WebSocket(SocketAddr),
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
    /// How many requests are under way on a connection at a time.
    pub depth: usize,
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
    /// The first operation that is not complete; its number says what it sends.
    sequence: usize,
    /// When that one began, and those after it that are under way, too.
    begun: VecDeque<Instant>,
    /// The first message that is not sent, and how much of it is.
    unsent: usize,
    sent: usize,
    /// How much has come of the first answer that is not complete; in a download, of all messages.
    received: usize,
    waits_for_room: bool,
    /// What is under way is the last.
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
    Downloading,
    /// The server was asked to end its download.
    Draining,
    /// For ever.
    Resting,
    /// Nothing more is done with this connection.
    Left,
}

impl<'a> Client<'a> {
    /// Connects and begins the first operations.
    pub fn connect(index: usize, work: &'a Work, epoll: &'a Epoll) -> io::Result<Self> {
        let now = Instant::now();
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
            begun: VecDeque::from(vec![now; work.depth]),
            unsent: first_sequence(index),
            sent: 0,
            received: 0,
            waits_for_room: false,
            is_leaving: false,
        };
        client.begin()?;
        Ok(client)
    }

    /// Begins operations, as far as a new connection's handshake allows.
    fn begin(&mut self) -> io::Result<()> {
        let is_handshaking = self.stream.session().is_some_and(|session| session.is_handshaking());
        self.stage = match self.work.exchange {
            _ if is_handshaking => Stage::Handshaking,
            Exchange::Connect { .. } => Stage::Closing,
            Exchange::Upload { .. } => Stage::Uploading,
            Exchange::Download { .. } => Stage::Downloading,
            _ => Stage::Exchanging,
        };
        match self.stage {
            Stage::Closing => self.stream.answer_goodbye(),
            Stage::Exchanging => self.send(),
            Stage::Uploading => self.wait_for(Interest::ReadAndWrite),
            _ => Ok(()),
        }
    }

    /// Counts the first operations under way, which are complete, and begins as many others.
    fn complete(&mut self, count: usize, tally: &mut Tally) -> io::Result<()> {
        let now = Instant::now();
        tally.operations += count;
        let latencies = self.begun.drain(..count).map(|begun| (now - begun).as_nanos() as u64);
        tally.latencies_ns.extend(latencies);
        self.sequence += count;
        if self.is_leaving {
            return if self.begun.is_empty() { self.go() } else { Ok(()) };
        }
        if self.work.afterwards == Afterwards::Rest {
            self.stage = Stage::Resting;
            return Ok(());
        }
        if self.stage == Stage::Closing {
            // The server closed first; resetting spares both sides TIME_WAIT and with it the ephemeral ports.
            sys::reset_on_close(self.stream.as_raw_fd())?;
            self.stream = open(&self.work.address, &self.tls)?;
            self.epoll.add(self.stream.as_raw_fd(), self.index, Interest::Read)?;
        }
        self.begun.extend(iter::repeat_n(now, count));
        self.begin()
    }

    fn go(&mut self) -> io::Result<()> {
        self.stage = Stage::Left;
        self.epoll.remove(self.stream.as_raw_fd())
    }

    fn shake_hands(&mut self, scratch: &mut [u8]) -> io::Result<()> {
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
        Ok(())
    }

    /// Takes what TLS itself has to say; anything else is too much.
    fn hear_nothing(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        match self.read(scratch)? {
            Some(_) => Err(self.broken("bytes came where nothing was asked for")),
            None => Ok(()),
        }
    }

    /// Reads once (the poller is level-triggered): how many bytes, if there are any.
    fn read(&mut self, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.read(scratch) {
            Ok(0) => Err(self.broken("the server closed the connection")),
            Ok(count) => Ok(Some(count)),
            Err(error) if would_retry(&error) => Ok(None),
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
        let blocked = !self.write(self.sequence + self.begun.len())?;
        if blocked != self.waits_for_room {
            self.waits_for_room = blocked;
            self.wait_for(if blocked { Interest::ReadAndWrite } else { Interest::Read })?;
        }
        Ok(())
    }

    /// Writes what the socket has room for of the messages before `end`; true when that was all.
    fn write(&mut self, end: usize) -> io::Result<bool> {
        let exchange = &self.work.exchange;
        loop {
            let mut unsent: Vec<_> = (self.unsent..end)
                .map(|sequence| IoSlice::new(exchange.request(sequence)))
                .collect();
            let result = match unsent.first_mut() {
                None => match self.stream.flush() {
                    Ok(()) => return Ok(true),
                    error => error.map(|()| 0),
                },
                Some(first) => {
                    first.advance(self.sent);
                    self.stream.write_vectored(&unsent)
                }
            };
            match result {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            while self.unsent < end && self.sent >= exchange.request(self.unsent).len() {
                self.sent -= exchange.request(self.unsent).len();
                self.unsent += 1;
            }
        }
    }

    fn wait_for(&self, interest: Interest) -> io::Result<()> {
        self.epoll.modify(self.stream.as_raw_fd(), self.index, interest)
    }

    /// Writes and reads once; counts the messages that the server has answered for meanwhile.
    fn upload(&mut self, scratch: &mut [u8], tally: &mut Tally) -> io::Result<()> {
        let Exchange::Upload { stride, .. } = self.work.exchange else {
            unreachable!("begin() chose this stage")
        };
        // Not more at once, so that the answers are read even if the server is the faster side.
        for _ in 0..stride {
            if !self.write(self.unsent + 1)? {
                break;
            }
        }
        let Some(count) = self.read(scratch)? else { return Ok(()) };
        for answer in &scratch[..count] {
            let end = self.sequence + stride;
            if end > self.unsent {
                return Err(self.broken("the answer came before the end of the request"));
            }
            if self.work.exchange.request(end - 1).last() != Some(answer) {
                return Err(self.broken("wrong bytes came back"));
            }
            self.sequence = end;
            self.received += 1;
        }
        tally.operations += count * stride;
        Ok(())
    }

    /// Reads once and compares; counts the messages that have come completely.
    fn download(&mut self, scratch: &mut [u8], tally: &mut Tally) -> io::Result<()> {
        let Exchange::Download { cycle, size } = &self.work.exchange else {
            unreachable!("begin() chose this stage")
        };
        let Some(count) = self.read(scratch)? else { return Ok(()) };
        let complete = self.received / size;
        let mut unread = &scratch[..count];
        while !unread.is_empty() {
            let awaited = &cycle[self.received % cycle.len()..];
            let (now, later) = unread.split_at(awaited.len().min(unread.len()));
            if now != &awaited[..now.len()] {
                return Err(self.broken("wrong bytes came"));
            }
            self.received += now.len();
            unread = later;
        }
        tally.operations += self.received / size - complete;
        Ok(())
    }

    /// What the server had still under way is not looked at any more.
    fn drain(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        match self.stream.read(scratch) {
            Ok(0) => self.go(),
            Ok(_) => Ok(()),
            Err(error) if would_retry(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads once and compares; the number of answers that are complete.
    fn receive(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        let Some(count) = self.read(scratch)? else { return Ok(0) };
        let mut unread = &scratch[..count];
        let mut complete = 0;
        while !unread.is_empty() {
            if complete == self.begun.len() {
                return Err(self.broken("more bytes came back than were asked for"));
            }
            let sequence = self.sequence + complete;
            let awaited = &self.work.exchange.reply(sequence)[self.received..];
            let (now, later) = unread.split_at(awaited.len().min(unread.len()));
            if now != &awaited[..now.len()] {
                return Err(self.broken("wrong bytes came back"));
            }
            self.received += now.len();
            if now.len() == awaited.len() {
                if sequence >= self.unsent {
                    return Err(self.broken("the answer came before the end of the request"));
                }
                self.received = 0;
                complete += 1;
            }
            unread = later;
        }
        Ok(complete)
    }

    /// Reads once; true at the server's end, which comes after its greeting if there is one.
    fn closed_by_server(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        let awaited = match &self.work.exchange {
            Exchange::Connect { greeting } => &greeting[self.received..],
            _ => &[],
        };
        match self.stream.read(scratch) {
            Ok(0) if awaited.is_empty() => {
                self.received = 0;
                Ok(true)
            }
            Ok(0) => Err(self.broken("the server closed the connection")),
            Ok(count) if awaited.starts_with(&scratch[..count]) => {
                self.received += count;
                Ok(false)
            }
            Ok(_) if awaited.is_empty() => {
                Err(self.broken("bytes came where only an end was expected"))
            }
            Ok(_) => Err(self.broken("wrong bytes came")),
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

impl Peer for Client<'_> {
    /// Does what the socket allows. Where that completes an operation, the next begins.
    fn advance(&mut self, scratch: &mut [u8], tally: &mut Tally) -> io::Result<()> {
        if self.waits_for_room {
            self.send()?;
        }
        let complete = match self.stage {
            Stage::Handshaking => return self.shake_hands(scratch),
            Stage::Uploading => return self.upload(scratch, tally),
            Stage::Downloading => return self.download(scratch, tally),
            Stage::Draining => return self.drain(scratch),
            Stage::Resting => return self.hear_nothing(scratch),
            Stage::Left => return Ok(()),
            Stage::Exchanging => match self.receive(scratch)? {
                complete if complete == self.begun.len() && self.close()? => 0,
                complete => complete,
            },
            Stage::Closing => match self.closed_by_server(scratch)? {
                true => self.begun.len(),
                false => 0,
            },
        };
        match complete {
            0 => Ok(()),
            _ => self.complete(complete, tally),
        }
    }

    /// Makes the operations under way the last; over TLS an orderly close follows.
    fn leave(&mut self) -> io::Result<()> {
        self.is_leaving = true;
        match self.stage {
            // There is no good moment, and a server that only receives takes it well.
            Stage::Uploading => self.stage = Stage::Left,
            Stage::Downloading => {
                sys::end_output(self.stream.as_raw_fd())?;
                self.stage = Stage::Draining;
            }
            _ => {}
        }
        Ok(())
    }

    fn has_left(&self) -> bool {
        self.stage == Stage::Left
    }

    fn was_answered(&self) -> bool {
        self.sequence > first_sequence(self.index) || self.received > 0
    }

    fn reset_on_close(&self) -> io::Result<()> {
        sys::reset_on_close(self.stream.as_raw_fd())
    }
}

/// Far apart, so that an answer sent to the wrong connection is a wrong answer.
pub fn first_sequence(index: usize) -> usize {
    index * 37
}

fn open(address: &Address, tls: &Arc<ClientConfig>) -> io::Result<Box<dyn Stream>> {
    // Connecting blocks, which on this machine's own loopback is shorter than a turn of the poller.
    Ok(match address {
        Address::Tcp(address) => Box::new(open_tcp(address)?),
        Address::WebSocket(address) => {
            let mut stream = TcpStream::connect(address)?;
            websocket::open(&mut stream)?;
            prepare(&stream)?;
            Box::new(stream)
        }
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

pub fn open_tcp(address: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    prepare(&stream)?;
    Ok(stream)
}

pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)
}

pub fn would_retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
