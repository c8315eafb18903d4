//! The end of a transport's socket, which comes in steps.

use std::cell::Cell;

/// How far the life of a socket has come. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Open,
    /// `close` was called; what is buffered is still being written.
    Closing,
    /// The end is decided: `connection_lost` is due or was called. No more I/O.
    Lost,
}

/// What `close` leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It was closed before.
    Already,
    /// The buffer is still being written; watch the socket.
    Flushing,
    /// `connection_lost` is due.
    Lost,
}

#[derive(Debug)]
pub(crate) struct Life(Cell<Phase>);

impl Life {
    pub fn new() -> Self {
        Life(Cell::new(Phase::Open))
    }

    #[inline]
    pub fn phase(&self) -> Phase {
        self.0.get()
    }

    #[inline]
    pub fn is_closing(&self) -> bool {
        self.phase() != Phase::Open
    }

    /// The user closes it.
    pub fn close(&self, has_unsent: bool) -> Closed {
        if self.is_closing() {
            return Closed::Already;
        }
        let (phase, closed) = if has_unsent {
            (Phase::Closing, Closed::Flushing)
        } else {
            (Phase::Lost, Closed::Lost)
        };
        self.0.set(phase);
        closed
    }

    /// Everything is written: true if it was closing, and so has ended now.
    pub fn finish_closing(&self) -> bool {
        let was_closing = self.phase() == Phase::Closing;
        if was_closing {
            self.0.set(Phase::Lost);
        }
        was_closing
    }

    /// It ends at once. False if it had ended before.
    pub fn end(&self) -> bool {
        self.0.replace(Phase::Lost) != Phase::Lost
    }
}
