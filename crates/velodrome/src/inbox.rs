//! The one thread-safe door of a loop: callbacks from other threads.
//!
//! A sender wakes the loop only if it sleeps or is about to: the loop raises `sleeping` *before*
//! its last look at the queue, and looks under the lock. So either the sender was there first and
//! the loop sees the callback, or it came later and sees the flag.

use std::{
    collections::VecDeque,
    sync::{
        PoisonError,
        atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard, atomic::AtomicBool};

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard, atomic::AtomicBool};

use crate::waker::{Wake, Waker};

#[derive(Debug)]
pub struct Inbox<C, W = std::sync::Arc<Waker>> {
    /// None once the loop is closed.
    queue: Mutex<Option<VecDeque<C>>>,
    /// Mirrors `!queue.is_empty()`, readable without the lock.
    filled: AtomicBool,
    /// Set by the loop while it sleeps or is about to; cleared by whoever ends the sleep.
    sleeping: AtomicBool,
    /// Must be able to wake once `fall_asleep` has been called.
    waker: W,
}

impl<C, W: Wake> Inbox<C, W> {
    pub(crate) fn new(waker: W) -> Self {
        Inbox {
            queue: Mutex::new(Some(VecDeque::new())),
            filled: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            waker,
        }
    }

    /// Hands a callback to the loop, in order, from any thread, and ends its sleep. Returns how many
    /// wait now, or the callback if the loop is closed.
    pub fn push(&self, callback: C) -> Result<usize, C> {
        self.end().push(callback)
    }

