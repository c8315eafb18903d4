//! `loop.sock_recv` and its kin: tries the system call first, then waits for the socket.
//!
//! A socket that waited once stays registered, edge-triggered, for both directions: a
//! request-and-answer exchange then costs no further `epoll_ctl`. An edge without a waiter is
//! forgotten, which is right because the next operation starts with the system call. The
//! registration belongs to one socket object; another object with the same number replaces it.
//!
//! The package's coroutines (`_loop.py`) check arguments, await the future that is returned
//! here, and say so when they stop waiting.

use std::{
    cell::RefCell,
    collections::VecDeque,
    os::fd::{BorrowedFd, RawFd},
};

use pyo3::{
    IntoPyObjectExt, PyTraverseError, PyVisit,
    exceptions::{PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::{PyBytes, PyString, PyWeakrefMethods, PyWeakrefReference},
};
use rustix::net::{RecvFlags, recv, send};
use velodrome::{
    Errno, Interest, Readiness,
    client::{self, Progress},
    error::is_retry,
    net::{AddressFamily, SEND_FLAGS, socket_family},
};

use crate::{
    address,
    buffer::View,
    call::{Call, Held, copy_context},
    callback::Source,
    client::refusal,
    error::os_error,
    event_loop::{Loop, new_future},
    gil::GilBound,
    handle::Handle,
    imports::loaded,
    originals,
    transport::{base::clone_of, receiving::receive_bytes},
};

/// An operation that would have blocked.
enum Operation {
    Receive {
        limit: usize,
    },
    ReceiveInto {
        view: View,
    },
    SendAll {
        view: View,
        sent: usize,
    },
    /// The connection is under way, to an address that an error names.
    Connect {
        address: Py<PyAny>,
    },
}

/// What one attempt brought.
enum Attempt {
    Done(Py<PyAny>),
    WouldBlock,
}

impl Operation {
    fn is_read(&self) -> bool {
        !matches!(self, Operation::SendAll { .. } | Operation::Connect { .. })
    }

    /// The method of Python's socket that does the same.
    fn method<'py>(&self, py: Python<'py>) -> &'py Bound<'py, PyString> {
        match self {
            Operation::Receive { .. } => intern!(py, "recv"),
            Operation::ReceiveInto { .. } => intern!(py, "recv_into"),
            Operation::SendAll { .. } => intern!(py, "send"),
            Operation::Connect { .. } => intern!(py, "connect"),
        }
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Operation::Receive { .. } => Ok(()),
            Operation::ReceiveInto { view } | Operation::SendAll { view, .. } => view.visit(visit),
            Operation::Connect { address } => visit.call(address),
        }
    }

    /// Tries the system call.
    fn attempt(&mut self, event_loop: &Bound<'_, Loop>, fd: RawFd) -> PyResult<Attempt> {
        let py = event_loop.py();
        // SAFETY: the socket object that the number was read from is referenced by the caller; if
        // a user closes it meanwhile, the call fails with EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        match self {
            // As in Python's socket: nothing is asked of the kernel.
            Operation::Receive { limit: 0 } => done(Ok(PyBytes::new(py, &[]).into_any().unbind())),
            Operation::Receive { limit } => {
                let event_loop = event_loop.get();
                let expected = event_loop.expected_bytes(py);
                let received = receive_bytes(py, event_loop, fd, *limit, expected)?;
                done(received.map(Py::into_any))
            }
            Operation::ReceiveInto { view } if view.len() == 0 => done(Ok(0.into_py_any(py)?)),
            Operation::ReceiveInto { view } => {
                let received = recv(fd, view.bytes_mut(py), RecvFlags::DONTWAIT);
                done(match received {
                    Ok((count, _)) => Ok(count.into_py_any(py)?),
                    Err(error) => Err(error),
                })
            }
            Operation::SendAll { view, sent } => {
                let data = view.bytes(py);
                loop {
                    // Once also for nothing: that is a datagram, or an error.
                    match send(fd, &data[*sent..], SEND_FLAGS) {
                        Ok(count) => *sent += count,
                        Err(error) => return done(Err(error)),
                    }
                    if *sent >= data.len() {
                        return done(Ok(py.None()));
                    }
                }
            }
            Operation::Connect { address } => match client::outcome(fd) {
                Ok(_) => done(Ok(py.None())),
                Err(error) => Err(refusal(error, address.bind(py))?),
            },
        }
    }
}

