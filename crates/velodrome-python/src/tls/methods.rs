//! asyncio's methods of a TLS transport: those of a transport for the protocol above, those of a
//! protocol for the transport below.

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyNotImplementedError, PyValueError},
    intern,
    prelude::*,
    types::{PyDict, PyString},
};

use super::{State, TlsTransport, engine::Engine, protocol_kind};
use crate::{
    buffer::{Chunk, View},
    event_loop::Loop,
    fast::{Arguments, Method, raw_method},
    imports::{seam, seam_module},
    transport::base::{Connection, buffer_limits, clone_of, visit_cell},
};

fn write<'py>(
    py: Python<'py>,
    slf: &Bound<'py, TlsTransport>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let data = arguments.only("write", intern!(py, "data"))?;
    // SAFETY: an argument of the call under way.
    let data = unsafe { Bound::ref_from_ptr(py, &data) };
    TlsTransport::write_object(slf, data)?;
    Ok(py.None())
}

raw_method!(raw_write, TlsTransport, write);

pub const METHODS: &[Method] = &[Method {
    name: c"write",
    call: raw_write,
    doc: c"write($self, data, /)\n--\n\n\
           Encrypt and write bytes, a bytearray or a memoryview; never blocks.\n\n\
           What the transport below does not take at once is buffered; bytes are held, anything\n\
           else is copied. Only from the loop's own thread.",
}];

