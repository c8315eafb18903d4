//! The reactor: a poller, and who asked it for what.
//!
//! Descriptor number -> source, by (number, generation) tokens: a number gets a new generation
//! with each registration, and an event whose generation is old is dropped silently.
//!
//! The poller is opened by the first registration or the first sleep: until then there is nothing to
//! hear of, and a loop that is done before costs no system call. All that a sleep needs is opened with
//! it, so that a loop which serves goes on when a program has used its descriptors up.
//!
//! The registry does not own descriptors. An owner deregisters before it closes; if it did not
//! (a user closed a descriptor behind the loop's back), the kernel has forgotten the registration
//! and the next owner of the number simply replaces it.

#![allow(unsafe_code)]

use std::{
    cell::{Cell, RefCell},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    rc::Rc,
    sync::Arc,
};

use crate::{
    Errno, Result,
    poller::{Event, Interest, Poller, Readiness, Token},
    process::Process,
    signal::SignalPipe,
    waker::Waker,
};

#[derive(Debug)]
struct Slot<S> {
    generation: u32,
    /// What the poller was last told; [`Interest::NONE`] means that it does not know the number.
    interest: Interest,
    source: Option<S>,
}

impl<S> Default for Slot<S> {
    fn default() -> Self {
        Slot { generation: 0, interest: Interest::NONE, source: None }
    }
}

#[derive(Debug)]
pub struct Reactor<S> {
    /// Empty until [`Reactor::open`].
    opened: RefCell<Option<Rc<Opened>>>,
    pub(crate) waker: Arc<Waker>,
    /// Indexed by descriptor number: the kernel hands out the lowest free one, so this is dense.
    slots: RefCell<Vec<Slot<S>>>,
    /// See [`Reactor::touch`].
    is_touched: Cell<bool>,
}

/// A poller and what it watches beside the registry's descriptors: the waker, and this pipe.
#[derive(Debug)]
pub(crate) struct Opened {
    pub poller: Poller,
    pub signals: SignalPipe,
    owner: Cell<Process>,
}

