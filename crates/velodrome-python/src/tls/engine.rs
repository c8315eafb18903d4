//! What encrypts and decrypts for a TLS transport: libssl called directly, or the `ssl` module.
//!
//! Either way there is a genuine `ssl.SSLObject`, made by the user's context; its methods do the
//! handshake and the shutdown, so certificates, callbacks and exceptions are Python's own. Only
//! what runs per record is different.

use std::{convert::Infallible, mem::MaybeUninit};

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyBufferError, PyRuntimeError, PyTypeError},
    intern,
    prelude::*,
    types::{PyBytes, PyDict, PyMemoryView, PySlice, PyString},
};
use velodrome::tls::{Outcome, Session};

use super::ssl_module::{Lent, SslModule, ssl_module};
use crate::buffer::{View, bytes_filled_by};

/// How far a handshake or a shutdown has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Done,
    /// Not without more from the peer.
    Pending,
}

/// Where reading has come to.
pub enum End {
    Open,
    /// The peer has sent close_notify.
    Closed,
    Failed(PyErr),
}

/// What there was to read.
pub struct Plaintext {
    pub data: Option<Py<PyBytes>>,
    pub end: End,
}

/// What was read into a protocol's buffer.
pub struct Filled {
    pub count: usize,
    /// The buffer is full, so there may be more.
    pub is_full: bool,
    pub end: End,
}

pub struct Engine {
    ssl_object: Py<PyAny>,
    kind: Kind,
}

enum Kind {
    /// The session is the object's own, and `holder` keeps it alive.
    Native {
        session: Session,
        holder: Py<PyAny>,
    },
    Module {
        incoming: Py<PyAny>,
        outgoing: Py<PyAny>,
    },
}

/// Room for a record whose plaintext we do not know beforehand.
const UNEXPECTED_BYTES: usize = 64;
const RECORD_BYTES: usize = 16 * 1024;

impl Engine {
    /// `native`: by libssl directly, if that is possible.
    pub fn new(
        context: &Bound<'_, PyAny>,
        server_side: bool,
        server_hostname: Option<Py<PyAny>>,
        native: bool,
    ) -> PyResult<Self> {
        let py = context.py();
        let module = ssl_module(py)?;
        let (incoming, outgoing) = (module.memory_bio.call0(py)?, module.memory_bio.call0(py)?);
        let options = PyDict::new(py);
        options.set_item(intern!(py, "server_side"), server_side)?;
        options.set_item(intern!(py, "server_hostname"), server_hostname)?;
        let bios = (&incoming, &outgoing);
        let object = context.call_method(intern!(py, "wrap_bio"), bios, Some(&options))?;
        let lent = if native { module.session_of(&object)? } else { None };
        let kind = match lent {
            Some(Lent { session, holder }) => Kind::Native { session, holder },
            None => Kind::Module { incoming, outgoing },
        };
        Ok(Engine { ssl_object: object.unbind(), kind })
    }

    pub fn ssl_object(&self) -> &Py<PyAny> {
        &self.ssl_object
    }

    pub fn is_native(&self) -> bool {
        matches!(self.kind, Kind::Native { .. })
    }

    // ---- the beginning and the end ---------------------------------------------------------

    /// The next step of the handshake.
    pub fn handshake(&self, py: Python<'_>) -> PyResult<Progress> {
        let progress = self.step(py, intern!(py, "do_handshake"))?;
        if let (Progress::Done, Kind::Native { session, .. }) = (progress, &self.kind) {
            session.handshake_done();
        }
        Ok(progress)
    }

    /// Whether the handshake is over for libssl, whatever a method of the user's says.
    pub fn is_content(&self, py: Python<'_>) -> bool {
        let version = self.ssl_object.call_method0(py, intern!(py, "version"));
        version.map_or(true, |version| !version.is_none(py))
    }

    /// The next step of the shutdown.
    pub fn shutdown(&self, py: Python<'_>) -> PyResult<Progress> {
        if let Kind::Native { session, .. } = &self.kind {
            session.shutting_down();
        }
        self.step(py, intern!(py, "unwrap"))
    }

    fn step(&self, py: Python<'_>, method: &Bound<'_, PyString>) -> PyResult<Progress> {
        match self.ssl_object.call_method0(py, method) {
            Ok(_) => Ok(Progress::Done),
            Err(error) if waits(py, &error)? => Ok(Progress::Pending),
            Err(error) => Err(error),
        }
    }

    // ---- in --------------------------------------------------------------------------------

