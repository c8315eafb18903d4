//! Ciphertext to the protocol: what a TLS transport reads.

use pyo3::{IntoPyObjectExt, intern, prelude::*, types::PyBytes};

use super::{
    State, TlsTransport, Told,
    engine::{End, Plaintext},
};
use crate::{
    call::call_method, error::leaves_loop, imports::seam, stream_reader::stream_readers,
    transport::ProtocolKind,
};

/// Ciphertext that a transport below has received.
pub enum TakenIn {
    Read(Plaintext),
    /// It is kept; what happens now depends on the state.
    Held,
}

impl TlsTransport {
    /// Ciphertext has come. Runs no Python code but the TLS engine's: callbacks, and what tells an
    /// error.
    #[inline]
    pub fn take_in(slf: &Bound<'_, Self>, ciphertext: &[u8]) -> PyResult<TakenIn> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        let reads_at_once = inner.state.get() == State::Open
            && inner.protocol_kind.get().takes_bytes()
            && !inner.reading_paused.get()
            && !inner.busy.get();
        let engine = slf.get().engine(py)?;
        if !reads_at_once || !engine.is_native() {
            return engine.hold(py, ciphertext).map(|()| TakenIn::Held);
        }
        Self::with_engine(slf, |engine| engine.read(py, ciphertext)).map(TakenIn::Read)
    }

    /// The rest of `take_in`, which may run any code.
    #[inline]
    pub fn taken_in(slf: &Bound<'_, Self>, taken: TakenIn) -> PyResult<()> {
        match taken {
            TakenIn::Read(plaintext) => Self::do_read(slf, Some(plaintext)),
            TakenIn::Held if Self::inner_of(slf).state.get() == State::Open => {
                Self::do_read(slf, None)
            }
            // The user's TLS callbacks run in the connection's context, too.
            TakenIn::Held => {
                let base = &Self::inner_of(slf).base;
                base.in_context_nested(slf.py(), || Self::proceed(slf)).map(drop)
            }
        }
    }

    /// Delivers what there is, and then writes: reading may have made that possible or necessary.
    /// `plaintext` is what was read already.
    #[inline]
    pub(super) fn do_read(slf: &Bound<'_, Self>, plaintext: Option<Plaintext>) -> PyResult<()> {
        if !matches!(Self::inner_of(slf).state.get(), State::Open | State::Flushing) {
            return Ok(());
        }
        match Self::read_and_write(slf, plaintext) {
            Ok(()) => Ok(()),
            Err(error) => Self::failed(slf, error),
        }
    }

