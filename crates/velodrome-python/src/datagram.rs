//! `asyncio.DatagramTransport` over UDP and Unix sockets: what happens in its turns. What a user
//! calls is in `methods.rs`.
//!
//! Several datagrams may be received with one system call, but each is delivered in a tick of its
//! own, as if it had been received then: what a protocol schedules, pauses, closes or stops in one
//! `datagram_received` comes before the next.

mod methods;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    os::fd::{BorrowedFd, RawFd},
};

use pyo3::{
    exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError, PyValueError},
    intern,
    prelude::*,
    types::PyBytes,
};
use velodrome::{
    Errno, Readiness,
    datagram::{Datagram, DatagramSocket, Flushed, ReceiveBatch, Target},
    error::is_retry,
    life::{Closed, Phase},
    net::{AddressFamily, RecvFlags, SocketAddrAny, recvfrom, socket_family},
};

pub use methods::METHODS;

use crate::{
    address,
    buffer::{Chunk, View},
    call::call_method,
    callback::{Callback, Source},
    error::os_error,
    event_loop::Loop,
    gil::GilBound,
    transport::{
        base::{
            BaseTransport, Connection, LOST_WRITE, at_the_end, clone_of, extra_of_socket,
            warn_unclosed,
        },
        readable_view,
        socket::{close_held, hold_open},
    },
};

/// What a transport does when its turn in the ready queue comes.
#[derive(Clone, Copy)]
pub enum Turn {
    /// Tell the protocol of the connection and start to read.
    Open,
    /// The socket is ready.
    Ready(Readiness),
    /// Deliver the next of those that were received already.
    Next,
    /// Tell the protocol that it is over and let everything go.
    Lost,
}

/// What the socket is connected to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    None,
    /// One without a name: datagrams without an address go there.
    Unnamed,
    /// All datagrams go there.
    Named,
}

/// A datagram that waits for the socket.
struct Outgoing {
    data: Chunk,
    /// An address that only Python's socket object understands.
    to: Option<Py<PyAny>>,
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        self.data.as_ref()
    }
}

/// A datagram that was received and not yet delivered.
struct Arrived {
    data: Py<PyBytes>,
    from: Sender,
}

/// An address as Python and, if there is one, as the kernel has it.
struct Sender {
    python: Py<PyAny>,
    native: Option<SocketAddrAny>,
}

struct Inner {
    socket: DatagramSocket<Outgoing>,
    base: BaseTransport,
    /// The Python socket, which is kept open against a user's `close()`.
    python_socket: RefCell<Option<Py<PyAny>>>,
    family: AddressFamily,
    peer: Peer,
    /// An empty datagram is sent as any other.
    sends_empty: bool,
    /// `remote_addr`: the only address to which the user may send.
    address: RefCell<Option<Py<PyAny>>>,
    arrived: RefCell<VecDeque<Arrived>>,
    /// `Turn::Next` is in the queue, or will be when the protocol has the present datagram.
    next_is_queued: Cell<bool>,
    /// The loop's turn in which the last datagram was delivered.
    delivered_in: Cell<Option<u64>>,
    /// How many are asked for at once: it follows how many there were.
    batch: Cell<usize>,
    /// Whose datagram was delivered last: most are answered, and often the next is from there, too.
    sender: RefCell<Option<Sender>>,
}

#[pyclass(frozen, weakref, dict, module = "velodrome")]
pub struct DatagramTransport(GilBound<Inner>);

/// asyncio counts so many bytes for each waiting datagram from 3.13 on, where empty ones are sent, too;
/// none before.
const HEADER_BYTES: usize = 8;

// ---- making one ------------------------------------------------------------------------------

