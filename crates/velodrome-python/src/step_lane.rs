//! The task-step lane: recognises what CPython's own C `Task` passes to `call_soon`.
//!
//! A step of a task is one `loop.call_soon(step, context=...)`, a wake-up by a future of C is
//! `loop.call_soon(wakeup, future, context=...)`; both drop the handle at once. Nobody else passes
//! these: a step is not to be had in Python, and an awaitable of somebody else's, which is given the
//! wake-up, passes itself. So for exactly those no handle is made. The step's type, the wake-up
//! function and the future's type are learnt from a task that runs for this purpose on a stand-in
//! loop; if a Python does it in another way, nothing is recognised and every step takes the common
//! path.

use pyo3::{ffi, intern, prelude::*, types::PyCFunction};

pub struct StepLane {
    /// The type of the object that a task passes for its steps.
    step_type: Option<Py<PyAny>>,
    /// The C function beneath the bound method that a task passes for its wake-ups.
    wakeup: Option<ffi::PyCFunction>,
    /// C's classes of futures, whose own code schedules the wake-up.
    futures: [Py<PyAny>; 2],
}

impl StepLane {
    pub fn learn(py: Python<'_>) -> PyResult<Self> {
        let found = py
            .import(intern!(py, "velodrome._seam"))?
            .getattr(intern!(py, "learn_task_callbacks"))?
            .call0()?;
        let (step, wakeup): (Option<Bound<'_, PyAny>>, Option<Bound<'_, PyAny>>) =
            found.extract()?;
        let class = |module: &str, name: &str| py.import(module)?.getattr(name).map(Bound::unbind);
        Ok(StepLane {
            futures: [class("asyncio.futures", "Future")?, class("asyncio.tasks", "Task")?],
            step_type: step.map(|step| step.get_type().into_any().unbind()),
            wakeup: wakeup
                .filter(|wakeup| wakeup.cast_exact::<PyCFunction>().is_ok())
                // SAFETY: it is exactly a built-in function, as just checked.
                .and_then(|wakeup| unsafe { ffi::PyCFunction_GetFunction(wakeup.as_ptr()) }),
        })
    }

    /// Whether `callback(*arguments)` is a step or a wake-up of a C task.
    #[inline]
    pub fn recognises(
        &self,
        callback: *mut ffi::PyObject,
        arguments: &[*mut ffi::PyObject],
    ) -> bool {
        // SAFETY: all are live objects; types are read from their headers, and the function only
        // from an object that is exactly a built-in function.
        unsafe {
            let class = ffi::Py_TYPE(callback);
            let &[future] = arguments else {
                return arguments.is_empty()
                    && self.step_type.as_ref().is_some_and(|step| step.as_ptr() == class.cast());
            };
            let future_class = ffi::Py_TYPE(future).cast();
            class == (&raw mut ffi::PyCFunction_Type)
                && self.futures.iter().any(|class| class.as_ptr() == future_class)
                && self.wakeup.is_some_and(|wakeup| {
                    ffi::PyCFunction_GetFunction(callback)
                        .is_some_and(|function| std::ptr::fn_addr_eq(function, wakeup))
                })
        }
    }
}
