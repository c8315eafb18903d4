//! What extension modules leave with a loop (see `velodrome-abi`), owned: each is used up once.

use std::{ffi::c_void, mem::ManuallyDrop};

use pyo3::prelude::*;
use velodrome::Readiness;

/// A callback of an extension module.
pub struct Record(velodrome_abi::Record);

// SAFETY: the ABI asks of a record that it can be dropped in any thread. Running it is for the loop's,
// which alone takes it out of the queues.
unsafe impl Send for Record {}

impl Record {
    /// # Safety
    ///
    /// It is what the ABI says of a record, and now ours.
    pub unsafe fn new(record: velodrome_abi::Record) -> Self {
        Record(record)
    }

    /// Gives it back to the one who left it.
    pub fn give_back(self) {
        let _ = ManuallyDrop::new(self);
    }

    pub fn data(&self) -> *mut c_void {
        self.0.data
    }

    /// In the loop's thread.
    pub fn run(self, py: Python<'_>) -> PyResult<()> {
        let record = ManuallyDrop::new(self);
        // SAFETY: as the ABI asks: attached, in the loop's thread, and never again, nor dropped.
        unsafe { (record.0.functions.run)(record.0.data) };
        left_exception(py)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // SAFETY: it was not run. Who has a record is attached: the loop's queues are emptied and freed by
        // Python's methods, and the inbox gives back what it refuses.
        unsafe { (self.0.functions.drop)(self.0.data) };
    }
}

/// Who hears of a descriptor in an extension module.
pub struct FdRecord(velodrome_abi::FdRecord);

// SAFETY: as for a record.
unsafe impl Send for FdRecord {}
// SAFETY: `ready` is for the loop's thread, which holds the GIL.
unsafe impl Sync for FdRecord {}

impl FdRecord {
    /// # Safety
    ///
    /// It is what the ABI says of such a record, and now ours.
    pub unsafe fn new(record: velodrome_abi::FdRecord) -> Self {
        FdRecord(record)
    }

    pub fn data(&self) -> *mut c_void {
        self.0.data
    }

    /// Gives it back to the one who left it.
    pub fn give_back(self) {
        let _ = ManuallyDrop::new(self);
    }

    pub fn ready(&self, py: Python<'_>, readiness: Readiness) -> PyResult<()> {
        let flags = [
            (readiness.readable, velodrome_abi::READABLE),
            (readiness.writable, velodrome_abi::WRITABLE),
            (readiness.hung_up, velodrome_abi::HUNG_UP),
        ];
        let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
        // SAFETY: as the ABI asks: attached, in the loop's thread, and it was not dropped.
        unsafe { (self.0.functions.ready)(self.0.data, flags) };
        left_exception(py)
    }
}

impl Drop for FdRecord {
    fn drop(&mut self) {
        // SAFETY: the last owner goes, attached as for a record.
        unsafe { (self.0.functions.drop)(self.0.data) };
    }
}

#[inline]
fn left_exception(py: Python<'_>) -> PyResult<()> {
    PyErr::take(py).map_or(Ok(()), Err)
}
