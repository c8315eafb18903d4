//! How an extension module reaches velodrome's Python loop at run time, without linking to it: a
//! table of C functions, in the capsule [`CAPSULE`].
//!
//! What an extension leaves with a loop is a record: data, and functions that use it up. The loop runs or
//! drops each exactly once; closing the loop drops those that still wait.
//!
//! **Rules.** "Attached" means that the calling thread holds the GIL. Each function of the table says
//! what it needs; those of a record are called attached. No function of the table raises, panics or runs
//! code of Python's, but for the `drop` of a record that it takes out. It calls that last, with nothing of
//! the loop in use, so the `drop` may come back.
//!
//! **What a record may hold.** The garbage collector does not see into it. So it holds no reference to
//! a Python object from which the loop can be reached: that would keep the loop alive for ever. Closing
//! or freeing a loop may happen in any thread, so `drop` must be right in any.

#![no_std]
#![forbid(unsafe_code)]

use core::{
    ffi::{CStr, c_int, c_void},
    marker::{PhantomData, PhantomPinned},
};

/// Where the pointer to the [`Table`] is: for `PyCapsule_Import`.
pub const CAPSULE: &CStr = c"velodrome._native.loop_api";

/// The present [`Table::version`].
pub const VERSION: u32 = 1;

/// A callback, to be run once or dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub data: *mut c_void,
    pub functions: &'static RecordFunctions,
}

/// What can be done with a [`Record`]: one of the two, once. Both are called attached.
#[repr(C)]
#[derive(Debug)]
pub struct RecordFunctions {
    /// In the thread that runs the loop. It may leave a Python exception set, which is treated as that of
    /// any callback: `SystemExit` and `KeyboardInterrupt` leave the loop, others go to the exception handler.
    /// It must not unwind.
    pub run: unsafe extern "C" fn(data: *mut c_void),
    /// In any thread. It must not unwind, and leaves no exception.
    pub drop: unsafe extern "C" fn(data: *mut c_void),
}

/// Who hears of a descriptor.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FdRecord {
    pub data: *mut c_void,
    pub functions: &'static FdRecordFunctions,
}

/// What can be done with an [`FdRecord`]. Both are called attached.
#[repr(C)]
#[derive(Debug)]
pub struct FdRecordFunctions {
    /// Any number of times, as [`RecordFunctions::run`]. `readiness` is of [`READABLE`], [`WRITABLE`] and
    /// [`HUNG_UP`].
    pub ready: unsafe extern "C" fn(data: *mut c_void, readiness: u32),
    /// Once, in the end, as [`RecordFunctions::drop`].
    pub drop: unsafe extern "C" fn(data: *mut c_void),
}

/// Reading would not block.
pub const READABLE: u32 = 1;
/// Writing would not block.
pub const WRITABLE: u32 = 2;
/// The peer sends no more, or there is an error: no more changes will come.
pub const HUNG_UP: u32 = 4;

/// What a call came to: [`OK`], an `errno` (positive), or one of the negative ones.
///
/// If it is not [`OK`], the record that was given is untouched, and still the caller's.
pub type Status = c_int;

pub const OK: Status = 0;
/// The loop is closed, or gone.
pub const CLOSED: Status = -1;
/// An error in velodrome.
pub const FAILED: Status = -2;

/// A loop as extensions have it. It stays valid when the loop is gone; then every call says [`CLOSED`].
///
/// It does not keep the loop alive.
#[repr(C)]
pub struct Door {
    opaque: [u8; 0],
    not_ours: PhantomData<(*mut u8, PhantomPinned)>,
}

/// The functions. It lives as long as the process.
#[repr(C)]
pub struct Table {
    /// How many bytes there are of it. Later versions append: what is within the size is there.
    pub size: usize,
    /// Changes when something that is there changes its meaning: refuse another than [`VERSION`].
    pub version: u32,

    /// The door of a loop (a `PyObject *`), with one reference to it; null for every other object, and for
    /// a loop that is closed. Attached, in any thread.
    pub open: unsafe extern "C" fn(event_loop: *mut c_void) -> *const Door,
    /// One more reference to a door. In any thread, attached or not.
    pub retain: unsafe extern "C" fn(door: *const Door),
    /// One less. In any thread, attached or not.
    pub release: unsafe extern "C" fn(door: *const Door),
    /// 1 if the loop runs in the calling thread, else 0. Attached.
    pub runs_here: unsafe extern "C" fn(door: *const Door) -> c_int,
    /// Nanoseconds on the loop's clock. Attached.
    pub now_ns: unsafe extern "C" fn(door: *const Door) -> u64,

    /// Has a record run in the next iteration of the loop, as `call_soon`. Attached; from the loop's own
    /// thread, or while the loop does not run.
    pub call_soon: unsafe extern "C" fn(door: *const Door, record: Record) -> Status,
    /// The same from any thread, attached or not; it ends the loop's sleep. In the order of these calls
    /// and, in the loop's thread, of those to `call_soon`.
    pub call_soon_threadsafe: unsafe extern "C" fn(door: *const Door, record: Record) -> Status,
    /// Has a record dropped, not run, when the loop is closed or freed; before everything else that waits.
    /// Attached, in any thread.
    pub at_close: unsafe extern "C" fn(door: *const Door, record: Record) -> Status,

    /// Has a record run at a time on the loop's clock, never before, as `call_at`. Writes what names the
    /// timer as long as it waits; never 0. Attached; the thread as for `call_soon`.
    pub call_at: unsafe extern "C" fn(
        door: *const Door,
        deadline_ns: u64,
        record: Record,
        key: *mut u64,
    ) -> Status,
    /// The data of the record of a timer that still waits, else null. Attached.
    pub timer_data: unsafe extern "C" fn(door: *const Door, key: u64) -> *mut c_void,
    /// Takes a timer back and drops its record, if it still waits. Attached.
    pub cancel_timer: unsafe extern "C" fn(door: *const Door, key: u64),

    /// Reports each change of a descriptor's readiness (edges, of both ways) until `remove_fd`. The first
    /// report tells what it is ready for now. Attached; the thread as for `call_soon`.
    ///
    /// Beside what `epoll_ctl` says (`EBADF`; `EPERM` for a regular file): `EBUSY` if something else on this
    /// loop watches the descriptor.
    pub add_fd: unsafe extern "C" fn(door: *const Door, fd: c_int, record: FdRecord) -> Status,
    /// Before the descriptor is closed. Drops the record with this data, unless the descriptor belongs to
    /// another one by now. Attached.
    pub remove_fd: unsafe extern "C" fn(door: *const Door, fd: c_int, data: *mut c_void),
}