impl DatagramTransport {
    /// Over a Python socket, which becomes the transport's. `address` is asyncio's `remote_addr`.
    pub fn over_socket<'py>(
        socket: &Bound<'py, PyAny>,
        address: Option<Py<PyAny>>,
        connection: Connection<'_, 'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = socket.py();
        let number: RawFd = socket.call_method0(intern!(py, "fileno"))?.extract()?;
        if number < 0 {
            return Err(os_error(Errno::BADF));
        }
        // SAFETY: the socket object holds the descriptor open, and we hold the object.
        let family = socket_family(unsafe { BorrowedFd::borrow_raw(number) }).map_err(os_error)?;
        let extra = extra_of_socket(socket, connection.extra.as_ref())?;
        let peer = match extra.get_item("peername")? {
            None => Peer::None,
            Some(name) if name.is_none() => Peer::None,
            Some(name) if name.is_truthy()? => Peer::Named,
            Some(_) => Peer::Unnamed,
        };
        let connection = Connection { extra: Some(extra.unbind()), ..connection };
        let event_loop = connection.event_loop;
        let sends_empty = py.version_info() >= (3, 13);
        let header_bytes = if sends_empty { HEADER_BYTES } else { 0 };
        connection.refuse_no_protocol()?;
        let base = BaseTransport::new(number, &connection)?;
        hold_open(socket)?;
        let transport = Bound::new(
            py,
            DatagramTransport(GilBound::new(Inner {
                socket: DatagramSocket::new(header_bytes),
                base,
                python_socket: RefCell::new(Some(socket.clone().unbind())),
                family,
                peer,
                sends_empty,
                address: RefCell::new(address.filter(|address| !address.is_none(py))),
                arrived: RefCell::default(),
                next_is_queued: Cell::new(false),
                delivered_in: Cell::new(None),
                batch: Cell::new(1),
                sender: RefCell::new(None),
            })),
        )?;
        let source = Source::Datagrams(transport.clone().unbind());
        transport.get().inner(py).base.register(event_loop, source)?;
        let turn = Callback::Datagrams(transport.clone().unbind(), Turn::Open);
        event_loop.get().queue(py, turn);
        Ok(transport)
    }

    fn deregister(&self, py: Python<'_>) {
        self.inner(py).base.deregister(py, |source| {
            matches!(source, Source::Datagrams(transport) if std::ptr::eq(transport.get(), self))
        });
    }
}

// ---- turns -----------------------------------------------------------------------------------