fn done(result: Result<Py<PyAny>, Errno>) -> PyResult<Attempt> {
    match result {
        Ok(value) => Ok(Attempt::Done(value)),
        Err(error) if is_retry(error) => Ok(Attempt::WouldBlock),
        Err(error) => Err(os_error(error)),
    }
}

struct Waiter {
    future: Py<PyAny>,
    operation: Operation,
    /// Keeps the descriptor open while it waits.
    socket: Py<PyAny>,
}

struct Inner {
    event_loop: RefCell<Option<Py<Loop>>>,
    fd: RawFd,
    /// Whose number this is.
    socket: Py<PyWeakrefReference>,
    /// In the order in which they came; each direction for itself.
    readers: RefCell<VecDeque<Waiter>>,
    writers: RefCell<VecDeque<Waiter>>,
}

/// Who waits for a socket.
#[pyclass(frozen, module = "velodrome._native")]
pub struct SockWaiters(GilBound<Inner>);

impl SockWaiters {
    /// The registration of this very socket object, if there is one.
    fn present<'py>(
        event_loop: &Bound<'py, Loop>,
        socket: &Bound<'py, PyAny>,
        fd: RawFd,
    ) -> PyResult<Option<Bound<'py, Self>>> {
        let py = event_loop.py();
        let source = event_loop.get().model(py)?.reactor().source(fd);
        let Some(Source::Sock(waiters)) = source else { return Ok(None) };
        let owner = waiters.get().0.get(py).socket.bind(py).upgrade();
        Ok(owner.is_some_and(|owner| owner.is(socket)).then(|| waiters.into_bound(py)))
    }

    /// Registers a socket object that is not `present`. `None` if the number is watched by
    /// `add_reader` or `add_writer`, which then have to share it.
    fn register<'py>(
        event_loop: &Bound<'py, Loop>,
        socket: &Bound<'py, PyAny>,
        fd: RawFd,
    ) -> PyResult<Option<Bound<'py, Self>>> {
        let py = event_loop.py();
        let model = event_loop.get().model(py)?;
        let reference = PyWeakrefReference::new(socket)?.unbind();
        let (readers, writers) = match model.reactor().source(fd) {
            Some(Source::Sock(waiters)) => {
                // Another object with this number. Who waits goes on, or hears that its own is
                // closed.
                let inner = waiters.get().0.get(py);
                (inner.readers.take(), inner.writers.take())
            }
            None => Default::default(),
            Some(_) => return Ok(None),
        };
        let waiters = Bound::new(
            py,
            SockWaiters(GilBound::new(Inner {
                event_loop: RefCell::new(Some(event_loop.clone().unbind())),
                fd,
                socket: reference,
                readers: RefCell::new(readers),
                writers: RefCell::new(writers),
            })),
        )?;
        let interest = Interest::READ | Interest::WRITE | Interest::EDGE;
        let source = Source::Sock(waiters.clone().unbind());
        // A number that had another owner must be told anew: the poller's word may be stale.
        let stale = model.reactor().deregister(fd);
        let registered = model.reactor().register(fd, source, interest);
        drop(model);
        drop(stale);
        drop(registered.map_err(os_error)?);
        Ok(Some(waiters))
    }

    fn event_loop(&self, py: Python<'_>) -> Option<Py<Loop>> {
        clone_of(py, &self.0.get(py).event_loop)
    }

    fn queue(&self, py: Python<'_>, read: bool) -> &RefCell<VecDeque<Waiter>> {
        let inner = self.0.get(py);
        if read { &inner.readers } else { &inner.writers }
    }

    pub fn ready(slf: &Bound<'_, Self>, readiness: Readiness) -> PyResult<()> {
        if readiness.readable {
            Self::serve(slf, true)?;
        }
        if readiness.writable {
            Self::serve(slf, false)?;
        }
        Ok(())
    }

    /// Lets those who wait for a direction try again, in order, until one would block.
    fn serve(slf: &Bound<'_, Self>, read: bool) -> PyResult<()> {
        let py = slf.py();
        let Some(event_loop) = slf.get().event_loop(py) else { return Ok(()) };
        loop {
            // Taken out while it tries: setting its future runs nothing, but its errors may.
            let next = slf.get().queue(py, read).borrow_mut().pop_front();
            let Some(mut waiter) = next else { return Ok(()) };
            if waiter.future.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
                continue;
            }
            let fd = slf.get().0.get(py).fd;
            // A socket that was closed meanwhile: the number may be somebody else's by now.
            let present: RawFd =
                waiter.socket.call_method0(py, intern!(py, "fileno"))?.extract(py)?;
            let attempt = if present == fd {
                waiter.operation.attempt(event_loop.bind(py), fd)
            } else {
                Err(os_error(Errno::BADF))
            };
            match attempt {
                Ok(Attempt::WouldBlock) => {
                    slf.get().queue(py, read).borrow_mut().push_front(waiter);
                    return Ok(());
                }
                Ok(Attempt::Done(value)) => {
                    waiter.future.call_method1(py, intern!(py, "set_result"), (value,))?;
                }
                Err(error) => {
                    waiter.future.call_method1(py, intern!(py, "set_exception"), (error,))?;
                }
            }
        }
    }

    /// Whether somebody waits for a direction.
    pub fn has_waiters(&self, py: Python<'_>, read: bool) -> bool {
        !self.queue(py, read).borrow().is_empty()
    }

    /// A handle that serves a direction, for a number that `add_reader` or `add_writer` takes over.
    pub fn as_handle<'py>(
        slf: &Bound<'py, Self>,
        event_loop: &Bound<'py, Loop>,
        read: bool,
    ) -> PyResult<Bound<'py, Handle>> {
        let py = slf.py();
        let name = if read { intern!(py, "serve_readers") } else { intern!(py, "serve_writers") };
        let serve = slf.getattr(name)?;
        let call = Call {
            callback: serve.unbind(),
            arguments: Held::None,
            context: copy_context(py)?,
            thread_safe: false,
        };
        Bound::new(py, Handle::new(event_loop, call))
    }

    fn serve_watched(slf: &Bound<'_, Self>, read: bool) -> PyResult<()> {
        Self::serve(slf, read)?;
        let py = slf.py();
        if slf.get().has_waiters(py, read) {
            return Ok(());
        }
        // Watched level-triggered now: nobody waits any more, so the watch must end.
        let Some(event_loop) = slf.get().event_loop(py) else { return Ok(()) };
        let remove = if read { "_remove_reader" } else { "_remove_writer" };
        event_loop.call_method1(py, remove, (slf.get().0.get(py).fd,)).map(drop)
    }
}

