//! What happens in the turns of a stream transport.
//!
//! The model's [`Stream`] decides; this file owns the descriptor and calls the protocol, with nothing
//! borrowed but the protocol itself. A connection is registered with the loop from its birth until it is
//! lost.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::{Rc, Weak},
};

use rustix::net::{getpeername, getsockname};

use super::{Transport, server::Serving};
use crate::{
    Errno, Error, Interest, Result,
    endpoint::{Endpoint, Turn},
    error::is_retry,
    event_loop::{FdSource, Inner},
    life::{Closed, Phase},
    panics::{panic_message, quietly},
    protocol::Protocol,
    stream::{Flushed, Joining, Stream, Written},
    sync::Event,
};

pub(super) type AnyProtocol = Rc<RefCell<dyn Protocol>>;

/// What a protocol is told of the write buffer.
#[derive(Clone, Copy)]
enum Flow {
    Pause,
    Resume,
}

pub(super) struct Connection {
    pub stream: Stream<Vec<u8>>,
    /// `None` once the protocol was told of the end.
    fd: RefCell<Option<OwnedFd>>,
    number: RawFd,
    event_loop: Weak<Inner>,
    /// `None` as `fd`, so that no cycle stays.
    protocol: RefCell<Option<AnyProtocol>>,
    /// How many calls of the protocol are under way.
    calls: Cell<u32>,
    /// What the protocol could not be told, being borrowed.
    owed: RefCell<VecDeque<Flow>>,
    lost_because: Cell<Option<io::Error>>,
    /// Set when the protocol knows the connection.
    pub opened: Event,
    /// The server that accepted it, and its number there.
    server: Cell<Option<(Rc<Serving>, usize)>>,
    /// Among the endpoints of the loop.
    key: Cell<Option<usize>>,
    pub local_addr: Option<SocketAddr>,
    pub peer_addr: Option<SocketAddr>,
}

impl Connection {
    /// Over a connected socket. The protocol is told in the next turn.
    pub fn start(
        event_loop: &Rc<Inner>,
        fd: OwnedFd,
        protocol: AnyProtocol,
        server: Option<Rc<Serving>>,
    ) -> io::Result<Rc<Self>> {
        if event_loop.is_closed() {
            return Err(io::Error::other(Error::Closed));
        }
        let connection = Rc::new(Connection {
            stream: Stream::new(true),
            number: fd.as_raw_fd(),
            local_addr: getsockname(&fd).ok().and_then(|address| address.try_into().ok()),
            peer_addr: getpeername(&fd).ok().flatten().and_then(|address| address.try_into().ok()),
            fd: RefCell::new(Some(fd)),
            event_loop: Rc::downgrade(event_loop),
            protocol: RefCell::new(Some(protocol)),
            calls: Cell::new(0),
            owed: RefCell::default(),
            lost_because: Cell::new(None),
            opened: Event::new(),
            server: Cell::new(None),
            key: Cell::new(None),
        });
        let source = FdSource::Endpoint(connection.clone());
        let replaced = event_loop.reactor().register(connection.number, source, Interest::NONE)?;
        drop(replaced);
        connection.key.set(Some(event_loop.endpoints().add(connection.clone())));
        if let Some(server) = server {
            let number = server.attach(&connection);
            connection.server.set(Some((server, number)));
        }
        event_loop.queue_turn(connection.clone(), Turn::Open);
        Ok(connection)
    }

    /// The loop, while it is open.
    fn event_loop(&self) -> Option<Rc<Inner>> {
        self.event_loop.upgrade().filter(|event_loop| !event_loop.is_closed())
    }

