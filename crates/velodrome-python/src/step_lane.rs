//! The task-step lane: recognises what CPython's own C `Task` passes to `call_soon`.
//!
//! Each step and wake-up of a task is one `loop.call_soon(wrapper, [future,] context=...)` whose
//! handle is dropped at once. Nobody else ever holds such a wrapper, so for exactly those no
//! handle is made. The wrapper's type and the wake-up function are learnt from a task that runs
//! for this purpose on a stand-in loop; if a Python does it in another way, nothing is recognised
//! and every step takes the common path.

use pyo3::{ffi, intern, prelude::*, types::PyCFunction};

pub struct StepLane {
    /// The type of the object that a task passes for its steps.
    step_type: Option<Py<PyAny>>,
    /// The C function beneath the bound method that a task passes for its wake-ups.
    wakeup: Option<ffi::PyCFunction>,
}

impl StepLane {
    pub fn learn(py: Python<'_>) -> PyResult<Self> {
        let found = py
            .import(intern!(py, "velodrome._seam"))?
            .getattr(intern!(py, "learn_task_callbacks"))?
            .call0()?;
        let (step, wakeup): (Option<Bound<'_, PyAny>>, Option<Bound<'_, PyAny>>) =
            found.extract()?;
        Ok(StepLane {
            step_type: step.map(|step| step.get_type().into_any().unbind()),
            wakeup: wakeup
                .filter(|wakeup| wakeup.cast_exact::<PyCFunction>().is_ok())
                // SAFETY: it is exactly a built-in function, as just checked.
                .and_then(|wakeup| unsafe { ffi::PyCFunction_GetFunction(wakeup.as_ptr()) }),
        })
    }

    /// Whether `callback` is a step or a wake-up of a C task.
    #[inline]
    pub fn recognises(&self, callback: *mut ffi::PyObject) -> bool {
        // SAFETY: `callback` is a live object; the type is read from its header, and the function
        // only from an object that is exactly a built-in function.
        unsafe {
            let class = ffi::Py_TYPE(callback);
            if self.step_type.as_ref().is_some_and(|step| step.as_ptr() == class.cast()) {
                return true;
            }
            class == (&raw mut ffi::PyCFunction_Type)
                && self.wakeup.is_some_and(|wakeup| {
                    ffi::PyCFunction_GetFunction(callback)
                        .is_some_and(|function| std::ptr::fn_addr_eq(function, wakeup))
                })
        }
    }
}