#[pymethods]
impl SockWaiters {
    fn serve_readers(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::serve_watched(slf, true)
    }

    fn serve_writers(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::serve_watched(slf, false)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let inner = self.0.get(py);
        let (readers, writers) = (inner.readers.borrow().len(), inner.writers.borrow().len());
        format!("<SockWaiters fd={} readers={readers} writers={writers}>", inner.fd)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: called by the garbage collector.
        let inner = unsafe { self.0.in_traverse() };
        if let Ok(event_loop) = inner.event_loop.try_borrow() {
            visit.call(&*event_loop)?;
        }
        visit.call(&inner.socket)?;
        for queue in [&inner.readers, &inner.writers] {
            if let Ok(queue) = queue.try_borrow() {
                for waiter in queue.iter() {
                    visit.call(&waiter.future)?;
                    visit.call(&waiter.socket)?;
                    waiter.operation.visit(&visit)?;
                }
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            let inner = self.0.get(py);
            let dropped = (inner.event_loop.take(), inner.readers.take(), inner.writers.take());
            drop(dropped);
        });
    }
}

/// The number of a socket, or the error that the system call would give for a closed one.
fn number_of(socket: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let fd: RawFd = socket.call_method0(intern!(socket.py(), "fileno"))?.extract()?;
    if fd < 0 { Err(os_error(Errno::BADF)) } else { Ok(fd) }
}

/// Whether a method is that of the sockets of C, and not what a class in Python has put there.
fn is_original(socket: &Bound<'_, PyAny>, method: &Bound<'_, PyString>) -> PyResult<bool> {
    let original = loaded(socket.py()).c_socket.bind(socket.py());
    let found = socket.get_type().getattr_opt(method)?;
    Ok(found.is_some_and(|found| original.getattr(method).is_ok_and(|method| found.is(&method))))
}

/// Does it now, or returns the future of it; `NotImplemented` if the number has to be shared with
/// `add_reader` or `add_writer`, or if the socket has its own way to do it.
fn start(
    event_loop: &Bound<'_, Loop>,
    socket: &Bound<'_, PyAny>,
    mut operation: Operation,
) -> PyResult<Py<PyAny>> {
    let py = event_loop.py();
    if !is_original(socket, operation.method(py))? {
        return Ok(py.NotImplemented());
    }
    let fd = number_of(socket)?;
    if !operation.is_read() {
        event_loop.get().model(py)?.reactor().touch();
    }
    match operation.attempt(event_loop, fd)? {
        Attempt::Done(value) => Ok(value),
        Attempt::WouldBlock => wait(event_loop, socket, fd, operation),
    }
}

