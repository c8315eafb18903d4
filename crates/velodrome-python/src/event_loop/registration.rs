//! What a program asks for with `(callback, *args, context=None)`, borrowed from its call.

use pyo3::{
    exceptions::PyTypeError,
    ffi, intern,
    prelude::*,
    types::{PyString, PyTuple},
};

use super::Loop;
use crate::{
    call::{Call, Held, borrowed, copy_context},
    fast::Arguments,
    handle::Handle,
};

/// The part that all registrations have in common, borrowed from the caller.
#[derive(Clone, Copy)]
pub struct Registration<'a> {
    pub callback: *mut ffi::PyObject,
    pub arguments: &'a [*mut ffi::PyObject],
    pub context: Option<*mut ffi::PyObject>,
}

/// A callback, its arguments and the context that was named, if any.
type Objects<'py> = (Bound<'py, PyAny>, Bound<'py, PyTuple>, Option<Bound<'py, PyAny>>);

impl Registration<'_> {
    /// As objects, for asyncio's own code.
    pub fn to_objects(self, py: Python<'_>) -> PyResult<Objects<'_>> {
        let arguments = Held::new(py, self.arguments)?.to_tuple(py)?;
        // SAFETY: arguments of the call under way.
        let object = |it| unsafe { Bound::<PyAny>::from_borrowed_ptr(py, it) };
        Ok((object(self.callback), arguments, self.context.map(object)))
    }
}

/// Takes `(callback, *args, context=None)` apart.
#[inline(always)]
pub fn registration<'a, 'py>(
    py: Python<'py>,
    function: &str,
    arguments: Arguments<'a, 'py>,
) -> PyResult<Registration<'a>> {
    if let [callback, ref rest @ ..] = *arguments.positional()
        && !arguments.has_keywords()
    {
        return Ok(Registration { callback, arguments: rest, context: None });
    }
    registration_by_name(py, function, arguments)
}

#[inline(never)]
fn registration_by_name<'a, 'py>(
    py: Python<'py>,
    function: &str,
    arguments: Arguments<'a, 'py>,
) -> PyResult<Registration<'a>> {
    let positional = arguments.positional();
    let [context, callback] =
        arguments.take_keywords(function, [intern!(py, "context"), intern!(py, "callback")])?;
    match (callback, positional.split_first()) {
        (None, Some((&callback, rest))) => Ok(Registration { callback, arguments: rest, context }),
        (Some(callback), None) => Ok(Registration { callback, arguments: &[], context }),
        (Some(_), Some(_)) => Err(PyTypeError::new_err(format!(
            "{function}() got multiple values for argument 'callback'"
        ))),
        (None, None) => Err(missing(function, &["callback"])),
    }
}

/// Splits `(first, callback, *args, context=None)`, each of the two also by keyword.
#[inline(always)]
pub fn registration_after<'a, 'py>(
    py: Python<'py>,
    function: &str,
    first_name: &Bound<'py, PyString>,
    arguments: Arguments<'a, 'py>,
) -> PyResult<(Bound<'py, PyAny>, Registration<'a>)> {
    if let [first, callback, ref rest @ ..] = *arguments.positional()
        && !arguments.has_keywords()
    {
        // SAFETY: an argument of the call under way.
        let first = unsafe { Bound::from_borrowed_ptr(py, first) };
        return Ok((first, Registration { callback, arguments: rest, context: None }));
    }
    registration_after_by_name(py, function, first_name, arguments)
}

#[inline(never)]
fn registration_after_by_name<'a, 'py>(
    py: Python<'py>,
    function: &str,
    first_name: &Bound<'py, PyString>,
    arguments: Arguments<'a, 'py>,
) -> PyResult<(Bound<'py, PyAny>, Registration<'a>)> {
    let names = [intern!(py, "context"), first_name, intern!(py, "callback")];
    let [context, first, callback] = arguments.take_keywords(function, names)?;
    let mut positional = arguments.positional();
    for (at, named) in [first, callback].into_iter().enumerate() {
        if named.is_some() && positional.len() > at {
            let name = if at == 0 { first_name.to_string() } else { "callback".to_owned() };
            return Err(PyTypeError::new_err(format!(
                "{function}() got multiple values for argument '{name}'"
            )));
        }
    }
    let mut next = |named: Option<*mut ffi::PyObject>| match (named, positional.split_first()) {
        (None, Some((&value, rest))) => {
            positional = rest;
            Some(value)
        }
        (named, _) => named,
    };
    let (first, callback) = (next(first), next(callback));
    let (Some(first), Some(callback)) = (first, callback) else {
        let first_name = first_name.to_string();
        let names = [(first, first_name.as_str()), (callback, "callback")];
        let absent: Vec<&str> =
            names.iter().filter(|name| name.0.is_none()).map(|name| name.1).collect();
        return Err(missing(function, &absent));
    };
    // SAFETY: an argument of the call under way.
    let first = unsafe { Bound::from_borrowed_ptr(py, first) };
    Ok((first, Registration { callback, arguments: positional, context }))
}

/// Takes references to what a registration borrows.
#[inline(always)]
pub fn held_call(
    py: Python<'_>,
    registration: Registration<'_>,
    thread_safe: bool,
) -> PyResult<Call> {
    let Registration { callback, arguments, context } = registration;
    Ok(Call {
        // SAFETY: an argument of the call under way.
        callback: unsafe { borrowed(py, callback) },
        arguments: Held::new(py, arguments)?,
        context: context_or_copy(py, context)?,
        thread_safe,
    })
}

/// A handle for a call: one that nobody has any more, if there is one, else a new one.
#[inline(always)]
pub fn handle_for(
    slf: &Bound<'_, Loop>,
    call: Call,
    given_up: Option<Py<Handle>>,
) -> PyResult<Py<Handle>> {
    let py = slf.py();
    let mut call = call;
    if let Some(handle) = given_up.or_else(|| slf.get().state(py).spare.take()) {
        call = match Handle::again(handle.bind(py), slf, call) {
            Ok(()) => return Ok(handle),
            Err(call) => call,
        };
    }
    Py::new(py, Handle::new(slf, call))
}

/// The context that a registration names, or a copy of the current one.
#[inline(always)]
fn context_or_copy(py: Python<'_>, context: Option<*mut ffi::PyObject>) -> PyResult<Py<PyAny>> {
    match context {
        // SAFETY: an argument of the call under way, alive during it.
        Some(context) if context != unsafe { ffi::Py_None() } => unsafe {
            Ok(borrowed(py, context))
        },
        _ => copy_context(py),
    }
}

fn missing(function: &str, names: &[&str]) -> PyErr {
    let plural = if names.len() == 1 { "" } else { "s" };
    let listed: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    let listed = match listed.as_slice() {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        _ => listed.concat(),
    };
    PyTypeError::new_err(format!(
        "{function}() missing {} required positional argument{plural}: {listed}",
        names.len()
    ))
}
