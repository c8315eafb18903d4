//! What stream sockets of every family do.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::{Context, Poll},
};

use rustix::net::{RecvFlags, SendAncillaryBuffer, recv, send, sendmsg, shutdown};

use super::SEND_FLAGS;
use crate::{
    async_fd::{Async, Direction},
    client,
};

/// Whether a receive that fills a part of its buffer has taken all that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    /// Receiving stops behind bytes that came with descriptors.
    Unix,
}

#[derive(Debug)]
pub(super) struct ByteStream {
    io: Async<OwnedFd>,
    kind: Kind,
}

impl ByteStream {
    pub fn new(fd: OwnedFd, kind: Kind) -> io::Result<Self> {
        Ok(ByteStream { io: Async::new(fd)?, kind })
    }

    pub async fn connect(address: &rustix::net::SocketAddrAny, kind: Kind) -> io::Result<Self> {
        let (fd, progress) = client::connect(address)?;
        let stream = ByteStream::new(fd, kind)?;
        if let client::Progress::UnderWay = progress {
            // Not writable before the outcome is there.
            stream.io.not_ready(Direction::Write);
            stream.io.writable().await;
            client::outcome(stream.as_fd())?;
        }
        Ok(stream)
    }

    /// One attempt; afterwards more is known of the readiness.
    #[inline]
    fn receive(&self, fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = recv(fd, &mut *buffer, RecvFlags::DONTWAIT)?;
        if self.kind == Kind::Tcp && count < buffer.len() {
            self.io.moved_less(Direction::Read);
        }
        Ok(count)
    }

    #[inline]
    fn send(&self, fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
        let count = send(fd, bytes, SEND_FLAGS)?;
        if count < bytes.len() {
            self.io.moved_less(Direction::Write);
        }
        Ok(count)
    }

    pub fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.io.poll_io(Direction::Read, context, |fd| self.receive(fd, buffer))
    }

    pub fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io.poll_io(Direction::Write, context, |fd| self.send(fd, bytes))
    }

    pub fn poll_write_vectored(
        &self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // What the kernel takes at once: IOV_MAX.
        let pieces = &pieces[..pieces.len().min(1024)];
        self.io.poll_io(Direction::Write, context, |fd| {
            Ok(sendmsg(fd, pieces, &mut SendAncillaryBuffer::default(), SEND_FLAGS)?)
        })
    }

    #[inline]
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.io.read_with(|fd| self.receive(fd, buffer)).await
    }

    #[inline]
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.io.write_with(|fd| self.send(fd, bytes)).await
    }

    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.write(bytes).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    pub async fn read_exact(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read(buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        Ok(shutdown(self.as_fd(), how)?)
    }

    /// As a writer.
    pub fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    pub fn into_fd(self) -> OwnedFd {
        self.io.into_inner()
    }
}

impl AsFd for ByteStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

/// A listening socket of any family.
#[derive(Debug)]
pub(super) struct ByteListener(Async<OwnedFd>, Kind);

impl ByteListener {
    pub fn new(fd: OwnedFd, kind: Kind) -> io::Result<Self> {
        Ok(ByteListener(Async::new(fd)?, kind))
    }

    /// The next connection. One that failed while it waited is an error of that one only.
    pub async fn accept(&self) -> io::Result<(ByteStream, Option<rustix::net::SocketAddrAny>)> {
        use crate::server::{Accepted, accept, is_somebody_waiting};
        let (fd, peer) = self
            .0
            .read_with(|fd| {
                // Most tries are in vain: each burst ends with one.
                if !is_somebody_waiting(fd.as_fd()) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                match accept(fd.as_fd())? {
                    Accepted::Connection(fd, peer) => Ok((fd, peer)),
                    Accepted::Empty => Err(io::ErrorKind::WouldBlock.into()),
                    Accepted::Exhausted(error) | Accepted::Failed(error) => Err(error.into()),
                }
            })
            .await?;
        Ok((ByteStream::new(fd, self.1)?, peer))
    }
}

impl AsFd for ByteListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
