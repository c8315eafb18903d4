//! What `call_soon` and `call_later` return: callbacks that can be cancelled.

use std::{
    cell::Cell,
    fmt,
    rc::{Rc, Weak},
    time::Duration,
};

use crate::{driver::Driver, event_loop::Inner, timer::Key};

/// A callback that waits, as `asyncio.Handle`. Dropping it changes nothing.
#[derive(Clone)]
pub struct Handle(Rc<dyn Scheduled>);

/// A callback in a queue.
pub(crate) trait Scheduled {
    /// Calls it, unless it was cancelled.
    fn run(&self);
    fn cancel(&self);
    fn is_cancelled(&self) -> bool;
}

struct Call<F> {
    callback: Cell<Option<F>>,
    is_cancelled: Cell<bool>,
}

impl<F: FnOnce()> Scheduled for Call<F> {
    fn run(&self) {
        if let Some(callback) = self.callback.take() {
            callback();
        }
    }

    fn cancel(&self) {
        self.is_cancelled.set(true);
        // What it holds goes at once.
        drop(self.callback.take());
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.get()
    }
}

impl Handle {
    pub(crate) fn new(callback: impl FnOnce() + 'static) -> (Self, Rc<dyn Scheduled>) {
        let call = Call { callback: Cell::new(Some(callback)), is_cancelled: Cell::new(false) };
        let scheduled: Rc<dyn Scheduled> = Rc::new(call);
        (Handle(Rc::clone(&scheduled)), scheduled)
    }

    /// The callback will not be called; it is dropped now. Nothing if it was called.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether [`Handle::cancel`] was called.
    pub fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handle").field("cancelled", &self.cancelled()).finish()
    }
}

/// A callback that waits for its time, as `asyncio.TimerHandle`. Dropping it changes nothing.
#[derive(Clone)]
pub struct TimerHandle {
    handle: Handle,
    when: Duration,
    /// Where it waits.
    timer: Option<(Weak<Inner>, Key)>,
}

impl TimerHandle {
    pub(crate) fn new(handle: Handle, when: Duration, timer: Option<(Weak<Inner>, Key)>) -> Self {
        TimerHandle { handle, when, timer }
    }

    /// See [`Handle::cancel`].
    pub fn cancel(&self) {
        self.handle.cancel();
        if let Some((event_loop, key)) = &self.timer
            && let Some(event_loop) = event_loop.upgrade()
        {
            event_loop.cancel_timer(*key);
        }
    }

    /// See [`Handle::cancelled`].
    pub fn cancelled(&self) -> bool {
        self.handle.cancelled()
    }

    /// When it is due, on the clock of [`EventLoop::time`](crate::EventLoop::time).
    pub fn when(&self) -> Duration {
        self.when
    }
}

impl fmt::Debug for TimerHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TimerHandle")
            .field("when", &self.when)
            .field("cancelled", &self.cancelled())
            .finish()
    }
}
