//! From the protocol to a pipe.

use pyo3::{
    PyClassInitializer,
    exceptions::{PyAssertionError, PyBrokenPipeError, PyNotImplementedError},
    intern,
    prelude::*,
    types::{PyByteArray, PyBytes, PyMemoryView, PyString},
};
use velodrome::{
    Errno,
    life::{Closed, Phase},
    stream::{Flushed, Written},
};

use super::{Direction, Inner, PipeTransport, Turn};
use crate::{
    buffer::Chunk,
    call::call_method,
    fast::{Arguments, Method, raw_method},
    imports::seam,
    transport::{
        base::{Connection, HIGH_WATER_BYTES, buffer_limits},
        readable_view,
    },
};

/// Writes after the end are logged from this one on.
const LOST_WRITES_BEFORE_LOG: u32 = 5;

#[pyclass(frozen, extends = PipeTransport, module = "velodrome")]
pub struct WritePipeTransport;

impl WritePipeTransport {
    pub fn over_pipe<'py>(
        pipe: &Bound<'py, PyAny>,
        mut connection: Connection<'_, 'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let waiter = connection.waiter.take();
        let refusal = "Pipe transport is only for pipes, sockets and character devices";
        let common = PipeTransport::over(pipe, connection, Direction::Write, refusal)?;
        let class = PyClassInitializer::from(common).add_subclass(WritePipeTransport);
        let transport = Bound::new(pipe.py(), class)?;
        PipeTransport::start(transport.as_super(), waiter)?;
        Ok(transport)
    }
}

// ---- writing ---------------------------------------------------------------------------------

fn write<'py>(
    py: Python<'py>,
    slf: &Bound<'py, WritePipeTransport>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let data = arguments.only("write", intern!(py, "data"))?;
    // SAFETY: an argument of the call under way.
    let data = unsafe { Bound::ref_from_ptr(py, &data) };
    PipeTransport::write_object(slf.as_super(), data)?;
    Ok(py.None())
}

raw_method!(raw_write, WritePipeTransport, write);

pub const METHODS: &[Method] = &[Method {
    name: c"write",
    call: raw_write,
    doc: c"write($self, data, /)\n--\n\n\
           Write bytes, a bytearray or a memoryview; never blocks.\n\n\
           What the pipe does not take at once is buffered; bytes are held, anything else is\n\
           copied. Only from the loop's own thread.",
}];

impl PipeTransport {
    #[inline]
    fn write_object(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            return Self::write_bytes(slf, inner, bytes.as_bytes(), |from| {
                Chunk::Bytes(bytes.clone().unbind(), from)
            });
        }
        if !(data.is_instance_of::<PyBytes>()
            || data.is_instance_of::<PyByteArray>()
            || data.is_instance_of::<PyMemoryView>())
        {
            // asyncio's, of a socket: TypeError.
            return Err(PyAssertionError::new_err(data.repr()?.unbind()));
        }
        let view = readable_view(data)?;
        Self::write_bytes(slf, inner, view.bytes(py), |from| {
            Chunk::Copy(view.bytes(py)[from..].into())
        })
    }

    #[inline]
    fn write_bytes(
        slf: &Bound<'_, Self>,
        inner: &Inner,
        data: &[u8],
        keep: impl FnOnce(usize) -> Chunk,
    ) -> PyResult<()> {
        if data.is_empty() {
            return Ok(());
        }
        if inner.stream.is_closing() {
            return Self::wrote_after_end(slf.py(), inner);
        }
        let waited = inner.stream.unsent_bytes() > 0;
        inner.base.touch(slf.py());
        match inner.stream.write(inner.fd(), None, data, keep) {
            Ok(Written::All) => Ok(()),
            Ok(_) => {
                if !waited && let Err(error) = Self::watch(slf, Turn::Writable) {
                    // The loop is closed, or it is a device that cannot be watched.
                    inner.stream.discard_unsent();
                    return Err(error);
                }
                Self::pause_protocol_if_full(slf, inner)
            }
            Err(error) => Self::write_failed(slf, inner, error),
        }
    }

    #[cold]
    fn wrote_after_end(py: Python<'_>, inner: &Inner) -> PyResult<()> {
        let lost_writes = inner.lost_writes.get();
        inner.lost_writes.set(lost_writes.saturating_add(1));
        if lost_writes >= LOST_WRITES_BEFORE_LOG {
            let message = "pipe closed by peer or os.write(pipe, data) raised exception.";
            seam(py, "warn_lost_write", (message,))?;
        }
        Ok(())
    }

    #[cold]
    fn write_failed(slf: &Bound<'_, Self>, inner: &Inner, error: Errno) -> PyResult<()> {
        inner.lost_writes.set(inner.lost_writes.get().saturating_add(1));
        Self::fatal(slf, error, "Fatal write error on pipe transport", true)
    }

    pub(super) fn write_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if inner.stream.phase() == Phase::Lost {
            return Ok(());
        }
        match inner.stream.flush(inner.fd()) {
            Ok(Flushed::Blocked) => return Ok(()),
            Ok(Flushed::Drained) => {}
            Err(error) => return Self::write_failed(slf, inner, error),
        }
        Self::unwatch(slf, Turn::Writable)?;
        if inner.stream.flow.should_resume(inner.stream.unsent_bytes()) {
            let name = intern!(py, "resume_writing");
            Self::tell_protocol(slf, inner, name, "protocol.resume_writing() failed")?;
        }
        // The protocol may have written more, or closed.
        if inner.stream.unsent_bytes() == 0 && inner.stream.finish_closing() {
            Self::unwatch(slf, Turn::HungUp)?;
            return Self::_call_connection_lost(slf, py.None().into_bound(py));
        }
        Ok(())
    }

    /// The reader is gone. (The poller says the same of something to read, on a socket.)
    pub(super) fn hung_up(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        Self::log_hang_up(slf)?;
        let because = (inner.stream.unsent_bytes() > 0)
            .then(|| PyBrokenPipeError::new_err(()).into_value(py).into_any());
        Self::force_close(slf, because)
    }

    // ---- flow control ------------------------------------------------------------------------

    fn pause_protocol_if_full(slf: &Bound<'_, Self>, inner: &Inner) -> PyResult<()> {
        if !inner.stream.flow.should_pause(inner.stream.unsent_bytes()) {
            return Ok(());
        }
        let name = intern!(slf.py(), "pause_writing");
        Self::tell_protocol(slf, inner, name, "protocol.pause_writing() failed")
    }

    /// In whatever context this happens, as in asyncio.
    fn tell_protocol(
        slf: &Bound<'_, Self>,
        inner: &Inner,
        name: &Bound<'_, PyString>,
        message: &str,
    ) -> PyResult<()> {
        let py = slf.py();
        let Some(protocol) = inner.base.protocol(py) else { return Ok(()) };
        let told = call_method(py, &protocol, name, []).map(drop);
        told.or_else(|error| inner.base.report(slf.as_any(), error, message))
    }
}