    fn with_fd<R>(&self, operation: impl FnOnce(BorrowedFd<'_>) -> Result<R>) -> Result<R> {
        match &*self.fd.borrow() {
            Some(fd) => operation(fd.as_fd()),
            None => Err(Errno::BADF),
        }
    }

    // ---- the protocol ------------------------------------------------------------------------

    pub fn protocol(&self) -> Option<AnyProtocol> {
        self.protocol.borrow().clone()
    }

    pub fn set_protocol(&self, protocol: AnyProtocol) {
        if self.fd.borrow().is_some() {
            let before = self.protocol.replace(Some(protocol));
            drop(before);
        }
    }

    /// Calls a method of the protocol, and what it owes afterwards. `None` if the protocol is gone, or
    /// panicked.
    fn call<R>(
        self: &Rc<Self>,
        name: &str,
        method: impl FnOnce(&mut dyn Protocol) -> R,
    ) -> Option<R> {
        let result = self.call_once(name, method);
        if self.calls.get() == 0 {
            self.tell_owed();
        }
        result
    }

    fn call_once<R>(
        self: &Rc<Self>,
        name: &str,
        method: impl FnOnce(&mut dyn Protocol) -> R,
    ) -> Option<R> {
        let protocol = self.protocol()?;
        self.calls.set(self.calls.get() + 1);
        let called = catch_unwind(AssertUnwindSafe(|| method(&mut *protocol.borrow_mut())));
        self.calls.set(self.calls.get() - 1);
        // It may have been exchanged, and this is the last one who knows it.
        quietly(|| drop(protocol));
        match called {
            Ok(result) => Some(result),
            Err(panic) => {
                self.panicked(name, panic);
                None
            }
        }
    }

    /// Tells now, if the protocol can be called; after its own method, or soon, otherwise.
    fn tell(self: &Rc<Self>, flow: Flow) {
        let Some(protocol) = self.protocol() else { return };
        let can_be_called = protocol.try_borrow_mut().is_ok();
        drop(protocol);
        if can_be_called && self.owed.borrow().is_empty() {
            self.tell_once(flow);
            return;
        }
        self.owed.borrow_mut().push_back(flow);
        if self.calls.get() == 0
            && let Some(event_loop) = self.event_loop()
        {
            event_loop.queue_turn(self.clone(), Turn::Owed);
        }
    }

    fn tell_once(self: &Rc<Self>, flow: Flow) {
        match flow {
            Flow::Pause => self.call_once("pause_writing", |protocol| protocol.pause_writing()),
            Flow::Resume => self.call_once("resume_writing", |protocol| protocol.resume_writing()),
        };
    }

    fn tell_owed(self: &Rc<Self>) {
        loop {
            let flow = self.owed.borrow_mut().pop_front();
            let Some(flow) = flow else { return };
            self.tell_once(flow);
        }
    }

    #[cold]
    fn panicked(self: &Rc<Self>, name: &str, panic: Box<dyn Any + Send>) {
        let text = panic_message(panic.as_ref());
        let because = io::Error::other(format!("protocol.{name}() panicked: {text}"));
        if let Some(event_loop) = self.event_loop.upgrade() {
            event_loop.tell_of(format!("Fatal error: protocol.{name}() call failed."), panic);
        }
        self.fatal(because);
    }

    // ---- reading -----------------------------------------------------------------------------

    fn open(self: &Rc<Self>) {
        let transport = Transport(self.clone());
        self.call("connection_made", |protocol| protocol.connection_made(transport));
        self.stream.start_reading();
        self.update_interest();
        self.opened.set();
    }

    #[inline]
    fn readable(self: &Rc<Self>) {
        if !self.stream.wants_data() {
            // Paused or closing, and something came: only now is it worth a system call to tell
            // the poller so.
            return self.set_interest(false);
        }
        let Some(event_loop) = self.event_loop() else { return };
        let mut scratch = event_loop.endpoints().take_scratch();
        match self.with_fd(|fd| self.stream.receive(fd, &mut scratch[..])) {
            Ok(0) => self.ended(),
            Ok(count) => {
                self.call("data_received", |protocol| protocol.data_received(&scratch[..count]));
            }
            Err(error) if is_retry(error) => {}
            Err(error) => self.fatal(error.into()),
        }
        event_loop.endpoints().put_back_scratch(scratch);
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
        let event_loop = self.event_loop();
        let turn = event_loop.as_ref().and_then(|event_loop| event_loop.turn());
        let keep = |from: usize| data[from..].to_vec();
        match self.with_fd(|fd| self.stream.write(fd, turn, data, keep)) {
            Ok(Written::All) => {}
            Ok(written @ (Written::Deferred | Written::Joined)) => {
                let (_, high_water_bytes) = self.stream.flow.limits();
                if self.stream.unsent_bytes() > high_water_bytes.min(Joining::MAX_HELD_BYTES) {
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
        match self.with_fd(|fd| self.stream.flush(fd)) {
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
        match self.with_fd(|fd| self.stream.shut_down_if_ended(fd)) {
            // The peer is gone: reading will say so. Or the loop is closed.
            Ok(()) | Err(Errno::NOTCONN | Errno::BADF) => {}
            Err(error) => self.fatal(error.into()),
        }
    }

    pub fn pause_protocol_if_full(self: &Rc<Self>) {
        if self.stream.flow.should_pause(self.stream.unsent_bytes()) {
            self.tell(Flow::Pause);
        }
    }

    fn resume_protocol_if_low(self: &Rc<Self>) {
        if self.stream.phase() != Phase::Lost
            && self.stream.flow.should_resume(self.stream.unsent_bytes())
        {
            self.tell(Flow::Resume);
        }
    }

    // ---- the poller --------------------------------------------------------------------------

    pub fn update_interest(self: &Rc<Self>) {
        self.set_interest(true);
    }

    /// `keep_reading`: interest in reading that is merely not needed for now is left as it is. Pauses
    /// are short, and the next event will tell.
    #[inline]
    fn set_interest(self: &Rc<Self>, keep_reading: bool) {
        if self.stream.phase() == Phase::Lost {
            return;
        }
        let Some(event_loop) = self.event_loop() else { return };
        let mut wanted = self.stream.interest();
        if keep_reading && event_loop.reactor().interest(self.number).contains(Interest::READ) {
            wanted |= Interest::READ;
        }
        if let Err(error) = event_loop.reactor().set_interest(self.number, wanted) {
            self.fatal(error.into());
        }
    }

    fn deregister(&self) {
        let Some(event_loop) = self.event_loop.upgrade() else { return };
        let is_self = event_loop.reactor().look(self.number, |source| match source {
            Some(FdSource::Endpoint(endpoint)) => std::ptr::addr_eq(Rc::as_ptr(endpoint), self),
            _ => false,
        });
        if is_self {
            let registered = event_loop.reactor().deregister(self.number);
            drop(registered);
        }
    }

    // ---- the end -----------------------------------------------------------------------------

    pub fn close(self: &Rc<Self>) {
        self.flush_if_deferred();
        match self.stream.close() {
            Closed::Already => {}
            Closed::Flushing => self.update_interest(),
            Closed::Lost => self.lose(None),
        }
    }

    /// Ends the connection without writing what is buffered.
    pub fn force_close(self: &Rc<Self>, because: Option<io::Error>) {
        if self.stream.abort() {
            self.lose(because);
        }
    }

    /// An error that ends the connection.
    #[cold]
    fn fatal(self: &Rc<Self>, because: io::Error) {
        if self.stream.is_deferred() {
            // What `write` would have sent at once goes out, if it still can.
            let _ = self.with_fd(|fd| self.stream.flush(fd));
        }
        self.force_close(Some(because));
    }

    /// The phase is `Lost`, just now: leaves the poller and queues `connection_lost`.
    fn lose(self: &Rc<Self>, because: Option<io::Error>) {
        self.lost_because.set(because);
        match self.event_loop() {
            Some(event_loop) => {
                self.deregister();
                event_loop.queue_turn(self.clone(), Turn::Lost);
            }
            // Nobody will call any more.
            None => self.let_go(),
        }
    }

    fn lost(self: &Rc<Self>) {
        let because = self.lost_because.take();
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

    /// Closes the descriptor and drops what could be part of a cycle.
    fn let_go(&self) {
        self.stream.abort();
        self.deregister();
        drop(self.fd.take());
        self.opened.set();
        if let Some((server, number)) = self.server.take() {
            server.detach(number);
        }
        let key = self.key.take();
        let held = key
            .zip(self.event_loop.upgrade())
            .and_then(|(key, event_loop)| event_loop.endpoints().remove(key));
        let protocol = self.protocol.take();
        quietly(|| drop(protocol));
        drop(held);
    }
}
