//! What futures need of the loop that polls them, and which loop that is.
//!
//! The crate's own [`EventLoop`](crate::EventLoop) is one driver; a loop of another language can be
//! another. Sockets, timers and tasks of this crate run on whichever drives their thread.

use std::{
    any::Any,
    cell::RefCell,
    io,
    os::fd::{BorrowedFd, RawFd},
    rc::Rc,
    task::Waker,
};

use crate::{
    TimerKey,
    async_fd::FdWakers,
    error::Error,
    executor::Executor,
    task::{ExceptionContext, Step},
};

/// A loop, as futures see it. Every method is called in the loop's own thread.
///
/// It is `Any`, so that the one who made it knows it again.
pub trait Driver: Any {
    /// The tasks of the loop.
    fn executor(&self) -> &Executor;

    /// Queues a step of a task for the next tick.
    fn schedule(&self, step: Step);

    /// Queues a callback for the next tick.
    fn call_soon(&self, callback: Box<dyn FnOnce()>);

    /// Wakes after so long by the loop's clock, never before.
    fn set_timer(&self, delay_ns: u64, waker: Waker) -> TimerKey;

    /// Who is woken by a timer from now on; false if it waits no more.
    fn renew_timer(&self, key: TimerKey, waker: &Waker) -> bool;

    /// Takes a timer back, if it still waits.
    fn cancel_timer(&self, key: TimerKey);

    /// Reports changes of a descriptor's readiness, both ways, until [`Driver::remove_fd`].
    fn add_fd(&self, fd: BorrowedFd<'_>, wakers: Rc<FdWakers>) -> io::Result<()>;

    /// Before the descriptor is closed.
    fn remove_fd(&self, fd: RawFd);

    /// A task or a callback panicked and nobody waits for it.
    fn report(&self, context: ExceptionContext);
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Driver>>> = const { RefCell::new(None) };
}

/// Makes `driver` the one of this thread until the guard is dropped.
pub fn enter(driver: Rc<dyn Driver>) -> Entered {
    Entered { before: CURRENT.replace(Some(driver)) }
}

/// See [`enter`].
#[must_use = "the driver is left when this is dropped"]
pub struct Entered {
    before: Option<Rc<dyn Driver>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // The one that leaves is dropped when nothing is borrowed.
        let _left = CURRENT.replace(self.before.take());
    }
}

/// The driver of this thread, while it runs.
pub fn current() -> Result<Rc<dyn Driver>, Error> {
    // In a thread that ends there is none any more.
    let current = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten();
    current.ok_or(Error::NoRunningLoop)
}

/// The driver of this thread, for a future that is being polled.
///
/// Panics if there is none: then the future is polled by something that is not a loop.
pub(crate) fn polling() -> Rc<dyn Driver> {
    match current() {
        Ok(driver) => driver,
        Err(error) => panic!("{error}: this future needs one that polls it"),
    }
}
