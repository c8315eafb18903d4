//! What every transport has: its descriptor, its loop, its protocol and the calls of it.

use std::{
    cell::{Cell, RefCell},
    os::fd::RawFd,
};

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyOSError, PyResourceWarning, PyValueError},
    ffi, intern,
    prelude::*,
    types::{PyDict, PyString},
};
use velodrome::{Errno, Interest, life::Phase, stream::FlowControl};

use crate::{
    call::{call_method, copy_context, in_context},
    callback::{Callback, Source},
    connection_classes,
    error::{leaves_loop, os_error},
    event_loop::Loop,
    imports::{loaded, seam},
};

/// What a new transport starts with.
pub struct Connection<'a, 'py> {
    pub event_loop: &'a Bound<'py, Loop>,
    pub protocol: Bound<'py, PyAny>,
    pub waiter: Option<Py<PyAny>>,
    pub extra: Option<Py<PyDict>>,
    pub server: Option<Py<PyAny>>,
    pub context: Option<Py<PyAny>>,
}

impl<'a, 'py> Connection<'a, 'py> {
    /// One that belongs to no server, in a context of its own.
    pub fn new(
        event_loop: &'a Bound<'py, Loop>,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
    ) -> Self {
        Connection { event_loop, protocol, waiter, extra, server: None, context: None }
    }

    /// AttributeError for what a factory made that is no protocol, as a rule None: asyncio looks for
    /// this method when it makes a transport.
    pub fn refuse_no_protocol(&self) -> PyResult<()> {
        let py = self.protocol.py();
        self.protocol.getattr(intern!(py, "connection_made")).map(drop)
    }
}

pub struct BaseTransport {
    /// The number of the open descriptor, -1 once it is closed.
    pub fd: Cell<RawFd>,
    /// Everything below is `None` once the connection is lost, so that no cycle stays.
    pub event_loop: RefCell<Option<Py<Loop>>>,
    pub protocol: RefCell<Option<Py<PyAny>>>,
    /// The context of all calls of the protocol.
    pub context: RefCell<Option<Py<PyAny>>>,
    /// Set when the protocol knows the connection.
    pub waiter: RefCell<Option<Py<PyAny>>>,
    /// Why the connection was lost, until the protocol is told.
    pub lost_because: RefCell<Option<Py<PyAny>>>,
    /// Answers of `get_extra_info` that are Python objects already.
    pub extra: RefCell<Option<Py<PyDict>>>,
    writes_after_loss: Cell<u32>,
    /// How many bytes the next read of a socket may bring, for `receive_bytes`.
    pub expected_bytes: Cell<usize>,
}

/// Writes to a lost connection are logged from this one on, as asyncio does.
const WRITES_AFTER_LOSS_BEFORE_LOG: u32 = 5;

pub use velodrome::stream::HIGH_WATER_BYTES;

/// What is logged then, of a socket.
pub const LOST_WRITE: &str = "socket.send() raised exception.";

pub fn clone_of<T>(py: Python<'_>, cell: &RefCell<Option<Py<T>>>) -> Option<Py<T>> {
    cell.borrow().as_ref().map(|object| object.clone_ref(py))
}

impl BaseTransport {
    /// The part of a new transport that a connection tells. Its server is not in it.
    pub fn new(fd: RawFd, connection: &Connection<'_, '_>) -> PyResult<Self> {
        let Connection { event_loop, protocol, waiter, extra, context, .. } = connection;
        let py = event_loop.py();
        connection_classes::prepare(py)?;
        let context = match context {
            Some(context) if !context.is_none(py) => context.clone_ref(py),
            _ => copy_context(py)?,
        };
        let waiter = waiter.as_ref().filter(|waiter| !waiter.is_none(py));
        Ok(BaseTransport {
            fd: Cell::new(fd),
            event_loop: RefCell::new(Some((*event_loop).clone().unbind())),
            protocol: RefCell::new(Some(protocol.clone().unbind())),
            context: RefCell::new(Some(context)),
            waiter: RefCell::new(waiter.map(|waiter| waiter.clone_ref(py))),
            lost_because: RefCell::new(None),
            extra: RefCell::new(extra.as_ref().map(|extra| extra.clone_ref(py))),
            writes_after_loss: Cell::new(0),
            expected_bytes: Cell::new(0),
        })
    }