/// Returns the future of an operation that would block, as `start` does.
fn wait(
    event_loop: &Bound<'_, Loop>,
    socket: &Bound<'_, PyAny>,
    fd: RawFd,
    operation: Operation,
) -> PyResult<Py<PyAny>> {
    let py = event_loop.py();
    let waiters = match SockWaiters::present(event_loop, socket, fd)? {
        Some(waiters) => waiters,
        None => {
            crate::watch::ensure_no_transport(event_loop, socket, fd)?;
            match SockWaiters::register(event_loop, socket, fd)? {
                Some(waiters) => waiters,
                None => return Ok(py.NotImplemented()),
            }
        }
    };
    let future = new_future(event_loop)?;
    let mut queue = waiters.get().queue(py, operation.is_read()).borrow_mut();
    queue.push_back(Waiter {
        future: future.clone_ref(py),
        operation,
        socket: socket.clone().unbind(),
    });
    Ok(future)
}

#[pymethods]
impl Loop {
    fn _try_sock_recv(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        nbytes: isize,
    ) -> PyResult<Py<PyAny>> {
        let limit = usize::try_from(nbytes)
            .map_err(|_| PyValueError::new_err("negative buffersize in recv"))?;
        start(slf, sock, Operation::Receive { limit })
    }

    fn _try_sock_recv_into(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        buf: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let view = View::writable(buf).map_err(|_| {
            let kind = buf.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
            PyTypeError::new_err(format!(
                "recv_into() argument 1 must be read-write bytes-like object, not {kind}"
            ))
        })?;
        start(slf, sock, Operation::ReceiveInto { view })
    }

    fn _try_sock_sendall(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        start(slf, sock, Operation::SendAll { view: View::readable(data)?, sent: 0 })
    }

    /// Connects, or begins to, as `start` does; `NotImplemented` also for all that asyncio should do
    /// itself.
    fn _try_sock_connect(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        address: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        if !originals::is_plain_socket(sock) || !originals::are_in_place(slf)? {
            return Ok(py.NotImplemented());
        }
        let fd = number_of(sock)?;
        // SAFETY: the socket object is the caller's and has this number.
        let descriptor = unsafe { BorrowedFd::borrow_raw(fd) };
        let to = match socket_family(descriptor) {
            Ok(family @ (AddressFamily::INET | AddressFamily::INET6)) => {
                address::from_python(family, address)?
            }
            _ => None,
        };
        let is_blocking = !sock.call_method0(intern!(py, "gettimeout"))?.eq(0)?;
        let (Some(to), false) = (to, is_blocking) else { return Ok(py.NotImplemented()) };
        slf.get().model(py)?.reactor().touch();
        match client::begin(descriptor, &to) {
            Ok(Progress::Connected(_)) => Ok(py.None()),
            // Asked to connect once more, a socket on its way says that it is.
            Ok(Progress::UnderWay) => {
                let address = address::with_all_parts(address)?;
                let waiting = wait(slf, sock, fd, Operation::Connect { address });
                waiting.or_else(|_| Ok(py.NotImplemented()))
            }
            // It is under way already, which asyncio takes for a beginning.
            Err(Errno::ALREADY | Errno::AGAIN) => Ok(py.NotImplemented()),
            Err(error) => Err(os_error(error)),
        }
    }

    /// The coroutine that awaited `future` no longer does: drop its operation now.
    fn _sock_forget(
        &self,
        py: Python<'_>,
        sock: &Bound<'_, PyAny>,
        future: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let fd: RawFd = sock.call_method0(intern!(py, "fileno"))?.extract()?;
        let mut all = Vec::new();
        match self.model(py) {
            // The usual case: the socket is open, and its number leads there.
            Ok(model) if fd >= 0 => all.extend(model.reactor().source(fd)),
            // It was closed, which nobody told us: look for the future itself.
            Ok(model) => model.reactor().inspect(|source| {
                if matches!(source, Source::Sock(_)) {
                    all.push(source.clone());
                }
            }),
            Err(_) => return Ok(()),
        }
        for source in all {
            let Source::Sock(waiters) = source else { continue };
            for read in [true, false] {
                let mut queue = waiters.get().queue(py, read).borrow_mut();
                let place = queue.iter().position(|waiter| waiter.future.is(future));
                let forgotten = place.and_then(|place| queue.remove(place));
                drop(queue);
                drop(forgotten);
            }
        }
        Ok(())
    }
}
