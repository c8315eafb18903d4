//! Monotonic time in nanoseconds, and a hand-turned clock for tests.

use std::cell::Cell;

use rustix::time::{ClockId, clock_gettime};

/// Where a loop reads the time. Nanoseconds since an arbitrary start that never goes back.
///
/// ```
/// use std::{cell::Cell, time::Duration};
/// use velodrome::{Clock, EventLoop};
///
/// let clock = Clock::Manual(Cell::new(0));
/// clock.advance(5);
/// assert_eq!(clock.now_ns(), 5);
/// assert_eq!(EventLoop::with_clock(clock).time(), Duration::from_nanos(5));
/// ```
#[derive(Debug, Default)]
pub enum Clock {
    /// `CLOCK_MONOTONIC`: the clock of Python's `time.monotonic()`.
    #[default]
    Monotonic,
    /// Stands still until it is turned by [`Clock::advance`], or by a loop that would sleep: instead, it turns the
    /// clock to its next timer.
    Manual(Cell<u64>),
}

impl Clock {
    #[inline]
    pub fn now_ns(&self) -> u64 {
        match self {
            Clock::Monotonic => {
                let now = clock_gettime(ClockId::Monotonic);
                now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
            }
            Clock::Manual(now) => now.get(),
        }
    }

    #[inline]
    pub(crate) fn is_manual(&self) -> bool {
        matches!(self, Clock::Manual(_))
    }

    /// Moves a manual clock forward; a real one cannot be turned, so this does nothing to it.
    pub fn advance(&self, by_ns: u64) {
        if let Clock::Manual(now) = self {
            now.set(now.get() + by_ns);
        }
    }
}
