//! TLS as a protocol in the middle: `TlsTransport` is the protocol of a transport below and the
//! transport of a protocol above. What users call is in `methods.rs`.
//!
//! The rules are those of asyncio's `SSLProtocol`, with its states and its messages. The transport
//! below may be any: over a native one ciphertext takes a short cut (`take_in`, `send`), and over
//! another, TLS included, it goes through asyncio's methods.
//!
//! One thing differs from asyncio's class: plaintext is encrypted when the transport below takes
//! it, and not before. A peer that reads slowly costs the plaintext only, which is held as it came.

mod engine;
mod lower;
mod methods;
mod reading;
mod ssl_module;
mod writing;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use pyo3::{
    exceptions::{
        PyConnectionAbortedError, PyConnectionResetError, PyException, PyRuntimeError,
        PyTimeoutError,
    },
    ffi, intern,
    prelude::*,
    types::{PyDict, PyString},
};
use velodrome::stream::{FlowControl, Joining, WriteBuffer};

use self::{
    engine::{Engine, Progress},
    lower::Lower,
};
use crate::{
    buffer::Chunk,
    call::call_method,
    error::leaves_loop,
    event_loop::Loop,
    gil::GilBound,
    imports::seam,
    transport::{
        ProtocolKind,
        base::{BaseTransport, Connection, at_the_end, clone_of, warn_unclosed},
        protocol_kind,
    },
};

pub use methods::METHODS;
pub use ssl_module::ssl_module;

/// What the connection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing: before the transport below is there, and after the end.
    Unwrapped,
    Handshake,
    Open,
    /// It is to end: what is unread and unsent comes first.
    Flushing,
    Shutdown,
}

/// What the protocol has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Made,
    Eof,
    Lost,
}

struct Inner {
    base: BaseTransport,
    /// `None` once the connection is lost and the user has closed it twice, see `methods.rs`.
    engine: RefCell<Option<Rc<Engine>>>,
    lower: RefCell<Lower>,
    state: Cell<State>,
    told: Cell<Told>,
    protocol_kind: Cell<ProtocolKind>,
    /// `close` or `abort` was called, the peer has ended TLS, or the connection is lost.
    closed: Cell<bool>,
    /// The user has closed it although it was closed.
    closed_twice: Cell<bool>,
    /// The handshake was done, at some time.
    handshaken: Cell<bool>,
    /// The engine is at work: it must not be entered again, by a callback that it calls.
    busy: Cell<bool>,
    /// Reading has failed: that is about to end the connection, when what was read before is
    /// delivered.
    broken: Cell<bool>,
    /// Something could not be done while the engine was at work.
    asked_meanwhile: Cell<bool>,
    /// The transport below has received its end-of-file.
    eof_received: Cell<bool>,
    /// The peer has ended, and TLS above us is to close us when it is through.
    kept_open: Cell<bool>,

    reading_paused: Cell<bool>,
    /// A protocol's buffer was too small for what is here: `_proceed` is queued.
    read_is_cut: Cell<bool>,
    /// We have paused the transport below, because nobody reads what it brings.
    lower_paused: Cell<bool>,
    /// The (low, high) marks of ciphertext that nobody reads, in bytes.
    read_limits: Cell<(usize, usize)>,

    /// Plaintext that waits to be encrypted.
    backlog: RefCell<WriteBuffer<Chunk>>,
    /// It waits for the end of the turn, see [`Joining`].
    deferred: Cell<bool>,
    joining: Joining,
    flow: FlowControl,
    /// The transport below takes no more for now.
    writing_paused: Cell<bool>,

    /// Of the handshake and of the shutdown, as the user gave them.
    timeouts_s: [RefCell<Option<Py<PyAny>>>; 2],
    /// Of the handshake or of the shutdown: they never run at the same time.
    timer: RefCell<Option<Py<PyAny>>>,
    /// The loop's time at the start of the handshake, in debug mode.
    handshake_start: RefCell<Option<Py<PyAny>>>,
}

