//! The methods that run per callback, task or timer: `call_soon` and its kin, `create_future`,
//! `create_task`. They take CPython's calling convention as it is, without a tuple or a dict.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyAttributeError, PyTypeError},
    ffi, intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyFloat, PyInt, PyString, PyTuple},
};
use velodrome::Inbox;

use super::{
    Loop, Methods,
    registration::{Registration, handle_for, held_call, registration, registration_after},
};
use crate::{
    call::owned,
    callback::{Callback, Timer},
    error,
    fast::{Arguments, Method, raw_method},
    handle::{Handle, TimerHandle},
    imports::{loaded, seam},
};

#[inline]
fn call_soon<'py>(
    py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let state = slf.get().state(py);
    if state.debug.get() {
        return Loop::base(slf, "call_soon", arguments);
    }
    let registration = registration(py, "call_soon", arguments)?;
    // A closed loop is refused before anything is made for it.
    drop(slf.get().model(py)?);
    // A collection may run in here: nothing of the loop is borrowed.
    let call = held_call(py, registration, false)?;
    let is_step = registration.context.is_some()
        && !Loop::overrides(slf, Methods::CALL_SOON)
        && loaded(py)
            .step_lane
            .get(py)
            .is_some_and(|lane| lane.recognises(registration.callback, registration.arguments));
    if is_step {
        slf.get().model(py)?.call_soon(Callback::Call(call));
        return Ok(py.None());
    }
    // By now the caller of the last registration has let go of its handle, or keeps it.
    let given_up = slf.get().model(py)?.change_last(|last| last.give_up_handle(slf));
    let handle = handle_for(slf, call, given_up)?;
    slf.get().model(py)?.call_soon(Callback::Handle(handle.clone_ref(py)));
    Ok(handle.into_any())
}

fn call_soon_threadsafe<'py>(
    py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    if slf.get().state(py).debug.get() {
        return Loop::base(slf, "call_soon_threadsafe", arguments);
    }
    let registration = registration(py, "call_soon_threadsafe", arguments)?;
    // A closed loop is refused before anything is made for it.
    drop(slf.get().model(py)?);
    let call = held_call(py, registration, true)?;
    let model = slf.get().model(py)?;
    if slf.get().runs_in_this_thread(py) {
        let given_up = model.change_last(|last| last.give_up_handle(slf));
        drop(model);
        let handle = handle_for(slf, call, given_up)?;
        slf.get().model(py)?.call_soon(Callback::Handle(handle.clone_ref(py)));
        return Ok(handle.into_any());
    }
    // One lock for both: the handle that the last callback gives up goes into the queue again.
    let mut end = model.inbox().end();
    let given_up = end.last().and_then(|last| last.give_up_handle(slf));
    let call = match given_up {
        None => call,
        Some(handle) => match Handle::again(handle.bind(py), slf, call) {
            Ok(()) => {
                let pushed = end.push(Callback::Handle(handle.clone_ref(py)));
                drop(model);
                give_way_if_due(slf, pushed.map_err(|_| error::closed())?)?;
                return Ok(handle.into_any());
            }
            // It is somebody's, so nothing ends with this reference.
            Err(call) => call,
        },
    };
    drop(end);
    drop(model);
    let handle = handle_for(slf, call, None)?;
    push_from_any_thread(slf, Callback::Handle(handle.clone_ref(py)))?;
    Ok(handle.into_any())
}

/// Queues in order: directly in the loop's own thread, through the inbox from any other.
pub(super) fn push_from_any_thread(slf: &Bound<'_, Loop>, callback: Callback) -> PyResult<()> {
    let py = slf.py();
    let model = slf.get().model(py)?;
    if slf.get().runs_in_this_thread(py) {
        model.call_soon(callback);
        return Ok(());
    }
    let waiting = model.inbox().push(callback).map_err(|_| error::closed())?;
    drop(model);
    give_way_if_due(slf, waiting)
}

/// After a push by another thread: so many callbacks wait.
#[inline]
fn give_way_if_due(slf: &Bound<'_, Loop>, waiting: usize) -> PyResult<()> {
    if !waiting.is_multiple_of(POSTS_IN_A_ROW) {
        return Ok(());
    }
    let py = slf.py();
    let model = slf.get().model(py)?;
    if slf.get().is_running(py)
        && (waiting.is_multiple_of(MOST_POSTS_IN_A_ROW) || !model.waits_for_callbacks_only())
    {
        let inbox = Arc::clone(model.inbox());
        drop(model);
        give_way(py, &inbox);
    }
    Ok(())
}

