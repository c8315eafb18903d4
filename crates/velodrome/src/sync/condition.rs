use std::{
    fmt,
    ops::{Deref, DerefMut},
    rc::Rc,
};

use super::{
    lock::{Lock, LockGuard},
    waiters::{Turn, Waiters},
};

/// Lets tasks wait for a change of what a lock protects, as `asyncio.Condition`.
///
/// ```
/// # use std::rc::Rc;
/// # velodrome::run(async {
/// let condition = Rc::new(velodrome::Condition::new(0));
/// let waiting = velodrome::create_task({
///     let condition = condition.clone();
///     async move { *condition.acquire().await.wait_for(|count| *count >= 2).await }
/// });
/// for _ in 0..2 {
///     let mut count = condition.acquire().await;
///     *count += 1;
///     count.notify(1);
/// }
/// assert_eq!(waiting.await.unwrap(), 2);
/// # }).unwrap();
/// ```
#[derive(Default)]
pub struct Condition<T = ()> {
    lock: Rc<Lock<T>>,
    waiters: Waiters,
}

impl<T> Condition<T> {
    /// A condition with a lock of its own.
    pub fn new(value: T) -> Self {
        Self::with_lock(Rc::new(Lock::new(value)))
    }

    /// A condition of a lock that others may have, too.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::rc::Rc;
    /// use velodrome::{Condition, Lock, create_task};
    ///
    /// let lock = Rc::new(Lock::new(0));
    /// let condition = Rc::new(Condition::with_lock(lock.clone()));
    /// let waiting = create_task({
    ///     let condition = condition.clone();
    ///     async move { *condition.acquire().await.wait().await }
    /// });
    /// velodrome::sleep(std::time::Duration::ZERO).await;
    /// // Who waits does not have the lock.
    /// assert!(!condition.locked());
    /// *lock.acquire().await = 7;
    /// condition.acquire().await.notify_all();
    /// assert_eq!(waiting.await.unwrap(), 7);
    /// # }).unwrap();
    /// ```
    pub fn with_lock(lock: Rc<Lock<T>>) -> Self {
        Condition { lock, waiters: Waiters::default() }
    }

    /// Whether a task has the lock.
    pub fn locked(&self) -> bool {
        self.lock.locked()
    }

    /// Waits for the lock. Whoever has it may wait and notify; it is released when the guard is dropped.
    pub async fn acquire(&self) -> ConditionGuard<'_, T> {
        ConditionGuard { condition: self, lock: self.lock.acquire().await }
    }
}

impl<T> fmt::Debug for Condition<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = formatter.debug_struct("Condition");
        text.field("locked", &self.locked()).field("waiters", &self.waiters).finish()
    }
}

/// The value of a [`Condition`], for the one who has its lock.
///
/// ```
/// # velodrome::run(async {
/// use velodrome::{Condition, ConditionGuard};
///
/// let condition = Condition::new(1);
/// let mut guard: ConditionGuard<'_, i32> = condition.acquire().await;
/// *guard += 1;
/// // It is true already.
/// let guard = guard.wait_for(|value| *value == 2).await;
/// guard.notify(1);
/// drop(guard);
/// assert!(!condition.locked());
/// # }).unwrap();
/// ```
#[must_use = "the lock is released when this is dropped"]
pub struct ConditionGuard<'a, T> {
    condition: &'a Condition<T>,
    lock: LockGuard<'a, T>,
}

impl<T> ConditionGuard<'_, T> {
    /// Releases the lock, waits to be notified, and for the lock again.
    ///
    /// Dropping the future leaves the lock to others, and a notification that it got to the next one that
    /// waits.
    pub async fn wait(self) -> Self {
        let ConditionGuard { condition, lock } = self;
        drop(lock);
        let waiters = &condition.waiters;
        Turn::come(waiters, || drop(Notified(waiters))).await;
        let notified = Notified(waiters);
        let guard = condition.acquire().await;
        std::mem::forget(notified);
        guard
    }

    /// Waits until `predicate` is true of the value, which is looked at now and after each notification.
    pub async fn wait_for(mut self, mut predicate: impl FnMut(&mut T) -> bool) -> Self {
        while !predicate(&mut self) {
            self = self.wait().await;
        }
        self
    }

    /// Has `count` of those that wait go on, the first ones; they come when they have the lock.
    pub fn notify(&self, count: usize) {
        for _ in 0..count {
            if !self.condition.waiters.call_first() {
                break;
            }
        }
    }

    /// Has all that wait go on.
    pub fn notify_all(&self) {
        self.notify(usize::MAX);
    }
}

/// A notification that has not come to its end: it goes to the next one, then.
struct Notified<'a>(&'a Waiters);

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        self.0.call_first();
    }
}

impl<T> Deref for ConditionGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.lock
    }
}

impl<T> DerefMut for ConditionGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.lock
    }
}

impl<T: fmt::Debug> fmt::Debug for ConditionGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}
