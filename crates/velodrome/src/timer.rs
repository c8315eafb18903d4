//! The timer heap: four children a node, ordered by (deadline, order of insertion).
//!
//! Cancelling marks a timer in its owner's hands ([`Cancellable`]) and leaves its entry in the
//! heap; the heap drops it when it comes up, or all of them at once when they are the majority.
//! The exception is the entry at the end of the array: it is taken back at once, which is what a
//! timeout that did not strike usually is.
//!
//! No method runs foreign code while the heap is half-updated: removed timers are handed to the
//! caller, who drops them when nothing is borrowed.

/// A timer whose owner may cancel it while it waits in the heap.
pub trait Cancellable {
    fn is_cancelled(&self) -> bool;
}

#[derive(Debug)]
struct Entry<T> {
    deadline_ns: u64,
    /// Equal deadlines fire in the order in which they were set.
    sequence: u64,
    timer: T,
}

impl<T> Entry<T> {
    #[inline]
    fn key(&self) -> (u64, u64) {
        (self.deadline_ns, self.sequence)
    }
}

/// Fewer cancelled timers than this are never worth a sweep.
const MIN_CANCELLED_FOR_SWEEP: usize = 100;
const ARITY: usize = 4;

/// What left the heap when a timer was cancelled.
#[derive(Debug)]
pub enum Removed<T> {
    Nothing,
    One(T),
    Swept(Vec<T>),
}

#[derive(Debug)]
pub struct Timers<T> {
    heap: Vec<Entry<T>>,
    next_sequence: u64,
    /// How many entries of the heap are cancelled.
    cancelled: usize,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Timers { heap: Vec::new(), next_sequence: 0, cancelled: 0 }
    }
}

