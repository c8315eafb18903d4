//! Accepting: all that wait, in one burst, each non-blocking and close-on-exec from birth.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};

use crate::{Error, Result, event_loop::is_exhausted};

/// What one attempt to accept brought.
#[derive(Debug)]
pub enum Accepted {
    Connection(OwnedFd, Option<SocketAddrAny>),
    /// Nobody waits any more.
    Empty,
    /// Descriptors or memory ran out. The listener stays readable: pause, then try again.
    Exhausted(Error),
}

/// Accepts the next waiting connection. One that was aborted while it waited is passed over.
pub fn accept(listener: BorrowedFd<'_>) -> Result<Accepted> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        match acceptfrom_with(listener, flags) {
            Ok((fd, peer)) => return Ok(Accepted::Connection(fd, peer)),
            Err(Error::CONNABORTED) => {}
            Err(Error::AGAIN | Error::INTR) => return Ok(Accepted::Empty),
            Err(error) if is_exhausted(error) => return Ok(Accepted::Exhausted(error)),
            Err(error) => return Err(error),
        }
    }
}
