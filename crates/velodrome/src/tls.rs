//! TLS over byte buffers: a session of a libssl that somebody else has loaded and set up.
//!
//! The owner of an `SSL` (Python's `ssl` module, which made it from a user's context) lends it to
//! a [`Session`]. From then on the session's own BIO stands beneath it: ciphertext is read where
//! the socket's receive has put it, and written behind the other records of the turn. Handshake
//! and shutdown stay with the owner, whose calls go through the same BIO.
//!
//! The surprising fact: libssl is only asked to read when a whole record is there. Finding out
//! that nothing is there costs it as much as a small record; five bytes of a header tell the same.

#![allow(unsafe_code)]

mod bio;
pub mod libssl;
#[forbid(unsafe_code)]
mod records;

use std::{
    cell::Cell,
    mem::MaybeUninit,
    ptr::NonNull,
    sync::{Mutex, MutexGuard},
};

use bio::{Buffers, lock};
use libssl::{LibSsl, Ssl};
use records::Completed;

/// What a call of the session came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many bytes of plaintext.
    Bytes(usize),
    /// Not without more ciphertext.
    NeedsData,
    /// The peer has ended its direction with close_notify.
    Closed,
    /// libssl has an error: its owner asks for it, see [`Session`].
    Failed,
}

/// A lent `SSL`. It must not outlive its owner's.
///
/// While the owner is at work on the `SSL`, perhaps without Python's lock, only what reads and
/// writes nothing may be called.
///
/// When a call ends as [`Outcome::Failed`], libssl's error is in the thread's queue still, and the
/// owner's next call of the session fails with it.
#[derive(Debug)]
pub struct Session {
    library: &'static LibSsl,
    ssl: NonNull<Ssl>,
    /// Owned by the BIO, which lives as long as the `SSL`.
    buffers: NonNull<Mutex<Buffers>>,
    /// What a record holds beyond its plaintext, as of the last one that was read by itself.
    overhead_bytes: Cell<usize>,
    /// What waited when `expected_bytes` was asked last, for the read that follows.
    waiting: Cell<Completed>,
}

/// Of TLS 1.3: the tag of its ciphers and the type of the content.
const USUAL_OVERHEAD_BYTES: usize = 17;

impl Session {
    /// Puts a BIO of our own beneath `ssl`. `None` if libssl cannot make one.
    ///
    /// # Safety
    /// `ssl` is a live session of this very library, which lives longer than what is returned and
    /// is used by one thread at a time.
    pub unsafe fn borrow(library: &'static LibSsl, ssl: NonNull<Ssl>) -> Option<Self> {
        let (bio, buffers) = bio::new(library)?;
        // SAFETY: both are live; the session takes the only reference to the BIO.
        unsafe { (library.SSL_set_bio)(ssl.as_ptr(), bio, bio) };
        let overhead_bytes = Cell::new(USUAL_OVERHEAD_BYTES);
        Some(Session { library, ssl, buffers, overhead_bytes, waiting: Cell::default() })
    }

