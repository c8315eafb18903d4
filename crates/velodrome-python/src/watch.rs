//! `add_reader`, `add_writer` and their removal: one watcher a direction and descriptor, which is a
//! handle or a pipe's transport.

use std::os::fd::RawFd;

use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyAttributeError, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::PyInt,
};
use velodrome::Interest;

use crate::{
    callback::{Source, Watcher},
    error::os_error,
    event_loop::{Loop, Registration, handle_for, held_call, registration_after},
    fast::{Arguments, Method, raw_method, unexpected_keyword},
    imports::seam,
    sock::SockWaiters,
};

/// The descriptor of an integer or of any object with a `fileno()`.
fn descriptor(object: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let py = object.py();
    if let Ok(number) = object.cast_exact::<PyInt>()
        && let Ok(fd @ 0..) = number.extract::<RawFd>()
    {
        return Ok(fd);
    }
    let number = if object.is_instance_of::<PyInt>() {
        object.clone()
    } else {
        let number = object
            .call_method0(intern!(py, "fileno"))
            .and_then(|number| py.get_type::<PyInt>().call1((number,)));
        number.map_err(|error| {
            let is_no_file = error.is_instance_of::<PyAttributeError>(py)
                || error.is_instance_of::<PyTypeError>(py)
                || error.is_instance_of::<PyValueError>(py);
            if !is_no_file {
                return error;
            }
            match object.repr() {
                Ok(object) => PyValueError::new_err(format!("Invalid file object: {object}")),
                Err(error) => error,
            }
        })?
    };
    if number.lt(0)? {
        return Err(PyValueError::new_err(format!("Invalid file descriptor: {number}")));
    }
    number.extract()
}

fn used_by(descriptor: &Bound<'_, PyAny>, transport: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let (descriptor, transport) = (descriptor.repr()?, transport.repr()?);
    Ok(PyRuntimeError::new_err(format!(
        "File descriptor {descriptor} is used by transport {transport}"
    )))
}

/// A descriptor that a transport uses is nobody else's to watch.
pub fn ensure_no_transport(
    event_loop: &Bound<'_, Loop>,
    object: &Bound<'_, PyAny>,
    fd: RawFd,
) -> PyResult<()> {
    let py = event_loop.py();
    let model = event_loop.get().model(py)?;
    let transport = model.reactor().look(fd, |source| source?.transport(py));
    drop(model);
    if let Some(transport) = transport
        && !transport.is_closing
    {
        return Err(used_by(object, &transport.object)?);
    }
    if Loop::has_python_transports(event_loop)? {
        seam(py, "ensure_no_python_transport", (event_loop, object, fd))?;
    }
    Ok(())
}

/// A reader and a writer.
type Sides = (Option<Watcher>, Option<Watcher>);

fn one_side(read: bool, watcher: Watcher) -> Sides {
    if read { (Some(watcher), None) } else { (None, Some(watcher)) }
}

impl Loop {
    /// Replaces the watcher of one direction, and tells the poller. Cancels the replaced one.
    pub fn watch(
        slf: &Bound<'_, Self>,
        file: Option<Py<PyAny>>,
        fd: RawFd,
        read: bool,
        watcher: Watcher,
    ) -> PyResult<()> {
        let py = slf.py();
        let model = slf.get().model(py)?;
        let is_alone = model.reactor().look(fd, |it| it.is_none_or(|it| it.watches_only(read)));
        if is_alone {
            drop(model);
            let old = Self::set_watch(slf, fd, one_side(read, watcher), file)?;
            return old.map_or(Ok(()), |old| Self::cancel_watch(slf, old));
        }
        drop(model);
        // What is dropped is released at once, although the thread may run no loop.
        Python::attach(|_| Self::watch_beside(slf, file, fd, read, watcher))
    }

