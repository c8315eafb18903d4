//! What can go wrong: the operating system's error numbers.

/// An errno, as the kernel returned it. The model keeps it to the end, so that a caller can raise the
/// exception that fits it.
pub type Errno = rustix::io::Errno;
pub type Result<T, E = Errno> = std::result::Result<T, E>;

/// Would-block and interrupted are flow, not errors: the operation is tried again later.
#[inline]
pub fn is_retry(error: Errno) -> bool {
    error == Errno::AGAIN || error == Errno::WOULDBLOCK || error == Errno::INTR
}
