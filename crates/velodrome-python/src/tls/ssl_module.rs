//! Python's `ssl` module: its names that we use, and the libssl beneath it.
//!
//! A `ssl.SSLObject` keeps its `SSL*` in an object of a private type. Where it is, is checked once
//! for the process, by a session whose first flight must come out of our own BIO, and again for
//! each session. Whatever is not as expected (another layout, a libssl inside the interpreter, one
//! that is not OpenSSL) means that the `ssl` module itself is used, see `engine.rs`.

use std::{
    ffi::{CString, c_ulong},
    ptr::NonNull,
};

use pyo3::{
    ffi, intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyType},
};
use velodrome::tls::{
    Session,
    libssl::{LibSsl, Ssl, SslContext},
};

use crate::imports::once;

pub struct SslModule {
    pub want_read_error: Py<PyType>,
    pub syscall_error: Py<PyType>,
    pub ssl_error: Py<PyType>,
    pub certificate_error: Py<PyType>,
    pub memory_bio: Py<PyAny>,
    ssl_object: Py<PyType>,
    native: Option<Native>,
}

/// The libssl that the module uses, and the type of the objects that hold its sessions.
struct Native {
    library: &'static LibSsl,
    /// `_ssl._SSLSocket`
    holder: Py<PyType>,
}

/// A session, and the object that owns it: an `SSLObject` may lose that at any time.
pub struct Lent {
    pub session: Session,
    pub holder: Py<PyAny>,
}

/// How `_ssl._SSLSocket` begins in every CPython so far.
#[repr(C)]
struct HolderHead {
    head: ffi::PyObject,
    /// A weak reference to a `ssl.SSLSocket`; null over a BIO.
    socket: *mut ffi::PyObject,
    ssl: *mut Ssl,
    context: *mut ffi::PyObject,
}

/// How `_ssl._SSLContext` begins.
#[repr(C)]
struct ContextHead {
    head: ffi::PyObject,
    context: *mut SslContext,
}

static MODULE: PyOnceLock<SslModule> = PyOnceLock::new();

/// The module. The first call imports it, which fails in a Python without TLS.
pub fn ssl_module(py: Python<'_>) -> PyResult<&'static SslModule> {
    once(py, &MODULE, || SslModule::new(py))
}

impl SslModule {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let ssl = py.import("ssl")?;
        let class = |name: &str| -> PyResult<Py<PyType>> {
            Ok(ssl.getattr(name)?.cast_into::<PyType>()?.unbind())
        };
        let mut module = SslModule {
            want_read_error: class("SSLWantReadError")?,
            syscall_error: class("SSLSyscallError")?,
            ssl_error: class("SSLError")?,
            certificate_error: class("CertificateError")?,
            memory_bio: ssl.getattr("MemoryBIO")?.unbind(),
            ssl_object: class("SSLObject")?,
            native: None,
        };
        // Whatever goes wrong here says that this is not the `ssl` that we know.
        module.native = module.find_native(&ssl).unwrap_or(None);
        Ok(module)
    }

    fn find_native(&self, ssl: &Bound<'_, PyModule>) -> PyResult<Option<Native>> {
        let py = ssl.py();
        let extension = py.import("_ssl")?;
        let holder = extension.getattr("_SSLSocket")?.cast_into::<PyType>()?;
        let version: String = ssl.getattr("OPENSSL_VERSION")?.extract()?;
        let sizes = [&holder, extension.getattr("_SSLContext")?.cast::<PyType>()?]
            .map(|class| class.getattr(intern!(py, "__basicsize__"))?.extract::<usize>());
        let [Ok(holder_bytes), Ok(context_bytes)] = sizes else { return Ok(None) };
        if !version.starts_with("OpenSSL ")
            || holder_bytes < size_of::<HolderHead>()
            || context_bytes < size_of::<ContextHead>()
        {
            return Ok(None);
        }
        let number: c_ulong = ssl.getattr("OPENSSL_VERSION_NUMBER")?.extract()?;
        // A module that is built into the interpreter has no file: its libssl is out of reach.
        let path: String = extension.getattr("__file__")?.extract()?;
        let Ok(path) = CString::new(path) else { return Ok(None) };
        let Some(library) = LibSsl::used_by(&path, number) else { return Ok(None) };
        let native = Native { library, holder: holder.unbind() };
        Ok(self.proves(ssl, &native)?.then_some(native))
    }

    /// A client's first flight must come out of our BIO.
    fn proves(&self, ssl: &Bound<'_, PyModule>, native: &Native) -> PyResult<bool> {
        let py = ssl.py();
        let context = ssl.call_method1("SSLContext", (ssl.getattr("PROTOCOL_TLS_CLIENT")?,))?;
        let options = PyDict::new(py);
        options.set_item("server_hostname", "localhost")?;
        let bios = (self.memory_bio.call0(py)?, self.memory_bio.call0(py)?);
        let object = context.call_method("wrap_bio", bios, Some(&options))?;
        let Some(lent) = native.session_of(&object)? else { return Ok(false) };
        let waits = match object.call_method0("do_handshake") {
            Ok(_) => false,
            Err(error) => error.is_instance(py, self.want_read_error.bind(py)),
        };
        Ok(waits && lent.session.take_output().starts_with(&[22, 3]))
    }

    /// The session beneath an `ssl.SSLObject`, now over buffers of ours, and what keeps it alive;
    /// `None` where that is not known to do what the object's own methods do.
    pub fn session_of(&self, object: &Bound<'_, PyAny>) -> PyResult<Option<Lent>> {
        let py = object.py();
        let Some(native) = &self.native else { return Ok(None) };
        let class = object.get_type();
        let ours = self.ssl_object.bind(py);
        if !class.is(ours) {
            if !class.is_subclass(ours)? {
                return Ok(None);
            }
            for name in [intern!(py, "read"), intern!(py, "write"), intern!(py, "pending")] {
                if !class.getattr(name)?.is(ours.getattr(name)?) {
                    return Ok(None);
                }
            }
        }
        native.session_of(object)
    }

    pub fn is_native(&self) -> bool {
        self.native.is_some()
    }
}

impl Native {
    fn session_of(&self, object: &Bound<'_, PyAny>) -> PyResult<Option<Lent>> {
        let py = object.py();
        let holder = object.getattr(intern!(py, "_sslobj"))?;
        if !holder.get_type().is(self.holder.bind(py)) {
            return Ok(None);
        }
        let context = holder.getattr(intern!(py, "context"))?;
        // What a message callback raises arrives in the methods of the module alone.
        if let Some(callback) = context.getattr_opt(intern!(py, "_msg_callback"))?
            && !callback.is_none()
        {
            return Ok(None);
        }
        // SAFETY: the holder's type is exactly `_SSLSocket`, which has room for this beginning
        // (`find_native`); pointers may be read whatever they mean.
        let head = unsafe { &*holder.as_ptr().cast::<HolderHead>() };
        let Some(ssl) = NonNull::new(head.ssl) else { return Ok(None) };
        if !head.socket.is_null() || head.context != context.as_ptr() {
            return Ok(None);
        }
        // SAFETY: the third pointer is the context, so the layout is the known one: the second is
        // the session, and the context begins with its `SSL_CTX`. The holder owns the session, and
        // whoever gets that gets the holder with it.
        unsafe {
            let made_of = (*context.as_ptr().cast::<ContextHead>()).context;
            if !self.library.is_session_of(ssl, made_of, holder.as_ptr().cast()) {
                return Ok(None);
            }
            let session = Session::borrow(self.library, ssl);
            Ok(session.map(|session| Lent { session, holder: holder.unbind() }))
        }
    }
}
