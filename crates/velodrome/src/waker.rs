//! Ends a poller's sleep from any thread: an eventfd.

use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io,
};

use crate::Result;

/// Ends a sleep, from any thread.
pub trait Wake {
    /// Never blocks; waking twice is waking once.
    fn wake(&self);
}

#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
}

impl Waker {
    pub fn new() -> Result<Self> {
        Ok(Waker { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Makes the descriptor quiet again.
    pub fn drain(&self) {
        // Nothing to read means that it is quiet.
        let _ = io::read(&self.fd, &mut [0_u8; 8]);
    }
}

impl Wake for Waker {
    /// Makes the descriptor readable.
    fn wake(&self) {
        // The only failure is a counter that is full, and then it is readable already.
        let _ = io::write(&self.fd, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
