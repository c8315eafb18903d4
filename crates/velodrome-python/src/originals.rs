//! Whether what asyncio would call to connect is what asyncio and Python brought along.
//!
//! Then nobody can tell that it is not called. Who has put something else in a place, in a
//! subclass, on a class or on the loop, or who has asked to hear of it by `sys.addaudithook`, sees
//! it called: the way that leads there is asyncio's own.

use std::{
    cell::{Cell, OnceCell},
    ffi::{c_char, c_int, c_void},
};

use pyo3::{
    ffi, intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyFunction, PyString, PyType},
};

use crate::{event_loop::Loop, fast, gil::GilBound, imports::module};

/// What asyncio calls on its way to connect, of the loop and of a socket.
const OF_LOOP: [&str; 17] = [
    "_add_writer",
    "_connect_sock",
    "_create_connection_transport",
    "_ensure_fd_no_transport",
    "_ensure_resolved",
    "_make_socket_transport",
    "_make_ssl_transport",
    "_remove_writer",
    "_sock_connect",
    "_sock_connect_cb",
    "_sock_write_done",
    "call_soon",
    // A program's own expects sockets of Python from `_connect_sock`.
    "create_connection",
    "create_future",
    "create_unix_connection",
    "remove_writer",
    "sock_connect",
];
const OF_SOCKET: [&str; 10] = [
    "__init__",
    "close",
    "connect",
    "detach",
    "fileno",
    "getpeername",
    "getsockname",
    "getsockopt",
    "gettimeout",
    "setblocking",
];

/// Methods, by their names.
type Found = Vec<(Py<PyString>, Py<PyAny>)>;

/// A class, and what is to be found under some names of it.
struct Methods {
    class: Py<PyType>,
    names: &'static [&'static str],
    /// What was found when somebody asked first: to look at all takes as long as making a loop.
    found: OnceCell<Found>,
    /// The class's version when they were last found in place: while it is the same, nothing of the
    /// class or of those above it has changed. 0 is no version.
    version: Cell<u32>,
    /// The same, when one of them was a program's before any was noted.
    foreign_version: Cell<u32>,
}

impl Methods {
    fn new(class: &Bound<'_, PyType>, names: &'static [&'static str]) -> Self {
        Methods {
            class: class.clone().unbind(),
            names,
            found: OnceCell::new(),
            version: Cell::new(0),
            foreign_version: Cell::new(0),
        }
    }

    fn present_version(&self, py: Python<'_>) -> u32 {
        fast::version(self.class.bind(py))
    }

    #[inline]
    fn are_in_place(&self, py: Python<'_>) -> PyResult<bool> {
        let version = self.present_version(py);
        if version != 0 && version == self.version.get() {
            return Ok(true);
        }
        self.look(py, version)
    }

    #[cold]
    fn look(&self, py: Python<'_>, version: u32) -> PyResult<bool> {
        let class = self.class.bind(py);
        if let Some(found) = self.found.get() {
            for (name, method) in found {
                if !class.getattr_opt(name)?.is_some_and(|present| present.is(method)) {
                    return Ok(false);
                }
            }
        } else {
            if version != 0 && version == self.foreign_version.get() {
                return Ok(false);
            }
            let Some(found) = originals_of(class, self.names)? else {
                self.foreign_version.set(self.present_version(py));
                return Ok(false);
            };
            // Who came in between, as a metaclass's method may, has found the same.
            let _ = self.found.set(found);
        }
        // Looking has given the class a version again.
        self.version.set(self.present_version(py));
        Ok(true)
    }
}

/// What is under these names; `None` if one of them is a program's.
fn originals_of(class: &Bound<'_, PyType>, names: &[&str]) -> PyResult<Option<Found>> {
    let py = class.py();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let name = PyString::intern(py, name);
        let Some(method) = class.getattr_opt(&name)? else { return Ok(None) };
        if !is_original(&name, &method)? {
            return Ok(None);
        }
        found.push((name.unbind(), method.unbind()));
    }
    Ok(Some(found))
}

/// Whether a method is asyncio's, Python's or ours, and no other one of theirs.
fn is_original(name: &Bound<'_, PyString>, method: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = method.py();
    let is_function = method.cast_exact::<PyFunction>().is_ok();
    if !is_function && method.get_type().as_type_ptr() != &raw mut ffi::PyMethodDescr_Type {
        return Ok(false);
    }
    if !method.getattr(intern!(py, "__name__"))?.eq(name)? {
        return Ok(false);
    }
    if !is_function {
        return Ok(true);
    }
    // Where it was written; `__module__` may be that of a method that it wraps.
    // SAFETY: it is a function, as just checked, which has a dictionary of globals.
    let globals = unsafe {
        Bound::from_borrowed_ptr(py, ffi::PyFunction_GetGlobals(method.as_ptr()))
            .cast_into_unchecked::<PyDict>()
    };
    let Some(name) = globals.get_item(intern!(py, "__name__"))? else { return Ok(false) };
    let Ok(name) = name.cast_into::<PyString>() else { return Ok(false) };
    let package = name.to_str()?.split('.').next();
    if !package.is_some_and(|package| ["asyncio", "socket", "velodrome"].contains(&package)) {
        return Ok(false);
    }
    // SAFETY: the interpreter's own dictionary, borrowed. An import would wait for a module that is
    // being imported, which the package is.
    let modules = unsafe {
        Bound::from_borrowed_ptr(py, ffi::PyImport_GetModuleDict()).cast_into::<PyDict>()?
    };
    let module = modules.get_item(name)?;
    Ok(module.is_some_and(|module| {
        module.cast::<PyModule>().is_ok_and(|module| module.dict().is(&globals))
    }))
}