    /// `watch` where somebody else hears of the descriptor.
    #[cold]
    fn watch_beside(
        slf: &Bound<'_, Self>,
        mut file: Option<Py<PyAny>>,
        fd: RawFd,
        read: bool,
        watcher: Watcher,
    ) -> PyResult<()> {
        let py = slf.py();
        let source = slf.get().model(py)?.reactor().source(fd);
        let mut stale = None;
        let mut sides = match source {
            Some(Source::Watch { reader, writer, file: present }) => {
                let mut sides = (reader, writer);
                let other = if read { &mut sides.1 } else { &mut sides.0 };
                // It may have watched a descriptor that is closed, and shall not hear of the new one.
                if other.is_some() && !slf.get().model(py)?.reactor().is_current(fd) {
                    stale = other.take();
                }
                if other.is_some() {
                    file = present;
                }
                sides
            }
            Some(Source::Sock(waiters)) => {
                // Those who wait in the other direction go on waiting, by a handle.
                let waiters = waiters.bind(py);
                let side = |read: bool| -> PyResult<Option<Watcher>> {
                    if !waiters.get().has_waiters(py, read) {
                        return Ok(None);
                    }
                    let handle = SockWaiters::as_handle(waiters, slf, read)?;
                    Ok(Some(Watcher::new(handle.as_any())))
                };
                (side(true)?, side(false)?)
            }
            Some(Source::Listener(listener)) if read => {
                listener.get().stop(py);
                (None, None)
            }
            // Never writable, so nothing is lost; and the server goes on.
            Some(Source::Listener(listener)) => {
                let (number, listener) = (fd.into_pyobject(py)?, listener.bind(py).repr()?);
                let message = format!("File descriptor {number} is used by {listener}");
                return Err(PyRuntimeError::new_err(message));
            }
            // The number may have got a new owner behind the extension's back.
            Some(Source::Record(_)) if slf.get().model(py)?.reactor().is_current(fd) => {
                let message = format!("File descriptor {fd} is used by an extension module");
                return Err(PyRuntimeError::new_err(message));
            }
            Some(source) => match source.transport(py) {
                // It is closing, and still writes what it has: its registration is not to be lost.
                Some(transport) => {
                    let number = fd.into_pyobject(py)?;
                    return Err(used_by(&number, &transport.object)?);
                }
                None => (None, None),
            },
            None => (None, None),
        };
        let side = if read { &mut sides.0 } else { &mut sides.1 };
        let replaced = side.replace(watcher);
        Self::set_watch(slf, fd, sides, file)?;
        [replaced, stale].into_iter().flatten().try_for_each(|watcher| watcher.cancel(slf))
    }

    /// Returns what it replaces.
    fn set_watch(
        slf: &Bound<'_, Self>,
        fd: RawFd,
        (reader, writer): Sides,
        file: Option<Py<PyAny>>,
    ) -> PyResult<Option<Source>> {
        let mut interest = Interest::NONE;
        if reader.is_some() {
            interest |= Interest::READ;
        }
        if writer.is_some() {
            interest |= Interest::WRITE;
        }
        let model = slf.get().model(slf.py())?;
        if interest == Interest::NONE {
            return Ok(model.reactor().deregister(fd));
        }
        let source = Source::Watch { reader, writer, file };
        model.reactor().register(fd, source, interest).map_err(os_error)
    }

    /// Cancels the watchers of a source that is registered no more.
    fn cancel_watch(slf: &Bound<'_, Self>, source: Source) -> PyResult<()> {
        let Source::Watch { reader, writer, file } = source else { return Ok(()) };
        let result =
            [reader, writer].into_iter().flatten().try_for_each(|watcher| watcher.cancel(slf));
        if let Some(file) = file {
            file.drop_ref(slf.py());
        }
        result
    }

    /// Ends the watch of one direction. True if there was one.
    pub fn unwatch(slf: &Bound<'_, Self>, fd: RawFd, read: bool) -> PyResult<bool> {
        let Ok(model) = slf.get().model(slf.py()) else { return Ok(false) };
        let is_alone = model.reactor().look(fd, |it| it.is_some_and(|it| it.watches_only(read)));
        if is_alone {
            let old = model.reactor().deregister(fd);
            drop(model);
            return old.map_or(Ok(()), |old| Self::cancel_watch(slf, old)).map(|()| true);
        }
        drop(model);
        Python::attach(|_| Self::unwatch_beside(slf, fd, read))
    }

