//! `velodrome._native.Loop`: asyncio's loop methods over the model. Those that run all the time
//! are in `scheduling.rs`; what a run begins and ends with is in `running.rs`.
//!
//! The class of the package derives from this one and from asyncio's own loop class, in this
//! order: what runs per callback or per packet is here, what runs per connection or per loop is
//! inherited from the running Python, and debug mode hands every registration to asyncio's own
//! code, which then comes back through [`ReadyQueue`].

mod api;
mod overrides;
mod registration;
mod registry_view;
mod running;
mod scheduling;

use std::{
    cell::{Cell, OnceCell, Ref, RefCell},
    os::fd::RawFd,
    sync::Arc,
};

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::PyRuntimeError,
    ffi, intern,
    prelude::*,
    types::{PyDict, PyInt, PyString, PyTuple},
};
use velodrome::{Engine, Interest, TimerKey, datagram::ReceiveBatch};

use crate::{
    callback::{Callback, PyKind, Timer},
    error::{closed, os_error},
    fast::Arguments,
    gil::GilBound,
    handle::Handle,
    imports::imports,
    originals,
    pipe::{ReadPipeTransport, WritePipeTransport},
    record::Record,
    tls::TlsTransport,
    transport::{StreamTransport, base::Connection},
};

pub use api::add_to as add_api;
pub use overrides::Methods;
pub use registration::{Registration, handle_for, held_call, registration_after};
use registry_view::RegistryView;
use running::WakeupFd;
pub use scheduling::{METHODS, new_future};
use scheduling::{push_from_any_thread, whole_ns};

pub struct State {
    /// `None` once the loop is closed: its descriptors and everything queued are gone.
    model: RefCell<Option<Engine<PyKind>>>,
    /// The thread that runs the loop, by Python's identity.
    thread: Cell<Option<usize>>,
    debug: Cell<bool>,
    overrides: overrides::Overrides,
    /// A program has put a method of its own in the place of one that asyncio's code calls.
    own_methods: Cell<bool>,
    task_factory: RefCell<Option<Py<PyAny>>>,
    /// `{"loop": loop}`, once there was a future or task in this run.
    loop_keyword: RefCell<Option<Py<PyDict>>>,
    /// What the dictionary `loop._transports` has in it, once it was asked for.
    python_transports: RefCell<Option<Py<PyDict>>>,
    /// Transports that hold writes back until the end of the batch.
    deferred: RefCell<Vec<Deferred>>,
    /// A handle without a call, for the next registration.
    spare: Cell<Option<Py<Handle>>>,
    /// What small reads land in before they become exact bytes. Lent out during one read.
    scratch: Cell<Option<Box<[u8]>>>,
    /// How many bytes the next `sock_recv` may bring, for `receive_bytes`.
    expected_bytes: Cell<usize>,
    /// What many datagrams land in. Lent out likewise.
    receive_batch: Cell<Option<Box<ReceiveBatch>>>,
    /// Where TLS puts the records of a turn. Lent out likewise.
    tls_output: Cell<Vec<u8>>,
    wakeup_fd: Cell<WakeupFd>,
    join_writes: bool,
    /// How extension modules reach the loop, once one does.
    door: OnceCell<Arc<api::Door>>,
    /// What extension modules want to be dropped at the end, first of all.
    at_close: RefCell<Vec<Record>>,
}

impl State {
    /// Drops everything that waits. Finalizers may come back: they find a closed loop.
    fn end(&self, model: Option<Engine<PyKind>>) {
        if let Some(door) = self.door.get() {
            door.shut();
        }
        drop(self.at_close.take());
        if let Some(model) = &model {
            // Another thread may be about to send.
            model.close();
        }
        drop(model);
        drop((self.deferred.take(), self.loop_keyword.take()));
        drop(self.python_transports.take());
        drop(self.spare.take());
        drop((self.scratch.take(), self.receive_batch.take(), self.tls_output.take()));
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let model = self.model.take();
        self.end(model);
    }
}

/// A transport that holds writes back.
pub enum Deferred {
    Stream(Py<StreamTransport>),
    Tls(Py<TlsTransport>),
}

/// A read takes at most so much.
pub const SCRATCH_BYTES: usize = 256 * 1024;

