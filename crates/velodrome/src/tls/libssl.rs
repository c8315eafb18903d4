//! The functions of a libssl that the process has loaded already.
//!
//! They are looked up in the library that uses libssl (Python's `_ssl` extension) and in what that
//! depends on, so it is the very libssl that made the sessions. Nothing is loaded here.

#![allow(unsafe_code)]
#![allow(non_snake_case, reason = "the fields are called as the C functions are")]

use std::{
    ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void},
    marker::{PhantomData, PhantomPinned},
    mem,
    ptr::NonNull,
    sync::OnceLock,
};

use super::bio;

macro_rules! opaque {
    ($(#[$doc:meta] $name:ident),*) => {$(
        #[$doc]
        #[repr(C)]
        #[derive(Debug)]
        pub struct $name {
            content: [u8; 0],
            marker: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )*};
}

opaque!(
    /// `SSL`
    Ssl,
    /// `SSL_CTX`
    SslContext,
    /// `BIO`
    Bio,
    /// `BIO_METHOD`
    BioMethod
);

type BioRead = unsafe extern "C" fn(*mut Bio, *mut c_char, c_int) -> c_int;
type BioWrite = unsafe extern "C" fn(*mut Bio, *const c_char, c_int) -> c_int;
type BioControl = unsafe extern "C" fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long;
type BioDestroy = unsafe extern "C" fn(*mut Bio) -> c_int;

macro_rules! functions {
    ($($name:ident: $type:ty,)*) => {
        /// The functions, and the kind of BIO that is made with them.
        #[derive(Debug)]
        pub struct LibSsl {
            $(pub $name: $type,)*
            bio_method: Option<NonNull<BioMethod>>,
        }

        impl LibSsl {
            /// # Safety
            /// `library` is a handle of `dlopen` that stays open.
            unsafe fn look_up(library: NonNull<c_void>) -> Option<Self> {
                // SAFETY: the types are those of OpenSSL's manual pages, since 1.1.0.
                unsafe {
                    Some(LibSsl {
                        $($name: function(library, CStr::from_bytes_with_nul(
                            concat!(stringify!($name), "\0").as_bytes()
                        ).ok()?)?,)*
                        bio_method: None,
                    })
                }
            }
        }
    };
}

functions! {
    OpenSSL_version_num: unsafe extern "C" fn() -> c_ulong,
    ERR_peek_error: unsafe extern "C" fn() -> c_ulong,
    ERR_clear_error: unsafe extern "C" fn(),
    SSL_get_rbio: unsafe extern "C" fn(*const Ssl) -> *mut Bio,
    SSL_set_bio: unsafe extern "C" fn(*mut Ssl, *mut Bio, *mut Bio),
    SSL_read: unsafe extern "C" fn(*mut Ssl, *mut c_void, c_int) -> c_int,
    SSL_write: unsafe extern "C" fn(*mut Ssl, *const c_void, c_int) -> c_int,
    SSL_pending: unsafe extern "C" fn(*const Ssl) -> c_int,
    SSL_get_error: unsafe extern "C" fn(*const Ssl, c_int) -> c_int,
    SSL_get_SSL_CTX: unsafe extern "C" fn(*const Ssl) -> *mut SslContext,
    SSL_get_ex_data: unsafe extern "C" fn(*const Ssl, c_int) -> *mut c_void,
    BIO_get_new_index: unsafe extern "C" fn() -> c_int,
    BIO_meth_new: unsafe extern "C" fn(c_int, *const c_char) -> *mut BioMethod,
    BIO_meth_set_read: unsafe extern "C" fn(*mut BioMethod, BioRead) -> c_int,
    BIO_meth_set_write: unsafe extern "C" fn(*mut BioMethod, BioWrite) -> c_int,
    BIO_meth_set_ctrl: unsafe extern "C" fn(*mut BioMethod, BioControl) -> c_int,
    BIO_meth_set_destroy: unsafe extern "C" fn(*mut BioMethod, BioDestroy) -> c_int,
    BIO_method_type: unsafe extern "C" fn(*const Bio) -> c_int,
    BIO_new: unsafe extern "C" fn(*const BioMethod) -> *mut Bio,
    BIO_set_data: unsafe extern "C" fn(*mut Bio, *mut c_void),
    BIO_get_data: unsafe extern "C" fn(*mut Bio) -> *mut c_void,
    BIO_set_init: unsafe extern "C" fn(*mut Bio, c_int),
    BIO_set_flags: unsafe extern "C" fn(*mut Bio, c_int),
    BIO_clear_flags: unsafe extern "C" fn(*mut Bio, c_int),
}

/// # Safety
/// `library` is an open handle, and `F` the type of the function of that name.
unsafe fn function<F: Copy>(library: NonNull<c_void>, name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the handle is open, the name a C string.
    let address = NonNull::new(unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) })?;
    // SAFETY: a function of this type, as the caller says.
    Some(unsafe { mem::transmute_copy(&address) })
}