/// Another thread may leave so many callbacks in the inbox before it lets the loop have the GIL...
const POSTS_IN_A_ROW: usize = 512;
/// ...and so many, a multiple of those, if the loop has neither descriptors nor timers to look after.
const MOST_POSTS_IN_A_ROW: usize = 4096;

/// Releases the GIL until the loop has looked into its inbox, but not for long.
///
/// A thread that posts without a pause would otherwise keep the GIL for the interpreter's switch
/// interval, thousands of posts long, and the loop would then run all of them before it looks at
/// its descriptors again.
#[cold]
fn give_way(py: Python<'_>, inbox: &Inbox<Callback>) {
    const LONGEST: Duration = Duration::from_micros(200);
    py.detach(|| {
        let start = Instant::now();
        while inbox.is_filled() && start.elapsed() < LONGEST {
            thread::yield_now();
        }
    });
}

/// Seconds to nanoseconds, rounded up so that no timer is early.
pub(super) fn whole_ns(seconds: f64) -> u64 {
    // The conversion saturates: the past is due at once, the infinite never.
    (seconds * 1e9).ceil() as u64
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn add_timer(
    slf: &Bound<'_, Loop>,
    delay: f64,
    when: f64,
    whole: Option<Py<PyInt>>,
    registration: Registration<'_>,
) -> PyResult<Py<PyAny>> {
    let py = slf.py();
    let timer = TimerHandle::new(slf, held_call(py, registration, false)?, when, whole)?;
    let queued = Timer::Native(timer.clone_ref(py));
    let delay_ns = (delay * 1e9) as u64;
    let key = slf.get().model(py)?.call_later(delay_ns, whole_ns(when), queued);
    timer.get().scheduled_as(py, key);
    Ok(timer.into_any())
}

fn call_later<'py>(
    py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let state = slf.get().state(py);
    if state.debug.get() || Loop::overrides(slf, Methods::TIME.or(Methods::CALL_AT)) {
        return Loop::base(slf, "call_later", arguments);
    }
    let (delay, registration) =
        registration_after(py, "call_later", intern!(py, "delay"), arguments)?;
    if delay.is_none() {
        return Err(PyTypeError::new_err("delay must not be None"));
    }
    let now = seconds(slf.get().model(py)?.now_ns());
    let whole = || delay.cast_exact::<PyInt>().ok()?.extract::<i32>().ok();
    // The delay as it was given: `when - now` would be a little more or less of it.
    let (delay, when) = if let Ok(delay) = delay.cast_exact::<PyFloat>() {
        (delay.value(), now + delay.value())
    } else if let Some(delay) = whole() {
        (f64::from(delay), now + f64::from(delay))
    } else {
        // Whatever Python can add to a float, with its errors.
        let when: f64 = PyFloat::new(py, now).add(delay)?.extract()?;
        (when - now, when)
    };
    add_timer(slf, delay, when, None, registration)
}

fn call_at<'py>(
    py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let (when, registration) = registration_after(py, "call_at", intern!(py, "when"), arguments)?;
    if when.is_none() {
        return Err(PyTypeError::new_err("when cannot be None"));
    }
    drop(slf.get().model(py)?);
    if slf.get().state(py).debug.get() {
        let (callback, arguments, context) = registration.to_objects(py)?;
        let made = seam(py, "call_at_debug", (slf, when, callback, arguments, context))?;
        return Ok(made.unbind());
    }
    let whole = when.cast_exact::<PyInt>().ok().map(|when| when.clone().unbind());
    add_timer(slf, 0.0, when.extract()?, whole, registration)
}

fn time<'py>(
    py: Python<'py>,
    _slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    arguments.refuse_all("time")?;
    // Not the model's, which may follow a subclass that asks here; and `time()` of a closed loop
    // works in asyncio, too.
    let now_ns = velodrome::Clock::Monotonic.now_ns();
    Ok(PyFloat::new(py, seconds(now_ns)).into_any().unbind())
}

fn get_debug<'py>(
    py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    arguments.refuse_all("get_debug")?;
    slf.get().is_debug(py).into_py_any(py)
}

fn create_future<'py>(
    _py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    arguments.refuse_all("create_future")?;
    new_future(slf)
}

