//! The descriptor of a transport and the Python socket over it, which is made only when asked for.

use std::os::fd::{AsFd, OwnedFd};

use pyo3::{IntoPyObjectExt, exceptions::PyOSError, intern, prelude::*, types::PyDict};
use velodrome::Errno;

use super::{Inner, StreamTransport};
use crate::{
    address,
    error::os_error,
    imports::{loaded, seam},
};

/// Who owns the descriptor.
pub(super) enum Socket {
    /// Accepted by the loop; nobody asked for a Python socket yet.
    Native(OwnedFd),
    /// A Python socket object. It is kept open against a user's `close()`, see `hold_open`.
    Python(Py<PyAny>),
    Closed,
}

/// Keeps a user's `sock.close()` from closing the descriptor beneath the transport, by the count
/// that `sock.makefile()` uses. True if the object has one.
pub fn hold_open(socket: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = socket.py();
    let name = intern!(py, "_io_refs");
    match socket.getattr_opt(name)? {
        Some(count) => {
            socket.setattr(name, count.add(1)?)?;
            Ok(true)
        }
        None => Ok(false),
    }
}

/// Closes the descriptor; once.
pub(super) fn close_socket(py: Python<'_>, inner: &Inner) -> PyResult<()> {
    inner.base.fd.set(-1);
    match inner.socket.replace(Socket::Closed) {
        Socket::Native(fd) => {
            drop(fd);
            Ok(())
        }
        Socket::Python(socket) => close_held(socket.bind(py)),
        Socket::Closed => Ok(()),
    }
}

/// Closes a socket object that was held open.
pub fn close_held(socket: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = socket.py();
    if socket.hasattr(intern!(py, "_io_refs"))? {
        socket.call_method0(intern!(py, "_decref_socketios"))?;
        socket.call_method0(intern!(py, "close")).map(drop)
    } else {
        // The garbage collector has cleared the object's attributes already.
        socket.call_method0(intern!(py, "_real_close")).map(drop)
    }
}

impl StreamTransport {
    /// The Python socket object, made when it is first asked for; it then owns the descriptor.
    pub(super) fn python_socket(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let kind = match &*inner.socket.borrow() {
            Socket::Python(socket) => return Ok(socket.clone_ref(py)),
            Socket::Closed => return Ok(py.None()),
            Socket::Native(fd) => address::kind(fd.as_fd()),
        };
        let Some((family, kind, protocol)) = kind else {
            return Err(os_error(Errno::NOTSOCK));
        };
        let keywords = PyDict::new(py);
        keywords.set_item("fileno", inner.base.fd.get())?;
        let socket = loaded(py).socket.bind(py).call((family, kind, protocol), Some(&keywords))?;
        // From here on both believe to own the number; the swap ends that before anything can
        // fail or run.
        if let Socket::Native(fd) = inner.socket.replace(Socket::Python(socket.clone().unbind())) {
            let _ = std::os::fd::IntoRawFd::into_raw_fd(fd);
        }
        hold_open(&socket)?;
        socket.call_method1(intern!(py, "setblocking"), (false,))?;
        Ok(socket.unbind())
    }

    pub(super) fn transport_socket(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let socket = Self::python_socket(slf)?;
        if socket.is_none(py) {
            // Nobody asked while it was open: a socket that is closed, as asyncio's would be.
            let family = slf.get().inner(py).local_address.as_ref();
            let family = family.map_or(0, |address| address.address_family().as_raw());
            return seam(py, "closed_socket", (family,)).map(Bound::unbind);
        }
        seam(py, "TransportSocket", (socket,)).map(Bound::unbind)
    }

    pub(super) fn address(slf: &Bound<'_, Self>, which: &str) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let (address, method) = match which {
            "sockname" => (&inner.local_address, intern!(py, "getsockname")),
            _ => (&inner.peer_address, intern!(py, "getpeername")),
        };
        let Some(address) = address else {
            // An unnamed Unix socket has no address to speak of.
            return "".into_py_any(py);
        };
        if let Some(converted) = address::to_python(py, address)? {
            return Ok(converted);
        }
        match Self::python_socket(slf)?.call_method0(py, method) {
            Ok(address) => Ok(address),
            Err(error) if error.is_instance_of::<PyOSError>(py) => Ok(py.None()),
            Err(error) => Err(error),
        }
    }
}
