//! `asyncio.Transport` over a stream socket: what happens in its turns. What a user calls is in
//! `methods.rs`.
//!
//! The model's [`Stream`] decides; this file owns the descriptor and the Python objects and calls
//! the protocol, with nothing borrowed. A transport is registered with the loop from its birth
//! until its connection is lost, and that registration keeps it alive.

pub mod base;
mod methods;
pub mod socket;

use std::{
    cell::{Cell, RefCell},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyConnectionError, PyRuntimeError, PyTypeError},
    ffi, intern,
    prelude::*,
    types::{PyByteArray, PyBytes, PyMemoryView},
};
use velodrome::{
    Error, Readiness,
    error::is_retry,
    life::{Closed, Phase},
    net::{SocketAddrAny, local_address, set_nodelay},
    stream::{Flushed, Joining, Stream, Written},
};

use base::{BaseTransport, Connection, LOST_WRITE, clone_of, extra_of_socket, warn_unclosed};
pub use methods::METHODS;
use socket::{Socket, close_socket, hold_open};

use crate::{
    buffer::{Chunk, View},
    callback::{Callback, Source},
    error::os_error,
    event_loop::{Deferred, Loop},
    gil::GilBound,
    imports::loaded,
    stream_reader::Fed,
    tls::TlsTransport,
};

/// What a transport does when its turn in the ready queue comes.
#[derive(Clone, Copy)]
pub enum Turn {
    /// Tell the protocol of the connection and start to read.
    Open,
    /// The socket is ready.
    Ready(Readiness),
    /// Tell the protocol that the connection is lost and let everything go.
    Lost,
}

/// How a protocol gets its data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ProtocolKind {
    Streaming,
    /// asyncio's streams, which are fed without a call.
    StreamReader,
    Buffered,
    /// A native TLS transport, which takes ciphertext without an object for it.
    Tls,
}

impl ProtocolKind {
    /// Whether `data_received` is its method.
    #[inline]
    pub fn takes_bytes(self) -> bool {
        matches!(self, ProtocolKind::Streaming | ProtocolKind::StreamReader)
    }
}

/// What was received for asyncio's streams.
enum Received<'py> {
    Fed(Fed<'py>),
    /// For `data_received`.
    Bytes(Py<PyBytes>),
}

struct Inner {
    stream: Stream<Chunk>,
    socket: RefCell<Socket>,
    base: BaseTransport,
    protocol_kind: Cell<ProtocolKind>,
    server: RefCell<Option<Py<PyAny>>>,
    /// Of sendfile, which waits for an empty write buffer and then for the lent socket; writing is
    /// refused meanwhile.
    empty_waiter: RefCell<Option<Py<PyAny>>>,
    local_address: Option<SocketAddrAny>,
    peer_address: Option<SocketAddrAny>,
    /// Somebody else watches the descriptor for now.
    lent: Cell<bool>,
}

impl Inner {
    /// RuntimeError after `write_eof()` and while sendfile has the socket, in asyncio's words.
    fn check_writable(&self, after_eof: &'static str, during_sendfile: &str) -> PyResult<()> {
        if self.stream.has_write_eof() {
            return Err(PyRuntimeError::new_err(after_eof));
        }
        if self.empty_waiter.borrow().is_some() {
            let message = format!("{during_sendfile}; sendfile is in progress");
            return Err(PyRuntimeError::new_err(message));
        }
        Ok(())
    }
}

#[pyclass(frozen, weakref, dict, module = "velodrome")]
pub struct StreamTransport(GilBound<Inner>);

// ---- making one ------------------------------------------------------------------------------

