//! Sockets: addresses and options that every stream needs, and the async types over them.

mod addresses;
mod byte_stream;
mod connect;
mod staggered;
mod tcp;
mod udp;
mod unix;

use std::os::fd::BorrowedFd;

pub use addresses::{ToAddresses, resolve};
pub use connect::ConnectOptions;

pub use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketAddrUnix, SocketAddrV4, SocketAddrV6,
    SocketType, addr::SocketAddrStorage, recvfrom, sockopt::socket_domain as socket_family,
};
use rustix::net::{getsockname, sockopt};
pub(crate) use tcp::{BACKLOG, bind_at, socket_of};
pub use tcp::{TcpListener, TcpStream};
pub use udp::UdpSocket;
pub(crate) use unix::bind_at_path;
pub use unix::{UnixListener, UnixStream};

/// Every send is one that cannot block, and every receive has `DONTWAIT`, whatever the descriptor is
/// set to: `O_NONBLOCK` belongs to the open file, and a user, or a child that inherited the socket,
/// may take it away.
pub const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// Turns Nagle's algorithm off where there is one. Accepted sockets inherit it from a listener.
///
/// A second small write must not wait for the peer's delayed acknowledgement (40 ms).
pub fn set_nodelay(fd: BorrowedFd<'_>) {
    // On a Unix socket there is no such option, and nothing to do.
    let _ = sockopt::set_tcp_nodelay(fd, true);
}

/// The socket's own address.
pub fn local_address(fd: BorrowedFd<'_>) -> Option<SocketAddrAny> {
    getsockname(fd).ok()
}
