//! Methods in CPython's own fast calling convention, for what runs per callback or per packet.
//!
//! A `#[pymethods]` function with `*args` gets a tuple built for each call. These get the
//! caller's argument array itself (`METH_FASTCALL | METH_KEYWORDS`) and are put on a class with
//! [`add_methods`] when the class is made; those of the loop also on the package's class, when
//! that is made.

use std::{
    ffi::CStr,
    panic::{AssertUnwindSafe, catch_unwind},
    slice,
};

use pyo3::{
    PyClass,
    exceptions::PyTypeError,
    ffi,
    panic::PanicException,
    prelude::*,
    types::{PyDict, PyString, PyTuple, PyType},
};

pub type RawMethod = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// One method for [`add_methods`]. The docstring starts with the signature, as CPython's do:
/// `name($self, ...)\n--\n\n` and then the text.
pub struct Method {
    pub name: &'static CStr,
    pub call: RawMethod,
    pub doc: &'static CStr,
}

/// Puts methods on a class.
pub fn add_methods(class: &Bound<'_, PyType>, methods: &[Method]) -> PyResult<()> {
    for method in methods {
        // The interpreter keeps a pointer to the definition for as long as the class lives.
        let definition = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: method.name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: method.call },
            ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            ml_doc: method.doc.as_ptr(),
        }));
        // SAFETY: the class is a type object and the definition is never freed.
        let descriptor = unsafe {
            Bound::from_owned_ptr_or_err(
                class.py(),
                ffi::PyDescr_NewMethod(class.as_type_ptr(), definition),
            )
        }?;
        // SAFETY: the class is a heap type, whose dictionary is its own; the names, which the
        // descriptors have interned, are none that classes have slots for.
        unsafe {
            let dict = (*class.as_type_ptr()).tp_dict;
            let dict = Bound::from_borrowed_ptr(class.py(), dict).cast_into_unchecked::<PyDict>();
            let name = (*descriptor.as_ptr().cast::<ffi::PyDescrObject>()).d_name;
            dict.set_item(Bound::from_borrowed_ptr(class.py(), name), descriptor)?;
        }
    }
    // SAFETY: a class; it forgets what it has found under these names.
    unsafe { ffi::PyType_Modified(class.as_type_ptr()) };
    Ok(())
}

/// Whether it is a descriptor that [`add_methods`] made for this function.
pub fn is_method(object: &Bound<'_, PyAny>, function: RawMethod) -> bool {
    // SAFETY: a live object. The method descriptors of the interpreter, whose class cannot be
    // subclassed, have a definition, and its flags say which function is in it.
    unsafe {
        if ffi::Py_TYPE(object.as_ptr()) != (&raw mut ffi::PyMethodDescr_Type) {
            return false;
        }
        let definition = (*object.as_ptr().cast::<ffi::PyMethodDescrObject>()).d_method;
        (*definition).ml_flags == ffi::METH_FASTCALL | ffi::METH_KEYWORDS
            && std::ptr::fn_addr_eq((*definition).ml_meth.PyCFunctionFastWithKeywords, function)
    }
}

/// The number that a class keeps while nothing of it or of those above it changes; 0 is none.
#[inline]
pub fn version(class: &Bound<'_, PyType>) -> u32 {
    // SAFETY: a live class; the interpreter writes the number with the GIL held.
    unsafe { (*class.as_type_ptr()).tp_version_tag }
}

/// The [`version`] of an object's class.
#[inline]
pub fn class_version(object: &Bound<'_, PyAny>) -> u32 {
    // SAFETY: as above: a live object's class lives.
    unsafe { (*ffi::Py_TYPE(object.as_ptr())).tp_version_tag }
}

/// The arguments of one call, borrowed from the caller.
#[derive(Clone, Copy)]
pub struct Arguments<'a, 'py> {
    py: Python<'py>,
    values: &'a [*mut ffi::PyObject],
    positional: usize,
    keywords: *mut ffi::PyObject,
}

