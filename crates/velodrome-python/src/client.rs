//! A client's socket: made, connected and waited for without a Python object for it.
//!
//! Only where nobody could tell: see [`crate::originals`]. What goes wrong at once is not told here
//! either: asyncio's own way then does it again, and says so in its own words.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use pyo3::{IntoPyObjectExt, PyTraverseError, PyVisit, exceptions::PyOSError, intern, prelude::*};
use rustix::net::{SocketType, ipproto};
use velodrome::{
    Errno, Interest,
    client::{self, Progress},
    net::{AddressFamily, SocketAddrAny},
};

use crate::{
    address,
    callback::Source,
    event_loop::{Loop, new_future},
    gil::GilBound,
    originals,
    transport::base::{clone_of, visit_cell},
};

struct Inner {
    /// `None` once it is a transport's, or closed.
    fd: RefCell<Option<OwnedFd>>,
    peer: RefCell<Option<SocketAddrAny>>,
    event_loop: RefCell<Option<Py<Loop>>>,
    /// What an error names; `None` if it was connected at once.
    address: RefCell<Option<Py<PyAny>>>,
    /// Done when the attempt is.
    waiter: RefCell<Option<Py<PyAny>>>,
    watched: Cell<bool>,
}

/// A stream socket that connects, or has; then a transport takes it.
#[pyclass(frozen, module = "velodrome._native")]
pub struct ClientSocket(GilBound<Inner>);

impl ClientSocket {
    /// Begins to connect. `None` if asyncio's own way is to be taken.
    fn connect<'py>(
        event_loop: &Bound<'py, Loop>,
        to: &SocketAddrAny,
        name: impl FnOnce() -> PyResult<Py<PyAny>>,
    ) -> PyResult<Option<Bound<'py, Self>>> {
        let py = event_loop.py();
        if event_loop.get().model(py).is_err() || !originals::are_in_place(event_loop)? {
            return Ok(None);
        }
        let Ok((fd, progress)) = client::connect(to) else { return Ok(None) };
        let source = event_loop.get().model(py)?.reactor().source(fd.as_raw_fd());
        let transport = source.and_then(|source| source.transport(py));
        if transport.is_some_and(|transport| !transport.is_closing) {
            // Its descriptor was closed behind its back, and this one has the number: asyncio says so.
            return Ok(None);
        }
        let (address, peer) = match progress {
            Progress::Connected(peer) => (None, peer),
            Progress::UnderWay => (Some(name()?), None),
        };
        let socket = ClientSocket(GilBound::new(Inner {
            fd: RefCell::new(Some(fd)),
            peer: RefCell::new(peer),
            event_loop: RefCell::new(Some(event_loop.clone().unbind())),
            address: RefCell::new(address),
            waiter: RefCell::new(None),
            watched: Cell::new(false),
        }));
        Bound::new(py, socket).map(Some)
    }

    /// The descriptor and the peer's address, for a transport. `None` if it is closed.
    pub fn take(&self, py: Python<'_>) -> Option<(OwnedFd, Option<SocketAddrAny>)> {
        let inner = self.0.get(py);
        self.stop_watching(py);
        inner.event_loop.take();
        Some((inner.fd.take()?, inner.peer.take()))
    }

    /// The socket is writable: the outcome is there.
    pub fn ready(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.0.get(py);
        self.stop_watching(py);
        let Some(waiter) = inner.waiter.take() else { return Ok(()) };
        if waiter.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
            return Ok(());
        }
        let outcome = match &*inner.fd.borrow() {
            Some(fd) => client::outcome(fd.as_fd()),
            None => Err(Errno::BADF),
        };
        match outcome {
            Ok(peer) => {
                inner.peer.replace(peer);
                waiter.call_method1(py, intern!(py, "set_result"), (py.None(),))?;
            }
            Err(error) => {
                let address = clone_of(py, &inner.address).unwrap_or_else(|| py.None());
                let error = refusal(error, address.bind(py))?;
                waiter.call_method1(py, intern!(py, "set_exception"), (error,))?;
            }
        }
        Ok(())
    }

    fn watch(slf: &Bound<'_, Self>, event_loop: &Bound<'_, Loop>, fd: RawFd) -> PyResult<()> {
        let model = event_loop.get().model(slf.py())?;
        let source = Source::Client(slf.clone().unbind());
        let replaced = model.reactor().register(fd, source, Interest::WRITE);
        drop(model);
        drop(replaced.map_err(crate::error::os_error)?);
        slf.get().0.get(slf.py()).watched.set(true);
        Ok(())
    }

    fn stop_watching(&self, py: Python<'_>) {
        let inner = self.0.get(py);
        if !inner.watched.replace(false) {
            return;
        }
        let fd = inner.fd.borrow().as_ref().map(AsRawFd::as_raw_fd);
        let (Some(fd), Some(event_loop)) = (fd, clone_of(py, &inner.event_loop)) else { return };
        let Ok(model) = event_loop.get().model(py) else { return };
        let is_self = |source: &Source| matches!(source, Source::Client(socket) if std::ptr::eq(socket.get(), self));
        let reactor = model.reactor();
        let source = reactor.source(fd).filter(is_self);
        let registered = source.as_ref().and_then(|_| reactor.deregister(fd));
        drop(model);
        drop((source, registered));
    }
}

