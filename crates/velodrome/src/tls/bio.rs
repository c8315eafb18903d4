//! The BIO beneath a session: libssl reads ciphertext from it and writes ciphertext to it.
//!
//! Its functions are called from within libssl, with or without Python's lock: they touch nothing
//! but these buffers.

#![allow(unsafe_code)]

use std::{
    ffi::{c_char, c_int, c_long, c_void},
    ptr::{self, NonNull},
    slice,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    libssl::{Bio, BioMethod, LibSsl},
    records::{Completed, Records},
};

#[derive(Debug, Default)]
pub struct Buffers {
    /// Ciphertext that has come and is not read: first what was kept...
    held: Vec<u8>,
    /// (how much of it is read),
    read_of_held: usize,
    /// ...then what is shown where it is, while `Session::with_ciphertext` runs.
    shown: Shown,
    /// Where records end; `None` while libssl gets every byte as it comes.
    records: Option<Records>,
    pub output: Vec<u8>,
}

/// Bytes that somebody else keeps. Invariant: `data` has `len` bytes while `len` is not 0.
#[derive(Debug)]
struct Shown {
    data: *const u8,
    len: usize,
}

impl Default for Shown {
    fn default() -> Self {
        Shown { data: ptr::null(), len: 0 }
    }
}

impl Shown {
    fn as_slice(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the invariant.
        unsafe { slice::from_raw_parts(self.data, self.len) }
    }
}

impl Buffers {
    fn kept(&self) -> &[u8] {
        &self.held[self.read_of_held..]
    }

    pub fn unread_bytes(&self) -> usize {
        self.kept().len() + self.shown.len
    }

    /// How much libssl may see.
    #[inline]
    pub fn visible_bytes(&self) -> usize {
        let incomplete = self.records.as_ref().map_or(0, Records::incomplete_bytes);
        self.unread_bytes().saturating_sub(incomplete)
    }

    /// The whole records that wait, if libssl is between two of them.
    pub fn waiting(&self) -> Completed {
        let mut records = Records::default();
        records.scan(self.kept()) + records.scan(self.shown.as_slice())
    }

    pub fn hide_incomplete_records(&mut self) {
        let mut records = Records::default();
        records.scan(self.kept());
        self.records = Some(records);
    }

    pub fn show_everything(&mut self) {
        self.records = None;
    }

    fn note(&mut self, ciphertext: &[u8]) {
        if let Some(records) = &mut self.records {
            records.scan(ciphertext);
        }
    }

    pub fn hold(&mut self, ciphertext: &[u8]) {
        // It comes behind what is shown, if a callback of libssl's brings it.
        self.hold_rest();
        self.note(ciphertext);
        self.keep(ciphertext);
    }

    fn keep(&mut self, ciphertext: &[u8]) {
        if self.read_of_held > self.held.len() / 2 {
            // There may always be something left: what is read must not pile up in front of it.
            self.held.drain(..self.read_of_held);
            self.read_of_held = 0;
        }
        self.held.extend_from_slice(ciphertext);
    }

    /// The caller calls `hold_rest` before the bytes go.
    pub fn show(&mut self, ciphertext: &[u8]) {
        self.note(ciphertext);
        self.shown = Shown { data: ciphertext.as_ptr(), len: ciphertext.len() };
    }

    pub fn hold_rest(&mut self) {
        let shown = std::mem::take(&mut self.shown);
        self.keep(shown.as_slice());
    }

    /// Copies what may be seen, as much as fits. 0 if there is nothing.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let wanted = buffer.len().min(self.visible_bytes());
        let from_kept = wanted.min(self.kept().len());
        buffer[..from_kept].copy_from_slice(&self.kept()[..from_kept]);
        let from_shown = wanted - from_kept;
        buffer[from_kept..wanted].copy_from_slice(&self.shown.as_slice()[..from_shown]);
        self.consume(from_kept, from_shown);
        wanted
    }

    fn consume(&mut self, from_kept: usize, from_shown: usize) {
        self.read_of_held += from_kept;
        if self.read_of_held == self.held.len() && self.read_of_held > 0 {
            // An idle connection keeps no memory.
            self.held = Vec::new();
            self.read_of_held = 0;
        }
        if from_shown > 0 {
            // `wrapping_add` stays inside or one past the end: `from_shown` is at most `len`.
            self.shown.data = self.shown.data.wrapping_add(from_shown);
            self.shown.len -= from_shown;
        }
    }
}

/// The owner of an `SSL` lets libssl work without Python's lock, while other threads ask for sizes.
/// Nothing that holds this lock calls libssl or Python: nobody waits long.
#[inline]
pub fn lock(buffers: &Mutex<Buffers>) -> MutexGuard<'_, Buffers> {
    buffers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A BIO with buffers of its own, which are freed with it.
