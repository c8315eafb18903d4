//! `asyncio.Handle` and `asyncio.TimerHandle`: what a registration returns.
//!
//! They answer `isinstance(handle, asyncio.Handle)` through `__class__`, because a class of Rust
//! cannot share the layout of a Python class with slots. In debug mode asyncio's own handles are
//! used instead (see `event_loop.rs`), so there is nothing of debugging here.

use std::{
    cell::{Cell, RefCell},
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use pyo3::{
    PyTraverseError, PyVisit,
    basic::CompareOp,
    ffi, intern,
    prelude::*,
    types::{PyFloat, PyTuple},
};

use crate::{
    call::{Held, in_context},
    error::leaves_loop,
    event_loop::Loop,
    gil::GilBound,
    imports::{loaded, seam},
};

/// Who may have to wait for whom when a handle is cancelled from another thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Made by the loop's own thread for itself.
    Local,
    /// Made by `call_soon_threadsafe`: cancelling waits for a call that is under way.
    ThreadSafe,
    /// As `ThreadSafe`, and under way in the thread of this identity.
    RunningIn(usize),
}

struct Inner {
    /// `None` once cancelled.
    callback: RefCell<Option<Py<PyAny>>>,
    arguments: RefCell<Held>,
    /// `None` only after the garbage collector cleared it.
    context: RefCell<Option<Py<PyAny>>>,
    event_loop: RefCell<Option<Py<Loop>>>,
    cancelled: Cell<bool>,
    sharing: Cell<Sharing>,
}

#[pyclass(frozen, subclass, weakref, module = "velodrome")]
pub struct Handle(GilBound<Inner>);

/// Ends the waits of [`Handle::wait_until_idle`].
static CALL_ENDED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

fn thread_ident() -> usize {
    // SAFETY: it only asks the operating system for the calling thread's identity.
    unsafe { ffi::PyThread_get_thread_ident() as usize }
}

impl Handle {
    pub fn new(
        event_loop: &Bound<'_, Loop>,
        callback: Py<PyAny>,
        arguments: Held,
        context: Py<PyAny>,
    ) -> Self {
        Handle(GilBound::new(Inner {
            callback: RefCell::new(Some(callback)),
            arguments: RefCell::new(arguments),
            context: RefCell::new(Some(context)),
            event_loop: RefCell::new(Some(event_loop.clone().unbind())),
            cancelled: Cell::new(false),
            sharing: Cell::new(Sharing::Local),
        }))
    }

    /// Makes it `asyncio`'s thread-safe kind.
    pub fn thread_safe(self, py: Python<'_>) -> Self {
        self.0.get(py).sharing.set(Sharing::ThreadSafe);
        self
    }

    pub fn is_cancelled(&self, py: Python<'_>) -> bool {
        self.0.get(py).cancelled.get()
    }

    /// Calls the callback, unless cancelled. Its exceptions go to the loop's exception handler,
    /// but for those that leave the loop.
    #[inline]
    pub fn run(slf: &Bound<'_, Handle>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().0.get(py);
        if inner.cancelled.get() {
            return Ok(());
        }
        let shared = inner.sharing.get() != Sharing::Local;
        if shared {
            inner.sharing.set(Sharing::RunningIn(thread_ident()));
        }
        let result = Self::call(py, inner);
        if shared {
            inner.sharing.set(Sharing::ThreadSafe);
            drop(CALL_ENDED.0.lock().unwrap_or_else(PoisonError::into_inner));
            CALL_ENDED.1.notify_all();
        }
        match result {
            Ok(_) => Ok(()),
            Err(error) => Self::failed(slf, error),
        }
    }

    #[inline]
    fn call(py: Python<'_>, inner: &Inner) -> PyResult<Option<Py<PyAny>>> {
        // References of our own: the callback may cancel its handle.
        let callback = inner.callback.borrow().as_ref().map(|callback| callback.clone_ref(py));
        let context = inner.context.borrow().as_ref().map(|context| context.clone_ref(py));
        let (Some(callback), Some(context)) = (callback, context) else { return Ok(None) };
        let arguments = inner.arguments.borrow().clone_ref(py);
        in_context(py, &context, || arguments.call(py, &callback)).map(Some)
    }

    #[cold]
    fn failed(slf: &Bound<'_, Handle>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if leaves_loop(py, &error) {
            return Err(error);
        }
        let event_loop = slf.get().event_loop(py);
        seam(py, "callback_failed", (event_loop, slf, error)).map(drop)
    }

    /// If another thread is running the callback: waits for its end, without the GIL.
    fn wait_until_idle(&self, py: Python<'_>) {
        let sharing = &self.0.get(py).sharing;
        while let Sharing::RunningIn(thread) = sharing.get() {
            if thread == thread_ident() {
                break;
            }
            py.detach(|| {
                let lock = CALL_ENDED.0.lock().unwrap_or_else(PoisonError::into_inner);
                // The call may have ended before the lock was taken: look again soon.
                drop(CALL_ENDED.1.wait_timeout(lock, Duration::from_millis(1)));
            });
        }
    }

    fn event_loop(&self, py: Python<'_>) -> Option<Py<Loop>> {
        self.0.get(py).event_loop.borrow().as_ref().map(|event_loop| event_loop.clone_ref(py))
    }

    /// Cancels and drops the callback and its arguments at once. False if it was cancelled.
    fn do_cancel(&self, py: Python<'_>) -> bool {
        self.wait_until_idle(py);
        let inner = self.0.get(py);
        if inner.cancelled.replace(true) {
            return false;
        }
        let dropped = (inner.callback.take(), inner.arguments.take());
        drop(dropped);
        true
    }
}

