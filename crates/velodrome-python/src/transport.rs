//! `asyncio.Transport` over a stream socket: what happens in its turns. What a user calls is in
//! `methods.rs`; how data come and go in `reading.rs` and `writing.rs`.
//!
//! The model's [`Stream`] decides; this file owns the descriptor and the Python objects and calls
//! the protocol, with nothing borrowed. A transport is registered with the loop from its birth
//! until its connection is lost, and that registration keeps it alive.

pub mod base;
mod methods;
mod reading;
pub mod receiving;
pub mod socket;
mod writing;

use std::{
    cell::{Cell, RefCell},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use pyo3::{
    exceptions::{PyConnectionError, PyRuntimeError},
    ffi, intern,
    prelude::*,
};
use velodrome::{
    Errno, Readiness,
    life::{Closed, Phase},
    net::{SocketAddrAny, local_address, set_nodelay},
    stream::Stream,
};

use base::{BaseTransport, Connection, at_the_end, clone_of, extra_of_socket, warn_unclosed};
pub use methods::METHODS;
use socket::{Socket, close_socket, hold_open};
pub use writing::readable_view;

use crate::{
    buffer::Chunk,
    callback::{Callback, Source},
    client::ClientSocket,
    error::os_error,
    event_loop::Loop,
    gil::GilBound,
    imports::loaded,
    stream_reader::stream_readers,
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

    /// Over a client's socket that the loop connected.
    pub fn connected<'py>(
        socket: &Bound<'py, ClientSocket>,
        connection: Connection<'_, 'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let (fd, peer_address) =
            socket.get().take(socket.py()).ok_or_else(|| os_error(Errno::BADF))?;
        set_nodelay(fd.as_fd());
        Self::accepted(fd, peer_address, connection)
    }

    /// Over a Python socket, which becomes the transport's.
    pub fn over_socket<'py>(
        socket: &Bound<'py, PyAny>,
        connection: Connection<'_, 'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = socket.py();
        let number: RawFd = socket.call_method0(intern!(py, "fileno"))?.extract()?;
        if number < 0 {
            return Err(os_error(Errno::BADF));
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
        let kind = protocol_kind(&connection.protocol)?;
        if kind != ProtocolKind::Tls {
            connection.refuse_no_protocol()?;
        }
        let transport = Bound::new(
            py,
            StreamTransport(GilBound::new(Inner {
                stream: Stream::new(event_loop.get().joins_writes(py)),
                socket: RefCell::new(socket),
                base: BaseTransport::new(fd, &connection)?,
                protocol_kind: Cell::new(kind),
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
    let py = protocol.py();
    if stream_readers(py).is_protocol(protocol) {
        return Ok(ProtocolKind::StreamReader);
    }
    let buffered = loaded(py).buffered_protocol.bind(py);
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
        inner.base.touch(py);
        inner.base.let_go();
        closed
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

impl Drop for StreamTransport {
    fn drop(&mut self) {
        at_the_end(|py| {
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
