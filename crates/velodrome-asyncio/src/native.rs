//! velodrome's loop, by the table of C functions that it offers (see `velodrome-abi`).

use std::{
    ffi::c_void,
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
    sync::Arc,
    task::Waker,
};

use pyo3::{PyTraverseError, PyVisit, exceptions::PyImportError, ffi, prelude::*, types::PyDict};
use velodrome::Readiness;
use velodrome_abi::{
    CAPSULE, CLOSED, Door, FdRecord, FdRecordFunctions, HUNG_UP, OK, READABLE, Record,
    RecordFunctions, Status, Table, VERSION, WRITABLE,
};

use crate::{
    gil::{called_by_c, dropped_by_c},
    shared::{Job, Shared, Target, Timer},
};

pub struct Native {
    table: &'static Table,
    door: *const Door,
}

// SAFETY: the table says of each function whether it is for any thread; the others are called attached.
unsafe impl Send for Native {}
// SAFETY: as above.
unsafe impl Sync for Native {}

/// The table, if velodrome is there at all.
fn table(py: Python<'_>) -> PyResult<Option<&'static Table>> {
    let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
    if modules.get_item("velodrome._native")?.is_none() {
        return Ok(None);
    }
    // SAFETY: attached; a string of C's. It returns null with an exception set.
    let pointer = unsafe { ffi::PyCapsule_Import(CAPSULE.as_ptr(), 0) };
    if pointer.is_null() {
        return Err(PyErr::fetch(py));
    }
    let table = pointer.cast::<Table>().cast_const();
    // SAFETY: every version of the table begins with these two, and lives as long as the process.
    let (size, version) = unsafe { ((*table).size, (*table).version) };
    if version != VERSION || size < size_of::<Table>() {
        return Err(PyImportError::new_err(format!(
            "this extension needs version {VERSION} of velodrome's loop API, with {} bytes; the velodrome \
             that is installed has version {version}, with {size}",
            size_of::<Table>()
        )));
    }
    // SAFETY: it is what this crate knows, or more.
    Ok(Some(unsafe { &*table }))
}

impl Native {
    /// `None` if the loop is not velodrome's.
    pub fn open(event_loop: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let Some(table) = table(event_loop.py())? else { return Ok(None) };
        // SAFETY: attached, and a live object.
        let door = unsafe { (table.open)(event_loop.as_ptr().cast()) };
        Ok((!door.is_null()).then(|| Native { table, door }))
    }

    /// Leaves a record that `leave` takes; drops it if not.
    fn leave<T>(
        &self,
        content: T,
        functions: &'static RecordFunctions,
        leave: impl FnOnce(Record) -> Status,
    ) -> bool {
        let data = Box::into_raw(Box::new(content));
        let status = leave(Record { data: data.cast(), functions });
        if status != OK {
            // SAFETY: it was refused, so it is ours still.
            drop(unsafe { Box::from_raw(data) });
        }
        status == OK
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the reference that `open` gave us.
        unsafe { (self.table.release)(self.door) };
    }
}

impl Target for Native {
    fn is_fallback(&self) -> bool {
        false
    }

    fn now_ns(&self, _py: Python<'_>) -> u64 {
        // SAFETY: attached, and the door is ours; as for all that follow.
        unsafe { (self.table.now_ns)(self.door) }
    }

    fn queue(&self, _py: Python<'_>, job: Job) {
        // SAFETY: attached in the loop's thread; `JOB` is right for a boxed job.
        self.leave(job, &JOB, |record| unsafe { (self.table.call_soon)(self.door, record) });
    }

    fn queue_detached(&self, job: Job) {
        self.send(job);
    }

    fn send(&self, job: Job) {
        // SAFETY: it is for any thread; `JOB` is right for a boxed job.
        self.leave(job, &JOB, |record| unsafe {
            (self.table.call_soon_threadsafe)(self.door, record)
        });
    }

    fn set_timer(&self, _py: Python<'_>, deadline_ns: u64, timer: Timer) -> Option<u64> {
        let mut key = 0;
        // SAFETY: attached in the loop's thread; `TIMER` is right for a boxed timer.
        let is_set = self.leave(timer, &TIMER, |record| unsafe {
            (self.table.call_at)(self.door, deadline_ns, record, &raw mut key)
        });
        is_set.then_some(key)
    }

    fn renew_timer(&self, _py: Python<'_>, key: u64, waker: &Waker) -> bool {
        // SAFETY: attached.
        let timer = unsafe { (self.table.timer_data)(self.door, key) }.cast::<Timer>();
        // SAFETY: keys of this bridge are those of its timers. While one waits, nobody else uses it.
        let Some(timer) = (unsafe { timer.as_mut() }) else { return false };
        if !timer.waker.will_wake(waker) {
            let replaced = std::mem::replace(&mut timer.waker, waker.clone());
            drop(replaced);
        }
        true
    }

    fn cancel_timer(&self, _py: Python<'_>, key: u64) {
        // SAFETY: attached.
        unsafe { (self.table.cancel_timer)(self.door, key) };
    }

    fn add_fd(
        &self,
        _py: Python<'_>,
        fd: BorrowedFd<'_>,
        shared: &Arc<Shared>,
    ) -> io::Result<usize> {
        let data =
            Box::into_raw(Box::new(Watched { shared: Arc::clone(shared), fd: fd.as_raw_fd() }));
        let record = FdRecord { data: data.cast(), functions: &WATCHED };
        // SAFETY: attached in the loop's thread; `WATCHED` is right for the box.
        let status = unsafe { (self.table.add_fd)(self.door, fd.as_raw_fd(), record) };
        if status == OK {
            return Ok(data.expose_provenance());
        }
        // SAFETY: it was refused, so it is ours still.
        drop(unsafe { Box::from_raw(data) });
        Err(match status {
            errno @ 1.. => io::Error::from_raw_os_error(errno),
            CLOSED => io::Error::other(velodrome::Error::Closed),
            _ => io::Error::other("velodrome failed to watch the descriptor"),
        })
    }

    fn remove_fd(&self, _py: Python<'_>, fd: RawFd, name: usize) {
        // SAFETY: attached; the data is only compared.
        unsafe { (self.table.remove_fd)(self.door, fd, ptr::with_exposed_provenance_mut(name)) };
    }

    fn close_with_loop(&self, shared: &Arc<Shared>) -> bool {
        let last = AtClose(Arc::clone(shared));
        // SAFETY: attached; `AT_CLOSE` is right for the box.
        self.leave(last, &AT_CLOSE, |record| unsafe { (self.table.at_close)(self.door, record) })
    }

    fn visit(&self, _visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        Ok(())
    }

    fn clear(&self) {}
}

/// # Safety
///
/// A record's data is a box of `T`, and now used up.
unsafe fn unboxed<T>(data: *mut c_void) -> T {
    // SAFETY: promised by the caller.
    *unsafe { Box::from_raw(data.cast::<T>()) }
}

/// # Safety
///
/// As for [`unboxed`].
unsafe extern "C" fn drop_boxed<T>(data: *mut c_void) {
    // SAFETY: promised by the caller.
    dropped_by_c(unsafe { unboxed::<T>(data) });
}

static JOB: RecordFunctions = RecordFunctions { run: run_job, drop: drop_boxed::<Job> };

unsafe extern "C" fn run_job(data: *mut c_void) {
    // SAFETY: the data of `JOB`.
    let job: Job = unsafe { unboxed(data) };
    called_by_c(|py| job.run(py));
}

static TIMER: RecordFunctions = RecordFunctions { run: run_timer, drop: drop_boxed::<Timer> };

unsafe extern "C" fn run_timer(data: *mut c_void) {
    // SAFETY: the data of `TIMER`.
    let timer: Timer = unsafe { unboxed(data) };
    called_by_c(|py| {
        timer.run(py);
        Ok(())
    });
}

/// Closes the bridge when the loop is closed or freed.
struct AtClose(Arc<Shared>);

impl Drop for AtClose {
    fn drop(&mut self) {
        Python::try_attach(|py| self.0.close(py));
    }
}

static AT_CLOSE: RecordFunctions =
    RecordFunctions { run: drop_boxed::<AtClose>, drop: drop_boxed::<AtClose> };

struct Watched {
    shared: Arc<Shared>,
    fd: RawFd,
}

static WATCHED: FdRecordFunctions =
    FdRecordFunctions { ready: watched_ready, drop: drop_boxed::<Watched> };

unsafe extern "C" fn watched_ready(data: *mut c_void, readiness: u32) {
    // SAFETY: the data of `WATCHED`, which the loop keeps during the call.
    let watched = unsafe { &*data.cast::<Watched>() };
    // It may be removed meanwhile.
    let (shared, fd) = (Arc::clone(&watched.shared), watched.fd);
    called_by_c(|py| {
        if let Some(bridge) = shared.bridge(py) {
            bridge.fd_ready(
                fd,
                Readiness {
                    readable: readiness & READABLE != 0,
                    writable: readiness & WRITABLE != 0,
                    hung_up: readiness & HUNG_UP != 0,
                },
            );
        }
        Ok(())
    });
}