    pub fn event_loop(&self, py: Python<'_>) -> Option<Py<Loop>> {
        clone_of(py, &self.event_loop)
    }

    pub fn protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        clone_of(py, &self.protocol)
    }

    pub fn is_debug(&self, py: Python<'_>) -> bool {
        self.event_loop(py).is_some_and(|event_loop| event_loop.get().is_debug(py))
    }

    /// Logs about the transport in debug mode, with asyncio's logger.
    pub fn debug_log(&self, transport: &Bound<'_, PyAny>, message: &str) -> PyResult<()> {
        if self.is_debug(transport.py()) {
            seam(transport.py(), "debug_log", (message, transport))?;
        }
        Ok(())
    }

    // ---- the protocol ------------------------------------------------------------------------

    /// Calls a method of the protocol in the connection's context; `None` if it is gone.
    #[inline]
    pub fn call_protocol<const N: usize>(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyString>,
        arguments: [*mut ffi::PyObject; N],
    ) -> PyResult<Option<Py<PyAny>>> {
        let Some(protocol) = self.protocol(py) else { return Ok(None) };
        let Some(context) = clone_of(py, &self.context) else { return Ok(None) };
        let call = || call_method(py, &protocol, name, arguments);
        in_context(py, &context, call).map(Some)
    }

    /// `call_protocol` for calls that may come from inside another one.
    pub fn call_protocol_nested(&self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<()> {
        let Some(protocol) = self.protocol(py) else { return Ok(()) };
        self.in_context_nested(py, || call_method(py, &protocol, name, [])).map(drop)
    }

    /// Runs `body` in the connection's context. A context cannot be entered twice: if this one is
    /// entered already, `body` runs in whatever context is there. `None` after the end.
    #[inline]
    pub fn in_context_nested<R>(
        &self,
        py: Python<'_>,
        body: impl FnOnce() -> PyResult<R>,
    ) -> PyResult<Option<R>> {
        let Some(context) = clone_of(py, &self.context) else { return Ok(None) };
        let body = Cell::new(Some(body));
        let run = || body.take().map(|body| body()).transpose();
        match in_context(py, &context, run) {
            Err(error) => match body.take() {
                Some(body) => body().map(Some),
                None => Err(error),
            },
            result => result,
        }
    }

    /// Tells whoever waits for the connection that it is made.
    pub fn wake_waiter(&self, py: Python<'_>) -> PyResult<()> {
        let Some(waiter) = self.waiter.take() else { return Ok(()) };
        if !call_method(py, &waiter, intern!(py, "cancelled"), [])?.is_truthy(py)? {
            let none = py.None();
            call_method(py, &waiter, intern!(py, "set_result"), [none.as_ptr()])?;
        }
        Ok(())
    }

    /// Hands a user's exception to the exception handler.
    #[cold]
    pub fn report(
        &self,
        transport: &Bound<'_, PyAny>,
        error: PyErr,
        message: &str,
    ) -> PyResult<()> {
        let py = transport.py();
        if leaves_loop(py, &error) {
            return Err(error);
        }
        let Some(event_loop) = self.event_loop(py) else { return Err(error) };
        let arguments = (event_loop, message, error, transport, self.protocol(py));
        seam(py, "transport_failed", arguments).map(drop)
    }

    /// As `report`, of an error that will end the connection: the network's own are only logged,
    /// in debug mode. Returns what `connection_lost` will say.
    #[cold]
    pub fn report_fatal(
        &self,
        transport: &Bound<'_, PyAny>,
        error: PyErr,
        message: &str,
    ) -> PyResult<Py<PyAny>> {
        let py = transport.py();
        if leaves_loop(py, &error) {
            return Err(error);
        }
        let because = error.value(py).clone().into_any().unbind();
        if !error.is_instance_of::<PyOSError>(py) {
            self.report(transport, error, message)?;
        } else if self.is_debug(py) {
            seam(py, "debug_error", (transport, message, &because))?;
        }
        Ok(because)
    }

    // ---- writing -----------------------------------------------------------------------------

    pub fn pause_protocol_if_full(
        &self,
        transport: &Bound<'_, PyAny>,
        flow: &FlowControl,
        unsent_bytes: usize,
    ) -> PyResult<()> {
        let py = transport.py();
        if !flow.should_pause(unsent_bytes) {
            return Ok(());
        }
        let told = self.call_protocol_nested(py, intern!(py, "pause_writing"));
        told.or_else(|error| self.report(transport, error, "protocol.pause_writing() failed"))
    }

    /// The protocol may write again at once.
    pub fn resume_protocol_if_low(
        &self,
        transport: &Bound<'_, PyAny>,
        flow: &FlowControl,
        unsent_bytes: usize,
    ) -> PyResult<()> {
        let py = transport.py();
        if !flow.should_resume(unsent_bytes) {
            return Ok(());
        }
        let told = self.call_protocol_nested(py, intern!(py, "resume_writing"));
        told.or_else(|error| self.report(transport, error, "protocol.resume_writing() failed"))
    }

    /// Somebody writes though the end is known.
    #[cold]
    pub fn wrote_after_loss(&self, py: Python<'_>, warning: &str) -> PyResult<()> {
        let writes = self.writes_after_loss.get() + 1;
        self.writes_after_loss.set(writes);
        if writes >= WRITES_AFTER_LOSS_BEFORE_LOG {
            seam(py, "warn_lost_write", (warning,))?;
        }
        Ok(())
    }

    // ---- the poller --------------------------------------------------------------------------

    /// Makes `source` the one that hears of the descriptor, without any interest yet.
    pub fn register(&self, event_loop: &Bound<'_, Loop>, source: Source) -> PyResult<()> {
        let model = event_loop.get().model(event_loop.py())?;
        let fd = self.fd.get();
        let replaced = model.reactor().register(fd, source, Interest::NONE).map_err(os_error)?;
        drop(model);
        drop(replaced);
        Ok(())
    }

    /// Leaves the poller, if it is there: `is_self` recognises the transport's own source.
    pub fn deregister(&self, py: Python<'_>, is_self: impl FnOnce(&Source) -> bool) {
        let Some(event_loop) = self.event_loop(py) else { return };
        let Ok(model) = event_loop.get().model(py) else { return };
        let (reactor, fd) = (model.reactor(), self.fd.get());
        let registered =
            reactor.source(fd).filter(is_self).map(|source| (source, reactor.deregister(fd)));
        drop(model);
        drop(registered);
    }

    /// Tells the poller what is wanted; nothing happens if the loop is closed.
    ///
    /// `keep_reading`: interest in reading that is merely not needed for now is left as it is.
    /// Pauses are short, and the next event will tell.
    #[inline]
    pub fn set_interest(
        &self,
        py: Python<'_>,
        mut wanted: Interest,
        keep_reading: bool,
    ) -> Result<(), Errno> {
        let Some(event_loop) = self.event_loop(py) else { return Ok(()) };
        let Ok(model) = event_loop.get().model(py) else { return Ok(()) };
        let (reactor, fd) = (model.reactor(), self.fd.get());
        if keep_reading && reactor.interest(fd).contains(Interest::READ) {
            wanted |= Interest::READ;
        }
        reactor.set_interest(fd, wanted)
    }

    /// The peer may hear of what was just done: see `Reactor::touch`.
    #[inline]
    pub fn touch(&self, py: Python<'_>) {
        if let Some(event_loop) = self.event_loop(py)
            && let Ok(model) = event_loop.get().model(py)
        {
            model.reactor().touch();
        }
    }

    /// Queues the transport's last turn. False if the loop was closed beneath it: nobody will
    /// call, so it is to let go now.
    pub fn queue_end(&self, py: Python<'_>, because: Option<Py<PyAny>>, turn: Callback) -> bool {
        let old = self.lost_because.replace(because);
        drop(old);
        let Some(event_loop) = self.event_loop(py) else { return true };
        if event_loop.get().model(py).is_err() {
            return false;
        }
        event_loop.get().queue(py, turn);
        true
    }

    /// What `repr()` says of the transport.
    pub fn describe(&self, class: &str, phase: Phase, is_reading: bool, unsent: usize) -> String {
        let fd = self.fd.get();
        let state = match phase {
            Phase::Open => "open",
            Phase::Lost if fd < 0 => "closed",
            Phase::Closing | Phase::Lost => "closing",
        };
        let reading = if is_reading { "reading" } else { "not reading" };
        format!("<{class} fd={fd} {state} {reading} unsent={unsent}>")
    }

    // ---- the end -----------------------------------------------------------------------------

    /// Drops what could be part of a cycle.
    pub fn let_go(&self) {
        let dropped =
            (self.protocol.take(), self.waiter.take(), self.context.take(), self.event_loop.take());
        drop(dropped);
    }

    /// As `let_go`, for the garbage collector: everything.
    pub fn clear(&self) {
        self.let_go();
        let dropped = (self.lost_because.take(), self.extra.take());
        drop(dropped);
    }

    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for cell in [&self.protocol, &self.context, &self.waiter, &self.lost_because] {
            visit_cell(visit, cell)?;
        }
        visit_cell(visit, &self.event_loop)?;
        visit_cell(visit, &self.extra)
    }
}