/// The names of the arguments that `Future` and `Task` are given by name.
struct Keywords {
    of_loop: Py<PyTuple>,
    of_name: Py<PyTuple>,
    of_context: Py<PyTuple>,
    of_both: Py<PyTuple>,
}

fn keywords(py: Python<'_>) -> PyResult<&Keywords> {
    static KEYWORDS: PyOnceLock<Keywords> = PyOnceLock::new();
    KEYWORDS.get_or_try_init(py, || {
        let names = |names: &[&str]| {
            PyTuple::new(py, names.iter().map(|name| PyString::intern(py, name))).map(Bound::unbind)
        };
        Ok(Keywords {
            of_loop: names(&["loop"])?,
            of_name: names(&["loop", "name"])?,
            of_context: names(&["loop", "context"])?,
            of_both: names(&["loop", "name", "context"])?,
        })
    })
}

/// `class(*arguments)`, of which the last have names.
///
/// # Safety
/// The arguments are live objects, and at least as many as the names.
unsafe fn call_class<const N: usize>(
    class: &Bound<'_, PyAny>,
    arguments: [*mut ffi::PyObject; N],
    names: &Py<PyTuple>,
) -> PyResult<Py<PyAny>> {
    const { assert!(N <= 4) };
    let mut places = [std::ptr::null_mut(); 5];
    places[1..=N].copy_from_slice(&arguments);
    // SAFETY: `places[1..=N]` are the arguments, live as the caller says, and a name for each of
    // the last; the place in front may be written to.
    unsafe {
        let named = ffi::PyTuple_GET_SIZE(names.as_ptr()).cast_unsigned();
        let object = ffi::PyObject_Vectorcall(
            class.as_ptr(),
            places.as_ptr().add(1),
            (N - named) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            names.as_ptr(),
        );
        owned(class.py(), object)
    }
}

/// `class(*arguments, loop=loop)` for a class of C that forgets its keyword arguments, so that one
/// dictionary does for all calls.
fn call_c_class<'py>(
    slf: &Bound<'py, Loop>,
    class: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Py<PyAny>> {
    let py = slf.py();
    let known = &slf.get().state(py).loop_keyword;
    let keyword = known.borrow().as_ref().map(|keyword| keyword.bind(py).clone());
    let keyword = match keyword {
        Some(keyword) => keyword,
        None => {
            let keyword = PyDict::new(py);
            keyword.set_item(intern!(py, "loop"), slf)?;
            if slf.get().is_running(py) {
                // Only during a run, at whose end it goes: it keeps the loop alive.
                known.replace(Some(keyword.clone().unbind()));
            }
            keyword
        }
    };
    // SAFETY: a class, a tuple and a dictionary, alive during the call.
    unsafe { owned(py, ffi::PyObject_Call(class.as_ptr(), arguments.as_ptr(), keyword.as_ptr())) }
}

/// What a module has under a name now.
#[inline]
fn named<'py>(module: &Py<PyDict>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    let py = name.py();
    // SAFETY: a dictionary and a string, both alive; the borrowed result is made our own before
    // anything can change the dictionary.
    unsafe {
        let found = ffi::PyDict_GetItemWithError(module.as_ptr(), name.as_ptr());
        if !found.is_null() {
            return Ok(Bound::from_borrowed_ptr(py, found));
        }
    }
    Err(PyErr::take(py).unwrap_or_else(|| PyAttributeError::new_err(name.to_string())))
}

/// `asyncio.Future(loop=loop)`.
pub fn new_future(slf: &Bound<'_, Loop>) -> PyResult<Py<PyAny>> {
    let py = slf.py();
    let class = named(&loaded(py).futures, intern!(py, "Future"))?;
    if loaded(py).c_future.as_ref().is_some_and(|it| it.is(&class)) {
        return call_c_class(slf, &class, &PyTuple::empty(py));
    }
    // SAFETY: the receiver of the call under way, for the one name.
    unsafe { call_class(&class, [slf.as_ptr()], &keywords(py)?.of_loop) }
}

