//! What waits in a Python loop's queues: the model's kind of loop.

use std::sync::Arc;

use pyo3::{PyTraverseError, PyVisit, intern, prelude::*};
use velodrome::{Kind, Readiness, Source as ModelSource};

use crate::{
    call::{Call, call_method},
    client::ClientSocket,
    datagram::{self, DatagramTransport},
    event_loop::Loop,
    handle::{Handle, TimerHandle},
    pipe::{self, PipeTransport},
    record::{FdRecord, Record},
    report,
    server::Listener,
    sock::SockWaiters,
    transport::{StreamTransport, Turn},
};

/// The model's event loop, holding Python objects.
pub enum PyKind {}

impl Kind for PyKind {
    type Callback = Callback;
    type Sent = Callback;
    type Timer = Timer;
    type Source = Source;
}

/// An entry of the ready queue.
pub enum Callback {
    Handle(Py<Handle>),
    Timer(Py<TimerHandle>),
    /// asyncio's own handle, as debug mode uses them: anything with `_cancelled` and `_run()`.
    Foreign(Py<PyAny>),
    /// A call without a handle: nobody has it any more, or nobody could (see `step_lane.rs`).
    Call(Call),
    Transport(Py<StreamTransport>, Turn),
    Datagrams(Py<DatagramTransport>, datagram::Turn),
    Pipe(Py<PipeTransport>, pipe::Turn),
    Listener(Py<Listener>),
    Client(Py<ClientSocket>),
    Sock(Py<SockWaiters>, Readiness),
    /// Left by an extension module (see `velodrome-abi`), as the next.
    Record(Record),
    Ready(Arc<FdRecord>, Readiness),
}

impl Callback {
    /// A handle of either kind, or asyncio's own.
    pub fn from_handle(handle: &Bound<'_, PyAny>) -> Self {
        if let Ok(timer) = handle.cast_exact::<TimerHandle>() {
            Callback::Timer(timer.clone().unbind())
        } else if let Ok(handle) = handle.cast_exact::<Handle>() {
            Callback::Handle(handle.clone().unbind())
        } else {
            Callback::Foreign(handle.clone().unbind())
        }
    }

    /// Runs it. What a user's code raises goes to the exception handler, but for what leaves the
    /// loop.
    #[inline]
    pub fn run(self, event_loop: &Bound<'_, Loop>) -> PyResult<()> {
        let py = event_loop.py();
        match self {
            Callback::Call(call) => run_call(event_loop, call),
            Callback::Handle(handle) => match Handle::give_up(handle.bind(py), event_loop) {
                Some(call) => {
                    event_loop.get().keep_spare(py, handle);
                    run_call(event_loop, call)
                }
                None => Handle::run(&handle.into_bound(py)),
            },
            Callback::Timer(timer) => Handle::run(timer.into_bound(py).as_super()),
            Callback::Transport(transport, turn) => {
                let transport = transport.bind(py);
                let result = StreamTransport::take_turn(transport, turn);
                result.or_else(|error| failed(event_loop, transport.as_any(), error))
            }
            Callback::Datagrams(transport, turn) => {
                let transport = transport.bind(py);
                let result = DatagramTransport::take_turn(transport, turn);
                result.or_else(|error| failed(event_loop, transport.as_any(), error))
            }
            Callback::Pipe(transport, turn) => PipeTransport::take_turn(transport.bind(py), turn),
            Callback::Listener(listener) => {
                let listener = listener.bind(py);
                let result = Listener::accept(listener);
                result.or_else(|error| failed(event_loop, listener.as_any(), error))
            }
            Callback::Client(socket) => {
                let result = socket.get().ready(py);
                result.or_else(|error| failed(event_loop, socket.bind(py).as_any(), error))
            }
            Callback::Sock(waiters, readiness) => {
                let waiters = waiters.bind(py);
                let result = SockWaiters::ready(waiters, readiness);
                result.or_else(|error| failed(event_loop, waiters.as_any(), error))
            }
            Callback::Record(record) => {
                record.run(py).or_else(|error| record_failed(event_loop, error))
            }
            Callback::Ready(record, readiness) => {
                record.ready(py, readiness).or_else(|error| record_failed(event_loop, error))
            }
            Callback::Foreign(handle) => {
                let handle = handle.bind(py);
                let result = run_foreign(handle);
                result.or_else(|error| failed(event_loop, handle, error))
            }
        }
    }

