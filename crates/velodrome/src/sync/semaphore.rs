use std::{cell::Cell, thread};

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
    /// How many have got a permit in their absence, and go first once they come.
    called: Cell<usize>,
    /// More than so many are never free.
    bound: usize,
}

impl Semaphore {
    /// A semaphore with so many permits.
    pub fn new(permits: usize) -> Self {
        Self::with_bound(permits, usize::MAX)
    }

    fn with_bound(permits: usize, bound: usize) -> Self {
        Semaphore {
            free: Cell::new(permits),
            waiters: Waiters::default(),
            called: Cell::new(0),
            bound,
        }
    }

    /// Whether who comes now has to wait.
    pub fn locked(&self) -> bool {
        self.free.get() == 0 || self.called.get() > 0 || !self.waiters.is_empty()
    }

    /// Waits for a permit, behind those who waited before. It is released when the result is dropped.
    pub async fn acquire(&self) -> Permit<'_> {
        match self.try_acquire() {
            Some(permit) => permit,
            None => {
                // Who releases hands its permit over: it is never free in between.
                let has_come = || self.called.set(self.called.get() - 1);
                Turn::come(&self.waiters, || {
                    has_come();
                    self.release();
                })
                .await;
                has_come();
                let permit = Permit { semaphore: self };
                // Those who waited only because this one was to go first.
                while self.free.get() > 0 && self.call_first() {}
                permit
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
    ///
    /// ```
    /// let semaphore = velodrome::Semaphore::new(1);
    /// // A permit that is released by somebody else, or another kind of counting.
    /// semaphore.try_acquire().expect("it is free").forget();
    /// assert!(semaphore.locked());
    /// semaphore.release();
    /// assert!(!semaphore.locked());
    /// ```
    pub fn release(&self) {
        if self.free.get() >= self.bound {
            // Not a second time.
            assert!(thread::panicking(), "BoundedSemaphore released too many times");
            return;
        }
        self.free.set(self.free.get() + 1);
        self.call_first();
    }

    /// Hands a free permit over. False if nobody waits.
    fn call_first(&self) -> bool {
        let (free, called) = (self.free.get(), self.called.get());
        // Before the waker, which may be foreign code.
        self.free.set(free - 1);
        self.called.set(called + 1);
        let is_called = self.waiters.call_first();
        if !is_called {
            self.free.set(free);
            self.called.set(called);
        }
        is_called
    }
}

/// A permit of a [`Semaphore`].
///
/// ```
/// use velodrome::{Permit, Semaphore};
///
/// let semaphore = Semaphore::new(1);
/// let permit: Permit<'_> = semaphore.try_acquire().expect("it is free");
/// assert!(semaphore.try_acquire().is_none());
/// drop(permit);
/// assert!(semaphore.try_acquire().is_some());
/// ```
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

/// A [`Semaphore`] that never has more permits than at first, as `asyncio.BoundedSemaphore`.
///
/// ```should_panic
/// let semaphore = velodrome::BoundedSemaphore::new(1);
/// semaphore.release(); // Nobody has acquired it: a mistake.
/// ```
#[derive(Debug)]
pub struct BoundedSemaphore(Semaphore);

impl BoundedSemaphore {
    /// A semaphore with so many permits at most.
    pub fn new(permits: usize) -> Self {
        BoundedSemaphore(Semaphore::with_bound(permits, permits))
    }

    /// See [`Semaphore::locked`].
    ///
    /// ```
    /// # velodrome::run(async {
    /// let semaphore = velodrome::BoundedSemaphore::new(2);
    /// let one = semaphore.acquire().await;
    /// let other = semaphore.try_acquire().expect("one is left");
    /// assert!(semaphore.locked());
    /// drop((one, other));
    /// assert!(!semaphore.locked());
    /// # }).unwrap();
    /// ```
    pub fn locked(&self) -> bool {
        self.0.locked()
    }

    /// See [`Semaphore::acquire`].
    pub async fn acquire(&self) -> Permit<'_> {
        self.0.acquire().await
    }

    /// See [`Semaphore::try_acquire`].
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.0.try_acquire()
    }

    /// Gives back a permit that was forgotten. Panics if none is missing, as does dropping the permit for which
    /// this was called in error.
    pub fn release(&self) {
        self.0.release();
    }
}
