//! asyncio's transports over pipes, FIFOs, terminals and sockets that are used like them: what both
//! directions share. How data come is in `pipe/reading.rs`, how they go in `pipe/writing.rs`.
//!
//! The descriptor is the pipe object's, which the transport closes in the end, and nobody's alone:
//! a reading and a writing transport may share a terminal, and a program may put a reader of its own
//! in the transport's place. So a transport is a [`Watcher`], as the handle of `add_reader` is, each
//! direction by itself.
//!
//! What happens once in its life goes through `loop.call_soon`, as in asyncio: a debugging loop, a
//! subclass and the exception handler see what they would see there. Its turns run in the contexts
//! that asyncio's handles would have: copies of the one in which the descriptor was watched.

mod reading;
mod writing;

use std::{
    cell::{Cell, RefCell},
    os::fd::{BorrowedFd, RawFd},
};

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::PyValueError,
    intern,
    prelude::*,
    types::{PyDict, PyString, PyTuple},
};
use velodrome::{
    Errno, Interest,
    pipe::{PipeKind, pipe_kind, set_nonblocking},
    stream::{Pipe, Stream},
};

pub use reading::ReadPipeTransport;
pub use writing::{METHODS, WritePipeTransport};

use crate::{
    buffer::Chunk,
    call::{call_method, copy_context, in_context},
    callback::Watcher,
    error::{leaves_loop, os_error},
    event_loop::Loop,
    gil::GilBound,
    imports::{loaded, seam, seam_module},
    report,
    stream_reader::stream_readers,
    transport::base::{BaseTransport, Connection, at_the_end, clone_of, visit_cell, warn_unclosed},
};

/// What a transport watches its descriptor for, and does when its turn comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There is something to read.
    Readable,
    /// The other end of a pipe that is written is gone.
    HungUp,
    /// There is room to write.
    Writable,
}

impl Turn {
    /// Whether it is a reader's, to the poller.
    fn is_readers(self) -> bool {
        self != Turn::Writable
    }

