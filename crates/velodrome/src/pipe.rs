//! Pipes and what is used like one: what such a descriptor is.
//!
//! ```
//! use std::{io::Read, os::fd::AsFd};
//! use velodrome::pipe::{pipe_kind, set_nonblocking};
//!
//! let (mut reader, writer) = std::io::pipe()?;
//! let kind = pipe_kind(writer.as_fd())?.expect("it can be waited for");
//! assert!(kind.tells_writer_of_hang_up());
//! set_nonblocking(reader.as_fd())?;
//! assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
//! # std::io::Result::Ok(())
//! ```

use std::os::fd::BorrowedFd;

use rustix::{
    fs::{FileType, fstat},
    io::ioctl_fionbio,
};

use crate::Result;

/// What a pipe transport may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipeKind {
    /// A pipe, with a name or without.
    Fifo,
    Socket,
    /// A terminal, or another device that is no disk.
    CharacterDevice,
}

impl PipeKind {
    /// Whether the poller tells the writing end that the other one is gone. (On Linux. asyncio
    /// leaves out FIFOs on AIX, and those with a name on macOS and Solaris.)
    pub fn tells_writer_of_hang_up(self) -> bool {
        self != PipeKind::CharacterDevice
    }
}

/// `None` for a regular file, a directory or a disk.
pub fn pipe_kind(fd: BorrowedFd<'_>) -> Result<Option<PipeKind>> {
    Ok(match FileType::from_raw_mode(fstat(fd)?.st_mode) {
        FileType::Fifo => Some(PipeKind::Fifo),
        FileType::Socket => Some(PipeKind::Socket),
        FileType::CharacterDevice => Some(PipeKind::CharacterDevice),
        _ => None,
    })
}

/// For everybody who has the same open file, as `O_NONBLOCK` belongs to that.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    ioctl_fionbio(fd, true)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io, os::fd::AsFd, os::unix::net::UnixStream};

    use super::*;
    use crate::Errno;

    #[test]
    fn pipes_sockets_and_devices_are_told_from_files() {
        let (reader, _writer) = io::pipe().unwrap();
        let (socket, _peer) = UnixStream::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        let file = File::open("/proc/self/exe").unwrap();
        let directory = File::open("/").unwrap();
        assert_eq!(pipe_kind(reader.as_fd()), Ok(Some(PipeKind::Fifo)));
        assert_eq!(pipe_kind(socket.as_fd()), Ok(Some(PipeKind::Socket)));
        assert_eq!(pipe_kind(null.as_fd()), Ok(Some(PipeKind::CharacterDevice)));
        assert_eq!(pipe_kind(file.as_fd()), Ok(None));
        assert_eq!(pipe_kind(directory.as_fd()), Ok(None));
    }

    #[test]
    fn an_empty_pipe_does_not_block_once_it_is_set_so() {
        let (reader, _writer) = io::pipe().unwrap();
        set_nonblocking(reader.as_fd()).unwrap();
        assert_eq!(rustix::io::read(reader.as_fd(), &mut [0; 4]), Err(Errno::AGAIN));
    }
}
