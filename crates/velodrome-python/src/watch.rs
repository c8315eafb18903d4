//! `add_reader`, `add_writer` and their removal: one watcher a direction and descriptor, which is a
//! handle or a pipe's transport.

use std::os::fd::RawFd;

use pyo3::{
    exceptions::{PyAttributeError, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::{PyDict, PyInt, PyTuple},
};
use velodrome::Interest;

use crate::{
    call::{Call, Held, copy_context},
    callback::{Source, Watcher},
    error::os_error,
    event_loop::Loop,
    handle::Handle,
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
    let source = event_loop.get().model(py)?.reactor().source(fd);
    if let Some(transport) = source.and_then(|source| source.transport(py))
        && !transport.is_closing
    {
        return Err(used_by(object, &transport.object)?);
    }
    // The transports that asyncio has in Python are in a dictionary of its own, a weak one, whose
    // length is a call in Python: as a rule there is nothing in it at all.
    let others = event_loop.getattr(intern!(py, "_transports"))?;
    let is_empty = others
        .getattr_opt(intern!(py, "data"))?
        .is_some_and(|data| data.cast_exact::<PyDict>().is_ok_and(|data| data.is_empty()));
    if !is_empty && others.is_truthy()? {
        seam(py, "ensure_no_python_transport", (event_loop, object, fd))?;
    }
    Ok(())
}

impl Loop {
    /// Replaces the watcher of one direction, and tells the poller. Cancels the replaced one.
    pub fn watch(
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
        [replaced, stale].into_iter().flatten().try_for_each(|watcher| watcher.cancel(py))
    }

    fn set_watch(
        slf: &Bound<'_, Self>,
        fd: RawFd,
        (reader, writer): (Option<Watcher>, Option<Watcher>),
        file: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let mut interest = Interest::NONE;
        if reader.is_some() {
            interest |= Interest::READ;
        }
        if writer.is_some() {
            interest |= Interest::WRITE;
        }
        let model = slf.get().model(slf.py())?;
        let old = if interest == Interest::NONE {
            model.reactor().deregister(fd)
        } else {
            let source = Source::Watch { reader, writer, file };
            model.reactor().register(fd, source, interest).map_err(os_error)?
        };
        drop(model);
        drop(old);
        Ok(())
    }

    /// Ends the watch of one direction. True if there was one.
    pub fn unwatch(slf: &Bound<'_, Self>, fd: RawFd, read: bool) -> PyResult<bool> {
        let py = slf.py();
        let source = match slf.get().model(py) {
            Ok(model) => model.reactor().source(fd),
            Err(_) => return Ok(false),
        };
        match source {
            Some(Source::Watch { mut reader, mut writer, file }) => {
                let side = if read { &mut reader } else { &mut writer };
                let Some(removed) = side.take() else { return Ok(false) };
                Self::set_watch(slf, fd, (reader, writer), file)?;
                removed.cancel(py)?;
                Ok(true)
            }
            // How `asyncio.Server` stops to serve.
            Some(Source::Listener(listener)) if read => Ok(listener.get().stop(py)),
            Some(_) | None => Ok(false),
        }
    }

    fn new_watcher<'py>(
        slf: &Bound<'py, Self>,
        callback: Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if slf.get().is_debug(py) {
            return seam(py, "watch_handle_debug", (slf, callback, arguments, context));
        }
        let values: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
        let context = match context {
            Some(context) => context.unbind(),
            None => copy_context(py)?,
        };
        let call = Call {
            callback: callback.unbind(),
            arguments: Held::new(py, &values)?,
            context,
            thread_safe: false,
        };
        Ok(Bound::new(py, Handle::new(slf, call))?.into_any())
    }

    fn add<'py>(
        slf: &Bound<'py, Self>,
        file: &Bound<'py, PyAny>,
        fd: RawFd,
        read: bool,
        callback: Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        drop(slf.get().model(slf.py())?);
        let handle = Self::new_watcher(slf, callback, arguments, context)?;
        let file = (!file.is_instance_of::<PyInt>()).then(|| file.clone().unbind());
        Self::watch(slf, file, fd, read, Watcher::new(&handle))?;
        Ok(handle)
    }
}

#[pymethods]
impl Loop {
    /// Call callback(*args) whenever fd (an integer or an object with fileno()) is readable.
    ///
    /// Replaces an earlier reader of fd. Raises ValueError for what is no descriptor, OSError for
    /// what cannot be polled, RuntimeError if a transport uses fd.
    #[pyo3(signature = (fd, callback, *args))]
    fn add_reader<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
    ) -> PyResult<()> {
        let number = descriptor(fd)?;
        ensure_no_transport(slf, fd, number)?;
        Self::add(slf, fd, number, true, callback, args, None).map(drop)
    }

    /// Call callback(*args) whenever fd is writable; otherwise like add_reader.
    #[pyo3(signature = (fd, callback, *args))]
    fn add_writer<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
    ) -> PyResult<()> {
        let number = descriptor(fd)?;
        ensure_no_transport(slf, fd, number)?;
        Self::add(slf, fd, number, false, callback, args, None).map(drop)
    }

    /// Stop watching fd for reading. Returns whether it was watched.
    fn remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::remove(slf, fd, true)
    }

    /// Stop watching fd for writing. Returns whether it was watched.
    fn remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::remove(slf, fd, false)
    }

    #[pyo3(signature = (fd, callback, *args, context = None))]
    fn _add_reader<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::add(slf, fd, descriptor(fd)?, true, callback, args, context)
    }

    #[pyo3(signature = (fd, callback, *args, context = None))]
    fn _add_writer<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::add(slf, fd, descriptor(fd)?, false, callback, args, context)
    }

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

impl Loop {
    fn remove(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>, read: bool) -> PyResult<bool> {
        let py = slf.py();
        let number = match descriptor(fd) {
            Ok(number) => number,
            // No descriptor has such a number, so nobody watches it.
            Err(error) if error.is_instance_of::<PyOverflowError>(py) => return Ok(false),
            // It was closed before it was removed, and is known by itself.
            Err(error) => match Self::number_of_watched(slf, fd) {
                Some(number) => return Self::unwatch(slf, number, read),
                None => return Err(error),
            },
        };
        if slf.get().model(py).is_err() {
            return Ok(false);
        }
        ensure_no_transport(slf, fd, number)?;
        Self::unwatch(slf, number, read)
    }

    #[cold]
    fn number_of_watched(slf: &Bound<'_, Self>, file: &Bound<'_, PyAny>) -> Option<RawFd> {
        let model = slf.get().model(slf.py()).ok()?;
        model.reactor().find(|source| {
            matches!(source, Source::Watch { file: Some(watched), .. } if watched.is(file))
        })
    }
}
