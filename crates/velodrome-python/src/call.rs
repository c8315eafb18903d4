//! Calling Python: a callable with its arguments, in a context.

use std::{mem, ptr};

use pyo3::{PyTraverseError, PyVisit, ffi, prelude::*, types::PyTuple};

// ---- the end of the interpreter --------------------------------------------------------------

/// Where a daemon thread stays whose interpreter has ended while it was in Python code.
///
/// Up to Python 3.13 it is ended by `pthread_exit`, which unwinds its stack: that must not go through
/// Rust's frames, whose destructors touch Python, and cannot pass `catch_unwind`. So the innermost
/// frame does what later Pythons do: it waits for the process to end.
struct EndOfThread;

impl Drop for EndOfThread {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

type CallFunction = unsafe extern "C-unwind" fn(
    *mut ffi::PyObject,
    *mut ffi::PyObject,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

type VectorcallFunction = unsafe extern "C-unwind" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    usize,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// One of Python's functions, with its type, for a call that may unwind. The compiler must not
/// recognise the function: it is declared elsewhere as one that cannot, and then there is no guard.
///
/// # Safety
/// `F` is the type of the function, but that it may unwind.
#[inline]
unsafe fn may_unwind<F: Copy>(function: *const ()) -> F {
    const { assert!(size_of::<F>() == size_of::<*const ()>()) };
    // SAFETY: a function pointer of this type, as the caller says.
    unsafe { mem::transmute_copy(&std::hint::black_box(function)) }
}

/// A new reference that a C function returned, or the exception that it set.
///
/// # Safety
/// `pointer` is what such a function returned, and nobody else owns the reference.
#[inline]
pub unsafe fn owned(py: Python<'_>, pointer: *mut ffi::PyObject) -> PyResult<Py<PyAny>> {
    // SAFETY: the caller's duty.
    unsafe { Bound::from_owned_ptr_or_err(py, pointer) }.map(Bound::unbind)
}

/// A reference of our own to an object that somebody else holds.
///
/// # Safety
/// `pointer` is a live object.
#[inline]
pub unsafe fn borrowed(py: Python<'_>, pointer: *mut ffi::PyObject) -> Py<PyAny> {
    // SAFETY: the caller's duty.
    unsafe { Bound::from_borrowed_ptr(py, pointer) }.unbind()
}

/// Arguments held for a later call. Up to three are kept inline, more in a tuple.
#[derive(Default)]
pub enum Held {
    #[default]
    None,
    One(Py<PyAny>),
    Two([Py<PyAny>; 2]),
    Three([Py<PyAny>; 3]),
    Many(Py<PyTuple>),
}

impl Held {
    /// Takes references to borrowed arguments.
    #[inline(always)]
    pub fn new(py: Python<'_>, values: &[*mut ffi::PyObject]) -> PyResult<Self> {
        // SAFETY: the pointers come from the caller's argument array: alive for the call.
        let hold = |value: *mut ffi::PyObject| unsafe { borrowed(py, value) };
        Ok(match *values {
            [] => Held::None,
            [a] => Held::One(hold(a)),
            [a, b] => Held::Two([hold(a), hold(b)]),
            [a, b, c] => Held::Three([hold(a), hold(b), hold(c)]),
            _ => Held::Many(PyTuple::new(py, values.iter().map(|&value| hold(value)))?.unbind()),
        })
    }

    /// Drops the references at once: dropping a `Py` looks first whether the thread has the GIL.
    #[inline]
    pub fn release(self, py: Python<'_>) {
        match self {
            Held::None => {}
            Held::One(a) => a.drop_ref(py),
            Held::Two(items) => items.into_iter().for_each(|item| item.drop_ref(py)),
            Held::Three(items) => items.into_iter().for_each(|item| item.drop_ref(py)),
            Held::Many(tuple) => tuple.drop_ref(py),
        }
    }

    pub fn to_tuple<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        match self {
            Held::None => Ok(PyTuple::empty(py)),
            Held::One(a) => PyTuple::new(py, [a]),
            Held::Two(items) => PyTuple::new(py, items),
            Held::Three(items) => PyTuple::new(py, items),
            Held::Many(tuple) => Ok(tuple.bind(py).clone()),
        }
    }

    /// Visits each object that is held, until one visit fails.
    pub fn try_for_each<E>(
        &self,
        mut visit: impl FnMut(&Py<PyAny>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Held::None => Ok(()),
            Held::One(a) => visit(a),
            Held::Two(items) => items.iter().try_for_each(visit),
            Held::Three(items) => items.iter().try_for_each(visit),
            Held::Many(tuple) => visit(tuple.as_any()),
        }
    }

    /// A second set of references to the same arguments.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Held::None => Held::None,
            Held::One(a) => Held::One(a.clone_ref(py)),
            Held::Two([a, b]) => Held::Two([a.clone_ref(py), b.clone_ref(py)]),
            Held::Three([a, b, c]) => {
                Held::Three([a.clone_ref(py), b.clone_ref(py), c.clone_ref(py)])
            }
            Held::Many(tuple) => Held::Many(tuple.clone_ref(py)),
        }
    }

    /// Calls `callable` with these arguments. `self` is alive meanwhile, and so are they.
    #[inline]
    pub fn call(&self, py: Python<'_>, callable: &Py<PyAny>) -> PyResult<Py<PyAny>> {
        match self {
            Held::None => call(py, callable, []),
            Held::One(a) => call(py, callable, [a.as_ptr()]),
            Held::Two(items) => call(py, callable, items.each_ref().map(Py::as_ptr)),
            Held::Three(items) => call(py, callable, items.each_ref().map(Py::as_ptr)),
            // SAFETY: both are live objects, and the second is a tuple.
            Held::Many(tuple) => unsafe {
                let function: CallFunction = may_unwind(ffi::PyObject_Call as *const ());
                let guard = EndOfThread;
                let result = function(callable.as_ptr(), tuple.as_ptr(), ptr::null_mut());
                mem::forget(guard);
                owned(py, result)
            },
        }
    }
}