#[pymethods]
impl Handle {
    /// Cancel the callback: it will not be called, and its arguments are dropped now.
    ///
    /// From any thread for the handles of `call_soon_threadsafe`, else from the loop's own.
    fn cancel(&self, py: Python<'_>) {
        self.do_cancel(py);
    }

    /// Return True if the callback was cancelled.
    fn cancelled(&self, py: Python<'_>) -> bool {
        self.wait_until_idle(py);
        self.is_cancelled(py)
    }

    /// Return the `contextvars.Context` that the callback runs in.
    fn get_context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.0.get(py).context.borrow().as_ref().map(|context| context.clone_ref(py))
    }

    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::run(slf)
    }

    #[getter]
    fn __class__(slf: &Bound<'_, Self>) -> Py<PyAny> {
        let imports = loaded(slf.py());
        if slf.get().0.get(slf.py()).sharing.get() == Sharing::Local {
            imports.handle.clone_ref(slf.py())
        } else {
            imports.threadsafe_handle.clone_ref(slf.py())
        }
    }

    #[getter]
    fn _callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.0.get(py).callback.borrow().as_ref().map(|callback| callback.clone_ref(py))
    }

    #[getter]
    fn _args<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        if self.is_cancelled(py) {
            return Ok(None);
        }
        self.0.get(py).arguments.borrow().to_tuple(py).map(Some)
    }

    #[getter]
    fn _context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_context(py)
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<Loop>> {
        self.event_loop(py)
    }

    #[getter]
    fn _cancelled(&self, py: Python<'_>) -> bool {
        self.is_cancelled(py)
    }

    /// Always None: handles with a traceback are asyncio's own, made in debug mode.
    #[getter]
    fn _source_traceback(&self) -> Option<Py<PyAny>> {
        None
    }

    #[getter]
    fn _repr(&self) -> Option<Py<PyAny>> {
        None
    }

    fn _repr_info<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        // asyncio's own function: it asks for attributes, which are here as they are there.
        loaded(slf.py()).handle.bind(slf.py()).call_method1(intern!(slf.py(), "_repr_info"), (slf,))
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        loaded(slf.py()).handle.bind(slf.py()).call_method1(intern!(slf.py(), "__repr__"), (slf,))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: called by the garbage collector.
        let inner = unsafe { self.0.in_traverse() };
        if let Ok(callback) = inner.callback.try_borrow() {
            visit.call(&*callback)?;
        }
        if let Ok(arguments) = inner.arguments.try_borrow() {
            arguments.visit(&visit)?;
        }
        if let Ok(context) = inner.context.try_borrow() {
            visit.call(&*context)?;
        }
        if let Ok(event_loop) = inner.event_loop.try_borrow() {
            visit.call(&*event_loop)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            let inner = self.0.get(py);
            let dropped = (
                inner.callback.take(),
                inner.arguments.take(),
                inner.context.take(),
                inner.event_loop.take(),
            );
            drop(dropped);
        });
    }
}

/// A handle with a time. Times are on the clock of `loop.time()`, in seconds.
#[pyclass(frozen, extends = Handle, module = "velodrome")]
pub struct TimerHandle {
    when: f64,
    scheduled: GilBound<Cell<bool>>,
}

impl TimerHandle {
    pub fn new(handle: Handle, when: f64) -> PyClassInitializer<Self> {
        PyClassInitializer::from(handle)
            .add_subclass(TimerHandle { when, scheduled: GilBound::new(Cell::new(true)) })
    }

    /// It has left the heap.
    pub fn unscheduled(&self, py: Python<'_>) {
        self.scheduled.get(py).set(false);
    }

    /// What equality compares, as asyncio's does.
    fn parts<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let handle = slf.as_super().get();
        let py = slf.py();
        (slf.get().when, handle._callback(py), handle._args(py)?, handle.is_cancelled(py))
            .into_pyobject(py)
    }
}

#[pymethods]
impl TimerHandle {
    /// Cancel the timer: it will not fire, and its arguments are dropped now.
    fn cancel(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let handle = slf.as_super().get();
        if handle.do_cancel(py)
            && slf.get().scheduled.get(py).replace(false)
            && let Some(event_loop) = handle.event_loop(py)
        {
            event_loop.get().timer_cancelled(py, slf.as_any());
        }
    }

    /// Return the time at which the timer fires, in seconds on the clock of `loop.time()`.
    fn when(&self) -> f64 {
        self.when
    }

    #[getter]
    fn _when(&self) -> f64 {
        self.when
    }

    #[getter]
    fn _scheduled(&self, py: Python<'_>) -> bool {
        self.scheduled.get(py).get()
    }

    #[getter]
    fn __class__(&self, py: Python<'_>) -> Py<PyAny> {
        loaded(py).timer_handle.clone_ref(py)
    }

    fn _repr_info<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let class = loaded(slf.py()).timer_handle.bind(slf.py());
        class.call_method1(intern!(slf.py(), "_repr_info"), (slf,))
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        PyFloat::new(py, self.when).hash()
    }

    fn __richcmp__(
        slf: &Bound<'_, Self>,
        other: &Bound<'_, PyAny>,
        op: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let Ok(other) = other.cast::<TimerHandle>() else { return Ok(py.NotImplemented()) };
        let equal = || Self::parts(slf)?.eq(Self::parts(other)?);
        let (a, b) = (slf.get().when, other.get().when);
        let result = match op {
            CompareOp::Lt => a < b,
            CompareOp::Gt => a > b,
            CompareOp::Le => a < b || equal()?,
            CompareOp::Ge => a > b || equal()?,
            CompareOp::Eq => equal()?,
            CompareOp::Ne => !equal()?,
        };
        Ok(result.into_pyobject(py)?.to_owned().into_any().unbind())
    }
}
