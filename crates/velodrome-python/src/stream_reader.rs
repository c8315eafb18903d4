//! What `asyncio.StreamReaderProtocol.data_received` does, without its four Python frames and
//! without a `bytes` in between.
//!
//! Only for exactly asyncio's classes and their own `data_received` and `feed_data`: a subclass, one
//! of the two that was replaced, on the class or on the object, before the first connection or later, or
//! an attribute that is not what it should be means that the method is called as ever.

use pyo3::{
    exceptions::PyNotImplementedError,
    ffi, intern,
    prelude::*,
    sync::PyOnceLock,
    types::{
        PyBool, PyByteArray, PyByteArrayMethods, PyFunction, PyModule, PyString, PyType,
        PyWeakrefMethods, PyWeakrefReference,
    },
};

use crate::{
    call::call_method,
    imports::{module, once},
};

unsafe extern "C" {
    static mut PyMethod_Type: ffi::PyTypeObject;
    fn PyMethod_Function(method: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

pub struct StreamReaders {
    protocol_class: Py<PyType>,
    reader_class: Py<PyType>,
    /// `None` if the class did not have its own when we came: then nobody is fed without a call.
    data_received: Option<Py<PyAny>>,
    feed_data: Option<Py<PyAny>>,
}

/// Who was fed, and is to be told.
pub struct Fed<'py>(Bound<'py, PyAny>);

static STREAM_READERS: PyOnceLock<StreamReaders> = PyOnceLock::new();

/// Notes asyncio's classes and their methods, before there is a transport.
pub fn learn(py: Python<'_>) -> PyResult<()> {
    once(py, &STREAM_READERS, || StreamReaders::new(py)).map(drop)
}

/// What was noted, for transports.
#[inline]
pub fn stream_readers(py: Python<'_>) -> &'static StreamReaders {
    STREAM_READERS
        .get(py)
        .expect("`connection_classes.rs` learns before the first transport exists")
}

impl StreamReaders {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let streams = module(py, "asyncio.streams")?;
        let protocol_class = streams.getattr("StreamReaderProtocol")?.cast_into::<PyType>()?;
        let reader_class = streams.getattr("StreamReader")?.cast_into::<PyType>()?;
        Ok(StreamReaders {
            data_received: own_method(&streams, &protocol_class, "data_received")?,
            feed_data: own_method(&streams, &reader_class, "feed_data")?,
            protocol_class: protocol_class.unbind(),
            reader_class: reader_class.unbind(),
        })
    }

    pub fn is_protocol(&self, protocol: &Bound<'_, PyAny>) -> bool {
        protocol.get_type().is(&self.protocol_class)
    }

    /// Appends `data`, which is not empty, to the buffer of the protocol's reader. `None`: nothing
    /// has happened, and `data_received` is to be called. Runs no Python code.
    #[inline]
    pub fn append<'py>(
        &self,
        protocol: &Bound<'py, PyAny>,
        data: &[u8],
    ) -> PyResult<Option<Fed<'py>>> {
        let py = protocol.py();
        if !is_method(protocol, intern!(py, "data_received"), &self.data_received)? {
            return Ok(None);
        }
        let reference = protocol.getattr(intern!(py, "_stream_reader_wr"))?;
        let Ok(reference) = reference.cast_exact::<PyWeakrefReference>() else { return Ok(None) };
        let Some(reader) = reference.upgrade() else { return Ok(None) };
        if !reader.get_type().is(&self.reader_class)
            || !is_method(&reader, intern!(py, "feed_data"), &self.feed_data)?
            || !reader.getattr(intern!(py, "_eof"))?.is(PyBool::new(py, false))
        {
            return Ok(None);
        }
        let buffer = reader.getattr(intern!(py, "_buffer"))?;
        let Ok(buffer) = buffer.cast_exact::<PyByteArray>() else { return Ok(None) };
        let len = PyByteArrayMethods::len(buffer);
        buffer.resize(len + data.len())?;
        // SAFETY: the GIL is held and no Python code runs while the slice exists.
        let bytes = unsafe { buffer.as_bytes_mut() };
        bytes[len..].copy_from_slice(data);
        Ok(Some(Fed(reader)))
    }
}

impl Fed<'_> {
    /// Wakes who waits for data, and pauses the transport if there is too much.
    #[inline]
    pub fn tell(self) -> PyResult<()> {
        let Fed(reader) = self;
        let py = reader.py();
        let waiter = reader.getattr(intern!(py, "_waiter"))?;
        if !waiter.is_none() {
            reader.setattr(intern!(py, "_waiter"), py.None())?;
            let waiter = waiter.unbind();
            if !call_method(py, &waiter, intern!(py, "cancelled"), [])?.is_truthy(py)? {
                let none = py.None();
                call_method(py, &waiter, intern!(py, "set_result"), [none.as_ptr()])?;
            }
        }
        let buffered = reader.getattr(intern!(py, "_buffer"))?.len()?;
        let limit = reader.getattr(intern!(py, "_limit"))?;
        // An int of the user's may be of any size.
        if limit.extract::<usize>().is_ok_and(|limit| buffered <= limit.saturating_mul(2)) {
            return Ok(());
        }
        pause(&reader, buffered, &limit)
    }
}

#[cold]
fn pause(reader: &Bound<'_, PyAny>, buffered: usize, limit: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = reader.py();
    let transport = reader.getattr(intern!(py, "_transport"))?;
    let may_pause = !transport.is_none() && !reader.getattr(intern!(py, "_paused"))?.is_truthy()?;
    if !may_pause || limit.mul(2)?.ge(buffered)? {
        return Ok(());
    }
    match call_method(py, &transport.unbind(), intern!(py, "pause_reading"), []) {
        Ok(_) => reader.setattr(intern!(py, "_paused"), true),
        Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
            reader.setattr(intern!(py, "_transport"), py.None())
        }
        Err(error) => Err(error),
    }
}

/// The method of a class of the module, if it is what the module's source says: whoever wraps it
/// may copy its name, but not where its code is from.
fn own_method(
    module: &Bound<'_, PyModule>,
    class: &Bound<'_, PyType>,
    name: &str,
) -> PyResult<Option<Py<PyAny>>> {
    let found = class.getattr(name)?;
    if found.cast_exact::<PyFunction>().is_err() {
        return Ok(None);
    }
    let code_name = found.getattr("__code__")?.getattr("co_qualname")?;
    let is_own = found.getattr("__globals__")?.is(module.dict())
        && code_name.eq(format!("{}.{name}", class.name()?))?;
    Ok(is_own.then(|| found.unbind()))
}

/// Whether `object.name` is the method that `function` makes.
#[inline]
fn is_method(
    object: &Bound<'_, PyAny>,
    name: &Bound<'_, PyString>,
    function: &Option<Py<PyAny>>,
) -> PyResult<bool> {
    let Some(function) = function else { return Ok(false) };
    let found = object.getattr(name)?;
    // SAFETY: a live object; the function, which is borrowed from it, is only asked of what is
    // exactly a method.
    Ok(unsafe {
        ffi::Py_TYPE(found.as_ptr()) == &raw mut PyMethod_Type
            && PyMethod_Function(found.as_ptr()) == function.as_ptr()
    })
}