/// What asyncio says of an attempt that failed.
pub fn refusal(error: Errno, address: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let message = format!("Connect call failed {}", address.str()?);
    Ok(PyOSError::new_err((error.raw_os_error(), message)))
}

#[pymethods]
impl ClientSocket {
    /// Return the future of an attempt that is under way; None if it is done.
    fn wait(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        let inner = slf.get().0.get(py);
        if inner.address.borrow().is_none() {
            return Ok(None);
        }
        let fd = inner.fd.borrow().as_ref().map(AsRawFd::as_raw_fd);
        let (Some(fd), Some(event_loop)) = (fd, clone_of(py, &inner.event_loop)) else {
            return Ok(None);
        };
        let event_loop = event_loop.bind(py);
        let waiter = new_future(event_loop)?;
        let old = inner.waiter.replace(Some(waiter.clone_ref(py)));
        drop(old);
        Self::watch(slf, event_loop, fd)?;
        Ok(Some(waiter))
    }

    /// Give up.
    fn close(&self, py: Python<'_>) {
        self.stop_watching(py);
        let inner = self.0.get(py);
        let dropped = (inner.fd.take(), inner.waiter.take(), inner.event_loop.take());
        drop(dropped);
    }

    fn fileno(&self, py: Python<'_>) -> RawFd {
        self.0.get(py).fd.borrow().as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// It never blocks; asyncio's code makes sure.
    #[pyo3(signature = (flag))]
    fn setblocking(&self, flag: &Bound<'_, PyAny>) {
        let _ = flag;
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<ClientSocket fd={}>", self.fileno(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: called by the garbage collector.
        let inner = unsafe { self.0.in_traverse() };
        visit_cell(&visit, &inner.event_loop)?;
        visit_cell(&visit, &inner.address)?;
        visit_cell(&visit, &inner.waiter)
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            self.close(py);
            drop(self.0.get(py).address.take());
        });
    }
}

#[pymethods]
impl Loop {
    /// Begin to connect to what `getaddrinfo` found; None: asyncio's own way is to be taken.
    fn _connect_found<'py>(
        slf: &Bound<'py, Self>,
        family: &Bound<'py, PyAny>,
        kind: &Bound<'py, PyAny>,
        protocol: &Bound<'py, PyAny>,
        address: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, ClientSocket>>> {
        let number = |object: &Bound<'py, PyAny>| object.extract::<u16>().ok();
        let (Some(family), Some(kind), Some(protocol)) =
            (number(family), number(kind), number(protocol))
        else {
            return Ok(None);
        };
        let family = AddressFamily::from_raw(family);
        let is_tcp = u32::from(kind) == SocketType::STREAM.as_raw()
            && u32::from(protocol) == ipproto::TCP.as_raw().get()
            && matches!(family, AddressFamily::INET | AddressFamily::INET6);
        match address::from_python(family, address)? {
            Some(to) if is_tcp => ClientSocket::connect(slf, &to, || address.into_py_any(slf.py())),
            _ => Ok(None),
        }
    }

    /// Begin to connect to an IP address and a port that are numbers; None as above.
    fn _connect_numbers<'py>(
        slf: &Bound<'py, Self>,
        host: &Bound<'py, PyAny>,
        port: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, ClientSocket>>> {
        let py = slf.py();
        let Some((ip, number)) = address::numbers(host, port) else { return Ok(None) };
        ClientSocket::connect(slf, &SocketAddr::new(ip, number).into(), || match ip {
            IpAddr::V4(_) => (host, port).into_py_any(py),
            IpAddr::V6(_) => (host, port, 0, 0).into_py_any(py),
        })
    }

    /// Begin to connect to the path of a Unix socket; None as above.
    fn _connect_path<'py>(
        slf: &Bound<'py, Self>,
        path: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, ClientSocket>>> {
        match address::from_python(AddressFamily::UNIX, path)? {
            Some(to) => ClientSocket::connect(slf, &to, || path.into_py_any(slf.py())),
            None => Ok(None),
        }
    }
}
