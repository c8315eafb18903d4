//! asyncio's methods of a datagram transport, each a few lines over what the transport does.

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyNotImplementedError, PyTypeError},
    intern,
    prelude::*,
    types::{PyByteArray, PyBytes, PyMemoryView},
};

use super::{Arrived, DatagramTransport};
use crate::{
    fast::{Arguments, Method, raw_method},
    transport::base::{HIGH_WATER_BYTES, buffer_limits, clone_of, common_methods, visit_cell},
};

fn sendto<'py>(
    py: Python<'py>,
    slf: &Bound<'py, DatagramTransport>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let [mut data, mut to] = [None; 2];
    if arguments.has_keywords() {
        [data, to] =
            arguments.take_keywords("sendto", [intern!(py, "data"), intern!(py, "addr")])?;
    }
    match *arguments.positional() {
        [] => {}
        [first] if data.is_none() => data = Some(first),
        [first, second] if data.is_none() && to.is_none() => {
            (data, to) = (Some(first), Some(second));
        }
        _ => return Err(PyTypeError::new_err("sendto() takes from 1 to 2 positional arguments")),
    }
    let Some(data) = data else {
        let message = "sendto() missing 1 required positional argument: 'data'";
        return Err(PyTypeError::new_err(message));
    };
    // SAFETY: arguments of the call under way.
    let (data, to) = unsafe {
        (
            Bound::<PyAny>::from_borrowed_ptr(py, data),
            to.map(|to| Bound::<PyAny>::from_borrowed_ptr(py, to)).filter(|to| !to.is_none()),
        )
    };
    let is_bytes = data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>();
    if !is_bytes {
        return Err(PyTypeError::new_err(format!(
            "data argument must be a bytes-like object, not {}",
            data.get_type().name()?.repr()?
        )));
    }
    if slf.get().inner(py).sends_empty || data.is_truthy()? {
        DatagramTransport::send(slf, &data, to.as_ref())?;
    }
    Ok(py.None())
}

raw_method!(raw_sendto, DatagramTransport, sendto);

pub const METHODS: &[Method] = &[Method {
    name: c"sendto",
    call: raw_sendto,
    doc: c"sendto($self, data, addr=None)\n--\n\n\
           Send a datagram (bytes, a bytearray or a memoryview) to addr; never blocks.\n\n\
           Without addr it goes to the peer that the socket is connected to. What the socket does\n\
           not take at once is buffered. An error of the network goes to error_received() of the\n\
           protocol. Only from the loop's own thread. Raises ValueError for another address than\n\
           the remote_addr of the endpoint.",
}];

fn not_implemented<T>() -> PyResult<T> {
    Err(PyNotImplementedError::new_err("a datagram transport has no stream to write to"))
}

common_methods!(DatagramTransport, socket);

#[pymethods]
impl DatagramTransport {
    /// Close the transport at once; datagrams that wait are lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::force_close(slf, None)
    }

    fn _force_close(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        Self::force_close(slf, exc)
    }

    /// Close the transport after the datagrams that wait are sent. No more is received, and
    /// `connection_lost(None)` is called later.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close_now(slf)
    }

    /// Call no more `datagram_received` until `resume_reading()`. Idempotent.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        if inner.socket.pause_reading() {
            inner.base.debug_log(slf.as_any(), "%r pauses reading")?;
        }
        Ok(())
    }

    /// Undo `pause_reading()`. Idempotent.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        if inner.socket.resume_reading() {
            Self::queue_next(slf);
            Self::update_interest(slf)?;
            inner.base.debug_log(slf.as_any(), "%r resumes reading")?;
        }
        Ok(())
    }

    /// Let another protocol have the datagrams.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) {
        let base = &self.inner(protocol.py()).base;
        let old = base.protocol.replace(Some(protocol.clone().unbind()));
        drop(old);
    }

    /// Set the marks (bytes) at which the protocol is told to pause and to resume writing.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<Bound<'_, PyAny>>,
        low: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (low, high) = buffer_limits(slf.py(), high, low, HIGH_WATER_BYTES)?;
        slf.get().inner(slf.py()).socket.flow.set_limits(low, high);
        Self::pause_protocol_if_full(slf)
    }

    /// Return how many bytes wait for the socket; each datagram counts 8 more from Python 3.13 on.
    fn get_write_buffer_size(&self, py: Python<'_>) -> usize {
        self.inner(py).socket.unsent_bytes()
    }

    /// Return 'socket', 'sockname', 'peername' or what else is known by `name`, else `default`.
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info(
        &self,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = name.py();
        let extra = clone_of(py, &self.inner(py).base.extra);
        let known = extra.map(|extra| extra.bind(py).get_item(name)).transpose()?.flatten();
        Ok(known.map_or_else(|| default.unwrap_or_else(|| py.None()), Bound::unbind))
    }

    /// Raise NotImplementedError, as asyncio's datagram transport does.
    fn write(&self, _data: &Bound<'_, PyAny>) -> PyResult<()> {
        not_implemented()
    }

    /// Raise NotImplementedError, as asyncio's datagram transport does.
    fn writelines(&self, _list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        not_implemented()
    }

    /// Raise NotImplementedError, as asyncio's datagram transport does.
    fn write_eof(&self) -> PyResult<()> {
        not_implemented()
    }

    /// Raise NotImplementedError, as asyncio's datagram transport does.
    fn can_write_eof(&self) -> PyResult<bool> {
        not_implemented()
    }

    #[getter]
    fn _sock(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        clone_of(py, &self.inner(py).python_socket)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: called by the garbage collector.
        let inner = unsafe { self.0.in_traverse() };
        inner.base.visit(&visit)?;
        visit_cell(&visit, &inner.python_socket)?;
        visit_cell(&visit, &inner.address)?;
        if let Ok(arrived) = inner.arrived.try_borrow() {
            for Arrived { data, from } in &*arrived {
                visit.call(data)?;
                visit.call(&from.python)?;
            }
        }
        let mut result = Ok(());
        inner.socket.inspect(|datagram| {
            if result.is_ok() {
                result = visit.call(&datagram.to);
            }
        });
        result?;
        if let Ok(sender) = inner.sender.try_borrow()
            && let Some(sender) = &*sender
        {
            visit.call(&sender.python)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            let inner = self.inner(py);
            inner.socket.abort();
            inner.base.clear();
            drop((inner.arrived.take(), inner.sender.take(), inner.address.take()));
        });
    }
}