    /// asyncio's name of what runs.
    fn method<'py>(self, py: Python<'py>) -> &'py Bound<'py, PyString> {
        match self {
            Turn::Readable | Turn::HungUp => intern!(py, "_read_ready"),
            Turn::Writable => intern!(py, "_write_ready"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

struct Inner {
    direction: Direction,
    kind: PipeKind,
    stream: Stream<Chunk, Pipe>,
    /// Its descriptor's number stays after the end, and its context is the reader's.
    base: BaseTransport,
    writer_context: RefCell<Option<Py<PyAny>>>,
    /// Whether its watcher is in place, for reading and for writing. If not, a turn that is queued
    /// already counts as cancelled.
    watches: [Cell<bool>; 2],
    /// `None` once it is closed.
    pipe: RefCell<Option<Py<PyAny>>>,
    /// The protocol is asyncio's for its streams, which are fed without a call.
    feeds_streams: Cell<bool>,
    /// Failed writes, and writes after the end.
    lost_writes: Cell<u32>,
}

impl Inner {
    fn context(&self, turn: Turn) -> &RefCell<Option<Py<PyAny>>> {
        if turn.is_readers() { &self.base.context } else { &self.writer_context }
    }

    fn watches(&self, turn: Turn) -> &Cell<bool> {
        &self.watches[usize::from(turn.is_readers())]
    }

    /// For system calls, as long as the end is not decided.
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: not negative (checked by `PipeTransport::over`), and the pipe object, which is
        // closed after the end, holds it open. If a program closed that behind our back, the call
        // fails with EBADF or, as in asyncio, goes to the number's next owner.
        unsafe { BorrowedFd::borrow_raw(self.base.fd.get()) }
    }

    /// What `repr()` says, without the brackets.
    fn describe(&self, py: Python<'_>) -> String {
        let fd = self.base.fd.get();
        let (class, interest) = match self.direction {
            Direction::Read => ("ReadPipeTransport", Interest::READ),
            Direction::Write => ("WritePipeTransport", Interest::WRITE),
        };
        let is_open = self.pipe.borrow().is_some();
        let state = match (is_open, self.stream.is_closing()) {
            (false, _) => " closed",
            (true, true) => " closing",
            (true, false) => "",
        };
        let event_loop = self.base.event_loop(py);
        let model = event_loop.as_ref().and_then(|event_loop| event_loop.get().model(py).ok());
        let polling = match (is_open, model) {
            (false, _) => "closed".to_owned(),
            (true, None) => "open".to_owned(),
            (true, Some(model)) => {
                let is_polled = model.reactor().interest(fd).contains(interest);
                let polling = if is_polled { "polling" } else { "idle" };
                match self.direction {
                    Direction::Read => polling.to_owned(),
                    Direction::Write => format!("{polling} bufsize={}", self.stream.unsent_bytes()),
                }
            }
        };
        format!("{class}{state} fd={fd} {polling}")
    }
}

/// What both directions are; each has a class of its own.
#[pyclass(frozen, subclass, weakref, dict, module = "velodrome")]
pub struct PipeTransport(GilBound<Inner>);

// ---- the beginning ---------------------------------------------------------------------------

impl PipeTransport {
    /// Over an object with `fileno()` and `close()`. ValueError, with asyncio's `refusal`, for a
    /// file that is not used like a pipe.
    fn over(
        pipe: &Bound<'_, PyAny>,
        connection: Connection<'_, '_>,
        direction: Direction,
        refusal: &'static str,
    ) -> PyResult<Self> {
        let py = pipe.py();
        let extra = match &connection.extra {
            Some(extra) => extra.bind(py).clone(),
            None => PyDict::new(py),
        };
        extra.set_item(intern!(py, "pipe"), pipe)?;
        let number: RawFd = pipe.call_method0(intern!(py, "fileno"))?.extract()?;
        if number < 0 {
            return Err(os_error(Errno::BADF));
        }
        // SAFETY: not negative, and the pipe object holds it open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let kind = pipe_kind(fd).map_err(os_error)?;
        let kind = kind.ok_or_else(|| PyValueError::new_err(refusal))?;
        set_nonblocking(fd).map_err(os_error)?;
        let connection = Connection { extra: Some(extra.unbind()), ..connection };
        Ok(PipeTransport(GilBound::new(Inner {
            direction,
            kind,
            // A write to a pipe is one piece if it is small, a device may take each as a command:
            // they are not joined.
            stream: Stream::new(false),
            base: BaseTransport::new(number, &connection)?,
            writer_context: RefCell::new(None),
            watches: Default::default(),
            pipe: RefCell::new(Some(pipe.clone().unbind())),
            feeds_streams: Cell::new(feeds_streams(&connection.protocol)),
            lost_writes: Cell::new(0),
        })))
    }

    /// Queues what comes first.
    fn start(slf: &Bound<'_, Self>, waiter: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let (Some(event_loop), Some(protocol)) =
            (inner.base.event_loop(py), inner.base.protocol(py))
        else {
            return Ok(());
        };
        let event_loop = event_loop.bind(py);
        let call_soon = intern!(py, "call_soon");
        let made = protocol.getattr(py, intern!(py, "connection_made"))?;
        event_loop.call_method1(call_soon, (made, slf))?;
        if inner.direction == Direction::Read || inner.kind.tells_writer_of_hang_up() {
            let watch = slf.getattr(intern!(py, "_add_reader"))?;
            event_loop.call_method1(call_soon, (watch,))?;
        }
        if let Some(waiter) = waiter.filter(|waiter| !waiter.is_none(py)) {
            let set_result = &loaded(py).set_result_unless_cancelled;
            event_loop.call_method1(call_soon, (set_result, waiter, py.None()))?;
        }
        Ok(())
    }
}

fn feeds_streams(protocol: &Bound<'_, PyAny>) -> bool {
    stream_readers(protocol.py()).is_protocol(protocol)
}

// ---- turns -----------------------------------------------------------------------------------

impl PipeTransport {
    #[inline]
    fn inner(&self, py: Python<'_>) -> &Inner {
        self.0.get(py)
    }

    pub fn take_turn(slf: &Bound<'_, Self>, turn: Turn) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if !inner.watches(turn).get() {
            return Ok(());
        }
        let Some(context) = clone_of(py, inner.context(turn)) else { return Ok(()) };
        let event_loop = inner.base.event_loop(py);
        let result = in_context(py, &context, || match turn {
            Turn::Readable => Self::read_ready(slf),
            Turn::HungUp => Self::hung_up(slf),
            Turn::Writable => Self::write_ready(slf),
        });
        match (result, event_loop) {
            (Err(error), Some(event_loop)) if !leaves_loop(py, &error) => {
                let callback = slf.getattr(turn.method(py))?;
                // To asyncio it is a callback of the loop like any other.
                let handle = loaded(py).handle.bind(py);
                let handle = handle.call1((callback, PyTuple::empty(py), &event_loop, context))?;
                report::callback_failed(event_loop.bind(py), &handle, error)
            }
            (result, _) => result,
        }
    }

    /// Its watcher was removed, or another one is in its place.
    pub fn watch_ended(&self, py: Python<'_>, turn: Turn) {
        self.inner(py).watches(turn).set(false);
    }

    /// From now on its turn comes whenever the descriptor is ready.
    fn watch(slf: &Bound<'_, Self>, turn: Turn) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let Some(event_loop) = inner.base.event_loop(py) else { return Ok(()) };
        let context = copy_context(py)?;
        let watcher = Watcher::Pipe(slf.clone().unbind(), turn);
        let fd = inner.base.fd.get();
        Loop::watch(event_loop.bind(py), None, fd, turn.is_readers(), watcher)?;
        drop(inner.context(turn).replace(Some(context)));
        inner.watches(turn).set(true);
        Ok(())
    }

    fn unwatch(slf: &Bound<'_, Self>, turn: Turn) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if inner.watches(turn).replace(false)
            && let Some(event_loop) = inner.base.event_loop(py)
        {
            Loop::unwatch(event_loop.bind(py), inner.base.fd.get(), turn.is_readers())?;
        }
        Ok(())
    }

    fn log_hang_up(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if slf.get().inner(py).base.is_debug(py) {
            seam(py, "log_hang_up", (slf,))?;
        }
        Ok(())
    }

    // ---- the end -----------------------------------------------------------------------------

    /// Ends it without writing what is buffered, if it has not ended.
    fn force_close(slf: &Bound<'_, Self>, because: Option<Py<PyAny>>) -> PyResult<()> {
        if slf.get().inner(slf.py()).stream.abort() {
            return Self::lose(slf, because);
        }
        Ok(())
    }

    /// The end is decided, just now: leaves the poller and queues `connection_lost`.
    fn lose(slf: &Bound<'_, Self>, because: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        // Or a writer's that is told of a hang-up: it is a reader's to the poller.
        Self::unwatch(slf, Turn::Readable)?;
        Self::unwatch(slf, Turn::Writable)?;
        let lost = slf.getattr(intern!(py, "_call_connection_lost"))?;
        Self::call_soon(slf, (lost, because))
    }

    fn call_soon<'py>(
        slf: &Bound<'py, Self>,
        arguments: impl pyo3::call::PyCallArgs<'py>,
    ) -> PyResult<()> {
        let py = slf.py();
        let Some(event_loop) = slf.get().inner(py).base.event_loop(py) else { return Ok(()) };
        event_loop.bind(py).call_method1(intern!(py, "call_soon"), arguments).map(drop)
    }

    /// An error ends it: told to the exception handler, or logged in debug mode if `is_usual`.
    #[cold]
    fn fatal(slf: &Bound<'_, Self>, error: Errno, message: &str, is_usual: bool) -> PyResult<()> {
        let py = slf.py();
        let base = &slf.get().inner(py).base;
        let error = os_error(error);
        let because = error.value(py).clone().into_any().unbind();
        if is_usual {
            base.report_fatal(slf.as_any(), error, message)?;
        } else {
            base.report(slf.as_any(), error, message)?;
        }
        Self::force_close(slf, Some(because))
    }
}

