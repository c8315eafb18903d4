//! Socket addresses as the `socket` module shows them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
};

use pyo3::{
    IntoPyObjectExt, ffi,
    prelude::*,
    types::{PyBytes, PyInt, PyString, PyTuple},
};
use velodrome::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketAddrV4, SocketAddrV6};

/// As `inet_ntop` writes it: an IPv4-compatible address with dots, which Rust does not.
fn text_of(address: &Ipv6Addr) -> String {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => {
            let [.., a, b, c, d] = address.octets();
            format!("::{}", Ipv4Addr::new(a, b, c, d))
        }
        _ => address.to_string(),
    }
}

/// As `Display` writes it, without the machinery that makes it cost ten times as much: servers see an
/// address with each datagram.
fn v4_to_python(py: Python<'_>, address: Ipv4Addr) -> PyResult<Bound<'_, PyString>> {
    let mut text = [0; "255.255.255.255".len()];
    let mut len = 0;
    let mut push = |byte| {
        text[len] = byte;
        len += 1;
    };
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            push(b'.');
        }
        if octet >= 100 {
            push(b'0' + octet / 100);
        }
        if octet >= 10 {
            push(b'0' + octet / 10 % 10);
        }
        push(b'0' + octet % 10);
    }
    PyString::from_bytes(py, &text[..len])
}

/// `(host, port)`, `(host, port, flowinfo, scope_id)`, or a Unix path (bytes if abstract).
/// `None` for families that only Python's own socket object knows.
pub fn to_python(py: Python<'_>, address: &SocketAddrAny) -> PyResult<Option<Py<PyAny>>> {
    match address.address_family() {
        AddressFamily::INET => {
            let Ok(v4) = SocketAddrV4::try_from(address.clone()) else { return Ok(None) };
            (v4_to_python(py, *v4.ip())?, v4.port()).into_py_any(py).map(Some)
        }
        AddressFamily::INET6 => {
            let Ok(v6) = SocketAddrV6::try_from(address.clone()) else { return Ok(None) };
            let flowinfo = u32::from_be(v6.flowinfo());
            (text_of(v6.ip()), v6.port(), flowinfo, v6.scope_id()).into_py_any(py).map(Some)
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

/// The address of such numbers, as `getaddrinfo` writes it.
pub fn of_numbers(
    host: &Bound<'_, PyAny>,
    port: &Bound<'_, PyAny>,
    ip: IpAddr,
) -> PyResult<Py<PyAny>> {
    match ip {
        IpAddr::V4(_) => (host, port).into_py_any(host.py()),
        IpAddr::V6(v6) => (text_of(&v6), port, 0, 0).into_py_any(host.py()),
    }
}

/// The numbers of an exact `str` with an IP address in its usual form, without a scope, and of an
/// exact `int` that a port can be.
pub fn numbers(host: &Bound<'_, PyAny>, port: &Bound<'_, PyAny>) -> Option<(IpAddr, u16)> {
    let (host, port) = (host.cast_exact::<PyString>().ok()?, port.cast_exact::<PyInt>().ok()?);
    Some((host.to_str().ok()?.parse().ok()?, port.extract().ok()?))
}

/// The address that `socket.sendto` would make of `(host, port)`, `(host, port, flowinfo,
/// scope_id)` or a Unix path. `None` for a host that is a name, and for whatever Python's own
/// socket object should refuse in its own words.
pub fn from_python(
    family: AddressFamily,
    address: &Bound<'_, PyAny>,
) -> PyResult<Option<SocketAddrAny>> {
    if family == AddressFamily::UNIX {
        return Ok(unix_from_python(address));
    }
    let Ok(parts) = address.cast_exact::<PyTuple>() else { return Ok(None) };
    let number = |index: usize| -> Option<u32> {
        parts.get_item(index).ok()?.cast_exact::<PyInt>().ok()?.extract().ok()
    };
    let Ok(host) = parts.get_item(0) else { return Ok(None) };
    let Ok(host) = host.cast_exact::<PyString>() else { return Ok(None) };
    let (Ok(host), Some(port)) = (host.to_str(), number(1)) else { return Ok(None) };
    let Ok(port) = u16::try_from(port) else { return Ok(None) };
    Ok(match (family, parts.len()) {
        (AddressFamily::INET, 2) => {
            host.parse().ok().map(|ip: Ipv4Addr| SocketAddrV4::new(ip, port).into())
        }
        (AddressFamily::INET6, 2..=4) => {
            let flowinfo = if parts.len() > 2 { number(2) } else { Some(0) };
            let scope_id = if parts.len() > 3 { number(3) } else { Some(0) };
            match (host.parse::<Ipv6Addr>(), flowinfo, scope_id) {
                // A flow label has 20 bits.
                (Ok(ip), Some(flowinfo @ ..=0xf_ffff), Some(scope_id)) => {
                    Some(SocketAddrV6::new(ip, port, flowinfo.to_be(), scope_id).into())
                }
                _ => None,
            }
        }
        _ => None,
    })
}

/// An address of a host that was given as numbers, with the parts that asyncio adds: those of an IPv6
/// address.
pub fn with_all_parts(address: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let py = address.py();
    let parts = address.cast::<PyTuple>()?;
    let host = parts.get_item(0)?;
    if !host.str()?.to_str()?.contains(':') {
        return Ok(address.clone().unbind());
    }
    let part = |index: usize| parts.get_item(index).or_else(|_| 0.into_bound_py_any(py));
    (host, part(1)?, part(2)?, part(3)?).into_py_any(py)
}

/// The room for a path in a Unix socket's address.
const UNIX_PATH_BYTES: usize = 108;

fn unix_from_python(address: &Bound<'_, PyAny>) -> Option<SocketAddrAny> {
    let encoded;
    let bytes = if let Ok(path) = address.cast_exact::<PyBytes>() {
        path.as_bytes()
    } else {
        // Other encodings and escapes are rare enough to be left to Python.
        encoded = address.cast_exact::<PyString>().ok()?;
        let path = encoded.to_str().ok()?;
        path.is_ascii().then_some(path.as_bytes())?
    };
    let unix = match bytes {
        [] => return None,
        [0, name @ ..] => SocketAddrUnix::new_abstract_name(name),
        // The longest path has room for the NUL that ends it, as Python insists.
        path if path.len() >= UNIX_PATH_BYTES => return None,
        path => SocketAddrUnix::new(path),
    };
    unix.ok().map(SocketAddrAny::from)
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
