//! `asyncio.Handle` and, in `timer.rs`, `asyncio.TimerHandle`: what a registration returns.
//!
//! They answer `isinstance(handle, asyncio.Handle)` through `__class__`, because a class of Rust
//! cannot share the layout of a Python class with slots. In debug mode asyncio's own handles are
//! used instead (see `event_loop.rs`), so there is nothing of debugging here.

mod content;
mod timer;

use std::{
    cell::Cell,
    ffi::{c_int, c_void},
    mem, thread,
    time::Duration,
};

use pyo3::{PyTraverseError, PyVisit, ffi, intern, prelude::*, types::PyTuple};

use crate::{
    call::{Call, Held},
    error::leaves_loop,
    event_loop::Loop,
    gil::GilBound,
    imports::loaded,
    report,
};

use content::Content;
pub use timer::{TimerHandle, prepare as prepare_timers};

/// Who may have to wait for whom when a handle is cancelled from another thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Made by the loop's own thread for itself.
    Local,
    /// Made by `call_soon_threadsafe`: cancelling waits for a call that is under way.
    ThreadSafe,
    /// As `ThreadSafe`, and under way in the loop's thread.
    Running,
}

impl Sharing {
    /// asyncio's handles are for one thread before Python 3.14: to wait there for a callback that
    /// is running could be a deadlock.
    fn of(py: Python<'_>, call: &Call) -> Self {
        let shared = call.thread_safe && loaded(py).threadsafe_handle.is_some();
        if shared { Sharing::ThreadSafe } else { Sharing::Local }
    }
}

/// Small, because a loop may hold many: cells that are taken out and put back, not `RefCell`s.
struct Inner {
    /// `None` once cancelled.
    callback: Cell<Option<Py<PyAny>>>,
    arguments: Cell<Held>,
    /// `None` only after the garbage collector cleared it.
    context: Cell<Option<Py<PyAny>>>,
    event_loop: Cell<Option<Py<Loop>>>,
    cancelled: Cell<bool>,
    sharing: Cell<Sharing>,
}

/// Looks at what is in a cell. `look` must not reach the cell again.
fn peek<T: Default, R>(cell: &Cell<T>, look: impl FnOnce(&T) -> R) -> R {
    let value = cell.take();
    let result = look(&value);
    // What was there meanwhile holds nothing, so that to drop it would be a call for nothing.
    mem::forget(cell.replace(value));
    result
}

fn clone_of<T>(py: Python<'_>, cell: &Cell<Option<Py<T>>>) -> Option<Py<T>> {
    peek(cell, |object| object.as_ref().map(|object| object.clone_ref(py)))
}

#[pyclass(frozen, subclass, weakref, module = "velodrome")]
pub struct Handle(GilBound<Inner>);

/// # Safety
/// The object is a handle of either kind, and not yet freed.
#[inline]
unsafe fn has_weak_references(object: *mut ffi::PyObject) -> bool {
    // SAFETY: the list of its weak references is where its class says. Without a place for one, this
    // would not be known.
    unsafe {
        let offset = (*ffi::Py_TYPE(object)).tp_weaklistoffset;
        let weak = object.byte_offset(offset).cast::<*mut ffi::PyObject>();
        offset <= 0 || !(*weak).is_null()
    }
}

/// How often [`Handle::wait_until_idle`] looks. It is rare that a handle is cancelled from another
/// thread in the middle of its call; a condition variable would cost each call a system call.
const LOOK_AGAIN_AFTER: Duration = Duration::from_micros(200);

impl Handle {
    pub fn new(event_loop: &Bound<'_, Loop>, call: Call) -> Self {
        let sharing = Sharing::of(event_loop.py(), &call);
        let Call { callback, arguments, context, .. } = call;
        Handle(GilBound::new(Inner {
            callback: Cell::new(Some(callback)),
            arguments: Cell::new(arguments),
            context: Cell::new(Some(context)),
            event_loop: Cell::new(Some(event_loop.clone().unbind())),
            cancelled: Cell::new(false),
            sharing: Cell::new(sharing),
        }))
    }

    /// Whether only the caller has the handle: one reference, and none that is weak.
    #[inline]
    fn is_exclusive(slf: &Bound<'_, Handle>) -> bool {
        // SAFETY: a live handle.
        unsafe { ffi::Py_REFCNT(slf.as_ptr()) == 1 && !has_weak_references(slf.as_ptr()) }
    }

