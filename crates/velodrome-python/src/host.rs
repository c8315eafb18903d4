//! Runs a loop's callbacks: what the model asks of Python.

use std::{
    os::fd::{BorrowedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use pyo3::{exceptions::PyException, ffi, intern, prelude::*};
use velodrome::Host;

use crate::{
    callback::{Callback, PyKind},
    error::os_error,
    event_loop::{Loop, Methods},
    imports::{seam, seam_module},
    unwinder,
};

/// What is to be there when descriptors have run out was loaded, before the first sleep of a loop.
static PREPARED: AtomicBool = AtomicBool::new(false);

/// One run of a loop.
pub struct PyHost<'a, 'py> {
    pub event_loop: &'a Bound<'py, Loop>,
}

impl Host<PyKind> for PyHost<'_, '_> {
    type Exit = PyErr;

    #[inline]
    fn call(&self, callback: Callback) -> PyResult<()> {
        if self.event_loop.get().is_debug(self.event_loop.py()) {
            return self.call_timed(callback);
        }
        callback.run(self.event_loop)
    }

    fn falls_asleep(&self) -> PyResult<bool> {
        if PREPARED.load(Relaxed) {
            return self.listen_for_signals();
        }
        unwinder::prepare();
        match seam_module(self.event_loop.py()) {
            Err(error) if !error.is_instance_of::<PyException>(self.event_loop.py()) => {
                return Err(error);
            }
            // Who needs it will say what is wrong.
            imported => PREPARED.store(imported.is_ok(), Relaxed),
        }
        // Code in Python has run.
        self.listen_for_signals()?;
        Ok(true)
    }

    fn cannot_sleep(&self, error: velodrome::Errno) -> PyErr {
        os_error(error)
    }

    fn sleep<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R {
        self.event_loop.py().detach(wait)
    }

    /// While this is the only thread that Python knows of, nobody is kept waiting for the GIL. Another
    /// one is known before it can wait.
    #[inline]
    fn may_look_first(&self) -> bool {
        // SAFETY: the GIL is held, and of what these return only the calling thread's own state is
        // looked into. That stays: it is the calling thread's.
        unsafe {
            let (thread, interpreter) = (ffi::PyThreadState_Get(), ffi::PyInterpreterState_Get());
            ffi::PyInterpreterState_ThreadHead(interpreter) == thread
                && ffi::PyThreadState_Next(thread).is_null()
                && ffi::PyInterpreterState_Head() == interpreter
                && ffi::PyInterpreterState_Next(interpreter).is_null()
        }
    }

    fn polled(&self, signals: &[u8]) -> PyResult<()> {
        // As in asyncio, Python's own handlers come first. The numbers are out of the pipe: the loop's
        // handlers hear of them, whatever those raise.
        let checked = self.check_signals();
        if signals.is_empty() {
            return checked;
        }
        checked.and(self.signalled(signals))
    }

    #[inline]
    fn now_ns(&self) -> PyResult<Option<u64>> {
        if Loop::overrides(self.event_loop, Methods::TIME) {
            return Loop::own_now_ns(self.event_loop).map(Some);
        }
        Ok(None)
    }

    fn send_held(&self) -> PyResult<()> {
        self.event_loop.get().flush_deferred(self.event_loop.py())
    }
}

/// The user's wake-up descriptor, if there is one, hears of signals as if it were in place.
pub fn tell_user(users: RawFd, signals: &[u8]) {
    if users >= 0 && !signals.is_empty() {
        // SAFETY: the user put it in place as a wake-up descriptor and answers for it; a write to a
        // descriptor that was closed meanwhile fails.
        let users = unsafe { BorrowedFd::borrow_raw(users) };
        let _ = rustix::io::write(users, signals);
    }
}

impl PyHost<'_, '_> {
    /// From now on a signal ends a sleep. True if it is so only from now on.
    fn listen_for_signals(&self) -> PyResult<bool> {
        if !Loop::take_wakeup_fd(self.event_loop)? {
            return Ok(false);
        }
        // A signal that came before its descriptor would not end the sleep.
        self.check_signals()?;
        Ok(true)
    }

    /// Python-level signal handlers run here; what they raise leaves the loop.
    #[inline]
    fn check_signals(&self) -> PyResult<()> {
        // SAFETY: called with the GIL held.
        if unsafe { ffi::PyErr_CheckSignals() } != 0 {
            return Err(PyErr::fetch(self.event_loop.py()));
        }
        Ok(())
    }

    /// Debug mode: measures the call and names it if it was slow.
    #[cold]
    fn call_timed(&self, callback: Callback) -> PyResult<()> {
        let py = self.event_loop.py();
        let callback = callback.with_handle(self.event_loop)?;
        let subject = callback.describe(py);
        let clock = velodrome::Clock::Monotonic;
        let start_ns = clock.now_ns();
        // asyncio's default exception handler tells where the running handle was made.
        let current = intern!(py, "_current_handle");
        if callback.is_handle() {
            self.event_loop.setattr(current, &subject)?;
        }
        let result = callback.run(self.event_loop);
        self.event_loop.setattr(current, py.None())?;
        let seconds = (clock.now_ns() - start_ns) as f64 / 1e9;
        let threshold = self.event_loop.getattr(intern!(py, "slow_callback_duration"))?;
        if threshold.le(seconds)? {
            seam(py, "slow_callback", (subject, seconds))?;
        }
        result
    }

    /// Signals that the interpreter's handler wrote into our pipe.
    #[cold]
    fn signalled(&self, signals: &[u8]) -> PyResult<()> {
        let py = self.event_loop.py();
        tell_user(self.event_loop.get().user_wakeup_fd(py), signals);
        let mut result = Ok(());
        // 0 is no signal: somebody only wants the loop to wake up.
        for &signal in signals.iter().filter(|&&signal| signal != 0) {
            let handled = self.event_loop.call_method1(intern!(py, "_handle_signal"), (signal,));
            result = result.and(handled.map(drop));
        }
        result
    }
}
