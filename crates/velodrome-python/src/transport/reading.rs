//! From the socket to the protocol.

use std::os::fd::BorrowedFd;

use pyo3::{IntoPyObjectExt, exceptions::PyRuntimeError, intern, prelude::*, types::PyBytes};
use velodrome::{Errno, error::is_retry, life::Phase};

use super::{
    Inner, ProtocolKind, StreamTransport,
    receiving::{Received, receive_bytes, receive_for_streams},
};
use crate::{buffer::View, error::os_error, event_loop::SCRATCH_BYTES, tls::TlsTransport};

const FATAL_READ_ERROR: &str = "Fatal read error on socket transport";

impl StreamTransport {
    #[inline]
    pub(super) fn readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if !inner.stream.wants_data() {
            // Paused or closing, and something came: only now is it worth a system call to tell
            // the poller so.
            return Self::update_interest_exactly(slf);
        }
        match inner.protocol_kind.get() {
            ProtocolKind::Streaming => Self::read_streaming(slf, inner),
            ProtocolKind::StreamReader => Self::read_stream_reader(slf, inner),
            ProtocolKind::Buffered => Self::read_buffered(slf, inner),
            ProtocolKind::Tls => Self::read_tls(slf, inner),
        }
    }

    #[inline]
    fn read_streaming(slf: &Bound<'_, Self>, inner: &Inner) -> PyResult<()> {
        // SAFETY: the stream is open, so the descriptor is.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        let py = slf.py();
        let Some(event_loop) = inner.base.event_loop(py) else { return Ok(()) };
        let expected = &inner.base.expected_bytes;
        match receive_bytes(py, event_loop.get(), fd, SCRATCH_BYTES, expected) {
            Ok(Ok(bytes)) if bytes.as_bytes(py).is_empty() => Self::ended(slf),
            Ok(Ok(bytes)) => Self::deliver(slf, Ok(Received::Bytes(bytes))),
            Ok(Err(error)) => Self::read_failed(slf, error),
            Err(error) => Self::fatal(slf, error, FATAL_READ_ERROR),
        }
    }

    #[inline]
    fn deliver(slf: &Bound<'_, Self>, received: PyResult<Received<'_>>) -> PyResult<()> {
        let told = match received {
            Ok(Received::Bytes(bytes)) => Self::data_received(slf, &bytes),
            Ok(Received::Fed(fed)) => fed.tell(),
            Ok(Received::End) => return Self::ended(slf),
            Err(error) => Err(error),
        };
        told.or_else(|error| Self::data_received_failed(slf, error))
    }

    #[inline]
    fn data_received(slf: &Bound<'_, Self>, received: &Py<PyBytes>) -> PyResult<()> {
        let py = slf.py();
        Self::call_protocol(slf, intern!(py, "data_received"), [received.as_ptr()]).map(drop)
    }

    #[cold]
    fn data_received_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        Self::fatal(slf, error, "Fatal error: protocol.data_received() call failed.")
    }

    #[inline]
    fn read_stream_reader(slf: &Bound<'_, Self>, inner: &Inner) -> PyResult<()> {
        let py = slf.py();
        let Some(protocol) = inner.base.protocol(py) else { return Ok(()) };
        // SAFETY: the stream is open, so the descriptor is.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        match receive_for_streams(protocol.bind(py), &inner.base, &inner.stream, fd) {
            Ok(received) => Self::deliver(slf, received),
            Err(error) => Self::read_failed(slf, error),
        }
    }

    fn read_buffered(slf: &Bound<'_, Self>, inner: &Inner) -> PyResult<()> {
        let py = slf.py();
        let hint = (-1_isize).into_py_any(py)?;
        let view = Self::call_protocol(slf, intern!(py, "get_buffer"), [hint.as_ptr()]).and_then(
            |buffer| {
                let Some(buffer) = buffer else { return Ok(None) };
                let view = View::writable(buffer.bind(py))?;
                if view.len() == 0 {
                    return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
                }
                Ok(Some(view))
            },
        );
        let mut view = match view {
            Ok(Some(view)) => view,
            Ok(None) => return Ok(()),
            Err(error) => {
                return Self::fatal(slf, error, "Fatal error: protocol.get_buffer() call failed.");
            }
        };
        if inner.stream.phase() != Phase::Open {
            // `get_buffer` closed the transport.
            return Ok(());
        }
        // SAFETY: the stream is open, so the descriptor is.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        let received = inner.stream.receive(fd, view.bytes_mut(py));
        drop(view);
        let count = match received {
            Ok(0) => return Self::ended(slf),
            Ok(count) => count.into_py_any(py)?,
            Err(error) => return Self::read_failed(slf, error),
        };
        match Self::call_protocol(slf, intern!(py, "buffer_updated"), [count.as_ptr()]) {
            Ok(_) => Ok(()),
            Err(error) => {
                Self::fatal(slf, error, "Fatal error: protocol.buffer_updated() call failed.")
            }
        }
    }

    /// Ciphertext goes from the loop's scratch buffer straight to the engine.
    #[inline]
    fn read_tls(slf: &Bound<'_, Self>, inner: &Inner) -> PyResult<()> {
        let py = slf.py();
        let (Some(event_loop), Some(protocol)) =
            (inner.base.event_loop(py), inner.base.protocol(py))
        else {
            return Ok(());
        };
        let tls = protocol.bind(py).cast_exact::<TlsTransport>()?;
        // A bad record ends writing, too: what is held back goes first.
        TlsTransport::flush_deferred(tls)?;
        if !inner.stream.wants_data() {
            return Ok(());
        }
        // SAFETY: the stream is open, so the descriptor is.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        let taken = event_loop.get().with_scratch(py, |scratch| {
            let count = inner.stream.receive(fd, &mut *scratch)?;
            Ok((count > 0).then(|| TlsTransport::take_in(tls, &scratch[..count])))
        });
        let taken = match taken {
            Ok(Some(taken)) => taken,
            Ok(None) => return Self::ended(slf),
            Err(error) => return Self::read_failed(slf, error),
        };
        match taken.and_then(|taken| TlsTransport::taken_in(tls, taken)) {
            Ok(()) => Ok(()),
            Err(error) => {
                Self::fatal(slf, error, "Fatal error: protocol.buffer_updated() call failed.")
            }
        }
    }

    fn read_failed(slf: &Bound<'_, Self>, error: Errno) -> PyResult<()> {
        if is_retry(error) {
            return Ok(());
        }
        Self::fatal(slf, os_error(error), FATAL_READ_ERROR)
    }

    fn ended(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        Self::debug_log(slf, "%r received EOF")?;
        let keep_open = Self::call_protocol(slf, intern!(py, "eof_received"), [])
            .and_then(|answer| answer.map_or(Ok(false), |answer| answer.is_truthy(py)));
        match keep_open {
            Ok(true) => {
                inner.stream.reading_ended();
                Self::update_interest_exactly(slf)
            }
            Ok(false) => Self::close_now(slf),
            Err(error) => {
                Self::fatal(slf, error, "Fatal error: protocol.eof_received() call failed.")
            }
        }
    }
}
