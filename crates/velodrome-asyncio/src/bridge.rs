//! The driver of Rust futures on a Python loop, and where each thread keeps its own.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Waker,
};

use pyo3::{intern, prelude::*, types::PyDict};
use velodrome::{
    ExceptionContext, FdWakers, Readiness, Step, Task, TimerKey,
    driver::{self, Driver},
    executor::{Executor, Thread},
};

use crate::{
    gil::{self, InContext, panic_error},
    shared::{ABANDONED, Job, Shared, Timer, ToLoop, Work},
};

/// The futures on one loop in this thread.
pub struct Bridge {
    pub shared: Arc<Shared>,
    executor: Executor,
    /// What polls the futures that Python awaits, by its number.
    roots: RefCell<HashMap<u64, Task<()>>>,
    callbacks: RefCell<VecDeque<Box<dyn FnOnce()>>>,
    fds: RefCell<HashMap<RawFd, Watched>>,
    /// A future is being polled: the GIL may be released.
    is_detached: Cell<bool>,
    /// `KeyboardInterrupt` or `SystemExit`, which leaves the loop.
    leaving: Cell<Option<PyErr>>,
}

struct Watched {
    wakers: Rc<FdWakers>,
    name: usize,
}

impl Bridge {
    pub fn new(shared: Arc<Shared>) -> Rc<Self> {
        let bridge = Rc::new(Bridge {
            executor: Executor::new(ToLoop(Arc::clone(&shared))),
            shared,
            roots: RefCell::default(),
            callbacks: RefCell::default(),
            fds: RefCell::default(),
            is_detached: Cell::new(false),
            leaving: Cell::new(None),
        });
        bridge.executor.bind(Rc::clone(&bridge) as Rc<dyn Driver>);
        keep(&bridge);
        bridge
    }

    /// The bridge whose future is being polled.
    pub fn current() -> Option<Rc<Self>> {
        let driver: Rc<dyn Any> = driver::current().ok()?;
        driver.downcast().ok()
    }

    /// Polls `future` by a task of its own, whose number it returns.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> u64 {
        let task = self.executor.spawn(future);
        let number = task.handle().id();
        self.roots.borrow_mut().insert(number, task);
        number
    }

    /// The future of the task that is being polled has its outcome: nobody can end it any more.
    pub fn finished(&self) -> Option<u64> {
        let number = self.executor.current_task()?.id();
        let task = self.roots.borrow_mut().remove(&number);
        drop(task);
        Some(number)
    }

    /// Leaves the loop with an exception, once the step that is under way has ended.
    pub fn leave_with(&self, error: PyErr) {
        self.leaving.set(Some(error));
    }

    /// Drops a future that nobody awaits any more, if it is not done.
    pub fn abort(self: &Rc<Self>, py: Python<'_>, number: u64) {
        let task = self.roots.borrow_mut().remove(&number);
        if let Some(task) = task {
            drop(self.shared.take_root(number));
            self.run_detached(py, move || task.abort());
        }
    }

    /// Runs a job of the loop's. What it returns leaves the loop, or is reported.
    pub fn run(self: &Rc<Self>, py: Python<'_>, work: Work) -> PyResult<()> {
        match work {
            Work::Woken(woken) => woken.resume(),
            Work::Callback => {
                let callback = self.callbacks.borrow_mut().pop_front();
                if let Some(callback) = callback {
                    self.run_detached(py, callback);
                }
            }
            Work::Step(step) => {
                let context = self.shared.context(py, step.id());
                let entered = context.as_ref().map(InContext::enter);
                let _in_context = entered.and_then(|entered| {
                    entered.map_err(|error| error.write_unraisable(py, None)).ok()
                });
                self.run_detached(py, move || step.run());
            }
        }
        self.leaving.take().map_or(Ok(()), Err)
    }

    /// With the GIL released, and as the driver of the thread.
    fn run_detached(self: &Rc<Self>, py: Python<'_>, function: impl FnOnce() + 'static) {
        struct Ended<'a>(&'a Bridge, bool);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.is_detached.set(self.1);
            }
        }
        let _entered = driver::enter(Rc::clone(self) as Rc<dyn Driver>);
        let _ended = Ended(self, self.is_detached.replace(true));
        gil::detached(py, function);
    }

    /// The loop has found a change.
    pub fn fd_ready(&self, fd: RawFd, readiness: Readiness) {
        let wakers = self.fds.borrow().get(&fd).map(|watched| Rc::clone(&watched.wakers));
        if let Some(wakers) = wakers {
            wakers.ready(readiness, Waker::wake);
        }
    }

    /// Drops all futures.
    fn close(&self) {
        self.executor.close();
        let left = (self.roots.take(), self.callbacks.take(), self.fds.take());
        drop(left);
    }

    fn attached<R>(&self, function: impl FnOnce(Python<'_>) -> R) -> Option<R> {
        if self.shared.is_closed() { None } else { Python::try_attach(function) }
    }

    fn queue(&self, work: Work) {
        let job = Job { shared: Arc::clone(&self.shared), work };
        if self.shared.is_closed() {
            return;
        }
        if self.is_detached.get() {
            self.shared.target.queue_detached(job);
        } else {
            self.attached(|py| self.shared.target.queue(py, job));
        }
    }
}