    /// `unwatch` where it is not the only watcher of the descriptor.
    #[cold]
    fn unwatch_beside(slf: &Bound<'_, Self>, fd: RawFd, read: bool) -> PyResult<bool> {
        let source = slf.get().model(slf.py())?.reactor().source(fd);
        match source {
            Some(Source::Watch { mut reader, mut writer, file }) => {
                let side = if read { &mut reader } else { &mut writer };
                let Some(removed) = side.take() else { return Ok(false) };
                Self::set_watch(slf, fd, (reader, writer), file)?;
                removed.cancel(slf)?;
                Ok(true)
            }
            // How `asyncio.Server` stops to serve.
            Some(Source::Listener(listener)) if read => Ok(listener.get().stop(slf.py())),
            Some(_) | None => Ok(false),
        }
    }

    /// The handle of a new watcher.
    fn new_watcher<'py>(
        slf: &Bound<'py, Self>,
        registration: Registration<'_>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if slf.get().is_debug(py) {
            let (callback, arguments, context) = registration.to_objects(py)?;
            return seam(py, "watch_handle_debug", (slf, callback, arguments, context));
        }
        let call = held_call(py, registration, false)?;
        Ok(handle_for(slf, call, None)?.into_bound(py).into_any())
    }

    fn add<'py>(
        slf: &Bound<'py, Self>,
        file: &Bound<'py, PyAny>,
        fd: RawFd,
        read: bool,
        registration: Registration<'_>,
    ) -> PyResult<Bound<'py, PyAny>> {
        drop(slf.get().model(slf.py())?);
        let handle = Self::new_watcher(slf, registration)?;
        let file = (!file.is_instance_of::<PyInt>()).then(|| file.clone().unbind());
        Self::watch(slf, file, fd, read, Watcher::new(&handle))?;
        Ok(handle)
    }

    /// `_add_reader` and `_add_writer`.
    fn add_unchecked<'py>(
        slf: &Bound<'py, Self>,
        name: &str,
        read: bool,
        arguments: Arguments<'_, 'py>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let (file, registration) = registration_after(py, name, intern!(py, "fd"), arguments)?;
        let fd = descriptor(&file)?;
        Self::add(slf, &file, fd, read, registration).map(Bound::unbind)
    }

    /// `add_reader` and `add_writer`.
    #[inline]
    fn add_checked<'py>(
        slf: &Bound<'py, Self>,
        name: &str,
        read: bool,
        arguments: Arguments<'_, 'py>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let (file, registration) = registration_after(py, name, intern!(py, "fd"), arguments)?;
        if registration.context.is_some() {
            return Err(unexpected_keyword(name, "context"));
        }
        let fd = descriptor(&file)?;
        ensure_no_transport(slf, &file, fd)?;
        Self::add(slf, &file, fd, read, registration)?;
        Ok(py.None())
    }

    /// `remove_reader` and `remove_writer`.
    #[inline]
    fn remove<'py>(
        slf: &Bound<'py, Self>,
        name: &str,
        read: bool,
        arguments: Arguments<'_, 'py>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let file = arguments.only(name, intern!(py, "fd"))?;
        // SAFETY: an argument of the call under way.
        let file = unsafe { Bound::from_borrowed_ptr(py, file) };
        Self::stop_watching(slf, &file, read)?.into_py_any(py)
    }

    fn stop_watching(slf: &Bound<'_, Self>, file: &Bound<'_, PyAny>, read: bool) -> PyResult<bool> {
        let py = slf.py();
        let fd = match descriptor(file) {
            Ok(fd) => fd,
            // No descriptor has such a number, so nobody watches it.
            Err(error) if error.is_instance_of::<PyOverflowError>(py) => return Ok(false),
            // It was closed before it was removed, and is known by itself.
            Err(error) => match Self::number_of_watched(slf, file) {
                Some(fd) => return Self::unwatch(slf, fd, read),
                None => return Err(error),
            },
        };
        if slf.get().model(py).is_err() {
            return Ok(false);
        }
        ensure_no_transport(slf, file, fd)?;
        Self::unwatch(slf, fd, read)
    }

    #[cold]
    fn number_of_watched(slf: &Bound<'_, Self>, file: &Bound<'_, PyAny>) -> Option<RawFd> {
        let model = slf.get().model(slf.py()).ok()?;
        model.reactor().find(|source| {
            matches!(source, Source::Watch { file: Some(watched), .. } if watched.is(file))
        })
    }
}

