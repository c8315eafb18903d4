//! The classes of connections and what makes them: made when there is the first connection, or when the
//! module is asked for one of them. It takes as long as making a loop, and many programs need none.

use pyo3::{
    exceptions::{PyAttributeError, PyImportError},
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyString},
};

use crate::{
    client::ClientSocket,
    datagram::{self, DatagramTransport},
    event_loop::Loop,
    fast,
    imports::{once, seam_module},
    pipe::{self, PipeTransport, ReadPipeTransport, WritePipeTransport},
    server::Listener,
    stream_reader,
    tls::{self, TlsTransport},
    transport::{self, StreamTransport, base::Connection},
};

const CLASSES: [&str; 8] = [
    "ClientSocket",
    "DatagramTransport",
    "Listener",
    "PipeTransport",
    "ReadPipeTransport",
    "SSLTransport",
    "StreamTransport",
    "WritePipeTransport",
];

/// What makes transports.
const FUNCTIONS: [&str; 2] = ["make_datagram_transport", "make_stream_transport"];

/// Lets the module know the names.
pub fn announce(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let index = module.index()?;
    for name in CLASSES.iter().chain(&FUNCTIONS) {
        index.append(name)?;
    }
    module.setattr("__getattr__", wrap_pyfunction!(find, module)?)?;
    // A program may take it out of `sys.modules`. It is the same one if it is initialised again.
    let _ = MODULE.set(module.py(), module.clone().unbind());
    Ok(())
}

static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// The module's `__getattr__`.
#[pyfunction]
#[pyo3(name = "__getattr__")]
fn find<'py>(name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    let py = name.py();
    let mut found = None;
    if CLASSES.iter().chain(&FUNCTIONS).any(|known| name == known) {
        found = make(py)?.bind(py).dict().get_item(name)?;
    }
    found.ok_or_else(|| {
        let message = format!("module 'velodrome._native' has no attribute '{name}'");
        PyAttributeError::new_err(message)
    })
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
    once(py, &MADE, || {
        seam_module(py)?;
        stream_reader::learn(py)?;
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
        let module = MODULE.get(py).ok_or_else(|| PyImportError::new_err("velodrome._native"))?;
        let module = module.bind(py).clone();
        for (name, class) in CLASSES.into_iter().zip(classes) {
            module.setattr(name, class)?;
        }
        for function in [
            wrap_pyfunction!(make_stream_transport, &module)?,
            wrap_pyfunction!(make_datagram_transport, &module)?,
        ] {
            module.setattr(function.getattr("__name__")?.cast::<PyString>()?, &function)?;
        }
        Ok(module.unbind())
    })
}

/// Make the transport of a stream socket; it takes the socket over.
#[pyfunction]
#[pyo3(signature = (event_loop, sock, protocol, waiter, extra, server, context))]
fn make_stream_transport<'py>(
    event_loop: &Bound<'py, Loop>,
    sock: &Bound<'py, PyAny>,
    protocol: Bound<'py, PyAny>,
    waiter: Option<Py<PyAny>>,
    extra: Option<Py<PyDict>>,
    server: Option<Py<PyAny>>,
    context: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, StreamTransport>> {
    let connection = Connection { event_loop, protocol, waiter, extra, server, context };
    match sock.cast_exact::<ClientSocket>() {
        Ok(client) => StreamTransport::connected(client, connection),
        Err(_) => StreamTransport::over_socket(sock, connection),
    }
}

/// Make the transport of a datagram socket; it takes the socket over.
#[pyfunction]
#[pyo3(signature = (event_loop, sock, protocol, address, waiter, extra))]
fn make_datagram_transport<'py>(
    event_loop: &Bound<'py, Loop>,
    sock: &Bound<'py, PyAny>,
    protocol: Bound<'py, PyAny>,
    address: Option<Py<PyAny>>,
    waiter: Option<Py<PyAny>>,
    extra: Option<Py<PyDict>>,
) -> PyResult<Bound<'py, DatagramTransport>> {
    let connection = Connection::new(event_loop, protocol, waiter, extra);
    DatagramTransport::over_socket(sock, address, connection)
}
