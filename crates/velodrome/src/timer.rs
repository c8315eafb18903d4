//! The timers, by (deadline, order of insertion): a run and a heap.
//!
//! Most timers are set for later than the one set before, since most have the same delay. They form
//! the run, a queue that needs no comparing; what does not fit behind it goes into the heap, which
//! has four children a node.
//!
//! Both hold entries that name a slot, where the timer itself is. Cancelling takes it out of its slot,
//! so that nothing of it stays, and leaves the entry; dead entries go when they come up, when they are
//! at an end of the run, or all together when they are the majority.
//!
//! No method drops a timer: what leaves is handed to the caller, who drops it when nothing is borrowed.

use std::{collections::VecDeque, mem, num::NonZeroU32};

/// Names a timer for as long as it waits; afterwards it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    slot: u32,
    generation: NonZeroU32,
}

impl From<Key> for u64 {
    fn from(key: Key) -> u64 {
        u64::from(key.generation.get()) << 32 | u64::from(key.slot)
    }
}

impl TryFrom<u64> for Key {
    type Error = ();

    /// The key of this number, if there is one.
    fn try_from(number: u64) -> Result<Self, ()> {
        let generation = NonZeroU32::new((number >> 32) as u32).ok_or(())?;
        Ok(Key { slot: number as u32, generation })
    }
}

#[derive(Debug)]
struct Slot<T> {
    /// Of the timer that is in it, or will be next.
    generation: NonZeroU32,
    timer: Option<T>,
}

impl<T> Slot<T> {
    /// What was in it; keys to it no longer fit.
    fn vacate(&mut self) -> Option<T> {
        self.generation = self.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.timer.take()
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline_ns: u64,
    /// Equal deadlines fire in the order in which they were set.
    sequence: u64,
    slot: u32,
    /// How much later its wake-up may be, for the sake of others.
    slack_ns: u32,
}

impl Entry {
    fn latest_ns(&self) -> u64 {
        self.deadline_ns.saturating_add(u64::from(self.slack_ns))
    }

    #[inline]
    fn key(&self) -> u128 {
        u128::from(self.deadline_ns) << 64 | u128::from(self.sequence)
    }
}

/// Fewer dead entries than this are never worth a sweep.
const MIN_DEAD_FOR_SWEEP: usize = 100;
const ARITY: usize = 4;
/// A wake-up is not shared by more: to find it shall not cost much.
const MAX_LOOKS: usize = 256;
/// Where there are more in the time that the first can wait: a quarter of that time, and a quarter of the quarter.
const MAX_TRIES: u32 = 3;

#[derive(Debug)]
pub struct Timers<T> {
    /// In order. Neither end is dead.
    run: VecDeque<Entry>,
    heap: Vec<Entry>,
    /// A slot belongs to its entry until that is gone.
    slots: Vec<Slot<T>>,
    free_slots: Vec<u32>,
    next_sequence: u64,
    /// Entries whose timer was removed.
    dead: usize,
    /// Those that are due soon, while a wake-up is chosen; kept for its memory.
    looked_at: Vec<Entry>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Timers {
            run: VecDeque::new(),
            heap: Vec::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            next_sequence: 0,
            dead: 0,
            looked_at: Vec::new(),
        }
    }
}

impl<T> Timers<T> {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many timers wait.
    pub fn len(&self) -> usize {
        self.run.len() + self.heap.len() - self.dead
    }

