//! Which process has made something: what was made before a `fork` belongs to the parent.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Counts the forks that this process is a child of; see [`forked`].
static FORKS: AtomicU32 = AtomicU32::new(0);

/// To be called in a child after `fork`.
pub fn forked() {
    FORKS.fetch_add(1, Relaxed);
}

/// A process, as far as those can ask that were copied into its children: the count of its forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

impl Process {
    pub fn current() -> Self {
        Process(FORKS.load(Relaxed))
    }

    /// False in a child of it.
    pub fn is_current(self) -> bool {
        self == Self::current()
    }
}
