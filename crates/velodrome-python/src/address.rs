//! Socket addresses as the `socket` module shows them.

use std::os::fd::BorrowedFd;

use pyo3::{
    IntoPyObjectExt, ffi,
    prelude::*,
    types::{PyBytes, PyString},
};
use velodrome::net::{AddressFamily, SocketAddrAny, SocketAddrV4, SocketAddrV6};

/// `(host, port)`, `(host, port, flowinfo, scope_id)`, or a Unix path (bytes if abstract).
/// `None` for families that only Python's own socket object knows.
pub fn to_python(py: Python<'_>, address: &SocketAddrAny) -> PyResult<Option<Py<PyAny>>> {
    match address.address_family() {
        AddressFamily::INET => {
            let Ok(v4) = SocketAddrV4::try_from(address.clone()) else { return Ok(None) };
            (v4.ip().to_string(), v4.port()).into_py_any(py).map(Some)
        }
        AddressFamily::INET6 => {
            let Ok(v6) = SocketAddrV6::try_from(address.clone()) else { return Ok(None) };
            let flowinfo = u32::from_be(v6.flowinfo());
            (v6.ip().to_string(), v6.port(), flowinfo, v6.scope_id()).into_py_any(py).map(Some)
        }
        AddressFamily::UNIX => {
            let Ok(unix) = velodrome::net::SocketAddrUnix::try_from(address.clone()) else {
                return Ok(None);
            };
            if let Some(name) = unix.abstract_name().filter(|name| !name.is_empty()) {
                let mut bytes = vec![0];
                bytes.extend_from_slice(name);
                return Ok(Some(PyBytes::new(py, &bytes).into_any().unbind()));
            }
            let path = unix.path().map(|path| path.to_bytes().to_vec()).unwrap_or_default();
            file_name(py, &path).map(|path| Some(path.into_any().unbind()))
        }
        _ => Ok(None),
    }
}

/// `os.fsdecode`.
fn file_name<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    // SAFETY: the pointer and length are those of a slice; the result is a new string or an error.
    unsafe {
        let name =
            ffi::PyUnicode_DecodeFSDefaultAndSize(bytes.as_ptr().cast(), bytes.len().cast_signed());
        Ok(Bound::from_owned_ptr_or_err(py, name)?.cast_into_unchecked())
    }
}

/// What `socket.socket(family, type, proto, fileno=)` needs to know of a descriptor.
pub fn kind(fd: BorrowedFd<'_>) -> Option<(u16, u32, u32)> {
    use rustix::net::sockopt;
    let family = sockopt::socket_domain(fd).ok()?;
    let kind = sockopt::socket_type(fd).ok()?;
    let protocol = sockopt::socket_protocol(fd).ok()?;
    Some((family.as_raw(), kind.as_raw(), protocol.map_or(0, |it| it.as_raw().get())))
}
