//! One read, whatever it is read from: into new bytes of the exact size, or into the buffer of
//! asyncio's streams. Little comes by way of the loop's scratch buffer.

use std::{cell::Cell, mem::MaybeUninit, os::fd::BorrowedFd};

use pyo3::{prelude::*, types::PyBytes};
use velodrome::{
    Errno,
    stream::{Channel, Socket, Stream},
};

use super::base::BaseTransport;
use crate::{
    buffer::{Chunk, bytes_filled_by, receive_two},
    event_loop::{Loop, SCRATCH_BYTES},
    stream_reader::{Fed, stream_readers},
};

/// Below this size a copy costs as little as receiving into two places.
const MUCH_BYTES: usize = 64 * 1024;

/// Receives new bytes from a socket, at most `limit`; none at the end. If much is `expected`, it
/// goes straight into the new bytes, and only more than that by way of the scratch buffer.
#[inline]
pub fn receive_bytes(
    py: Python<'_>,
    event_loop: &Loop,
    fd: BorrowedFd<'_>,
    limit: usize,
    expected: &Cell<usize>,
) -> PyResult<Result<Py<PyBytes>, Errno>> {
    let received = if limit > SCRATCH_BYTES {
        bytes_filled_by(py, limit, |buffer: &mut [MaybeUninit<u8>]| {
            Socket::receive(fd, buffer).map(|(filled, _)| filled.len())
        })?
    } else if expected.get().min(limit) >= MUCH_BYTES {
        // What is too much is cut off for little; what is missing has to be copied, all of it.
        let direct = (expected.get() / 4 * 5).min(limit);
        event_loop.with_scratch(py, |scratch| {
            receive_into_both(py, fd, direct, &mut scratch[..limit - direct])
        })?
    } else {
        event_loop.with_scratch(py, |scratch| {
            Socket::receive(fd, &mut scratch[..limit])
                .map(|count| PyBytes::new(py, &scratch[..count]).unbind())
        })
    };
    if let Ok(bytes) = &received {
        // A smaller message may be the smaller one of two that take turns.
        expected.set((expected.get() / 8 * 7).max(bytes.as_bytes(py).len()));
    }
    Ok(received)
}

fn receive_into_both(
    py: Python<'_>,
    fd: BorrowedFd<'_>,
    direct: usize,
    scratch: &mut [u8],
) -> PyResult<Result<Py<PyBytes>, Errno>> {
    let mut more = 0;
    let bytes = bytes_filled_by(py, direct, |buffer| {
        let count = receive_two(fd, buffer, scratch)?;
        more = count.saturating_sub(direct);
        Ok(count - more)
    })?;
    match bytes {
        Ok(bytes) if more > 0 => PyBytes::new_with(py, direct + more, |all| {
            all[..direct].copy_from_slice(bytes.as_bytes(py));
            all[direct..].copy_from_slice(&scratch[..more]);
            Ok(())
        })
        .map(|all| Ok(all.unbind())),
        bytes => Ok(bytes),
    }
}

/// What a read brought.
pub enum Received<'py> {
    /// For `data_received`.
    Bytes(Py<PyBytes>),
    /// It is in the buffer of a `StreamReader`, who is to be told.
    Fed(Fed<'py>),
    End,
}

#[inline]
pub fn receive<'py, C: Channel>(
    py: Python<'py>,
    base: &BaseTransport,
    stream: &Stream<Chunk, C>,
    fd: BorrowedFd<'_>,
) -> Result<Received<'py>, Errno> {
    let Some(event_loop) = base.event_loop(py) else { return Err(Errno::BADF) };
    event_loop.get().with_scratch(py, |scratch| {
        let count = stream.receive(fd, &mut *scratch)?;
        Ok(match count {
            0 => Received::End,
            _ => Received::Bytes(PyBytes::new(py, &scratch[..count]).unbind()),
        })
    })
}

/// For a `StreamReaderProtocol`. The inner error is Python's.
#[inline]
pub fn receive_for_streams<'py, C: Channel>(
    protocol: &Bound<'py, PyAny>,
    base: &BaseTransport,
    stream: &Stream<Chunk, C>,
    fd: BorrowedFd<'_>,
) -> Result<PyResult<Received<'py>>, Errno> {
    let py = protocol.py();
    let Some(event_loop) = base.event_loop(py) else { return Err(Errno::BADF) };
    event_loop.get().with_scratch(py, |scratch| {
        let count = stream.receive(fd, &mut *scratch)?;
        if count == 0 {
            return Ok(Ok(Received::End));
        }
        let data = &scratch[..count];
        let fed = stream_readers(py).append(protocol, data);
        let bytes = || Received::Bytes(PyBytes::new(py, data).unbind());
        Ok(fed.map(|fed| fed.map_or_else(bytes, Received::Fed)))
    })
}