impl<T: Cancellable> Timers<T> {
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// The timers in the heap, cancelled ones included, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|entry| &entry.timer)
    }

    pub fn insert(&mut self, deadline_ns: u64, timer: T) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.heap.push(Entry { deadline_ns, sequence, timer });
        self.sift_up(self.heap.len() - 1);
    }

    /// Tells the heap that one of its timers was cancelled. `is_it` recognises the timer.
    ///
    /// Returns what left the heap; drop it where foreign code may run.
    #[must_use]
    pub fn cancelled(&mut self, is_it: impl Fn(&T) -> bool) -> Removed<T> {
        if self.heap.last().is_some_and(|last| is_it(&last.timer)) {
            // The last entry of the array has no children: removing it keeps the order.
            return self.heap.pop().map_or(Removed::Nothing, |entry| Removed::One(entry.timer));
        }
        self.cancelled += 1;
        if self.cancelled > MIN_CANCELLED_FOR_SWEEP && self.cancelled * 2 > self.heap.len() {
            return Removed::Swept(self.sweep());
        }
        Removed::Nothing
    }

    /// When the next timer is due, cancelled or not.
    #[inline]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.deadline_ns)
    }

    /// Removes the first timer if it is cancelled.
    pub fn pop_cancelled(&mut self) -> Option<T> {
        if self.cancelled == 0 || !self.heap.first()?.timer.is_cancelled() {
            return None;
        }
        self.cancelled -= 1;
        Some(self.pop_first())
    }

    /// Removes the first timer whose deadline has come, cancelled or not.
    #[inline]
    pub fn pop_due(&mut self, now_ns: u64) -> Option<T> {
        if self.heap.first()?.deadline_ns > now_ns {
            return None;
        }
        if self.cancelled > 0 && self.heap[0].timer.is_cancelled() {
            self.cancelled -= 1;
        }
        Some(self.pop_first())
    }

    /// Removes everything.
    pub fn clear(&mut self) -> Vec<T> {
        self.cancelled = 0;
        self.heap.drain(..).map(|entry| entry.timer).collect()
    }

    fn sweep(&mut self) -> Vec<T> {
        let (dead, live) = self.heap.drain(..).partition(|entry| entry.timer.is_cancelled());
        self.heap = live;
        self.cancelled = 0;
        // A sorted array is a heap.
        self.heap.sort_unstable_by_key(Entry::key);
        let dead: Vec<Entry<T>> = dead;
        dead.into_iter().map(|entry| entry.timer).collect()
    }

    fn pop_first(&mut self) -> T {
        let first = self.heap.swap_remove(0);
        if !self.heap.is_empty() {
            self.sift_down(0);
        }
        first.timer
    }

    fn sift_up(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if self.heap[parent].key() <= self.heap[at].key() {
                break;
            }
            self.heap.swap(parent, at);
            at = parent;
        }
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let first_child = at * ARITY + 1;
            let children = first_child..(first_child + ARITY).min(self.heap.len());
            let Some(least) = children.min_by_key(|&child| self.heap[child].key()) else {
                break;
            };
            if self.heap[at].key() <= self.heap[least].key() {
                break;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    struct Timer(u32, Rc<Cell<bool>>);

    impl Cancellable for Timer {
        fn is_cancelled(&self) -> bool {
            self.1.get()
        }
    }

    fn timer(id: u32) -> Timer {
        Timer(id, Rc::default())
    }

    fn cancel(timers: &mut Timers<Timer>, timer: &Timer) -> usize {
        timer.1.set(true);
        match timers.cancelled(|other| Rc::ptr_eq(&other.1, &timer.1)) {
            Removed::Nothing => 0,
            Removed::One(_) => 1,
            Removed::Swept(timers) => timers.len(),
        }
    }

    fn drain(timers: &mut Timers<Timer>, now_ns: u64) -> Vec<u32> {
        std::iter::from_fn(|| timers.pop_due(now_ns)).map(|timer| timer.0).collect()
    }

    #[test]
    fn due_timers_come_in_order_of_deadline_then_insertion() {
        let mut timers = Timers::default();
        for (id, deadline) in [(0, 50), (1, 10), (2, 50), (3, 20), (4, 10), (5, 90)] {
            timers.insert(deadline, timer(id));
        }
        assert_eq!(drain(&mut timers, 50), [1, 4, 3, 0, 2]);
        assert_eq!(timers.next_deadline_ns(), Some(90));
    }

    #[test]
    fn a_timer_is_not_due_a_nanosecond_early() {
        let mut timers = Timers::default();
        timers.insert(10, timer(0));
        assert!(timers.pop_due(9).is_none());
        assert!(timers.pop_due(10).is_some());
    }

    #[test]
    fn the_newest_timer_leaves_at_once_when_cancelled() {
        let mut timers = Timers::default();
        timers.insert(10, timer(0));
        let newest = timer(1);
        timers.insert(20, newest.clone());
        assert_eq!(cancel(&mut timers, &newest), 1);
        assert_eq!(timers.len(), 1);
    }

    #[test]
    fn cancelled_timers_are_swept_when_they_are_the_majority() {
        let mut timers = Timers::default();
        let all: Vec<Timer> = (0..1000).map(timer).collect();
        for timer in &all {
            timers.insert(1_000_000 - u64::from(timer.0), timer.clone());
        }
        for timer in &all[..800] {
            let _ = cancel(&mut timers, timer);
        }
        assert!(timers.len() < 500, "{} entries are left", timers.len());
        assert_eq!(drain(&mut timers, u64::MAX).into_iter().filter(|id| *id >= 800).count(), 200);
    }

    /// What happens to a heap.
    #[derive(Clone, Debug)]
    enum Step {
        Insert {
            deadline_ns: u64,
        },
        /// Of those that wait, the one at this place (counted round).
        Cancel {
            place: usize,
        },
        Fire {
            now_ns: u64,
        },
        DropCancelled,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Few deadlines, so that many are equal; bursts, so that sweeps happen.
        let step = prop_oneof![
            6 => (0..20_u64).prop_map(|deadline_ns| Step::Insert { deadline_ns }),
            5 => any::<usize>().prop_map(|place| Step::Cancel { place }),
            1 => (0..20_u64).prop_map(|now_ns| Step::Fire { now_ns }),
            1 => Just(Step::DropCancelled),
        ];
        prop::collection::vec(step, 0..1500)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Beside the simplest thing that has the same rules: a list that is sorted each time.
        #[test]
        fn any_history_fires_what_is_due_in_order_and_nothing_that_was_cancelled(history in steps()) {
            let mut timers = Timers::default();
            let mut waiting: Vec<(u64, u32, Timer)> = Vec::new();
            let mut next_id = 0;
            for step in history {
                match step {
                    Step::Insert { deadline_ns } => {
                        let new = timer(next_id);
                        timers.insert(deadline_ns, new.clone());
                        waiting.push((deadline_ns, next_id, new));
                        next_id += 1;
                    }
                    Step::Cancel { place } if !waiting.is_empty() => {
                        let (_, _, cancelled) = waiting.remove(place % waiting.len());
                        let _ = cancel(&mut timers, &cancelled);
                    }
                    Step::Cancel { .. } => {}
                    Step::Fire { now_ns } => {
                        waiting.sort_by_key(|(deadline_ns, id, _)| (*deadline_ns, *id));
                        let due = waiting.partition_point(|(deadline_ns, ..)| *deadline_ns <= now_ns);
                        let expected: Vec<u32> = waiting.drain(..due).map(|(_, id, _)| id).collect();
                        let fired: Vec<u32> = std::iter::from_fn(|| timers.pop_due(now_ns))
                            .filter(|timer| !timer.is_cancelled())
                            .map(|timer| timer.0)
                            .collect();
                        prop_assert_eq!(fired, expected);
                    }
                    Step::DropCancelled => while timers.pop_cancelled().is_some() {},
                }
                let cancelled = timers.iter().filter(|timer| timer.is_cancelled()).count();
                prop_assert_eq!(timers.cancelled, cancelled, "the count of the cancelled ones");
                prop_assert_eq!(timers.len() - cancelled, waiting.len());
            }
        }
    }
}