#[pymethods]
impl TlsTransport {
    /// `protocol` is the one above; `connection_made` is called with the transport below. With
    /// `call_connection_made` false the protocol has been told already (`start_tls`). `native`
    /// allows libssl to be called directly. The time-outs are in seconds.
    #[new]
    #[pyo3(signature = (
        event_loop, protocol, sslcontext, waiter, server_side, server_hostname,
        call_connection_made, ssl_handshake_timeout, ssl_shutdown_timeout, native
    ))]
    #[expect(clippy::too_many_arguments, reason = "what asyncio's SSLProtocol takes")]
    fn py_new(
        event_loop: &Bound<'_, Loop>,
        protocol: Bound<'_, PyAny>,
        sslcontext: &Bound<'_, PyAny>,
        waiter: Option<Py<PyAny>>,
        server_side: bool,
        server_hostname: Option<Py<PyAny>>,
        call_connection_made: bool,
        ssl_handshake_timeout: Py<PyAny>,
        ssl_shutdown_timeout: Py<PyAny>,
        native: bool,
    ) -> PyResult<Self> {
        let py = event_loop.py();
        let engine = Engine::new(sslcontext, server_side, server_hostname, native)?;
        let extra = PyDict::new(py);
        extra.set_item(intern!(py, "sslcontext"), sslcontext)?;
        let connection = Connection {
            event_loop,
            protocol,
            waiter,
            extra: Some(extra.unbind()),
            server: None,
            context: None,
        };
        let timeouts = [ssl_handshake_timeout, ssl_shutdown_timeout];
        TlsTransport::new(&connection, engine, timeouts, call_connection_made)
    }

    // ---- for the transport below -------------------------------------------------------------

    /// The transport below is there: start the handshake.
    pub fn connection_made(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::start(slf, transport)
    }

    fn data_received(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let view = View::readable(data)?;
        let taken = Self::take_in(slf, view.bytes(slf.py()))?;
        drop(view);
        Self::taken_in(slf, taken)
    }

    fn eof_received(slf: &Bound<'_, Self>) -> PyResult<bool> {
        match Self::ended(slf) {
            Ok(keep_open) => Ok(keep_open),
            Err(error) => {
                slf.get().lower(slf.py()).call(slf.py(), intern!(slf.py(), "close"))?;
                Err(error)
            }
        }
    }

    fn connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::lost(slf, exc)
    }

    fn pause_writing(&self, py: Python<'_>) {
        self.inner(py).writing_paused.set(true);
    }

    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::resumed(slf)
    }

    // ---- for the loop's timers and queue -----------------------------------------------------

    fn _check_handshake_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::handshake_timed_out(slf)
    }

    fn _check_shutdown_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::shutdown_timed_out(slf)
    }

    /// Go on with what could not be done, or not all of it.
    fn _proceed(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::proceed(slf)
    }

    /// Take the protocol over from the transport below, whose protocol is to be this transport.
    fn _take_over(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::take_over(slf, transport)
    }

    /// Keep ciphertext that somebody else has received before the handshake.
    fn _feed(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let view = View::readable(data)?;
        self.engine(data.py())?.hold(data.py(), view.bytes(data.py()))
    }

    // ---- for the protocol above --------------------------------------------------------------

    /// Encrypt and write each element of an iterable of bytes-like objects; they share records.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let lines = list_of_data.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        Self::write_lines(slf, &lines)
    }

    /// Raise NotImplementedError: TLS has no half-closed connections.
    fn write_eof(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Return False.
    fn can_write_eof(&self) -> bool {
        false
    }

    /// Close the transport at once; what is buffered is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::_force_close(slf, None)
    }

    fn _force_close(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        slf.get().inner(slf.py()).closed.set(true);
        Self::abort_because(slf, exc)
    }

    /// Close the transport after what is buffered is written and the peer has been told.
    /// `connection_lost(None)` is called later.
    ///
    /// A second call lets go of the TLS objects as soon as the connection is lost, as it does in
    /// asyncio: a protocol that keeps its transport then keeps no context.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        if !inner.closed.replace(true) {
            return Self::close_now(slf);
        }
        inner.closed_twice.set(true);
        Self::forget_if_over(slf);
        Ok(())
    }

    /// Hold data back until something else is sent. CPython's tests use it on asyncio's transport.
    #[pyo3(name = "_test__append_write_backlog")]
    fn append_write_backlog(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let copy = View::readable(data)?.bytes(data.py()).into();
        slf.get().inner(slf.py()).backlog.borrow_mut().push(Chunk::Copy(copy));
        Ok(())
    }

    /// Return True if the transport is closing or closed.
    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        if self.inner(py).closed.get() {
            return Ok(true);
        }
        match self.lower(py).object(py) {
            Some(lower) => lower.call_method0(intern!(py, "is_closing"))?.is_truthy(),
            None => Ok(false),
        }
    }

    /// Return True if reading is not paused.
    fn is_reading(&self, py: Python<'_>) -> bool {
        !self.inner(py).reading_paused.get()
    }

    /// Call no more `data_received` until `resume_reading()`. Idempotent.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::flush_deferred(slf)?;
        slf.get().inner(slf.py()).reading_paused.set(true);
        Ok(())
    }

    /// Undo `pause_reading()`. Idempotent.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().inner(slf.py()).reading_paused.replace(false) {
            return Self::call_soon(slf, intern!(slf.py(), "_proceed"));
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

    /// Return the present protocol; None once the connection is lost.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.inner(py).base.protocol(py)
    }

    /// Set the marks (bytes) at which the protocol is told to pause and to resume writing.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<Bound<'_, PyAny>>,
        low: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let (low, high) = buffer_limits(py, high, low, super::WRITE_HIGH_WATER_BYTES)?;
        slf.get().inner(py).flow.set_limits(low, high);
        Self::flush_deferred(slf)?;
        Self::tell_flow(slf)
    }

    /// Return the (low, high) marks in bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.inner(py).flow.limits()
    }

    /// Return how many bytes wait for the transport below.
    fn get_write_buffer_size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::flush_deferred(slf)?;
        slf.get().unsent_bytes(slf.py())
    }

    /// Set the marks (bytes of ciphertext that nobody reads) at which the transport below is
    /// paused and resumed.
    #[pyo3(signature = (high = None, low = None))]
    fn set_read_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<Bound<'_, PyAny>>,
        low: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let limits = buffer_limits(slf.py(), high, low, super::READ_LIMITS_BYTES.1)?;
        slf.get().inner(slf.py()).read_limits.set(limits);
        Self::pace_lower(slf)
    }

    /// Return the (low, high) marks in bytes.
    fn get_read_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.inner(py).read_limits.get()
    }

    /// Return how many bytes of ciphertext wait to be read.
    fn get_read_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.unread_bytes(py)
    }

    /// Return 'ssl_object', 'peercert', 'cipher', 'compression', 'sslcontext', or what the
    /// transport below knows by `name`, else `default`.
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        Self::flush_deferred(slf)?;
        let inner = slf.get().inner(py);
        let extra = clone_of(py, &inner.base.extra);
        if let Some(extra) = &extra
            && let Some(value) = extra.bind(py).get_item(name)?
        {
            return Ok(value.unbind());
        }
        // Known from the handshake on, and made when it is asked for.
        let object = slf.get().ssl_object(py);
        let known: &str = name.extract().unwrap_or("");
        let value = match (known, object) {
            ("ssl_object", Some(object)) => object,
            ("peercert", Some(object)) => {
                match object.call_method0(py, intern!(py, "getpeercert")) {
                    // In the middle of a renegotiation it is not known.
                    Err(error) if error.is_instance_of::<PyValueError>(py) => {
                        return Ok(default.unwrap_or_else(|| py.None()));
                    }
                    certificate => certificate?,
                }
            }
            ("cipher" | "compression", Some(object)) => {
                object.call_method0(py, PyString::intern(py, known))?
            }
            _ => {
                return match slf.get().lower(py).object(py) {
                    Some(lower) => {
                        let arguments = (name, default);
                        lower.call_method1(intern!(py, "get_extra_info"), arguments)
                    }
                    .map(Bound::unbind),
                    None => Ok(default.unwrap_or_else(|| py.None())),
                };
            }
        };
        if let Some(extra) = extra {
            extra.bind(py).set_item(name, &value)?;
        }
        Ok(value)
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> bool {
        self.inner(py).flow.is_paused()
    }

    #[getter]
    fn _start_tls_compatible(&self) -> bool {
        true
    }

    #[getter]
    fn _sendfile_compatible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        seam(py, "tls_sendfile_mode", ())
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<Loop>> {
        self.event_loop(py)
    }

    /// asyncio has two objects where we have one.
    #[getter]
    fn _ssl_protocol<'a, 'py>(slf: &'a Bound<'py, Self>) -> &'a Bound<'py, Self> {
        slf
    }

    #[getter]
    fn _app_reading_paused(&self, py: Python<'_>) -> bool {
        self.inner(py).reading_paused.get()
    }

    /// The transport below; None once the connection is lost.
    #[getter]
    fn _transport<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.lower(py).object(py)
    }

    /// Whether libssl is called directly.
    #[getter]
    fn _is_native(&self, py: Python<'_>) -> bool {
        self.engine(py).is_ok_and(|engine| engine.is_native())
    }

    #[getter]
    fn __class__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        seam_module(py)?.getattr(intern!(py, "SSLTransport"))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let inner = self.inner(py);
        let state = match inner.state.get() {
            State::Unwrapped if inner.closed.get() => "closed",
            State::Unwrapped => "new",
            State::Handshake => "handshake",
            State::Open => "open",
            State::Flushing | State::Shutdown => "closing",
        };
        Ok(match self.lower(py).object(py) {
            Some(lower) => format!("<SSLTransport {state} over {}>", lower.repr()?),
            None => format!("<SSLTransport {state}>"),
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: called by the garbage collector.
        let inner = unsafe { self.0.in_traverse() };
        inner.base.visit(&visit)?;
        if let Ok(engine) = inner.engine.try_borrow()
            && let Some(engine) = &*engine
        {
            engine.visit(&visit)?;
        }
        if let Ok(lower) = inner.lower.try_borrow() {
            lower.visit(&visit)?;
        }
        let [handshake, shutdown] = &inner.timeouts_s;
        for cell in [handshake, shutdown, &inner.timer, &inner.handshake_start] {
            visit_cell(&visit, cell)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            let inner = self.inner(py);
            inner.state.set(State::Unwrapped);
            inner.base.clear();
            let dropped = (
                inner.engine.take(),
                inner.lower.take(),
                inner.timer.take(),
                inner.handshake_start.take(),
                inner.backlog.take(),
            );
            drop(dropped);
        });
    }
}
