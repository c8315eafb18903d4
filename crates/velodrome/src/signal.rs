//! Signals on their way into the loop: a pipe that a signal handler may write to.
//!
//! The handler itself belongs to whoever runs the loop (for Python, the interpreter's own): it
//! writes the signal's number as one byte, which ends the poller's sleep, and the loop hands the
//! numbers to its host in the loop's thread.
//!
//! ```
//! use velodrome::signal::SignalPipe;
//!
//! let pipe = SignalPipe::new()?;
//! // A signal handler writes to `pipe.writer()`.
//! pipe.put_back(&[10, 12]);
//! assert_eq!(pipe.take(), [10, 12]);
//! assert!(pipe.take().is_empty());
//! # std::io::Result::Ok(())
//! ```

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::{
    io,
    pipe::{PipeFlags, pipe_with},
};

use crate::{Result, process};

#[derive(Debug)]
pub struct SignalPipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl SignalPipe {
    pub fn new() -> Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(SignalPipe { reader, writer })
    }

    /// In a child: has no more to do with the parent's signals.
    pub fn take_over(&self) -> Result<()> {
        let own = SignalPipe::new()?;
        process::replace(&self.reader, &own.reader)?;
        process::replace(&self.writer, &own.writer)
    }

    /// Where a signal handler writes the number of its signal. Non-blocking.
    pub fn writer(&self) -> RawFd {
        self.writer.as_raw_fd()
    }

    /// The numbers that arrived since the last call, in order.
    pub fn take(&self) -> Vec<u8> {
        let mut numbers = Vec::new();
        let mut chunk = [0; 64];
        while let Ok(count @ 1..) = io::read(&self.reader, &mut chunk) {
            numbers.extend_from_slice(&chunk[..count]);
        }
        numbers
    }

    /// Brings numbers back, behind those that arrived meanwhile.
    pub fn put_back(&self, numbers: &[u8]) {
        if !numbers.is_empty() {
            // There is room: they came from there.
            let _ = io::write(&self.writer, numbers);
        }
    }
}

impl AsFd for SignalPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
