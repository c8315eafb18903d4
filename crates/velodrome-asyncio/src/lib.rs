//! Rust futures on the event loop that Python runs: no second runtime, no thread.
//!
//! [`future_into_py`] makes a Python awaitable of a Rust future, and [`await_py`] awaits a Python
//! awaitable in one. The future is polled by the running loop, in its thread, so it need not be `Send`;
//! sockets and timers of the crate [`velodrome`] are watched by the loop's own poller and timers.
//!
//! ```no_run
//! use std::time::Duration;
//! use pyo3::prelude::*;
//!
//! #[pyfunction]
//! fn slept(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
//!     velodrome_asyncio::future_into_py(py, async move {
//!         velodrome::sleep(Duration::from_secs_f64(seconds)).await;
//!         Ok(seconds)
//!     })
//! }
//! ```
//!
//! **Cancellation** crosses both ways: when the Python awaitable is cancelled, the Rust future is dropped;
//! when a future that awaits Python is dropped, what it awaits is cancelled.
//!
//! **The GIL** is released while a future is polled. `Python::attach` takes it where Python is touched, and
//! there the context (`contextvars`) is that of the caller of `future_into_py`.
//!
//! **Errors.** A `PyErr` is raised where the future is awaited; so is a panic, as PyO3's `PanicException`.
//!
//! **Ends.** When a loop is closed, the futures on it are dropped. A future belongs to the thread of its
//! loop: if that runs in another one later, whoever awaits the future gets a `RuntimeError`. A future that
//! holds a reference to the loop, in whatever way, keeps it alive until the future is done or the loop is
//! closed, since Python's garbage collector cannot look into it.

#![deny(unsafe_code)]

#[forbid(unsafe_code)]
mod await_py;
#[forbid(unsafe_code)]
mod bridge;
#[allow(unsafe_code)]
mod fallback;
#[allow(unsafe_code)]
mod gil;
#[forbid(unsafe_code)]
mod into_py;
#[forbid(unsafe_code)]
mod loop_state;
#[allow(unsafe_code)]
mod native;
#[allow(unsafe_code)]
mod shared;

pub use await_py::{AwaitPy, await_py};
pub use into_py::{future_into_py, future_into_py_on_any_loop};

/// Compiles what the page and the file show.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/rust-futures.md")]
#[doc = include_str!("../README.md")]
struct Page;