/// A call that waits: what a handle stands for, and all that is queued once nobody has the handle.
pub struct Call {
    pub callback: Py<PyAny>,
    pub arguments: Held,
    pub context: Py<PyAny>,
    /// `call_soon_threadsafe` made it: the handle that speaks of it is of that kind.
    pub thread_safe: bool,
}

impl Call {
    /// Calls the callback in its context. `self` is alive meanwhile, and so is what is in it.
    #[inline]
    pub fn run(&self, py: Python<'_>) -> PyResult<()> {
        let result = in_context(py, &self.context, || self.arguments.call(py, &self.callback));
        result.map(|object| object.drop_ref(py))
    }

    /// Drops the references, see [`Held::release`].
    #[inline]
    pub fn release(self, py: Python<'_>) {
        let Call { callback, arguments, context, .. } = self;
        callback.drop_ref(py);
        arguments.release(py);
        context.drop_ref(py);
    }

    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.callback)?;
        visit.call(&self.context)?;
        self.arguments.try_for_each(|held| visit.call(held))
    }
}

/// `callable(*arguments)` by vectorcall. The arguments are borrowed; the caller keeps them alive.
#[inline]
pub fn call<const N: usize>(
    py: Python<'_>,
    callable: &Py<PyAny>,
    arguments: [*mut ffi::PyObject; N],
) -> PyResult<Py<PyAny>> {
    // One free place in front, which a bound method uses for its `self`.
    let mut places = [ptr::null_mut(); 4];
    const { assert!(N <= 3) };
    places[1..=N].copy_from_slice(&arguments);
    // SAFETY: `places[1..=N]` are live objects and `places[0]` may be written to, which is what
    // the offset flag allows the callee.
    unsafe {
        let function: VectorcallFunction = may_unwind(ffi::PyObject_Vectorcall as *const ());
        let guard = EndOfThread;
        let result = function(
            callable.as_ptr(),
            places.as_ptr().add(1),
            N | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            ptr::null_mut(),
        );
        mem::forget(guard);
        owned(py, result)
    }
}

/// `object.name(*arguments)`, without a bound method. The arguments are borrowed.
#[inline]
pub fn call_method<const N: usize>(
    py: Python<'_>,
    object: &Py<PyAny>,
    name: &Bound<'_, pyo3::types::PyString>,
    arguments: [*mut ffi::PyObject; N],
) -> PyResult<Py<PyAny>> {
    let mut places = [ptr::null_mut(); 4];
    const { assert!(N <= 2) };
    places[1] = object.as_ptr();
    places[2..2 + N].copy_from_slice(&arguments);
    // SAFETY: as in `call`; the object is the first of `N + 1` arguments.
    unsafe {
        let function: VectorcallFunction = may_unwind(ffi::PyObject_VectorcallMethod as *const ());
        let guard = EndOfThread;
        let result = function(
            name.as_ptr(),
            places.as_ptr().add(1),
            (N + 1) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            ptr::null_mut(),
        );
        mem::forget(guard);
        owned(py, result)
    }
}

/// Runs `body` inside a `contextvars.Context`, as `context.run` does.
#[inline]
pub fn in_context<R>(
    py: Python<'_>,
    context: &Py<PyAny>,
    body: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    // SAFETY: both check the type of their argument and raise what is wrong.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let result = body();
    // SAFETY: as above. `body` has left no exception set: it is in `result`.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    result
}

/// `contextvars.copy_context()`.
#[inline]
pub fn copy_context(py: Python<'_>) -> PyResult<Py<PyAny>> {
    // SAFETY: returns a new reference or raises.
    unsafe { owned(py, ffi::PyContext_CopyCurrent()) }
}

/// `context.copy()`.
pub fn copy_of_context(py: Python<'_>, context: &Py<PyAny>) -> PyResult<Py<PyAny>> {
    // SAFETY: checks the type of its argument; returns a new reference or raises.
    unsafe { owned(py, ffi::PyContext_Copy(context.as_ptr())) }
}