impl<S: Clone> Reactor<S> {
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Reactor {
            opened: RefCell::default(),
            waker,
            slots: RefCell::default(),
            is_touched: Cell::new(false),
        }
    }

    /// What the loop's own thread did may have made a descriptor ready: it connected, sent, closed or
    /// began to watch. Asks for a poll before the next batch.
    #[inline]
    pub fn touch(&self) {
        self.is_touched.set(true);
    }

    /// Whether a poll was asked for since the last call.
    #[inline]
    pub(crate) fn take_touched(&self) -> bool {
        self.is_touched.replace(false)
    }

    /// The poller, if there is anything that it could tell of.
    #[inline]
    pub(crate) fn opened(&self) -> Option<Rc<Opened>> {
        self.opened.borrow().clone()
    }

    #[inline]
    pub(crate) fn ensure_open(&self) -> Result<()> {
        if self.opened.borrow().is_none() { self.open().map(drop) } else { Ok(()) }
    }

    /// The poller. The first call opens four descriptors.
    pub(crate) fn open(&self) -> Result<Rc<Opened>> {
        if let Some(opened) = self.opened() {
            return Ok(opened);
        }
        let (poller, signals) = (Poller::new()?, SignalPipe::new()?);
        poller.add(self.waker.open()?, Token::WAKER, Interest::READ)?;
        poller.add(signals.as_fd(), Token::SIGNAL, Interest::READ)?;
        let opened = Rc::new(Opened { poller, signals, owner: Cell::new(Process::current()) });
        Ok(Rc::clone(self.opened.borrow_mut().insert(opened)))
    }

    /// Closes the poller. What wakes it stays with those who may do that from other threads.
    pub(crate) fn close(&self) {
        self.opened.take();
    }

    /// In a child whose parent has opened it: gets a poller, a waker and a pipe of its own, which watch
    /// what was registered. The parent's stay as they are. May be called again if it fails.
    pub(crate) fn take_over(&self) -> Result<()> {
        let Some(opened) = self.opened() else { return Ok(()) };
        let Opened { poller, signals, owner } = &*opened;
        if owner.get().is_current() {
            return Ok(());
        }
        self.waker.take_over()?;
        signals.take_over()?;
        poller.take_over()?;
        poller.add(self.waker.open()?, Token::WAKER, Interest::READ)?;
        poller.add(signals.as_fd(), Token::SIGNAL, Interest::READ)?;
        for (fd, slot) in (0..).zip(self.slots.borrow_mut().iter_mut()) {
            // SAFETY: not negative, and only handed to `epoll_ctl`.
            let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
            if slot.interest != Interest::NONE
                && poller.add(borrowed, token(fd, slot.generation), slot.interest).is_err()
            {
                // The child has closed it.
                slot.interest = Interest::NONE;
            }
        }
        owner.set(Process::current());
        Ok(())
    }

    /// No more descriptors than this can be ready at once, the loop's own included.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.borrow().len() + 2
    }

    /// Who is registered for a descriptor.
    pub fn source(&self, fd: RawFd) -> Option<S> {
        self.look(fd, |source| source.cloned())
    }

    /// Whether the poller has no descriptor but the loop's own.
    pub(crate) fn is_idle(&self) -> bool {
        let slots = self.slots.try_borrow();
        slots.is_ok_and(|slots| slots.iter().all(|slot| slot.interest == Interest::NONE))
    }

    /// Looks at who is registered for a descriptor. `look` must not reach the registry.
    #[inline]
    pub fn look<R>(&self, fd: RawFd, look: impl FnOnce(Option<&S>) -> R) -> R {
        let slots = self.slots.borrow();
        let slot = usize::try_from(fd).ok().and_then(|at| slots.get(at));
        look(slot.and_then(|slot| slot.source.as_ref()))
    }

    /// What the poller watches a descriptor for.
    pub fn interest(&self, fd: RawFd) -> Interest {
        let slots = self.slots.borrow();
        usize::try_from(fd).ok().and_then(|at| slots.get(at)).map_or(Interest::NONE, |s| s.interest)
    }

    /// Makes `source` the one that hears of `fd`. Returns the source that it replaces.
    ///
    /// On an error (`BADF`, `PERM` for a regular file, ...) nothing has changed.
    pub fn register(&self, fd: RawFd, source: S, interest: Interest) -> Result<Option<S>> {
        let at = usize::try_from(fd).map_err(|_| Errno::BADF)?;
        self.take_over()?;
        let mut slots = self.slots.borrow_mut();
        let (generation, present) =
            slots.get(at).map_or((0, Interest::NONE), |slot| (slot.generation, slot.interest));
        let generation = generation.wrapping_add(1);
        // The poller first: it refuses a number that is not open, for which no room must be made.
        self.tell(fd, generation, present, interest)?;
        if at >= slots.len() {
            slots.resize_with(at + 1, Slot::default);
        }
        let slot = &mut slots[at];
        slot.generation = generation;
        slot.interest = interest;
        Ok(slot.source.replace(source))
    }

    /// Whether the poller still has the descriptor that was registered: false if it was closed behind
    /// our back, whoever has its number now.
    pub fn is_current(&self, fd: RawFd) -> bool {
        let slots = self.slots.borrow();
        let Some(slot) = usize::try_from(fd).ok().and_then(|at| slots.get(at)) else {
            return false;
        };
        let Some(opened) = self.opened() else { return false };
        let Opened { poller, owner, .. } = &*opened;
        if !owner.get().is_current() {
            return true;
        }
        // SAFETY: not negative, and only handed to `epoll_ctl`.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        slot.interest != Interest::NONE
            && poller.modify(borrowed, token(fd, slot.generation), slot.interest).is_ok()
    }

    /// Changes what the present source of `fd` hears of.
    pub fn set_interest(&self, fd: RawFd, interest: Interest) -> Result<()> {
        let mut slots = self.slots.borrow_mut();
        let slot = usize::try_from(fd).ok().and_then(|at| slots.get_mut(at)).ok_or(Errno::NOENT)?;
        if slot.interest != interest {
            self.tell(fd, slot.generation, slot.interest, interest)?;
            slot.interest = interest;
        }
        Ok(())
    }

    /// Forgets a descriptor and returns its source. Never fails: the descriptor may be gone.
    pub fn deregister(&self, fd: RawFd) -> Option<S> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(usize::try_from(fd).ok()?)?;
        let source = slot.source.take()?;
        // Telling of no interest cannot fail.
        let _ = self.tell(fd, slot.generation, slot.interest, Interest::NONE);
        slot.interest = Interest::NONE;
        slot.generation = slot.generation.wrapping_add(1);
        Some(source)
    }

    /// Forgets everything and returns the sources. The poller is about to be closed.
    pub fn clear(&self) -> Vec<S> {
        let slots = self.slots.take();
        slots.into_iter().filter_map(|slot| slot.source).collect()
    }

    /// The source an event is for, and what of the event concerns it.
    #[inline]
    pub(crate) fn resolve(&self, event: &Event) -> Option<(S, Readiness)> {
        let slots = self.slots.borrow();
        let slot = slots.get((event.token.0 & u64::from(u32::MAX)) as usize)?;
        if u64::from(slot.generation) != event.token.0 >> 32 {
            return None;
        }
        let readiness = Readiness {
            readable: event.readiness.readable && slot.interest.contains(Interest::READ),
            writable: event.readiness.writable && slot.interest.contains(Interest::WRITE),
            hung_up: event.readiness.hung_up,
        };
        Some((slot.source.clone()?, readiness))
    }

    /// Looks at every source without taking it. Skipped while the registry is being changed.
    pub fn inspect(&self, mut look: impl FnMut(&S)) {
        if let Ok(slots) = self.slots.try_borrow() {
            slots.iter().filter_map(|slot| slot.source.as_ref()).for_each(&mut look);
        }
    }

    /// The first descriptor whose source is the one looked for.
    pub fn find(&self, mut is_it: impl FnMut(&S) -> bool) -> Option<RawFd> {
        let slots = self.slots.borrow();
        let at = slots.iter().position(|slot| slot.source.as_ref().is_some_and(&mut is_it))?;
        RawFd::try_from(at).ok()
    }

    fn tell(&self, fd: RawFd, generation: u32, old: Interest, new: Interest) -> Result<()> {
        if old == Interest::NONE && new == Interest::NONE {
            return Ok(());
        }
        self.touch();
        // SAFETY: `fd` is not negative (callers index by it), and it is only handed to system calls
        // which answer EBADF if it is not open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        if self.opened.borrow().is_none() {
            // What is opened below could get a number that is free, and would then be what is watched.
            rustix::io::fcntl_getfd(fd)?;
        }
        let opened = self.open()?;
        let Opened { poller, owner, .. } = &*opened;
        if !owner.get().is_current() {
            // A forked child must not touch its parent's registrations.
            return Ok(());
        }
        let token = token(fd.as_raw_fd(), generation);
        if new == Interest::NONE {
            // Closed behind our back means that the kernel has forgotten it: all is well.
            let _ = poller.delete(fd);
            return Ok(());
        }
        if old == Interest::NONE {
            match poller.add(fd, token, new) {
                // The number was registered before under a duplicate that is still open.
                Err(Errno::EXIST) => poller.modify(fd, token, new),
                result => result,
            }
        } else {
            match poller.modify(fd, token, new) {
                // Closed behind our back, and the number has a new owner.
                Err(Errno::NOENT) => poller.add(fd, token, new),
                result => result,
            }
        }
    }
}

