//! epoll: system calls only, no policy.
//!
//! Traps that the callers above rely on this file to know:
//! - A closed descriptor leaves epoll by itself only when its last duplicate is closed, so owners
//!   deregister before they close.
//! - Hang-up and error are reported whatever was asked for; a registration without interest must
//!   therefore be removed, not modified to nothing, or the poller spins.
//! - An epoll instance is shared with a forked child: a child that deregisters a descriptor takes
//!   it from its parent. The registry knows whose it is, and keeps its hands off.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    buffer::spare_capacity,
    event::{
        PollFd, PollFlags, Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
        poll,
    },
};

use super::{Event, Interest, Readiness, Token};
use crate::{Result, process};

#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// The buffer that a wait fills. Reused from wait to wait.
pub struct Events(Vec<epoll::Event>);

// SAFETY: rustix's event carries a union of an integer and a pointer; this file stores and reads
// tokens only, so nothing in it points anywhere.
unsafe impl Send for Events {}

/// Waits shorter than this get nanoseconds; for longer ones a millisecond does not matter.
pub const PRECISE_BELOW_NS: u64 = 6_000_000;

impl Default for Events {
    fn default() -> Self {
        Events(Vec::with_capacity(64))
    }
}

impl Events {
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.0.iter().map(|event| {
            let flags = event.flags;
            Event {
                token: Token(event.data.u64()),
                readiness: Readiness {
                    readable: flags.intersects(EventFlags::OUT.complement()),
                    writable: flags.intersects((EventFlags::IN | EventFlags::RDHUP).complement()),
                    hung_up: flags.intersects(HUNG_UP),
                },
            }
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Lets one wait report as many descriptors. What does not fit is reported by the next one.
    pub fn make_room(&mut self, descriptors: usize) {
        self.0.reserve(descriptors.saturating_sub(self.0.len()));
    }
}

const HUNG_UP: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

fn flags(interest: Interest) -> EventFlags {
    let mut flags = EventFlags::empty();
    if interest.contains(Interest::READ) {
        flags |= EventFlags::IN;
    }
    if interest.contains(Interest::WRITE) {
        flags |= EventFlags::OUT;
    }
    if interest.contains(Interest::EDGE) {
        // With the change that brings the last bytes comes the one that says so.
        flags |= EventFlags::ET | EventFlags::RDHUP;
    }
    flags
}

impl AsFd for Epoll {
    /// Readable while there is something to report.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Epoll {
    pub fn new() -> Result<Self> {
        Ok(Epoll { fd: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// In a child: becomes an instance of its own, which watches nothing yet.
    pub fn take_over(&self) -> Result<()> {
        process::replace(&self.fd, &epoll::create(CreateFlags::CLOEXEC)?)
    }

    pub fn add(&self, fd: BorrowedFd<'_>, token: Token, interest: Interest) -> Result<()> {
        epoll::add(&self.fd, fd, EventData::new_u64(token.0), flags(interest))
    }

    pub fn modify(&self, fd: BorrowedFd<'_>, token: Token, interest: Interest) -> Result<()> {
        epoll::modify(&self.fd, fd, EventData::new_u64(token.0), flags(interest))
    }

    pub fn delete(&self, fd: BorrowedFd<'_>) -> Result<()> {
        epoll::delete(&self.fd, fd)
    }

    /// Waits for events, at most for `timeout_ns` (`None`: without end), and replaces the content
    /// of `events`. Never ends early for want of resolution.
    ///
    /// Plain epoll counts milliseconds. A short wait that needs more is done by `ppoll` on the epoll
    /// descriptor, which counts nanoseconds on every kernel, unlike `epoll_pwait2`.
    pub fn wait(&self, timeout_ns: Option<u64>, events: &mut Events) -> Result<()> {
        let buffer = &mut events.0;
        buffer.clear();
        let mut timeout = timeout_ns.map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000).cast_signed(),
            tv_nsec: (ns % 1_000_000_000).cast_signed(),
        });
        if timeout_ns.is_some_and(|ns| ns > 0 && ns < PRECISE_BELOW_NS) {
            if poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], timeout.as_ref())? == 0 {
                return Ok(());
            }
            timeout = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        epoll::wait(&self.fd, spare_capacity(buffer), timeout.as_ref())?;
        Ok(())
    }
}