/// The places of the time-outs.
const HANDSHAKE: usize = 0;
const SHUTDOWN: usize = 1;

/// asyncio's limits.
const WRITE_HIGH_WATER_BYTES: usize = 512 * 1024;
const READ_LIMITS_BYTES: (usize, usize) = (64 * 1024, 256 * 1024);

/// asyncio says SSL.
#[pyclass(frozen, weakref, dict, name = "SSLTransport", module = "velodrome")]
pub struct TlsTransport(GilBound<Inner>);

impl TlsTransport {
    #[inline]
    fn inner(&self, py: Python<'_>) -> &Inner {
        self.0.get(py)
    }

    fn inner_of<'a>(slf: &'a Bound<'_, Self>) -> &'a Inner {
        slf.get().inner(slf.py())
    }

    fn event_loop(&self, py: Python<'_>) -> Option<Py<Loop>> {
        self.inner(py).base.event_loop(py)
    }

    fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        clone_of(py, &self.inner(py).base.context)
    }

    fn lower(&self, py: Python<'_>) -> Lower {
        self.inner(py).lower.borrow().clone_ref(py)
    }

    /// Runs what may call the user's TLS callbacks. What they ask for is done afterwards.
    #[inline]
    fn with_engine<R>(
        slf: &Bound<'_, Self>,
        work: impl FnOnce(&Engine) -> PyResult<R>,
    ) -> PyResult<R> {
        let inner = Self::inner_of(slf);
        let engine = slf.get().engine(slf.py())?;
        let was_busy = inner.busy.replace(true);
        let result = work(&engine);
        inner.busy.set(was_busy);
        if !was_busy && inner.asked_meanwhile.replace(false) {
            Self::call_soon(slf, intern!(slf.py(), "_proceed"))?;
        }
        result
    }

    /// Not after reading has failed, nor while the engine is at work: then `_proceed` is called
    /// later, for the caller to come again.
    #[inline]
    fn may_enter_engine(&self, py: Python<'_>) -> bool {
        let inner = self.inner(py);
        if inner.busy.get() {
            inner.asked_meanwhile.set(true);
        }
        !inner.busy.get() && !inner.broken.get()
    }

    /// The `ssl.SSLObject`, from the handshake on.
    fn ssl_object(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let engine = self.engine(py).ok().filter(|_| self.inner(py).handshaken.get())?;
        Some(engine.ssl_object().clone_ref(py))
    }

    #[inline]
    fn engine(&self, py: Python<'_>) -> PyResult<Rc<Engine>> {
        let engine = self.inner(py).engine.borrow();
        engine.clone().ok_or_else(|| PyRuntimeError::new_err("the TLS transport is closed"))
    }

    #[inline]
    fn call_protocol<const N: usize>(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyString>,
        arguments: [*mut ffi::PyObject; N],
    ) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        let base = &Self::inner_of(slf).base;
        let Some(protocol) = base.protocol(py) else { return Ok(None) };
        base.in_context_nested(py, || call_method(py, &protocol, name, arguments))
    }

    // ---- called by the transport below -------------------------------------------------------

    fn start(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        let lower = Lower::new(transport);
        if let Some(context) = lower.context(py) {
            drop(inner.base.context.replace(Some(context)));
        }
        let is_over = lower.is_over(py);
        drop(inner.lower.replace(lower));
        if inner.closed.get() {
            return Self::abort_because(slf, None);
        }
        if is_over {
            // Nobody will call again, and the protocol knows.
            inner.told.set(Told::Lost);
            let error = PyConnectionResetError::new_err("the transport below is closed");
            return Self::lost(slf, error.value(py).as_any());
        }
        if inner.base.is_debug(py) {
            inner.base.debug_log(slf, "%r starts SSL handshake")?;
            let now = slf.get().event_loop(py).map(|it| it.call_method0(py, intern!(py, "time")));
            drop(inner.handshake_start.replace(now.transpose()?));
        }
        inner.state.set(State::Handshake);
        let on_timeout = intern!(py, "_check_handshake_timeout");
        Self::start_timer(slf, HANDSHAKE, on_timeout)?;
        Self::do_handshake(slf)
    }

    /// `transport` is the protocol's until now. If it has told it to pause, we are to tell it to
    /// resume.
    fn take_over(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let inner = Self::inner_of(slf);
        if let Some(paused) = transport.getattr_opt(intern!(slf.py(), "_protocol_paused"))?
            && paused.is_truthy()?
        {
            inner.writing_paused.set(true);
            inner.flow.take_over_pause();
        }
        Ok(())
    }

    /// Does what the state is about: something has come, or may be read again.
    fn proceed(slf: &Bound<'_, Self>) -> PyResult<()> {
        match Self::inner_of(slf).state.get() {
            State::Unwrapped => Ok(()),
            State::Handshake => Self::do_handshake(slf),
            State::Open => {
                Self::do_read(slf, None)?;
                let is_beneath_tls = Self::inner_of(slf).protocol_kind.get() == ProtocolKind::Tls;
                if Self::inner_of(slf).eof_received.get() && is_beneath_tls {
                    return Self::end_beneath_tls(slf);
                }
                Ok(())
            }
            State::Flushing => Self::do_flush(slf),
            State::Shutdown => Self::do_shutdown(slf),
        }
    }

    /// End-of-file. True if the transport below is to stay open for now.
    fn ended(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let inner = Self::inner_of(slf);
        inner.eof_received.set(true);
        inner.base.debug_log(slf, "%r received EOF")?;
        match inner.state.get() {
            State::Unwrapped => Ok(false),
            State::Handshake => {
                let error = PyConnectionResetError::new_err(());
                Self::handshake_failed(slf, error).map(|()| false)
            }
            State::Open if inner.protocol_kind.get() == ProtocolKind::Tls => {
                Self::do_read(slf, None)?;
                Self::end_beneath_tls(slf)?;
                Ok(matches!(inner.state.get(), State::Open | State::Flushing))
            }
            State::Open | State::Flushing => {
                inner.state.set(State::Flushing);
                Self::do_flush(slf)?;
                Ok(inner.state.get() == State::Flushing)
            }
            State::Shutdown => Self::do_shutdown(slf).map(|()| false),
        }
    }

    /// The peer has ended. If the protocol is TLS in its turn, it decides when that is our end: it
    /// may have to write still, or wait for a reader of its own.
    fn end_beneath_tls(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = Self::inner_of(slf);
        if inner.state.get() != State::Open || inner.reading_paused.get() {
            return Ok(());
        }
        if Self::tell_eof(slf)? || inner.state.get() != State::Open {
            return Ok(());
        }
        inner.state.set(State::Flushing);
        Self::do_flush(slf)
    }

    /// The transport below is gone.
    fn lost(slf: &Bound<'_, Self>, because: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        Self::stop_timer(slf)?;
        drop(inner.backlog.take());
        inner.deferred.set(false);
        if let Ok(engine) = slf.get().engine(py) {
            drop(engine.take_output(py)?);
        }
        inner.closed.set(true);
        inner.state.set(State::Unwrapped);
        // (asyncio does not tell a protocol whose connection is lost in the middle of `start_tls`.)
        let tells = matches!(inner.told.get(), Told::Made | Told::Eof);
        if let (true, Some(event_loop), Some(protocol)) =
            (tells, slf.get().event_loop(py), inner.base.protocol(py))
        {
            inner.told.set(Told::Lost);
            let options = PyDict::new(py);
            options.set_item(intern!(py, "context"), clone_of(py, &inner.base.context))?;
            let callback = protocol.getattr(py, intern!(py, "connection_lost"))?;
            let arguments = (callback, because);
            event_loop.bind(py).call_method(intern!(py, "call_soon"), arguments, Some(&options))?;
        }
        let waiter = inner.base.waiter.take();
        drop(inner.lower.replace(Lower::None));
        inner.base.let_go();
        Self::forget_if_over(slf);
        if waiter.is_some() && because.is_none() {
            // Who waits still, waits for the handshake.
            let aborted = PyConnectionAbortedError::new_err("the TLS handshake was aborted");
            return Self::wake(py, waiter, Some(aborted.value(py).as_any()));
        }
        Self::wake(py, waiter, Some(because))
    }

    /// After a second `close` and the loss of the connection nobody asks for TLS any more.
    fn forget_if_over(slf: &Bound<'_, Self>) {
        let inner = Self::inner_of(slf);
        if inner.closed_twice.get() && matches!(*inner.lower.borrow(), Lower::None) {
            let dropped = (inner.engine.take(), inner.base.extra.take());
            drop(dropped);
        }
    }

    fn wake(
        py: Python<'_>,
        waiter: Option<Py<PyAny>>,
        because: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let Some(waiter) = waiter else { return Ok(()) };
        if waiter.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
            return Ok(());
        }
        match because {
            Some(because) => waiter.call_method1(py, intern!(py, "set_exception"), (because,)),
            None => waiter.call_method1(py, intern!(py, "set_result"), (py.None(),)),
        }
        .map(drop)
    }

    // ---- time-outs ---------------------------------------------------------------------------

    fn start_timer(
        slf: &Bound<'_, Self>,
        which: usize,
        method: &Bound<'_, PyString>,
    ) -> PyResult<()> {
        let py = slf.py();
        let Some(event_loop) = slf.get().event_loop(py) else { return Ok(()) };
        let timeout_s = clone_of(py, &Self::inner_of(slf).timeouts_s[which]);
        let arguments = (timeout_s, slf.getattr(method)?);
        let timer = event_loop.call_method1(py, intern!(py, "call_later"), arguments)?;
        let old = Self::inner_of(slf).timer.replace(Some(timer));
        drop(old);
        Ok(())
    }

    fn stop_timer(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match Self::inner_of(slf).timer.take() {
            Some(timer) => timer.call_method0(py, intern!(py, "cancel")).map(drop),
            None => Ok(()),
        }
    }

    fn handshake_timed_out(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = Self::inner_of(slf);
        if inner.state.get() != State::Handshake {
            return Ok(());
        }
        let timeout_s = clone_of(slf.py(), &inner.timeouts_s[HANDSHAKE]).into_pyobject(slf.py())?;
        let message = format!(
            "SSL handshake is taking longer than {} seconds: aborting the connection",
            timeout_s.str()?
        );
        Self::fatal(slf, PyConnectionAbortedError::new_err(message), "Fatal error on transport")
    }

    fn shutdown_timed_out(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        if !matches!(inner.state.get(), State::Flushing | State::Shutdown) {
            return Ok(());
        }
        let peer_has_ended = inner.eof_received.get() || inner.told.get() == Told::Eof;
        if peer_has_ended && !inner.backlog.borrow().is_empty() {
            // It is awaited no more, and may take its time to read what is left.
            drop(inner.timer.take());
            return Self::limit_shutdown(slf);
        }
        let error = PyTimeoutError::new_err("SSL shutdown timed out");
        let error = error.into_value(py).into_any();
        slf.get().lower(py).force_close(py, Some(error))
    }

    // ---- the handshake -----------------------------------------------------------------------

    fn do_handshake(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        let progress = Self::with_engine(slf, |engine| engine.handshake(py));
        if inner.state.get() != State::Handshake {
            // A callback of the user's has ended it.
            return Ok(());
        }
        match progress {
            Ok(Progress::Pending) => Self::send_output(slf),
            Ok(Progress::Done) => Self::handshake_done(slf),
            Err(error) if error.is_instance(py, ssl_module(py)?.ssl_error.bind(py)) => {
                Self::handshake_failed(slf, error)
            }
            Err(error) => Err(error),
        }
    }

    fn handshake_done(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        Self::stop_timer(slf)?;
        inner.state.set(State::Open);
        inner.handshaken.set(true);
        let start = inner.handshake_start.take();
        if let (Some(start), Some(event_loop)) = (start, slf.get().event_loop(py)) {
            seam(py, "debug_handshake_done", (event_loop, slf, start))?;
        }
        if inner.told.get() == Told::Nothing {
            inner.told.set(Told::Made);
            Self::call_protocol(slf, intern!(py, "connection_made"), [slf.as_ptr()])?;
        }
        Self::wake(py, inner.base.waiter.take(), None)?;
        Self::do_read(slf, None)
    }

    #[cold]
    fn handshake_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        Self::stop_timer(slf)?;
        // The alert, which tells the peer why. (asyncio keeps it to itself.) An object of the user's
        // own class may refuse a peer after libssl was content: then the peer is not to know that.
        if !slf.get().engine(py)?.is_content(py) {
            Self::send_output(slf)?;
        }
        inner.state.set(State::Unwrapped);
        let message = if error.is_instance(py, ssl_module(py)?.certificate_error.bind(py)) {
            "SSL handshake failed on verifying the certificate"
        } else {
            "SSL handshake failed"
        };
        let because = error.value(py).clone().into_any();
        Self::fatal(slf, error, message)?;
        Self::wake(py, inner.base.waiter.take(), Some(&because))
    }

    // ---- the end -----------------------------------------------------------------------------

    fn start_shutdown(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = Self::inner_of(slf);
        match inner.state.get() {
            State::Flushing | State::Shutdown | State::Unwrapped => Ok(()),
            State::Handshake => {
                inner.closed.set(true);
                Self::abort_because(slf, None)
            }
            State::Open => {
                inner.closed.set(true);
                inner.state.set(State::Flushing);
                Self::limit_shutdown(slf)?;
                Self::do_flush(slf)
            }
        }
    }

    /// The user closes it.
    fn close_now(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Self::inner_of(slf).state.get() != State::Flushing {
            return Self::start_shutdown(slf);
        }
        // The peer's end was waiting for a reader, who will not come any more.
        Self::limit_shutdown(slf)?;
        Self::do_flush(slf)
    }

    fn limit_shutdown(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Self::inner_of(slf).timer.borrow().is_some() {
            return Ok(());
        }
        let on_timeout = intern!(slf.py(), "_check_shutdown_timeout");
        Self::start_timer(slf, SHUTDOWN, on_timeout)
    }

    fn do_flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = Self::inner_of(slf);
        inner.read_is_cut.set(false);
        Self::do_read(slf, None)?;
        // The peer's end, unlike ours, waits for the reader. A cut read goes on by itself.
        let waits_for_reader = inner.reading_paused.get() && !inner.closed.get();
        if inner.state.get() != State::Flushing || inner.read_is_cut.get() || waits_for_reader {
            return Ok(());
        }
        Self::do_write(slf).or_else(|error| Self::failed(slf, error))?;
        // What the transport below does not take now goes out when it does, see `resumed`.
        if inner.state.get() != State::Flushing || !inner.backlog.borrow().is_empty() {
            return Ok(());
        }
        inner.state.set(State::Shutdown);
        Self::do_shutdown(slf)
    }

    fn do_shutdown(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        if !slf.get().may_enter_engine(py) {
            return Ok(());
        }
        // Nothing is said to a peer that goes without a word, and nothing awaited of one that has
        // gone.
        let has_gone = inner.eof_received.get();
        if !has_gone || inner.told.get() == Told::Eof || inner.closed.get() {
            match Self::with_engine(slf, |engine| engine.shutdown(py)) {
                Ok(Progress::Done) => {}
                Ok(Progress::Pending) if !has_gone => {
                    // What nobody has read is not awaited any more, but the peer's answer is.
                    Self::resume_lower(slf)?;
                    return Self::send_output(slf);
                }
                Ok(Progress::Pending) => {}
                Err(error) if error.is_instance(py, ssl_module(py)?.ssl_error.bind(py)) => {
                    if has_gone {
                        return Self::shutdown_done(slf);
                    }
                    Self::stop_timer(slf)?;
                    return Self::fatal(slf, error, "Fatal error on transport");
                }
                Err(error) => return Err(error),
            }
        }
        Self::shutdown_done(slf)
    }

    fn shutdown_done(slf: &Bound<'_, Self>) -> PyResult<()> {
        // Also if the transport below has said that it is full: it is the last, and it is small.
        let output = slf.get().engine(slf.py())?.take_output(slf.py())?;
        Self::send(slf, &output)?;
        Self::tell_eof(slf)?;
        Self::stop_timer(slf)?;
        slf.get().lower(slf.py()).close_soon(slf)
    }

    /// Ends the connection at once.
    fn abort_because(slf: &Bound<'_, Self>, because: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        // What `write` would have encrypted and sent at once must not be lost by being held back.
        Self::flush_deferred(slf)?;
        Self::inner_of(slf).state.set(State::Unwrapped);
        slf.get().lower(py).force_close(py, because)
    }

    /// Reading or writing failed, or a method of the protocol: the connection ends. What is no
    /// Exception is for the transport below, as in asyncio.
    #[cold]
    fn failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        if error.is_instance_of::<PyException>(slf.py()) {
            return Self::fatal(slf, error, "Fatal error on SSL protocol");
        }
        Err(error)
    }

    /// An error that ends the connection: reported unless it is the network's or TLS's doing.
    #[cold]
    fn fatal(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        if leaves_loop(py, &error) {
            return Err(error);
        }
        let because = error.value(py).clone().into_any();
        // What `write` would have encrypted and sent at once goes out, if it still can.
        Self::flush_deferred(slf)?;
        let lower = slf.get().lower(py);
        let event_loop = slf.get().event_loop(py);
        lower.force_close(py, Some(because.clone().unbind()))?;
        seam(py, "tls_failed", (event_loop, message, because, lower.object(py), slf)).map(drop)
    }

    fn call_soon(slf: &Bound<'_, Self>, method: &Bound<'_, PyString>) -> PyResult<()> {
        let py = slf.py();
        let Some(event_loop) = slf.get().event_loop(py) else { return Ok(()) };
        let callback = slf.getattr(method)?;
        event_loop.call_method1(py, intern!(py, "call_soon"), (callback,)).map(drop)
    }
}

