//! What goes to the loop's exception handler. Nothing is imported for it that asyncio has not, since
//! descriptors may have run out.

use pyo3::{
    intern,
    prelude::*,
    types::{PyDict, PyTuple},
};

use crate::{event_loop::Loop, imports::loaded};

/// A callback raised.
pub fn callback_failed(
    event_loop: &Bound<'_, Loop>,
    handle: &Bound<'_, PyAny>,
    error: PyErr,
) -> PyResult<()> {
    let py = event_loop.py();
    let context = PyDict::new(py);
    let source = source_of(event_loop, handle)?;
    context.set_item(intern!(py, "message"), format!("Exception in callback {source}"))?;
    context.set_item(intern!(py, "exception"), error)?;
    context.set_item(intern!(py, "handle"), handle)?;
    call_handler(event_loop, context)
}

/// The loop's own work failed, or that of an extension module.
pub fn failed(event_loop: &Bound<'_, Loop>, message: &str, error: PyErr) -> PyResult<()> {
    let py = event_loop.py();
    let context = PyDict::new(py);
    context.set_item(intern!(py, "message"), message)?;
    context.set_item(intern!(py, "exception"), error)?;
    call_handler(event_loop, context)
}

fn call_handler(event_loop: &Bound<'_, Loop>, context: Bound<'_, PyDict>) -> PyResult<()> {
    let name = intern!(event_loop.py(), "call_exception_handler");
    event_loop.call_method1(name, (context,)).map(drop)
}

/// The callback is named as this version's `Handle._run` names it.
fn source_of<'py>(
    event_loop: &Bound<'py, Loop>,
    handle: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    let helpers = loaded(py).format_helpers.bind(py);
    let format = helpers.getattr(intern!(py, "_format_callback_source"))?;
    let keywords = PyDict::new(py);
    // Newer versions have it; what a program puts in its place gets what the oldest had.
    let names =
        format.getattr_opt("__code__")?.map(|code| code.getattr("co_varnames")).transpose()?;
    if names.is_some_and(|names| names.contains("debug").unwrap_or(false)) {
        keywords.set_item("debug", event_loop.call_method0("get_debug")?)?;
    }
    let callback = handle.getattr("_callback")?;
    let mut arguments = handle.getattr("_args")?;
    if !arguments.is_truthy()? {
        arguments = PyTuple::empty(py).into_any();
    }
    format.call((callback, arguments), Some(&keywords))
}
