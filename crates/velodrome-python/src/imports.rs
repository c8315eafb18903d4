//! Every Python name that the seam uses, each fetched once, in one table.

use pyo3::{
    ffi,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyString, PyType},
};

use crate::step_lane::StepLane;

pub struct Imports {
    pub base_event_loop: Py<PyAny>,
    pub handle: Py<PyAny>,
    pub timer_handle: Py<PyAny>,
    /// `_ThreadSafeHandle`, where the version has it.
    pub threadsafe_handle: Option<Py<PyAny>>,
    /// The names of `asyncio.tasks` and `asyncio.futures`, where programs may replace `Task` and
    /// `Future`.
    pub tasks: Py<PyDict>,
    pub futures: Py<PyDict>,
    /// What these are unless a program has replaced them, or there is no such module.
    pub c_task: Option<Py<PyAny>>,
    pub c_future: Option<Py<PyAny>>,
    pub buffered_protocol: Py<PyType>,
    /// `asyncio.events`, whose functions for the running loop are looked up when they are needed:
    /// that is how asyncio calls them.
    pub events: Py<PyAny>,
    pub set_result_unless_cancelled: Py<PyAny>,
    pub get_asyncgen_hooks: Py<PyAny>,
    pub set_asyncgen_hooks: Py<PyAny>,
    pub main_thread: Py<PyAny>,
    pub set_wakeup_fd: Py<PyAny>,
    pub socket: Py<PyAny>,
    /// `_socket.socket`, which nobody replaces.
    pub c_socket: Py<PyAny>,
    pub warn: Py<PyAny>,
    pub weak_dictionary: Py<PyAny>,
    /// `asyncio.format_helpers`, which names callbacks in reports.
    pub format_helpers: Py<PyModule>,
    /// `asyncio.Server._attach` and `_detach` take the transport (3.13 and later).
    pub server_takes_transport: bool,
    /// Learnt by the first run.
    pub step_lane: PyOnceLock<StepLane>,
}

static IMPORTS: PyOnceLock<Imports> = PyOnceLock::new();

/// The table. Filled on the first call, which may fail as any import may.
pub fn imports(py: Python<'_>) -> PyResult<&'static Imports> {
    once(py, &IMPORTS, || Imports::new(py))
}

/// What is in the cell, made if it is empty. Making it may run code in Python, which may come back here
/// (a signal handler, a destructor) or fork: then it is made twice, and the first one stays.
pub fn once<'a, T>(
    py: Python<'_>,
    cell: &'a PyOnceLock<T>,
    make: impl FnOnce() -> PyResult<T>,
) -> PyResult<&'a T> {
    if let Some(known) = cell.get(py) {
        return Ok(known);
    }
    let made = make()?;
    // What another one has made meanwhile serves as well.
    let _ = cell.set(py, made);
    Ok(cell.get(py).expect("it was just set"))
}

/// The table, for code that runs on a loop: making one has filled it.
#[inline]
pub fn loaded(py: Python<'_>) -> &'static Imports {
    IMPORTS.get(py).expect("the table of imports is filled before the first loop exists")
}

/// A module that asyncio has imported, without the import statement's detours.
pub fn module<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyModule>> {
    // SAFETY: the interpreter's own dictionary, borrowed.
    let modules = unsafe {
        Bound::from_borrowed_ptr(py, ffi::PyImport_GetModuleDict()).cast_into::<PyDict>()?
    };
    match modules.get_item(name)?.map(|module| module.cast_into::<PyModule>()) {
        Some(Ok(module)) => Ok(module),
        _ => py.import(name),
    }
}

impl Imports {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let events = module(py, "asyncio.events")?;
        let futures = module(py, "asyncio.futures")?;
        let of_c = |name| module(py, "_asyncio").and_then(|module| module.getattr(name)).ok();
        let sys = module(py, "sys")?;
        let handle = events.getattr("Handle")?;
        Ok(Imports {
            base_event_loop: module(py, "asyncio.base_events")?.getattr("BaseEventLoop")?.unbind(),
            threadsafe_handle: events.getattr_opt("_ThreadSafeHandle")?.map(Bound::unbind),
            handle: handle.unbind(),
            timer_handle: events.getattr("TimerHandle")?.unbind(),
            tasks: module(py, "asyncio.tasks")?.dict().unbind(),
            futures: futures.dict().unbind(),
            c_task: of_c("Task").map(Bound::unbind),
            c_future: of_c("Future").map(Bound::unbind),
            buffered_protocol: module(py, "asyncio.protocols")?
                .getattr("BufferedProtocol")?
                .cast_into::<PyType>()?
                .unbind(),
            events: events.clone().into_any().unbind(),
            set_result_unless_cancelled: futures.getattr("_set_result_unless_cancelled")?.unbind(),
            get_asyncgen_hooks: sys.getattr("get_asyncgen_hooks")?.unbind(),
            set_asyncgen_hooks: sys.getattr("set_asyncgen_hooks")?.unbind(),
            main_thread: module(py, "threading")?.getattr("main_thread")?.unbind(),
            set_wakeup_fd: module(py, "signal")?.getattr("set_wakeup_fd")?.unbind(),
            socket: module(py, "socket")?.getattr("socket")?.unbind(),
            c_socket: module(py, "_socket")?.getattr("socket")?.unbind(),
            weak_dictionary: module(py, "weakref")?.getattr("WeakValueDictionary")?.unbind(),
            format_helpers: module(py, "asyncio.format_helpers")?.unbind(),
            warn: module(py, "warnings")?.getattr("warn")?.unbind(),
            server_takes_transport: py.version_info() >= (3, 13),
            step_lane: PyOnceLock::new(),
        })
    }
}

static SEAM: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// `velodrome._seam`: the package's messages, and what native transports say they are.
pub fn seam_module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    once(py, &SEAM, || Ok(module(py, "velodrome._seam")?.unbind())).map(|it| it.bind(py))
}

/// Calls a function of it.
pub fn seam<'py>(
    py: Python<'py>,
    name: &str,
    arguments: impl pyo3::call::PyCallArgs<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    seam_module(py)?.getattr(PyString::intern(py, name))?.call1(arguments)
}