impl Driver for Bridge {
    fn executor(&self) -> &Executor {
        &self.executor
    }

    fn schedule(&self, step: Step) {
        self.queue(Work::Step(step));
    }

    fn call_soon(&self, callback: Box<dyn FnOnce()>) {
        self.callbacks.borrow_mut().push_back(callback);
        self.queue(Work::Callback);
    }

    fn set_timer(&self, delay_ns: u64, waker: Waker) -> TimerKey {
        let timer = Timer { shared: Arc::clone(&self.shared), waker };
        let key = self.attached(|py| {
            let deadline_ns = self.shared.target.now_ns(py).saturating_add(delay_ns);
            self.shared.target.set_timer(py, deadline_ns, timer)
        });
        // On a closed loop it names none.
        let key = key.flatten().and_then(|key| TimerKey::try_from(key).ok());
        key.unwrap_or_else(|| TimerKey::try_from(u64::MAX).expect("a number that is no timer's"))
    }

    fn renew_timer(&self, key: TimerKey, waker: &Waker) -> bool {
        let renewed = self.attached(|py| self.shared.target.renew_timer(py, key.into(), waker));
        renewed.unwrap_or(false)
    }

    fn cancel_timer(&self, key: TimerKey) {
        self.attached(|py| self.shared.target.cancel_timer(py, key.into()));
    }

    fn add_fd(&self, fd: BorrowedFd<'_>, wakers: Rc<FdWakers>) -> io::Result<()> {
        let added = self.attached(|py| self.shared.target.add_fd(py, fd, &self.shared));
        let name = added.unwrap_or_else(|| Err(io::Error::other(velodrome::Error::Closed)))?;
        self.fds.borrow_mut().insert(fd.as_raw_fd(), Watched { wakers, name });
        Ok(())
    }

    fn remove_fd(&self, fd: RawFd) {
        let watched = self.fds.borrow_mut().remove(&fd);
        if let Some(Watched { name, .. }) = watched {
            self.attached(|py| self.shared.target.remove_fd(py, fd, name));
        }
    }

    fn report(&self, context: ExceptionContext) {
        self.attached(|py| {
            if let Err(error) = self.report_to_loop(py, &context) {
                error.write_unraisable(py, None);
            }
        });
    }
}

impl Bridge {
    fn report_to_loop(&self, py: Python<'_>, context: &ExceptionContext) -> PyResult<()> {
        let error = panic_error(context.exception.as_ref());
        let Some(event_loop) = self.shared.event_loop(py) else { return Err(error) };
        let of_task = context.task.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        let told = PyDict::new(py);
        told.set_item(intern!(py, "message"), format!("{}{of_task}", context.message))?;
        told.set_item(intern!(py, "exception"), error.value(py))?;
        event_loop.call_method1(intern!(py, "call_exception_handler"), (told,)).map(drop)
    }
}

// ---- the bridges of this thread --------------------------------------------------------------

/// Closes the bridge in the end, which its own futures would otherwise keep.
pub struct Owner(Rc<Bridge>);

impl Owner {
    /// Drops the futures with the GIL released: a thread that they wait for may need it.
    pub fn close(self, py: Python<'_>) {
        gil::detached(py, move || drop(self));
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[derive(Default)]
struct Bridges {
    by_id: HashMap<u64, Owner>,
    /// How many were abandoned when this thread last looked.
    abandoned: u64,
}

thread_local! {
    static BRIDGES: RefCell<Bridges> = RefCell::default();
}

fn keep(bridge: &Rc<Bridge>) {
    let owner = Owner(Rc::clone(bridge));
    let kept = BRIDGES.with(|all| all.borrow_mut().by_id.insert(bridge.shared.id, owner));
    drop(kept);
}

/// The bridge, if it is one of this thread's.
pub fn of(shared: &Shared) -> Option<Rc<Bridge>> {
    if shared.thread != Thread::current() {
        return None;
    }
    // There are none any more when the thread ends.
    let found = BRIDGES
        .try_with(|all| all.borrow().by_id.get(&shared.id).map(|Owner(bridge)| Rc::clone(bridge)));
    found.ok().flatten()
}

/// The bridge, if it is one of this thread's; the thread has it no more.
pub fn take(shared: &Shared) -> Option<Owner> {
    let taken = BRIDGES.try_with(|all| all.borrow_mut().by_id.remove(&shared.id));
    taken.ok().flatten()
}

/// Closes what other threads have left to this one.
pub fn close_abandoned(py: Python<'_>) {
    let abandoned = ABANDONED.load(Relaxed);
    let left: Vec<(u64, Owner)> = BRIDGES.with(|all| {
        let mut all = all.borrow_mut();
        if all.abandoned == abandoned {
            return Vec::new();
        }
        all.abandoned = abandoned;
        all.by_id.extract_if(|_, Owner(bridge)| bridge.shared.is_closed()).collect()
    });
    left.into_iter().for_each(|(_, owner)| owner.close(py));
}
