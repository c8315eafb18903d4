//! What happens in the turns of a stream transport.
//!
//! The model's [`Stream`] decides; this file owns the descriptor and calls the protocol, with nothing
//! borrowed but the protocol itself. A connection is registered with the loop from its birth until it is
//! lost.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
};

use rustix::net::{getpeername, getsockname};

use super::{
    Transport,
    base::{Base, Based},
    server::Serving,
};
use crate::{
    Errno,
    endpoint::{Endpoint, Turn},
    error::is_retry,
    event_loop::Inner,
    life::{Closed, Phase},
    protocol::Protocol,
    stream::{Flushed, Stream, Written},
};

pub(super) type AnyProtocol = Rc<RefCell<dyn Protocol>>;

pub(super) struct Connection {
    pub base: Base<dyn Protocol>,
    pub stream: Stream<Vec<u8>>,
    /// The server that accepted it, and its number there.
    server: Cell<Option<(Rc<Serving>, usize)>>,
    /// Whether the protocol has a buffer of its own; `None` until it is asked.
    is_buffered: Cell<Option<bool>>,
    pub local_addr: Option<SocketAddr>,
    pub peer_addr: Option<SocketAddr>,
}

impl Connection {
    /// Over a connected socket. The protocol is told in the next turn.
    pub fn over(
        event_loop: &Rc<Inner>,
        fd: OwnedFd,
        protocol: AnyProtocol,
        server: Option<Rc<Serving>>,
    ) -> io::Result<Rc<Self>> {
        let connection = Rc::new(Connection {
            stream: Stream::new(true),
            local_addr: getsockname(&fd).ok().and_then(|address| address.try_into().ok()),
            peer_addr: getpeername(&fd).ok().flatten().and_then(|address| address.try_into().ok()),
            base: Base::new(event_loop, fd, protocol),
            server: Cell::new(None),
            is_buffered: Cell::new(None),
        });
        connection.start()?;
        if let Some(server) = server {
            let number = server.attach(&connection);
            connection.server.set(Some((server, number)));
        }
        Ok(connection)
    }

    pub fn set_protocol(&self, protocol: AnyProtocol) {
        self.is_buffered.set(None);
        self.base.set_protocol(protocol);
    }

    // ---- reading -----------------------------------------------------------------------------

    fn open(self: &Rc<Self>) {
        let _ = self.is_buffered();
        let transport = Transport(self.clone());
        self.call("connection_made", |protocol| protocol.connection_made(transport));
        self.stream.start_reading();
        self.update_interest();
        self.base.opened.set();
    }

    #[inline]
    fn readable(self: &Rc<Self>) {
        if !self.stream.wants_data() {
            // Paused or closing, and something came: only now is it worth a system call to tell
            // the poller so.
            return self.set_interest(false);
        }
        match self.is_buffered() {
            Some(false) => {}
            Some(true) => return self.read_into_protocol(),
            None => return,
        }
        let Some(event_loop) = self.base.event_loop() else { return };
        let mut scratch = event_loop.endpoints().take_scratch();
        match self.base.with_fd(|fd| self.stream.receive(fd, &mut scratch[..])) {
            Ok(0) => self.ended(),
            Ok(count) => {
                self.call("data_received", |protocol| protocol.data_received(&scratch[..count]));
            }
            Err(error) if is_retry(error) => {}
            Err(error) => self.fatal(error.into()),
        }
        event_loop.endpoints().put_back_scratch(scratch);
    }

    /// `None` if the protocol panicked.
    #[inline]
    fn is_buffered(self: &Rc<Self>) -> Option<bool> {
        self.is_buffered.get().or_else(|| self.ask_whether_buffered())
    }

    #[cold]
    fn ask_whether_buffered(self: &Rc<Self>) -> Option<bool> {
        loop {
            self.is_buffered.set(Some(false));
            let answer = self.call("buffered", |protocol| protocol.buffered().is_some())?;
            // The protocol may have been exchanged meanwhile.
            if self.is_buffered.get().is_some() {
                self.is_buffered.set(Some(answer));
                return Some(answer);
            }
        }
    }

