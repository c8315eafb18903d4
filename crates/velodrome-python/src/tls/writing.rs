//! From the protocol to ciphertext: what a TLS transport writes.

use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    types::{PyByteArray, PyBytes, PyMemoryView},
};
use velodrome::stream::WriteBuffer;

use super::{Inner, State, TlsTransport, engine::Engine};
use crate::{
    buffer::{Chunk, View},
    event_loop::Deferred,
    transport,
};

/// So much is encrypted before it is sent.
const BATCH_BYTES: usize = 128 * 1024;
/// The plaintext of a full record.
const RECORD_BYTES: usize = 16 * 1024;

/// What is logged of writes to a connection that is closed.
const CLOSED: &str = "SSL connection is closed";

impl Inner {
    /// Whether nothing can be written any more.
    #[inline]
    fn is_over(&self) -> bool {
        matches!(self.state.get(), State::Flushing | State::Shutdown | State::Unwrapped)
    }
}

impl TlsTransport {
    #[inline]
    pub(super) fn write_object(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            let keep = || Chunk::Bytes(bytes.clone().unbind(), 0);
            return Self::write_bytes(slf, bytes.as_bytes(), keep);
        }
        let view = readable_view(data)?;
        Self::write_bytes(slf, view.bytes(py), || Chunk::Copy(view.bytes(py).into()))
    }

    #[inline]
    pub(super) fn write_bytes(
        slf: &Bound<'_, Self>,
        data: &[u8],
        keep: impl FnOnce() -> Chunk,
    ) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        if data.is_empty() {
            return Ok(());
        }
        if inner.is_over() {
            return inner.base.wrote_after_loss(py, CLOSED);
        }
        let Some(event_loop) = slf.get().event_loop(py) else { return Ok(()) };
        let turn = event_loop.get().model(py).ok().and_then(|model| model.turn_of_write());
        let joins = inner.joining.note_write(turn);
        let can_encrypt = inner.state.get() == State::Open && slf.get().may_enter_engine(py);
        let has_backlog = !inner.backlog.borrow().is_empty();
        if can_encrypt && !has_backlog && !inner.writing_paused.get() {
            if !joins || data.len() > inner.flow.max_held_bytes() {
                let written = Self::encrypt_and_send(slf, data, keep);
                return written.or_else(|error| Self::failed(slf, error));
            }
            inner.backlog.borrow_mut().push(keep());
            inner.deferred.set(true);
            event_loop.get().defer_flush(py, Deferred::Tls(slf.clone().unbind()));
            return Self::tell_flow(slf);
        }
        inner.backlog.borrow_mut().push(keep());
        Self::backlog_added(slf)
    }

    /// Something was added to the backlog: does with it what can be done now.
    fn backlog_added(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = Self::inner_of(slf);
        let held_bytes = inner.backlog.borrow().len_bytes();
        let is_held_back = inner.deferred.get() && held_bytes <= inner.flow.max_held_bytes();
        if is_held_back || inner.state.get() != State::Open || !slf.get().may_enter_engine(slf.py())
        {
            return Self::tell_flow(slf);
        }
        Self::do_write(slf).or_else(|error| Self::failed(slf, error))
    }

    /// All of them at once, so that they share records.
    pub(super) fn write_lines(slf: &Bound<'_, Self>, lines: &[Bound<'_, PyAny>]) -> PyResult<()> {
        let py = slf.py();
        if let [line] = lines {
            return Self::write_object(slf, line);
        }
        let mut chunks = Vec::with_capacity(lines.len());
        for line in lines {
            chunks.push(match line.cast_exact::<PyBytes>() {
                Ok(bytes) => Chunk::Bytes(bytes.clone().unbind(), 0),
                Err(_) => Chunk::Copy(readable_view(line)?.bytes(py).into()),
            });
        }
        let inner = Self::inner_of(slf);
        if chunks.iter().all(|chunk| chunk.as_ref().is_empty()) {
            return Ok(());
        }
        if inner.is_over() {
            return inner.base.wrote_after_loss(py, CLOSED);
        }
        chunks.into_iter().for_each(|chunk| inner.backlog.borrow_mut().push(chunk));
        Self::backlog_added(slf)
    }

    /// At the end of a batch, or before something that must not overtake what is held back.
    pub fn flush_deferred(slf: &Bound<'_, Self>) -> PyResult<()> {
        if !Self::inner_of(slf).deferred.get() {
            return Ok(());
        }
        Self::do_write(slf).or_else(|error| Self::failed(slf, error))
    }

    /// Encrypts and sends as much of the backlog as the transport below takes.
    #[inline]
    pub(super) fn do_write(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = Self::inner_of(slf);
        inner.deferred.set(false);
        if !slf.get().may_enter_engine(slf.py()) {
            return Ok(());
        }
        let may_encrypt = matches!(inner.state.get(), State::Open | State::Flushing);
        if !may_encrypt || inner.backlog.borrow().is_empty() {
            return Self::send_output(slf);
        }
        Self::encrypt_backlog(slf)
    }

    /// Encrypts `data` and sends it. `keep` makes a chunk of all of it, for what is not encrypted.
    #[inline]
    fn encrypt_and_send(
        slf: &Bound<'_, Self>,
        data: &[u8],
        keep: impl FnOnce() -> Chunk,
    ) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        if data.len() > BATCH_BYTES {
            inner.backlog.borrow_mut().push(keep());
            return Self::encrypt_backlog(slf);
        }
        let Some(event_loop) = slf.get().event_loop(py) else { return Ok(()) };
        let engine = slf.get().engine(py)?;
        engine.lend_output(event_loop.get().take_tls_output(py));
        let written = Self::with_engine(slf, |engine| engine.write(py, data));
        if let Ok(written) = written
            && written < data.len()
        {
            // Before what an engine's callback may have written meanwhile.
            let added = inner.backlog.take();
            let mut backlog = inner.backlog.borrow_mut();
            backlog.push(keep());
            backlog.consume(written);
            backlog.append(added);
        }
        let output = engine.take_output(py)?;
        let sent = Self::send(slf, &output);
        event_loop.get().give_tls_output_back(py, output);
        written.and(sent)?;
        Self::tell_flow(slf)
    }

    fn encrypt_backlog(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        let Some(event_loop) = slf.get().event_loop(py) else { return Ok(()) };
        let engine = slf.get().engine(py)?;
        let mut room = event_loop.get().take_tls_output(py);
        let mut result = Ok(());
        while result.is_ok() && !inner.writing_paused.get() {
            engine.lend_output(std::mem::take(&mut room));
            let encrypted = Self::with_engine(slf, |engine| Self::encrypt_some(py, inner, engine));
            room = engine.take_output(py)?;
            let is_empty = room.is_empty();
            let sent = Self::send(slf, &room);
            room.clear();
            result = encrypted.map(drop).and(sent);
            if is_empty || !matches!(inner.state.get(), State::Open | State::Flushing) {
                break;
            }
            if slf.get().lower(py).is_lost(py)? {
                // Nobody will have the rest.
                drop(inner.backlog.take());
                break;
            }
        }
        event_loop.get().give_tls_output_back(py, room);
        result?;
        Self::tell_flow(slf)
    }

    /// Encrypts one batch of the backlog. It is out of reach meanwhile, because an engine may run
    /// Python code, which may write.
    fn encrypt_some(py: Python<'_>, inner: &Inner, engine: &Engine) -> PyResult<()> {
        let mut backlog = inner.backlog.take();
        let result = Self::encrypt_batch(py, &mut backlog, engine);
        let added = inner.backlog.replace(backlog);
        inner.backlog.borrow_mut().append(added);
        result
    }

    fn encrypt_batch(
        py: Python<'_>,
        backlog: &mut WriteBuffer<Chunk>,
        engine: &Engine,
    ) -> PyResult<()> {
        let mut encrypted_bytes = 0;
        while encrypted_bytes < BATCH_BYTES {
            let Some(first) = backlog.first() else { break };
            let first = &first[..first.len().min(BATCH_BYTES)];
            let written = if first.len() < RECORD_BYTES && backlog.len_bytes() > first.len() {
                Self::encrypt_joined(py, backlog, engine)?
            } else {
                engine.write(py, first)?
            };
            if written == 0 {
                break;
            }
            backlog.consume(written);
            encrypted_bytes += written;
        }
        Ok(())
    }

    /// Small writes share a record.
    fn encrypt_joined(
        py: Python<'_>,
        backlog: &WriteBuffer<Chunk>,
        engine: &Engine,
    ) -> PyResult<usize> {
        let mut record = [0; RECORD_BYTES];
        let count = backlog.copy_to(&mut record);
        engine.write(py, &record[..count])
    }

    /// Sends what the engine has to say, if the transport below takes it now.
    #[inline]
    pub(super) fn send_output(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = Self::inner_of(slf);
        let engine = slf.get().engine(py)?;
        if !inner.writing_paused.get() && engine.has_output(py)? {
            let output = engine.take_output(py)?;
            Self::send(slf, &output)?;
        }
        Self::tell_flow(slf)
    }

    pub(super) fn send(slf: &Bound<'_, Self>, ciphertext: &[u8]) -> PyResult<()> {
        if ciphertext.is_empty() {
            return Ok(());
        }
        slf.get().lower(slf.py()).write(slf.py(), ciphertext)
    }

    pub(super) fn unsent_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        let inner = self.inner(py);
        let output_bytes = match self.engine(py) {
            Ok(engine) => engine.output_bytes(py)?,
            Err(_) => 0, // after the end
        };
        Ok(inner.backlog.borrow().len_bytes() + output_bytes)
    }

    /// Tells the protocol to pause or to resume writing.
    #[inline]
    pub(super) fn tell_flow(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = Self::inner_of(slf);
        let unsent_bytes = slf.get().unsent_bytes(slf.py())?;
        inner.base.pause_protocol_if_full(slf.as_any(), &inner.flow, unsent_bytes)?;
        inner.base.resume_protocol_if_low(slf.as_any(), &inner.flow, unsent_bytes)
    }

    /// The transport below takes more again.
    pub(super) fn resumed(slf: &Bound<'_, Self>) -> PyResult<()> {
        let inner = Self::inner_of(slf);
        inner.writing_paused.set(false);
        Self::do_write(slf).or_else(|error| Self::failed(slf, error))?;
        if inner.state.get() == State::Flushing {
            return Self::do_flush(slf);
        }
        Ok(())
    }
}

/// The buffer of what `write` was given, with the TypeError of asyncio's TLS transport.
fn readable_view(data: &Bound<'_, PyAny>) -> PyResult<View> {
    let is_bytes_like = data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>();
    if is_bytes_like {
        return transport::readable_view(data);
    }
    Err(PyTypeError::new_err(format!(
        "data: expecting a bytes-like instance, got {}",
        data.get_type().name()?
    )))
}
