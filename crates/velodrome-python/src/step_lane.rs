//! The task-step lane: recognises what CPython's own C `Task` passes to `call_soon`.
//!
//! A step of a task is one `loop.call_soon(step, context=...)`, a wake-up by a future of C is
//! `loop.call_soon(wakeup, future, context=...)`; both drop the handle at once. Nobody else passes
//! these: a step is not to be had in Python, and an awaitable of somebody else's, which is given the
//! wake-up, passes itself. So for exactly those no handle is made. The step's type, the wake-up
//! function and the future's type are learnt from a task that runs for this purpose on a stand-in
//! loop, before a loop runs for the first time; if a Python does it in another way, nothing is recognised
//! and every step takes the common path.

use pyo3::{
    exceptions::PyException,
    ffi, intern,
    prelude::*,
    types::{PyCFunction, PyDict, PyList, PyModule, PyTuple},
};

use crate::{imports::imports, originals};

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
        let imports = imports(py)?;
        // Nothing is imported: the interpreter may be about to end.
        let class = |names: &Py<PyDict>, name| names.bind(py).get_item(name);
        let (Some(future), Some(task)) =
            (class(&imports.futures, "Future")?, class(&imports.tasks, "Task")?)
        else {
            return Ok(StepLane { step_type: None, wakeup: None, futures: [py.None(), py.None()] });
        };
        let futures = [future, task];
        let (step, wakeup) = learn_callbacks(&futures, imports.events.bind(py))?.unzip();
        Ok(StepLane {
            futures: futures.map(Bound::unbind),
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

/// What a C task has passed for its step and its wake-up.
type Learnt<'py> = Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>;

/// A task that does it in another way is not recognised, and all is well.
fn learn_callbacks<'py>(
    classes: &[Bound<'py, PyAny>; 2],
    events: &Bound<'py, PyAny>,
) -> PyResult<Learnt<'py>> {
    let [future_class, task_class] = classes;
    let py = task_class.py();
    if !task_class.getattr(intern!(py, "__module__"))?.eq(intern!(py, "_asyncio"))? {
        return Ok(None); // asyncio in Python, without its accelerator
    }
    let Some(package) = originals::loop_module(py) else { return Ok(None) };
    // None, unless a program has found a way to run a loop within another.
    let running = events.call_method0(intern!(py, "_get_running_loop"))?;
    let calls = PyList::empty(py);
    let stand_in = stand_in(&calls)?;
    events.call_method1(intern!(py, "_set_running_loop"), (&stand_in,))?;
    let run = || -> PyResult<_> {
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "loop"), &stand_in)?;
        let future = future_class.call((), Some(&keywords))?;
        // With a name: who has none is counted, and a program's first task is Task-1.
        keywords.set_item(intern!(py, "name"), "velodrome")?;
        let coroutine = package.call_method1(intern!(py, "_wait_for"), (&future,))?;
        let task = task_class.call((coroutine,), Some(&keywords))?;
        let step = calls.get_item(0)?;
        step.call0()?;
        future.call_method1(intern!(py, "set_result"), (py.None(),))?;
        let wakeup = calls.get_item(1)?;
        wakeup.call1((future,))?;
        task.call_method0(intern!(py, "result"))?;
        Ok((step, wakeup))
    };
    let learnt = run();
    events.call_method1(intern!(py, "_set_running_loop"), (running,))?;
    // They know the loop, whose method knows the list.
    calls.del_slice(0, calls.len())?;
    match learnt {
        Err(error) if error.is_instance_of::<PyException>(py) => Ok(None),
        learnt => learnt.map(Some),
    }
}

/// As much of a loop as a task needs: a module, which has no class to be made.
fn stand_in<'py>(calls: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyModule>> {
    let py = calls.py();
    let stand_in = PyModule::new(py, "velodrome")?;
    let calls = calls.clone().unbind();
    let call_soon = move |arguments: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        calls.bind(arguments.py()).append(arguments.get_item(0)?)
    };
    stand_in.setattr("call_soon", PyCFunction::new_closure(py, None, None, call_soon)?)?;
    // `bool()` is False.
    stand_in.setattr("get_debug", py.get_type::<pyo3::types::PyBool>())?;
    Ok(stand_in)
}
