//! `loop._selector`: asyncio's own transports look there for their `repr`.

use pyo3::{
    exceptions::PyKeyError,
    prelude::*,
    types::{PyInt, PyWeakrefMethods, PyWeakrefReference},
};

use super::Loop;

#[pyclass(frozen, module = "velodrome._native")]
pub struct RegistryView {
    event_loop: Py<PyWeakrefReference>,
}

impl RegistryView {
    pub fn new(event_loop: &Bound<'_, Loop>) -> PyResult<Self> {
        Ok(RegistryView { event_loop: PyWeakrefReference::new(event_loop)?.unbind() })
    }
}

#[pymethods]
impl RegistryView {
    fn get_key<'py>(&self, fd: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = fd.py();
        let number = match fd.cast::<PyInt>() {
            Ok(number) => number.clone().into_any(),
            Err(_) => fd.call_method0("fileno")?,
        };
        let event_loop = self.event_loop.bind(py).upgrade_as::<Loop>()?;
        let interest =
            |it: Bound<'py, Loop>| PyResult::Ok(it.get()._interest(py, number.extract()?));
        match event_loop.map_or(Ok(0), interest)? {
            0 => Err(PyKeyError::new_err(fd.clone().unbind())),
            events => {
                let key = py.import("selectors")?.getattr("SelectorKey")?;
                key.call1((fd, &number, events, py.None()))
            }
        }
    }

    fn close(&self) {}
}