    /// Into the buffer of the protocol, which stays borrowed meanwhile.
    fn read_into_protocol(self: &Rc<Self>) {
        // What it is owed is told after `buffer_updated`: nobody comes in between.
        let received = self.call_once("get_buffer", |protocol| {
            let buffer = protocol.buffered()?.get_buffer(None);
            if buffer.is_empty() {
                return None;
            }
            Some(self.base.with_fd(|fd| self.stream.receive(fd, buffer)))
        });
        if !matches!(received, Some(Some(Ok(1..)))) {
            self.tell_owed();
        }
        match received {
            Some(Some(Ok(0))) => self.ended(),
            Some(Some(Ok(count))) => {
                let updated = self.call("buffer_updated", |protocol| {
                    protocol.buffered().map(|protocol| protocol.buffer_updated(count))
                });
                if updated == Some(None) {
                    self.buffering_failed("buffer_updated", "the protocol has no buffer any more");
                }
            }
            Some(Some(Err(error))) if is_retry(error) => {}
            Some(Some(Err(error))) => self.fatal(error.into()),
            Some(None) => {
                self.buffering_failed("get_buffer", "get_buffer() returned an empty buffer");
            }
            // It panicked, and that was told.
            None => {}
        }
    }

    #[cold]
    fn buffering_failed(self: &Rc<Self>, method: &str, why: &'static str) {
        if let Some(event_loop) = self.base.event_loop() {
            let message = format!("Fatal error: protocol.{method}() call failed.");
            event_loop.tell_of(message, Box::new(why));
        }
        self.fatal(io::Error::other(why));
    }

    fn ended(self: &Rc<Self>) {
        match self.call("eof_received", |protocol| protocol.eof_received()) {
            Some(true) => {
                self.stream.reading_ended();
                self.set_interest(false);
            }
            Some(false) => self.close(),
            None => {}
        }
    }

    // ---- writing -----------------------------------------------------------------------------

    pub fn write(self: &Rc<Self>, data: &[u8]) {
        assert!(!self.stream.has_write_eof(), "Cannot call write() after write_eof()");
        if data.is_empty() || self.stream.phase() == Phase::Lost {
            return;
        }
        let event_loop = self.base.event_loop();
        let turn = event_loop.as_ref().and_then(|event_loop| event_loop.turn_of_write());
        let keep = |from: usize| data[from..].to_vec();
        match self.base.with_fd(|fd| self.stream.write(fd, turn, data, keep)) {
            Ok(Written::All) => {}
            Ok(written @ (Written::Deferred | Written::Joined)) => {
                if self.stream.unsent_bytes() > self.stream.flow.max_held_bytes() {
                    self.flush();
                } else if let (Written::Deferred, Some(event_loop)) = (written, event_loop) {
                    event_loop.endpoints().defer_flush(self.clone());
                }
            }
            Ok(Written::Buffered) => {
                self.update_interest();
                self.pause_protocol_if_full();
            }
            Err(error) => self.fatal(error.into()),
        }
    }

    pub fn writelines(self: &Rc<Self>, chunks: Vec<Vec<u8>>) {
        assert!(!self.stream.has_write_eof(), "Cannot call writelines() after write_eof()");
        if chunks.iter().all(Vec::is_empty) || self.stream.phase() == Phase::Lost {
            return;
        }
        let waited = self.stream.unsent_bytes() > 0 && !self.stream.is_deferred();
        chunks.into_iter().for_each(|chunk| self.stream.push(chunk));
        if waited {
            self.pause_protocol_if_full();
        } else {
            self.flush();
        }
    }

    /// Before something that must not overtake what is held back.
    pub fn flush_if_deferred(self: &Rc<Self>) {
        if self.stream.is_deferred() {
            self.flush();
        }
    }

