//! From a pipe to the protocol.

use pyo3::{PyClassInitializer, intern, prelude::*};
use velodrome::{Errno, error::is_retry, life::Phase};

use super::{Direction, PipeTransport, Turn};
use crate::{
    call::call_method,
    transport::{
        base::Connection,
        receiving::{Received, receive, receive_for_streams},
    },
};

#[pyclass(frozen, extends = PipeTransport, module = "velodrome")]
pub struct ReadPipeTransport;

impl ReadPipeTransport {
    pub fn over_pipe<'py>(
        pipe: &Bound<'py, PyAny>,
        mut connection: Connection<'_, 'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let waiter = connection.waiter.take();
        let refusal = "Pipe transport is for pipes/sockets only.";
        let common = PipeTransport::over(pipe, connection, Direction::Read, refusal)?;
        let class = PyClassInitializer::from(common).add_subclass(ReadPipeTransport);
        let transport = Bound::new(pipe.py(), class)?;
        PipeTransport::start(transport.as_super(), waiter)?;
        Ok(transport)
    }
}

impl PipeTransport {
    #[inline]
    pub(super) fn read_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let Some(protocol) = inner.base.protocol(py) else { return Ok(()) };
        if inner.stream.phase() != Phase::Open {
            return Ok(());
        }
        let received = if inner.feeds_streams.get() {
            receive_for_streams(protocol.bind(py), &inner.base, &inner.stream, inner.fd())
        } else {
            receive(py, &inner.base, &inner.stream, inner.fd()).map(Ok)
        };
        match received {
            Ok(Ok(Received::Bytes(data))) => {
                call_method(py, &protocol, intern!(py, "data_received"), [data.as_ptr()]).map(drop)
            }
            Ok(Ok(Received::Fed(fed))) => fed.tell(),
            Ok(Ok(Received::End)) => Self::ended(slf),
            Ok(Err(error)) => Err(error),
            Err(error) if is_retry(error) => Ok(()),
            // What a terminal says whose other end is closed.
            Err(error) => {
                Self::fatal(slf, error, "Fatal read error on pipe transport", error == Errno::IO)
            }
        }
    }

    fn ended(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        Self::log_hang_up(slf)?;
        inner.stream.abort();
        Self::unwatch(slf, Turn::Readable)?;
        let Some(protocol) = inner.base.protocol(py) else { return Ok(()) };
        Self::call_soon(slf, (protocol.getattr(py, intern!(py, "eof_received"))?,))?;
        Self::lose(slf, None)
    }
}

#[pymethods]
impl ReadPipeTransport {
    /// Return True if the transport is open and not paused.
    fn is_reading(slf: &Bound<'_, Self>) -> bool {
        slf.as_super().get().inner(slf.py()).stream.is_reading()
    }

    /// Call no more `data_received` until `resume_reading()`. Idempotent.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let slf = slf.as_super();
        let inner = slf.get().inner(slf.py());
        if !inner.stream.pause_reading() {
            return Ok(());
        }
        PipeTransport::unwatch(slf, Turn::Readable)?;
        inner.base.debug_log(slf.as_any(), "%r pauses reading")
    }

    /// Undo `pause_reading()`. Idempotent.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let slf = slf.as_super();
        let inner = slf.get().inner(slf.py());
        if !inner.stream.resume_reading() {
            return Ok(());
        }
        PipeTransport::watch(slf, Turn::Readable)?;
        inner.base.debug_log(slf.as_any(), "%r resumes reading")
    }

    /// Close the pipe; `connection_lost(None)` is called later. Idempotent.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        PipeTransport::force_close(slf.as_super(), None)
    }

    /// The protocol knows the transport: reads from now on, unless it paused meanwhile.
    fn _add_reader(slf: &Bound<'_, Self>) -> PyResult<()> {
        let slf = slf.as_super();
        let stream = &slf.get().inner(slf.py()).stream;
        stream.start_reading();
        if stream.is_reading() {
            return PipeTransport::watch(slf, Turn::Readable);
        }
        Ok(())
    }

    fn _read_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        PipeTransport::read_ready(slf.as_super())
    }
}
