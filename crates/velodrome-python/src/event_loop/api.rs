//! The table of C functions by which extension modules reach a loop: see `velodrome-abi`, whose rules
//! are what the `SAFETY` comments here rest on.

use std::{
    cell::Ref,
    ffi::{c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicPtr, Ordering::Relaxed},
    },
};

use pyo3::{ffi, prelude::*};
use velodrome::{Clock, Engine, Errno, Inbox, Interest, TimerKey};
use velodrome_abi::{CAPSULE, CLOSED, FAILED, OK, Status, Table, VERSION};

use super::{Loop, State, thread_ident};
use crate::{
    callback::{Callback, PyKind, Source, Timer},
    record::{FdRecord, Record},
};

/// A loop as extension modules have it.
pub struct Door {
    /// Null once the loop is gone. Guarded by the GIL, as what it points to.
    state: AtomicPtr<State>,
    /// None once the loop is closed: who keeps a door does not keep the inbox's descriptor.
    inbox: Mutex<Option<Arc<Inbox<Callback>>>>,
}

impl Door {
    /// The loop is closed, or about to be freed.
    pub fn shut(&self) {
        self.state.store(ptr::null_mut(), Relaxed);
        let inbox = self.inbox().take();
        drop(inbox);
    }

    fn inbox(&self) -> MutexGuard<'_, Option<Arc<Inbox<Callback>>>> {
        // No foreign code runs under the lock.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Safety
    ///
    /// Attached, and what is returned is left before anything is dropped.
    unsafe fn state(&self) -> Option<&State> {
        // SAFETY: the state of a loop lies in its object, and shuts the door before it goes; both are
        // for who holds the GIL.
        unsafe { self.state.load(Relaxed).cast_const().as_ref() }
    }

    /// # Safety
    ///
    /// As for [`Door::state`].
    unsafe fn model(&self) -> Option<Ref<'_, Engine<PyKind>>> {
        // SAFETY: promised by the caller.
        let state = unsafe { self.state() }?;
        Ref::filter_map(state.model.try_borrow().ok()?, Option::as_ref).ok()
    }
}

/// # Safety
///
/// A door that `open` has returned, and of which the caller has a reference.
unsafe fn door<'a>(door: *const velodrome_abi::Door) -> &'a Door {
    // SAFETY: it is an `Arc` of ours, which the caller's reference keeps.
    unsafe { &*door.cast::<Door>() }
}

/// A panic of ours is an error, as it must not reach C.
fn guarded<R>(otherwise: R, function: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(function)).unwrap_or(otherwise)
}

fn status(error: Errno) -> Status {
    error.raw_os_error()
}

unsafe extern "C" fn open(event_loop: *mut c_void) -> *const velodrome_abi::Door {
    guarded(ptr::null(), || {
        // SAFETY: the caller is attached and gives a live object.
        let object = unsafe {
            Bound::from_borrowed_ptr(Python::assume_attached(), event_loop.cast::<ffi::PyObject>())
        };
        let Ok(event_loop) = object.cast::<Loop>() else { return ptr::null() };
        let state = event_loop.get().state(event_loop.py());
        let Ok(model) = event_loop.get().model(event_loop.py()) else { return ptr::null() };
        let door = state.door.get_or_init(|| {
            Arc::new(Door {
                state: AtomicPtr::new(ptr::from_ref(state).cast_mut()),
                inbox: Mutex::new(Some(Arc::clone(model.inbox()))),
            })
        });
        Arc::into_raw(Arc::clone(door)).cast()
    })
}

unsafe extern "C" fn retain(door: *const velodrome_abi::Door) {
    // SAFETY: the caller has a reference to what is an `Arc` of ours.
    unsafe { Arc::increment_strong_count(door.cast::<Door>()) };
}

unsafe extern "C" fn release(door: *const velodrome_abi::Door) {
    // SAFETY: the caller gives up its reference to what is an `Arc` of ours. The loop has one until it shuts
    // the door, so the last leaves nothing of Python's to be dropped.
    unsafe { Arc::decrement_strong_count(door.cast::<Door>()) };
}

unsafe extern "C" fn runs_here(at: *const velodrome_abi::Door) -> c_int {
    // SAFETY: the caller has a reference and is attached.
    let state = unsafe { door(at).state() };
    c_int::from(state.is_some_and(|state| state.thread.get() == Some(thread_ident())))
}

unsafe extern "C" fn now_ns(at: *const velodrome_abi::Door) -> u64 {
    // SAFETY: as above.
    let model = unsafe { door(at).model() };
    model.map_or_else(|| Clock::Monotonic.now_ns(), |model| model.now_ns())
}

unsafe extern "C" fn call_soon(
    at: *const velodrome_abi::Door,
    record: velodrome_abi::Record,
) -> Status {
    guarded(FAILED, || {
        // SAFETY: as above.
        let Some(model) = (unsafe { door(at).model() }) else { return CLOSED };
        // SAFETY: the caller hands it over.
        model.call_soon(Callback::Record(unsafe { Record::new(record) }));
        OK
    })
}

