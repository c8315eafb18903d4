//! From the protocol to the socket.

use std::os::fd::BorrowedFd;

use pyo3::{
    exceptions::PyTypeError,
    intern,
    prelude::*,
    types::{PyByteArray, PyBytes, PyMemoryView},
};
use velodrome::{
    Errno,
    crowd::WriteTurn,
    life::Phase,
    stream::{Flushed, Written},
};

use super::{
    Inner, StreamTransport,
    base::{LOST_WRITE, clone_of},
};
use crate::{
    buffer::{Chunk, View},
    error::os_error,
    event_loop::Deferred,
    imports::loaded,
};

impl StreamTransport {
    #[inline]
    pub(super) fn write_object(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            return Self::write_bytes(slf, inner, bytes.as_bytes(), |from| {
                Chunk::Bytes(bytes.clone().unbind(), from)
            });
        }
        let view = readable_view(data)?;
        Self::write_bytes(slf, inner, view.bytes(py), |from| {
            Chunk::Copy(view.bytes(py)[from..].into())
        })
    }

    /// `write` for ciphertext: it is never held back, since its plaintext was.
    #[inline]
    pub fn write_now(slf: &Bound<'_, Self>, data: &[u8]) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        Self::write_in_turn(slf, inner, None, data, |from| Chunk::Copy(data[from..].into()))
    }

    #[inline]
    fn write_bytes(
        slf: &Bound<'_, Self>,
        inner: &Inner,
        data: &[u8],
        keep: impl FnOnce(usize) -> Chunk,
    ) -> PyResult<()> {
        let event_loop = inner.base.event_loop(slf.py());
        let turn = event_loop.and_then(|it| it.get().model(slf.py()).ok()?.turn_of_write());
        Self::write_in_turn(slf, inner, turn, data, keep)
    }

    #[inline]
    fn write_in_turn(
        slf: &Bound<'_, Self>,
        inner: &Inner,
        turn: Option<WriteTurn>,
        data: &[u8],
        keep: impl FnOnce(usize) -> Chunk,
    ) -> PyResult<()> {
        let py = slf.py();
        inner.check_writable("Cannot call write() after write_eof()", "unable to write")?;
        if data.is_empty() {
            return Ok(());
        }
        if inner.stream.phase() == Phase::Lost {
            return inner.base.wrote_after_loss(py, LOST_WRITE);
        }
        // SAFETY: the stream is not lost, so the descriptor is open.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        match inner.stream.write(fd, turn, data, keep) {
            Ok(Written::All) => Ok(()),
            Ok(written @ (Written::Deferred | Written::Joined)) => {
                if inner.stream.unsent_bytes() > inner.stream.flow.max_held_bytes() {
                    return Self::flush_deferred(slf);
                }
                if let (Written::Deferred, Some(event_loop)) = (written, inner.base.event_loop(py))
                {
                    event_loop.get().defer_flush(py, Deferred::Stream(slf.clone().unbind()));
                }
                Ok(())
            }
            Ok(Written::Buffered) => {
                Self::update_interest(slf)?;
                Self::pause_protocol_if_full(slf)
            }
            Err(error) => {
                Self::fatal(slf, os_error(error), "Fatal write error on socket transport")
            }
        }
    }

    /// At the end of a batch, or before something that must not overtake what is held back.
    pub fn flush_deferred(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().inner(slf.py()).stream.is_deferred() {
            return Self::flush(slf);
        }
        Ok(())
    }

    /// Writes what waits, and does what an empty buffer was waited for.
    pub(super) fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if inner.stream.phase() == Phase::Lost {
            return Ok(());
        }
        // SAFETY: the stream is not lost, so the descriptor is open.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        let flushed = match inner.stream.flush(fd) {
            Ok(flushed) => flushed,
            Err(error) => {
                return Self::fatal(slf, os_error(error), "Fatal write error on socket transport");
            }
        };
        if flushed == Flushed::Blocked {
            Self::update_interest(slf)?;
            Self::pause_protocol_if_full(slf)?;
            let (flow, unsent_bytes) = (&inner.stream.flow, inner.stream.unsent_bytes());
            return inner.base.resume_protocol_if_low(slf.as_any(), flow, unsent_bytes);
        }
        Self::drained(slf)
    }

    fn drained(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let unsent_bytes = inner.stream.unsent_bytes();
        inner.base.resume_protocol_if_low(slf.as_any(), &inner.stream.flow, unsent_bytes)?;
        if inner.stream.unsent_bytes() > 0 || inner.stream.phase() == Phase::Lost {
            return Ok(());
        }
        Self::update_interest(slf)?;
        let waiter = clone_of(py, &inner.empty_waiter);
        if let Some(waiter) = waiter {
            loaded(py).set_result_unless_cancelled.call1(py, (waiter, py.None()))?;
        }
        if inner.stream.finish_closing() {
            return Self::lose(slf, None);
        }
        Self::shut_down_if_ended(slf)
    }

    pub(super) fn shut_down_if_ended(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        inner.base.touch(slf.py());
        // SAFETY: callers have checked that the stream is not lost.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        match inner.stream.shut_down_if_ended(fd) {
            // The peer is gone: reading will say so.
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(error) => {
                Self::fatal(slf, os_error(error), "Fatal write error on socket transport")
            }
        }
    }

    pub(super) fn pause_protocol_if_full(slf: &Bound<'_, Self>) -> PyResult<()> {
        let Inner { stream, base, .. } = slf.get().inner(slf.py());
        base.pause_protocol_if_full(slf.as_any(), &stream.flow, stream.unsent_bytes())
    }
}

/// The buffer of what `write` was given, with asyncio's TypeError for anything else.
pub fn readable_view(data: &Bound<'_, PyAny>) -> PyResult<View> {
    if let Ok(memory) = data.cast::<PyMemoryView>() {
        if memory.getattr(intern!(data.py(), "c_contiguous"))?.is_truthy()? {
            return View::readable(data);
        }
        return View::readable(&memory.call_method0(intern!(data.py(), "tobytes"))?);
    }
    if data.is_instance_of::<PyBytes>() || data.is_instance_of::<PyByteArray>() {
        return View::readable(data);
    }
    Err(PyTypeError::new_err(format!(
        "data argument must be a bytes, bytearray, or memoryview object, not {}",
        data.get_type().name()?.repr()?
    )))
}
