//! A run of the loop: what it changes in its thread and in the process, and puts back at its end.

use std::{
    cell::RefCell,
    ffi::c_int,
    os::fd::RawFd,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use pyo3::{
    exceptions::{PyRuntimeError, PyValueError},
    intern,
    prelude::*,
    types::PyTuple,
};

use super::{Loop, thread_ident};
use crate::{
    error::os_error,
    gil::{GilBound, learn_to_attach},
    host::{PyHost, tell_user},
    imports::{imports, loaded, once},
    step_lane::StepLane,
};

/// The loops that run, of all threads.
static RUNNING: GilBound<RefCell<Vec<Py<Loop>>>> = GilBound::new(RefCell::new(Vec::new()));

/// Where the interpreter's signal handler writes while the loop runs.
#[derive(Clone, Copy)]
pub(super) enum WakeupFd {
    /// Where it did before: the loop has not slept in this run, and needs nothing to end a sleep.
    Untouched,
    /// Signals are no matter of the thread that runs the loop.
    NotOurs,
    /// To the loop's pipe, in place of the user's descriptor (-1: there is none).
    Ours { users: RawFd },
}

/// What a run changed in its thread, to be put back.
struct Run {
    asyncgen_hooks: Py<PyAny>,
}

/// Messages of about 100 KiB are allocated and freed all the time. glibc starts by giving memory
/// of that size back to the kernel at each free, and learns to keep it from the first larger block
/// that is freed (it then keeps up to twice its size at the heap's end): this is that block. A
/// hundred connections that echo 100 KiB need it this large, or every message costs page faults.
const PRIMING_BYTES: usize = 8 * 1024 * 1024;

fn prepare_allocator() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(PRIMING_BYTES))));
}

impl Loop {
    /// Runs the loop until it is stopped, or something leaves it.
    pub fn run(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        drop(slf.get().model(py)?);
        Self::check_running(slf)?;
        let run = Self::start_run(slf)?;
        let run_model =
            || slf.get().model(py).and_then(|model| model.run(&PyHost { event_loop: slf }));
        // A panic of ours becomes a Python exception like any other, and ends the run like one.
        let result = catch_unwind(AssertUnwindSafe(run_model));
        let ended = Self::end_run(slf, &run);
        match result {
            Ok(result) => result.and(ended),
            Err(panic) => resume_unwind(panic),
        }
    }

    pub(super) fn check_running(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if slf.get().state(py).thread.get().is_some() {
            return Err(PyRuntimeError::new_err("This event loop is already running"));
        }
        if !imports(py)?.events.bind(py).call_method0(intern!(py, "_get_running_loop"))?.is_none() {
            return Err(PyRuntimeError::new_err(
                "Cannot run the event loop while another loop is running",
            ));
        }
        Ok(())
    }

    fn start_run(slf: &Bound<'_, Self>) -> PyResult<Run> {
        let py = slf.py();
        learn_to_attach(py);
        let imports = imports(py)?;
        once(py, &imports.step_lane, || StepLane::learn(py))?;
        prepare_allocator();
        let run = Run { asyncgen_hooks: imports.get_asyncgen_hooks.call0(py)? };
        slf.get().state(py).thread.set(Some(thread_ident()));
        RUNNING.get(py).borrow_mut().push(slf.clone().unbind());
        match Self::enter_run(slf) {
            Ok(()) => Ok(run),
            Err(error) => Err(Self::end_run(slf, &run).err().unwrap_or(error)),
        }
    }

    fn enter_run(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let imports = loaded(py);
        if slf.get().is_debug(py) {
            slf.call_method1(intern!(py, "_set_coroutine_origin_tracking"), (true,))?;
        }
        imports.set_asyncgen_hooks.call1(
            py,
            (
                slf.getattr(intern!(py, "_asyncgen_firstiter_hook"))?,
                slf.getattr(intern!(py, "_asyncgen_finalizer_hook"))?,
            ),
        )?;
        imports.events.call_method1(py, intern!(py, "_set_running_loop"), (slf,))?;
        Ok(())
    }