// SAFETY: functions and a pointer to a BIO_METHOD that nobody changes any more; any thread may
// call them.
unsafe impl Send for LibSsl {}
// SAFETY: as above.
unsafe impl Sync for LibSsl {}

static IN_USE: OnceLock<Option<LibSsl>> = OnceLock::new();

impl LibSsl {
    /// The libssl that the library at `path` uses; `None` if that is not loaded or not like any
    /// that is known here. The first call decides for the whole process.
    ///
    /// `version` is what `OpenSSL_version_num` of that libssl returns.
    pub fn used_by(path: &CStr, version: c_ulong) -> Option<&'static Self> {
        let found = IN_USE.get_or_init(|| Self::find(path, version));
        found.as_ref()
    }

    /// What `used_by` has found.
    #[inline]
    pub fn in_use() -> Option<&'static Self> {
        IN_USE.get()?.as_ref()
    }

    fn find(path: &CStr, version: c_ulong) -> Option<Self> {
        // SAFETY: a C string; NOLOAD keeps it from running anybody's initialisers.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        let handle = NonNull::new(handle)?;
        // SAFETY: the handle is never closed.
        let mut library = unsafe { Self::look_up(handle)? };
        // SAFETY: a plain call.
        if unsafe { (library.OpenSSL_version_num)() } != version {
            return None;
        }
        library.bio_method = Some(bio::method(&library)?);
        Some(library)
    }

    /// Whether `ssl` is a session made of `context` that knows its owner, as Python's are, and is
    /// over memory BIOs still: it is not lent to anybody.
    ///
    /// # Safety
    /// `ssl` is a live session of this library.
    pub unsafe fn is_session_of(
        &self,
        ssl: NonNull<Ssl>,
        context: *const SslContext,
        owner: *const c_void,
    ) -> bool {
        const BIO_TYPE_MEM: c_int = 1 | 0x0400;
        // SAFETY: the caller's duty. `SSL_set_app_data` puts its pointer at index 0.
        unsafe {
            let bio = (self.SSL_get_rbio)(ssl.as_ptr());
            (self.SSL_get_SSL_CTX)(ssl.as_ptr()).cast_const() == context
                && (self.SSL_get_ex_data)(ssl.as_ptr(), 0).cast_const() == owner
                && !bio.is_null()
                && (self.BIO_method_type)(bio) == BIO_TYPE_MEM
        }
    }

    /// Empties the thread's queue of errors, which has to be empty before a call whose failure is
    /// to be understood: others may have left something there.
    #[inline]
    pub(super) fn forget_errors(&self) {
        // SAFETY: plain calls, for the calling thread.
        unsafe {
            if (self.ERR_peek_error)() != 0 {
                (self.ERR_clear_error)();
            }
        }
    }

    pub(super) fn bio_method(&self) -> *const BioMethod {
        self.bio_method.map_or(std::ptr::null(), |method| method.as_ptr())
    }
}
