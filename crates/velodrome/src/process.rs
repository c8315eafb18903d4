//! Which process has made something: what was made before a `fork` belongs to the parent.

#![allow(unsafe_code)]

use std::{
    mem::ManuallyDrop,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use rustix::io::{DupFlags, dup3};

use crate::Result;

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

/// Puts a new descriptor in the place of one of the parent's, under its number: only this process no
/// longer has the parent's. The number is never free, so nobody else can get it.
pub(crate) fn replace(parents: &OwnedFd, new: &OwnedFd) -> Result<()> {
    // SAFETY: an open descriptor, which stays its owner's: it is not closed here.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(parents.as_raw_fd()) });
    dup3(new, &mut place, DupFlags::CLOEXEC)
}
