#![allow(unsafe_code)]
use std::{
    cell::{Cell, UnsafeCell},
    fmt,
    ops::{Deref, DerefMut},
};

use super::waiters::{Turn, Waiters};

/// Lets one task at a time have a value, as `asyncio.Lock`; also over an `await`.
///
/// ```
/// # velodrome::run(async {
/// let count = velodrome::Lock::new(0);
/// *count.acquire().await += 1;
/// assert_eq!(count.into_inner(), 1);
/// # }).unwrap();
/// ```
#[derive(Default)]
pub struct Lock<T = ()> {
    is_locked: Cell<bool>,
    waiters: Waiters,
    value: UnsafeCell<T>,
}

impl<T> Lock<T> {
    /// A lock that nobody has.
    pub fn new(value: T) -> Self {
        Lock { is_locked: Cell::new(false), waiters: Waiters::default(), value: value.into() }
    }

    /// Whether a task has it.
    pub fn locked(&self) -> bool {
        self.is_locked.get()
    }

    /// Waits until nobody else has it, behind those who waited before. It is released when the guard is
    /// dropped.
    pub async fn acquire(&self) -> LockGuard<'_, T> {
        if self.locked() || !self.waiters.is_empty() {
            // Released to this one, it is still locked.
            Turn::come(&self.waiters, || self.release()).await;
        }
        self.is_locked.set(true);
        LockGuard { lock: self }
    }

    /// The lock, if nobody has it or waits for it.
    ///
    /// ```
    /// use velodrome::{Lock, LockGuard};
    ///
    /// let lock = Lock::new(1);
    /// let guard: LockGuard<'_, i32> = lock.try_acquire().expect("nobody has it");
    /// assert!(lock.locked() && lock.try_acquire().is_none());
    /// assert_eq!(*guard, 1);
    /// drop(guard);
    /// assert!(!lock.locked());
    /// ```
    pub fn try_acquire(&self) -> Option<LockGuard<'_, T>> {
        let is_free = !self.locked() && self.waiters.is_empty();
        is_free.then(|| {
            self.is_locked.set(true);
            LockGuard { lock: self }
        })
    }

    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }

    /// Hands it to the first that waits.
    fn release(&self) {
        if self.waiters.is_empty() {
            self.is_locked.set(false);
        } else {
            self.waiters.call_oldest();
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Lock<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lock").field("locked", &self.locked()).finish_non_exhaustive()
    }
}

/// The value of a [`Lock`], for the one who has it.
#[must_use = "the lock is released when this is dropped"]
pub struct LockGuard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: there is one guard at a time, as `is_locked` is set by those who make one and unset by
        // its drop; the lock is for one thread.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for LockGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.release();
    }
}

impl<T: fmt::Debug> fmt::Debug for LockGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}