    /// Puts the mere call of a handle that nobody else has in the handle's place. Returns that
    /// handle, to be used again.
    #[inline(always)]
    pub fn give_up_handle(&mut self, event_loop: &Bound<'_, Loop>) -> Option<Py<Handle>> {
        let Callback::Handle(handle) = self else { return None };
        let call = Handle::give_up(handle.bind(event_loop.py()), event_loop)?;
        match std::mem::replace(self, Callback::Call(call)) {
            Callback::Handle(handle) => Some(handle),
            _ => None,
        }
    }

    /// A mere call with a handle of its own, for those who ask for one.
    pub fn with_handle(self, event_loop: &Bound<'_, Loop>) -> PyResult<Self> {
        match self {
            Callback::Call(call) => {
                let handle = Py::new(event_loop.py(), Handle::new(event_loop, call))?;
                Ok(Callback::Handle(handle))
            }
            other => Ok(other),
        }
    }

    /// Whether it is what asyncio calls a handle, and not the loop's own work.
    pub fn is_handle(&self) -> bool {
        matches!(self, Callback::Handle(_) | Callback::Timer(_) | Callback::Foreign(_))
    }

    /// What a slow-callback message names.
    pub fn describe(&self, py: Python<'_>) -> Py<PyAny> {
        match self {
            Callback::Handle(handle) => handle.clone_ref(py).into_any(),
            Callback::Timer(timer) => timer.clone_ref(py).into_any(),
            Callback::Foreign(handle) => handle.clone_ref(py),
            Callback::Call(call) => call.callback.clone_ref(py),
            Callback::Transport(transport, _) => transport.clone_ref(py).into_any(),
            Callback::Datagrams(transport, _) => transport.clone_ref(py).into_any(),
            Callback::Pipe(transport, _) => transport.clone_ref(py).into_any(),
            Callback::Listener(listener) => listener.clone_ref(py).into_any(),
            Callback::Client(socket) => socket.clone_ref(py).into_any(),
            Callback::Sock(waiters, _) => waiters.clone_ref(py).into_any(),
            Callback::Record(_) | Callback::Ready(..) => {
                intern!(py, "a callback of an extension module").clone().into_any().unbind()
            }
        }
    }

    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Callback::Handle(handle) => visit.call(handle),
            Callback::Timer(timer) => visit.call(timer),
            Callback::Foreign(handle) => visit.call(handle),
            Callback::Call(call) => call.visit(visit),
            Callback::Transport(transport, _) => visit.call(transport),
            Callback::Datagrams(transport, _) => visit.call(transport),
            Callback::Pipe(transport, _) => visit.call(transport),
            Callback::Listener(listener) => visit.call(listener),
            Callback::Client(socket) => visit.call(socket),
            Callback::Sock(waiters, _) => visit.call(waiters),
            // They hold nothing that the collector must see.
            Callback::Record(_) | Callback::Ready(..) => Ok(()),
        }
    }
}

/// asyncio's own handle reports what its callback raises; only what it lets through comes here.
fn run_foreign(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = handle.py();
    if handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? {
        return Ok(());
    }
    call_method(py, handle.as_unbound(), intern!(py, "_run"), []).map(drop)
}

/// Something that nobody expected (a descriptor that was closed behind our back, a future that was
/// done already): the exception handler hears of it, and the loop goes on.
#[cold]
fn failed(event_loop: &Bound<'_, Loop>, subject: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
    if crate::error::leaves_loop(event_loop.py(), &error) {
        return Err(error);
    }
    let message = format!("Exception in {}", subject.repr()?);
    report::failed(event_loop, &message, error)
}

#[cold]
fn record_failed(event_loop: &Bound<'_, Loop>, error: PyErr) -> PyResult<()> {
    let py = event_loop.py();
    if crate::error::leaves_loop(py, &error) {
        return Err(error);
    }
    report::failed(event_loop, "Exception in a callback of an extension module", error)
}

#[inline]
fn run_call(event_loop: &Bound<'_, Loop>, call: Call) -> PyResult<()> {
    match call.run(event_loop.py()) {
        Ok(()) => {
            call.release(event_loop.py());
            Ok(())
        }
        Err(error) => call_failed(event_loop, call, error),
    }
}