/// The methods that do the same in every transport: `$socket` is what its `inner` calls its state.
macro_rules! common_methods {
    ($transport:ident, $socket:ident) => {
        #[pymethods]
        impl $transport {
            #[pyo3(signature = (exc, message = "Fatal error on transport"))]
            fn _fatal_error(
                slf: &Bound<'_, Self>,
                exc: Bound<'_, PyAny>,
                message: &str,
            ) -> PyResult<()> {
                Self::fatal(slf, PyErr::from_value(exc), message)
            }

            /// Return True if the transport is closing or closed.
            pub fn is_closing(&self, py: Python<'_>) -> bool {
                self.inner(py).$socket.is_closing()
            }

            /// Return True if the transport is open and not paused.
            fn is_reading(&self, py: Python<'_>) -> bool {
                self.inner(py).$socket.is_reading()
            }

            /// Return the present protocol; None once the connection is lost.
            fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
                self.inner(py).base.protocol(py)
            }

            /// Return the (low, high) marks in bytes.
            fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
                self.inner(py).$socket.flow.limits()
            }

            #[getter]
            fn _sock_fd(&self, py: Python<'_>) -> std::os::fd::RawFd {
                self.inner(py).base.fd.get()
            }

            #[getter]
            fn _loop(&self, py: Python<'_>) -> Option<Py<crate::event_loop::Loop>> {
                self.inner(py).base.event_loop(py)
            }

            #[getter]
            fn _protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
                self.get_protocol(py)
            }

            #[getter]
            fn __class__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                let name = pyo3::intern!(py, stringify!($transport));
                crate::imports::seam_module(py)?.getattr(name)
            }

            fn __repr__(&self, py: Python<'_>) -> String {
                let inner = self.inner(py);
                let socket = &inner.$socket;
                let (reading, unsent) = (socket.is_reading(), socket.unsent_bytes());
                inner.base.describe(stringify!($transport), socket.phase(), reading, unsent)
            }
        }
    };
}
pub(crate) use common_methods;

