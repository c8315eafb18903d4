//! Whether the writes of a turn are joined into one system call.
//!
//! Servers write twice an answer (head, body), and one send instead of two is the largest single
//! gain there is. But a program may rely on `write` trying the socket at once (write, then block
//! on the peer in the same callback). So a stream learns: its writes go out at once until a turn
//! in which it wrote twice; from then on the first write of a turn waits for the end of the
//! batch; a turn with a single write unlearns it. In a crowd ([`crate::crowd`]) all writes wait.

use std::cell::Cell;

use crate::crowd::WriteTurn;

#[derive(Debug)]
pub struct Joining {
    /// Off: never held back.
    enabled: bool,
    joined: Cell<bool>,
    /// The turn of the latest write.
    turn: Cell<u64>,
    writes_in_turn: Cell<u32>,
}

impl Joining {
    /// A write of this size gains nothing from being joined.
    pub const MAX_HELD_BYTES: usize = 64 * 1024;

    pub fn new(enabled: bool) -> Self {
        Joining {
            enabled,
            joined: Cell::new(false),
            turn: Cell::new(0),
            writes_in_turn: Cell::new(0),
        }
    }

    /// Counts a write; true if it may be held back.
    #[inline]
    pub fn note_write(&self, turn: Option<WriteTurn>) -> bool {
        let Some(turn) = turn else { return false };
        if self.turn.replace(turn.number) == turn.number {
            self.writes_in_turn.set(self.writes_in_turn.get().saturating_add(1));
        } else {
            match self.writes_in_turn.replace(1) {
                0 => {}
                1 => self.joined.set(false),
                _ => self.joined.set(self.enabled),
            }
        }
        self.joined.get() || turn.is_crowded && self.enabled
    }
}
