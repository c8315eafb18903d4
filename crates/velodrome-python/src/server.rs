//! A listening socket: accepts in bursts and makes the transports.
//!
//! The Python socket stays with its `asyncio.Server`, which closes it; a listener only watches.

use std::{
    cell::{Cell, RefCell},
    os::fd::{BorrowedFd, RawFd},
};

use pyo3::{PyTraverseError, PyVisit, intern, prelude::*};
use velodrome::{
    Errno, Interest,
    net::set_nodelay,
    server::{Accepted, accept, is_somebody_waiting},
};

use crate::{
    call::{call, copy_context, copy_of_context, in_context},
    callback::Source,
    connection_classes,
    error::{leaves_loop, os_error},
    event_loop::Loop,
    gil::GilBound,
    imports::seam,
    transport::{
        StreamTransport,
        base::{Connection, clone_of},
    },
};

struct Inner {
    fd: RawFd,
    /// At most so many connections are accepted in one turn, so that nobody starves.
    burst: u32,
    /// It is registered with the loop. Not so before the start, after the end, and while it
    /// pauses because descriptors ran out.
    watching: Cell<bool>,
    event_loop: RefCell<Option<Py<Loop>>>,
    protocol_factory: RefCell<Option<Py<PyAny>>>,
    socket: RefCell<Option<Py<PyAny>>>,
    server: RefCell<Option<Py<PyAny>>>,
    /// Each connection gets a copy of it.
    context: RefCell<Option<Py<PyAny>>>,
}

#[pyclass(frozen, weakref, module = "velodrome._native")]
pub struct Listener(GilBound<Inner>);

impl Listener {
    /// Accepts everybody who waits.
    pub fn accept(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().0.get(py);
        for already in 0..inner.burst {
            // A protocol factory may have closed the server.
            if !inner.watching.get() {
                break;
            }
            // SAFETY: while it watches, the socket object is held and so is its descriptor; a
            // server stops the watch before it closes the socket.
            let fd = unsafe { BorrowedFd::borrow_raw(inner.fd) };
            // The poller has told of the first.
            if already > 0 && !is_somebody_waiting(fd) {
                break;
            }
            match accept(fd) {
                Ok(Accepted::Connection(fd, peer)) => {
                    let result = Self::connect(slf, |connection| {
                        StreamTransport::accepted(fd, peer, connection)
                    });
                    if let Err(error) = result {
                        Self::failed(slf, error)?;
                    }
                }
                Ok(Accepted::Empty) => break,
                Ok(Accepted::Exhausted(error)) => return Self::pause(slf, error),
                Ok(Accepted::Failed(error)) => return Self::failed_to_accept(slf, error),
                Err(error) => {
                    let told = Self::failed_to_accept(slf, error);
                    // Otherwise the poller would report it for ever.
                    slf.get().stop(py);
                    return told;
                }
            }
        }
        Ok(())
    }

