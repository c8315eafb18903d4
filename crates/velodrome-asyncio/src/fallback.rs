//! Any other event loop, by the methods that asyncio gives it: slower, and for those who ask for it.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

use pyo3::{
    PyTraverseError, PyVisit, intern,
    prelude::*,
    types::{PyWeakrefMethods, PyWeakrefReference},
};
use velodrome::{
    Interest,
    poller::{Events, Poller, Token},
};

use crate::shared::{Job, Shared, Target, Timer};

pub struct Asyncio(Arc<Inner>);

struct Inner {
    event_loop: Py<PyWeakrefReference>,
    timers: Mutex<HashMap<u64, Waiting>>,
    next_timer: AtomicU64,
    /// Has the edges that asyncio's loops do not tell; the loop watches it alone.
    poller: OnceLock<Poller>,
}

struct Waiting {
    timer: Timer,
    /// The loop's.
    handle: Option<Py<PyAny>>,
}

impl Asyncio {
    pub fn new(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Asyncio(Arc::new(Inner {
            event_loop: PyWeakrefReference::new(event_loop)?.unbind(),
            timers: Mutex::default(),
            // A timer's number has something in its upper half.
            next_timer: AtomicU64::new(1 << 32),
            poller: OnceLock::new(),
        })))
    }
}

impl Inner {
    /// Calls a method of the loop's; nothing if it is gone.
    fn with_loop<R>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<R>,
    ) -> Option<R> {
        let event_loop = self.event_loop.bind(py).upgrade()?;
        let called = call(&event_loop);
        called.inspect_err(|error| error.clone_ref(py).write_unraisable(py, Some(&event_loop))).ok()
    }

    fn timers(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        // No code of Python's runs under the lock.
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(event_loop: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(!event_loop.call_method0(intern!(event_loop.py(), "is_closed"))?.is_truthy()?)
    }

    fn schedule(&self, py: Python<'_>, job: Job, method: &str) {
        self.with_loop(py, |event_loop| {
            if Self::is_open(event_loop)? {
                let callback = Bound::new(py, JobCallback(Mutex::new(Some(job))))?;
                event_loop.call_method1(method, (callback,))?;
            }
            Ok(())
        });
    }

    fn poller(self: &Arc<Self>, py: Python<'_>, shared: &Arc<Shared>) -> io::Result<&Poller> {
        if let Some(poller) = self.poller.get() {
            return Ok(poller);
        }
        let made = Poller::new()?;
        let poller = self.poller.get_or_init(|| made);
        let event_loop = self.event_loop.bind(py).upgrade();
        let event_loop = event_loop.ok_or_else(|| io::Error::other(velodrome::Error::Closed))?;
        let callback = PollerCallback { inner: Arc::clone(self), shared: Arc::clone(shared) };
        let callback = Bound::new(py, callback);
        let added = callback.and_then(|callback| {
            let number = poller.as_fd().as_raw_fd();
            event_loop.call_method1(intern!(py, "add_reader"), (number, callback))
        });
        added.map_err(io::Error::other)?;
        Ok(poller)
    }
}

impl Target for Asyncio {
    fn is_fallback(&self) -> bool {
        true
    }

    fn now_ns(&self, py: Python<'_>) -> u64 {
        let now: Option<f64> = self
            .0
            .with_loop(py, |event_loop| event_loop.call_method0(intern!(py, "time"))?.extract());
        (now.unwrap_or(0.0) * 1e9) as u64
    }

    fn queue(&self, py: Python<'_>, job: Job) {
        self.0.schedule(py, job, "call_soon");
    }

    fn queue_detached(&self, job: Job) {
        Python::try_attach(|py| self.queue(py, job));
    }

    fn send(&self, job: Job) {
        Python::try_attach(|py| self.0.schedule(py, job, "call_soon_threadsafe"));
    }

