//! Whether many callbacks of a batch write, so that what they write had better go out together.
//!
//! Where each is sent at once, a peer of many connections on the same machine is woken for each: it answers one, sleeps
//! again, and every waking costs the sender. So after a batch in which many callbacks wrote, and which was quick, what is
//! written in the next one is held until its end, or until so many callbacks have run.

use std::cell::Cell;

/// A batch in which so many callbacks wrote makes the next one a crowd...
const MANY: u32 = 16;
/// ...unless it took longer for each of them: then nothing waits for the others.
const QUICK_NS: u64 = 100_000;
/// What is written is held for so many callbacks at most, the one that wrote first among them.
const CALLBACKS_HELD: u32 = 128;

/// The turn of a loop that something is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteTurn {
    pub number: u64,
    /// What is written may wait for what others write.
    pub is_crowded: bool,
}

#[derive(Debug, Default)]
pub struct Crowd {
    is_crowded: Cell<bool>,
    /// Of the callback that runs, in its batch, from 1 on.
    position: Cell<u32>,
    /// Of the callback that wrote last.
    wrote_at: Cell<u32>,
    /// How many callbacks of the batch have written.
    writers: Cell<u32>,
    /// Of the first callback whose write is held; 0: nothing is.
    held_from: Cell<u32>,
}

impl Crowd {
    pub fn is_crowded(&self) -> bool {
        self.is_crowded.get()
    }

    /// The next callback of the batch runs.
    #[inline]
    pub fn next_callback(&self) {
        self.position.set(self.position.get() + 1);
    }

    /// The callback that runs writes something.
    #[inline]
    pub fn note_write(&self) {
        let position = self.position.get();
        if self.wrote_at.replace(position) != position {
            self.writers.set(self.writers.get() + 1);
            if self.is_crowded.get() && self.held_from.get() == 0 {
                self.held_from.set(position);
            }
        }
    }

    /// After each callback: what is held has waited for long enough. True once for each time.
    #[inline]
    pub fn must_send(&self) -> bool {
        let held_from = self.held_from.get();
        let must_send = held_from != 0 && self.position.get() - held_from + 1 >= CALLBACKS_HELD;
        if must_send {
            self.held_from.set(0);
        }
        must_send
    }

    /// The batch is over. `elapsed_ns`: how long it took. One without writes says nothing: tasks often write a batch
    /// after what they wait for has come.
    #[inline]
    pub fn batch_done(&self, elapsed_ns: impl FnOnce() -> u64) {
        self.position.set(0);
        let writers = self.writers.replace(0);
        if writers > 0 {
            self.wrote_at.set(0);
            self.held_from.set(0);
            let is_quick = || elapsed_ns() / u64::from(writers) <= QUICK_NS;
            self.is_crowded.set(writers >= MANY && is_quick());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch of so many callbacks, of which the first ones write. How often it had to send in the middle.
    fn batch(crowd: &Crowd, callbacks: u32, writers: u32, elapsed_ns: u64) -> usize {
        let sent = (0..callbacks).filter(|&position| {
            crowd.next_callback();
            if position < writers {
                // A second write of a callback does not count.
                crowd.note_write();
                crowd.note_write();
            }
            crowd.must_send()
        });
        let sent = sent.count();
        crowd.batch_done(|| elapsed_ns);
        sent
    }

    #[test]
    fn many_writers_make_a_crowd_of_the_next_batch() {
        let crowd = Crowd::default();
        assert!(!crowd.is_crowded());
        batch(&crowd, 50, MANY - 1, 0);
        assert!(!crowd.is_crowded());
        batch(&crowd, 50, MANY, 0);
        assert!(crowd.is_crowded());
        batch(&crowd, 50, 0, 0);
        assert!(crowd.is_crowded(), "nobody wrote");
        batch(&crowd, 50, 1, 0);
        assert!(!crowd.is_crowded());
    }

    #[test]
    fn a_slow_batch_is_no_crowd() {
        let crowd = Crowd::default();
        batch(&crowd, 50, MANY, u64::from(MANY) * QUICK_NS);
        assert!(crowd.is_crowded());
        batch(&crowd, 50, MANY, u64::from(MANY + 1) * QUICK_NS);
        assert!(!crowd.is_crowded());
    }

    #[test]
    fn what_is_held_waits_for_so_many_callbacks_at_most() {
        let crowd = Crowd::default();
        assert_eq!(batch(&crowd, 3 * CALLBACKS_HELD, CALLBACKS_HELD, 0), 0, "nothing was held");
        assert_eq!(batch(&crowd, CALLBACKS_HELD - 1, MANY, 0), 0);
        assert_eq!(batch(&crowd, 3 * CALLBACKS_HELD, MANY, 0), 1, "whether they write or not");
        assert_eq!(batch(&crowd, 3 * CALLBACKS_HELD, 3 * CALLBACKS_HELD, 0), 3);
        assert_eq!(batch(&crowd, CALLBACKS_HELD, CALLBACKS_HELD, 0), 1, "it begins anew");
    }
}
