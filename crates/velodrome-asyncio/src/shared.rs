//! What all threads may know of the futures on one loop in one thread, and the Python objects that
//! belong to them.

use std::{
    collections::HashMap,
    io,
    os::fd::{BorrowedFd, RawFd},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::PyRuntimeError,
    intern,
    prelude::*,
    types::{PyWeakrefMethods, PyWeakrefReference},
};
use velodrome::{
    Step, Woken,
    executor::{Remote, Thread},
};

use crate::bridge::{self, Bridge};

/// The futures on one loop in one thread.
///
/// It does not own the loop, nor any object that the garbage collector cannot see: those are visited by
/// way of the loop's attribute (`loop_state.rs`).
pub struct Shared {
    pub id: u64,
    pub thread: Thread,
    pub target: Box<dyn Target>,
    event_loop: Py<PyWeakrefReference>,
    /// Nothing is polled any more.
    closed: AtomicBool,
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    /// By the number of the task that polls the future.
    roots: HashMap<u64, Root>,
    /// What Rust futures await.
    awaited: HashMap<u64, Py<PyAny>>,
    next_awaited: u64,
}

/// The Python side of a Rust future.
pub struct Root {
    pub future: Py<PyAny>,
    pub context: Py<PyAny>,
}

/// The loop, as the bridge needs it: velodrome's by its table, any other by its methods.
pub trait Target: Send + Sync {
    fn is_fallback(&self) -> bool;
    fn now_ns(&self, py: Python<'_>) -> u64;
    /// Has it run in the next iteration. In the loop's thread, as the others. A closed loop drops it.
    fn queue(&self, py: Python<'_>, job: Job);
    /// The same without the GIL, or maybe so.
    fn queue_detached(&self, job: Job);
    /// From any thread, attached or not.
    fn send(&self, job: Job);
    /// `None` if the loop is closed.
    fn set_timer(&self, py: Python<'_>, deadline_ns: u64, timer: Timer) -> Option<u64>;
    fn renew_timer(&self, py: Python<'_>, key: u64, waker: &Waker) -> bool;
    fn cancel_timer(&self, py: Python<'_>, key: u64);
    /// Returns what names the registration.
    fn add_fd(&self, py: Python<'_>, fd: BorrowedFd<'_>, shared: &Arc<Shared>)
    -> io::Result<usize>;
    fn remove_fd(&self, py: Python<'_>, fd: RawFd, name: usize);
    /// Closes the bridge when the loop is closed, if the loop tells of it. False if it is closed.
    fn close_with_loop(&self, shared: &Arc<Shared>) -> bool;
    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;
    /// Drops the Python objects.
    fn clear(&self);
}

/// Something for the loop to run.
pub struct Job {
    pub shared: Arc<Shared>,
    pub work: Work,
}

pub enum Work {
    Step(Step),
    Woken(Woken),
    /// The next of the bridge's callbacks.
    Callback,
}

// SAFETY: a step is run in the thread of its executor alone, which `run` makes sure of. Others only drop
// it, and a task's owners are counted atomically: the last one frees memory whose future is gone.
unsafe impl Send for Job {}

impl Job {
    pub fn run(self, py: Python<'_>) -> PyResult<()> {
        match self.shared.bridge(py) {
            Some(bridge) => bridge.run(py, self.work),
            None => Ok(()),
        }
    }
}

/// A time that a task waits for.
pub struct Timer {
    pub shared: Arc<Shared>,
    pub waker: Waker,
}

impl Timer {
    pub fn run(self, py: Python<'_>) {
        if self.shared.bridge(py).is_some() {
            self.waker.wake();
        }
    }
}

/// How wakers reach the loop from other threads.
pub struct ToLoop(pub Arc<Shared>);

impl Remote for ToLoop {
    fn send(&self, woken: Woken) {
        if !self.0.is_closed() {
            let job = Job { shared: Arc::clone(&self.0), work: Work::Woken(woken) };
            self.0.target.send(job);
        }
    }
}

/// How often futures were left behind in a thread that was not the one that closed them.
pub static ABANDONED: AtomicU64 = AtomicU64::new(0);

impl Shared {
    pub fn new(event_loop: &Bound<'_, PyAny>, target: Box<dyn Target>) -> PyResult<Arc<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Arc::new(Shared {
            id: NEXT.fetch_add(1, Relaxed),
            thread: Thread::current(),
            target,
            event_loop: PyWeakrefReference::new(event_loop)?.unbind(),
            closed: AtomicBool::new(false),
            objects: Mutex::default(),
        }))
    }

    pub fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.event_loop.bind(py).upgrade()
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// The bridge, if this is its thread. If the loop runs in another one, the futures have failed.
    pub fn bridge(self: &Arc<Self>, py: Python<'_>) -> Option<Rc<Bridge>> {
        if self.is_closed() {
            return None;
        }
        let bridge = bridge::of(self);
        if bridge.is_none() {
            self.fail(py);
        }
        bridge
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        // No code of Python's runs under the lock, so it is whole even after a panic.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add_root(&self, task: u64, root: Root) {
        self.objects().roots.insert(task, root);
    }

    pub fn take_root(&self, task: u64) -> Option<Root> {
        self.objects().roots.remove(&task)
    }

    pub fn context<'py>(&self, py: Python<'py>, task: u64) -> Option<Bound<'py, PyAny>> {
        self.objects().roots.get(&task).map(|root| root.context.bind(py).clone())
    }

    pub fn add_awaited(&self, awaited: Py<PyAny>) -> u64 {
        let mut objects = self.objects();
        let key = objects.next_awaited;
        objects.next_awaited += 1;
        objects.awaited.insert(key, awaited);
        key
    }

    pub fn take_awaited(&self, key: u64) -> Option<Py<PyAny>> {
        self.objects().awaited.remove(&key)
    }

    /// The loop runs in another thread: nobody can poll the futures, and who awaits them hears of it.
    #[cold]
    fn fail(self: &Arc<Self>, py: Python<'_>) {
        let roots = std::mem::take(&mut self.objects().roots);
        for root in roots.into_values() {
            let error = PyRuntimeError::new_err(
                "the event loop runs in another thread than the one to which this Rust future belongs",
            );
            let future = root.future.bind(py);
            let failed = set_exception(future, &error);
            if let Err(error) = failed {
                error.write_unraisable(py, Some(future));
            }
        }
        self.close(py);
    }

    /// Drops the futures, if this is their thread; else that does so as soon as it comes by, or ends.
    pub fn close(self: &Arc<Self>, py: Python<'_>) {
        if self.closed.swap(true, Relaxed) {
            return;
        }
        match bridge::take(self) {
            Some(owner) => owner.close(py),
            None => _ = ABANDONED.fetch_add(1, Relaxed),
        }
        let objects = std::mem::take(&mut *self.objects());
        drop(objects);
        self.target.clear();
    }

    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Whoever holds the lock is attached and will change it: what is not visited is kept.
        if let Ok(objects) = self.objects.try_lock() {
            for root in objects.roots.values() {
                visit.call(&root.future)?;
                visit.call(&root.context)?;
            }
            objects.awaited.values().try_for_each(|awaited| visit.call(awaited))?;
        }
        self.target.visit(visit)
    }
}

/// Ends a future with an error, unless it is done.
pub fn set_exception(future: &Bound<'_, PyAny>, error: &PyErr) -> PyResult<()> {
    let py = future.py();
    if future.call_method0(intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    let name = intern!(py, "set_exception");
    match future.call_method1(name, (error.value(py),)) {
        Ok(_) => Ok(()),
        // Not every exception can be one's: `StopIteration`.
        Err(refused) => future.call_method1(name, (refused.value(py),)).map(drop),
    }
}