    /// The timers that wait, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.timer.as_ref())
    }

    /// Adds a timer that is due at `deadline_ns`, and may wait so much longer for others: see
    /// [`Timers::shared_wake_up_ns`].
    pub fn insert(&mut self, deadline_ns: u64, slack_ns: u32, timer: T) -> Key {
        let key = self.occupy_slot(timer);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let entry = Entry { deadline_ns, sequence, slot: key.slot, slack_ns };
        match self.run.back() {
            Some(last) if entry.key() < last.key() => {
                let mut for_heap = entry;
                if self.run.len() == 1 {
                    // One that is far away must not keep all the others out of the run.
                    mem::swap(&mut self.run[0], &mut for_heap);
                }
                self.heap.push(for_heap);
                self.sift_up(self.heap.len() - 1);
            }
            _ => self.run.push_back(entry),
        }
        key
    }

    /// Takes a timer out before its time; `None` if it no longer waits.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let timer = slot.timer.take()?;
        self.dead += 1;
        self.trim();
        if self.dead > MIN_DEAD_FOR_SWEEP && self.dead * 2 > self.run.len() + self.heap.len() {
            self.sweep();
        }
        Some(timer)
    }

    /// The timer of this key, if it still waits.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        slot.timer.as_mut()
    }

    /// When the next timer is due.
    #[inline]
    pub fn next_deadline_ns(&mut self) -> Option<u64> {
        self.drop_dead_root();
        self.first().map(|entry| entry.deadline_ns)
    }

    /// When to wake up for the next timer and those that follow closely: the last deadline to which all that are due
    /// before it can wait. Where many follow, it is an earlier one of theirs.
    pub fn shared_wake_up_ns(&mut self) -> Option<u64> {
        self.drop_dead_root();
        let Entry { deadline_ns: first_ns, slack_ns: mut window_ns, .. } = *self.first()?;
        let mut looked_at = mem::take(&mut self.looked_at);
        let mut wake_up_ns = first_ns;
        for _ in 0..if window_ns == 0 { 0 } else { MAX_TRIES } {
            looked_at.clear();
            let limit_ns = first_ns.saturating_add(u64::from(window_ns));
            if let Some(limit_ns) = self.look_until(limit_ns, &mut looked_at) {
                let deadlines_ns = looked_at.iter().map(|entry| entry.deadline_ns);
                wake_up_ns = deadlines_ns.filter(|&it| it <= limit_ns).fold(first_ns, u64::max);
                break;
            }
            window_ns /= 4;
        }
        self.looked_at = looked_at;
        Some(wake_up_ns)
    }

    /// Collects entries of timers that are due by `limit_ns`, or by when the first of them can wait no longer. Returns
    /// that; `None` if they are too many, with those that were cancelled.
    fn look_until(&self, mut limit_ns: u64, looked_at: &mut Vec<Entry>) -> Option<u64> {
        let mut looks = 0;
        let mut look = |entry: &Entry| {
            if entry.deadline_ns > limit_ns || looks > MAX_LOOKS {
                return false;
            }
            looks += 1;
            if self.dead == 0 || !self.is_dead(entry) {
                limit_ns = limit_ns.min(entry.latest_ns());
                looked_at.push(*entry);
            }
            true
        };
        let _ = self.run.iter().all(&mut look);
        self.look_down(0, &mut look);
        (looks <= MAX_LOOKS).then_some(limit_ns)
    }

    /// In the heap no entry is due before the one above it.
    fn look_down(&self, at: usize, look: &mut impl FnMut(&Entry) -> bool) {
        if self.heap.get(at).is_some_and(&mut *look) {
            let first_child = at * ARITY + 1;
            (first_child..first_child + ARITY).for_each(|child| self.look_down(child, look));
        }
    }

    /// Removes the first timer whose deadline has come.
    #[inline]
    pub fn pop_due(&mut self, now_ns: u64) -> Option<T> {
        if self.next_deadline_ns()? > now_ns {
            return None;
        }
        let slot = if self.run_is_first() {
            let slot = self.run.pop_front()?.slot;
            self.trim();
            slot
        } else {
            self.pop_root()
        };
        self.vacate_slot(slot)
    }

    /// Removes everything.
    pub fn clear(&mut self) -> Vec<T> {
        mem::take(self).slots.into_iter().filter_map(|slot| slot.timer).collect()
    }

    fn occupy_slot(&mut self, timer: T) -> Key {
        if let Some(number) = self.free_slots.pop() {
            let slot = &mut self.slots[number as usize];
            slot.timer = Some(timer);
            return Key { slot: number, generation: slot.generation };
        }
        let number =
            u32::try_from(self.slots.len()).expect("fewer timers than memory has room for");
        let generation = NonZeroU32::MIN;
        self.slots.push(Slot { generation, timer: Some(timer) });
        Key { slot: number, generation }
    }

    /// The entry of the slot is gone.
    fn vacate_slot(&mut self, number: u32) -> Option<T> {
        self.free_slots.push(number);
        self.slots[number as usize].vacate()
    }

    fn is_dead(&self, entry: &Entry) -> bool {
        self.slots[entry.slot as usize].timer.is_none()
    }

    fn vacate_dead(&mut self, entry: Option<Entry>) {
        if let Some(Entry { slot, .. }) = entry {
            self.dead -= 1;
            self.vacate_slot(slot);
        }
    }

    /// Drops dead entries from where that costs nothing: the ends of the run and of the heap's array.
    fn trim(&mut self) {
        while self.dead > 0 {
            let entry = if self.run.back().is_some_and(|entry| self.is_dead(entry)) {
                self.run.pop_back()
            } else if self.run.front().is_some_and(|entry| self.is_dead(entry)) {
                self.run.pop_front()
            } else if self.heap.last().is_some_and(|entry| self.is_dead(entry)) {
                self.heap.pop()
            } else {
                break;
            };
            self.vacate_dead(entry);
        }
    }

    fn sweep(&mut self) {
        let slots = &mut self.slots;
        let free_slots = &mut self.free_slots;
        let mut is_live = |entry: &Entry| {
            let slot = &mut slots[entry.slot as usize];
            let is_live = slot.timer.is_some();
            if !is_live {
                slot.vacate();
                free_slots.push(entry.slot);
            }
            is_live
        };
        self.run.retain(&mut is_live);
        self.heap.retain(&mut is_live);
        self.dead = 0;
        // From the last entry that has a child up to the root.
        for at in (0..self.heap.len().div_ceil(ARITY)).rev() {
            self.sift_down(at);
        }
    }

    #[inline]
    fn drop_dead_root(&mut self) {
        while self.dead > 0 && self.heap.first().is_some_and(|entry| self.is_dead(entry)) {
            let slot = self.pop_root();
            self.dead -= 1;
            self.vacate_slot(slot);
        }
    }

    /// Whether the run has the next timer, rather than the heap.
    #[inline]
    fn run_is_first(&self) -> bool {
        match (self.run.front(), self.heap.first()) {
            (Some(in_run), Some(in_heap)) => in_run.key() < in_heap.key(),
            (in_run, _) => in_run.is_some(),
        }
    }

    #[inline]
    fn first(&self) -> Option<&Entry> {
        if self.run_is_first() { self.run.front() } else { self.heap.first() }
    }

    /// Removes the heap's first entry, which there must be. Returns its slot.
    fn pop_root(&mut self) -> u32 {
        let root = self.heap.swap_remove(0);
        if !self.heap.is_empty() {
            self.sift_down(0);
        }
        root.slot
    }

    fn sift_up(&mut self, mut at: usize) {
        let entry = self.heap[at];
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if self.heap[parent].key() <= entry.key() {
                break;
            }
            self.heap[at] = self.heap[parent];
            at = parent;
        }
        self.heap[at] = entry;
    }

    fn sift_down(&mut self, mut at: usize) {
        let heap = self.heap.as_mut_slice();
        let entry = heap[at];
        while let Some(least) = least_child(heap, at) {
            let child = heap[least];
            if entry.key() <= child.key() {
                break;
            }
            heap[at] = child;
            at = least;
        }
        heap[at] = entry;
    }
}