impl TlsTransport {
    /// Not yet over any transport.
    fn new(
        connection: &Connection<'_, '_>,
        engine: Engine,
        timeouts_s: [Py<PyAny>; 2],
        tells_connection: bool,
    ) -> PyResult<Self> {
        let py = connection.event_loop.py();
        Ok(TlsTransport(GilBound::new(Inner {
            base: BaseTransport::new(-1, connection)?,
            engine: RefCell::new(Some(Rc::new(engine))),
            lower: RefCell::new(Lower::None),
            state: Cell::new(State::Unwrapped),
            told: Cell::new(if tells_connection { Told::Nothing } else { Told::Made }),
            protocol_kind: Cell::new(protocol_kind(&connection.protocol)?),
            closed: Cell::new(false),
            closed_twice: Cell::new(false),
            handshaken: Cell::new(false),
            busy: Cell::new(false),
            asked_meanwhile: Cell::new(false),
            broken: Cell::new(false),
            eof_received: Cell::new(false),
            kept_open: Cell::new(false),
            reading_paused: Cell::new(false),
            read_is_cut: Cell::new(false),
            lower_paused: Cell::new(false),
            read_limits: Cell::new(READ_LIMITS_BYTES),
            backlog: RefCell::default(),
            deferred: Cell::new(false),
            joining: Joining::new(connection.event_loop.get().joins_writes(py)),
            flow: FlowControl::new(WRITE_HIGH_WATER_BYTES),
            writing_paused: Cell::new(false),
            timeouts_s: timeouts_s.map(|timeout_s| RefCell::new(Some(timeout_s))),
            timer: RefCell::new(None),
            handshake_start: RefCell::new(None),
        })))
    }
}

impl Drop for TlsTransport {
    fn drop(&mut self) {
        at_the_end(|py| {
            if !self.inner(py).closed.get() {
                warn_unclosed(py, "SSLTransport");
            }
        });
    }
}