/// A call that raised: makes the handle that the message speaks of.
#[cold]
fn call_failed(event_loop: &Bound<'_, Loop>, call: Call, error: PyErr) -> PyResult<()> {
    let py = event_loop.py();
    if crate::error::leaves_loop(py, &error) {
        return Err(error);
    }
    let handle = Bound::new(py, Handle::new(event_loop, call))?;
    report::callback_failed(event_loop, &handle, error)
}

/// An entry of the timer heap.
pub enum Timer {
    Native(Py<TimerHandle>),
    /// asyncio's own timer handle, in debug mode.
    Foreign(Py<PyAny>),
    Record(Record),
}

impl Timer {
    /// Drops it, see [`Held::release`](crate::call::Held::release).
    #[inline]
    pub fn release(self, py: Python<'_>) {
        match self {
            Timer::Native(timer) => timer.drop_ref(py),
            Timer::Foreign(timer) => timer.drop_ref(py),
            Timer::Record(record) => drop(record),
        }
    }

    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Timer::Native(timer) => visit.call(timer),
            Timer::Foreign(timer) => visit.call(timer),
            Timer::Record(_) => Ok(()),
        }
    }
}

impl From<Timer> for Callback {
    fn from(timer: Timer) -> Self {
        // SAFETY: the model asks from the loop's methods only, which run attached. (`attach` might
        // release what other threads left to it, and so run code while the loop is borrowed.)
        let py = unsafe { Python::assume_attached() };
        match timer {
            Timer::Native(timer) => {
                timer.get().unscheduled(py);
                Callback::Timer(timer)
            }
            Timer::Foreign(timer) => {
                // A slot of asyncio's class: setting it to a constant runs no code. What has no
                // such attribute counts as any other handle.
                let _ = timer.bind(py).setattr(intern!(py, "_scheduled"), false);
                Callback::Foreign(timer)
            }
            Timer::Record(record) => Callback::Record(record),
        }
    }
}

/// Who hears of a descriptor.
pub enum Source {
    /// `add_reader` and `add_writer`, and pipes: what to run.
    Watch {
        reader: Option<Watcher>,
        writer: Option<Watcher>,
        /// What was given in place of a number, which stays open as long as it is watched.
        file: Option<Py<PyAny>>,
    },
    Transport(Py<StreamTransport>),
    Datagrams(Py<DatagramTransport>),
    Listener(Py<Listener>),
    Client(Py<ClientSocket>),
    Sock(Py<SockWaiters>),
    Record(Arc<FdRecord>),
}

/// Who hears of one direction of a descriptor: the handle of a reader or writer, or a transport.
pub enum Watcher {
    Native(Py<Handle>),
    Foreign(Py<PyAny>),
    Pipe(Py<PipeTransport>, pipe::Turn),
}

impl Watcher {
    pub fn new(handle: &Bound<'_, PyAny>) -> Self {
        match handle.cast_exact::<Handle>() {
            Ok(native) => Watcher::Native(native.clone().unbind()),
            Err(_) => Watcher::Foreign(handle.clone().unbind()),
        }
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Watcher::Native(handle) => Watcher::Native(handle.clone_ref(py)),
            Watcher::Foreign(handle) => Watcher::Foreign(handle.clone_ref(py)),
            Watcher::Pipe(transport, turn) => Watcher::Pipe(transport.clone_ref(py), *turn),
        }
    }

    /// Its watch has ended. A handle that nobody else has may serve the next registration.
    pub fn cancel(self, event_loop: &Bound<'_, Loop>) -> PyResult<()> {
        let py = event_loop.py();
        match self {
            Watcher::Native(handle) => match Handle::give_up(handle.bind(py), event_loop) {
                Some(call) => {
                    event_loop.get().keep_spare(py, handle);
                    call.release(py);
                }
                None => {
                    handle.get().cancel(py);
                    handle.drop_ref(py);
                }
            },
            Watcher::Foreign(handle) => {
                handle.into_bound(py).call_method0(intern!(py, "cancel"))?;
            }
            Watcher::Pipe(transport, turn) => {
                transport.get().watch_ended(py, turn);
                transport.drop_ref(py);
            }
        }
        Ok(())
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Watcher::Native(handle) => visit.call(handle),
            Watcher::Foreign(handle) => visit.call(handle),
            Watcher::Pipe(transport, _) => visit.call(transport),
        }
    }
}