impl StreamTransport {
    /// Over a descriptor that the loop accepted: non-blocking, TCP_NODELAY set.
    pub fn accepted<'py>(
        fd: OwnedFd,
        peer_address: Option<SocketAddrAny>,
        connection: Connection<'_, 'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let local = local_address(fd.as_fd());
        let number = fd.as_raw_fd();
        Self::start(Socket::Native(fd), number, (local, peer_address), connection)
    }

    /// Over a Python socket, which becomes the transport's.
    pub fn over_socket<'py>(
        socket: &Bound<'py, PyAny>,
        connection: Connection<'_, 'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = socket.py();
        let number: RawFd = socket.call_method0(intern!(py, "fileno"))?.extract()?;
        if number < 0 {
            return Err(os_error(Error::BADF));
        }
        // SAFETY: the socket object holds the descriptor open, and we hold the object.
        set_nodelay(unsafe { BorrowedFd::borrow_raw(number) });
        let extra = extra_of_socket(socket, connection.extra.as_ref())?;
        let held = hold_open(socket)?;
        let connection = Connection { extra: Some(extra.unbind()), ..connection };
        let result =
            Self::start(Socket::Python(socket.clone().unbind()), number, (None, None), connection);
        if result.is_err() && held {
            socket.call_method0(intern!(py, "_decref_socketios"))?;
        }
        result
    }

    fn start<'py>(
        socket: Socket,
        fd: RawFd,
        (local_address, peer_address): (Option<SocketAddrAny>, Option<SocketAddrAny>),
        connection: Connection<'_, 'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let event_loop = connection.event_loop;
        let py = event_loop.py();
        let transport = Bound::new(
            py,
            StreamTransport(GilBound::new(Inner {
                stream: Stream::new(event_loop.get().joins_writes(py)),
                socket: RefCell::new(socket),
                base: BaseTransport::new(fd, &connection)?,
                protocol_kind: Cell::new(protocol_kind(&connection.protocol)?),
                server: RefCell::new(None),
                empty_waiter: RefCell::new(None),
                local_address,
                peer_address,
                lent: Cell::new(false),
            })),
        )?;
        if let Some(server) = connection.server.filter(|server| !server.is_none(py)) {
            if loaded(py).server_takes_transport {
                server.call_method1(py, intern!(py, "_attach"), (&transport,))?;
            } else {
                server.call_method0(py, intern!(py, "_attach"))?;
            }
            *transport.get().inner(py).server.borrow_mut() = Some(server);
        }
        Self::register(&transport, event_loop)?;
        event_loop.get().queue(py, Callback::Transport(transport.clone().unbind(), Turn::Open));
        Ok(transport)
    }
}

impl StreamTransport {
    /// Makes it the one that hears of its descriptor, without any interest yet.
    fn register(slf: &Bound<'_, Self>, event_loop: &Bound<'_, Loop>) -> PyResult<()> {
        let source = Source::Transport(slf.clone().unbind());
        slf.get().inner(slf.py()).base.register(event_loop, source)
    }

    fn deregister(&self, py: Python<'_>) {
        self.inner(py).base.deregister(py, |source| {
            matches!(source, Source::Transport(transport) if std::ptr::eq(transport.get(), self))
        });
    }
}

pub fn protocol_kind(protocol: &Bound<'_, PyAny>) -> PyResult<ProtocolKind> {
    if protocol.is_exact_instance_of::<TlsTransport>() {
        return Ok(ProtocolKind::Tls);
    }
    let imports = loaded(protocol.py());
    if imports.stream_readers.is_protocol(protocol) {
        return Ok(ProtocolKind::StreamReader);
    }
    let buffered = imports.buffered_protocol.bind(protocol.py());
    Ok(if protocol.is_instance(buffered)? {
        ProtocolKind::Buffered
    } else {
        ProtocolKind::Streaming
    })
}

// ---- turns -----------------------------------------------------------------------------------

impl StreamTransport {
    #[inline]
    fn inner(&self, py: Python<'_>) -> &Inner {
        self.0.get(py)
    }

