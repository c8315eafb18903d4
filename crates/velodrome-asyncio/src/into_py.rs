//! A Rust future as a Python awaitable.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyKeyboardInterrupt, PySystemExit, asyncio::CancelledError},
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::PyDict,
};

use crate::{
    bridge::Bridge,
    gil::{copy_context, panic_error},
    loop_state::bridge_of,
    shared::{Root, Shared, set_exception},
};

/// An `asyncio.Future` of the running loop, whose result is the output of `future`.
///
/// The loop polls it from its next iteration on, whether it is awaited or not. Raises `RuntimeError`
/// without a running loop, and if that is not velodrome's.
///
/// ```no_run
/// use pyo3::prelude::*;
///
/// /// The first bytes that a server sends.
/// #[pyfunction]
/// fn greeting(py: Python<'_>, address: String) -> PyResult<Bound<'_, PyAny>> {
///     velodrome_asyncio::future_into_py(py, async move {
///         let stream = velodrome::TcpStream::connect(address).await?;
///         let mut buffer = vec![0; 1024];
///         let count = stream.read(&mut buffer).await?;
///         buffer.truncate(count);
///         Ok(buffer)
///     })
/// }
/// ```
pub fn future_into_py<'py, F, T>(py: Python<'py>, future: F) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'any> IntoPyObject<'any> + 'static,
{
    spawn(py, future, false)
}

/// The same on any event loop: where it is not velodrome's, by its own `call_soon`, `call_at`,
/// `call_soon_threadsafe` and `add_reader`.
///
/// Such a loop does not tell when it is closed: futures that wait then are dropped when the loop is freed.
///
/// ```no_run
/// use pyo3::prelude::*;
/// use velodrome_asyncio::future_into_py_on_any_loop;
///
/// #[pyfunction]
/// fn yields(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
///     future_into_py_on_any_loop(py, async {
///         velodrome::sleep(std::time::Duration::ZERO).await;
///         Ok(())
///     })
/// }
/// ```
pub fn future_into_py_on_any_loop<'py, F, T>(
    py: Python<'py>,
    future: F,
) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'any> IntoPyObject<'any> + 'static,
{
    spawn(py, future, true)
}

fn spawn<'py, F, T>(py: Python<'py>, future: F, any_loop: bool) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'any> IntoPyObject<'any> + 'static,
{
    static GET_RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let event_loop = GET_RUNNING_LOOP.import(py, "asyncio", "get_running_loop")?.call0()?;
    let bridge = bridge_of(&event_loop, any_loop)?;
    let awaitable = event_loop.call_method0(intern!(py, "create_future"))?;
    let context = copy_context(py)?;
    let number = bridge.spawn(Polled { future, bridge: Rc::clone(&bridge) });
    let root = Root { future: awaitable.clone().unbind(), context: context.clone_ref(py) };
    bridge.shared.add_root(number, root);
    let done = Done { shared: Arc::clone(&bridge.shared), number };
    let watched = Bound::new(py, done).and_then(|done| {
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "context"), context)?;
        awaitable.call_method(intern!(py, "add_done_callback"), (done,), Some(&keywords))
    });
    if let Err(error) = watched {
        bridge.abort(py, number);
        return Err(error);
    }
    Ok(awaitable)
}

/// Called when the Python future is done. If that was not by the Rust one, nobody needs that any more.
#[pyclass(frozen)]
struct Done {
    shared: Arc<Shared>,
    number: u64,
}

#[pymethods]
impl Done {
    fn __call__(&self, py: Python<'_>, _future: &Bound<'_, PyAny>) {
        if let Some(bridge) = self.shared.bridge(py) {
            bridge.abort(py, self.number);
        }
    }
}

pin_project! {
    /// Gives the outcome to the Python future.
    struct Polled<F> {
        #[pin]
        future: F,
        bridge: Rc<Bridge>,
    }
}

impl<F, T> Future for Polled<F>
where
    F: Future<Output = PyResult<T>>,
    T: for<'any> IntoPyObject<'any>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let polled = catch_unwind(AssertUnwindSafe(|| this.future.poll(context)));
        let outcome = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => outcome,
            Err(panic) => Err(panic_error(panic.as_ref())),
        };
        let mut outcome = Some(outcome);
        Python::try_attach(|py| {
            let outcome = outcome.take().into_iter();
            outcome.for_each(|outcome| this.bridge.finish(py, outcome));
        });
        Poll::Ready(())
    }
}

impl Bridge {
    fn finish<T: for<'any> IntoPyObject<'any>>(&self, py: Python<'_>, outcome: PyResult<T>) {
        let Some(root) = self.finished().and_then(|number| self.shared.take_root(number)) else {
            return;
        };
        let future = root.future.bind(py);
        let converted = outcome.and_then(|output| {
            let converted = catch_unwind(AssertUnwindSafe(|| output.into_bound_py_any(py)));
            converted.unwrap_or_else(|panic| Err(panic_error(panic.as_ref())))
        });
        let set = match converted {
            Ok(output) => set_result(future, output),
            Err(error) if error.is_instance_of::<CancelledError>(py) => {
                future.call_method0(intern!(py, "cancel")).map(drop)
            }
            Err(error) => {
                let set = set_exception(future, &error);
                // As asyncio's tasks: the awaiter hears of it, and the loop is left.
                if error.is_instance_of::<PyKeyboardInterrupt>(py)
                    || error.is_instance_of::<PySystemExit>(py)
                {
                    set.and(Err(error))
                } else {
                    set
                }
            }
        };
        if let Err(error) = set {
            self.leave_with(error);
        }
    }
}

fn set_result(future: &Bound<'_, PyAny>, output: Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    match future.call_method1(intern!(py, "set_result"), (output,)) {
        Ok(_) => Ok(()),
        // Cancelled a moment ago.
        Err(_) if future.call_method0(intern!(py, "done"))?.is_truthy()? => Ok(()),
        Err(error) => Err(error),
    }
}
