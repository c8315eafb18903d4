//! Accepting: all that wait, in one burst, each non-blocking and close-on-exec from birth.
//!
//! The surprising fact: to ask in vain is dear, since the kernel makes the new socket and its file
//! before it looks whether anybody waits. So whoever is not sure looks first ([`is_somebody_waiting`]).
//!
//! ```
//! use std::{net::TcpListener, os::fd::AsFd};
//! use velodrome::server::{Accepted, accept, is_somebody_waiting};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! listener.set_nonblocking(true)?;
//! let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
//! assert!(is_somebody_waiting(listener.as_fd()));
//! assert!(matches!(accept(listener.as_fd())?, Accepted::Connection(..)));
//! assert!(!is_somebody_waiting(listener.as_fd()));
//! assert!(matches!(accept(listener.as_fd())?, Accepted::Empty));
//! # std::io::Result::Ok(())
//! ```

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SocketAddrAny, SocketFlags, acceptfrom_with},
};

use crate::{Errno, Result, engine::is_exhausted};

/// What one attempt to accept brought.
#[derive(Debug)]
pub enum Accepted {
    Connection(OwnedFd, Option<SocketAddrAny>),
    /// Nobody waits any more.
    Empty,
    /// Descriptors or memory ran out. The listener stays readable: pause, then try again.
    Exhausted(Errno),
    /// The connection failed before anybody had it, or may not be had. The next one may.
    Failed(Errno),
}

/// Whether an error of `accept` is one of the listener itself, which will come again and again.
/// All others are those of one connection: see accept(2), "Error handling".
fn is_of_listener(error: Errno) -> bool {
    matches!(error, Errno::BADF | Errno::FAULT | Errno::INVAL | Errno::NOTSOCK | Errno::NOSYS)
}

/// Whether there is anything to accept, were it an error: 0.2 µs, while `accept` in vain takes 3.
pub fn is_somebody_waiting(listener: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(listener, PollFlags::IN)], Some(&now)) != Ok(0)
}

/// Accepts the next waiting connection; an error is one of the listener, which will not go away. One that was aborted while it waited is passed over.
pub fn accept(listener: BorrowedFd<'_>) -> Result<Accepted> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        match acceptfrom_with(listener, flags) {
            Ok((fd, peer)) => return Ok(Accepted::Connection(fd, peer)),
            Err(Errno::CONNABORTED) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Accepted::Empty),
            Err(error) if is_exhausted(error) => return Ok(Accepted::Exhausted(error)),
            Err(error) if is_of_listener(error) => return Err(error),
            Err(error) => return Ok(Accepted::Failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_listener_is_not_what_one_connection_suffers() {
        for error in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK] {
            assert!(is_of_listener(error), "{error}");
        }
        // accept(2): pending errors of the new connection, and a firewall's refusal.
        for error in [
            Errno::NETDOWN,
            Errno::PROTO,
            Errno::NOPROTOOPT,
            Errno::HOSTDOWN,
            Errno::NONET,
            Errno::HOSTUNREACH,
            Errno::OPNOTSUPP,
            Errno::NETUNREACH,
            Errno::PERM,
            Errno::TIMEDOUT,
        ] {
            assert!(!is_of_listener(error), "{error}");
        }
    }
}
