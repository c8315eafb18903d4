//! What `call_soon`, `call_later` and `call_soon_threadsafe` return: callbacks that can be cancelled.

use std::{
    cell::Cell,
    fmt,
    rc::{Rc, Weak},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{driver::Driver, event_loop::Inner, timer::Key};

/// A callback that waits, as `asyncio.Handle`. Dropping it changes nothing.
///
/// ```
/// use std::time::Duration;
///
/// let event_loop = velodrome::new_event_loop();
/// let handle = event_loop.call_soon(|| unreachable!());
/// handle.cancel();
/// assert!(handle.cancelled());
/// event_loop.run_until_complete(velodrome::sleep(Duration::ZERO))?;
/// # Ok::<(), velodrome::Error>(())
/// ```
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
///
/// ```
/// use std::time::Duration;
///
/// let event_loop = velodrome::new_event_loop();
/// let own = event_loop.clone();
/// event_loop.call_later(Duration::from_millis(1), move || own.stop());
/// let late = event_loop.call_later(Duration::from_secs(3600), || unreachable!());
/// event_loop.run_forever()?;
/// assert!(late.when() > event_loop.time());
/// late.cancel();
/// # Ok::<(), velodrome::Error>(())
/// ```
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

/// A callback on its way to a loop, for any thread. Dropping it changes nothing.
///
/// ```
/// # velodrome::run(async {
/// let loop_handle = velodrome::get_running_loop()?.handle();
/// let handle = loop_handle.call_soon_threadsafe(|| unreachable!())?;
/// let other = handle.clone();
/// std::thread::spawn(move || other.cancel()).join().unwrap();
/// assert!(handle.cancelled());
/// velodrome::sleep(std::time::Duration::ZERO).await;
/// # Ok::<(), velodrome::Error>(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Clone)]
pub struct ThreadsafeHandle(Arc<dyn Sendable>);

/// A callback that threads share.
trait Sendable: Send + Sync {
    /// Calls it, unless it was called or dropped.
    fn run(&self);
    /// Drops it, in this thread, unless it was called.
    fn discard(&self);
    fn is_cancelled(&self) -> &AtomicBool;
}

struct SharedCall<F> {
    callback: Mutex<Option<F>>,
    is_cancelled: AtomicBool,
}

impl<F> SharedCall<F> {
    /// Whoever takes it has it alone, and neither calls nor drops it under the lock.
    fn take(&self) -> Option<F> {
        self.callback.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<F: FnOnce() + Send> Sendable for SharedCall<F> {
    fn run(&self) {
        if let Some(callback) = self.take() {
            callback();
        }
    }

    fn discard(&self) {
        drop(self.take());
    }

    fn is_cancelled(&self) -> &AtomicBool {
        &self.is_cancelled
    }
}

/// The loop's end of a [`ThreadsafeHandle`]. Dropped in a queue, it drops the callback, whoever has handles.
pub(crate) struct SentCall(Arc<dyn Sendable>);

impl SentCall {
    pub fn run(self) {
        self.0.run();
    }
}

impl Drop for SentCall {
    fn drop(&mut self) {
        self.0.discard();
    }
}

impl ThreadsafeHandle {
    pub(crate) fn new(callback: impl FnOnce() + Send + 'static) -> (Self, SentCall) {
        let call = SharedCall { callback: Mutex::new(Some(callback)), is_cancelled: false.into() };
        let call: Arc<dyn Sendable> = Arc::new(call);
        (ThreadsafeHandle(Arc::clone(&call)), SentCall(call))
    }

    /// The callback will not be called, unless the loop calls it just now; it is dropped at once, in this thread.
    /// Nothing if it was called.
    pub fn cancel(&self) {
        self.0.is_cancelled().store(true, Relaxed);
        self.0.discard();
    }

    /// Whether [`ThreadsafeHandle::cancel`] was called.
    pub fn cancelled(&self) -> bool {
        self.0.is_cancelled().load(Relaxed)
    }
}

impl fmt::Debug for ThreadsafeHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ThreadsafeHandle").field("cancelled", &self.cancelled()).finish()
    }
}
