use std::{
    io,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getpeername, getsockname, ipproto, listen,
    socket_with, sockopt,
};

use super::{
    ConnectOptions, ToAddresses,
    addresses::{first_that_works, resolve},
    byte_stream::{ByteListener, ByteStream, Kind},
    connect::connect_to_one,
    set_nodelay,
};

/// How many connections wait to be accepted: asyncio's number.
pub(crate) const BACKLOG: i32 = 100;

/// A TCP connection. Nagle's algorithm is off.
///
/// ```
/// # velodrome::run(async {
/// let listener = velodrome::TcpListener::bind("127.0.0.1:0").await?;
/// let address = listener.local_addr()?;
/// let server = velodrome::create_task(async move {
///     let (connection, _peer) = listener.accept().await?;
///     let mut buffer = [0; 5];
///     connection.read_exact(&mut buffer).await?;
///     connection.write_all(&buffer).await
/// });
/// let connection = velodrome::TcpStream::connect(address).await?;
/// connection.write_all(b"hello").await?;
/// let mut answer = [0; 5];
/// connection.read_exact(&mut answer).await?;
/// assert_eq!(&answer, b"hello");
/// server.await.unwrap()
/// # }).unwrap().unwrap();
/// ```
///
/// Reading and writing take `&self`: two tasks may share a connection in an `Rc`, one for each direction. A `&TcpStream`
/// has the traits of `futures-io`, too.
#[derive(Debug)]
pub struct TcpStream(ByteStream);

impl TcpStream {
    /// Connects to the first address of `to` that answers. If the addresses failed in different ways, the error
    /// says all, as asyncio's does.
    pub async fn connect(to: impl ToAddresses) -> io::Result<Self> {
        TcpStream::connect_with(to, ConnectOptions::default()).await
    }

    /// As [`TcpStream::connect`], in the way that `options` say.
    ///
    /// ```
    /// use std::time::Duration;
    /// use velodrome::{ConnectOptions, TcpListener, TcpStream};
    ///
    /// # velodrome::run(async {
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// let port = listener.local_addr()?.port();
    /// let happy_eyeballs_delay = Some(Duration::from_millis(250));
    /// let options = ConnectOptions { happy_eyeballs_delay, ..ConnectOptions::default() };
    /// let connection = TcpStream::connect_with(("localhost", port), options).await?;
    /// assert_eq!(connection.peer_addr()?, listener.local_addr()?);
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub async fn connect_with(to: impl ToAddresses, options: ConnectOptions) -> io::Result<Self> {
        let connect = |address: SocketAddr| async move {
            let stream = ByteStream::connect(&address.into(), Kind::Tcp).await?;
            set_nodelay(stream.as_fd());
            Ok(TcpStream(stream))
        };
        connect_to_one(resolve(to).await?, options, connect).await
    }

    /// Takes a connection over, which must be non-blocking.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::{io::Write, net::Shutdown};
    /// use velodrome::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::from_std(std::net::TcpListener::bind("127.0.0.1:0")?)?;
    /// let client = TcpStream::from_std(std::net::TcpStream::connect(listener.local_addr()?)?)?;
    /// client.set_nodelay(true)?;
    /// let (server, _) = listener.accept().await?;
    /// let mut sent = 0;
    /// while sent < 5 {
    ///     sent += client.write(&b"hello"[sent..]).await?;
    /// }
    /// client.shutdown(Shutdown::Write)?;
    /// let mut buffer = [0; 16];
    /// let mut count = 0;
    /// loop {
    ///     match server.read(&mut buffer[count..]).await? {
    ///         0 => break,
    ///         more => count += more,
    ///     }
    /// }
    /// assert_eq!(&buffer[..count], b"hello");
    /// // Back again. It stays non-blocking.
    /// let mut server: std::net::TcpStream = server.into_std();
    /// server.write_all(b"bye")?;
    /// let mut answer = [0; 3];
    /// client.read_exact(&mut answer).await?;
    /// assert_eq!(&answer, b"bye");
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(TcpStream(ByteStream::new(stream.into(), Kind::Tcp)?))
    }

    /// Gives the connection back. It stays non-blocking.
    pub fn into_std(self) -> std::net::TcpStream {
        self.0.into_fd().into()
    }

    /// Receives what is there, at least a byte; 0 at the end.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).await
    }

    /// Receives until the buffer is full. `UnexpectedEof` if the end comes first.
    pub async fn read_exact(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(buffer).await
    }

    /// Sends what the socket takes, at least a byte.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).await
    }

    /// Sends all.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Says that no more is sent, or read.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(getsockname(self.as_fd())?.try_into()?)
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = getpeername(self.as_fd())?.ok_or(io::ErrorKind::NotConnected)?;
        Ok(peer.try_into()?)
    }

    /// Turns Nagle's algorithm on (`false`) or off.
    pub fn set_nodelay(&self, is_off: bool) -> io::Result<()> {
        Ok(sockopt::set_tcp_nodelay(self.as_fd(), is_off)?)
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

crate::io_traits::async_read!(TcpStream);
crate::io_traits::async_read!(&TcpStream);
crate::io_traits::async_write!(TcpStream);
crate::io_traits::async_write!(&TcpStream);

/// A socket that accepts TCP connections.
///
/// ```
/// # velodrome::run(async {
/// use velodrome::{TcpListener, TcpStream};
///
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let connected = TcpStream::connect(listener.local_addr()?).await?;
/// let (accepted, peer) = listener.accept().await?;
/// assert_eq!(peer, connected.local_addr()?);
/// accepted.write_all(b"hello").await
/// # }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct TcpListener(ByteListener);

impl TcpListener {
    /// Listens at the first address of `to` that is free, as `loop.create_server` does: the address can be
    /// used again at once after the end.
    pub async fn bind(to: impl ToAddresses) -> io::Result<Self> {
        first_that_works(to, async |address| {
            Ok(TcpListener(ByteListener::new(listen_at(address)?, Kind::Tcp)?))
        })
        .await
    }

    /// Takes a listening socket over.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(TcpListener(ByteListener::new(listener.into(), Kind::Tcp)?))
    }

    /// The next connection, and where it comes from. An error may be one of that connection only.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        set_nodelay(stream.as_fd());
        let peer = peer.ok_or(io::ErrorKind::NotConnected)?;
        Ok((TcpStream(stream), peer.try_into()?))
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(getsockname(self.as_fd())?.try_into()?)
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn listen_at(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = bind_at(address, false)?;
    listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// A socket that has an address, at which it does not listen yet.
pub(crate) fn bind_at(address: SocketAddr, reuse_port: bool) -> io::Result<OwnedFd> {
    let fd = socket_of(address, SocketType::STREAM)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if reuse_port {
        sockopt::set_socket_reuseport(&fd, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    bind(&fd, &address)?;
    Ok(fd)
}

pub(crate) fn socket_of(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = (kind == SocketType::STREAM).then_some(ipproto::TCP);
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol)?)
}