/// Visits what is in a cell. One that is being changed is skipped: its object is in use.
pub fn visit_cell<T>(
    visit: &PyVisit<'_>,
    cell: &RefCell<Option<Py<T>>>,
) -> Result<(), PyTraverseError> {
    match cell.try_borrow() {
        Ok(object) => visit.call(&*object),
        Err(_) => Ok(()),
    }
}

/// `extra` and what else `get_extra_info` answers of a Python socket.
pub fn extra_of_socket<'py>(
    socket: &Bound<'py, PyAny>,
    extra: Option<&Py<PyDict>>,
) -> PyResult<Bound<'py, PyDict>> {
    let py = socket.py();
    let extra = match extra {
        Some(extra) => extra.bind(py).copy()?,
        None => PyDict::new(py),
    };
    let known = [
        (intern!(py, "sockname"), intern!(py, "getsockname")),
        (intern!(py, "peername"), intern!(py, "getpeername")),
    ];
    for (key, method) in known {
        if key == "sockname" || !extra.contains(key)? {
            let address = match socket.call_method0(method) {
                Ok(address) => address,
                Err(error) if error.is_instance_of::<PyOSError>(py) => py.None().into_bound(py),
                Err(error) => return Err(error),
            };
            extra.set_item(key, address)?;
        }
    }
    let trsock = seam(py, "TransportSocket", (socket,))?;
    extra.set_item(intern!(py, "socket"), trsock)?;
    Ok(extra)
}

