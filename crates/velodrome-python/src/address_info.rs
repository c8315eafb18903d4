//! `getaddrinfo` of an address and a port that are numbers, without asking Python's.

use std::ffi::{CStr, c_char, c_int};

use pyo3::{
    IntoPyObjectExt, ffi, intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyFunction, PyInt, PyList, PyModule},
};

use crate::{address, imports::once};

unsafe extern "C" {
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
}

/// A constant of the `socket` module: a member of an enumeration, and its number.
struct Constant {
    member: Py<PyAny>,
    number: c_int,
}

impl Constant {
    fn new(socket: &Bound<'_, PyModule>, name: &str) -> PyResult<Self> {
        let member = socket.getattr(name)?;
        Ok(Constant { number: member.extract()?, member: member.unbind() })
    }
}

struct Constants {
    socket: Py<PyModule>,
    inet: Constant,
    inet6: Constant,
    /// Each with the protocol that is its own.
    kinds: [(Constant, c_int); 2],
}

static CONSTANTS: PyOnceLock<Constants> = PyOnceLock::new();

impl Constants {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let socket = py.import("socket")?;
        let number = |name| socket.getattr(name)?.extract::<c_int>();
        Ok(Constants {
            inet: Constant::new(&socket, "AF_INET")?,
            inet6: Constant::new(&socket, "AF_INET6")?,
            kinds: [
                (Constant::new(&socket, "SOCK_STREAM")?, number("IPPROTO_TCP")?),
                (Constant::new(&socket, "SOCK_DGRAM")?, number("IPPROTO_UDP")?),
            ],
            socket: socket.unbind(),
        })
    }

    /// Whether nobody has put a function of their own in the place of the module's.
    fn is_original(&self, function: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = function.py();
        if function.cast_exact::<PyFunction>().is_err() {
            return Ok(false);
        }
        // SAFETY: it is a function, as just checked; its globals are only compared.
        let globals = unsafe { ffi::PyFunction_GetGlobals(function.as_ptr()) };
        let code = function.getattr(intern!(py, "__code__"))?;
        Ok(globals == self.socket.bind(py).dict().as_ptr()
            && code.getattr(intern!(py, "co_name"))?.eq(intern!(py, "getaddrinfo"))?)
    }
}

/// The answer for the commonest numbers; auditors are told as by Python's own.
pub fn numeric<'py>(
    function: &Bound<'py, PyAny>,
    (host, port): (&Bound<'py, PyAny>, &Bound<'py, PyAny>),
    numbers: [&Bound<'py, PyAny>; 4],
) -> PyResult<Option<Bound<'py, PyList>>> {
    let py = function.py();
    let constants = once(py, &CONSTANTS, || Constants::new(py))?;
    let number = |object: &Bound<'py, PyAny>| object.cast::<PyInt>().ok()?.extract::<c_int>().ok();
    let [Some(family), Some(kind), Some(protocol), Some(0)] = numbers.map(number) else {
        return Ok(None);
    };
    let Some((kind, its_protocol)) = constants.kinds.iter().find(|(it, _)| it.number == kind)
    else {
        return Ok(None);
    };
    let Some((ip, _)) = address::numbers(host, port) else { return Ok(None) };
    let found = if ip.is_ipv4() { &constants.inet } else { &constants.inet6 };
    if (protocol != 0 && protocol != *its_protocol)
        || (family != 0 && family != found.number)
        || !constants.is_original(function)?
    {
        return Ok(None);
    }
    const EVENT: &CStr = c"socket.getaddrinfo";
    // SAFETY: the format says two objects, which are alive, and three numbers.
    let failed = unsafe {
        let format = c"OOiii".as_ptr();
        PySys_Audit(
            EVENT.as_ptr(),
            format,
            host.as_ptr(),
            port.as_ptr(),
            family,
            kind.number,
            protocol,
        )
    };
    if failed != 0 {
        return Err(PyErr::fetch(py));
    }
    let address = address::of_numbers(host, port, ip)?;
    let entry = (&found.member, &kind.member, *its_protocol, "", address).into_bound_py_any(py)?;
    PyList::new(py, [entry]).map(Some)
}
