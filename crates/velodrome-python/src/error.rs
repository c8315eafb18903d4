//! Model errors to Python exceptions, in one place.

use pyo3::{
    exceptions::{PyKeyboardInterrupt, PyOSError, PyRuntimeError, PySystemExit},
    prelude::*,
};
use velodrome::Errno;

/// The `OSError` of an errno; Python picks the subclass that fits it.
pub fn os_error(error: Errno) -> PyErr {
    let errno = error.raw_os_error();
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let suffix = format!(" (os error {errno})");
    PyOSError::new_err((errno, text.strip_suffix(&suffix).unwrap_or(&text).to_owned()))
}

/// `SystemExit` and `KeyboardInterrupt` leave the loop; everything else is reported and it goes on.
pub fn leaves_loop(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}

pub fn closed() -> PyErr {
    PyRuntimeError::new_err("Event loop is closed")
}
