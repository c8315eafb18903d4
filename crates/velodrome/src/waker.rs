//! Ends a poller's sleep from any thread: an eventfd, opened before the first sleep.

use std::sync::{Arc, OnceLock};

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
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(self.fd.get_or_init(|| fd).as_fd())
    }

    /// Makes the descriptor quiet again.
    pub fn drain(&self) {
        if let Some(fd) = self.fd.get() {
            // Nothing to read means that it is quiet.
            let _ = io::read(fd, &mut [0_u8; 8]);
        }
    }
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