    pub fn take_turn(slf: &Bound<'_, Self>, turn: Turn) -> PyResult<()> {
        match turn {
            Turn::Ready(readiness) => {
                if readiness.readable {
                    Self::readable(slf)?;
                }
                if readiness.writable {
                    Self::flush(slf)?;
                }
                Ok(())
            }
            Turn::Open => Self::open(slf),
            Turn::Lost => Self::lost(slf),
        }
    }

    /// Whether its end is decided, so that nothing can be written any more.
    pub fn is_lost(&self, py: Python<'_>) -> bool {
        self.inner(py).stream.phase() == Phase::Lost
    }

    /// Whether the protocol has been told of the end.
    pub fn is_over(&self, py: Python<'_>) -> bool {
        self.inner(py).base.fd.get() < 0
    }

    /// The context in which the protocol is called.
    pub fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        clone_of(py, &self.inner(py).base.context)
    }

    #[inline]
    fn call_protocol<const N: usize>(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, pyo3::types::PyString>,
        arguments: [*mut ffi::PyObject; N],
    ) -> PyResult<Option<Py<PyAny>>> {
        slf.get().inner(slf.py()).base.call_protocol(slf.py(), name, arguments)
    }

    fn open(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let told = Self::call_protocol(slf, intern!(py, "connection_made"), [slf.as_ptr()]);
        // As in asyncio, the connection stays, even if the loop is left.
        let reported = told.map(drop).or_else(|error| {
            Self::report(slf, error, "Fatal error: protocol.connection_made() call failed.")
        });
        inner.stream.start_reading();
        Self::update_interest(slf)?;
        inner.base.wake_waiter(py)?;
        reported
    }

    fn lost(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let because = inner.base.lost_because.take().unwrap_or_else(|| py.None());
        let told = Self::call_protocol(slf, intern!(py, "connection_lost"), [because.as_ptr()]);
        let reported = match told {
            Ok(_) => Ok(()),
            Err(error) => {
                Self::report(slf, error, "Fatal error: protocol.connection_lost() call failed.")
            }
        };
        let closed = Self::let_go(slf);
        let server = inner.server.take();
        let detached = match server {
            Some(server) if loaded(py).server_takes_transport => {
                server.call_method1(py, intern!(py, "_detach"), (slf,)).map(drop)
            }
            Some(server) => server.call_method0(py, intern!(py, "_detach")).map(drop),
            None => Ok(()),
        };
        reported.and(closed).and(detached)
    }

    /// Whoever waits for an empty buffer, or to send a file, waits in vain.
    fn fail_empty_waiter(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let Some(waiter) = slf.get().inner(py).empty_waiter.take() else { return Ok(()) };
        if waiter.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
            return Ok(());
        }
        let error = Self::connection_closed();
        waiter.call_method1(py, intern!(py, "set_exception"), (error,)).map(drop)
    }

    fn connection_closed() -> PyErr {
        PyConnectionError::new_err("Connection is closed by peer")
    }

    /// Closes the descriptor and drops what could be part of a cycle.
    fn let_go(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let closed = close_socket(py, inner);
        inner.base.let_go();
        closed
    }

    // ---- reading -----------------------------------------------------------------------------

    #[inline]
    fn readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if !inner.stream.wants_data() {
            // Paused or closing, and something came: only now is it worth a system call to tell
            // the poller so.
            return Self::update_interest_exactly(slf);
        }
        match inner.protocol_kind.get() {
            ProtocolKind::Streaming => Self::read_streaming(slf, inner),
            ProtocolKind::StreamReader => Self::read_stream_reader(slf, inner),
            ProtocolKind::Buffered => Self::read_buffered(slf, inner),
            ProtocolKind::Tls => Self::read_tls(slf, inner),
        }
    }

    #[inline]
    fn read_streaming(slf: &Bound<'_, Self>, inner: &Inner) -> PyResult<()> {
        let py = slf.py();
        let received = match Self::receive(slf, inner) {
            Ok(received) => received,
            Err(error) => return Self::read_failed(slf, error),
        };
        if received.as_bytes(py).is_empty() {
            return Self::ended(slf);
        }
        Self::data_received(slf, &received).or_else(|error| Self::data_received_failed(slf, error))
    }

    #[inline]
    fn data_received(slf: &Bound<'_, Self>, received: &Py<PyBytes>) -> PyResult<()> {
        let py = slf.py();
        Self::call_protocol(slf, intern!(py, "data_received"), [received.as_ptr()]).map(drop)
    }

    #[cold]
    fn data_received_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        Self::fatal(slf, error, "Fatal error: protocol.data_received() call failed.")
    }

    /// From the loop's scratch buffer straight to the reader's.
    #[inline]
    fn read_stream_reader(slf: &Bound<'_, Self>, inner: &Inner) -> PyResult<()> {
        let py = slf.py();
        let (Some(event_loop), Some(protocol)) =
            (inner.base.event_loop(py), inner.base.protocol(py))
        else {
            return Ok(());
        };
        let protocol = protocol.bind(py);
        // SAFETY: the stream is open, so the descriptor is.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        let received = event_loop.get().with_scratch(py, |scratch| {
            let count = inner.stream.receive(fd, &mut *scratch)?;
            let data = &scratch[..count];
            Ok((count > 0).then(|| {
                let fed = loaded(py).stream_readers.append(protocol, data)?;
                let bytes = || Received::Bytes(PyBytes::new(py, data).unbind());
                Ok(fed.map_or_else(bytes, Received::Fed))
            }))
        });
        let told = match received {
            Ok(Some(Ok(Received::Fed(fed)))) => fed.tell(),
            Ok(Some(Ok(Received::Bytes(bytes)))) => Self::data_received(slf, &bytes),
            Ok(Some(Err(error))) => Err(error),
            Ok(None) => return Self::ended(slf),
            Err(error) => return Self::read_failed(slf, error),
        };
        told.or_else(|error| Self::data_received_failed(slf, error))
    }

    /// Receives once into new bytes of the exact size, by way of the loop's scratch buffer.
    #[inline]
    fn receive(slf: &Bound<'_, Self>, inner: &Inner) -> Result<Py<PyBytes>, Error> {
        let py = slf.py();
        let Some(event_loop) = inner.base.event_loop(py) else {
            return Err(Error::BADF);
        };
        // SAFETY: the stream is open, so the descriptor is.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        event_loop.get().with_scratch(py, |scratch| {
            let received = inner.stream.receive(fd, &mut *scratch);
            received.map(|count| PyBytes::new(py, &scratch[..count]).unbind())
        })
    }

    fn read_buffered(slf: &Bound<'_, Self>, inner: &Inner) -> PyResult<()> {
        let py = slf.py();
        let hint = (-1_isize).into_py_any(py)?;
        let view = Self::call_protocol(slf, intern!(py, "get_buffer"), [hint.as_ptr()]).and_then(
            |buffer| {
                let Some(buffer) = buffer else { return Ok(None) };
                let view = View::writable(buffer.bind(py))?;
                if view.len() == 0 {
                    return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
                }
                Ok(Some(view))
            },
        );
        let mut view = match view {
            Ok(Some(view)) => view,
            Ok(None) => return Ok(()),
            Err(error) => {
                return Self::fatal(slf, error, "Fatal error: protocol.get_buffer() call failed.");
            }
        };
        if inner.stream.phase() != Phase::Open {
            // `get_buffer` closed the transport.
            return Ok(());
        }
        // SAFETY: the stream is open, so the descriptor is.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        let received = inner.stream.receive(fd, view.bytes_mut(py));
        drop(view);
        let count = match received {
            Ok(0) => return Self::ended(slf),
            Ok(count) => count.into_py_any(py)?,
            Err(error) => return Self::read_failed(slf, error),
        };
        match Self::call_protocol(slf, intern!(py, "buffer_updated"), [count.as_ptr()]) {
            Ok(_) => Ok(()),
            Err(error) => {
                Self::fatal(slf, error, "Fatal error: protocol.buffer_updated() call failed.")
            }
        }
    }

    /// Ciphertext goes from the loop's scratch buffer straight to the engine.
    #[inline]
    fn read_tls(slf: &Bound<'_, Self>, inner: &Inner) -> PyResult<()> {
        let py = slf.py();
        let (Some(event_loop), Some(protocol)) =
            (inner.base.event_loop(py), inner.base.protocol(py))
        else {
            return Ok(());
        };
        let tls = protocol.bind(py).cast_exact::<TlsTransport>()?;
        // A bad record ends writing, too: what is held back goes first.
        TlsTransport::flush_deferred(tls)?;
        if !inner.stream.wants_data() {
            return Ok(());
        }
        // SAFETY: the stream is open, so the descriptor is.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        let taken = event_loop.get().with_scratch(py, |scratch| {
            let count = inner.stream.receive(fd, &mut *scratch)?;
            Ok((count > 0).then(|| TlsTransport::take_in(tls, &scratch[..count])))
        });
        let taken = match taken {
            Ok(Some(taken)) => taken,
            Ok(None) => return Self::ended(slf),
            Err(error) => return Self::read_failed(slf, error),
        };
        match taken.and_then(|taken| TlsTransport::taken_in(tls, taken)) {
            Ok(()) => Ok(()),
            Err(error) => {
                Self::fatal(slf, error, "Fatal error: protocol.buffer_updated() call failed.")
            }
        }
    }

    fn read_failed(slf: &Bound<'_, Self>, error: Error) -> PyResult<()> {
        if is_retry(error) {
            return Ok(());
        }
        Self::fatal(slf, os_error(error), "Fatal read error on socket transport")
    }

    fn ended(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        Self::debug_log(slf, "%r received EOF")?;
        let keep_open = Self::call_protocol(slf, intern!(py, "eof_received"), [])
            .and_then(|answer| answer.map_or(Ok(false), |answer| answer.is_truthy(py)));
        match keep_open {
            Ok(true) => {
                inner.stream.reading_ended();
                Self::update_interest_exactly(slf)
            }
            Ok(false) => Self::close_now(slf),
            Err(error) => {
                Self::fatal(slf, error, "Fatal error: protocol.eof_received() call failed.")
            }
        }
    }

    // ---- writing -----------------------------------------------------------------------------

    #[inline]
    fn write_object(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            return Self::write_bytes(slf, inner, bytes.as_bytes(), |from| {
                Chunk::Bytes(bytes.clone().unbind(), from)
            });
        }
        let view = readable_view(data)?;
        Self::write_bytes(slf, inner, view.bytes(py), |from| {
            Chunk::Copy(view.bytes(py)[from..].into())
        })
    }

    /// `write` for ciphertext: it is never held back, since its plaintext was.
    #[inline]
    pub fn write_now(slf: &Bound<'_, Self>, data: &[u8]) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        Self::write_in_turn(slf, inner, None, data, |from| Chunk::Copy(data[from..].into()))
    }

    #[inline]
    fn write_bytes(
        slf: &Bound<'_, Self>,
        inner: &Inner,
        data: &[u8],
        keep: impl FnOnce(usize) -> Chunk,
    ) -> PyResult<()> {
        let event_loop = inner.base.event_loop(slf.py());
        let turn = event_loop.and_then(|it| it.get().model(slf.py()).ok()?.turn());
        Self::write_in_turn(slf, inner, turn, data, keep)
    }

    #[inline]
    fn write_in_turn(
        slf: &Bound<'_, Self>,
        inner: &Inner,
        turn: Option<u64>,
        data: &[u8],
        keep: impl FnOnce(usize) -> Chunk,
    ) -> PyResult<()> {
        let py = slf.py();
        inner.check_writable("Cannot call write() after write_eof()", "unable to write")?;
        if data.is_empty() {
            return Ok(());
        }
        if inner.stream.phase() == Phase::Lost {
            return inner.base.wrote_after_loss(py, LOST_WRITE);
        }
        // SAFETY: the stream is not lost, so the descriptor is open.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        match inner.stream.write(fd, turn, data, keep) {
            Ok(Written::All) => Ok(()),
            Ok(written @ (Written::Deferred | Written::Joined)) => {
                let (_, high_water_bytes) = inner.stream.flow.limits();
                if inner.stream.unsent_bytes() > high_water_bytes.min(Joining::MAX_HELD_BYTES) {
                    return Self::flush_deferred(slf);
                }
                if let (Written::Deferred, Some(event_loop)) = (written, inner.base.event_loop(py))
                {
                    event_loop.get().defer_flush(py, Deferred::Stream(slf.clone().unbind()));
                }
                Ok(())
            }
            Ok(Written::Buffered) => {
                Self::update_interest(slf)?;
                Self::pause_protocol_if_full(slf)
            }
            Err(error) => {
                Self::fatal(slf, os_error(error), "Fatal write error on socket transport")
            }
        }
    }

    /// At the end of a batch, or before something that must not overtake what is held back.
    pub fn flush_deferred(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().inner(slf.py()).stream.is_deferred() {
            return Self::flush(slf);
        }
        Ok(())
    }

    /// Writes what waits, and does what an empty buffer was waited for.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if inner.stream.phase() == Phase::Lost {
            return Ok(());
        }
        // SAFETY: the stream is not lost, so the descriptor is open.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        let flushed = match inner.stream.flush(fd) {
            Ok(flushed) => flushed,
            Err(error) => {
                return Self::fatal(slf, os_error(error), "Fatal write error on socket transport");
            }
        };
        if flushed == Flushed::Blocked {
            Self::update_interest(slf)?;
            return Self::pause_protocol_if_full(slf);
        }
        Self::drained(slf)
    }

    fn drained(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let unsent_bytes = inner.stream.unsent_bytes();
        inner.base.resume_protocol_if_low(slf.as_any(), &inner.stream.flow, unsent_bytes)?;
        if inner.stream.unsent_bytes() > 0 || inner.stream.phase() == Phase::Lost {
            return Ok(());
        }
        Self::update_interest(slf)?;
        let waiter = clone_of(py, &inner.empty_waiter);
        if let Some(waiter) = waiter {
            loaded(py).set_result_unless_cancelled.call1(py, (waiter, py.None()))?;
        }
        if inner.stream.finish_closing() {
            return Self::lose(slf, None);
        }
        Self::shut_down_if_ended(slf)
    }

    fn shut_down_if_ended(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        // SAFETY: callers have checked that the stream is not lost.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        match inner.stream.shut_down_if_ended(fd) {
            // The peer is gone: reading will say so.
            Ok(()) | Err(Error::NOTCONN) => Ok(()),
            Err(error) => {
                Self::fatal(slf, os_error(error), "Fatal write error on socket transport")
            }
        }
    }

    fn pause_protocol_if_full(slf: &Bound<'_, Self>) -> PyResult<()> {
        let Inner { stream, base, .. } = slf.get().inner(slf.py());
        base.pause_protocol_if_full(slf.as_any(), &stream.flow, stream.unsent_bytes())
    }

    // ---- the poller --------------------------------------------------------------------------

    fn update_interest(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::set_interest(slf, true)
    }

    fn update_interest_exactly(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::set_interest(slf, false)
    }

    #[inline]
    fn set_interest(slf: &Bound<'_, Self>, keep_reading: bool) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if inner.stream.phase() == Phase::Lost || inner.lent.get() {
            return Ok(());
        }
        match inner.base.set_interest(py, inner.stream.interest(), keep_reading) {
            Ok(()) => Ok(()),
            Err(error) => Self::fatal(slf, os_error(error), "Fatal error on socket transport"),
        }
    }

    // ---- the end -----------------------------------------------------------------------------

    fn close_now(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        Self::flush_deferred(slf)?;
        match inner.stream.close() {
            Closed::Already => Ok(()),
            Closed::Flushing => Self::update_interest(slf),
            Closed::Lost => Self::lose(slf, None),
        }
    }

    /// Ends the connection without writing what is buffered.
    fn force_close(slf: &Bound<'_, Self>, because: Option<Py<PyAny>>) -> PyResult<()> {
        if slf.get().inner(slf.py()).stream.abort() {
            return Self::lose(slf, because);
        }
        Ok(())
    }

    /// The phase is `Lost`, just now: leaves the poller and queues `connection_lost`.
    fn lose(slf: &Bound<'_, Self>, because: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        // Its turn comes before ours, so that it lets the socket go before that is closed.
        let waited = Self::fail_empty_waiter(slf);
        let turn = Callback::Transport(slf.clone().unbind(), Turn::Lost);
        if !inner.base.queue_end(py, because, turn) {
            // The loop is closed: nobody waits any more.
            return Self::let_go(slf);
        }
        slf.get().deregister(py);
        waited
    }

    /// An error that ends the connection: reported unless it is the network's doing.
    #[cold]
    fn fatal(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        let because = slf.get().inner(py).base.report_fatal(slf.as_any(), error, message)?;
        if let Some(waiter) = clone_of(py, &slf.get().inner(py).empty_waiter)
            && !waiter.call_method0(py, intern!(py, "done"))?.is_truthy(py)?
        {
            waiter.call_method1(py, intern!(py, "set_exception"), (&because,))?;
        }
        let stream = &slf.get().inner(py).stream;
        if stream.is_deferred() {
            // What `write` would have sent at once goes out, if it still can.
            // SAFETY: something is held back, so the stream is not lost and the descriptor open.
            let fd = unsafe { BorrowedFd::borrow_raw(slf.get().inner(py).base.fd.get()) };
            let _ = stream.flush(fd);
        }
        Self::force_close(slf, Some(because))
    }

    /// Hands a user's exception to the exception handler.
    #[cold]
    fn report(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        slf.get().inner(slf.py()).base.report(slf.as_any(), error, message)
    }

    fn debug_log(slf: &Bound<'_, Self>, message: &str) -> PyResult<()> {
        slf.get().inner(slf.py()).base.debug_log(slf.as_any(), message)
    }
}

/// The buffer of what `write` was given, with asyncio's TypeError for anything else.
pub fn readable_view(data: &Bound<'_, PyAny>) -> PyResult<View> {
    if let Ok(memory) = data.cast::<PyMemoryView>() {
        if memory.getattr(intern!(data.py(), "c_contiguous"))?.is_truthy()? {
            return View::readable(data);
        }
        return View::readable(&memory.call_method0(intern!(data.py(), "tobytes"))?);
    }
    if data.is_instance_of::<PyBytes>() || data.is_instance_of::<PyByteArray>() {
        return View::readable(data);
    }
    Err(PyTypeError::new_err(format!(
        "data argument must be a bytes, bytearray, or memoryview object, not {}",
        data.get_type().name()?.repr()?
    )))
}

impl Drop for StreamTransport {
    fn drop(&mut self) {
        Python::attach(|py| {
            let inner = self.inner(py);
            let fd = inner.base.fd.get();
            if fd < 0 {
                return;
            }
            // Nobody closed it: say so, as asyncio does, and close it.
            self.deregister(py);
            warn_unclosed(py, &format!("StreamTransport fd={fd}"));
            if let Err(error) = close_socket(py, inner) {
                error.write_unraisable(py, None);
            }
        });
    }
}
