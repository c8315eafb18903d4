//! The ends of pipes as async types, and what is used like one: FIFOs, terminals, standard streams.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::{Context, Poll},
};

use rustix::{
    fs::{OFlags, fcntl_getfl},
    io::{fcntl_dupfd_cloexec, ioctl_fionbio, read, write, writev},
};

use crate::{
    async_fd::{Async, Direction},
    io_traits::{async_read, async_write},
};

/// A descriptor that is read and written by the calls of a file. One that never lets anybody wait, as a
/// regular file or `/dev/null`, is not watched.
#[derive(Debug)]
struct End {
    /// `None` once it was ended.
    io: Option<Io>,
    /// `O_NONBLOCK` belongs to the open file, which others may have, too: they get it back as it was.
    was_blocking: bool,
}

#[derive(Debug)]
enum Io {
    Watched(Async<OwnedFd>),
    AlwaysReady(OwnedFd),
}

impl Io {
    fn poll<R>(
        &self,
        direction: Direction,
        context: &mut Context<'_>,
        mut operation: impl FnMut(&OwnedFd) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        match self {
            Io::Watched(watched) => watched.poll_io(direction, context, operation),
            Io::AlwaysReady(fd) => Poll::Ready(operation(fd)),
        }
    }
}

impl End {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let was_blocking = !fcntl_getfl(&fd)?.contains(OFlags::NONBLOCK);
        match Async::try_new(fd) {
            Ok(watched) => {
                let end = End { io: Some(Io::Watched(watched)), was_blocking };
                ioctl_fionbio(end.as_fd(), true)?;
                Ok(end)
            }
            Err((error, fd)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(End { io: Some(Io::AlwaysReady(fd)), was_blocking: false })
            }
            Err((error, _)) => Err(error),
        }
    }

    fn io(&self) -> io::Result<&Io> {
        self.io.as_ref().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        // A short read does not mean that nothing is left: think of terminals, and pipes of packets.
        self.io()?.poll(Direction::Read, context, |fd| Ok(read(fd, &mut *buffer)?))
    }

    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll(Direction::Write, context, |fd| Ok(write(fd, bytes)?))
    }

    fn poll_write_vectored(
        &self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // What the kernel takes at once: IOV_MAX.
        let pieces = &pieces[..pieces.len().min(1024)];
        self.io()?.poll(Direction::Write, context, |fd| Ok(writev(fd, pieces)?))
    }

    /// Closes it.
    fn end(&mut self) -> io::Result<()> {
        drop(self.take());
        Ok(())
    }

    fn take(&mut self) -> Option<OwnedFd> {
        let fd = match self.io.take()? {
            Io::Watched(watched) => watched.into_inner(),
            Io::AlwaysReady(fd) => fd,
        };
        if self.was_blocking {
            // It was possible the other way round.
            let _ = ioctl_fionbio(&fd, false);
        }
        Some(fd)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.io.as_ref().expect("it is not closed") {
            Io::Watched(watched) => watched.as_fd(),
            Io::AlwaysReady(fd) => fd.as_fd(),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// The end of a pipe that is read, or another descriptor that is read like a file.
///
/// ```
/// # velodrome::run(async {
/// let (reader, writer) = std::io::pipe()?;
/// let reader = velodrome::PipeReader::new(reader)?;
/// let writer = velodrome::PipeWriter::new(writer)?;
/// writer.write_all(b"hello").await?;
/// drop(writer);
/// assert_eq!(reader.read_to_end().await?, b"hello");
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct PipeReader(End);

impl PipeReader {
    /// Takes a descriptor over. It is non-blocking until the reader is dropped, for everybody who has the
    /// same open file.
    pub fn new(fd: impl Into<OwnedFd>) -> io::Result<Self> {
        Ok(PipeReader(End::new(fd.into())?))
    }

    /// Receives what is there, at least a byte; 0 at the end.
    ///
    /// ```
    /// # velodrome::run(async {
    /// let (reader, writer) = std::io::pipe()?;
    /// let reader = velodrome::PipeReader::new(reader)?;
    /// let writer = velodrome::PipeWriter::new(writer)?;
    /// assert_eq!(writer.write(b"hello").await?, 5);
    /// let mut buffer = [0; 16];
    /// assert_eq!(reader.read(&mut buffer).await?, 5);
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.io()? {
            Io::Watched(watched) => watched.read_with(|fd| Ok(read(fd, &mut *buffer)?)).await,
            Io::AlwaysReady(fd) => Ok(read(fd, buffer)?),
        }
    }

    /// Receives all up to the end.
    pub async fn read_to_end(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.read(&mut buffer).await? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    }
}

/// The end of a pipe that is written, or another descriptor that is written like a file.
///
/// See [`PipeReader`].
#[derive(Debug)]
pub struct PipeWriter(End);

impl PipeWriter {
    /// Takes a descriptor over, as [`PipeReader::new`].
    pub fn new(fd: impl Into<OwnedFd>) -> io::Result<Self> {
        Ok(PipeWriter(End::new(fd.into())?))
    }

    /// Writes what the pipe takes, at least a byte. `BrokenPipe` if nobody reads any more.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.io()? {
            Io::Watched(watched) => watched.write_with(|fd| Ok(write(fd, bytes)?)).await,
            Io::AlwaysReady(fd) => Ok(write(fd, bytes)?),
        }
    }

    /// Writes all.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.write(bytes).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

impl AsFd for PipeReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for PipeWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

async_read!(PipeReader);
async_read!(&PipeReader);
async_write!(PipeWriter);

fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(fd, 3)?)
}

/// The process's standard input. It is a duplicate: dropping it closes nothing else.
///
/// ```no_run
/// # velodrome::run(async {
/// let all = velodrome::stdin()?.read_to_end().await?;
/// velodrome::stdout()?.write_all(&all).await?;
/// velodrome::stderr()?.write_all(b"copied\n").await
/// # }).unwrap().unwrap();
/// ```
pub fn stdin() -> io::Result<PipeReader> {
    PipeReader::new(duplicate(io::stdin())?)
}

/// The process's standard output, without a buffer. It is a duplicate, as [`stdin`].
pub fn stdout() -> io::Result<PipeWriter> {
    PipeWriter::new(duplicate(io::stdout())?)
}

/// The process's standard error. It is a duplicate, as [`stdin`].
pub fn stderr() -> io::Result<PipeWriter> {
    PipeWriter::new(duplicate(io::stderr())?)
}
