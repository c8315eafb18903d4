//! The model's one error type: the operating system's own error number.
//!
//! It keeps its errno to the end, so a caller can raise the exception that fits it.

/// An errno, as the kernel returned it.
pub type Error = rustix::io::Errno;
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Would-block and interrupted are flow, not errors: the operation is tried again later.
#[inline]
pub fn is_retry(error: Error) -> bool {
    error == Error::AGAIN || error == Error::WOULDBLOCK || error == Error::INTR
}