    #[inline]
    fn buffers(&self) -> MutexGuard<'_, Buffers> {
        // SAFETY: the BIO owns them and lives as long as the `SSL`, which outlives `self`.
        lock(unsafe { self.buffers.as_ref() })
    }

    // ---- ciphertext in ---------------------------------------------------------------------

    /// Whole records are awaited from here on; before, libssl gets every byte as it comes.
    pub fn handshake_done(&self) {
        self.buffers().hide_incomplete_records();
    }

    /// libssl gets every byte as it comes, again.
    pub fn shutting_down(&self) {
        self.buffers().show_everything();
    }

    /// Keeps ciphertext for later.
    pub fn hold(&self, ciphertext: &[u8]) {
        self.buffers().hold(ciphertext);
    }

    /// Shows ciphertext where it is while `read` runs; what it leaves is kept.
    pub fn with_ciphertext<R>(&self, ciphertext: &[u8], read: impl FnOnce() -> R) -> R {
        struct Shows<'a>(&'a Session);

        impl Drop for Shows<'_> {
            fn drop(&mut self) {
                self.0.buffers().hold_rest();
            }
        }

        self.buffers().show(ciphertext);
        let _shows = Shows(self);
        read()
    }

    /// How much ciphertext libssl could take. An incomplete record does not count: it can only be
    /// read when more has come.
    pub fn unread_bytes(&self) -> usize {
        self.buffers().visible_bytes()
    }

    /// Whether a call of [`Session::read`] has something to do.
    #[inline]
    pub fn is_readable(&self) -> bool {
        let visible_bytes = self.buffers().visible_bytes();
        // SAFETY: the session is live.
        visible_bytes > 0 || unsafe { (self.library.SSL_pending)(self.ssl.as_ptr()) } > 0
    }

    // ---- plaintext -------------------------------------------------------------------------

    /// How much plaintext is in the records that are here; rarely a little less than there is.
    pub fn expected_bytes(&self) -> usize {
        let waiting = self.buffers().waiting();
        self.waiting.set(waiting);
        // SAFETY: the session is live.
        let pending = unsafe { (self.library.SSL_pending)(self.ssl.as_ptr()) };
        let overhead_bytes = waiting.records * self.overhead_bytes.get();
        waiting.body_bytes.saturating_sub(overhead_bytes) + usize::try_from(pending).unwrap_or(0)
    }

    /// Decrypts into `buffer`, record after record, until it is full or no whole record is left.
    pub fn read(&self, buffer: &mut [MaybeUninit<u8>]) -> (usize, Outcome) {
        self.library.forget_errors();
        let mut filled = 0;
        while filled < buffer.len() && self.is_readable() {
            let rest = &mut buffer[filled..];
            let len = i32::try_from(rest.len()).unwrap_or(i32::MAX);
            // SAFETY: the session is live and the buffers are not locked; `rest` has room for
            // `len` bytes.
            let read = unsafe {
                (self.library.SSL_read)(self.ssl.as_ptr(), rest.as_mut_ptr().cast(), len)
            };
            match usize::try_from(read) {
                Ok(count) if count > 0 => filled += count,
                _ => match self.why_not(read) {
                    // What there was, was not for the reader.
                    Outcome::NeedsData => break,
                    outcome => return (filled, outcome),
                },
            }
        }
        let waiting = self.waiting.take();
        if waiting.records == 1 && (1..waiting.body_bytes).contains(&filled) && !self.is_readable()
        {
            self.overhead_bytes.set(waiting.body_bytes - filled);
        }
        (filled, if filled > 0 { Outcome::Bytes(filled) } else { Outcome::NeedsData })
    }

    /// Encrypts `data`, which is not empty, behind the output that waits.
    pub fn write(&self, data: &[u8]) -> Outcome {
        self.library.forget_errors();
        let len = i32::try_from(data.len()).unwrap_or(i32::MAX);
        // SAFETY: the session is live and the buffers are not locked.
        let written =
            unsafe { (self.library.SSL_write)(self.ssl.as_ptr(), data.as_ptr().cast(), len) };
        match usize::try_from(written) {
            Ok(count) if count > 0 => Outcome::Bytes(count),
            _ => self.why_not(written),
        }
    }

    /// Why a call returned nothing.
    #[cold]
    fn why_not(&self, returned: i32) -> Outcome {
        const SSL_ERROR_WANT_READ: i32 = 2;
        const SSL_ERROR_ZERO_RETURN: i32 = 6;
        // SAFETY: the session is live.
        match unsafe { (self.library.SSL_get_error)(self.ssl.as_ptr(), returned) } {
            SSL_ERROR_WANT_READ => Outcome::NeedsData,
            SSL_ERROR_ZERO_RETURN => Outcome::Closed,
            _ => Outcome::Failed,
        }
    }

    // ---- ciphertext out --------------------------------------------------------------------

    pub fn output_bytes(&self) -> usize {
        self.buffers().output.len()
    }

    /// Lends `room`, which is empty, to the output. What waits already comes first.
    pub fn lend_output(&self, mut room: Vec<u8>) {
        let mut buffers = self.buffers();
        room.extend_from_slice(&buffers.output);
        buffers.output = room;
    }

    /// Takes the records that wait to be sent.
    pub fn take_output(&self) -> Vec<u8> {
        std::mem::take(&mut self.buffers().output)
    }
}
