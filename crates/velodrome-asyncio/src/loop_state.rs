//! The attribute of a loop that says which futures are on it. It goes with the loop, and shows the
//! garbage collector the Python objects of those futures.

use std::{
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use pyo3::{
    PyTraverseError, PyVisit, exceptions::PyRuntimeError, prelude::*, sync::PyOnceLock,
    types::PyString,
};

use crate::{
    bridge::{self, Bridge},
    fallback::Asyncio,
    native::Native,
    shared::{Shared, Target},
};

/// What is on a loop, by thread: as a rule one thing.
#[pyclass(frozen)]
pub struct RustFutures(Mutex<Vec<Arc<Shared>>>);

/// Each extension has its own, as its class is its own.
fn attribute(py: Python<'_>) -> &Py<PyString> {
    static NAME: PyOnceLock<Py<PyString>> = PyOnceLock::new();
    NAME.get_or_init(py, || {
        let number = (&raw const NAME).addr();
        PyString::intern(py, &format!("_rust_futures_{number:x}")).unbind()
    })
}

/// The bridge of the loop that runs in this thread.
pub fn bridge_of(event_loop: &Bound<'_, PyAny>, accepts_any_loop: bool) -> PyResult<Rc<Bridge>> {
    let py = event_loop.py();
    bridge::close_abandoned(py);
    let name = attribute(py).bind(py);
    let state = match event_loop.getattr_opt(name)? {
        Some(state) => state.cast_into::<RustFutures>()?,
        None => Bound::new(py, RustFutures(Mutex::default()))?,
    };
    let bridge = match state.get().bridge() {
        Some(bridge) => bridge,
        None => {
            let target = target_of(event_loop, accepts_any_loop)?;
            let shared = Shared::new(event_loop, target)?;
            event_loop.setattr(name, &state)?;
            state.get().add(Arc::clone(&shared));
            let bridge = Bridge::new(Arc::clone(&shared));
            if !shared.target.close_with_loop(&shared) {
                shared.close(py);
                return Err(PyRuntimeError::new_err("Event loop is closed"));
            }
            bridge
        }
    };
    if bridge.shared.target.is_fallback() && !accepts_any_loop {
        return Err(not_velodromes(event_loop)?);
    }
    Ok(bridge)
}

fn target_of(event_loop: &Bound<'_, PyAny>, accepts_any_loop: bool) -> PyResult<Box<dyn Target>> {
    match Native::open(event_loop)? {
        Some(native) => Ok(Box::new(native)),
        None if accepts_any_loop => Ok(Box::new(Asyncio::new(event_loop)?)),
        None => Err(not_velodromes(event_loop)?),
    }
}

#[cold]
fn not_velodromes(event_loop: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let class = event_loop.get_type().fully_qualified_name()?;
    Ok(PyRuntimeError::new_err(format!(
        "Rust futures need velodrome's event loop, not {class}: run the program \
         with velodrome.run() or loop_factory=velodrome.new_event_loop"
    )))
}

impl RustFutures {
    fn all(&self) -> Vec<Arc<Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn bridge(&self) -> Option<Rc<Bridge>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|shared| !shared.is_closed()).find_map(|shared| bridge::of(shared))
    }

    fn add(&self, shared: Arc<Shared>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|shared| !shared.is_closed());
        all.push(shared);
    }

    fn close(&self, py: Python<'_>) {
        self.all().iter().for_each(|shared| shared.close(py));
    }
}

#[pymethods]
impl RustFutures {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Whoever holds the lock is attached and runs no code of Python's under it.
        let Ok(all) = self.0.try_lock() else { return Ok(()) };
        all.iter().try_for_each(|shared| shared.visit(&visit))
    }

    fn __clear__(&self) {
        Python::attach(|py| self.close(py));
    }
}

impl Drop for RustFutures {
    fn drop(&mut self) {
        Python::try_attach(|py| self.close(py));
    }
}
