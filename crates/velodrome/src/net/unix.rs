use std::{
    io,
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, socketpair,
};

use super::{
    byte_stream::{ByteListener, ByteStream, Kind},
    tcp::BACKLOG,
};

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A connection of two ends on one machine.
///
/// ```
/// # velodrome::run(async {
/// let (one, other) = velodrome::UnixStream::pair()?;
/// one.write_all(b"hello").await?;
/// let mut buffer = [0; 5];
/// other.read_exact(&mut buffer).await?;
/// assert_eq!(&buffer, b"hello");
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct UnixStream(ByteStream);

impl UnixStream {
    /// Connects to the socket at `path`.
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path.as_ref())?;
        Ok(UnixStream(ByteStream::connect(&address.into(), Kind::Unix).await?))
    }

    /// The two ends of a connection.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
        Ok((
            UnixStream(ByteStream::new(one, Kind::Unix)?),
            UnixStream(ByteStream::new(other, Kind::Unix)?),
        ))
    }

    /// Takes a connection over.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::{io::Read, net::Shutdown};
    /// use velodrome::UnixStream;
    ///
    /// let (one, mut other) = std::os::unix::net::UnixStream::pair()?;
    /// let one = UnixStream::from_std(one)?;
    /// one.write_all(b"hello").await?;
    /// one.shutdown(Shutdown::Write)?;
    /// let mut all = String::new();
    /// other.read_to_string(&mut all)?;
    /// assert_eq!(all, "hello");
    /// // Back again. It stays non-blocking.
    /// let one: std::os::unix::net::UnixStream = one.into_std();
    /// # drop(one);
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn from_std(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(UnixStream(ByteStream::new(OwnedFd::from(stream), Kind::Unix)?))
    }

    /// Gives the connection back. It stays non-blocking.
    pub fn into_std(self) -> std::os::unix::net::UnixStream {
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
}

impl AsFd for UnixStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

crate::io_traits::async_read!(UnixStream);
crate::io_traits::async_read!(&UnixStream);
crate::io_traits::async_write!(UnixStream);
crate::io_traits::async_write!(&UnixStream);

/// A socket that accepts connections at a path of the file system.
///
/// ```
/// # velodrome::run(async {
/// use velodrome::{UnixListener, UnixStream};
///
/// let path = std::env::temp_dir().join(format!("velodrome-{}.sock", std::process::id()));
/// let listener = UnixListener::bind(&path)?;
/// let client = UnixStream::connect(&path).await?;
/// let server = listener.accept().await?;
/// server.write_all(b"hello").await?;
/// client.read_exact(&mut [0; 5]).await?;
/// std::fs::remove_file(path)
/// # }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct UnixListener(ByteListener);

impl UnixListener {
    /// Listens at `path`, where there must be nothing. The file stays there in the end.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(UnixListener(ByteListener::new(listen_at_path(path.as_ref())?, Kind::Unix)?))
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(UnixStream(self.0.accept().await?.0))
    }
}

impl AsFd for UnixListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn listen_at_path(path: &Path) -> io::Result<OwnedFd> {
    let fd = bind_at_path(path)?;
    listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// A socket that has a path, at which it does not listen yet.
pub(crate) fn bind_at_path(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}