    fn connect<'py>(
        slf: &Bound<'py, Self>,
        make: impl FnOnce(Connection<'_, 'py>) -> PyResult<Bound<'py, StreamTransport>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().0.get(py);
        let (Some(event_loop), Some(factory), Some(context)) = (
            slf.get().event_loop(py),
            clone_of(py, &inner.protocol_factory),
            clone_of(py, &inner.context),
        ) else {
            return Ok(());
        };
        let context = copy_of_context(py, &context)?;
        let protocol = in_context(py, &context, || call(py, &factory, []))?;
        make(Connection {
            event_loop: event_loop.bind(py),
            protocol: protocol.into_bound(py),
            waiter: None,
            extra: None,
            server: clone_of(py, &inner.server),
            context: Some(context),
        })?;
        Ok(())
    }

    /// The protocol factory raised, or the transport could not be made.
    #[cold]
    fn failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if leaves_loop(py, &error) {
            return Err(error);
        }
        let event_loop = slf.get().event_loop(py);
        let message = "Error on transport creation for incoming connection";
        seam(py, "accept_failed", (event_loop, message, error, py.None())).map(drop)
    }

    #[cold]
    fn failed_to_accept(slf: &Bound<'_, Self>, error: Errno) -> PyResult<()> {
        let py = slf.py();
        let socket = clone_of(py, &slf.get().0.get(py).socket);
        let event_loop = slf.get().event_loop(py);
        let arguments = (event_loop, "socket.accept() failed", os_error(error), socket);
        seam(py, "accept_failed", arguments).map(drop)
    }

    /// Descriptors or memory ran out: one message, and another try in a while.
    #[cold]
    fn pause(slf: &Bound<'_, Self>, error: Errno) -> PyResult<()> {
        let py = slf.py();
        let socket = clone_of(py, &slf.get().0.get(py).socket);
        let event_loop = slf.get().event_loop(py);
        // Still registered, so that whoever closes the server finds it; only not watched.
        slf.get().set_interest(py, Interest::NONE)?;
        seam(py, "accept_exhausted", (event_loop, os_error(error), socket, slf)).map(drop)
    }

    fn event_loop(&self, py: Python<'_>) -> Option<Py<Loop>> {
        clone_of(py, &self.0.get(py).event_loop)
    }

    /// Whether the loop knows this listener as the one of its descriptor.
    fn is_registered(&self, event_loop: &Py<Loop>, py: Python<'_>) -> bool {
        let source =
            event_loop.get().model(py).ok().and_then(|it| it.reactor().source(self.0.get(py).fd));
        matches!(source, Some(Source::Listener(listener)) if std::ptr::eq(listener.get(), self))
    }

    fn set_interest(&self, py: Python<'_>, interest: Interest) -> PyResult<()> {
        let inner = self.0.get(py);
        let Some(event_loop) = self.event_loop(py) else { return Ok(()) };
        if !inner.watching.get() || !self.is_registered(&event_loop, py) {
            return Ok(());
        }
        let model = event_loop.get().model(py)?;
        model.reactor().set_interest(inner.fd, interest).map_err(os_error)
    }

    /// Ends the watch and lets go of everything. True if it watched.
    pub fn stop(&self, py: Python<'_>) -> bool {
        let inner = self.0.get(py);
        if !inner.watching.replace(false) {
            return false;
        }
        if let Some(event_loop) = self.event_loop(py)
            && self.is_registered(&event_loop, py)
            && let Ok(model) = event_loop.get().model(py)
        {
            let registered = model.reactor().deregister(inner.fd);
            drop(model);
            drop(registered);
        }
        let dropped = (
            inner.event_loop.take(),
            inner.protocol_factory.take(),
            inner.socket.take(),
            inner.server.take(),
            inner.context.take(),
        );
        drop(dropped);
        true
    }
}

#[pymethods]
impl Listener {
    #[new]
    fn new(
        event_loop: &Bound<'_, Loop>,
        protocol_factory: Py<PyAny>,
        socket: &Bound<'_, PyAny>,
        server: Option<Py<PyAny>>,
        backlog: i64,
        context: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let py = event_loop.py();
        let fd = socket.call_method0(intern!(py, "fileno"))?.extract()?;
        if fd < 0 {
            return Err(os_error(Errno::BADF));
        }
        connection_classes::prepare(py)?;
        // SAFETY: the socket object holds the descriptor open.
        set_nodelay(unsafe { BorrowedFd::borrow_raw(fd) });
        let context = match context {
            Some(context) if !context.is_none(py) => context,
            _ => copy_context(py)?,
        };
        Ok(Listener(GilBound::new(Inner {
            fd,
            burst: u32::try_from(backlog.saturating_add(1).max(1)).unwrap_or(u32::MAX),
            watching: Cell::new(false),
            event_loop: RefCell::new(Some(event_loop.clone().unbind())),
            protocol_factory: RefCell::new(Some(protocol_factory)),
            socket: RefCell::new(Some(socket.clone().unbind())),
            server: RefCell::new(server),
            context: RefCell::new(Some(context)),
        })))
    }

    /// Watch the socket.
    fn start(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().0.get(py);
        let Some(event_loop) = slf.get().event_loop(py) else { return Ok(()) };
        let model = event_loop.get().model(py)?;
        let source = Source::Listener(slf.clone().unbind());
        let replaced =
            model.reactor().register(inner.fd, source, Interest::READ).map_err(os_error)?;
        drop(model);
        drop(replaced);
        inner.watching.set(true);
        Ok(())
    }

    /// Watch the socket again after a pause, unless the server was closed meanwhile.
    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        self.set_interest(py, Interest::READ)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let inner = self.0.get(py);
        let state = if inner.watching.get() { "accepting" } else { "stopped" };
        format!("<Listener fd={} {state}>", inner.fd)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: called by the garbage collector.
        let inner = unsafe { self.0.in_traverse() };
        for cell in [&inner.protocol_factory, &inner.socket, &inner.server, &inner.context] {
            if let Ok(object) = cell.try_borrow() {
                visit.call(&*object)?;
            }
        }
        if let Ok(event_loop) = inner.event_loop.try_borrow() {
            visit.call(&*event_loop)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            self.stop(py);
        });
    }
}
