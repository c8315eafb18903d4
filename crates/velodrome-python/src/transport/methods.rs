//! asyncio's methods of a transport, each a few lines over what the transport does.

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::PyRuntimeError,
    intern,
    prelude::*,
    types::{PyBytes, PyDict},
};
use velodrome::life::Phase;

use super::{
    StreamTransport,
    base::{HIGH_WATER_BYTES, LOST_WRITE, buffer_limits, clone_of, common_methods, visit_cell},
    protocol_kind, readable_view,
    socket::Socket,
};
use crate::{
    buffer::Chunk,
    event_loop::new_future,
    fast::{Arguments, Method, raw_method},
    imports::seam,
};

fn write<'py>(
    py: Python<'py>,
    slf: &Bound<'py, StreamTransport>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let data = arguments.only("write", intern!(py, "data"))?;
    // SAFETY: an argument of the call under way.
    let data = unsafe { Bound::ref_from_ptr(py, &data) };
    StreamTransport::write_object(slf, data)?;
    Ok(py.None())
}

raw_method!(raw_write, StreamTransport, write);

pub const METHODS: &[Method] = &[Method {
    name: c"write",
    call: raw_write,
    doc: c"write($self, data, /)\n--\n\n\
           Write bytes, a bytearray or a memoryview; never blocks.\n\n\
           What the socket does not take at once is buffered; bytes are held, anything else is\n\
           copied. Only from the loop's own thread. Raises RuntimeError after write_eof().",
}];

common_methods!(StreamTransport, stream);

