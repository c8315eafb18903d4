//! What every poller promises, and the choice of one.
//!
//! A poller tells which registered descriptors are ready; it is level-triggered unless asked for
//! edges, knows nothing of who asked, and names a descriptor by the token it was registered with. The
//! interface speaks of events, not of readiness alone, so that a completion-based backend can report "received n
//! bytes" through the same door later.
//!
//! ```
//! use std::{io::Write, os::{fd::AsFd, unix::net::UnixStream}};
//! use velodrome::poller::{Events, Interest, Poller, Token};
//!
//! let (one, mut other) = UnixStream::pair()?;
//! let poller = Poller::new()?;
//! poller.add(one.as_fd(), Token::new(7), Interest::READ)?;
//! other.write_all(b"x")?;
//! let mut events = Events::default();
//! poller.wait(None, &mut events)?;
//! let event = events.iter().next().expect("it can be read");
//! assert_eq!(event.token.number(), 7);
//! assert!(event.readiness.readable && !event.readiness.writable);
//!
//! poller.modify(one.as_fd(), Token::new(8), Interest::WRITE)?;
//! poller.wait(None, &mut events)?;
//! assert!(events.iter().all(|event| event.token.number() == 8 && event.readiness.writable));
//! poller.delete(one.as_fd())?;
//! # std::io::Result::Ok(())
//! ```

mod epoll;

use std::ops::{BitOr, BitOrAssign};

pub use epoll::{Epoll as Poller, Events, PRECISE_BELOW_NS};

/// What a source wants to hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest(u8);

impl Interest {
    pub const NONE: Interest = Interest(0);
    pub const READ: Interest = Interest(1);
    pub const WRITE: Interest = Interest(2);
    /// Report a change once instead of a state again and again. For owners that try the system
    /// call first and wait only after it would have blocked.
    pub const EDGE: Interest = Interest(4);

    #[inline]
    pub fn contains(self, other: Interest) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Interest {
    type Output = Interest;

    fn bitor(self, other: Interest) -> Interest {
        Interest(self.0 | other.0)
    }
}

impl BitOrAssign for Interest {
    fn bitor_assign(&mut self, other: Interest) {
        self.0 |= other.0;
    }
}

/// What a descriptor is ready for. Errors and hang-ups count as both, since either operation
/// then returns at once with the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub readable: bool,
    pub writable: bool,
    /// The peer sends no more, or there is an error. Told only to those who asked for edges.
    pub hung_up: bool,
}

/// Names a registration: the descriptor's number and its generation, so that an event which is
/// late never reaches the next owner of the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub(crate) u64);

impl Token {
    /// The inbox's waker.
    pub(crate) const WAKER: Token = Token(u64::MAX);
    /// The pipe that the signal handler writes to.
    pub(crate) const SIGNAL: Token = Token(u64::MAX - 1);

    /// For those who use a poller by itself, without a registry.
    pub fn new(number: u64) -> Self {
        Token(number)
    }

    pub fn number(self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub token: Token,
    pub readiness: Readiness,
}