    /// Writes what waits, and does what an empty buffer was waited for.
    fn flush(self: &Rc<Self>) {
        if self.stream.phase() == Phase::Lost {
            return;
        }
        match self.base.with_fd(|fd| self.stream.flush(fd)) {
            Ok(Flushed::Drained) => self.drained(),
            Ok(Flushed::Blocked) => {
                self.update_interest();
                // Between the marks, either may be due.
                self.pause_protocol_if_full();
                self.resume_protocol_if_low();
            }
            Err(error) => self.fatal(error.into()),
        }
    }

    fn drained(self: &Rc<Self>) {
        self.resume_protocol_if_low();
        if self.stream.unsent_bytes() > 0 || self.stream.phase() == Phase::Lost {
            return;
        }
        self.update_interest();
        if self.stream.finish_closing() {
            self.lose(None);
        } else {
            self.shut_down_if_ended();
        }
    }

    pub fn shut_down_if_ended(self: &Rc<Self>) {
        match self.base.with_fd(|fd| self.stream.shut_down_if_ended(fd)) {
            // The peer is gone: reading will say so. Or the loop is closed.
            Ok(()) | Err(Errno::NOTCONN | Errno::BADF) => {}
            Err(error) => self.fatal(error.into()),
        }
    }

    pub fn pause_protocol_if_full(self: &Rc<Self>) {
        if self.stream.flow.should_pause(self.stream.unsent_bytes()) {
            self.tell("pause_writing", |protocol| protocol.pause_writing());
        }
    }

    fn resume_protocol_if_low(self: &Rc<Self>) {
        if self.stream.phase() != Phase::Lost
            && self.stream.flow.should_resume(self.stream.unsent_bytes())
        {
            self.tell("resume_writing", |protocol| protocol.resume_writing());
        }
    }

    // ---- the poller --------------------------------------------------------------------------

    pub fn update_interest(self: &Rc<Self>) {
        self.set_interest(true);
    }

    #[inline]
    fn set_interest(self: &Rc<Self>, keep_reading: bool) {
        if self.stream.phase() == Phase::Lost {
            return;
        }
        if let Err(error) = self.base.set_interest(self.stream.interest(), keep_reading) {
            self.fatal(error.into());
        }
    }

    // ---- the end -----------------------------------------------------------------------------

    /// Ends the connection without writing what is buffered.
    pub fn force_close(self: &Rc<Self>, because: Option<io::Error>) {
        if self.stream.abort() {
            self.lose(because);
        }
    }

    fn lost(self: &Rc<Self>) {
        if self.waits_to_be_lost() {
            return;
        }
        let because = self.base.lost_because.take();
        self.call("connection_lost", |protocol| protocol.connection_lost(because));
        self.let_go();
    }
}

impl Endpoint for Connection {
    #[inline]
    fn take_turn(self: Rc<Self>, turn: Turn) {
        match turn {
            Turn::Ready(readiness) => {
                if readiness.readable {
                    self.readable();
                }
                if readiness.writable {
                    self.flush();
                }
            }
            Turn::Open => self.open(),
            Turn::Owed => self.tell_owed(),
            Turn::Lost => self.lost(),
        }
    }

    fn flush_deferred(self: Rc<Self>) {
        self.flush_if_deferred();
    }

    fn let_go(&self) {
        self.stream.abort();
        self.release();
        if let Some((server, number)) = self.server.take() {
            server.detach(number);
        }
    }
}

impl Based for Connection {
    type Protocol = dyn Protocol;

    fn base(&self) -> &Base<dyn Protocol> {
        &self.base
    }

    fn close(self: &Rc<Self>) {
        self.flush_if_deferred();
        match self.stream.close() {
            Closed::Already => {}
            Closed::Flushing => self.update_interest(),
            Closed::Lost => self.lose(None),
        }
    }

    #[cold]
    fn fatal(self: &Rc<Self>, because: io::Error) {
        if self.stream.is_deferred() {
            // What `write` would have sent at once goes out, if it still can.
            let _ = self.base.with_fd(|fd| self.stream.flush(fd));
        }
        self.force_close(Some(because));
    }
}
