//! The unwinder, which is loaded before a loop sleeps for the first time, or when something is to be
//! unwound: a panic, or a thread that the C library ends.
//!
//! The standard library calls that of libgcc_s. As a library that ours needs it would be loaded with
//! every import, which takes 0.13 ms, as long as ours itself. So the functions are here under their
//! own names, and hand each call on; the C library does the same for `pthread_exit`.
//!
//! Who calls these, and with what, is between the standard library and libgcc_s.

use std::{
    ffi::{CStr, c_int, c_void},
    mem, process, ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

static LIBRARY: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Opens libgcc_s: a loop does so before its first sleep, while there are descriptors left to open it
/// with.
pub fn prepare() {
    if LIBRARY.load(Ordering::Acquire).is_null() {
        open();
    }
}

#[cold]
fn open() -> *mut c_void {
    // SAFETY: the name is a C string; the library stays open.
    let library = unsafe { libc::dlopen(c"libgcc_s.so.1".as_ptr(), libc::RTLD_NOW) };
    LIBRARY.store(library, Ordering::Release);
    library
}

/// A function of libgcc_s. Without it nothing can be unwound.
fn function(name: &CStr) -> *mut c_void {
    let mut library = LIBRARY.load(Ordering::Acquire);
    if library.is_null() {
        library = open();
    }
    let mut found = ptr::null_mut();
    if !library.is_null() {
        // SAFETY: the library is open, and the name a C string.
        found = unsafe { libc::dlsym(library, name.as_ptr()) };
    }
    if found.is_null() {
        eprintln!("velodrome: libgcc_s.so.1 must be installed for a panic to be caught");
        process::abort();
    }
    found
}

macro_rules! hand_on {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        // Nobody else's business.
        std::arch::global_asm!(concat!(".hidden ", stringify!($name)));
        /// # Safety
        /// As libgcc_s has it.
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            const NAME: &CStr = match CStr::from_bytes_with_nul(
                concat!(stringify!($name), "\0").as_bytes(),
            ) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            };
            type Function = unsafe extern "C-unwind" fn($($type),*) -> $result;
            // SAFETY: the function of this name has this type on every platform with these names, and
            // gets what the caller gives it. Nothing here is to be dropped if it unwinds.
            unsafe { mem::transmute::<*mut c_void, Function>(function(NAME))($($argument),*) }
        }
    )*};
}

hand_on! {
    _Unwind_Backtrace(trace: *mut c_void, argument: *mut c_void) -> c_int;
    _Unwind_DeleteException(exception: *mut c_void) -> ();
    _Unwind_GetDataRelBase(context: *mut c_void) -> usize;
    _Unwind_GetIP(context: *mut c_void) -> usize;
    _Unwind_GetIPInfo(context: *mut c_void, is_before: *mut c_int) -> usize;
    _Unwind_GetLanguageSpecificData(context: *mut c_void) -> *mut c_void;
    _Unwind_GetRegionStart(context: *mut c_void) -> usize;
    _Unwind_GetTextRelBase(context: *mut c_void) -> usize;
    _Unwind_RaiseException(exception: *mut c_void) -> c_int;
    _Unwind_Resume(exception: *mut c_void) -> !;
    _Unwind_SetGR(context: *mut c_void, register: c_int, value: usize) -> ();
    _Unwind_SetIP(context: *mut c_void, value: usize) -> ();
}
