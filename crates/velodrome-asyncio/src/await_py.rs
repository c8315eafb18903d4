//! A Python awaitable as a Rust future.

use std::{
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use pyo3::{exceptions::PyRuntimeError, intern, prelude::*, sync::PyOnceLock};

use crate::{bridge::Bridge, shared::Shared};

/// Awaits a Python awaitable in a Rust future: a coroutine, a future, whatever has `__await__`.
///
/// It starts when it is polled first, as `asyncio.ensure_future` does it, on the loop that polls the
/// future, and in the context of the caller of [`future_into_py`](crate::future_into_py). Dropping it
/// before it is done cancels what it awaits.
///
/// ```no_run
/// use pyo3::prelude::*;
/// use velodrome_asyncio::{await_py, future_into_py};
///
/// /// Awaits what `make` returns, and again.
/// #[pyfunction]
/// fn twice(py: Python<'_>, make: Py<PyAny>) -> PyResult<Bound<'_, PyAny>> {
///     future_into_py(py, async move {
///         let awaitable = Python::attach(|py| make.call0(py))?;
///         await_py(awaitable).await?;
///         let awaitable = Python::attach(|py| make.call0(py))?;
///         await_py(awaitable).await
///     })
/// }
/// ```
pub fn await_py(awaitable: Py<PyAny>) -> AwaitPy {
    AwaitPy { state: State::New(awaitable), of_thread: PhantomData }
}

/// See [`await_py`].
#[must_use = "a future does nothing until it is awaited"]
pub struct AwaitPy {
    state: State,
    /// asyncio's futures are for the loop's thread.
    of_thread: PhantomData<Rc<()>>,
}

enum State {
    New(Py<PyAny>),
    Waiting { shared: Arc<Shared>, key: u64, waiter: Arc<Waiter> },
    Done,
}

#[derive(Default)]
struct Waiter {
    is_done: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Waiter {
    fn set_waker(&self, waker: &Waker) {
        let mut known = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            let replaced = known.replace(waker.clone());
            drop(known);
            drop(replaced);
        }
    }
}

/// Called when what is awaited is done.
#[pyclass(frozen)]
struct Wake(Arc<Waiter>);

#[pymethods]
impl Wake {
    fn __call__(&self, _future: &Bound<'_, PyAny>) {
        self.0.is_done.store(true, Relaxed);
        let waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    fn start(py: Python<'_>, awaitable: Py<PyAny>, waker: &Waker) -> PyResult<State> {
        static ENSURE_FUTURE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let bridge = Bridge::current().ok_or_else(|| {
            PyRuntimeError::new_err("await_py is for futures of velodrome_asyncio::future_into_py")
        })?;
        let ensure_future = ENSURE_FUTURE.import(py, "asyncio", "ensure_future")?;
        let future = ensure_future.call1((awaitable,))?;
        let waiter = Arc::<Waiter>::default();
        waiter.set_waker(waker);
        let wake = Bound::new(py, Wake(Arc::clone(&waiter)))?;
        future.call_method1(intern!(py, "add_done_callback"), (wake,))?;
        let shared = Arc::clone(&bridge.shared);
        let key = shared.add_awaited(future.unbind());
        Ok(State::Waiting { shared, key, waiter })
    }
}

impl Future for AwaitPy {
    type Output = PyResult<Py<PyAny>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::New(awaitable) => {
                match Python::attach(|py| State::start(py, awaitable, context.waker())) {
                    Ok(waiting) => self.state = waiting,
                    Err(error) => return Poll::Ready(Err(error)),
                }
                Poll::Pending
            }
            State::Waiting { shared, key, waiter } => {
                if !waiter.is_done.load(Relaxed) {
                    waiter.set_waker(context.waker());
                    self.state = State::Waiting { shared, key, waiter };
                    return Poll::Pending;
                }
                let result = Python::attach(|py| match shared.take_awaited(key) {
                    Some(future) => future.call_method0(py, intern!(py, "result")),
                    None => Err(PyRuntimeError::new_err("Event loop is closed")),
                });
                Poll::Ready(result)
            }
            State::Done => panic!("`AwaitPy` was polled after it was done"),
        }
    }
}

impl Drop for AwaitPy {
    fn drop(&mut self) {
        let State::Waiting { shared, key, waiter } = &self.state else { return };
        if shared.is_closed() {
            // Nothing runs any more that could end in another way.
            return;
        }
        let mut awaited = shared.take_awaited(*key);
        Python::try_attach(|py| {
            let Some(future) = awaited.take() else { return };
            if !waiter.is_done.load(Relaxed)
                && let Err(error) = future.call_method0(py, intern!(py, "cancel"))
            {
                error.write_unraisable(py, Some(future.bind(py)));
            }
        });
    }
}
