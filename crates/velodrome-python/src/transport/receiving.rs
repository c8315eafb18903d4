//! One read of a stream, whatever it is read from: by way of the loop's scratch buffer into new
//! bytes of the exact size, or straight into the buffer of asyncio's streams.

use std::os::fd::BorrowedFd;

use pyo3::{prelude::*, types::PyBytes};
use velodrome::{
    Errno,
    stream::{Channel, Stream},
};

use super::base::BaseTransport;
use crate::{
    buffer::Chunk,
    stream_reader::{Fed, stream_readers},
};

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