impl DatagramTransport {
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
            Turn::Next => {
                slf.get().inner(slf.py()).next_is_queued.set(false);
                Self::deliver(slf)
            }
            Turn::Open => Self::open(slf),
            Turn::Lost => Self::lost(slf),
        }
    }

    fn open(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let Inner { base, socket, .. } = slf.get().inner(py);
        let told = base.call_protocol(py, intern!(py, "connection_made"), [slf.as_ptr()]);
        let reported = Self::unless_reported(slf, told, "connection_made");
        socket.start_reading();
        Self::update_interest(slf)?;
        base.wake_waiter(py)?;
        reported
    }

    fn lost(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let base = &slf.get().inner(py).base;
        let because = base.lost_because.take().unwrap_or_else(|| py.None());
        let told = base.call_protocol(py, intern!(py, "connection_lost"), [because.as_ptr()]);
        let reported = Self::unless_reported(slf, told, "connection_lost");
        let closed = slf.get().let_go(py);
        reported.and(closed)
    }

    /// Closes the descriptor and drops what could be part of a cycle.
    fn let_go(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.inner(py);
        inner.base.fd.set(-1);
        let socket = inner.python_socket.take();
        let closed = socket.map_or(Ok(()), |socket| close_held(socket.bind(py)));
        inner.base.let_go();
        closed
    }

    /// What a method of the protocol raised goes to the exception handler; the transport goes on.
    fn unless_reported<T>(slf: &Bound<'_, Self>, told: PyResult<T>, method: &str) -> PyResult<()> {
        let Err(error) = told else { return Ok(()) };
        let message = format!("Exception in callback protocol.{method}()");
        slf.get().inner(slf.py()).base.report(slf.as_any(), error, &message)
    }

    // ---- receiving ---------------------------------------------------------------------------

    fn readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if !inner.socket.wants_datagrams() {
            // Paused or closing: only now is it worth a system call to tell the poller so.
            return Self::update_interest_exactly(slf);
        }
        let Some(event_loop) = inner.base.event_loop(py) else { return Ok(()) };
        let turn = event_loop.get().model(py).ok().and_then(|model| model.turn());
        if !inner.arrived.borrow().is_empty() || inner.delivered_in.get() == turn {
            // One a tick, and first those that are here; the poller will say again that there is
            // more.
            return Ok(());
        }
        let received = Self::receive(inner, event_loop.bind(py));
        if received.is_err() {
            // Those that were received before are not to be forgotten.
            Self::queue_next(slf);
        }
        match received? {
            Ok(()) => Self::deliver(slf),
            Err(error) if is_retry(error) => Ok(()),
            Err(error) => {
                let error = os_error(error).into_value(py);
                let told =
                    inner.base.call_protocol(py, intern!(py, "error_received"), [error.as_ptr()]);
                Self::unless_reported(slf, told, "error_received")
            }
        }
    }

    /// Receives as many as there probably are.
    fn receive(inner: &Inner, event_loop: &Bound<'_, Loop>) -> PyResult<Result<(), Errno>> {
        let py = event_loop.py();
        // SAFETY: the socket is open, so the descriptor is.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        let asked = inner.batch.get();
        let count = if asked == 1 {
            let received = event_loop.get().with_scratch(py, |scratch| {
                let (count, _, from) = recvfrom(fd, &mut *scratch, RecvFlags::DONTWAIT)?;
                Ok((PyBytes::new(py, &scratch[..count]).unbind(), from))
            });
            match received {
                Ok((data, from)) => inner.arrive(py, data, from)?,
                Err(error) => return Ok(Err(error)),
            }
            1
        } else {
            let len_bytes = match inner.family {
                AddressFamily::INET | AddressFamily::INET6 => ReceiveBatch::IP_BYTES,
                _ => ReceiveBatch::OTHER_BYTES,
            };
            let count = event_loop.get().with_receive_batch(py, |batch| -> PyResult<_> {
                let count = match batch.receive(fd, len_bytes, asked) {
                    Ok(count) => count,
                    Err(error) => return Ok(Err(error)),
                };
                for received in (0..count).map(|index| batch.get(index)) {
                    let data = PyBytes::new(py, received.data).unbind();
                    inner.arrive(py, data, received.from)?;
                }
                Ok(Ok(count))
            });
            match count? {
                Ok(count) => count,
                Err(error) => return Ok(Err(error)),
            }
        };
        if count == asked {
            inner.batch.set((asked * 2).min(ReceiveBatch::MAX));
        } else if count * 2 <= asked {
            inner.batch.set((asked / 2).max(1));
        }
        Ok(Ok(()))
    }

    /// Delivers one datagram. If there are more, the next tick does.
    fn deliver(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if !inner.socket.wants_datagrams() {
            return Ok(());
        }
        let arrived = inner.arrived.borrow_mut().pop_front();
        let Some(Arrived { data, from }) = arrived else { return Ok(()) };
        let address = from.python.clone_ref(py);
        let old = inner.sender.replace(Some(from));
        drop(old);
        let name = intern!(py, "datagram_received");
        let event_loop = inner.base.event_loop(py);
        let turn = event_loop.and_then(|it| it.get().model(py).ok().and_then(|model| model.turn()));
        inner.delivered_in.set(turn);
        // Whatever the protocol does to reading: the next datagram comes after what it schedules.
        inner.next_is_queued.set(true);
        let told = inner.base.call_protocol(py, name, [data.as_ptr(), address.as_ptr()]);
        inner.next_is_queued.set(false);
        let reported = Self::unless_reported(slf, told, "datagram_received");
        Self::queue_next(slf);
        reported
    }

    /// Queues the delivery of what is left, behind what is queued now.
    fn queue_next(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let inner = slf.get().inner(py);
        if inner.arrived.borrow().is_empty()
            || !inner.socket.wants_datagrams()
            || inner.next_is_queued.get()
        {
            return;
        }
        if let Some(event_loop) = inner.base.event_loop(py) {
            inner.next_is_queued.set(true);
            event_loop.get().queue(py, Callback::Datagrams(slf.clone().unbind(), Turn::Next));
        }
    }

    // ---- sending -----------------------------------------------------------------------------

    /// Sends, or queues, as `sendto` is told. `to` is None without an address.
    fn send(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        to: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner(py);
        let remote = clone_of(py, &inner.address);
        let to = match &remote {
            Some(address) => {
                let address = address.bind(py);
                if let Some(to) = to
                    && !to.eq(address)?
                {
                    let address = address.str()?;
                    let message = format!("Invalid address: must be None or {address}");
                    return Err(PyValueError::new_err(message));
                }
                if inner.socket.phase() == Phase::Lost {
                    return inner.base.wrote_after_loss(py, LOST_WRITE);
                }
                Some(address)
            }
            None => to,
        };
        if inner.base.fd.get() < 0 {
            return inner.base.wrote_after_loss(py, LOST_WRITE);
        }
        let target = match (inner.peer, to) {
            (Peer::Named, _) | (Peer::Unnamed, None) => Target::Peer,
            (_, Some(to)) => inner.to_native(to)?.map_or(Target::ByOwner, Target::Address),
            // Python's socket object will say what is wrong.
            (Peer::None, None) => Target::ByOwner,
        };
        if inner.arrived.borrow().is_empty() {
            // An answer to one of a batch waits for the rest of it: that saves a poll each.
            inner.base.touch(py);
        }
        if !inner.socket.has_unsent() {
            let sent = match &target {
                Target::ByOwner => Self::send_by_python(slf, data, to),
                Target::Peer => Self::send_now(inner, data, None),
                Target::Address(address) => Self::send_now(inner, data, Some(address)),
            };
            match sent {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Self::send_failed(slf, error),
            }
        }
        let to = matches!(target, Target::ByOwner)
            .then(|| to.map_or_else(|| py.None(), |to| to.clone().unbind()));
        Self::queue(slf, data, target, to)
    }

    /// False if the socket takes no more for now.
    fn send_now(
        inner: &Inner,
        data: &Bound<'_, PyAny>,
        to: Option<&SocketAddrAny>,
    ) -> PyResult<bool> {
        let view;
        let bytes = match data.cast_exact::<PyBytes>() {
            Ok(bytes) => bytes.as_bytes(),
            Err(_) => {
                view = View::readable(data)?;
                view.bytes(data.py())
            }
        };
        // SAFETY: the caller has checked that the descriptor is open.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.base.fd.get()) };
        inner.socket.send(fd, bytes, to).map_err(os_error)
    }

    /// As `send_now`, to what only Python's socket understands: the name of a host, or what is no
    /// address.
    #[cold]
    fn send_by_python(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        to: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let Some(socket) = clone_of(py, &slf.get().inner(py).python_socket) else {
            return Ok(true);
        };
        match socket.bind(py).call_method1(intern!(py, "sendto"), (data, to)) {
            Ok(_) => Ok(true),
            Err(error)
                if error.is_instance_of::<PyBlockingIOError>(py)
                    || error.is_instance_of::<PyInterruptedError>(py) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn queue(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        target: Target,
        to: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        if inner.socket.phase() == Phase::Lost {
            // Closing, and the socket is full: nobody will look after it.
            return Ok(());
        }
        let data = match data.cast_exact::<PyBytes>() {
            Ok(bytes) => Chunk::Bytes(bytes.clone().unbind(), 0),
            Err(_) => Chunk::Copy(readable_view(data)?.bytes(slf.py()).into()),
        };
        inner.socket.queue(Datagram { data: Outgoing { data, to }, to: target });
        Self::update_interest(slf)?;
        Self::pause_protocol_if_full(slf)
    }

    fn pause_protocol_if_full(slf: &Bound<'_, Self>) -> PyResult<()> {
        let Inner { socket, base, .. } = slf.get().inner(slf.py());
        base.pause_protocol_if_full(slf.as_any(), &socket.flow, socket.unsent_bytes())
    }

    /// An error of the network is the protocol's to know, at once; any other ends the transport.
    #[cold]
    fn send_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if !error.is_instance_of::<PyOSError>(py) {
            return Self::fatal(slf, error, "Fatal write error on datagram transport");
        }
        let Some(protocol) = slf.get().inner(py).base.protocol(py) else { return Ok(()) };
        let error = error.into_value(py);
        call_method(py, &protocol, intern!(py, "error_received"), [error.as_ptr()]).map(drop)
    }

    /// As `send_failed`, when nobody is calling `sendto`.
    #[cold]
    fn flush_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if !error.is_instance_of::<PyOSError>(py) {
            return Self::fatal(slf, error, "Fatal write error on datagram transport");
        }
        let base = &slf.get().inner(py).base;
        let error = error.into_value(py);
        let told = base.call_protocol(py, intern!(py, "error_received"), [error.as_ptr()]);
        Self::unless_reported(slf, told, "error_received")
    }

    /// The socket is writable: sends what waits.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let Inner { socket, base, .. } = slf.get().inner(py);
        if socket.phase() == Phase::Lost {
            return Ok(());
        }
        // SAFETY: the socket is not lost, so the descriptor is open.
        let fd = unsafe { BorrowedFd::borrow_raw(base.fd.get()) };
        let flushed = loop {
            match socket.flush(fd).map_err(os_error) {
                Ok(Flushed::ByOwner(datagram)) => {
                    let data = PyBytes::new(py, datagram.as_ref());
                    let to = datagram.to.as_ref().map(|to| to.bind(py));
                    match Self::send_by_python(slf, data.as_any(), to) {
                        Ok(true) => {}
                        Ok(false) => {
                            socket.put_back(datagram);
                            break Ok(());
                        }
                        Err(error) => break Err(error),
                    }
                }
                Ok(Flushed::Drained | Flushed::Blocked) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = flushed {
            // What is left, if only the news that nothing is, waits for the next event.
            return Self::flush_failed(slf, error);
        }
        base.resume_protocol_if_low(slf.as_any(), &socket.flow, socket.unsent_bytes())?;
        if socket.has_unsent() || socket.phase() == Phase::Lost {
            return Ok(());
        }
        Self::update_interest(slf)?;
        if socket.finish_closing() {
            return Self::lose(slf, None);
        }
        Ok(())
    }

    // ---- the poller --------------------------------------------------------------------------

    fn update_interest(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::set_interest(slf, true)
    }

    fn update_interest_exactly(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::set_interest(slf, false)
    }

    fn set_interest(slf: &Bound<'_, Self>, keep_reading: bool) -> PyResult<()> {
        let py = slf.py();
        let Inner { socket, base, .. } = slf.get().inner(py);
        if socket.phase() == Phase::Lost {
            return Ok(());
        }
        match base.set_interest(py, socket.interest(), keep_reading) {
            Ok(()) => Ok(()),
            Err(error) => Self::fatal(slf, os_error(error), "Fatal error on datagram transport"),
        }
    }

    // ---- the end -----------------------------------------------------------------------------

    fn close_now(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        let closed = inner.socket.close();
        drop(inner.arrived.take());
        match closed {
            Closed::Already => Ok(()),
            Closed::Flushing => Self::update_interest_exactly(slf),
            Closed::Lost => Self::lose(slf, None),
        }
    }

    /// Ends it without sending what waits.
    fn force_close(slf: &Bound<'_, Self>, because: Option<Py<PyAny>>) -> PyResult<()> {
        let inner = slf.get().inner(slf.py());
        if !inner.socket.abort() {
            return Ok(());
        }
        drop(inner.arrived.take());
        Self::lose(slf, because)
    }

    /// The phase is `Lost`, just now: leaves the poller and queues `connection_lost`.
    fn lose(slf: &Bound<'_, Self>, because: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let turn = Callback::Datagrams(slf.clone().unbind(), Turn::Lost);
        if !slf.get().inner(py).base.queue_end(py, because, turn) {
            return slf.get().let_go(py);
        }
        slf.get().deregister(py);
        Ok(())
    }

    /// An error that ends the transport: reported unless it is the network's doing.
    #[cold]
    fn fatal(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let because = slf.get().inner(slf.py()).base.report_fatal(slf.as_any(), error, message)?;
        Self::force_close(slf, Some(because))
    }
}