/// For `Drop`: runs what may call Python.
///
/// An object can go while an exception is on its way, as what was on the stack of the frame that
/// raised does. It is set aside meanwhile, as for a `__del__`: with one that is set, every call fails.
pub fn at_the_end(body: impl FnOnce(Python<'_>)) {
    Python::attach(|py| {
        let mut pending = [std::ptr::null_mut(); 3];
        let [kind, value, traceback] = &mut pending;
        // SAFETY: attached; the three are ours to fill, and own what they are given.
        #[allow(deprecated, reason = "what came in its place is not in Python 3.11")]
        unsafe {
            ffi::PyErr_Fetch(kind, value, traceback);
        }
        body(py);
        let [kind, value, traceback] = pending;
        // SAFETY: attached; the three are what was fetched, and are given back once.
        #[allow(deprecated, reason = "as above")]
        unsafe {
            ffi::PyErr_Restore(kind, value, traceback);
        }
    });
}

/// Warns of a transport that nobody closed, as asyncio does.
pub fn warn_unclosed(py: Python<'_>, transport: &str) {
    let message = format!("unclosed transport <{transport}>");
    let category = py.get_type::<PyResourceWarning>();
    if let Err(error) = loaded(py).warn.call1(py, (message, category)) {
        error.write_unraisable(py, None);
    }
}

/// The (low, high) marks that `set_write_buffer_limits(high, low)` means, in bytes.
pub fn buffer_limits<'py>(
    py: Python<'py>,
    high: Option<Bound<'py, PyAny>>,
    low: Option<Bound<'py, PyAny>>,
    default_high: usize,
) -> PyResult<(usize, usize)> {
    let high = match (high, &low) {
        (Some(high), _) => high,
        (None, None) => default_high.into_pyobject(py)?.into_any(),
        (None, Some(low)) => low.mul(4)?,
    };
    let low = low.map_or_else(|| high.floor_div(4), Ok)?;
    if !(high.ge(&low)? && low.ge(0)?) {
        return Err(PyValueError::new_err(format!(
            "high ({}) must be >= low ({}) must be >= 0",
            high.repr()?,
            low.repr()?
        )));
    }
    // A mark beyond memory is as good as none.
    let bytes = |mark: &Bound<'_, PyAny>| -> PyResult<usize> {
        if mark.gt(isize::MAX)? { Ok(isize::MAX as usize) } else { mark.extract() }
    };
    Ok((bytes(&low)?, bytes(&high)?))
}
