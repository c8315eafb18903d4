//! Ends a poller's sleep from any thread: an eventfd, opened before the first sleep.
//!
//! ```
//! use velodrome::{poller::{Events, Interest, Poller, Token}, waker::{Wake, Waker}};
//!
//! let waker = Waker::default();
//! let poller = Poller::new()?;
//! poller.add(waker.open()?, Token::new(0), Interest::READ)?;
//! std::thread::scope(|scope| {
//!     scope.spawn(|| waker.wake());
//! });
//! let mut events = Events::default();
//! poller.wait(None, &mut events)?;
//! assert_eq!(events.iter().count(), 1);
//! waker.drain();
//! poller.wait(Some(0), &mut events)?;
//! assert!(events.is_empty());
//! # std::io::Result::Ok(())
//! ```

use std::sync::{Arc, OnceLock};

use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io,
};

use crate::{Result, process};

/// Ends a sleep, from any thread.
pub trait Wake {
    /// Never blocks; waking twice is waking once.
    fn wake(&self);
}

#[derive(Debug, Default)]
pub struct Waker {
    fd: OnceLock<OwnedFd>,
}

impl Waker {
    /// The descriptor for a poller to watch, opened on the first call.
    pub fn open(&self) -> Result<BorrowedFd<'_>> {
        if let Some(fd) = self.fd.get() {
            return Ok(fd.as_fd());
        }
        let fd = new_eventfd()?;
        Ok(self.fd.get_or_init(|| fd).as_fd())
    }

    /// In a child: wakes its own loop from now on, not the parent's.
    pub fn take_over(&self) -> Result<()> {
        self.fd.get().map_or(Ok(()), |fd| process::replace(fd, &new_eventfd()?))
    }

    /// Makes the descriptor quiet again.
    pub fn drain(&self) {
        if let Some(fd) = self.fd.get() {
            // Nothing to read means that it is quiet.
            let _ = io::read(fd, &mut [0_u8; 8]);
        }
    }
}

fn new_eventfd() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

impl Wake for Waker {
    /// Makes the descriptor readable. Without one, nobody sleeps on it.
    fn wake(&self) {
        if let Some(fd) = self.fd.get() {
            // The only failure is a counter that is full, and then it is readable already.
            let _ = io::write(fd, &1_u64.to_ne_bytes());
        }
    }
}

impl<W: Wake> Wake for Arc<W> {
    fn wake(&self) {
        W::wake(self);
    }
}