struct Originals {
    of_loop: Methods,
    /// Of the class of asyncio's from which the loop inherits.
    of_asyncio: Methods,
    of_socket: Methods,
    /// The module that asyncio calls `socket`, its names and those of asyncio's modules that make
    /// sockets, where a program may have put something else.
    socket_module: Py<PyAny>,
    asyncio_names: [Py<PyDict>; 2],
    socket_names: Py<PyDict>,
}

static LOOP_MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// `velodrome._loop`, whatever has become of it in `sys.modules`.
pub fn loop_module(py: Python<'_>) -> Option<&Bound<'_, PyModule>> {
    LOOP_MODULE.get(py).map(|module| module.bind(py))
}

static ORIGINALS: PyOnceLock<GilBound<Originals>> = PyOnceLock::new();

/// Notes the classes: a loop's, that of asyncio's from which it inherits, and that of sockets.
pub fn learn(of_loop: &Bound<'_, PyType>, of_asyncio: &Bound<'_, PyType>) -> PyResult<()> {
    let py = of_loop.py();
    let _ = LOOP_MODULE.set(py, module(py, "velodrome._loop")?.unbind());
    let socket_module = module(py, "socket")?;
    let of_socket = socket_module.getattr(intern!(py, "socket"))?.cast_into::<PyType>()?;
    let originals = Originals {
        of_loop: Methods::new(of_loop, &OF_LOOP),
        of_asyncio: Methods::new(of_asyncio, &OF_LOOP),
        of_socket: Methods::new(&of_socket, &OF_SOCKET),
        asyncio_names: [
            module(py, "asyncio.base_events")?.dict().unbind(),
            module(py, "asyncio.unix_events")?.dict().unbind(),
        ],
        socket_names: socket_module.dict().unbind(),
        socket_module: socket_module.into_any().unbind(),
    };
    // The package may be imported again, after a program took it out of `sys.modules`: the loops of the
    // second class are not originals.
    let _ = ORIGINALS.set(py, GilBound::new(originals));
    Ok(())
}

/// Whether it is a name of asyncio's that matters if a program sets it on a loop.
pub fn is_replaceable(name: &Bound<'_, PyString>) -> bool {
    name.to_str().is_ok_and(|name| OF_LOOP.contains(&name))
}

/// Whether nobody can tell that asyncio's own way is not taken on this loop. Debug mode can.
pub fn are_in_place(event_loop: &Bound<'_, Loop>) -> PyResult<bool> {
    let py = event_loop.py();
    let Some(originals) = ORIGINALS.get(py) else { return Ok(false) };
    let originals = originals.get(py);
    Ok(event_loop.get_type().is(&originals.of_loop.class)
        && !event_loop.get().is_debug(py)
        && !event_loop.get().has_own_methods(py)
        && originals.of_loop.are_in_place(py)?
        && originals.of_asyncio.are_in_place(py)?
        && originals.of_socket.are_in_place(py)?
        && originals.has_socket_class(py)?
        && !somebody_audits(py))
}

/// Whether it is a socket as Python makes them.
pub fn is_plain_socket(socket: &Bound<'_, PyAny>) -> bool {
    let originals = ORIGINALS.get(socket.py());
    originals.is_some_and(|it| socket.get_type().is(&it.get(socket.py()).of_socket.class))
}

impl Originals {
    /// Whether asyncio finds the class where it looks for it.
    fn has_socket_class(&self, py: Python<'_>) -> PyResult<bool> {
        let name = intern!(py, "socket");
        for module in &self.asyncio_names {
            if !names(module, name, &self.socket_module)? {
                return Ok(false);
            }
        }
        names(&self.socket_names, name, self.of_socket.class.as_any())
    }
}

/// Whether a module's `name` is this object.
fn names(module: &Py<PyDict>, name: &Bound<'_, PyString>, object: &Py<PyAny>) -> PyResult<bool> {
    // SAFETY: a dictionary and a string, both alive; the borrowed result is only compared.
    let found = unsafe { ffi::PyDict_GetItemWithError(module.as_ptr(), name.as_ptr()) };
    if found.is_null() {
        return PyErr::take(name.py()).map_or(Ok(false), Err);
    }
    Ok(found == object.as_ptr())
}

unsafe extern "C" {
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
}

/// Whether there are audit hooks, none of which is called.
///
/// The interpreter makes an event's arguments only if there is somebody to be told, by a function of
/// ours, whose failure ends it.
fn somebody_audits(py: Python<'_>) -> bool {
    unsafe extern "C" fn refuse(_: *mut c_void) -> *mut ffi::PyObject {
        // SAFETY: the interpreter calls it with the GIL held; the class is a live object.
        unsafe { ffi::PyErr_SetNone(ffi::PyExc_RuntimeError) };
        std::ptr::null_mut()
    }
    let refuse: unsafe extern "C" fn(*mut c_void) -> *mut ffi::PyObject = refuse;
    // SAFETY: `O&` takes such a function and a pointer for it, which it does not use.
    let failed = unsafe {
        PySys_Audit(
            c"socket.connect".as_ptr(),
            c"(O&)".as_ptr(),
            refuse,
            std::ptr::null_mut::<c_void>(),
        )
    };
    if failed != 0 {
        drop(PyErr::take(py));
    }
    failed != 0
}