/// Where asyncio has the transports that are written in Python, weakly, by descriptor.
const PYTHON_TRANSPORTS: &str = "_transports";

#[pyclass(frozen, subclass, module = "velodrome._native")]
pub struct Loop(GilBound<State>);

pub fn thread_ident() -> usize {
    // SAFETY: it only asks the operating system for the calling thread's identity.
    unsafe { ffi::PyThread_get_thread_ident() as usize }
}

// ---- for the other modules -------------------------------------------------------------------

impl Loop {
    #[inline]
    pub fn state(&self, py: Python<'_>) -> &State {
        self.0.get(py)
    }

    /// The model, or RuntimeError once the loop is closed.
    #[inline]
    pub fn model(&self, py: Python<'_>) -> PyResult<Ref<'_, Engine<PyKind>>> {
        Ref::filter_map(self.0.get(py).model.borrow(), Option::as_ref).map_err(|_| closed())
    }

    /// Queues a callback of the loop's own. Dropped if the loop is closed: nothing runs any more.
    pub fn queue(&self, py: Python<'_>, callback: Callback) {
        if let Ok(model) = self.model(py) {
            model.call_soon(callback);
        }
    }

    /// Whether the loop itself, not its class, has methods of a program's own.
    pub fn has_own_methods(&self, py: Python<'_>) -> bool {
        self.0.get(py).own_methods.get()
    }

    pub fn is_debug(&self, py: Python<'_>) -> bool {
        self.0.get(py).debug.get()
    }

    pub fn joins_writes(&self, py: Python<'_>) -> bool {
        self.0.get(py).join_writes
    }

    /// Whether there may be transports that are written in Python. As a rule there are none.
    pub fn has_python_transports(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let known = &slf.get().state(py).python_transports;
        if let Some(data) = &*known.borrow() {
            return Ok(!data.bind(py).is_empty());
        }
        // A weak dictionary keeps one dictionary for all its life, whose length is no call in Python.
        let transports = slf.getattr(intern!(py, PYTHON_TRANSPORTS))?;
        if !transports.get_type().is(&imports(py)?.weak_dictionary) {
            return Ok(true);
        }
        let data = transports.getattr(intern!(py, "data"))?.cast_into_exact::<PyDict>()?;
        let is_empty = data.is_empty();
        drop(known.replace(Some(data.unbind())));
        Ok(!is_empty)
    }

    /// Flushes a transport at the end of the batch that is under way.
    pub fn defer_flush(&self, py: Python<'_>, transport: Deferred) {
        self.0.get(py).deferred.borrow_mut().push(transport);
    }

    pub fn flush_deferred(&self, py: Python<'_>) -> PyResult<()> {
        let state = self.0.get(py);
        if state.deferred.borrow().is_empty() {
            return Ok(());
        }
        let transports = state.deferred.take();
        let mut result = Ok(());
        for transport in &transports {
            // Each is flushed, whatever the others raise.
            result = result.and(match transport {
                Deferred::Stream(stream) => StreamTransport::flush_deferred(stream.bind(py)),
                Deferred::Tls(tls) => TlsTransport::flush_deferred(tls.bind(py)),
            });
        }
        result
    }

    /// Keeps a handle that gave up its call, for the next registration.
    #[inline]
    pub fn keep_spare(&self, py: Python<'_>, handle: Py<Handle>) {
        handle.get().release(py);
        // The one that it replaces is as empty: dropping it runs nobody's code.
        drop(self.0.get(py).spare.replace(Some(handle)));
    }

    /// Lends the scratch buffer to `read`, which should not run Python code: a read of its would get
    /// another buffer.
    pub fn with_scratch<R>(&self, py: Python<'_>, read: impl FnOnce(&mut [u8]) -> R) -> R {
        let scratch = &self.0.get(py).scratch;
        let mut buffer =
            scratch.take().unwrap_or_else(|| vec![0; SCRATCH_BYTES].into_boxed_slice());
        let result = read(&mut buffer);
        scratch.set(Some(buffer));
        result
    }

    /// How many bytes the next `sock_recv` may bring.
    pub fn expected_bytes(&self, py: Python<'_>) -> &Cell<usize> {
        &self.0.get(py).expected_bytes
    }

    /// Lends the room for many datagrams to `receive`, which must not run Python code.
    pub fn with_receive_batch<R>(
        &self,
        py: Python<'_>,
        receive: impl FnOnce(&mut ReceiveBatch) -> R,
    ) -> R {
        let receive_batch = &self.0.get(py).receive_batch;
        let mut batch = receive_batch.take().unwrap_or_else(|| Box::new(ReceiveBatch::new()));
        let result = receive(&mut batch);
        receive_batch.set(Some(batch));
        result
    }

    /// Empty room for records, with what it has grown to. Brought back by `give_tls_output_back`.
    #[inline]
    pub fn take_tls_output(&self, py: Python<'_>) -> Vec<u8> {
        self.0.get(py).tls_output.take()
    }

    #[inline]
    pub fn give_tls_output_back(&self, py: Python<'_>, mut output: Vec<u8>) {
        output.clear();
        self.0.get(py).tls_output.set(output);
    }

    pub fn cancel_timer(&self, py: Python<'_>, key: TimerKey) {
        let cancelled = self.model(py).ok().and_then(|model| model.cancel_timer(key));
        // Nothing of the loop is borrowed any more.
        if let Some(timer) = cancelled {
            timer.release(py);
        }
    }

    pub fn runs_in_this_thread(&self, py: Python<'_>) -> bool {
        self.0.get(py).thread.get() == Some(thread_ident())
    }

    #[cold]
    pub fn own_now_ns(slf: &Bound<'_, Self>) -> PyResult<u64> {
        // Rounded as deadlines are: a timer for just this time is due.
        Ok(whole_ns(slf.call_method0(intern!(slf.py(), "time"))?.extract()?))
    }

    /// The method that asyncio's own base class has under a name of ours.
    fn base<'py>(
        slf: &Bound<'py, Self>,
        name: &str,
        arguments: Arguments<'_, 'py>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let (tuple, keywords) = arguments.to_call()?;
        let mut all = vec![slf.clone().into_any()];
        all.extend(tuple.iter());
        let method = imports(py)?.base_event_loop.bind(py).getattr(PyString::intern(py, name))?;
        method.call(PyTuple::new(py, all)?, keywords.as_ref()).map(Bound::unbind)
    }
}

