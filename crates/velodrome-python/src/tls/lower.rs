//! The transport beneath a TLS transport.

use pyo3::{
    PyTraverseError, PyVisit, intern,
    prelude::*,
    types::{PyBytes, PyString},
};

use super::{TlsTransport, Told};
use crate::transport::StreamTransport;

#[derive(Default)]
pub enum Lower {
    #[default]
    None,
    /// A native one takes ciphertext without an object for it.
    Stream(Py<StreamTransport>),
    /// Any other is called as asyncio calls it.
    Other(Py<PyAny>),
}

impl Lower {
    pub fn new(transport: &Bound<'_, PyAny>) -> Self {
        match transport.cast_exact::<StreamTransport>() {
            Ok(stream) => Lower::Stream(stream.clone().unbind()),
            Err(_) => Lower::Other(transport.clone().unbind()),
        }
    }

    #[inline]
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Lower::None => Lower::None,
            Lower::Stream(stream) => Lower::Stream(stream.clone_ref(py)),
            Lower::Other(other) => Lower::Other(other.clone_ref(py)),
        }
    }

    pub fn object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match self {
            Lower::None => None,
            Lower::Stream(stream) => Some(stream.bind(py).as_any().clone()),
            Lower::Other(other) => Some(other.bind(py).clone()),
        }
    }

    /// The context in which its protocol is called, if it has one to tell.
    pub fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self {
            Lower::None => None,
            Lower::Stream(stream) => stream.get().context(py),
            Lower::Other(other) => {
                other.bind(py).cast_exact::<TlsTransport>().ok()?.get().context(py)
            }
        }
    }

    #[inline]
    pub fn write(&self, py: Python<'_>, ciphertext: &[u8]) -> PyResult<()> {
        match self {
            Lower::None => Ok(()),
            Lower::Stream(stream) => StreamTransport::write_now(stream.bind(py), ciphertext),
            Lower::Other(other) => {
                let data = PyBytes::new(py, ciphertext);
                other.call_method1(py, intern!(py, "write"), (data,)).map(drop)
            }
        }
    }

    /// Whether what is written goes nowhere.
    pub fn is_lost(&self, py: Python<'_>) -> PyResult<bool> {
        match self {
            Lower::None => Ok(true),
            Lower::Stream(stream) => Ok(stream.get().is_lost(py)),
            Lower::Other(other) => other.call_method0(py, intern!(py, "is_closing"))?.is_truthy(py),
        }
    }

    /// Whether its protocol has been told of the end already.
    pub fn is_over(&self, py: Python<'_>) -> bool {
        match self {
            Lower::None => true,
            Lower::Stream(stream) => stream.get().is_over(py),
            Lower::Other(other) => match other.bind(py).cast_exact::<TlsTransport>() {
                Ok(tls) => tls.get().inner(py).told.get() == Told::Lost,
                Err(_) => false,
            },
        }
    }

    pub fn call(&self, py: Python<'_>, method: &Bound<'_, PyString>) -> PyResult<()> {
        match self.object(py) {
            Some(object) => object.call_method0(method).map(drop),
            None => Ok(()),
        }
    }

    pub fn force_close(&self, py: Python<'_>, because: Option<Py<PyAny>>) -> PyResult<()> {
        match self.object(py) {
            Some(object) => object.call_method1(intern!(py, "_force_close"), (because,)).map(drop),
            None => Ok(()),
        }
    }

    /// Closes it in the next turn, as asyncio does.
    pub fn close_soon(&self, tls: &Bound<'_, TlsTransport>) -> PyResult<()> {
        let py = tls.py();
        let Some(object) = self.object(py) else { return Ok(()) };
        let Some(event_loop) = tls.get().event_loop(py) else { return Ok(()) };
        let close = object.getattr(intern!(py, "close"))?;
        event_loop.call_method1(py, intern!(py, "call_soon"), (close,)).map(drop)
    }

    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Lower::None => Ok(()),
            Lower::Stream(stream) => visit.call(stream),
            Lower::Other(other) => visit.call(other),
        }
    }
}