    fn set_timer(&self, py: Python<'_>, deadline_ns: u64, timer: Timer) -> Option<u64> {
        let key = self.0.next_timer.fetch_add(1, Relaxed);
        self.0.timers().insert(key, Waiting { timer, handle: None });
        let handle = self.0.with_loop(py, |event_loop| {
            let callback = Bound::new(py, TimerCallback { inner: Arc::clone(&self.0), key })?;
            let when = (deadline_ns as f64 / 1e9).next_up();
            event_loop.call_method1(intern!(py, "call_at"), (when, callback)).map(Bound::unbind)
        });
        let Some(handle) = handle else {
            let refused = self.0.timers().remove(&key);
            drop(refused);
            return None;
        };
        if let Some(waiting) = self.0.timers().get_mut(&key) {
            waiting.handle = Some(handle);
        }
        Some(key)
    }

    fn renew_timer(&self, _py: Python<'_>, key: u64, waker: &Waker) -> bool {
        let mut timers = self.0.timers();
        let Some(waiting) = timers.get_mut(&key) else { return false };
        if !waiting.timer.waker.will_wake(waker) {
            let replaced = std::mem::replace(&mut waiting.timer.waker, waker.clone());
            drop(timers);
            drop(replaced);
        }
        true
    }

    fn cancel_timer(&self, py: Python<'_>, key: u64) {
        let cancelled = self.0.timers().remove(&key);
        if let Some(Waiting { handle: Some(handle), .. }) = cancelled
            && let Err(error) = handle.call_method0(py, intern!(py, "cancel"))
        {
            error.write_unraisable(py, Some(handle.bind(py)));
        }
    }

    fn add_fd(
        &self,
        py: Python<'_>,
        fd: BorrowedFd<'_>,
        shared: &Arc<Shared>,
    ) -> io::Result<usize> {
        let token = Token::new(u64::from(fd.as_raw_fd().cast_unsigned()));
        let interest = Interest::READ | Interest::WRITE | Interest::EDGE;
        self.0.poller(py, shared)?.add(fd, token, interest)?;
        Ok(0)
    }

    fn remove_fd(&self, _py: Python<'_>, fd: RawFd, _name: usize) {
        if let Some(poller) = self.0.poller.get() {
            // SAFETY: who asks for it has the descriptor open still.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            // One that was closed before is there no more.
            let _ = poller.delete(fd);
        }
    }

    fn close_with_loop(&self, _shared: &Arc<Shared>) -> bool {
        // Such a loop tells nobody that it closes. The futures go with the loop itself.
        true
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(timers) = self.0.timers.try_lock() else { return Ok(()) };
        timers.values().try_for_each(|waiting| visit.call(&waiting.handle))
    }

    fn clear(&self) {
        let timers = std::mem::take(&mut *self.0.timers());
        drop(timers);
    }
}

#[pyclass(frozen)]
struct JobCallback(Mutex<Option<Job>>);

#[pymethods]
impl JobCallback {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let job = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        job.map_or(Ok(()), |job| job.run(py))
    }
}

#[pyclass(frozen)]
struct TimerCallback {
    inner: Arc<Inner>,
    key: u64,
}

#[pymethods]
impl TimerCallback {
    fn __call__(&self, py: Python<'_>) {
        let due = self.inner.timers().remove(&self.key);
        if let Some(Waiting { timer, .. }) = due {
            timer.run(py);
        }
    }
}

/// Tells of the edges that the poller has found.
#[pyclass(frozen)]
struct PollerCallback {
    inner: Arc<Inner>,
    shared: Arc<Shared>,
}

#[pymethods]
impl PollerCallback {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let mut events = Events::default();
        if let Some(poller) = self.inner.poller.get() {
            poller.wait(Some(0), &mut events).map_err(io::Error::from)?;
        }
        if let Some(bridge) = self.shared.bridge(py) {
            for event in events.iter() {
                bridge.fd_ready((event.token.number() as u32).cast_signed(), event.readiness);
            }
        }
        Ok(())
    }
}