    /// Takes the call out of a handle that only the caller has, if it was not cancelled and is one
    /// of `event_loop`, which is where its exceptions go. It may then be used [`again`](Self::again).
    #[inline(always)]
    pub fn give_up(slf: &Bound<'_, Handle>, event_loop: &Bound<'_, Loop>) -> Option<Call> {
        let inner = slf.get().0.get(slf.py());
        let is_own =
            peek(&inner.event_loop, |own| own.as_ref().is_some_and(|own| own.is(event_loop)));
        if !is_own || inner.cancelled.get() || !Self::is_exclusive(slf) {
            return None;
        }
        match (inner.callback.take(), inner.context.take()) {
            (Some(callback), Some(context)) => Some(Call {
                callback,
                arguments: inner.arguments.take(),
                context,
                thread_safe: inner.sharing.get() != Sharing::Local,
            }),
            // Cleared by the garbage collector, or run with a reference of its own.
            (callback, context) => {
                inner.callback.set(callback);
                inner.context.set(context);
                None
            }
        }
    }

    /// Uses a handle that gave up its call for another one: then it is as new. Gives the call back
    /// if somebody has found the handle meanwhile, by way of the garbage collector.
    #[inline(always)]
    pub fn again(
        slf: &Bound<'_, Handle>,
        event_loop: &Bound<'_, Loop>,
        call: Call,
    ) -> Result<(), Call> {
        let inner = slf.get().0.get(slf.py());
        if inner.cancelled.get() || !Self::is_exclusive(slf) {
            return Err(call);
        }
        slf.get().fill(event_loop, call);
        Ok(())
    }

    /// Makes a handle new that holds nothing but, perhaps, the loop.
    #[inline(always)]
    fn fill(&self, event_loop: &Bound<'_, Loop>, call: Call) {
        let inner = self.0.get(event_loop.py());
        inner.cancelled.set(false);
        inner.sharing.set(Sharing::of(event_loop.py(), &call));
        inner.callback.set(Some(call.callback));
        inner.arguments.set(call.arguments);
        inner.context.set(Some(call.context));
        let own = inner.event_loop.take();
        inner.event_loop.set(Some(own.unwrap_or_else(|| event_loop.clone().unbind())));
    }

    /// Lets go of all that it holds.
    fn empty(&self, py: Python<'_>) {
        let inner = self.0.get(py);
        let content = Content {
            arguments: inner.arguments.take(),
            others: [inner.callback.take(), inner.context.take()],
        };
        // When nothing is left in it, as this may run code.
        self.release(py);
        content.release(py);
    }

    /// Lets go of the loop, too.
    pub fn release(&self, py: Python<'_>) {
        if let Some(event_loop) = self.0.get(py).event_loop.take() {
            event_loop.drop_ref(py);
        }
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
            inner.sharing.set(Sharing::Running);
        }
        let result = Self::call(slf, inner);
        if shared {
            inner.sharing.set(Sharing::ThreadSafe);
        }
        match result {
            Ok(()) => Ok(()),
            Err(error) => Self::failed(slf, error),
        }
    }

    #[inline]
    fn call(slf: &Bound<'_, Handle>, inner: &Inner) -> PyResult<()> {
        let py = slf.py();
        // SAFETY: reads the count of a live object.
        if unsafe { ffi::Py_REFCNT(slf.as_ptr()) } > 1 {
            // Somebody may look at the handle or cancel it meanwhile: references of our own.
            let (Some(callback), Some(context)) =
                (clone_of(py, &inner.callback), clone_of(py, &inner.context))
            else {
                return Ok(());
            };
            let arguments = peek(&inner.arguments, |arguments| arguments.clone_ref(py));
            let call = Call { callback, arguments, context, thread_safe: false };
            let result = call.run(py);
            call.release(py);
            return result;
        }
        // Nobody but the loop has it: what is in it may be taken out for the call.
        let (Some(callback), Some(context)) = (inner.callback.take(), inner.context.take()) else {
            return Ok(());
        };
        let arguments = inner.arguments.take();
        let call = Call { callback, arguments, context, thread_safe: false };
        let result = call.run(py);
        if result.is_ok() {
            call.release(py);
        } else {
            // The report speaks of it.
            inner.callback.set(Some(call.callback));
            inner.context.set(Some(call.context));
            inner.arguments.set(call.arguments);
        }
        result
    }

    #[cold]
    fn failed(slf: &Bound<'_, Handle>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if leaves_loop(py, &error) {
            return Err(error);
        }
        match slf.get().event_loop(py) {
            Some(event_loop) => report::callback_failed(event_loop.bind(py), slf, error),
            None => Err(error),
        }
    }

    /// If another thread is running the callback: waits for its end, without the GIL.
    fn wait_until_idle(&self, py: Python<'_>) {
        let inner = self.0.get(py);
        while inner.sharing.get() == Sharing::Running {
            if self.event_loop(py).is_none_or(|it| it.get().runs_in_this_thread(py)) {
                break;
            }
            py.detach(|| thread::sleep(LOOK_AGAIN_AFTER));
        }
    }

    fn event_loop(&self, py: Python<'_>) -> Option<Py<Loop>> {
        clone_of(py, &self.0.get(py).event_loop)
    }

    /// Cancels and drops the callback and its arguments at once. False if it was cancelled.
    fn do_cancel(&self, py: Python<'_>) -> bool {
        self.wait_until_idle(py);
        let inner = self.0.get(py);
        if inner.cancelled.replace(true) {
            return false;
        }
        let (callback, arguments) = (inner.callback.take(), inner.arguments.take());
        if let Some(callback) = callback {
            callback.drop_ref(py);
        }
        arguments.release(py);
        true
    }
}

