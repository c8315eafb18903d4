//! Tells a protocol when to stop writing and when to go on.

use std::cell::Cell;

use super::Joining;

#[derive(Debug)]
pub struct FlowControl {
    high_water_bytes: Cell<usize>,
    low_water_bytes: Cell<usize>,
    /// The protocol was told to pause and not yet to resume.
    paused: Cell<bool>,
}

/// asyncio's default mark.
pub const HIGH_WATER_BYTES: usize = 64 * 1024;

impl Default for FlowControl {
    fn default() -> Self {
        Self::new(HIGH_WATER_BYTES)
    }
}

impl FlowControl {
    pub fn new(high_water_bytes: usize) -> Self {
        FlowControl {
            high_water_bytes: Cell::new(high_water_bytes),
            low_water_bytes: Cell::new(high_water_bytes / 4),
            paused: Cell::new(false),
        }
    }

    /// Somebody else has told the protocol to pause.
    pub fn take_over_pause(&self) {
        self.paused.set(true);
    }

    /// The limits in asyncio's order: low, high.
    pub fn limits(&self) -> (usize, usize) {
        (self.low_water_bytes.get(), self.high_water_bytes.get())
    }

    /// Above it, what is held to be sent later (see [`Joining`]) is sent at once: held any longer, it would
    /// pause a protocol that the peer does not hold back.
    pub fn max_held_bytes(&self) -> usize {
        self.high_water_bytes.get().min(Joining::MAX_HELD_BYTES)
    }

    /// The caller has checked that `low <= high`.
    pub fn set_limits(&self, low_bytes: usize, high_bytes: usize) {
        self.low_water_bytes.set(low_bytes);
        self.high_water_bytes.set(high_bytes);
    }

    /// True if the protocol must be told to pause now.
    #[inline]
    pub fn should_pause(&self, unsent_bytes: usize) -> bool {
        unsent_bytes > self.high_water_bytes.get() && !self.paused.replace(true)
    }

    /// True if the protocol must be told to resume now.
    #[inline]
    pub fn should_resume(&self, unsent_bytes: usize) -> bool {
        self.paused.get()
            && unsent_bytes <= self.low_water_bytes.get()
            && self.paused.replace(false)
    }

    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }
}