#[pymethods]
impl Loop {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        imports(py)?;
        Ok(Loop(GilBound::new(State {
            model: RefCell::new(Some(Engine::new())),
            thread: Cell::new(None),
            debug: Cell::new(false),
            overrides: overrides::Overrides::default(),
            own_methods: Cell::new(false),
            task_factory: RefCell::new(None),
            loop_keyword: RefCell::default(),
            python_transports: RefCell::default(),
            deferred: RefCell::default(),
            spare: Cell::new(None),
            scratch: Cell::new(None),
            expected_bytes: Cell::new(0),
            receive_batch: Cell::new(None),
            tls_output: Cell::default(),
            wakeup_fd: Cell::new(WakeupFd::Untouched),
            // What `os.environ` says, too: it hands changes on to the C library.
            join_writes: std::env::var_os("VELODROME_JOIN_WRITES").is_none_or(|value| value != "0"),
            door: OnceCell::new(),
            at_close: RefCell::default(),
        })))
    }

    /// As of any object, but some attributes are noted: those of `overrides.rs`, and what asyncio
    /// calls to connect, which is called from then on.
    fn __setattr__(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyString>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if originals::is_replaceable(name) {
            slf.get().state(slf.py()).own_methods.set(true);
        }
        // SAFETY: live objects; this is what the attribute's assignment would call without us.
        let failed = unsafe {
            ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), value.as_ptr()) != 0
        };
        if failed {
            return Err(PyErr::fetch(slf.py()));
        }
        if name == PYTHON_TRANSPORTS {
            drop(slf.get().state(slf.py()).python_transports.take());
        }
        Self::attribute_changed(slf, name, true);
        Ok(())
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        // SAFETY: live objects; null asks for the removal.
        let failed = unsafe {
            ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), std::ptr::null_mut()) != 0
        };
        if failed {
            return Err(PyErr::fetch(slf.py()));
        }
        if name == PYTHON_TRANSPORTS {
            drop(slf.get().state(slf.py()).python_transports.take());
        }
        Self::attribute_changed(slf, name, false);
        Ok(())
    }

    /// Run until stop() is called.
    ///
    /// Raises RuntimeError if the loop is closed or running, or if another loop is running in
    /// this thread. `SystemExit` and `KeyboardInterrupt` of a callback leave the loop.
    fn run_forever(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::run(slf)
    }

    /// End run_forever after the iteration that is under way, or after the next one.
    fn stop(&self, py: Python<'_>) {
        if let Ok(model) = self.model(py) {
            model.stop();
        }
    }

    /// Return True if the loop is running in some thread.
    fn is_running(&self, py: Python<'_>) -> bool {
        self.state(py).thread.get().is_some()
    }

    /// Return True if the loop was closed.
    fn is_closed(&self, py: Python<'_>) -> bool {
        self.state(py).model.borrow().is_none()
    }

    fn _check_closed(&self, py: Python<'_>) -> PyResult<()> {
        self.model(py).map(drop)
    }

    fn _check_running(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::check_running(slf)
    }

    /// Drops everything that waits and closes the loop's descriptors. Not while it is running.
    fn _close_native(&self, py: Python<'_>) -> PyResult<()> {
        let state = self.state(py);
        if state.thread.get().is_some() {
            return Err(PyRuntimeError::new_err("Cannot close a running event loop"));
        }
        let model = match state.model.try_borrow_mut() {
            Ok(mut model) => model.take(),
            Err(_) => return Err(PyRuntimeError::new_err("Cannot close a loop that is in use")),
        };
        state.end(model);
        Ok(())
    }

    /// Whether the loop was made before this process was forked off.
    fn _is_inherited(&self, py: Python<'_>) -> bool {
        self.model(py).is_ok_and(|model| model.is_inherited())
    }

    /// Ends the loop's sleep, from any thread.
    fn _write_to_self(&self, py: Python<'_>) {
        if let Ok(model) = self.model(py) {
            model.inbox().wake();
        }
    }

    /// What the poller watches a descriptor for, as `selectors` says it.
    fn _interest(&self, py: Python<'_>, fd: RawFd) -> u32 {
        let interest = self.model(py).map_or(Interest::NONE, |model| model.reactor().interest(fd));
        u32::from(interest.contains(Interest::READ))
            | u32::from(interest.contains(Interest::WRITE)) << 1
    }

    /// Whether the loop runs in the main thread, with its own wake-up descriptor in place.
    fn _runs_with_wakeup_fd(&self, py: Python<'_>) -> bool {
        matches!(self.state(py).wakeup_fd.get(), WakeupFd::Ours { .. })
    }

    /// If the loop runs in this thread, and it is the main one: puts its wake-up descriptor in
    /// place, as the first sleep would. The user's is put back after the run.
    fn _take_wakeup_fd(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().runs_in_this_thread(slf.py()) {
            Self::take_wakeup_fd(slf)?;
        }
        Ok(())
    }

    /// The descriptor to which the interpreter's signal handler may write.
    fn _signal_fd(&self, py: Python<'_>) -> PyResult<RawFd> {
        self.model(py)?.signal_writer().map_err(os_error)
    }

    /// What asyncio's class has as its selector.
    fn _registry_view(slf: &Bound<'_, Self>) -> PyResult<RegistryView> {
        RegistryView::new(slf)
    }

    /// asyncio's way to wake a sleeping loop; this one has its own.
    fn _make_self_pipe(&self) {}

    fn _close_self_pipe(&self) {}

    /// Makes the transport of the reading end of a pipe; it closes the pipe in the end.
    #[pyo3(signature = (pipe, protocol, waiter=None, extra=None))]
    fn _make_read_pipe_transport<'py>(
        slf: &Bound<'py, Self>,
        pipe: &Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
    ) -> PyResult<Bound<'py, ReadPipeTransport>> {
        ReadPipeTransport::over_pipe(pipe, Connection::new(slf, protocol, waiter, extra))
    }

    /// Makes the transport of the writing end of a pipe; it closes the pipe in the end.
    #[pyo3(signature = (pipe, protocol, waiter=None, extra=None))]
    fn _make_write_pipe_transport<'py>(
        slf: &Bound<'py, Self>,
        pipe: &Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
    ) -> PyResult<Bound<'py, WritePipeTransport>> {
        WritePipeTransport::over_pipe(pipe, Connection::new(slf, protocol, waiter, extra))
    }

    /// Queues asyncio's own timer handle, in debug mode. Returns what goes into its `_scheduled`, of which
    /// asyncio only asks whether it is true.
    fn _schedule(&self, py: Python<'_>, when: f64, timer: Py<PyAny>) -> PyResult<u64> {
        Ok(self.model(py)?.call_at(whole_ns(when), Timer::Foreign(timer)).into())
    }

    fn _timer_handle_cancelled(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = handle.py();
        let scheduled = handle.getattr(intern!(py, "_scheduled"))?;
        if let Ok(number) = scheduled.cast_exact::<PyInt>()
            && let Ok(key) = TimerKey::try_from(number.extract::<u64>()?)
        {
            self.cancel_timer(py, key);
        }
        Ok(())
    }

    #[getter]
    fn _ready(slf: &Bound<'_, Self>) -> ReadyQueue {
        ReadyQueue { event_loop: slf.clone().unbind() }
    }

    /// asyncio's `__init__` makes a deque here, which this loop does not have.
    #[setter(_ready)]
    fn ignore_ready(&self, _queue: &Bound<'_, PyAny>) {}

    #[getter]
    fn _debug(&self, py: Python<'_>) -> bool {
        self.is_debug(py)
    }

    #[setter(_debug)]
    fn set_debug(&self, debug: &Bound<'_, PyAny>) -> PyResult<()> {
        self.state(debug.py()).debug.set(debug.is_truthy()?);
        Ok(())
    }

    #[getter]
    fn _thread_id(&self, py: Python<'_>) -> Option<usize> {
        self.state(py).thread.get()
    }

    #[setter(_thread_id)]
    fn ignore_thread_id(&self, _ident: &Bound<'_, PyAny>) {}

    #[getter]
    fn _task_factory(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state(py).task_factory.borrow().as_ref().map(|factory| factory.clone_ref(py))
    }

    #[setter(_task_factory)]
    fn set_task_factory(&self, py: Python<'_>, factory: Option<Py<PyAny>>) {
        let old = self.state(py).task_factory.replace(factory);
        drop(old);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: called by the garbage collector.
        let state = unsafe { self.0.in_traverse() };
        let mut result = Ok(());
        if let Ok(model) = state.model.try_borrow()
            && let Some(model) = &*model
        {
            let all = RefCell::new(&mut result);
            let note = |next: Result<(), PyTraverseError>| {
                let mut result = all.borrow_mut();
                if result.is_ok() {
                    **result = next;
                }
            };
            model.inspect(
                |callback| note(callback.visit(&visit)),
                |sent| note(sent.visit(&visit)),
                |timer| note(timer.visit(&visit)),
                |source| note(source.visit(&visit)),
            );
        }
        result?;
        if let Ok(factory) = state.task_factory.try_borrow() {
            visit.call(&*factory)?;
        }
        if let Ok(keyword) = state.loop_keyword.try_borrow() {
            visit.call(&*keyword)?;
        }
        if let Ok(transports) = state.python_transports.try_borrow() {
            visit.call(&*transports)?;
        }
        if let Ok(deferred) = state.deferred.try_borrow() {
            deferred.iter().try_for_each(|transport| match transport {
                Deferred::Stream(stream) => visit.call(stream),
                Deferred::Tls(tls) => visit.call(tls),
            })?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            // An unreachable loop does not run; this is the end of `close`.
            let _ = self._close_native(py);
            drop(self.state(py).task_factory.take());
        });
    }
}

/// `loop._ready`, to which asyncio's own code appends handles.
#[pyclass(frozen, module = "velodrome._native")]
pub struct ReadyQueue {
    event_loop: Py<Loop>,
}

#[pymethods]
impl ReadyQueue {
    /// Queue a handle, from any thread.
    fn append(&self, py: Python<'_>, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        push_from_any_thread(self.event_loop.bind(py), Callback::from_handle(handle))
    }

    /// asyncio's `close` calls it; the loop clears its queue itself.
    fn clear(&self) {}
}
