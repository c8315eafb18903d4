use std::{cell::RefCell, collections::VecDeque};

use super::{
    event::Event,
    waiters::{Turn, Waiters},
};

/// A queue between tasks, first in, first out, as `asyncio.Queue`.
///
/// ```
/// # velodrome::run(async {
/// let queue = velodrome::Queue::bounded(2);
/// queue.put(1).await;
/// queue.put_nowait(2).unwrap();
/// assert!(queue.put_nowait(3).is_err());
/// assert_eq!(queue.get().await, 1);
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Queue<T> {
    items: RefCell<VecDeque<T>>,
    /// No end: `usize::MAX`.
    max_size: usize,
    getters: Waiters,
    putters: Waiters,
    unfinished: std::cell::Cell<usize>,
    finished: Event,
}

/// The queue has nothing to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is empty")]
pub struct QueueEmpty;

/// The queue has no room; the item comes back.
///
/// ```
/// let queue = velodrome::Queue::bounded(1);
/// queue.put_nowait('a').unwrap();
/// let velodrome::QueueFull(item) = queue.put_nowait('b').unwrap_err();
/// assert_eq!(item, 'b');
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub struct QueueFull<T>(pub T);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Queue<T> {
    /// A queue with room for any number of items.
    ///
    /// ```
    /// use velodrome::{Queue, QueueEmpty};
    ///
    /// let queue = Queue::new();
    /// assert!(queue.empty() && !queue.full());
    /// queue.put_nowait('a').unwrap();
    /// assert_eq!(queue.qsize(), 1);
    /// assert_eq!(queue.get_nowait(), Ok('a'));
    /// assert_eq!(queue.get_nowait(), Err(QueueEmpty));
    /// ```
    pub fn new() -> Self {
        Self::bounded(usize::MAX)
    }

    /// A queue with room for `max_size` items. Panics if that is 0.
    pub fn bounded(max_size: usize) -> Self {
        assert!(max_size > 0, "a queue needs room for an item");
        let finished = Event::new();
        finished.set();
        Queue {
            items: RefCell::default(),
            max_size,
            getters: Waiters::default(),
            putters: Waiters::default(),
            unfinished: 0.into(),
            finished,
        }
    }

    /// How many items wait.
    pub fn qsize(&self) -> usize {
        self.items.borrow().len()
    }

    /// Whether there is nothing to get.
    pub fn empty(&self) -> bool {
        self.qsize() == 0
    }

    /// Whether there is no room.
    pub fn full(&self) -> bool {
        self.qsize() >= self.max_size
    }

    /// Adds an item, once there is room.
    pub async fn put(&self, item: T) {
        while self.full() {
            Turn::come(&self.putters, || self.pass_room_on()).await;
        }
        self.add(item);
    }

    /// Adds an item if there is room.
    pub fn put_nowait(&self, item: T) -> Result<(), QueueFull<T>> {
        if self.full() {
            return Err(QueueFull(item));
        }
        self.add(item);
        Ok(())
    }

    fn add(&self, item: T) {
        self.items.borrow_mut().push_back(item);
        self.unfinished.set(self.unfinished.get() + 1);
        self.finished.clear();
        self.getters.call_first();
    }

    /// Takes the first item, once there is one.
    pub async fn get(&self) -> T {
        loop {
            if let Ok(item) = self.get_nowait() {
                return item;
            }
            Turn::come(&self.getters, || self.pass_item_on()).await;
        }
    }

    /// Takes the first item if there is one.
    pub fn get_nowait(&self) -> Result<T, QueueEmpty> {
        let item = self.items.borrow_mut().pop_front().ok_or(QueueEmpty)?;
        self.putters.call_first();
        Ok(item)
    }

    fn pass_room_on(&self) {
        if !self.full() {
            self.putters.call_first();
        }
    }

    fn pass_item_on(&self) {
        if !self.empty() {
            self.getters.call_first();
        }
    }

    /// Says that the work for an item that was got is done. Panics if it is said more often than items were
    /// put.
    pub fn task_done(&self) {
        let unfinished = self.unfinished.get();
        assert!(unfinished > 0, "task_done() called too many times");
        self.unfinished.set(unfinished - 1);
        if unfinished == 1 {
            self.finished.set();
        }
    }

    /// Waits until the work for all items is done.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::rc::Rc;
    /// use velodrome::{Queue, create_task};
    ///
    /// let queue = Rc::new(Queue::new());
    /// for number in 0..3 {
    ///     queue.put_nowait(number).unwrap();
    /// }
    /// let work = queue.clone();
    /// create_task(async move {
    ///     loop {
    ///         let _number = work.get().await;
    ///         work.task_done();
    ///     }
    /// })
    /// .detach();
    /// // Until all three are done.
    /// queue.join().await;
    /// # }).unwrap();
    /// ```
    pub async fn join(&self) {
        if self.unfinished.get() > 0 {
            self.finished.wait().await;
        }
    }
}