#[pymethods]
impl WritePipeTransport {
    /// Write the elements of an iterable of bytes-like objects, joined.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let joined = PyBytes::new(py, b"").call_method1(intern!(py, "join"), (list_of_data,))?;
        slf.call_method1(intern!(py, "write"), (joined,)).map(drop)
    }

    /// Return True: closing the pipe is the end of what is written.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Close the pipe after what is buffered is written.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        let slf = slf.as_super();
        match slf.get().inner(slf.py()).stream.close() {
            Closed::Already | Closed::Flushing => Ok(()),
            Closed::Lost => PipeTransport::lose(slf, None),
        }
    }

    /// Close the pipe after what is buffered is written; `connection_lost(None)` is called later.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.as_super().get().inner(slf.py()).stream.is_closing() {
            return Ok(());
        }
        slf.call_method0(intern!(slf.py(), "write_eof")).map(drop)
    }

    /// Close the pipe at once; what is buffered is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        PipeTransport::force_close(slf.as_super(), None)
    }

    /// Set the marks (bytes) at which the protocol is told to pause and to resume writing.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<Bound<'_, PyAny>>,
        low: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (low, high) = buffer_limits(slf.py(), high, low, HIGH_WATER_BYTES)?;
        let slf = slf.as_super();
        let inner = slf.get().inner(slf.py());
        inner.stream.flow.set_limits(low, high);
        PipeTransport::pause_protocol_if_full(slf, inner)
    }

    /// Return the (low, high) marks in bytes.
    fn get_write_buffer_limits(slf: &Bound<'_, Self>) -> (usize, usize) {
        slf.as_super().get().inner(slf.py()).stream.flow.limits()
    }

    /// Return how many bytes wait for the pipe.
    fn get_write_buffer_size(slf: &Bound<'_, Self>) -> usize {
        slf.as_super().get().inner(slf.py()).stream.unsent_bytes()
    }

    /// Not implemented, though asyncio's class has it: nothing is read.
    fn is_reading(&self) -> PyResult<bool> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Not implemented, likewise.
    fn pause_reading(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Not implemented, likewise.
    fn resume_reading(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// The protocol knows the transport: it hears of a reader that is gone, unless it ended meanwhile.
    fn _add_reader(slf: &Bound<'_, Self>) -> PyResult<()> {
        let slf = slf.as_super();
        if slf.get().inner(slf.py()).stream.phase() == Phase::Lost {
            return Ok(());
        }
        PipeTransport::watch(slf, Turn::HungUp)
    }

    fn _read_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        PipeTransport::hung_up(slf.as_super())
    }

    fn _write_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        PipeTransport::write_ready(slf.as_super())
    }
}
