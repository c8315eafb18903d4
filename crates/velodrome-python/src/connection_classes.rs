//! The classes of connections, which are made when there is the first, or when the module is asked for
//! one of them: making them takes as long as a loop, and many programs need none.

use pyo3::{exceptions::PyAttributeError, intern, prelude::*, sync::PyOnceLock, types::PyString};

use crate::{
    client::ClientSocket,
    datagram::{self, DatagramTransport},
    fast,
    imports::seam_module,
    pipe::{self, PipeTransport, ReadPipeTransport, WritePipeTransport},
    server::Listener,
    tls::{self, TlsTransport},
    transport::{self, StreamTransport},
};

const NAMES: [&str; 8] = [
    "ClientSocket",
    "DatagramTransport",
    "Listener",
    "PipeTransport",
    "ReadPipeTransport",
    "SSLTransport",
    "StreamTransport",
    "WritePipeTransport",
];

/// Lets the module know the names of the classes.
pub fn announce(module: &Bound<'_, PyModule>) -> PyResult<()> {
    for name in NAMES {
        module.index()?.append(name)?;
    }
    module.setattr("__getattr__", wrap_pyfunction!(find, module)?)
}

/// The module's `__getattr__`.
#[pyfunction]
#[pyo3(name = "__getattr__")]
fn find<'py>(name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    let py = name.py();
    if !NAMES.iter().any(|known| name == known) {
        return Err(PyAttributeError::new_err(format!(
            "module 'velodrome._native' has no attribute '{name}'"
        )));
    }
    Ok(make(py)?.bind(py).dict().get_item(name)?.expect("all of them were made"))
}

/// Makes the classes, and imports what connections may have to say, before there is the first: it is to
/// be there when descriptors have run out.
#[inline]
pub fn prepare(py: Python<'_>) -> PyResult<()> {
    make(py).map(drop)
}

/// Returns the module, which has them.
fn make(py: Python<'_>) -> PyResult<&'static Py<PyModule>> {
    static MADE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    MADE.get_or_try_init(py, || {
        seam_module(py)?;
        fast::add_methods(&py.get_type::<StreamTransport>(), transport::METHODS)?;
        fast::add_methods(&py.get_type::<TlsTransport>(), tls::METHODS)?;
        fast::add_methods(&py.get_type::<DatagramTransport>(), datagram::METHODS)?;
        fast::add_methods(&py.get_type::<WritePipeTransport>(), pipe::METHODS)?;
        let classes = [
            py.get_type::<ClientSocket>(),
            py.get_type::<DatagramTransport>(),
            py.get_type::<Listener>(),
            py.get_type::<PipeTransport>(),
            py.get_type::<ReadPipeTransport>(),
            py.get_type::<TlsTransport>(),
            py.get_type::<StreamTransport>(),
            py.get_type::<WritePipeTransport>(),
        ];
        let module = py.import(intern!(py, "velodrome._native"))?;
        for (name, class) in NAMES.into_iter().zip(classes) {
            module.setattr(name, class)?;
        }
        Ok(module.unbind())
    })
}
