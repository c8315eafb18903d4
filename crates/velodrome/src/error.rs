//! What can go wrong: the operating system's error numbers in the model, and what a loop refuses.

use std::io;

/// An errno, as the kernel returned it. The model keeps it to the end, so that a caller can raise the
/// exception that fits it.
pub type Errno = rustix::io::Errno;
pub type Result<T, E = Errno> = std::result::Result<T, E>;

/// Would-block and interrupted are flow, not errors: the operation is tried again later.
#[inline]
pub fn is_retry(error: Errno) -> bool {
    error == Errno::AGAIN || error == Errno::WOULDBLOCK || error == Errno::INTR
}

/// What a loop refuses, with asyncio's words for it.
///
/// ```
/// use velodrome::{Error, get_event_loop, new_event_loop};
///
/// let error = get_event_loop().unwrap_err();
/// assert_eq!(error.to_string(), "there is no current event loop in this thread");
/// let event_loop = new_event_loop();
/// event_loop.close()?;
/// assert!(matches!(event_loop.run_forever(), Err(Error::Closed)));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`get_event_loop`](crate::get_event_loop) in a thread for which none was set.
    #[error("there is no current event loop in this thread")]
    NoCurrentLoop,
    /// [`get_running_loop`](crate::get_running_loop) outside callbacks and tasks.
    #[error("no running event loop")]
    NoRunningLoop,
    #[error("this event loop is already running")]
    Running,
    #[error("cannot run the event loop while another loop is running")]
    AnotherIsRunning,
    #[error("event loop is closed")]
    Closed,
    /// [`stop`](crate::EventLoop::stop) was called first.
    #[error("event loop stopped before the future completed")]
    Stopped,
    /// The task of the future was cancelled.
    #[error("the task was cancelled")]
    Cancelled,
    /// The loop cannot get the descriptors that it needs to sleep.
    #[error(transparent)]
    Io(#[from] io::Error),
}
