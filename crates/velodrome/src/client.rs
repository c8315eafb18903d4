//! Connecting: a socket, non-blocking and close-on-exec from birth, on its way to an address.
//!
//! ```
//! use std::{net::TcpListener, os::fd::AsFd};
//! use velodrome::{client::{Progress, connect, outcome}, server::{Accepted, accept}};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let (fd, progress) = connect(&listener.local_addr()?.into())?;
//! if let Progress::UnderWay = progress {
//!     // A loop waits until the socket is writable. Here, the handshake is over.
//!     outcome(fd.as_fd())?;
//! }
//! assert!(matches!(accept(listener.as_fd())?, Accepted::Connection(..)));
//! # std::io::Result::Ok(())
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, SocketAddrAny, SocketFlags, SocketType, connect as connect_socket, getpeername,
    ipproto, socket_with, sockopt::socket_error,
};

use crate::{Errno, Result};

/// Where an attempt to connect stands.
#[derive(Debug)]
pub enum Progress {
    /// The connection is made, with this peer.
    Connected(Option<SocketAddrAny>),
    /// The socket will be writable when the [`outcome`] is there.
    UnderWay,
}

/// Makes a stream socket and begins to connect it. An error is one that came at once.
pub fn connect(address: &SocketAddrAny) -> Result<(OwnedFd, Progress)> {
    let family = address.address_family();
    let protocol = (family != AddressFamily::UNIX).then_some(ipproto::TCP);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::STREAM, flags, protocol)?;
    let progress = begin(fd.as_fd(), address)?;
    Ok((fd, progress))
}

/// Begins to connect a non-blocking socket.
///
/// The handshake with a peer on the same machine is over when `connect` returns, although that says
/// otherwise: asking for the peer's address, which a transport wants anyway, tells.
pub fn begin(fd: BorrowedFd<'_>, address: &SocketAddrAny) -> Result<Progress> {
    match connect_socket(fd, address) {
        Ok(()) => Ok(Progress::Connected(peer(fd))),
        // Interrupted, it goes on by itself, too.
        Err(Errno::INPROGRESS | Errno::INTR) => {
            Ok(getpeername(fd).map_or(Progress::UnderWay, Progress::Connected))
        }
        Err(error) => Err(error),
    }
}

/// What became of an attempt whose socket is writable: the peer's address, or the error.
pub fn outcome(fd: BorrowedFd<'_>) -> Result<Option<SocketAddrAny>> {
    socket_error(fd)??;
    Ok(peer(fd))
}

/// The peer's address; none if it has gone meanwhile.
fn peer(fd: BorrowedFd<'_>) -> Option<SocketAddrAny> {
    getpeername(fd).ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn any(address: SocketAddr) -> SocketAddrAny {
        address.into()
    }

    /// Waits until the outcome is there.
    fn settled(fd: BorrowedFd<'_>) -> Result<Option<SocketAddrAny>> {
        poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None).unwrap();
        outcome(fd)
    }

    #[test]
    fn a_connection_ends_at_the_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = any(listener.local_addr().unwrap());
        let (fd, progress) = connect(&address).unwrap();
        if let Progress::Connected(peer) = progress {
            assert_eq!(peer.as_ref(), Some(&address));
        }
        assert_eq!(settled(fd.as_fd()), Ok(Some(address)));
    }

    #[test]
    fn a_refusal_is_the_outcome_of_an_attempt_that_is_under_way() {
        let address = any(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let (fd, progress) = connect(&address).unwrap();
        assert!(matches!(progress, Progress::UnderWay), "{progress:?}");
        assert_eq!(settled(fd.as_fd()), Err(Errno::CONNREFUSED));
    }

    #[test]
    fn an_error_that_comes_at_once_is_no_attempt() {
        let address = any("255.255.255.255:80".parse().unwrap());
        assert_eq!(connect(&address).map(drop), Err(Errno::NETUNREACH));
    }
}