/// What the poller calls a registration.
fn token(fd: RawFd, generation: u32) -> Token {
    Token(u64::from(generation) << 32 | u64::from(fd.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::poller::Events;

    fn wait(reactor: &Reactor<&'static str>) -> Vec<Option<&'static str>> {
        let mut events = Events::default();
        reactor.open().unwrap().poller.wait(Some(0), &mut events).unwrap();
        events.iter().map(|event| reactor.resolve(&event).map(|found| found.0)).collect()
    }

    #[test]
    fn an_event_finds_its_source_until_it_is_deregistered() {
        let reactor = Reactor::new(Arc::default());
        let (a, _b) = UnixStream::pair().unwrap();
        reactor.register(a.as_raw_fd(), "a", Interest::WRITE).unwrap();
        assert_eq!(wait(&reactor), [Some("a")]);
        assert_eq!(reactor.deregister(a.as_raw_fd()), Some("a"));
        assert_eq!(wait(&reactor), []);
    }

    #[test]
    fn a_late_event_does_not_reach_the_next_owner_of_a_descriptor() {
        let reactor = Reactor::new(Arc::default());
        let (a, _b) = UnixStream::pair().unwrap();
        reactor.register(a.as_raw_fd(), "old", Interest::WRITE).unwrap();
        let mut events = Events::default();
        reactor.open().unwrap().poller.wait(Some(0), &mut events).unwrap();
        reactor.deregister(a.as_raw_fd());
        reactor.register(a.as_raw_fd(), "new", Interest::WRITE).unwrap();
        let late: Vec<_> = events.iter().filter_map(|event| reactor.resolve(&event)).collect();
        assert_eq!(late, []);
        assert_eq!(wait(&reactor), [Some("new")]);
    }

    #[test]
    fn a_number_that_was_closed_behind_our_back_can_be_registered_again() {
        let reactor = Reactor::new(Arc::default());
        let (a, _b) = UnixStream::pair().unwrap();
        let number = a.as_raw_fd();
        reactor.register(number, "closed", Interest::READ).unwrap();
        drop(a);
        let (c, _d) = UnixStream::pair().unwrap();
        if c.as_raw_fd() == number {
            assert_eq!(reactor.register(number, "new", Interest::WRITE), Ok(Some("closed")));
            assert_eq!(wait(&reactor), [Some("new")]);
        }
    }

    #[test]
    fn a_descriptor_without_interest_is_silent_even_when_it_hangs_up() {
        let reactor = Reactor::new(Arc::default());
        let (a, b) = UnixStream::pair().unwrap();
        reactor.register(a.as_raw_fd(), "a", Interest::READ).unwrap();
        reactor.set_interest(a.as_raw_fd(), Interest::NONE).unwrap();
        drop(b);
        assert_eq!(wait(&reactor), []);
        reactor.set_interest(a.as_raw_fd(), Interest::READ).unwrap();
        assert_eq!(wait(&reactor), [Some("a")]);
    }

    #[test]
    fn bad_descriptors_are_refused_with_their_errno() {
        let reactor = Reactor::new(Arc::default());
        assert_eq!(reactor.register(-1, "x", Interest::READ), Err(Errno::BADF));
        assert_eq!(reactor.register(i32::MAX, "x", Interest::READ), Err(Errno::BADF));
        assert!(reactor.opened().is_none(), "the poller could get the number that is refused");
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(reactor.register(file.as_raw_fd(), "x", Interest::READ), Err(Errno::PERM));
        assert_eq!(reactor.source(file.as_raw_fd()), None);
    }
}
