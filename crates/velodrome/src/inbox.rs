//! The one thread-safe door of a loop: callbacks from other threads.
//!
//! A sender wakes the loop only if it sleeps or is about to: the loop raises `sleeping` *before*
//! its last look at the queue, so either the loop sees the callback or the sender sees the flag.
//! Both sides use sequentially consistent operations, because each writes one word and reads the
//! other's.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use crate::{Result, waker::Waker};

#[derive(Debug)]
pub struct Inbox<C> {
    queue: Mutex<VecDeque<C>>,
    /// Mirrors `!queue.is_empty()`, readable without the lock.
    filled: AtomicBool,
    /// Set by the loop while it sleeps or is about to; cleared by whoever ends the sleep.
    sleeping: AtomicBool,
    pub(crate) waker: Waker,
}

impl<C> Inbox<C> {
    pub(crate) fn new() -> Result<Self> {
        Ok(Inbox {
            queue: Mutex::default(),
            filled: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            waker: Waker::new()?,
        })
    }

    /// Hands a callback to the loop, in order, from any thread, and ends its sleep.
    pub fn push(&self, callback: C) {
        {
            let mut queue = self.lock();
            queue.push_back(callback);
            self.filled.store(true, SeqCst);
        }
        self.wake();
    }

    /// Lends the callback that waits as the last one, to be exchanged for one that does the same.
    ///
    /// `change` must not reach the inbox.
    pub fn change_last<R>(&self, change: impl FnOnce(&mut C) -> Option<R>) -> Option<R> {
        self.lock().back_mut().and_then(change)
    }

    /// Ends the loop's sleep, from any thread.
    pub fn wake(&self) {
        if self.sleeping.load(SeqCst) && self.sleeping.swap(false, SeqCst) {
            self.waker.wake();
        }
    }

    #[inline]
    pub fn is_filled(&self) -> bool {
        self.filled.load(SeqCst)
    }

    /// Takes everything out, in order.
    pub(crate) fn take(&self) -> VecDeque<C> {
        let mut queue = self.lock();
        self.filled.store(false, SeqCst);
        std::mem::take(&mut *queue)
    }

    /// Announces a sleep. False means that something is there: do not sleep.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.sleeping.store(true, SeqCst);
        if self.is_filled() {
            self.sleeping.store(false, SeqCst);
            return false;
        }
        true
    }

    pub(crate) fn wake_up(&self) {
        self.sleeping.store(false, SeqCst);
    }

    /// Looks at the waiting callbacks without taking them.
    pub fn inspect(&self, mut look: impl FnMut(&C)) {
        // A lock that is held belongs to a thread in the middle of a push; it is not waited for,
        // because the caller may be a garbage collector that was called from there.
        if let Ok(queue) = self.queue.try_lock() {
            queue.iter().for_each(&mut look);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<C>> {
        // No foreign code runs under the lock, so the queue is whole even after a panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn is_awake<C>(inbox: &Inbox<C>) -> bool {
        let mut fds = [PollFd::new(&inbox.waker, PollFlags::IN)];
        poll(&mut fds, Some(&Default::default())).expect("poll of an eventfd") == 1
    }

    #[test]
    fn a_push_wakes_a_sleeping_loop_once() {
        let inbox = Inbox::new().unwrap();
        assert!(inbox.fall_asleep());
        inbox.push(1);
        assert!(is_awake(&inbox));
        inbox.waker.drain();
        inbox.push(2);
        assert!(!is_awake(&inbox), "the loop no longer slept");
        assert_eq!(inbox.take(), [1, 2]);
    }

    #[test]
    fn a_filled_inbox_refuses_sleep() {
        let inbox = Inbox::new().unwrap();
        inbox.push(1);
        assert!(!inbox.fall_asleep());
    }

    #[test]
    fn nothing_is_lost_between_threads_and_each_thread_keeps_its_order() {
        let inbox = Arc::new(Inbox::new().unwrap());
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || (0..1000).for_each(|number| inbox.push((sender, number))))
            })
            .collect();
        let mut next = [0; 4];
        while next != [1000; 4] {
            if inbox.fall_asleep() {
                let mut fds = [PollFd::new(&inbox.waker, PollFlags::IN)];
                poll(&mut fds, None).expect("poll of an eventfd");
                inbox.wake_up();
                inbox.waker.drain();
            }
            for (sender, number) in inbox.take() {
                assert_eq!(next[sender], number);
                next[sender] += 1;
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }
}