/// Which child of an entry comes first.
#[inline]
fn least_child(heap: &[Entry], at: usize) -> Option<usize> {
    let first = at * ARITY + 1;
    let children = heap.get(first..)?;
    let lesser = |one: usize, other: usize| {
        if children[other].key() < children[one].key() { other } else { one }
    };
    let least = if children.len() >= ARITY {
        lesser(lesser(0, 1), lesser(2, 3))
    } else {
        (1..children.len()).fold(0, lesser)
    };
    (!children.is_empty()).then_some(first + least)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(timers: &mut Timers<u32>, now_ns: u64) -> Vec<u32> {
        std::iter::from_fn(|| timers.pop_due(now_ns)).collect()
    }

    fn entries(timers: &Timers<u32>) -> usize {
        timers.run.len() + timers.heap.len()
    }

    #[test]
    fn due_timers_come_in_order_of_deadline_then_insertion() {
        let mut timers = Timers::default();
        for (id, deadline) in [(0, 50), (1, 10), (2, 50), (3, 20), (4, 10), (5, 90)] {
            timers.insert(deadline, 0, id);
        }
        assert_eq!(drain(&mut timers, 50), [1, 4, 3, 0, 2]);
        assert_eq!(timers.next_deadline_ns(), Some(90));
    }

    #[test]
    fn a_timer_is_not_due_a_nanosecond_early() {
        let mut timers = Timers::default();
        timers.insert(10, 0, 0);
        assert!(timers.pop_due(9).is_none());
        assert!(timers.pop_due(10).is_some());
    }

    #[test]
    fn a_key_fits_one_timer_and_only_while_it_waits() {
        let mut timers = Timers::default();
        let fired = timers.insert(10, 0, 0);
        assert_eq!(timers.pop_due(10), Some(0));
        let removed = timers.insert(10, 0, 1);
        assert_eq!(timers.remove(fired), None);
        assert_eq!(timers.remove(removed), Some(1));
        assert_eq!(timers.remove(removed), None);
        timers.insert(10, 0, 2);
        assert_eq!(timers.remove(removed), None);
        assert_eq!(timers.len(), 1);
    }

    #[test]
    fn a_key_is_a_number_and_back() {
        let mut timers = Timers::default();
        let key = timers.insert(10, 0, 0);
        assert_eq!(Key::try_from(u64::from(key)), Ok(key));
        assert_eq!(Key::try_from(7), Err(()), "of no generation");
    }

    #[test]
    fn timeouts_that_do_not_strike_leave_nothing() {
        let mut timers = Timers::default();
        let keys: Vec<Key> = (0..50_u32).map(|id| timers.insert(u64::from(id), 0, id)).collect();
        for &key in keys[..25].iter().chain(keys[25..].iter().rev()) {
            timers.remove(key);
        }
        assert_eq!(entries(&timers), 0);
        assert_eq!(timers.free_slots.len(), 50);
    }

    #[test]
    fn dead_entries_are_swept_when_they_are_the_majority() {
        let mut timers = Timers::default();
        let keys: Vec<Key> =
            (0..1000_u32).map(|id| timers.insert(1_000_000 - u64::from(id), 0, id)).collect();
        for &key in &keys[..800] {
            timers.remove(key);
        }
        assert!(entries(&timers) < 500, "{} entries are left", entries(&timers));
        assert_eq!(drain(&mut timers, u64::MAX), (800..1000).rev().collect::<Vec<u32>>());
    }

    #[test]
    fn one_timer_far_away_does_not_keep_the_others_out_of_the_run() {
        let mut timers = Timers::default();
        timers.insert(1_000_000, 0, 0);
        for id in 1..10_u32 {
            timers.insert(u64::from(id), 0, id);
        }
        assert_eq!((timers.run.len(), timers.heap.len()), (9, 1));
    }

    #[test]
    fn timers_that_can_wait_share_the_wake_up_of_the_last_one_that_all_reach() {
        let mut timers = Timers::default();
        timers.insert(100, 50, 0);
        assert_eq!(timers.shared_wake_up_ns(), Some(100), "nobody to wait for");
        timers.insert(151, 0, 1);
        assert_eq!(timers.shared_wake_up_ns(), Some(100), "too far");
        timers.insert(130, 50, 2);
        assert_eq!(timers.shared_wake_up_ns(), Some(130));
        timers.insert(120, 5, 3);
        assert_eq!(timers.shared_wake_up_ns(), Some(120), "the one at 120 would be late");
        let impatient = timers.insert(110, 0, 4);
        assert_eq!(timers.shared_wake_up_ns(), Some(110));
        timers.remove(impatient);
        assert_eq!(timers.shared_wake_up_ns(), Some(120), "as if it had never been");
    }

    #[test]
    fn of_very_many_timers_some_share_a_wake_up() {
        for of_run in [true, false] {
            let mut timers = Timers::default();
            (0..4000_u64).for_each(|number| {
                timers.insert(if of_run { number } else { 3999 - number }, 4000, 0);
            });
            let wake_up_ns = timers.shared_wake_up_ns().unwrap();
            assert!(
                (MAX_LOOKS / 4 - 1..MAX_LOOKS).contains(&(wake_up_ns as usize)),
                "{wake_up_ns}"
            );
        }
        let mut timers = Timers::default();
        (0..1000).for_each(|_| _ = timers.insert(7, 1000, 0));
        assert_eq!(timers.shared_wake_up_ns(), Some(7));
    }

    /// What happens to timers.
    #[derive(Clone, Debug)]
    enum Step {
        Insert {
            deadline_ns: u64,
            slack_ns: u32,
        },
        /// Of those that wait, the one at this place (counted round).
        Remove {
            place: usize,
        },
        Fire {
            now_ns: u64,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Few deadlines, so that many are equal; bursts, so that sweeps happen.
        let step = prop_oneof![
            6 => (0..20_u64, 0..10_u32)
                .prop_map(|(deadline_ns, slack_ns)| Step::Insert { deadline_ns, slack_ns }),
            5 => any::<usize>().prop_map(|place| Step::Remove { place }),
            1 => (0..20_u64).prop_map(|now_ns| Step::Fire { now_ns }),
        ];
        prop::collection::vec(step, 0..1500)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Beside the simplest thing that has the same rules: a list that is sorted each time.
        #[test]
        fn any_history_fires_what_is_due_in_order_and_nothing_that_was_removed(history in steps()) {
            let mut timers = Timers::default();
            let mut waiting: Vec<(u64, u32, u32, Key)> = Vec::new();
            let mut next_id = 0;
            for step in history {
                match step {
                    Step::Insert { deadline_ns, slack_ns } => {
                        let key = timers.insert(deadline_ns, slack_ns, next_id);
                        waiting.push((deadline_ns, next_id, slack_ns, key));
                        next_id += 1;
                    }
                    Step::Remove { place } if !waiting.is_empty() => {
                        let (_, id, _, key) = waiting.remove(place % waiting.len());
                        prop_assert_eq!(timers.remove(key), Some(id));
                        prop_assert_eq!(timers.remove(key), None);
                    }
                    Step::Remove { .. } => {}
                    Step::Fire { now_ns } => {
                        waiting.sort_by_key(|(deadline_ns, id, ..)| (*deadline_ns, *id));
                        let due = waiting.partition_point(|(deadline_ns, ..)| *deadline_ns <= now_ns);
                        let expected: Vec<u32> = waiting.drain(..due).map(|(_, id, ..)| id).collect();
                        prop_assert_eq!(drain(&mut timers, now_ns), expected);
                    }
                }
                let first = waiting.iter().map(|(deadline_ns, ..)| *deadline_ns).min();
                prop_assert_eq!(timers.next_deadline_ns(), first);
                let limit = waiting.iter().map(|it| it.0 + u64::from(it.2)).min();
                let deadlines = waiting.iter().map(|(deadline_ns, ..)| *deadline_ns);
                let last = deadlines.filter(|&deadline_ns| Some(deadline_ns) <= limit).max();
                let wake_up = timers.shared_wake_up_ns();
                if entries(&timers) <= MAX_LOOKS {
                    prop_assert_eq!(wake_up, last);
                } else {
                    prop_assert!(first <= wake_up && wake_up <= last);
                }
                prop_assert_eq!(timers.len(), waiting.len());
                prop_assert_eq!(timers.iter().count(), waiting.len());
                let slots = entries(&timers) + timers.free_slots.len();
                prop_assert_eq!(slots, timers.slots.len(), "each slot has an entry or is free");
            }
        }
    }
}
