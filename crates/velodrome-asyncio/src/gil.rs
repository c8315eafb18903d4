//! Where Python meets Rust: attaching, detaching, contexts, and panics that become exceptions.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use pyo3::{ffi, panic::PanicException, prelude::*};

/// A panic as PyO3 raises it.
#[cold]
pub fn panic_error(panic: &(dyn Any + Send)) -> PyErr {
    PanicException::new_err(velodrome::panic_message(panic).to_string())
}

/// Runs what C has called, attached. What it returns or panics with is left as the thread's exception.
pub fn called_by_c(function: impl FnOnce(Python<'_>) -> PyResult<()>) {
    Python::attach(|py| {
        let called = catch_unwind(AssertUnwindSafe(|| function(py)));
        if let Err(error) = called.unwrap_or_else(|panic| Err(panic_error(panic.as_ref()))) {
            error.restore(py);
        }
    });
}

/// Drops what C hands back, attached if that is possible. A panic of it has nobody to tell.
pub fn dropped_by_c<T>(value: T) {
    let value = AssertUnwindSafe(value);
    let _ = catch_unwind(move || {
        let mut value = Some(value);
        // Attached, so that references to Python objects are given up at once.
        Python::try_attach(|_| drop(value.take()));
        drop(value);
    });
}

/// What does not leave the thread.
struct Here<T>(T);

// SAFETY: only for `detached`, which calls what is in it in the same thread.
unsafe impl<T> Send for Here<T> {}

impl<T> Here<T> {
    fn into_inner(self) -> T {
        self.0
    }
}

/// Runs `function` with the GIL released. It stays in this thread, so it need not be `Send`.
///
/// It must hold no `Python` token and nothing that is bound to one.
pub fn detached<R>(py: Python<'_>, function: impl FnOnce() -> R + 'static) -> R {
    let function = Here(function);
    py.detach(move || Here((function.into_inner())())).into_inner()
}

/// A copy of the caller's context.
pub fn copy_context(py: Python<'_>) -> PyResult<Py<PyAny>> {
    // SAFETY: attached; it returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }.map(Bound::unbind)
}

/// The thread is in a context as long as this is there.
pub struct InContext<'a, 'py>(&'a Bound<'py, PyAny>);

impl<'a, 'py> InContext<'a, 'py> {
    pub fn enter(context: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        // SAFETY: attached, and a context of ours.
        if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
            return Err(PyErr::fetch(context.py()));
        }
        Ok(InContext(context))
    }
}

impl Drop for InContext<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: attached, as who lent the context is.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } != 0 {
            PyErr::fetch(self.0.py()).write_unraisable(self.0.py(), None);
        }
    }
}