    /// Keeps ciphertext until somebody reads.
    pub fn hold(&self, py: Python<'_>, ciphertext: &[u8]) -> PyResult<()> {
        match &self.kind {
            Kind::Native { session, .. } => session.hold(ciphertext),
            Kind::Module { incoming, .. } => {
                incoming.call_method1(py, intern!(py, "write"), (PyBytes::new(py, ciphertext),))?;
            }
        }
        Ok(())
    }

    /// False if there is no whole record to read.
    pub fn may_have_plaintext(&self) -> bool {
        match &self.kind {
            Kind::Native { session, .. } => session.is_readable(),
            Kind::Module { .. } => true,
        }
    }

    /// How much ciphertext is kept.
    pub fn unread_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        match &self.kind {
            Kind::Native { session, .. } => Ok(session.unread_bytes()),
            Kind::Module { incoming, .. } => {
                incoming.getattr(py, intern!(py, "pending"))?.extract(py)
            }
        }
    }

    /// The plaintext of everything that has come, `ciphertext` last. What is no whole record yet
    /// is kept.
    pub fn read(&self, py: Python<'_>, ciphertext: &[u8]) -> PyResult<Plaintext> {
        match &self.kind {
            Kind::Native { session, .. } => {
                let read = || read_session(py, session);
                let (data, outcome) = session.with_ciphertext(ciphertext, read)?;
                Ok(Plaintext { data, end: self.end_of(py, outcome) })
            }
            Kind::Module { .. } => {
                if !ciphertext.is_empty() {
                    self.hold(py, ciphertext)?;
                }
                self.read_module(py)
            }
        }
    }

    fn read_module(&self, py: Python<'_>) -> PyResult<Plaintext> {
        let mut all = Vec::new();
        let end = loop {
            match self.ssl_object.call_method1(py, intern!(py, "read"), (RECORD_BYTES,)) {
                Ok(chunk) => {
                    let chunk = chunk.bind(py).cast::<PyBytes>()?;
                    if chunk.as_bytes().is_empty() {
                        break End::Closed;
                    }
                    all.extend_from_slice(chunk.as_bytes());
                }
                Err(error) if waits(py, &error)? => break End::Open,
                Err(error) => break End::Failed(error),
            }
        };
        let data = (!all.is_empty()).then(|| PyBytes::new(py, &all).unbind());
        Ok(Plaintext { data, end })
    }

    /// Reads into an object with a writable buffer, as much as fits.
    pub fn read_into(&self, buffer: &Bound<'_, PyAny>) -> PyResult<Filled> {
        let py = buffer.py();
        let mut view = View::writable(buffer).map_err(|error| not_writable(buffer, error))?;
        let room = view.len();
        if room == 0 {
            return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
        }
        match &self.kind {
            Kind::Native { session, .. } => {
                let bytes = view.bytes_mut(py);
                // SAFETY: bytes may be seen as bytes that need not be initialised, because `read`
                // writes no others.
                let bytes = unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) };
                let (count, outcome) = session.read(bytes);
                drop(view);
                Ok(Filled { count, is_full: count == room, end: self.end_of(py, outcome) })
            }
            Kind::Module { .. } => {
                drop(view);
                self.read_module_into(buffer, room)
            }
        }
    }

    fn read_module_into(&self, buffer: &Bound<'_, PyAny>, room: usize) -> PyResult<Filled> {
        let py = buffer.py();
        let memory = PyMemoryView::from(buffer)?.call_method1(intern!(py, "cast"), ("B",))?;
        let mut count = 0;
        while count < room {
            let rest = PySlice::new(py, count.cast_signed(), room.cast_signed(), 1);
            let arguments = (room - count, memory.get_item(rest)?);
            let end = match self.ssl_object.call_method1(py, intern!(py, "read"), arguments) {
                Ok(read) => match read.extract::<usize>(py)? {
                    0 => End::Closed,
                    read => {
                        count += read;
                        continue;
                    }
                },
                Err(error) if waits(py, &error)? => End::Open,
                Err(error) => End::Failed(error),
            };
            return Ok(Filled { count, is_full: false, end });
        }
        Ok(Filled { count, is_full: true, end: End::Open })
    }

    fn end_of(&self, py: Python<'_>, outcome: Outcome) -> End {
        match outcome {
            Outcome::Bytes(_) | Outcome::NeedsData => End::Open,
            Outcome::Closed => End::Closed,
            Outcome::Failed => End::Failed(self.error(py)),
        }
    }

    /// The error that a read has met: the module's own next call meets it again.
    #[cold]
    fn error(&self, py: Python<'_>) -> PyErr {
        self.ssl_object
            .call_method1(py, intern!(py, "read"), (1,))
            .err()
            .unwrap_or_else(unexplained)
    }

    // ---- out -------------------------------------------------------------------------------

    /// Encrypts `data`, which is not empty. 0 if that is not possible before the peer has sent
    /// more.
    pub fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<usize> {
        let object = &self.ssl_object;
        let Kind::Native { session, .. } = &self.kind else {
            let bytes = PyBytes::new(py, data);
            return match object.call_method1(py, intern!(py, "write"), (bytes,)) {
                Ok(count) => count.extract(py),
                Err(error) if waits(py, &error)? => Ok(0),
                Err(error) => Err(error),
            };
        };
        match session.write(data) {
            Outcome::Bytes(count) => Ok(count),
            Outcome::NeedsData => Ok(0),
            Outcome::Closed | Outcome::Failed => {
                // As in `error`.
                let bytes = PyBytes::new(py, &data[..1]);
                let result = object.call_method1(py, intern!(py, "write"), (bytes,));
                Err(result.err().unwrap_or_else(unexplained))
            }
        }
    }

    pub fn has_output(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.output_bytes(py)? > 0)
    }

    pub fn output_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        match &self.kind {
            Kind::Native { session, .. } => Ok(session.output_bytes()),
            Kind::Module { outgoing, .. } => {
                outgoing.getattr(py, intern!(py, "pending"))?.extract(py)
            }
        }
    }

    /// Lends empty `room` to the output that is to come.
    pub fn lend_output(&self, room: Vec<u8>) {
        if let Kind::Native { session, .. } = &self.kind {
            session.lend_output(room);
        }
    }

    /// Takes the ciphertext that waits to be sent.
    pub fn take_output(&self, py: Python<'_>) -> PyResult<Vec<u8>> {
        match &self.kind {
            Kind::Native { session, .. } => Ok(session.take_output()),
            Kind::Module { outgoing, .. } => {
                let output = outgoing.call_method0(py, intern!(py, "read"))?;
                Ok(output.bind(py).cast::<PyBytes>()?.as_bytes().to_vec())
            }
        }
    }

    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.ssl_object)?;
        match &self.kind {
            Kind::Native { holder, .. } => visit.call(holder),
            Kind::Module { incoming, outgoing } => {
                visit.call(incoming)?;
                visit.call(outgoing)
            }
        }
    }
}

