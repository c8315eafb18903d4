//! What `examples/rust-extension` does, by pyo3-async-runtimes and tokio.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3_async_runtimes::tokio::future_into_py;

#[pymodule]
mod tokio_futures {
    use super::*;

    /// Returns what it was given, after it has given way some times.
    #[pyfunction]
    fn value(py: Python<'_>, value: Py<PyAny>, iterations: usize) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async move {
            for _ in 0..iterations {
                tokio::task::yield_now().await;
            }
            Ok(value)
        })
    }

    /// Waits for a timer; returns the seconds.
    #[pyfunction]
    fn sleep(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async move {
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            Ok(seconds)
        })
    }

    /// One thread beside the loop's: the fewest that tokio can do with here.
    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all();
        pyo3_async_runtimes::tokio::init(builder);
        Ok(())
    }
}