impl Inner {
    fn arrive(
        &self,
        py: Python<'_>,
        data: Py<PyBytes>,
        from: Option<SocketAddrAny>,
    ) -> PyResult<()> {
        let from = self.to_sender(py, from)?;
        self.arrived.borrow_mut().push_back(Arrived { data, from });
        Ok(())
    }

    /// With an address for Python: that of the datagram before, if it is the same.
    fn to_sender(&self, py: Python<'_>, native: Option<SocketAddrAny>) -> PyResult<Sender> {
        let Some(address) = &native else { return Ok(Sender { python: py.None(), native }) };
        let same = |before: &Sender| {
            (before.native.as_ref() == Some(address)).then(|| before.python.clone_ref(py))
        };
        let known = match self.arrived.borrow().back() {
            Some(before) => same(&before.from),
            None => self.sender.borrow().as_ref().and_then(same),
        };
        let python = match known {
            Some(python) => python,
            None => address::to_python(py, address)?.unwrap_or_else(|| py.None()),
        };
        Ok(Sender { python, native })
    }

    /// An address as the kernel has it; None if only Python's own socket can tell.
    fn to_native(&self, address: &Bound<'_, PyAny>) -> PyResult<Option<SocketAddrAny>> {
        if let Some(sender) = &*self.sender.borrow()
            && address.is(&sender.python)
        {
            return Ok(sender.native.clone());
        }
        address::from_python(self.family, address)
    }
}

impl Drop for DatagramTransport {
    fn drop(&mut self) {
        at_the_end(|py| {
            let fd = self.inner(py).base.fd.get();
            if fd < 0 {
                return;
            }
            // Nobody closed it: say so, as asyncio does, and close it.
            self.deregister(py);
            warn_unclosed(py, &format!("DatagramTransport fd={fd}"));
            if let Err(error) = self.let_go(py) {
                error.write_unraisable(py, None);
            }
        });
    }
}