/// Runs no Python code but libssl's callbacks.
fn read_session(py: Python<'_>, session: &Session) -> PyResult<(Option<Py<PyBytes>>, Outcome)> {
    if !session.is_readable() {
        return Ok((None, Outcome::NeedsData));
    }
    let mut outcome = Outcome::NeedsData;
    let expected_bytes = session.expected_bytes().max(UNEXPECTED_BYTES);
    let Ok(first) = bytes_filled_by(py, expected_bytes, |buffer| {
        let (count, came_to) = session.read(buffer);
        outcome = came_to;
        Ok::<_, Infallible>(count)
    })?;
    let mut data = first;
    // Padding or another cipher than expected.
    if matches!(outcome, Outcome::Bytes(_)) && session.is_readable() {
        let mut all = data.as_bytes(py).to_vec();
        while session.is_readable() && matches!(outcome, Outcome::Bytes(_)) {
            all.reserve(RECORD_BYTES);
            let (count, came_to) = session.read(all.spare_capacity_mut());
            outcome = came_to;
            // SAFETY: `read` has initialised `count` bytes of the spare capacity.
            unsafe { all.set_len(all.len() + count) };
        }
        data = PyBytes::new(py, &all).unbind();
    }
    let data = (!data.as_bytes(py).is_empty()).then_some(data);
    Ok((data, outcome))
}

/// Whether an exception of the module only says that the peer has to send more.
fn waits(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    let SslModule { want_read_error, syscall_error, .. } = ssl_module(py)?;
    Ok(error.is_instance(py, want_read_error.bind(py))
        || error.is_instance(py, syscall_error.bind(py)))
}

/// What `SSLObject.read` says of a buffer that cannot be filled.
#[cold]
fn not_writable(buffer: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyBufferError>(buffer.py()) {
        return error;
    }
    let class = buffer.get_type().name().map_or_else(|_| "object".into(), |name| name.to_string());
    PyTypeError::new_err(format!(
        "read() argument 2 must be read-write bytes-like object, not {class}"
    ))
}

/// libssl failed and then did not: nothing is known to do so.
#[cold]
fn unexplained() -> PyErr {
    PyRuntimeError::new_err("libssl failed without a reason")
}
