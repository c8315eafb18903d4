//! Bytes and the buffer protocol to slices, and back.

use std::{
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
    slice,
};

use pyo3::{PyTraverseError, PyVisit, ffi, prelude::*, types::PyBytes};
use velodrome::Errno;

unsafe extern "C" {
    /// Shrinks a new bytes object in place; on failure it is freed and the pointer is null.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
}

/// An exported buffer: contiguous bytes of whatever item type. Released when dropped.
pub struct View(Box<ffi::Py_buffer>);

// SAFETY: the structure is only touched with the GIL held (its methods take a token, and it is
// dropped attached); the memory it names is kept by its exporter wherever the view moves.
unsafe impl Send for View {}

impl View {
    /// For reading. BufferError or TypeError if the object has no contiguous buffer.
    pub fn readable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::export(object, ffi::PyBUF_SIMPLE)
    }

    /// For writing. BufferError also if it is read-only.
    pub fn writable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::export(object, ffi::PyBUF_WRITABLE)
    }

    fn export(object: &Bound<'_, PyAny>, flags: i32) -> PyResult<Self> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: a live object and a buffer structure at an address that will not change.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *view, flags) } != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(View(view))
    }

    /// Shows the exporter to the garbage collector.
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the view owns a reference to its exporter, which is what an `Option<Py>` is: a
        // pointer that may be null.
        let exporter = unsafe { &*(&raw const self.0.obj).cast::<Option<Py<PyAny>>>() };
        visit.call(exporter)
    }

    pub fn len(&self) -> usize {
        self.0.len.cast_unsigned()
    }

    /// The bytes, for as long as no Python code runs: it might change them.
    #[inline]
    pub fn bytes(&self, _py: Python<'_>) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps `len` bytes at `buf` until the view is released; the token
        // shows that the GIL is held, so nobody changes them meanwhile.
        unsafe { slice::from_raw_parts(self.0.buf.cast(), self.len()) }
    }

    /// The bytes of a writable view, likewise.
    #[inline]
    pub fn bytes_mut(&mut self, _py: Python<'_>) -> &mut [u8] {
        if self.0.len == 0 || self.0.readonly != 0 {
            return &mut [];
        }
        // SAFETY: as in `bytes`, and the exporter said that it may be written to.
        unsafe { slice::from_raw_parts_mut(self.0.buf.cast(), self.len()) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the view was exported and is released once; releasing needs the GIL.
        Python::attach(|_| unsafe { ffi::PyBuffer_Release(&raw mut *self.0) });
    }
}

/// What a write buffer holds: immutable bytes as they came, everything else as a copy.
pub enum Chunk {
    /// From an offset on.
    Bytes(Py<PyBytes>, usize),
    Copy(Box<[u8]>),
}

impl AsRef<[u8]> for Chunk {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            Chunk::Bytes(bytes, from) => {
                // SAFETY: a bytes object never changes and does not move, and it lives as long
                // as the chunk. Its length and address may be read in any thread.
                let all = unsafe {
                    slice::from_raw_parts(
                        ffi::PyBytes_AsString(bytes.as_ptr()).cast::<u8>(),
                        ffi::PyBytes_Size(bytes.as_ptr()).cast_unsigned(),
                    )
                };
                &all[*from..]
            }
            Chunk::Copy(copy) => copy,
        }
    }
}

/// A new bytes object of at most `capacity` bytes, filled by `fill`, which returns how many.
///
/// `fill` must not run Python code.
pub fn bytes_filled_by<E>(
    py: Python<'_>,
    capacity: usize,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize, E>,
) -> PyResult<Result<Py<PyBytes>, E>> {
    // SAFETY: a null pointer asks for uninitialised content, which nobody sees before it is
    // filled: the object is new. It is resized to what was filled while we own its only reference.
    unsafe {
        let mut object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), capacity.cast_signed());
        if object.is_null() {
            return Err(PyErr::fetch(py));
        }
        let content = slice::from_raw_parts_mut(ffi::PyBytes_AsString(object).cast(), capacity);
        match fill(content) {
            Ok(filled) => {
                if filled < capacity && _PyBytes_Resize(&raw mut object, filled.cast_signed()) != 0
                {
                    return Err(PyErr::fetch(py));
                }
                Ok(Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked().unbind()))
            }
            Err(error) => {
                ffi::Py_DECREF(object);
                Ok(Err(error))
            }
        }
    }
}

/// Receives once, into `first` and then into `second`, without waiting.
pub fn receive_two(
    fd: BorrowedFd<'_>,
    first: &mut [MaybeUninit<u8>],
    second: &mut [u8],
) -> Result<usize, Errno> {
    let mut parts = [
        libc::iovec { iov_base: first.as_mut_ptr().cast(), iov_len: first.len() },
        libc::iovec { iov_base: second.as_mut_ptr().cast(), iov_len: second.len() },
    ];
    // SAFETY: nulls and zeros say that there is room for neither an address nor control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: the kernel writes to nothing but the message and its two parts, which are borrowed
    // exclusively and as long as they say.
    let count = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    usize::try_from(count).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}
