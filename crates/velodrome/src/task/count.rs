//! Counts the owners of something that belongs to one thread and has owners in others, too.
//!
//! Nearly all owners come and go in the thread of what is counted, and there counting should cost no
//! atomic operation. So that thread counts for itself, and the others count together; an owner may
//! move from one thread to another, so that either number alone says nothing, and may even be
//! negative. While the count is anchored, nothing is freed: the thread that owns the anchor adds the
//! two numbers up when it gives it up, and from then on all threads count together.

use std::{cell::Cell, process::abort};

#[cfg(not(loom))]
use std::sync::atomic::{
    AtomicIsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

#[cfg(loom)]
use loom::sync::atomic::{
    AtomicIsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

/// What the others' number has on top while the count is anchored: so it never comes down to 0.
const ANCHOR: isize = isize::MAX / 2;

const NOT_ANCHORED: isize = isize::MIN;

/// See the module. "Here" is the thread of what is counted, which the caller makes sure of.
#[derive(Debug)]
pub(crate) struct Count {
    /// Owners that came, less those that went, in the thread itself; `NOT_ANCHORED` in the end.
    here: Cell<isize>,
    /// The same in all other threads, and once the anchor is given up in all.
    elsewhere: AtomicIsize,
}

/// What to do after an owner has gone.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Others,
    /// It was the last one. All that any owner did with it has happened before.
    Nobody,
}

impl Count {
    /// A count without owners, anchored.
    pub fn anchored() -> Self {
        Count { here: Cell::new(0), elsewhere: AtomicIsize::new(ANCHOR) }
    }

    #[inline]
    pub fn add_here(&self) {
        match self.here.get() {
            NOT_ANCHORED => self.add_elsewhere(),
            here => self.here.set(here + 1),
        }
    }

    #[inline]
    pub fn remove_here(&self) -> Left {
        match self.here.get() {
            NOT_ANCHORED => self.remove_elsewhere(),
            here => {
                self.here.set(here - 1);
                Left::Others
            }
        }
    }

    pub fn add_elsewhere(&self) {
        // As `Arc` does: so many owners can only be ones that were leaked.
        if self.elsewhere.fetch_add(1, Relaxed) > ANCHOR + ANCHOR / 2 {
            abort();
        }
    }

    pub fn remove_elsewhere(&self) -> Left {
        // Before it is anchored no more, the number is near `ANCHOR`, and the result not 0.
        if self.elsewhere.fetch_sub(1, Release) != 1 {
            return Left::Others;
        }
        fence(Acquire);
        Left::Nobody
    }

    /// Gives the anchor up, here, once. Who is left is an owner somewhere.
    #[inline]
    pub fn weigh_anchor(&self) -> Left {
        let here = self.here.replace(NOT_ANCHORED);
        // Nobody is left: then nobody else can change the number.
        if here + self.elsewhere.load(Acquire) - ANCHOR == 0 {
            return Left::Nobody;
        }
        let added = here - ANCHOR;
        if self.elsewhere.fetch_add(added, AcqRel) + added == 0 {
            Left::Nobody
        } else {
            Left::Others
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_owner_is_told_so_whatever_the_thread_that_counted() {
        let count = Count::anchored();
        count.add_here();
        count.add_elsewhere();
        // The one from here goes elsewhere.
        assert_eq!(count.remove_elsewhere(), Left::Others);
        assert_eq!(count.weigh_anchor(), Left::Others);
        count.add_here();
        assert_eq!(count.remove_elsewhere(), Left::Others);
        assert_eq!(count.remove_here(), Left::Nobody);
    }

    #[test]
    fn without_owners_the_anchor_was_the_last() {
        let count = Count::anchored();
        count.add_here();
        assert_eq!(count.remove_here(), Left::Others);
        count.add_here();
        assert_eq!(count.remove_elsewhere(), Left::Others, "it is anchored");
        assert_eq!(count.weigh_anchor(), Left::Nobody);
    }
}

/// All ways in which the threads can interleave, by loom: see `tools/check.sh`.
#[cfg(all(test, loom))]
mod interleavings {
    use loom::{
        cell::UnsafeCell,
        sync::{Arc, atomic::AtomicUsize},
        thread,
    };

    use super::*;

    /// What is counted, in memory that is never freed; loom sees who uses it without an order.
    struct Counted {
        count: Count,
        memory: UnsafeCell<u32>,
        freed: AtomicUsize,
    }

    // SAFETY: as in its real use: what is for the thread itself is used by the model's first thread only.
    unsafe impl Sync for Counted {}
    // SAFETY: as above.
    unsafe impl Send for Counted {}

    impl Counted {
        fn new() -> Arc<Self> {
            Arc::new(Counted {
                count: Count::anchored(),
                memory: UnsafeCell::new(0),
                freed: AtomicUsize::new(0),
            })
        }

        fn look(&self) {
            // SAFETY: loom checks that nobody frees it meanwhile.
            self.memory.with(|memory| unsafe { assert_eq!(*memory, 0) });
        }

        fn after(&self, left: Left) {
            if left == Left::Nobody {
                // SAFETY: loom checks that nobody else looks at it meanwhile.
                self.memory.with_mut(|memory| unsafe { *memory = 1 });
                self.freed.fetch_add(1, Relaxed);
            }
        }
    }

    #[test]
    fn it_is_freed_once_and_after_all_that_was_done_with_it() {
        loom::model(|| {
            let counted = Counted::new();
            // One that goes to another thread, which makes a second one of it.
            counted.count.add_here();
            let other = {
                let counted = Arc::clone(&counted);
                thread::spawn(move || {
                    counted.count.add_elsewhere();
                    counted.look();
                    counted.after(counted.count.remove_elsewhere());
                    counted.look();
                    counted.after(counted.count.remove_elsewhere());
                })
            };
            // One that comes and goes here.
            counted.count.add_here();
            counted.look();
            counted.after(counted.count.remove_here());
            counted.after(counted.count.weigh_anchor());
            other.join().unwrap();
            assert_eq!(counted.freed.load(Relaxed), 1);
        });
    }

    #[test]
    fn two_threads_and_one_that_stays_longest_here() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let counted = Counted::new();
            let others = [(), ()].map(|()| {
                counted.count.add_here();
                let counted = Arc::clone(&counted);
                thread::spawn(move || {
                    counted.look();
                    counted.after(counted.count.remove_elsewhere());
                })
            });
            counted.count.add_here();
            counted.after(counted.count.weigh_anchor());
            counted.look();
            counted.after(counted.count.remove_here());
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(counted.freed.load(Relaxed), 1);
        });
    }
}
