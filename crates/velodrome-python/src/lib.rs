//! `velodrome._native`: the seam between the model and CPython.
//!
//! ```text
//! event_loop.rs  asyncio's loop methods     handle.rs     Handle, TimerHandle
//! watch.rs       add_reader, add_writer     sock.rs       sock_recv, sock_sendall, ...
//! transport.rs   Transport                  server.rs     accepting
//! datagram.rs    DatagramTransport          tls.rs        TlsTransport
//! client.rs      connecting                 originals.rs  what programs may have replaced
//! pipe.rs        ReadPipeTransport, WritePipeTransport
//! host.rs        how a callback is run      callback.rs   what a callback is
//! record.rs      what extensions leave      event_loop/api.rs  how they reach a loop
//! report.rs      what the exception handler is told      connection_classes.rs  when classes are made
//! ```
//!
//! Nothing here decides what asyncio's rules decide: that is the model's, or the package's.

mod address;
mod address_info;
mod buffer;
mod call;
mod callback;
mod client;
mod connection_classes;
mod datagram;
mod error;
mod event_loop;
mod fast;
mod gil;
mod handle;
mod host;
mod imports;
mod originals;
mod pipe;
mod record;
mod report;
mod server;
mod sock;
mod step_lane;
mod stream_reader;
mod tls;
mod transport;
#[cfg(all(target_env = "gnu", not(target_arch = "arm")))] // which has other functions
mod unwinder;
mod watch;

use pyo3::{
    exceptions::{PyImportError, PyTypeError},
    prelude::*,
    types::{IntoPyDict, PyList, PyType},
};

use event_loop::Loop;
use handle::{Handle, TimerHandle};

/// To be called in a forked child, by the C library.
extern "C" fn forked_child() {
    velodrome::process::forked();
}

/// Without a GIL nothing would guard the loops (see `gil.rs`). A free-threaded Python turns its
/// GIL on when it imports this module, unless it was told not to.
fn ensure_gil(py: Python<'_>) -> PyResult<()> {
    let enabled = match imports::module(py, "sys")?.getattr_opt("_is_gil_enabled")? {
        Some(is_enabled) => is_enabled.call0()?.is_truthy()?,
        None => true,
    };
    if enabled {
        return Ok(());
    }
    Err(PyImportError::new_err(
        "velodrome needs the GIL; unset PYTHON_GIL=0 (or -X gil=0) so that importing it can turn \
         the GIL on",
    ))
}

#[pymodule(gil_used = true)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    ensure_gil(py)?;
    gil::learn_to_attach(py);
    // PyO3 would ask for it and take the error, for which it makes the class of its panics.
    module.setattr("__all__", PyList::empty(py))?;
    module.add_class::<Loop>()?;
    module.add_class::<Handle>()?;
    module.add_class::<TimerHandle>()?;
    fast::add_methods(&py.get_type::<Loop>(), event_loop::METHODS)?;
    fast::add_methods(&py.get_type::<Loop>(), watch::METHODS)?;
    fast::set_traverse(&py.get_type::<Handle>(), handle::traverse);
    fast::set_traverse(&py.get_type::<TimerHandle>(), handle::traverse);
    handle::prepare_timers(&py.get_type::<TimerHandle>())?;
    module.add_function(wrap_pyfunction!(learn_originals, module)?)?;
    module.add_function(wrap_pyfunction!(add_loop_methods, module)?)?;
    module.add_function(wrap_pyfunction!(numeric_getaddrinfo, module)?)?;
    module.add_function(wrap_pyfunction!(tls_engine, module)?)?;
    let send_held = wrap_pyfunction!(send_held, module)?;
    let before_fork = [("before", &send_held)].into_py_dict(py)?;
    imports::module(py, "os")?.call_method("register_at_fork", (), Some(&before_fork))?;
    module.add_function(send_held)?;
    event_loop::add_api(module)?;
    connection_classes::announce(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    // SAFETY: a function of the right type that lives as long as the process; it only adds to
    // an atomic counter, which is allowed in a forked child.
    if unsafe { libc::pthread_atfork(None, None, Some(forked_child)) } != 0 {
        return Err(PyImportError::new_err("velodrome could not register for fork"));
    }
    Ok(())
}

/// Note the classes whose methods are to be in their places for a connection without a Python socket.
#[pyfunction]
fn learn_originals(of_loop: &Bound<'_, PyType>, of_asyncio: &Bound<'_, PyType>) -> PyResult<()> {
    originals::learn(of_loop, of_asyncio)
}

/// Give the package's loop class descriptors of its own for what runs all the time: one that is
/// inherited makes CPython walk through the bases of the class at each call.
#[pyfunction]
#[pyo3(signature = (class, /))]
fn add_loop_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    if !class.is_subclass_of::<Loop>()? {
        return Err(PyTypeError::new_err("a subclass of velodrome._native.Loop is expected"));
    }
    fast::add_methods(class, event_loop::METHODS)?;
    fast::add_methods(class, watch::METHODS)
}

/// What `function` would return for an address, a port and the commonest numbers, if it is the
/// `socket` module's `getaddrinfo`; else `None`.
#[pyfunction]
fn numeric_getaddrinfo<'py>(
    function: &Bound<'py, PyAny>,
    host: &Bound<'py, PyAny>,
    port: &Bound<'py, PyAny>,
    family: &Bound<'py, PyAny>,
    r#type: &Bound<'py, PyAny>,
    proto: &Bound<'py, PyAny>,
    flags: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyList>>> {
    address_info::numeric(function, (host, port), [family, r#type, proto, flags])
}

/// What TLS connections use: "libssl" directly, or "ssl", Python's module.
#[pyfunction]
fn tls_engine(py: Python<'_>) -> PyResult<&'static str> {
    Ok(if tls::ssl_module(py)?.is_native() { "libssl" } else { "ssl" })
}

/// Sends what the transports of all running loops hold back: nothing that goes past the transports, in any
/// thread, overtakes it, and a forked child has nothing of it to send again.
#[pyfunction]
fn send_held(py: Python<'_>) -> PyResult<()> {
    Loop::flush_running(py)
}
