use std::cell::Cell;

use super::waiters::{Turn, Waiters};

/// Lets a number of tasks at a time go on, as `asyncio.Semaphore`.
///
/// ```
/// # velodrome::run(async {
/// let semaphore = velodrome::Semaphore::new(2);
/// let one = semaphore.acquire().await;
/// let _other = semaphore.acquire().await;
/// assert!(semaphore.locked());
/// drop(one);
/// assert!(semaphore.try_acquire().is_some());
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Semaphore {
    free: Cell<usize>,
    waiters: Waiters,
}

impl Semaphore {
    /// A semaphore with so many permits.
    pub fn new(permits: usize) -> Self {
        Semaphore { free: Cell::new(permits), waiters: Waiters::default() }
    }

    /// Whether who comes now has to wait.
    pub fn locked(&self) -> bool {
        self.free.get() == 0 || !self.waiters.is_empty()
    }

    /// Waits for a permit, behind those who waited before. It is released when the result is dropped.
    pub async fn acquire(&self) -> Permit<'_> {
        match self.try_acquire() {
            Some(permit) => permit,
            None => {
                // Who releases hands its permit over: it is never free in between.
                Turn::come(&self.waiters, || self.release()).await;
                Permit { semaphore: self }
            }
        }
    }

    /// A permit, if there is one and nobody waits for it.
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        if self.locked() {
            return None;
        }
        self.free.set(self.free.get() - 1);
        Some(Permit { semaphore: self })
    }

    /// Adds a permit, which goes to the first that waits.
    pub fn release(&self) {
        if self.waiters.is_empty() {
            self.free.set(self.free.get() + 1);
        } else {
            self.waiters.call_first();
        }
    }
}

/// A permit of a [`Semaphore`].
#[derive(Debug)]
#[must_use = "the permit is released when this is dropped"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
}

impl Permit<'_> {
    /// Takes the permit out of the semaphore for good, until somebody calls [`Semaphore::release`].
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.semaphore.release();
    }
}