#[pymethods]
impl Handle {
    /// Cancel the callback: it will not be called, and its arguments are dropped now.
    ///
    /// From any thread for the handles of `call_soon_threadsafe`, else from the loop's own.
    pub fn cancel(&self, py: Python<'_>) {
        self.do_cancel(py);
    }

    /// Return True if the callback was cancelled.
    fn cancelled(&self, py: Python<'_>) -> bool {
        self.wait_until_idle(py);
        self.is_cancelled(py)
    }

    /// Return the `contextvars.Context` that the callback runs in.
    fn get_context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        clone_of(py, &self.0.get(py).context)
    }

    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::run(slf)
    }

    #[getter]
    fn __class__(slf: &Bound<'_, Self>) -> Py<PyAny> {
        let imports = loaded(slf.py());
        match &imports.threadsafe_handle {
            Some(class) if slf.get().0.get(slf.py()).sharing.get() != Sharing::Local => {
                class.clone_ref(slf.py())
            }
            _ => imports.handle.clone_ref(slf.py()),
        }
    }

    #[getter]
    fn _callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        clone_of(py, &self.0.get(py).callback)
    }

    #[getter]
    fn _args<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        if self.is_cancelled(py) {
            return Ok(None);
        }
        peek(&self.0.get(py).arguments, |arguments| arguments.clone_ref(py)).to_tuple(py).map(Some)
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

    /// Makes it a class that is collected; `traverse` below takes its place.
    fn __traverse__(&self, _visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Ok(())
    }

    fn __clear__(&self) {
        Python::attach(|py| self.empty(py));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it is part of a Python object that is freed, or not yet made, in an attached thread.
        self.empty(unsafe { Python::assume_attached() });
    }
}

/// `tp_traverse` of both classes.
///
/// The collector comes to each handle several times, so it looks into the cells where they are, and
/// does not visit the class, which PyO3 keeps for good.
///
/// # Safety
/// To be called by the garbage collector on a `Handle` or `TimerHandle`.
pub unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    argument: *mut c_void,
) -> c_int {
    let each = |held: &Py<PyAny>| {
        // SAFETY: an object that the handle holds.
        match unsafe { visit(held.as_ptr(), argument) } {
            0 => Ok(()),
            stop => Err(stop),
        }
    };
    // SAFETY: the collector runs attached, and the object is a handle (a timer handle starts with
    // one). A visit runs no Python code, so the cells stay as they are meanwhile.
    let visited = unsafe {
        let handle = Bound::ref_from_ptr(Python::assume_attached(), &object)
            .cast_unchecked::<Handle>()
            .get();
        let inner = handle.0.in_traverse();
        let event_loop = &*inner.event_loop.as_ptr();
        (*inner.callback.as_ptr())
            .as_ref()
            .map_or(Ok(()), each)
            .and_then(|()| (*inner.context.as_ptr()).as_ref().map_or(Ok(()), each))
            .and_then(|()| event_loop.as_ref().map_or(Ok(()), |it| each(it.as_any())))
            .and_then(|()| (*inner.arguments.as_ptr()).try_for_each(each))
    };
    visited.err().unwrap_or(0)
}