unsafe extern "C" fn call_soon_threadsafe(
    at: *const velodrome_abi::Door,
    record: velodrome_abi::Record,
) -> Status {
    guarded(FAILED, || {
        // SAFETY: the caller has a reference.
        let inbox = unsafe { door(at) }.inbox();
        let Some(inbox) = &*inbox else { return CLOSED };
        // SAFETY: the caller hands it over.
        match inbox.push(Callback::Record(unsafe { Record::new(record) })) {
            Ok(_) => OK,
            Err(Callback::Record(record)) => {
                record.give_back();
                CLOSED
            }
            Err(_) => FAILED,
        }
    })
}

unsafe extern "C" fn at_close(
    at: *const velodrome_abi::Door,
    record: velodrome_abi::Record,
) -> Status {
    guarded(FAILED, || {
        // SAFETY: as above.
        let Some(state) = (unsafe { door(at).state() }) else { return CLOSED };
        if state.model.borrow().is_none() {
            return CLOSED;
        }
        // SAFETY: the caller hands it over.
        state.at_close.borrow_mut().push(unsafe { Record::new(record) });
        OK
    })
}

unsafe extern "C" fn call_at(
    at: *const velodrome_abi::Door,
    deadline_ns: u64,
    record: velodrome_abi::Record,
    key: *mut u64,
) -> Status {
    guarded(FAILED, || {
        // SAFETY: as above.
        let Some(model) = (unsafe { door(at).model() }) else { return CLOSED };
        // SAFETY: the caller hands it over.
        let timer = Timer::Record(unsafe { Record::new(record) });
        let named = model.call_at(deadline_ns, timer);
        // SAFETY: the caller gives a place for it.
        unsafe { key.write(named.into()) };
        OK
    })
}

unsafe extern "C" fn timer_data(at: *const velodrome_abi::Door, key: u64) -> *mut c_void {
    guarded(ptr::null_mut(), || {
        // SAFETY: as above.
        let model = unsafe { door(at).model() };
        let (Some(model), Ok(key)) = (model, TimerKey::try_from(key)) else {
            return ptr::null_mut();
        };
        let data = model.timer_mut(key, |timer| match timer {
            Timer::Record(record) => record.data(),
            Timer::Native(_) | Timer::Foreign(_) => ptr::null_mut(),
        });
        data.unwrap_or(ptr::null_mut())
    })
}

unsafe extern "C" fn cancel_timer(at: *const velodrome_abi::Door, key: u64) {
    guarded((), || {
        // SAFETY: as above; the model is left before the record is dropped.
        let timer = match (unsafe { door(at).model() }, TimerKey::try_from(key)) {
            (Some(model), Ok(key)) => model.cancel_timer(key),
            _ => None,
        };
        drop(timer);
    });
}

unsafe extern "C" fn add_fd(
    at: *const velodrome_abi::Door,
    fd: c_int,
    record: velodrome_abi::FdRecord,
) -> Status {
    guarded(FAILED, || {
        // SAFETY: as above.
        let Some(model) = (unsafe { door(at).model() }) else { return CLOSED };
        let reactor = model.reactor();
        // What was closed behind the loop's back gives way.
        if reactor.source(fd).is_some() && reactor.is_current(fd) {
            return status(Errno::BUSY);
        }
        // SAFETY: the caller hands it over.
        let record = Arc::new(unsafe { FdRecord::new(record) });
        let interest = Interest::READ | Interest::WRITE | Interest::EDGE;
        let registered = reactor.register(fd, Source::Record(Arc::clone(&record)), interest);
        drop(model);
        match registered {
            Ok(replaced) => {
                drop(replaced);
                OK
            }
            Err(error) => {
                if let Some(record) = Arc::into_inner(record) {
                    record.give_back();
                }
                status(error)
            }
        }
    })
}

unsafe extern "C" fn remove_fd(at: *const velodrome_abi::Door, fd: c_int, data: *mut c_void) {
    guarded((), || {
        // SAFETY: as above; the model is left before the record is dropped.
        let removed = match unsafe { door(at).model() } {
            Some(model) => match model.reactor().source(fd) {
                Some(Source::Record(record)) if record.data() == data => {
                    model.reactor().deregister(fd)
                }
                _ => None,
            },
            None => None,
        };
        drop(removed);
    });
}

static TABLE: Table = Table {
    size: size_of::<Table>(),
    version: VERSION,
    open,
    retain,
    release,
    runs_here,
    now_ns,
    call_soon,
    call_soon_threadsafe,
    at_close,
    call_at,
    timer_data,
    cancel_timer,
    add_fd,
    remove_fd,
};

/// Puts the capsule into the module.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let table = ptr::from_ref(&TABLE).cast_mut().cast();
    // SAFETY: both pointers live as long as the process; what is returned is new, or null with an
    // exception set.
    let capsule = unsafe {
        let capsule = ffi::PyCapsule_New(table, CAPSULE.as_ptr(), None);
        Bound::from_owned_ptr_or_err(module.py(), capsule)?
    };
    module.add("loop_api", capsule)
}