    /// In the main thread, a signal must end the poller's sleep: the first sleep of a run puts our
    /// descriptor in place. Returns whether code in Python has run.
    pub fn take_wakeup_fd(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let wakeup_fd = &slf.get().state(py).wakeup_fd;
        if !matches!(wakeup_fd.get(), WakeupFd::Untouched) {
            return Ok(false);
        }
        let main_thread = loaded(py).main_thread.call0(py)?;
        let main: Option<usize> = main_thread.bind(py).getattr(intern!(py, "ident"))?.extract()?;
        if main != Some(thread_ident()) {
            wakeup_fd.set(WakeupFd::NotOurs);
            return Ok(true);
        }
        let ours = slf.get().model(py)?.signal_writer().map_err(os_error)?;
        let users = match loaded(py).set_wakeup_fd.call1(py, (ours,)) {
            // To the interpreter it is not the main thread, to `threading` it is: where Python is
            // embedded, that is the thread that was there first.
            Err(error) if error.is_instance_of::<PyValueError>(py) => {
                wakeup_fd.set(WakeupFd::NotOurs);
                return Ok(true);
            }
            users => users?.extract::<c_int>(py)?,
        };
        wakeup_fd.set(WakeupFd::Ours { users: if users == ours { -1 } else { users } });
        Ok(true)
    }

    fn end_run(slf: &Bound<'_, Self>, run: &Run) -> PyResult<()> {
        let py = slf.py();
        let imports = loaded(py);
        let state = slf.get().state(py);
        let wakeup_fd = match state.wakeup_fd.replace(WakeupFd::Untouched) {
            WakeupFd::Ours { users } => Self::give_wakeup_fd_back(slf, users),
            WakeupFd::Untouched | WakeupFd::NotOurs => Ok(()),
        };
        state.thread.set(None);
        let at = RUNNING.get(py).borrow().iter().rposition(|it| it.is(slf));
        if let Some(ended) = at.map(|at| RUNNING.get(py).borrow_mut().swap_remove(at)) {
            ended.drop_ref(py);
        }
        drop(state.loop_keyword.take());
        let no_loop = (py.None(),);
        let running = imports.events.call_method1(py, intern!(py, "_set_running_loop"), no_loop);
        let hooks = run.asyncgen_hooks.bind(py).cast::<PyTuple>().map_err(PyErr::from);
        let hooks = hooks.and_then(|hooks| imports.set_asyncgen_hooks.bind(py).call1(hooks));
        // The only one of Python code: a signal's handler may raise in it.
        let tracking = intern!(py, "_set_coroutine_origin_tracking");
        let tracking = slf.call_method1(tracking, (false,));
        [wakeup_fd, running.map(drop), hooks.map(drop), tracking.map(drop)].into_iter().collect()
    }

    /// Runs no Python code, in which the handler of a signal could raise before all is done: what
    /// stays in place is written to after the loop has closed it.
    fn give_wakeup_fd_back(slf: &Bound<'_, Self>, users: RawFd) -> PyResult<()> {
        let py = slf.py();
        let set_wakeup_fd = loaded(py).set_wakeup_fd.bind(py);
        let ours = slf.get().model(py)?.signal_writer().map_err(os_error)?;
        let has_handlers = slf.getattr(intern!(py, "_signal_handlers"))?.is_truthy()?;
        let next = if users == -1 && has_handlers { ours } else { users };
        let (present, is_back) = match set_wakeup_fd.call1((next,)) {
            Ok(present) => (present, users >= 0),
            // The user has closed it meanwhile: nothing is put back.
            Err(_) => (set_wakeup_fd.call1((-1,))?, false),
        };
        let present: c_int = present.extract()?;
        if present != ours {
            // Somebody set another one during the run: it stays, unless it is closed by now.
            let _ = set_wakeup_fd.call1((present,));
        } else if is_back {
            // It hears of those of the last turn; the loop's own handlers do so in the next run.
            tell_user(users, &slf.get().model(py)?.signals_since_poll(has_handlers));
        }
        Ok(())
    }

    pub fn user_wakeup_fd(&self, py: Python<'_>) -> RawFd {
        match self.0.get(py).wakeup_fd.get() {
            WakeupFd::Ours { users } => users,
            WakeupFd::Untouched | WakeupFd::NotOurs => -1,
        }
    }

    /// Sends what the transports of all loops hold back. None does that while it does not run.
    pub fn flush_running(py: Python<'_>) -> PyResult<()> {
        let running =
            RUNNING.get(py).borrow().iter().map(|it| it.clone_ref(py)).collect::<Vec<_>>();
        let flushed = running.iter().map(|it| it.get().flush_deferred(py));
        // Each is flushed, whatever the others raise.
        flushed.fold(Ok(()), PyResult::and)
    }
}
