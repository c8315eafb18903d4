//! State that the GIL guards.
//!
//! The loop and everything on it is plain single-threaded memory (`Cell`, `RefCell`), while a
//! Python class must be `Sync`, because any thread may hold a reference. [`GilBound`] bridges the
//! two: its content is reachable only with a [`Python`] token, that is, by the thread that holds
//! the GIL. The module refuses to load where there is none (see `lib.rs`).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::{ffi, prelude::*};

/// The first `attach` of a thread that is not attached asks whether there is an interpreter: that is not to be
/// when it ends. While it begins, as for a `sitecustomize`, CPython 3.15 says that there is none yet; so this is
/// asked when the module is imported, and before each run of a loop until it was answered.
pub fn learn_to_attach(py: Python<'_>) {
    static LEARNT: AtomicBool = AtomicBool::new(false);
    // SAFETY: may be called at any time.
    if !LEARNT.load(Relaxed) && unsafe { ffi::Py_IsInitialized() } != 0 {
        py.detach(|| Python::attach(|_| ()));
        LEARNT.store(true, Relaxed);
    }
}

pub struct GilBound<T>(T);

// SAFETY: the content is only reached through `get`, whose token proves that the calling thread
// holds the GIL, and `in_traverse`, whose caller promises it. So accesses never overlap.
unsafe impl<T> Sync for GilBound<T> {}
// SAFETY: as above; dropping happens in `tp_dealloc`, which holds the GIL too. The content is not
// tied to the thread that made it: it has no thread-locals and no `Rc` that is shared outside.
unsafe impl<T> Send for GilBound<T> {}

impl<T> GilBound<T> {
    pub const fn new(value: T) -> Self {
        GilBound(value)
    }

    #[inline(always)]
    pub fn get(&self, _py: Python<'_>) -> &T {
        &self.0
    }

    /// For `tp_traverse`, which has no token.
    ///
    /// Up to Python 3.12 it may come before the content is written: an object with a `__dict__`
    /// gets that before, and making a dict may start the collector. All bytes are zero then, so
    /// what is visited must be a cell of an `Option`, and an enum's first variant must hold no object.
    ///
    /// # Safety
    /// The calling thread holds the GIL, as a garbage collector does.
    pub unsafe fn in_traverse(&self) -> &T {
        &self.0
    }
}
