//! What the tests need to see.

use std::{
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    thread,
    time::Duration,
};

use pyo3::{ffi, prelude::*};
use velodrome_asyncio::{await_py, future_into_py, future_into_py_on_any_loop};

static DROPPED: AtomicUsize = AtomicUsize::new(0);

/// Counts the futures that were dropped.
struct Guard(Option<Py<PyAny>>);

impl Drop for Guard {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Relaxed);
        if let Some(called) = self.0.take() {
            Python::attach(|py| called.call0(py)).expect("the probe's callable");
        }
    }
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("a destructor panicked");
    }
}

/// Gives way to the loop once.
async fn yield_once() {
    velodrome::sleep(Duration::ZERO).await;
}

#[pymodule]
pub mod probes {
    use super::*;

    /// How many futures with a guard were dropped.
    #[pyfunction]
    fn dropped() -> usize {
        DROPPED.load(Relaxed)
    }

    /// Returns what it was given, after some iterations of the loop.
    #[pyfunction]
    #[pyo3(signature = (value, iterations = 0))]
    fn value(py: Python<'_>, value: Py<PyAny>, iterations: usize) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async move {
            for _ in 0..iterations {
                yield_once().await;
            }
            Ok(value)
        })
    }

    /// Sleeps, on any loop.
    #[pyfunction]
    fn sleep_on_any_loop(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
        future_into_py_on_any_loop(py, async move {
            velodrome::sleep(Duration::from_secs_f64(seconds)).await;
            Ok(seconds)
        })
    }

    #[pyfunction]
    fn exchange_on_any_loop(
        py: Python<'_>,
        address: String,
        message: Vec<u8>,
    ) -> PyResult<Bound<'_, PyAny>> {
        let address: std::net::SocketAddr = address.parse()?;
        future_into_py_on_any_loop(py, async move { Ok(crate::exchange(address, &message).await?) })
    }

    /// Never ends. Calls `called` when it is dropped.
    #[pyfunction]
    #[pyo3(signature = (called = None, any_loop = false))]
    fn forever(
        py: Python<'_>,
        called: Option<Py<PyAny>>,
        any_loop: bool,
    ) -> PyResult<Bound<'_, PyAny>> {
        let guard = Guard(called);
        let future = async move {
            let _guard = guard;
            std::future::pending::<()>().await;
            Ok(())
        };
        if any_loop { future_into_py_on_any_loop(py, future) } else { future_into_py(py, future) }
    }

    /// Sleeps for a day, and waits for a socket that nobody writes to.
    #[pyfunction]
    fn waits_for_everything(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async {
            let _guard = Guard(None);
            let (here, _there) = std::os::unix::net::UnixStream::pair()?;
            here.set_nonblocking(true)?;
            let here = velodrome::Async::new(here)?;
            here.not_ready(velodrome::Direction::Read);
            let _ = velodrome::timeout(Duration::from_secs(86_400), here.readable()).await;
            Ok(())
        })
    }

    /// Its destructor panics.
    #[pyfunction]
    fn forever_with_a_bad_destructor(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async {
            let _bad = PanicsWhenDropped;
            std::future::pending::<()>().await;
            Ok(())
        })
    }

    #[pyfunction]
    fn raises(py: Python<'_>, error: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let error = PyErr::from_value(error);
        let future = future_into_py::<_, ()>(py, async move {
            yield_once().await;
            Err(error)
        })?;
        Ok(future.unbind())
    }

    #[pyfunction]
    fn panics(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        future_into_py::<_, ()>(py, async {
            yield_once().await;
            panic!("the future panicked");
        })
    }

    /// Awaits a Python awaitable.
    #[pyfunction]
    #[pyo3(signature = (awaitable, any_loop = false))]
    fn awaits(py: Python<'_>, awaitable: Py<PyAny>, any_loop: bool) -> PyResult<Bound<'_, PyAny>> {
        let future = async move {
            let _guard = Guard(None);
            await_py(awaitable).await
        };
        if any_loop { future_into_py_on_any_loop(py, future) } else { future_into_py(py, future) }
    }

    /// Awaits a Python awaitable for a while; whether it was done by then.
    #[pyfunction]
    fn awaits_for(
        py: Python<'_>,
        awaitable: Py<PyAny>,
        seconds: f64,
    ) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async move {
            let limit = Duration::from_secs_f64(seconds);
            Ok(velodrome::timeout(limit, await_py(awaitable)).await.is_ok())
        })
    }

    /// Calls `called` after each of some waits, and returns what that returned.
    #[pyfunction]
    fn calls(py: Python<'_>, called: Py<PyAny>) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async move {
            let call = || Python::attach(|py| called.call0(py));
            let mut results = vec![call()?];
            yield_once().await;
            results.push(call()?);
            velodrome::sleep(Duration::from_millis(1)).await;
            results.push(call()?);
            Ok(results)
        })
    }

    /// Whether the GIL was released in each poll of a future, and of a task that it makes.
    #[pyfunction]
    fn releases_the_gil(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        // SAFETY: it only asks.
        let is_released = || unsafe { ffi::PyGILState_Check() } == 0;
        future_into_py(py, async move {
            let mut all = vec![is_released()];
            yield_once().await;
            all.push(is_released());
            let of_task = velodrome::create_task(async move { is_released() }).await;
            all.push(of_task.unwrap_or(false));
            Ok(all)
        })
    }

    /// Makes a task that panics, and forgets it.
    #[pyfunction]
    fn panics_in_a_task(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async {
            velodrome::create_task(async { panic!("the task panicked") }).detach();
            Ok(())
        })
    }

    /// A task that is not `Send`, on the same loop.
    #[pyfunction]
    fn shares(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async {
            let queue = Rc::new(velodrome::Queue::new());
            let other = Rc::clone(&queue);
            let task = velodrome::create_task(async move {
                for number in 0..3 {
                    other.put(number).await;
                }
            });
            let mut sum = 0;
            for _ in 0..3 {
                sum += queue.get().await;
            }
            task.await
                .map_err(|error| pyo3::exceptions::PyRuntimeError::new_err(error.to_string()))?;
            Ok(sum)
        })
    }

    /// Is woken by another thread, which does not hold the GIL.
    #[pyfunction]
    #[pyo3(signature = (seconds, any_loop = false))]
    fn woken_by_a_thread(
        py: Python<'_>,
        seconds: f64,
        any_loop: bool,
    ) -> PyResult<Bound<'_, PyAny>> {
        let future = async move {
            let is_done = Arc::new(AtomicBool::new(false));
            let mut thread = None;
            poll_fn(|context| {
                if is_done.load(Relaxed) {
                    return Poll::Ready(());
                }
                thread.get_or_insert_with(|| {
                    let (is_done, waker) = (Arc::clone(&is_done), context.waker().clone());
                    thread::spawn(move || {
                        thread::sleep(Duration::from_secs_f64(seconds));
                        is_done.store(true, Relaxed);
                        waker.wake();
                    })
                });
                Poll::Pending
            })
            .await;
            Ok(thread.map(|thread| thread.join().is_ok()))
        };
        if any_loop { future_into_py_on_any_loop(py, future) } else { future_into_py(py, future) }
    }

    /// Returns a function that wakes the future from whatever thread calls it.
    #[pyfunction]
    fn waits_for_call(py: Python<'_>, take: Py<PyAny>) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async move {
            let mut is_told = false;
            poll_fn(|context| {
                if is_told {
                    return Poll::Ready(());
                }
                is_told = true;
                let waker = Wakes(context.waker().clone());
                Python::attach(|py| take.call1(py, (waker,))).expect("the probe's callable");
                Poll::Pending
            })
            .await;
            Ok(())
        })
    }

    #[pyclass(frozen)]
    struct Wakes(std::task::Waker);

    #[pymethods]
    impl Wakes {
        fn __call__(&self, py: Python<'_>) {
            py.detach(|| self.0.wake_by_ref());
        }
    }
}
