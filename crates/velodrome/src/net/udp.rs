use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvFlags, SocketType, bind, connect, getpeername, getsockname, recv, recvfrom, send, sendto,
    sockopt,
};

use super::{SEND_FLAGS, ToAddresses, addresses::first_that_works, tcp::socket_of};
use crate::async_fd::Async;

/// A socket for datagrams.
///
/// ```
/// # velodrome::run(async {
/// let here = velodrome::UdpSocket::bind("127.0.0.1:0").await?;
/// let there = velodrome::UdpSocket::bind("127.0.0.1:0").await?;
/// here.send_to(b"hello", there.local_addr()?).await?;
/// let mut buffer = [0; 16];
/// let (count, from) = there.recv_from(&mut buffer).await?;
/// assert_eq!((&buffer[..count], from), (&b"hello"[..], here.local_addr()?));
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct UdpSocket(Async<OwnedFd>);

impl UdpSocket {
    /// A socket at the first address of `to` that is free.
    pub async fn bind(to: impl ToAddresses) -> io::Result<Self> {
        first_that_works(to, async |address| {
            let fd = socket_of(address, SocketType::DGRAM)?;
            bind(&fd, &address)?;
            Ok(UdpSocket(Async::new(fd)?))
        })
        .await
    }

    /// Takes a socket over.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(UdpSocket(Async::new(socket.into())?))
    }

    /// Sends to, and receives from, the first address of `to` only.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use velodrome::UdpSocket;
    ///
    /// let here = UdpSocket::from_std(std::net::UdpSocket::bind("127.0.0.1:0")?)?;
    /// let there = UdpSocket::bind("127.0.0.1:0").await?;
    /// here.connect(there.local_addr()?).await?;
    /// assert_eq!(here.peer_addr()?, there.local_addr()?);
    /// here.send(b"hello").await?;
    /// let mut buffer = [0; 16];
    /// let count = there.recv(&mut buffer).await?;
    /// assert_eq!(&buffer[..count], b"hello");
    /// there.set_broadcast(true)?;
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub async fn connect(&self, to: impl ToAddresses) -> io::Result<()> {
        first_that_works(to, async |address| Ok(connect(self.as_fd(), &address)?)).await
    }

    /// Sends one datagram.
    pub async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.0.write_with(|fd| Ok(sendto(fd, bytes, SEND_FLAGS, &to)?)).await
    }

    /// Sends one datagram to where the socket is connected.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_with(|fd| Ok(send(fd, bytes, SEND_FLAGS)?)).await
    }

    /// Receives one datagram, and from where. What does not fit into the buffer is lost.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (count, from) = self
            .0
            .read_with(|fd| {
                let (count, _, from) = recvfrom(fd, &mut *buffer, RecvFlags::DONTWAIT)?;
                Ok((count, from))
            })
            .await?;
        let from = from.ok_or_else(|| io::Error::other("a datagram without a sender"))?;
        Ok((count, from.try_into()?))
    }

    /// Receives one datagram from where the socket is connected.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_with(|fd| Ok(recv(fd, &mut *buffer, RecvFlags::DONTWAIT)?.0)).await
    }

    /// Allows sending to broadcast addresses.
    pub fn set_broadcast(&self, is_allowed: bool) -> io::Result<()> {
        Ok(sockopt::set_socket_broadcast(self.as_fd(), is_allowed)?)
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(getsockname(self.as_fd())?.try_into()?)
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = getpeername(self.as_fd())?.ok_or(io::ErrorKind::NotConnected)?;
        Ok(peer.try_into()?)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