impl<'a, 'py> Arguments<'a, 'py> {
    #[inline]
    pub fn positional(&self) -> &'a [*mut ffi::PyObject] {
        &self.values[..self.positional]
    }

    #[inline]
    pub fn has_keywords(&self) -> bool {
        self.values.len() > self.positional
    }

    /// The names and values of the keyword arguments.
    pub fn keywords(
        &self,
    ) -> impl Iterator<Item = (Bound<'py, PyString>, *mut ffi::PyObject)> + use<'a, 'py> {
        let (py, keywords) = (self.py, self.keywords);
        self.values[self.positional..].iter().enumerate().map(move |(index, &value)| {
            // SAFETY: there is a value for each name, so `keywords` is a tuple of that many strings.
            let name = unsafe {
                let name = ffi::PyTuple_GET_ITEM(keywords, index as ffi::Py_ssize_t);
                Bound::from_borrowed_ptr(py, name).cast_into_unchecked::<PyString>()
            };
            (name, value)
        })
    }

    /// TypeError if there are any.
    #[inline]
    pub fn refuse_all(&self, function: &str) -> PyResult<()> {
        if self.values.is_empty() {
            return Ok(());
        }
        let [] = self.take_keywords(function, [])?;
        Err(PyTypeError::new_err(format!(
            "{function}() takes 1 positional argument but {} were given",
            self.positional + 1
        )))
    }

    /// Sorts the keyword arguments into the places of `names`; any other name is a TypeError.
    #[inline]
    pub fn take_keywords<const N: usize>(
        &self,
        function: &str,
        names: [&Bound<'py, PyString>; N],
    ) -> PyResult<[Option<*mut ffi::PyObject>; N]> {
        let mut found = [None; N];
        'keywords: for (name, value) in self.keywords() {
            for (place, known) in found.iter_mut().zip(names) {
                if name.is(known) || name.as_any().eq(known)? {
                    *place = Some(value);
                    continue 'keywords;
                }
            }
            return Err(unexpected_keyword(function, &name.to_string()));
        }
        Ok(found)
    }

    /// The one argument of a method that takes no other, by place or by name.
    #[inline]
    pub fn only(
        &self,
        function: &str,
        name: &Bound<'py, PyString>,
    ) -> PyResult<*mut ffi::PyObject> {
        match *self.positional() {
            [value] if !self.has_keywords() => Ok(value),
            [] => {
                let [value] = self.take_keywords(function, [name])?;
                value.ok_or_else(|| {
                    PyTypeError::new_err(format!(
                        "{function}() missing 1 required positional argument: '{name}'"
                    ))
                })
            }
            _ => Err(PyTypeError::new_err(format!("{function}() takes exactly one argument"))),
        }
    }

    /// The arguments as Python would pass them on: a tuple and a dictionary.
    pub fn to_call(
        self,
    ) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, pyo3::types::PyDict>>)> {
        // SAFETY: the caller's array holds borrowed references that live as long as the call.
        let object = |value: *mut ffi::PyObject| unsafe {
            Bound::<PyAny>::from_borrowed_ptr(self.py, value)
        };
        let tuple = PyTuple::new(self.py, self.positional().iter().map(|&value| object(value)))?;
        if !self.has_keywords() {
            return Ok((tuple, None));
        }
        let dict = pyo3::types::PyDict::new(self.py);
        for (name, value) in self.keywords() {
            dict.set_item(name, object(value))?;
        }
        Ok((tuple, Some(dict)))
    }
}

#[cold]
pub fn unexpected_keyword(function: &str, name: &str) -> PyErr {
    PyTypeError::new_err(format!("{function}() got an unexpected keyword argument '{name}'"))
}

/// Enters Rust from a raw method: takes the receiver and the arguments apart, and turns errors
/// and panics into Python exceptions.
///
/// # Safety
/// To be called by CPython only, through a descriptor on the class `T` or on one below it: then `receiver` is an
/// instance of `T`, and `values` holds `count` positional and then the keyword values.
#[inline(always)]
pub unsafe fn enter<T: PyClass>(
    receiver: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
    method: impl for<'a, 'py> FnOnce(
        Python<'py>,
        &'a Bound<'py, T>,
        Arguments<'a, 'py>,
    ) -> PyResult<Py<PyAny>>,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls methods in attached threads. (`Python::attach` would cost a look at
    // thread-local state; without it a reference that Rust drops in a thread that runs no loop is
    // released a little later, by PyO3's pool.)
    let py = unsafe { Python::assume_attached() };
    {
        let body = AssertUnwindSafe(|| {
            let positional = count.cast_unsigned();
            // SAFETY: by the duties above, `keywords` is null or a tuple of names, and `values`
            // is followed by one value for each of them.
            let (receiver, values) = unsafe {
                let named =
                    if keywords.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(keywords) as usize };
                let values: &[*mut ffi::PyObject] = if positional + named == 0 {
                    &[]
                } else {
                    slice::from_raw_parts(values, positional + named)
                };
                (Bound::ref_from_ptr(py, &receiver).cast_unchecked::<T>(), values)
            };
            let result = method(py, receiver, Arguments { py, values, positional, keywords });
            // In here, so that no more than a pointer comes out: the processor waits for what is
            // read as a whole when it was just written in parts.
            pointer_or_raise(py, result)
        });
        catch_unwind(body).unwrap_or_else(|panic| {
            let message = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "panic without a message".to_owned());
            pointer_or_raise(py, Err(PanicException::new_err(message)))
        })
    }
}

#[inline]
fn pointer_or_raise(py: Python<'_>, result: PyResult<Py<PyAny>>) -> *mut ffi::PyObject {
    match result {
        Ok(value) => value.into_ptr(),
        Err(error) => {
            error.restore(py);
            std::ptr::null_mut()
        }
    }
}

/// Defines the C function of a raw method of `$class` by calling `$method`.
macro_rules! raw_method {
    ($raw:ident, $class:ty, $method:path) => {
        unsafe extern "C" fn $raw(
            receiver: *mut pyo3::ffi::PyObject,
            values: *const *mut pyo3::ffi::PyObject,
            count: pyo3::ffi::Py_ssize_t,
            keywords: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: CPython calls this through a descriptor on the class (`add_methods`).
            unsafe { $crate::fast::enter::<$class>(receiver, values, count, keywords, $method) }
        }
    };
}
pub(crate) use raw_method;

/// Replaces a class's `tp_traverse`, for objects that exist in great numbers: the garbage
/// collector calls it several times an object, and PyO3's own does more than is needed here.
pub fn set_traverse(class: &Bound<'_, PyType>, traverse: ffi::traverseproc) {
    // SAFETY: the class is a heap type of this module, which is being initialised with the GIL
    // held, and has no instance yet.
    unsafe { (*class.as_type_ptr()).tp_traverse = Some(traverse) };
}

/// Replaces a class's `tp_dealloc`, and returns what it was.
pub fn set_dealloc(class: &Bound<'_, PyType>, dealloc: ffi::destructor) -> Option<ffi::destructor> {
    // SAFETY: as above.
    unsafe { (*class.as_type_ptr()).tp_dealloc.replace(dealloc) }
}