#[pymethods]
impl StreamTransport {
    /// Write each element of an iterable of bytes-like objects, joined.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let after_eof = "Cannot call writelines() after write_eof()";
        inner.check_writable(after_eof, "unable to writelines")?;
        let mut chunks = Vec::new();
        for data in list_of_data.try_iter()? {
            let data = data?;
            match data.cast_exact::<PyBytes>() {
                Ok(bytes) => chunks.push(Chunk::Bytes(bytes.clone().unbind(), 0)),
                Err(_) => chunks.push(Chunk::Copy(readable_view(&data)?.bytes(py).into())),
            }
        }
        if chunks.iter().all(|chunk| chunk.as_ref().is_empty()) {
            return Ok(());
        }
        if inner.stream.phase() == Phase::Lost {
            return inner.base.wrote_after_loss(py, LOST_WRITE);
        }
        let waited = inner.stream.unsent_bytes() > 0 && !inner.stream.is_deferred();
        chunks.into_iter().for_each(|chunk| inner.stream.push(chunk));
        if waited {
            return Self::pause_protocol_if_full(slf);
        }
        Self::flush(slf)
    }

    /// Close the write end after what is buffered is written; data may still be received.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::flush_deferred(slf)?;
        if slf.get().inner(slf.py()).stream.write_eof() {
            return Self::shut_down_if_ended(slf);
        }
        Ok(())
    }

    /// Return True: stream sockets can be half-closed.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Close the transport at once; what is buffered is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::_force_close(slf, None)
    }

    fn _force_close(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        // What `write` would have sent at once must not be lost by being held back.
        Self::flush_deferred(slf)?;
        Self::force_close(slf, exc)
    }

    /// Close the transport after what is buffered is written. No more data is received, and
    /// `connection_lost(None)` is called later.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close_now(slf)
    }

    /// Call no more `data_received` until `resume_reading()`. Idempotent.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::flush_deferred(slf)?;
        if slf.get().inner(slf.py()).stream.pause_reading() {
            Self::debug_log(slf, "%r pauses reading")?;
        }
        Ok(())
    }

    /// Undo `pause_reading()`. Idempotent.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().inner(slf.py()).stream.resume_reading() {
            Self::update_interest(slf)?;
            Self::debug_log(slf, "%r resumes reading")?;
        }
        Ok(())
    }

    /// Let another protocol have the connection; its kind decides how data is delivered.
    fn set_protocol(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::flush_deferred(slf)?;
        let inner = slf.get().inner(slf.py());
        inner.protocol_kind.set(protocol_kind(protocol)?);
        let old = inner.base.protocol.replace(Some(protocol.clone().unbind()));
        drop(old);
        Ok(())
    }

    /// Set the marks (bytes) at which the protocol is told to pause and to resume writing.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<Bound<'_, PyAny>>,
        low: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let (low, high) = buffer_limits(py, high, low, HIGH_WATER_BYTES)?;
        slf.get().inner(py).stream.flow.set_limits(low, high);
        Self::flush_deferred(slf)?;
        Self::pause_protocol_if_full(slf)
    }

    /// Return how many bytes wait for the socket.
    fn get_write_buffer_size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::flush_deferred(slf)?;
        Ok(slf.get().inner(slf.py()).stream.unsent_bytes())
    }

    /// Return 'socket', 'sockname', 'peername' or what else is known by `name`, else `default`.
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        // A user may use the socket: nothing must be held back behind it.
        Self::flush_deferred(slf)?;
        if let Some(extra) = clone_of(py, &slf.get().inner(py).base.extra)
            && let Some(value) = extra.bind(py).get_item(name)?
        {
            return Ok(value.unbind());
        }
        let known: &str = name.extract().unwrap_or("");
        let value = match known {
            "socket" => Self::transport_socket(slf)?,
            "sockname" | "peername" => Self::address(slf, known)?,
            _ => return Ok(default.unwrap_or_else(|| py.None())),
        };
        // Made before anything is borrowed: up to Python 3.11 an allocation may run finalizers.
        let empty = PyDict::new(py).unbind();
        let extra = slf.get().inner(py).base.extra.borrow_mut().get_or_insert(empty).clone_ref(py);
        extra.bind(py).set_item(name, &value)?;
        Ok(value)
    }

    #[getter]
    fn _sock(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::flush_deferred(slf)?;
        Self::python_socket(slf)
    }

    #[getter]
    fn _server(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        clone_of(py, &self.inner(py).server)
    }

    #[getter]
    fn _paused(&self, py: Python<'_>) -> bool {
        self.inner(py).stream.is_paused()
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> bool {
        self.inner(py).stream.flow.is_paused()
    }

    /// Leaves the poller, so that somebody else can watch the socket (sendfile). Returns a future
    /// for whoever does; it fails when the connection is lost, before the socket is closed.
    fn _lend_socket(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let event_loop = inner.base.event_loop(py);
        let Some(event_loop) = event_loop.filter(|_| inner.stream.phase() != Phase::Lost) else {
            return Err(Self::connection_closed());
        };
        if !inner.lent.replace(true) {
            slf.get().deregister(py);
        }
        let waiter = new_future(event_loop.bind(py))?;
        drop(inner.empty_waiter.replace(Some(waiter.clone_ref(py))));
        Ok(waiter)
    }

    /// Comes back to the poller.
    fn _take_back_socket(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if !inner.lent.replace(false) || inner.stream.phase() == Phase::Lost {
            return Ok(());
        }
        let Some(event_loop) = inner.base.event_loop(py) else { return Ok(()) };
        Self::register(slf, event_loop.bind(py))?;
        Self::update_interest(slf)
    }

    #[getter]
    fn _start_tls_compatible(&self) -> bool {
        true
    }

    #[getter]
    fn _sendfile_compatible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        seam(py, "sendfile_mode", ())
    }

    fn _make_empty_waiter(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if inner.empty_waiter.borrow().is_some() {
            return Err(PyRuntimeError::new_err("Empty waiter is already set"));
        }
        Self::flush_deferred(slf)?;
        let Some(event_loop) = inner.base.event_loop(py) else {
            return Err(PyRuntimeError::new_err("the transport is closed"));
        };
        let waiter = new_future(event_loop.bind(py))?;
        if inner.stream.unsent_bytes() == 0 {
            waiter.call_method1(py, intern!(py, "set_result"), (py.None(),))?;
        }
        *inner.empty_waiter.borrow_mut() = Some(waiter.clone_ref(py));
        Ok(waiter)
    }

    fn _reset_empty_waiter(&self, py: Python<'_>) {
        drop(self.inner(py).empty_waiter.take());
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: called by the garbage collector.
        let inner = unsafe { self.0.in_traverse() };
        inner.base.visit(&visit)?;
        visit_cell(&visit, &inner.server)?;
        visit_cell(&visit, &inner.empty_waiter)?;
        if let Ok(socket) = inner.socket.try_borrow()
            && let Socket::Python(socket) = &*socket
        {
            visit.call(socket)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            let inner = self.inner(py);
            inner.stream.abort();
            inner.base.clear();
            let dropped = (inner.server.take(), inner.empty_waiter.take());
            drop(dropped);
        });
    }
}
