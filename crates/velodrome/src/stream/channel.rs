//! How the bytes of a stream get in and out: the system calls, once for sockets and once for pipes.

use std::{fmt::Debug, io::IoSlice, os::fd::BorrowedFd};

use rustix::{
    buffer::Buffer,
    io::{read, write, writev},
    net::{RecvFlags, SendAncillaryBuffer, recv, send, sendmsg},
};

use crate::{Result, net::SEND_FLAGS};

/// What a descriptor is, for the system calls.
pub trait Channel: Debug {
    /// Receives once; nothing is end-of-file.
    fn receive<T: Buffer<u8>>(fd: BorrowedFd<'_>, buffer: T) -> Result<T::Output>;

    fn send(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize>;

    fn send_slices(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> Result<usize>;
}

/// A socket. No call blocks, whatever the descriptor is set to, and none raises SIGPIPE.
#[derive(Debug)]
pub enum Socket {}

impl Channel for Socket {
    #[inline]
    fn receive<T: Buffer<u8>>(fd: BorrowedFd<'_>, buffer: T) -> Result<T::Output> {
        recv(fd, buffer, RecvFlags::DONTWAIT).map(|(output, _)| output)
    }

    #[inline]
    fn send(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize> {
        send(fd, data, SEND_FLAGS)
    }

    fn send_slices(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> Result<usize> {
        sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), SEND_FLAGS)
    }
}

/// A pipe, or what is used like one: a FIFO, a terminal, or a socket by a file's calls. It is for
/// its owner to set it non-blocking.
#[derive(Debug)]
pub enum Pipe {}

impl Channel for Pipe {
    #[inline]
    fn receive<T: Buffer<u8>>(fd: BorrowedFd<'_>, buffer: T) -> Result<T::Output> {
        read(fd, buffer)
    }

    #[inline]
    fn send(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize> {
        write(fd, data)
    }

    fn send_slices(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> Result<usize> {
        writev(fd, slices)
    }
}