    /// The end of the queue, locked: until it is gone nothing may reach the inbox, nor foreign code run.
    #[inline(always)]
    pub fn end(&self) -> End<'_, C, W> {
        End { inbox: self, queue: self.lock() }
    }

    /// Ends the loop's sleep, from any thread.
    pub fn wake(&self) {
        let ends_sleep = self.sleeping.load(Acquire)
            && self.sleeping.compare_exchange(true, false, AcqRel, Relaxed).is_ok();
        if ends_sleep {
            self.waker.wake();
        }
    }

    #[inline]
    pub fn is_filled(&self) -> bool {
        self.filled.load(Acquire)
    }

    /// Takes everything out, in order.
    pub(crate) fn take(&self) -> VecDeque<C> {
        let mut queue = self.lock();
        self.filled.store(false, Release);
        queue.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Refuses what comes from now on; returns what is there.
    pub(crate) fn close(&self) -> VecDeque<C> {
        let mut queue = self.lock();
        self.filled.store(false, Release);
        queue.take().unwrap_or_default()
    }

    /// Announces a sleep. False means that something is there: do not sleep.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.sleeping.store(true, Release);
        let is_empty = self.lock().as_ref().is_none_or(VecDeque::is_empty);
        if !is_empty {
            self.sleeping.store(false, Release);
        }
        is_empty
    }

    pub(crate) fn wake_up(&self) {
        self.sleeping.store(false, Release);
    }

    /// Looks at the waiting callbacks without taking them.
    pub fn inspect(&self, mut look: impl FnMut(&C)) {
        // A lock that is held belongs to a thread in the middle of a push; it is not waited for,
        // because the caller may be a garbage collector that was called from there.
        if let Ok(queue) = self.queue.try_lock() {
            queue.iter().flatten().for_each(&mut look);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<C>>> {
        // No foreign code runs under the lock, so the queue is whole even after a panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Inbox::end`].
#[derive(Debug)]
pub struct End<'a, C, W: Wake = std::sync::Arc<Waker>> {
    inbox: &'a Inbox<C, W>,
    queue: MutexGuard<'a, Option<VecDeque<C>>>,
}

impl<C, W: Wake> End<'_, C, W> {
    /// The callback that waits as the last one. It may be exchanged for one that does the same.
    #[inline(always)]
    pub fn last(&mut self) -> Option<&mut C> {
        self.queue.as_mut()?.back_mut()
    }

    /// As [`Inbox::push`].
    #[inline(always)]
    pub fn push(self, callback: C) -> Result<usize, C> {
        let End { inbox, queue: mut guard } = self;
        let Some(queue) = guard.as_mut() else { return Err(callback) };
        queue.push_back(callback);
        let waiting = queue.len();
        inbox.filled.store(true, Release);
        drop(guard);
        inbox.wake();
        Ok(waiting)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{sync::Arc, thread};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn inbox<C>() -> Inbox<C> {
        Inbox::new(Arc::default())
    }

    fn is_awake<C>(inbox: &Inbox<C>) -> bool {
        let fd = inbox.waker.open().unwrap();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&Default::default())).expect("poll of an eventfd") == 1
    }

    #[test]
    fn a_push_wakes_a_sleeping_loop_once() {
        let inbox = inbox();
        assert!(!is_awake(&inbox));
        assert!(inbox.fall_asleep());
        inbox.push(1).unwrap();
        assert!(is_awake(&inbox));
        inbox.waker.drain();
        inbox.push(2).unwrap();
        assert!(!is_awake(&inbox), "the loop no longer slept");
        assert_eq!(inbox.take(), [1, 2]);
    }

    #[test]
    fn a_filled_inbox_refuses_sleep() {
        let inbox = inbox();
        inbox.push(1).unwrap();
        assert!(!inbox.fall_asleep());
    }

    #[test]
    fn the_last_that_waits_may_be_changed_before_a_push() {
        let inbox = inbox();
        assert_eq!(inbox.end().last(), None);
        assert_eq!(inbox.end().push(1), Ok(1));
        let mut end = inbox.end();
        *end.last().expect("one waits") += 10;
        assert_eq!(end.push(2), Ok(2));
        assert_eq!(inbox.close(), [11, 2]);
        assert_eq!(inbox.end().last(), None);
        assert_eq!(inbox.end().push(3), Err(3));
    }

    #[test]
    fn a_closed_inbox_hands_back_what_it_gets() {
        let inbox = inbox();
        inbox.push(1).unwrap();
        assert_eq!(inbox.close(), [1]);
        assert_eq!(inbox.push(2), Err(2));
        assert!(!inbox.is_filled());
        assert!(inbox.take().is_empty());
    }

    #[test]
    fn nothing_is_lost_between_threads_and_each_thread_keeps_its_order() {
        let inbox = Arc::new(inbox());
        let fd = inbox.waker.open().unwrap();
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || {
                    (0..1000).for_each(|number| {
                        inbox.push((sender, number)).unwrap();
                    });
                })
            })
            .collect();
        let mut next = [0; 4];
        while next != [1000; 4] {
            if inbox.fall_asleep() {
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
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

/// All ways in which the threads can interleave, by loom: see `tools/check.sh`.
#[cfg(all(test, loom))]
mod interleavings {
    use loom::{
        sync::{Arc, Condvar},
        thread,
    };

    use super::*;

    /// Readable, or not, as the eventfd is.
    #[derive(Default)]
    struct Flag(Mutex<bool>, Condvar);

    impl Wake for Flag {
        fn wake(&self) {
            *self.0.lock().unwrap() = true;
            self.1.notify_one();
        }
    }

    impl Flag {
        /// If nobody wakes it, all threads wait for each other: loom reports that.
        fn sleep(&self) {
            let mut is_readable = self.0.lock().unwrap();
            while !*is_readable {
                is_readable = self.1.wait(is_readable).unwrap();
            }
            *is_readable = false;
        }
    }

    /// The loop: sleeps until it is woken, and takes what is there, until it has `count`.
    fn receive(inbox: &Inbox<u32, Flag>, count: usize) -> Vec<u32> {
        let mut taken = Vec::new();
        while taken.len() < count {
            if inbox.fall_asleep() {
                inbox.waker.sleep();
                inbox.wake_up();
            }
            taken.extend(inbox.take());
        }
        taken
    }

    #[test]
    fn a_push_is_never_slept_over() {
        loom::model(|| {
            let inbox = Arc::new(Inbox::new(Flag::default()));
            let sender = {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || {
                    (0..2).for_each(|number| {
                        inbox.push(number).unwrap();
                    });
                })
            };
            assert_eq!(receive(&inbox, 2), [0, 1]);
            sender.join().unwrap();
        });
    }

    #[test]
    fn two_senders_lose_nothing() {
        // Three threads have too many interleavings for all of them.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let inbox = Arc::new(Inbox::new(Flag::default()));
            let senders = [1, 2].map(|number| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || {
                    inbox.push(number).unwrap();
                })
            });
            let mut taken = receive(&inbox, 2);
            taken.sort_unstable();
            assert_eq!(taken, [1, 2]);
            senders.into_iter().for_each(|sender| sender.join().unwrap());
        });
    }
}
