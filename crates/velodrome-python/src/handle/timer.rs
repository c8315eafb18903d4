//! `asyncio.TimerHandle`: what `call_later` and `call_at` return.
//!
//! Some of those that nobody has any more are kept, as CPython keeps some of its own objects: a timer is set
//! and cancelled so often, and is large enough, that making it anew would be a good part of its cost.

use std::{
    cell::{Cell, RefCell},
    sync::OnceLock,
};

use pyo3::{
    basic::CompareOp,
    ffi, intern,
    prelude::*,
    types::{PyFloat, PyInt, PyTuple, PyType},
};
use velodrome::TimerKey;

use super::{Handle, has_weak_references};
use crate::{
    call::Call,
    event_loop::Loop,
    fast::{self, Arguments, Method, raw_method},
    gil::GilBound,
    imports::loaded,
};

/// A handle with a time. Times are on the clock of `loop.time()`, in seconds.
#[pyclass(frozen, extends = Handle, module = "velodrome")]
pub struct TimerHandle(GilBound<Inner>);

struct Inner {
    when: Cell<f64>,
    /// The same as it was given, if that is an `int`.
    whole: Cell<Option<Py<PyInt>>>,
    /// While it waits in the loop.
    key: Cell<Option<TimerKey>>,
}

// ---- those that are kept ---------------------------------------------------------------------

/// As many as CPython keeps of contexts, of which each handle has one.
const MAX_IDLE: usize = 255;

/// Timer handles to be used again. Invariant: each is whole, but has no reference, is not tracked by the
/// garbage collector, holds no object and does not count as one of its class.
static IDLE: GilBound<RefCell<Vec<*mut ffi::PyObject>>> = GilBound::new(RefCell::new(Vec::new()));

/// How PyO3 frees a timer handle.
static FREE: OnceLock<ffi::destructor> = OnceLock::new();

/// To be called once, before there is a timer handle.
pub fn prepare(class: &Bound<'_, PyType>) -> PyResult<()> {
    if let Some(free) = fast::set_dealloc(class, dealloc) {
        let _ = FREE.set(free);
    }
    fast::add_methods(class, METHODS)
}

/// `tp_dealloc`.
///
/// # Safety
/// To be called by CPython on a `TimerHandle` whose last reference is gone.
unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: CPython frees objects in attached threads.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the object is a whole timer handle, until it is given to `FREE`, with which we are done with it.
    unsafe {
        if !has_weak_references(object) {
            // Nobody finds it any more, whatever is run by letting go of what it holds.
            ffi::PyObject_GC_UnTrack(object.cast());
            let timer = Bound::ref_from_ptr(py, &object).cast_unchecked::<TimerHandle>();
            timer.as_super().get().empty(py);
            let inner = timer.get().0.get(py);
            inner.key.set(None);
            if let Some(whole) = inner.whole.take() {
                whole.drop_ref(py);
            }
            let mut idle = IDLE.get(py).borrow_mut();
            if idle.len() < MAX_IDLE {
                idle.push(object);
                drop(idle);
                ffi::Py_DECREF(ffi::Py_TYPE(object).cast());
                return;
            }
        }
        if let Some(free) = FREE.get() {
            free(object);
        }
    }
}

impl TimerHandle {
    pub fn new(
        event_loop: &Bound<'_, Loop>,
        call: Call,
        when: f64,
        whole: Option<Py<PyInt>>,
    ) -> PyResult<Py<Self>> {
        let py = event_loop.py();
        let Some(object) = IDLE.get(py).borrow_mut().pop() else {
            let inner =
                Inner { when: Cell::new(when), whole: Cell::new(whole), key: Cell::new(None) };
            let handle = PyClassInitializer::from(Handle::new(event_loop, call));
            return Py::new(py, handle.add_subclass(TimerHandle(GilBound::new(inner))));
        };
        // SAFETY: a whole timer handle that nobody has, by the invariant of `IDLE`: it becomes one of its class
        // again, with one reference, which is ours. It is tracked when it is filled.
        unsafe {
            ffi::PyObject_Init(object, ffi::Py_TYPE(object));
            let timer = Bound::from_owned_ptr(py, object).cast_into_unchecked::<TimerHandle>();
            timer.as_super().get().fill(event_loop, call);
            let inner = timer.get().0.get(py);
            inner.when.set(when);
            inner.whole.set(whole);
            ffi::PyObject_GC_Track(object.cast());
            Ok(timer.unbind())
        }
    }

    pub fn scheduled_as(&self, py: Python<'_>, key: TimerKey) {
        self.0.get(py).key.set(Some(key));
    }

    /// It waits no more: it is about to run.
    pub fn unscheduled(&self, py: Python<'_>) {
        self.0.get(py).key.set(None);
    }

    fn when_s(&self, py: Python<'_>) -> f64 {
        self.0.get(py).when.get()
    }

    /// What equality compares, as asyncio's does.
    fn parts<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let handle = slf.as_super().get();
        let py = slf.py();
        (slf.get().when_s(py), handle._callback(py), handle._args(py)?, handle.is_cancelled(py))
            .into_pyobject(py)
    }
}

// ---- its methods -----------------------------------------------------------------------------

fn cancel<'py>(
    py: Python<'py>,
    slf: &Bound<'py, TimerHandle>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    arguments.refuse_all("cancel")?;
    let handle = slf.as_super().get();
    if handle.do_cancel(py)
        && let Some(key) = slf.get().0.get(py).key.take()
        && let Some(event_loop) = handle.event_loop(py)
    {
        event_loop.get().cancel_timer(py, key);
        event_loop.drop_ref(py);
    }
    Ok(py.None())
}

raw_method!(raw_cancel, TimerHandle, cancel);

const METHODS: &[Method] = &[Method {
    name: c"cancel",
    call: raw_cancel,
    doc: c"cancel($self, /)\n--\n\n\
           Cancel the timer: it will not fire, and its arguments are dropped now.",
}];

#[pymethods]
impl TimerHandle {
    /// Return the time at which the timer fires, in seconds on the clock of `loop.time()`.
    fn when<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match super::clone_of(py, &self.0.get(py).whole) {
            Some(whole) => whole.into_bound(py).into_any(),
            None => PyFloat::new(py, self.when_s(py)).into_any(),
        }
    }

    #[getter]
    fn _when<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.when(py)
    }

    #[getter]
    fn _scheduled(&self, py: Python<'_>) -> bool {
        self.0.get(py).key.get().is_some()
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
        PyFloat::new(py, self.when_s(py)).hash()
    }

    fn __richcmp__(
        slf: &Bound<'_, Self>,
        other: &Bound<'_, PyAny>,
        op: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let Ok(other) = other.cast::<TimerHandle>() else { return Ok(py.NotImplemented()) };
        let equal = || Self::parts(slf)?.eq(Self::parts(other)?);
        let (a, b) = (slf.get().when_s(py), other.get().when_s(py));
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