#[pymethods]
impl PipeTransport {
    /// Return True if the transport is closing or closed.
    fn is_closing(&self, py: Python<'_>) -> bool {
        self.inner(py).stream.is_closing()
    }

    /// Let another protocol have what comes from now on.
    fn set_protocol(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) {
        let inner = slf.get().inner(slf.py());
        inner.feeds_streams.set(feeds_streams(protocol));
        let old = inner.base.protocol.replace(Some(protocol.clone().unbind()));
        drop(old);
    }

    /// Return the present protocol; None once the connection is lost.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.inner(py).base.protocol(py)
    }

    /// Return 'pipe', the object that the transport was made of, or `default` for other names.
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let known = match clone_of(py, &self.inner(py).base.extra) {
            Some(extra) => extra.bind(py).get_item(name)?.map(Bound::unbind),
            None => None,
        };
        Ok(known.or(default).unwrap_or_else(|| py.None()))
    }

    fn _call_connection_lost(slf: &Bound<'_, Self>, exc: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let told = match inner.base.protocol(py) {
            Some(protocol) => {
                let name = intern!(py, "connection_lost");
                call_method(py, &protocol, name, [exc.as_ptr()]).map(drop)
            }
            None => Ok(()),
        };
        let closed = match inner.pipe.take() {
            Some(pipe) => pipe.call_method0(py, intern!(py, "close")).map(drop),
            None => Ok(()),
        };
        inner.base.touch(py);
        inner.base.let_go();
        drop(inner.writer_context.take());
        match (told, closed) {
            // As of a `finally`.
            (Err(first), Err(error)) => {
                error.set_context(py, Some(first));
                Err(error)
            }
            (told, closed) => told.and(closed),
        }
    }

    #[getter]
    fn _pipe(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        clone_of(py, &self.inner(py).pipe)
    }

    /// None: it is for somebody else to close.
    #[setter(_pipe)]
    fn set_pipe(&self, py: Python<'_>, pipe: Option<Py<PyAny>>) {
        drop(self.inner(py).pipe.replace(pipe));
    }

    #[getter]
    fn _fileno(&self, py: Python<'_>) -> RawFd {
        self.inner(py).base.fd.get()
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<Loop>> {
        self.inner(py).base.event_loop(py)
    }

    #[getter]
    fn __class__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        seam_module(py)?.getattr(slf.get_type().name()?)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<{}>", self.inner(py).describe(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: called by the garbage collector.
        let inner = unsafe { self.0.in_traverse() };
        inner.base.visit(&visit)?;
        visit_cell(&visit, &inner.writer_context)?;
        visit_cell(&visit, &inner.pipe)
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            let inner = self.inner(py);
            inner.stream.abort();
            inner.base.clear();
            drop(inner.writer_context.take());
        });
    }
}

impl Drop for PipeTransport {
    fn drop(&mut self) {
        at_the_end(|py| {
            let inner = self.inner(py);
            if inner.pipe.borrow().is_none() {
                return;
            }
            // Nobody closed it: say so, as asyncio does, and close it.
            warn_unclosed(py, &inner.describe(py));
            let Some(pipe) = inner.pipe.take() else { return };
            if let Err(error) = pipe.call_method0(py, intern!(py, "close")) {
                error.write_unraisable(py, None);
            }
        });
    }
}
