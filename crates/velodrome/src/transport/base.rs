//! What every transport has: its descriptor, its loop, its protocol and the calls of it.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::{Rc, Weak},
    time::Duration,
};

use crate::{
    Errno, Error, Interest, Result,
    endpoint::{Endpoint, Turn},
    event_loop::{FdSource, Inner},
    panics::{panic_message, quietly},
    sync::Event,
};

/// How soon it is tried again to call a protocol that somebody has borrowed.
const BORROWED_RETRY_DELAY: Duration = Duration::from_millis(1);

/// A call of a protocol, by its name.
type Call<P> = (&'static str, Box<dyn FnOnce(&mut P)>);

pub(super) struct Base<P: ?Sized> {
    /// `None` once the protocol was told of the end.
    fd: RefCell<Option<Rc<OwnedFd>>>,
    number: RawFd,
    event_loop: Weak<Inner>,
    /// `None` as `fd`, so that no cycle stays.
    protocol: RefCell<Option<Rc<RefCell<P>>>>,
    /// How many calls of the protocol are under way.
    calls: Cell<u32>,
    /// What the protocol could not be told, being borrowed.
    owed: RefCell<VecDeque<Call<P>>>,
    /// Why the connection was lost, until the protocol is told.
    pub lost_because: Cell<Option<io::Error>>,
    /// Set when the protocol knows the connection.
    pub opened: Event,
    /// Among the endpoints of the loop.
    key: Cell<Option<usize>>,
}

impl<P: ?Sized> Base<P> {
    pub fn new(event_loop: &Rc<Inner>, fd: OwnedFd, protocol: Rc<RefCell<P>>) -> Self {
        Base {
            number: fd.as_raw_fd(),
            fd: RefCell::new(Some(Rc::new(fd))),
            event_loop: Rc::downgrade(event_loop),
            protocol: RefCell::new(Some(protocol)),
            calls: Cell::new(0),
            owed: RefCell::default(),
            lost_because: Cell::new(None),
            opened: Event::new(),
            key: Cell::new(None),
        }
    }

    /// The loop, while it is open.
    pub fn event_loop(&self) -> Option<Rc<Inner>> {
        self.event_loop.upgrade().filter(|event_loop| !event_loop.is_closed())
    }

    pub fn with_fd<R>(&self, operation: impl FnOnce(BorrowedFd<'_>) -> Result<R>) -> Result<R> {
        match &*self.fd.borrow() {
            Some(fd) => operation(fd.as_fd()),
            None => Err(Errno::BADF),
        }
    }

    /// The descriptor, which is open as long as this is kept.
    pub fn socket(&self) -> Option<Rc<OwnedFd>> {
        self.fd.borrow().clone()
    }

    pub fn protocol(&self) -> Option<Rc<RefCell<P>>> {
        self.protocol.borrow().clone()
    }

    /// Whether nobody has the protocol borrowed.
    pub fn can_be_called(&self) -> bool {
        let protocol = self.protocol.borrow();
        protocol.as_ref().is_none_or(|protocol| protocol.try_borrow_mut().is_ok())
    }

    pub fn set_protocol(&self, protocol: Rc<RefCell<P>>) {
        if self.fd.borrow().is_some() {
            let before = self.protocol.replace(Some(protocol));
            drop(before);
        }
    }

    /// Tells the poller what is wanted; nothing happens if the loop is closed.
    ///
    /// `keep_reading`: interest in reading that is merely not needed for now is left as it is. Pauses
    /// are short, and the next event will tell.
    #[inline]
    pub fn set_interest(&self, mut wanted: Interest, keep_reading: bool) -> Result<()> {
        let Some(event_loop) = self.event_loop() else { return Ok(()) };
        let reactor = event_loop.reactor();
        if keep_reading && reactor.interest(self.number).contains(Interest::READ) {
            wanted |= Interest::READ;
        }
        reactor.set_interest(self.number, wanted)
    }
}

/// A transport over a [`Base`].
pub(super) trait Based: Endpoint + Sized + 'static {
    type Protocol: ?Sized + 'static;

    fn base(&self) -> &Base<Self::Protocol>;

    /// What waits is sent first.
    fn close(self: &Rc<Self>);

    /// An error that ends the connection.
    fn fatal(self: &Rc<Self>, because: io::Error);

    /// Registers it. The protocol is told in the next turn.
    fn start(self: &Rc<Self>) -> io::Result<()> {
        let base = self.base();
        let event_loop = base.event_loop().ok_or_else(|| io::Error::other(Error::Closed))?;
        let source = FdSource::Endpoint(self.clone());
        let replaced = event_loop.reactor().register(base.number, source, Interest::NONE)?;
        drop(replaced);
        base.key.set(Some(event_loop.endpoints().add(self.clone())));
        event_loop.queue_turn(self.clone(), Turn::Open);
        Ok(())
    }

    // ---- the protocol ------------------------------------------------------------------------

    /// Calls a method of the protocol, and what it owes afterwards. `None` if the protocol is gone, or
    /// panicked.
    #[inline]
    fn call<R>(
        self: &Rc<Self>,
        name: &str,
        method: impl FnOnce(&mut Self::Protocol) -> R,
    ) -> Option<R> {
        let result = self.call_once(name, method);
        if self.base().calls.get() == 0 {
            self.tell_owed();
        }
        result
    }

    /// As [`Based::call`]; what is owed stays owed.
    fn call_once<R>(
        self: &Rc<Self>,
        name: &str,
        method: impl FnOnce(&mut Self::Protocol) -> R,
    ) -> Option<R> {
        let base = self.base();
        let protocol = base.protocol()?;
        base.calls.set(base.calls.get() + 1);
        let called = catch_unwind(AssertUnwindSafe(|| method(&mut *protocol.borrow_mut())));
        base.calls.set(base.calls.get() - 1);
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
    fn tell(
        self: &Rc<Self>,
        name: &'static str,
        method: impl FnOnce(&mut Self::Protocol) + 'static,
    ) {
        let base = self.base();
        if base.can_be_called() && base.owed.borrow().is_empty() {
            self.call_once(name, method);
            return;
        }
        base.owed.borrow_mut().push_back((name, Box::new(method)));
        if base.calls.get() == 0
            && let Some(event_loop) = base.event_loop()
        {
            event_loop.queue_turn(self.clone(), Turn::Owed);
        }
    }

    fn tell_owed(self: &Rc<Self>) {
        loop {
            let owed = self.base().owed.borrow_mut().pop_front();
            let Some((name, method)) = owed else { return };
            self.call_once(name, method);
        }
    }

    #[cold]
    fn panicked(self: &Rc<Self>, name: &str, panic: Box<dyn Any + Send>) {
        let text = panic_message(panic.as_ref());
        let because = io::Error::other(format!("protocol.{name}() panicked: {text}"));
        if let Some(event_loop) = self.base().event_loop.upgrade() {
            event_loop.tell_of(format!("Fatal error: protocol.{name}() call failed."), panic);
        }
        self.fatal(because);
    }

    // ---- the end -----------------------------------------------------------------------------

    fn deregister(&self) {
        let base = self.base();
        let Some(event_loop) = base.event_loop.upgrade() else { return };
        let is_self = event_loop.reactor().look(base.number, |source| match source {
            Some(FdSource::Endpoint(endpoint)) => std::ptr::addr_eq(Rc::as_ptr(endpoint), self),
            _ => false,
        });
        if is_self {
            let registered = event_loop.reactor().deregister(base.number);
            drop(registered);
        }
    }

    /// The end is decided, just now: leaves the poller and queues `connection_lost`.
    fn lose(self: &Rc<Self>, because: Option<io::Error>) {
        self.base().lost_because.set(because);
        match self.base().event_loop() {
            Some(event_loop) => {
                self.deregister();
                event_loop.queue_turn(self.clone(), Turn::Lost);
            }
            // Nobody will call any more.
            None => self.let_go(),
        }
    }

    /// Has `connection_lost` wait for a program that has borrowed the protocol across an `await`. False if
    /// it need not.
    fn waits_to_be_lost(self: &Rc<Self>) -> bool {
        if self.base().can_be_called() {
            return false;
        }
        let Some(event_loop) = self.base().event_loop() else { return false };
        let (transport, later) = (self.clone(), Rc::downgrade(&event_loop));
        event_loop.call_after(BORROWED_RETRY_DELAY, move || {
            if let Some(event_loop) = later.upgrade() {
                event_loop.queue_turn(transport, Turn::Lost);
            }
        });
        true
    }

    /// Closes the descriptor and drops what could be part of a cycle.
    fn release(&self) {
        let base = self.base();
        self.deregister();
        drop(base.fd.take());
        base.opened.set();
        let held = base.key.take().zip(base.event_loop.upgrade());
        let held = held.and_then(|(key, event_loop)| event_loop.endpoints().remove(key));
        let dropped = (base.protocol.take(), base.owed.take());
        quietly(|| drop(dropped));
        drop(held);
    }
}
