//! What stream sockets of every family do.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::{Context, Poll, ready},
};

use rustix::net::{RecvFlags, SendAncillaryBuffer, recv, send, sendmsg, shutdown};

use super::SEND_FLAGS;
use crate::{
    async_fd::{Async, Direction},
    client,
};

#[derive(Debug)]
pub(super) struct ByteStream(Async<OwnedFd>);

impl ByteStream {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(ByteStream(Async::new(fd)?))
    }

    pub async fn connect(address: &rustix::net::SocketAddrAny) -> io::Result<Self> {
        let (fd, progress) = client::connect(address)?;
        let stream = ByteStream::new(fd)?;
        if let client::Progress::UnderWay = progress {
            // Not writable before the outcome is there.
            stream.0.not_ready(Direction::Write);
            stream.0.writable().await;
            client::outcome(stream.as_fd())?;
        }
        Ok(stream)
    }

    #[inline]
    pub fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.0.poll_io(Direction::Read, context, |fd| {
            Ok(recv(fd, &mut *buffer, RecvFlags::DONTWAIT)?.0)
        }));
        if received.as_ref().is_ok_and(|&count| count < buffer.len()) {
            self.0.moved_less(Direction::Read);
        }
        Poll::Ready(received)
    }

    #[inline]
    pub fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(
            self.0.poll_io(Direction::Write, context, |fd| { Ok(send(fd, bytes, SEND_FLAGS)?) })
        );
        if sent.as_ref().is_ok_and(|&count| count < bytes.len()) {
            self.0.moved_less(Direction::Write);
        }
        Poll::Ready(sent)
    }

    pub fn poll_write_vectored(
        &self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // What the kernel takes at once: IOV_MAX.
        let pieces = &pieces[..pieces.len().min(1024)];
        self.0.poll_io(Direction::Write, context, |fd| {
            Ok(sendmsg(fd, pieces, &mut SendAncillaryBuffer::default(), SEND_FLAGS)?)
        })
    }

    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_read(context, buffer)).await
    }

    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_write(context, bytes)).await
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

    pub fn into_fd(self) -> OwnedFd {
        self.0.into_inner()
    }
}

impl AsFd for ByteStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A listening socket of any family.
#[derive(Debug)]
pub(super) struct ByteListener(Async<OwnedFd>);

impl ByteListener {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(ByteListener(Async::new(fd)?))
    }

    /// The next connection. One that failed while it waited is an error of that one only.
    pub async fn accept(&self) -> io::Result<(ByteStream, Option<rustix::net::SocketAddrAny>)> {
        use crate::server::{Accepted, accept};
        let (fd, peer) = self
            .0
            .read_with(|fd| match accept(fd.as_fd())? {
                Accepted::Connection(fd, peer) => Ok((fd, peer)),
                Accepted::Empty => Err(io::ErrorKind::WouldBlock.into()),
                Accepted::Exhausted(error) | Accepted::Failed(error) => Err(error.into()),
            })
            .await?;
        Ok((ByteStream::new(fd)?, peer))
    }
}

impl AsFd for ByteListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The traits of `futures-io` for a type around a [`ByteStream`], owned or shared.
macro_rules! futures_io {
    ($type:ident) => {
        impl futures_io::AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                self.0.poll_read(context, buffer)
            }
        }

        impl futures_io::AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.0.poll_write(context, bytes)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                pieces: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.0.poll_write_vectored(context, pieces)
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                // Nothing is kept back.
                Poll::Ready(Ok(()))
            }

            fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.0.shutdown(Shutdown::Write))
            }
        }
    };
}
pub(super) use futures_io;