pub fn new(library: &'static LibSsl) -> Option<(*mut Bio, NonNull<Mutex<Buffers>>)> {
    // SAFETY: a method that `LibSsl` made; the other calls are for the BIO that we just made.
    unsafe {
        let bio = (library.BIO_new)(library.bio_method());
        if bio.is_null() {
            return None;
        }
        let buffers = NonNull::from(Box::leak(Box::new(Mutex::new(Buffers::default()))));
        (library.BIO_set_data)(bio, buffers.as_ptr().cast());
        (library.BIO_set_init)(bio, 1);
        Some((bio, buffers))
    }
}

/// The kind of BIO, of which a library needs one.
pub fn method(library: &LibSsl) -> Option<NonNull<BioMethod>> {
    const BIO_TYPE_SOURCE_SINK: c_int = 0x0400;
    // SAFETY: plain calls; the functions have the types that these settings are for.
    unsafe {
        let index = (library.BIO_get_new_index)();
        if index < 0 {
            return None;
        }
        let name = c"velodrome buffers";
        let method =
            NonNull::new((library.BIO_meth_new)(index | BIO_TYPE_SOURCE_SINK, name.as_ptr()))?;
        let is_set = (library.BIO_meth_set_read)(method.as_ptr(), read) == 1
            && (library.BIO_meth_set_write)(method.as_ptr(), write) == 1
            && (library.BIO_meth_set_ctrl)(method.as_ptr(), control) == 1
            && (library.BIO_meth_set_destroy)(method.as_ptr(), destroy) == 1;
        is_set.then_some(method)
    }
}

/// The buffers of a BIO of ours, and its library.
///
/// # Safety
/// `bio` is one that `new` made, in a call from libssl.
unsafe fn parts<'a>(bio: *mut Bio) -> Option<(&'static LibSsl, &'a Mutex<Buffers>)> {
    let library = LibSsl::in_use()?;
    // SAFETY: `new` set the data, and only `destroy` frees them.
    let buffers = unsafe { (library.BIO_get_data)(bio).cast::<Mutex<Buffers>>().as_ref() }?;
    Some((library, buffers))
}

const BIO_FLAGS_RETRY_READ: c_int = 0x01 | 0x08;
const BIO_FLAGS_ANY_RETRY: c_int = 0x0f;

unsafe extern "C" fn read(bio: *mut Bio, buffer: *mut c_char, len: c_int) -> c_int {
    // SAFETY: libssl calls it for a BIO of ours, with room for `len` bytes.
    unsafe {
        let (Some((library, buffers)), Ok(len)) = (parts(bio), usize::try_from(len)) else {
            return -1;
        };
        if buffer.is_null() || len == 0 {
            return 0;
        }
        (library.BIO_clear_flags)(bio, BIO_FLAGS_ANY_RETRY);
        let buffer = slice::from_raw_parts_mut(buffer.cast::<u8>(), len);
        let count = lock(buffers).read(buffer);
        if count == 0 {
            (library.BIO_set_flags)(bio, BIO_FLAGS_RETRY_READ);
            return -1;
        }
        c_int::try_from(count).unwrap_or(-1)
    }
}

unsafe extern "C" fn write(bio: *mut Bio, data: *const c_char, len: c_int) -> c_int {
    // SAFETY: libssl calls it for a BIO of ours, with `len` bytes.
    unsafe {
        let (Some((library, buffers)), Ok(count)) = (parts(bio), usize::try_from(len)) else {
            return -1;
        };
        (library.BIO_clear_flags)(bio, BIO_FLAGS_ANY_RETRY);
        if data.is_null() || count == 0 {
            return 0;
        }
        lock(buffers).output.extend_from_slice(slice::from_raw_parts(data.cast::<u8>(), count));
        len
    }
}

unsafe extern "C" fn control(bio: *mut Bio, command: c_int, _: c_long, _: *mut c_void) -> c_long {
    const BIO_CTRL_PENDING: c_int = 10;
    const BIO_CTRL_FLUSH: c_int = 11;
    const BIO_CTRL_DUP: c_int = 12;
    const BIO_CTRL_WPENDING: c_int = 13;
    // SAFETY: libssl calls it for a BIO of ours.
    let buffers = unsafe { parts(bio) }.map(|(_, buffers)| lock(buffers));
    let bytes = match (command, buffers) {
        (BIO_CTRL_PENDING, Some(buffers)) => buffers.visible_bytes(),
        (BIO_CTRL_WPENDING, Some(buffers)) => buffers.output.len(),
        (BIO_CTRL_FLUSH | BIO_CTRL_DUP, _) => 1,
        // The rest is not for us: no kernel TLS, no end-of-file, no chain of BIOs.
        _ => 0,
    };
    c_long::try_from(bytes).unwrap_or(c_long::MAX)
}

unsafe extern "C" fn destroy(bio: *mut Bio) -> c_int {
    let Some(library) = LibSsl::in_use() else { return 0 };
    if bio.is_null() {
        return 0;
    }
    // SAFETY: libssl calls it once, when nobody has the BIO any more; `new` made the box.
    unsafe {
        let buffers = (library.BIO_get_data)(bio).cast::<Mutex<Buffers>>();
        (library.BIO_set_data)(bio, ptr::null_mut());
        if !buffers.is_null() {
            drop(Box::from_raw(buffers));
        }
    }
    1
}
