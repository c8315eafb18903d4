use std::cell::Cell;

use super::waiters::Waiters;

/// A flag that tasks wait for, as `asyncio.Event`.
///
/// ```
/// # use std::rc::Rc;
/// # velodrome::run(async {
/// let event = Rc::new(velodrome::Event::new());
/// let waiting = velodrome::create_task({
///     let event = event.clone();
///     async move { event.wait().await }
/// });
/// event.set();
/// waiting.await.unwrap();
/// # }).unwrap();
/// ```
#[derive(Debug, Default)]
pub struct Event {
    is_set: Cell<bool>,
    waiters: Waiters,
}

impl Event {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_set(&self) -> bool {
        self.is_set.get()
    }

    /// Sets the flag. All that wait go on.
    pub fn set(&self) {
        if !self.is_set.replace(true) {
            self.waiters.call_all();
        }
    }

    /// Who waits from now on waits until it is set again.
    ///
    /// ```
    /// let event = velodrome::Event::new();
    /// event.set();
    /// assert!(event.is_set());
    /// event.clear();
    /// assert!(!event.is_set());
    /// ```
    pub fn clear(&self) {
        self.is_set.set(false);
    }

    /// Waits until the flag is set; who waits then goes on even if it is cleared before its turn.
    pub async fn wait(&self) {
        if !self.is_set() {
            self.waiters.wait().await;
        }
    }
}