impl From<Watcher> for Callback {
    fn from(watcher: Watcher) -> Self {
        match watcher {
            Watcher::Native(handle) => Callback::Handle(handle),
            Watcher::Foreign(handle) => Callback::Foreign(handle),
            Watcher::Pipe(transport, turn) => Callback::Pipe(transport, turn),
        }
    }
}

impl Clone for Source {
    fn clone(&self) -> Self {
        // SAFETY: as for a timer that becomes a callback.
        let py = unsafe { Python::assume_attached() };
        match self {
            Source::Watch { reader, writer, file } => Source::Watch {
                reader: reader.as_ref().map(|reader| reader.clone_ref(py)),
                writer: writer.as_ref().map(|writer| writer.clone_ref(py)),
                file: file.as_ref().map(|file| file.clone_ref(py)),
            },
            Source::Transport(transport) => Source::Transport(transport.clone_ref(py)),
            Source::Datagrams(transport) => Source::Datagrams(transport.clone_ref(py)),
            Source::Listener(listener) => Source::Listener(listener.clone_ref(py)),
            Source::Client(socket) => Source::Client(socket.clone_ref(py)),
            Source::Sock(waiters) => Source::Sock(waiters.clone_ref(py)),
            Source::Record(record) => Source::Record(Arc::clone(record)),
        }
    }
}

/// A transport, whatever it transports.
pub struct AnyTransport<'py> {
    pub object: Bound<'py, PyAny>,
    pub is_closing: bool,
}

impl Source {
    /// Whether it watches this direction and not the other.
    pub fn watches_only(&self, read: bool) -> bool {
        match self {
            Source::Watch { reader: Some(_), writer: None, .. } => read,
            Source::Watch { reader: None, writer: Some(_), .. } => !read,
            _ => false,
        }
    }

    /// The transport that has the descriptor, if it is one.
    pub fn transport<'py>(&self, py: Python<'py>) -> Option<AnyTransport<'py>> {
        let (object, is_closing) = match self {
            Source::Transport(transport) => {
                (transport.bind(py).as_any(), transport.get().is_closing(py))
            }
            Source::Datagrams(transport) => {
                (transport.bind(py).as_any(), transport.get().is_closing(py))
            }
            Source::Watch { .. }
            | Source::Listener(_)
            | Source::Client(_)
            | Source::Sock(_)
            | Source::Record(_) => return None,
        };
        Some(AnyTransport { object: object.clone(), is_closing })
    }
}

impl ModelSource for Source {
    type Callback = Callback;

    #[inline]
    fn ready(self, readiness: Readiness, push: &mut dyn FnMut(Callback)) {
        match self {
            Source::Transport(transport) => {
                // asyncio's order: what came in is delivered before more is sent.
                push(Callback::Transport(transport, Turn::Ready(readiness)));
            }
            Source::Datagrams(transport) => {
                push(Callback::Datagrams(transport, datagram::Turn::Ready(readiness)));
            }
            Source::Watch { reader, writer, .. } => {
                if let (true, Some(reader)) = (readiness.readable, reader) {
                    push(reader.into());
                }
                if let (true, Some(writer)) = (readiness.writable, writer) {
                    push(writer.into());
                }
            }
            Source::Listener(listener) => push(Callback::Listener(listener)),
            Source::Client(socket) => push(Callback::Client(socket)),
            Source::Sock(waiters) => push(Callback::Sock(waiters, readiness)),
            Source::Record(record) => push(Callback::Ready(record, readiness)),
        }
    }
}

impl Source {
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Source::Watch { reader, writer, file } => {
                for watcher in [reader, writer].into_iter().flatten() {
                    watcher.visit(visit)?;
                }
                visit.call(file)
            }
            Source::Transport(transport) => visit.call(transport),
            Source::Datagrams(transport) => visit.call(transport),
            Source::Listener(listener) => visit.call(listener),
            Source::Client(socket) => visit.call(socket),
            Source::Sock(waiters) => visit.call(waiters),
            Source::Record(_) => Ok(()),
        }
    }
}