/// `asyncio.Task(coroutine, loop=loop)`, with the name and the context that are given.
fn create_task<'py>(
    py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    let state = slf.get().state(py);
    let &[coroutine] = arguments.positional() else {
        return Loop::base(slf, "create_task", arguments);
    };
    if state.debug.get() || state.task_factory.borrow().is_some() {
        return Loop::base(slf, "create_task", arguments);
    }
    let (mut name, mut context) = (None, None);
    for (keyword, value) in arguments.keywords() {
        // The interpreter's names are interned, as a rule.
        if keyword.is(intern!(py, "name")) {
            name = Some(value);
        } else if keyword.is(intern!(py, "context")) {
            context = Some(value);
        } else {
            return Loop::base(slf, "create_task", arguments);
        }
    }
    drop(slf.get().model(py)?);
    let class = named(&loaded(py).tasks, intern!(py, "Task"))?;
    if loaded(py).c_task.as_ref().is_some_and(|it| it.is(&class)) {
        // SAFETY: the singleton; it is only compared.
        let none = unsafe { ffi::Py_None() };
        (name, context) = (name.filter(|&it| it != none), context.filter(|&it| it != none));
        if name.is_none() && context.is_none() {
            // SAFETY: an argument of the call under way.
            let coroutine = unsafe { Bound::from_borrowed_ptr(py, coroutine) };
            return call_c_class(slf, &class, &PyTuple::new(py, [coroutine])?);
        }
    }
    let names = keywords(py)?;
    let event_loop = slf.as_ptr();
    // SAFETY: the receiver and the arguments of the call under way, in the order of the names.
    unsafe {
        match (name, context) {
            (None, None) => call_class(&class, [coroutine, event_loop], &names.of_loop),
            (Some(name), None) => call_class(&class, [coroutine, event_loop, name], &names.of_name),
            (None, Some(context)) => {
                call_class(&class, [coroutine, event_loop, context], &names.of_context)
            }
            (Some(name), Some(context)) => {
                let arguments = [coroutine, event_loop, name, context];
                call_class(&class, arguments, &names.of_both)
            }
        }
    }
}

raw_method!(raw_call_soon, Loop, call_soon);
raw_method!(raw_call_soon_threadsafe, Loop, call_soon_threadsafe);
raw_method!(raw_call_later, Loop, call_later);
raw_method!(raw_call_at, Loop, call_at);
raw_method!(raw_time, Loop, time);
raw_method!(raw_get_debug, Loop, get_debug);
raw_method!(raw_create_future, Loop, create_future);
raw_method!(raw_create_task, Loop, create_task);

pub const METHODS: &[Method] = &[
    Method {
        name: c"call_soon",
        call: raw_call_soon,
        doc: c"call_soon($self, callback, *args, context=None)\n--\n\n\
               Call callback(*args) in the next iteration of the loop, in order of registration.\n\n\
               It runs in context, or in a copy of the current one. Only from the loop's own\n\
               thread; elsewhere use call_soon_threadsafe. Returns a Handle. Raises RuntimeError\n\
               if the loop is closed.",
    },
    Method {
        name: c"call_soon_threadsafe",
        call: raw_call_soon_threadsafe,
        doc: c"call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n\
               Like call_soon, from any thread; ends the loop's sleep.",
    },
    Method {
        name: c"call_later",
        call: raw_call_later,
        doc: c"call_later($self, delay, callback, *args, context=None)\n--\n\n\
               Call callback(*args) after delay seconds (zero or less: in the next iteration).\n\n\
               Never early. Only from the loop's own thread. Returns a TimerHandle. Raises\n\
               TypeError if delay is None, RuntimeError if the loop is closed.",
    },
    Method {
        name: c"call_at",
        call: raw_call_at,
        doc: c"call_at($self, when, callback, *args, context=None)\n--\n\n\
               Like call_later, at an absolute time on the clock of time(), in seconds.",
    },
    Method {
        name: c"time",
        call: raw_time,
        doc: c"time($self, /)\n--\n\n\
               Return the loop's time in seconds: that of time.monotonic().",
    },
    Method {
        name: c"get_debug",
        call: raw_get_debug,
        doc: c"get_debug($self, /)\n--\n\nReturn whether the loop is in debug mode.",
    },
    Method {
        name: c"create_future",
        call: raw_create_future,
        doc: c"create_future($self, /)\n--\n\nCreate an asyncio.Future of this loop.",
    },
    Method {
        name: c"create_task",
        call: raw_create_task,
        doc: c"create_task($self, coro, **kwargs)\n--\n\n\
               Schedule a coroutine and return its Task.\n\n\
               The keyword arguments are those of asyncio.Task in the running Python. Raises\n\
               RuntimeError if the loop is closed.",
    },
];