#[pymethods]
impl Loop {
    fn _remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        if slf.get().model(slf.py()).is_err() {
            return Ok(false);
        }
        Self::unwatch(slf, descriptor(fd)?, true)
    }

    fn _remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        if slf.get().model(slf.py()).is_err() {
            return Ok(false);
        }
        Self::unwatch(slf, descriptor(fd)?, false)
    }

    fn _ensure_fd_no_transport(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<()> {
        let number = descriptor(fd)?;
        ensure_no_transport(slf, fd, number)
    }
}

fn add_reader<'py>(
    _py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    Loop::add_checked(slf, "add_reader", true, arguments)
}

fn add_writer<'py>(
    _py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    Loop::add_checked(slf, "add_writer", false, arguments)
}

fn remove_reader<'py>(
    _py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    Loop::remove(slf, "remove_reader", true, arguments)
}

fn remove_writer<'py>(
    _py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    Loop::remove(slf, "remove_writer", false, arguments)
}

fn add_reader_unchecked<'py>(
    _py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    Loop::add_unchecked(slf, "_add_reader", true, arguments)
}

fn add_writer_unchecked<'py>(
    _py: Python<'py>,
    slf: &Bound<'py, Loop>,
    arguments: Arguments<'_, 'py>,
) -> PyResult<Py<PyAny>> {
    Loop::add_unchecked(slf, "_add_writer", false, arguments)
}

raw_method!(raw_add_reader, Loop, add_reader);
raw_method!(raw_add_writer, Loop, add_writer);
raw_method!(raw_remove_reader, Loop, remove_reader);
raw_method!(raw_remove_writer, Loop, remove_writer);
raw_method!(raw_add_reader_unchecked, Loop, add_reader_unchecked);
raw_method!(raw_add_writer_unchecked, Loop, add_writer_unchecked);

pub const METHODS: &[Method] = &[
    Method {
        name: c"add_reader",
        call: raw_add_reader,
        doc: c"add_reader($self, fd, callback, *args)\n--\n\n\
               Call callback(*args) whenever fd (an integer or an object with fileno()) is\n\
               readable.\n\n\
               Replaces an earlier reader of fd. Raises ValueError for what is no descriptor,\n\
               OSError for what cannot be polled, RuntimeError if a transport uses fd.",
    },
    Method {
        name: c"add_writer",
        call: raw_add_writer,
        doc: c"add_writer($self, fd, callback, *args)\n--\n\n\
               Call callback(*args) whenever fd is writable; otherwise like add_reader.",
    },
    Method {
        name: c"remove_reader",
        call: raw_remove_reader,
        doc: c"remove_reader($self, fd)\n--\n\n\
               Stop watching fd for reading. Returns whether it was watched.",
    },
    Method {
        name: c"remove_writer",
        call: raw_remove_writer,
        doc: c"remove_writer($self, fd)\n--\n\n\
               Stop watching fd for writing. Returns whether it was watched.",
    },
    Method {
        name: c"_add_reader",
        call: raw_add_reader_unchecked,
        doc: c"_add_reader($self, fd, callback, *args, context=None)\n--\n\n",
    },
    Method {
        name: c"_add_writer",
        call: raw_add_writer_unchecked,
        doc: c"_add_writer($self, fd, callback, *args, context=None)\n--\n\n",
    },
];