    #[inline]
    fn read_and_write(slf: &Bound<'_, Self>, plaintext: Option<Plaintext>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        if !inner.reading_paused.get() && slf.get().may_enter_engine(py) {
            match (plaintext, inner.protocol_kind.get()) {
                (Some(plaintext), _) => Self::deliver(slf, plaintext)?,
                (None, ProtocolKind::Buffered) => Self::read_buffered(slf)?,
                (None, _) => {
                    let plaintext = Self::with_engine(slf, |engine| engine.read(py, &[]))?;
                    Self::deliver(slf, plaintext)?;
                }
            }
        }
        if inner.state.get() == State::Unwrapped {
            return Ok(());
        }
        // Also while reading is paused: it may be the end of our handshake.
        if !inner.deferred.get() {
            Self::do_write(slf)?;
        }
        Self::pace_lower(slf)
    }

    #[inline]
    fn deliver(slf: &Bound<'_, Self>, Plaintext { data, end }: Plaintext) -> PyResult<()> {
        let py = slf.py();
        slf.get().note_end(py, &end);
        if let Some(data) = data {
            let told = Self::deliver_bytes(slf, &data);
            Self::unless_broken(slf, told, &end)?;
        }
        Self::read_ended(slf, end)
    }

    #[inline]
    fn deliver_bytes(slf: &Bound<'_, Self>, data: &Py<PyBytes>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        if inner.protocol_kind.get() == ProtocolKind::StreamReader
            && let Some(protocol) = inner.base.protocol(py)
            && let Some(fed) = stream_readers(py).append(protocol.bind(py), data.as_bytes(py))?
        {
            return fed.tell();
        }
        Self::call_protocol(slf, intern!(py, "data_received"), [data.as_ptr()]).map(drop)
    }

    fn read_buffered(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        let engine = slf.get().engine(py)?;
        if !engine.may_have_plaintext() {
            return Ok(());
        }
        let hint = engine.unread_bytes(py)?.into_py_any(py)?;
        // Both calls are of the one that lends the buffer, whatever it does in the first.
        let Some(protocol) = inner.base.protocol(py) else { return Ok(()) };
        let get_buffer = || call_method(py, &protocol, intern!(py, "get_buffer"), [hint.as_ptr()]);
        let Some(buffer) = inner.base.in_context_nested(py, get_buffer)? else { return Ok(()) };
        if !matches!(inner.state.get(), State::Open | State::Flushing) {
            // `get_buffer` ended the connection.
            return Ok(());
        }
        let filled = Self::with_engine(slf, |engine| engine.read_into(buffer.bind(py)))?;
        slf.get().note_end(py, &filled.end);
        drop(buffer);
        if filled.is_full {
            Self::inner_of(slf).read_is_cut.set(true);
            Self::call_soon(slf, intern!(py, "_proceed"))?;
        }
        if filled.count > 0 {
            let count = filled.count.into_py_any(py)?;
            let name = intern!(py, "buffer_updated");
            let updated = || call_method(py, &protocol, name, [count.as_ptr()]);
            let told = inner.base.in_context_nested(py, updated);
            Self::unless_broken(slf, told, &filled.end)?;
        }
        Self::read_ended(slf, filled.end)
    }

    /// What a protocol raised. If it leaves the loop although reading has failed, nobody else will
    /// end the connection.
    fn unless_broken<R>(slf: &Bound<'_, Self>, told: PyResult<R>, end: &End) -> PyResult<R> {
        let py = slf.py();
        if let (Err(raised), End::Failed(error)) = (&told, end)
            && leaves_loop(py, raised)
        {
            let because = error.value(py).clone().into_any().unbind();
            slf.get().lower(py).force_close(py, Some(because))?;
        }
        told
    }

    /// What came before an error is delivered first; the engine is not to be entered any more.
    #[inline]
    fn note_end(&self, py: Python<'_>, end: &End) {
        // (The module's read may also have been interrupted.)
        let is_broken = matches!(end, End::Failed(error) if !leaves_loop(py, error));
        self.inner(py).broken.set(is_broken);
    }

    #[inline]
    fn read_ended(slf: &Bound<'_, Self>, end: End) -> PyResult<()> {
        match end {
            End::Open => Ok(()),
            End::Closed => {
                if Self::tell_eof(slf)? {
                    return Ok(());
                }
                Self::start_shutdown(slf)
            }
            End::Failed(error) => Err(error),
        }
    }

    /// Tells the protocol of the peer's end. True if that is TLS in its turn, and not through yet:
    /// its transport, which we are, is to stay open for writing until it closes it.
    pub(super) fn tell_eof(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        if inner.told.get() != Told::Made {
            return Ok(inner.kept_open.get());
        }
        inner.told.set(Told::Eof);
        let keep_open = Self::call_protocol(slf, intern!(py, "eof_received"), [])
            .and_then(|answer| answer.map_or(Ok(false), |answer| answer.is_truthy(py)));
        match keep_open {
            Ok(true) if inner.protocol_kind.get() == ProtocolKind::Tls => {
                inner.kept_open.set(true);
                Ok(true)
            }
            Ok(true) => seam(py, "warn_half_open_tls", ()).map(|_| false),
            Ok(false) => Ok(false),
            Err(error) => Self::fatal(slf, error, "Error calling eof_received()").map(|()| false),
        }
    }

    pub(super) fn unread_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        match self.engine(py) {
            Ok(engine) => engine.unread_bytes(py),
            Err(_) => Ok(0), // after the end
        }
    }

    /// Lets the transport below wait if nobody reads what it brings.
    #[inline]
    pub(super) fn pace_lower(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        let unread_bytes = slf.get().unread_bytes(py)?;
        let (low, high) = inner.read_limits.get();
        if unread_bytes > 0 && unread_bytes >= high && !inner.lower_paused.get() {
            inner.lower_paused.set(true);
            slf.get().lower(py).call(py, intern!(py, "pause_reading"))
        } else if unread_bytes <= low {
            Self::resume_lower(slf)
        } else {
            Ok(())
        }
    }

    #[inline]
    pub(super) fn resume_lower(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if Self::inner_of(slf).lower_paused.replace(false) {
            return slf.get().lower(py).call(py, intern!(py, "resume_reading"));
        }
        Ok(())
    }
}
