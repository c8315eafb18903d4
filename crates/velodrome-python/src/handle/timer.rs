//! `asyncio.TimerHandle`: what `call_later` and `call_at` return.

use std::cell::Cell;

use pyo3::{
    basic::CompareOp,
    intern,
    prelude::*,
    types::{PyFloat, PyInt, PyTuple},
};
use velodrome::TimerKey;

use super::Handle;
use crate::{gil::GilBound, imports::loaded};

/// A handle with a time. Times are on the clock of `loop.time()`, in seconds.
#[pyclass(frozen, extends = Handle, module = "velodrome")]
pub struct TimerHandle {
    when: f64,
    /// The same as it was given, if that is an `int`.
    whole: Option<Py<PyInt>>,
    /// While it waits in the loop.
    key: GilBound<Cell<Option<TimerKey>>>,
}

impl TimerHandle {
    pub fn new(handle: Handle, when: f64, whole: Option<Py<PyInt>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(handle).add_subclass(TimerHandle {
            when,
            whole,
            key: GilBound::new(Cell::new(None)),
        })
    }

    pub fn scheduled_as(&self, py: Python<'_>, key: TimerKey) {
        self.key.get(py).set(Some(key));
    }

    /// It waits no more: it is about to run.
    pub fn unscheduled(&self, py: Python<'_>) {
        self.key.get(py).set(None);
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
            && let Some(key) = slf.get().key.get(py).take()
            && let Some(event_loop) = handle.event_loop(py)
        {
            event_loop.get().cancel_timer(py, key);
        }
    }

    /// Return the time at which the timer fires, in seconds on the clock of `loop.time()`.
    fn when<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match &self.whole {
            Some(whole) => whole.bind(py).clone().into_any(),
            None => PyFloat::new(py, self.when).into_any(),
        }
    }

    #[getter]
    fn _when<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.when(py)
    }

    #[getter]
    fn _scheduled(&self, py: Python<'_>) -> bool {
        self.key.get(py).get().is_some()
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
