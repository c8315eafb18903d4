//! A byte stream as a state machine: TCP and Unix sockets, and pipes.
//!
//! It owns what a transport knows (phase, reading, the write buffer, flow control, whether writes
//! are joined) and performs the reads and writes; it does not own the descriptor, the
//! registration or the protocol. Every method that changes something returns what should happen
//! next, and its owner calls the protocol when nothing here is borrowed.
//!
//! The surprising fact: a stream may hold back the first write of a turn. See [`Joining`].
//!
//! ```
//! use std::{io::{Read, Write}, os::{fd::AsFd, unix::net::UnixStream}};
//! use velodrome::{life::Closed, stream::{Flushed, Stream, Written}};
//!
//! let (ours, mut peer) = UnixStream::pair()?;
//! let stream: Stream<Vec<u8>> = Stream::new(true);
//! stream.start_reading();
//! peer.write_all(b"ask")?;
//! let mut buffer = [0; 16];
//! assert!(stream.wants_data());
//! assert_eq!(stream.receive(ours.as_fd(), &mut buffer)?, 3);
//!
//! // Outside a turn of a loop nothing is held back to be joined.
//! let keep = |data: &'static [u8]| move |from: usize| data[from..].to_vec();
//! let written = stream.write(ours.as_fd(), None, b"answer", keep(b"answer"))?;
//! assert_eq!(written, Written::All);
//! stream.push(b", and more".to_vec());
//! assert_eq!(stream.unsent_bytes(), 10);
//! assert_eq!(stream.flush(ours.as_fd())?, Flushed::Drained);
//! assert_eq!(stream.close(), Closed::Lost);
//! drop(ours);
//! let mut all = String::new();
//! peer.read_to_string(&mut all)?;
//! assert_eq!(all, "answer, and more");
//! # std::io::Result::Ok(())
//! ```

mod channel;
mod flow_control;
mod joining;
mod write_buffer;

use std::{
    cell::{Cell, RefCell},
    marker::PhantomData,
    os::fd::BorrowedFd,
};

pub use channel::{Channel, Pipe, Socket};
pub use flow_control::{FlowControl, HIGH_WATER_BYTES};
pub use joining::Joining;
use rustix::{
    buffer::Buffer,
    net::{Shutdown, shutdown},
};
pub use write_buffer::WriteBuffer;

use crate::{
    Result,
    crowd::WriteTurn,
    error::is_retry,
    life::{Closed, Life, Phase},
    poller::Interest,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// The protocol has not been told of the connection yet. `paused`: it asked for a pause already.
    NotStarted {
        paused: bool,
    },
    Active,
    Paused,
    /// The peer sent end-of-file and the protocol keeps the other direction open.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteEnd {
    Open,
    /// `write_eof` was called; the direction is shut down, or will be when the buffer is empty.
    Eof,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The kernel has all of it.
    All,
    /// Something waits for the socket to become writable: watch it, and apply flow control.
    Buffered,
    /// It waits for the end of the turn: call [`Stream::flush`] then. Only for the turn's first.
    Deferred,
    /// It joined what waits already.
    Joined,
}

/// What became of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// The buffer is empty.
    Drained,
    /// The socket takes no more for now.
    Blocked,
}

/// `B` is what the write buffer is made of, `C` says which system calls the descriptor takes.
#[derive(Debug)]
pub struct Stream<B, C = Socket> {
    life: Life,
    reading: Cell<Reading>,
    write_end: Cell<WriteEnd>,
    buffer: RefCell<WriteBuffer<B>>,
    /// The buffer waits for the end of the turn, not for the socket.
    deferred: Cell<bool>,
    pub joining: Joining,
    pub flow: FlowControl,
    channel: PhantomData<C>,
}

impl<B: AsRef<[u8]>, C: Channel> Stream<B, C> {
    /// A stream that does not read before [`Stream::start_reading`].
    pub fn new(join_writes: bool) -> Self {
        Stream {
            life: Life::new(),
            reading: Cell::new(Reading::NotStarted { paused: false }),
            write_end: Cell::new(WriteEnd::Open),
            buffer: RefCell::default(),
            deferred: Cell::new(false),
            joining: Joining::new(join_writes),
            flow: FlowControl::default(),
            channel: PhantomData,
        }
    }

    #[inline]
    pub fn phase(&self) -> Phase {
        self.life.phase()
    }

    pub fn is_closing(&self) -> bool {
        self.life.is_closing()
    }

    /// What the poller should watch the descriptor for.
    pub fn interest(&self) -> Interest {
        let mut interest = Interest::NONE;
        if self.wants_data() {
            interest |= Interest::READ;
        }
        if self.phase() != Phase::Lost && !self.deferred.get() && self.has_unsent() {
            interest |= Interest::WRITE;
        }
        interest
    }

    // ---- reading ---------------------------------------------------------------------------

    /// Whether data may be delivered now.
    #[inline]
    pub fn wants_data(&self) -> bool {
        self.phase() == Phase::Open && self.reading.get() == Reading::Active
    }

    /// The protocol knows the connection: deliver, unless it paused meanwhile.
    pub fn start_reading(&self) {
        if let Reading::NotStarted { paused } = self.reading.get() {
            self.reading.set(if paused { Reading::Paused } else { Reading::Active });
        }
    }

    /// Whether `is_reading` holds for a user: open and not paused.
    pub fn is_reading(&self) -> bool {
        self.phase() == Phase::Open && !self.is_paused()
    }

    /// Whether a user paused reading.
    pub fn is_paused(&self) -> bool {
        matches!(self.reading.get(), Reading::Paused | Reading::NotStarted { paused: true })
    }

    /// False if it is closing or paused already.
    pub fn pause_reading(&self) -> bool {
        if !self.is_reading() {
            return false;
        }
        match self.reading.get() {
            Reading::NotStarted { .. } => self.reading.set(Reading::NotStarted { paused: true }),
            Reading::Active => self.reading.set(Reading::Paused),
            Reading::Paused | Reading::Ended => {}
        }
        true
    }

    /// False if it is closing or not paused.
    pub fn resume_reading(&self) -> bool {
        if self.phase() != Phase::Open {
            return false;
        }
        match self.reading.get() {
            Reading::NotStarted { paused: true } => {
                self.reading.set(Reading::NotStarted { paused: false });
            }
            Reading::Paused => self.reading.set(Reading::Active),
            _ => return false,
        }
        true
    }

    /// The peer ended its direction and the protocol keeps ours open.
    pub fn reading_ended(&self) {
        self.reading.set(Reading::Ended);
    }

    /// Receives once. `Ok(0)` is end-of-file; would-block and interrupted are errors to retry.
    #[inline]
    pub fn receive<T: Buffer<u8>>(&self, fd: BorrowedFd<'_>, buffer: T) -> Result<T::Output> {
        C::receive(fd, buffer)
    }

    // ---- writing ---------------------------------------------------------------------------

    #[inline]
    fn has_unsent(&self) -> bool {
        !self.buffer.borrow().is_empty()
    }

    pub fn unsent_bytes(&self) -> usize {
        self.buffer.borrow().len_bytes()
    }

    pub fn is_deferred(&self) -> bool {
        self.deferred.get()
    }

    pub fn has_write_eof(&self) -> bool {
        self.write_end.get() != WriteEnd::Open
    }

    /// Writes `data`, or holds it: `keep` makes an owned chunk of everything after an offset.
    ///
    /// `turn` is the loop's turn, `None` if no batch is under way (then nothing is deferred).
    pub fn write(
        &self,
        fd: BorrowedFd<'_>,
        turn: Option<WriteTurn>,
        data: &[u8],
        keep: impl FnOnce(usize) -> B,
    ) -> Result<Written> {
        let defer = self.joining.note_write(turn);
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            buffer.push(keep(0));
            return Ok(if self.deferred.get() { Written::Joined } else { Written::Buffered });
        }
        if defer && data.len() < Joining::MAX_HELD_BYTES {
            buffer.push(keep(0));
            self.deferred.set(true);
            return Ok(Written::Deferred);
        }
        match C::send(fd, data) {
            Ok(sent) if sent == data.len() => Ok(Written::All),
            Ok(sent) => {
                buffer.push(keep(sent));
                Ok(Written::Buffered)
            }
            Err(error) if is_retry(error) => {
                buffer.push(keep(0));
                Ok(Written::Buffered)
            }
            Err(error) => Err(error),
        }
    }

    /// Adds a chunk behind what is unsent, without writing. [`Stream::flush`] writes it.
    pub fn push(&self, chunk: B) {
        self.buffer.borrow_mut().push(chunk);
    }

    /// Writes as much of the buffer as the socket takes.
    pub fn flush(&self, fd: BorrowedFd<'_>) -> Result<Flushed> {
        self.deferred.set(false);
        let mut buffer = self.buffer.borrow_mut();
        match buffer.write_to::<C>(fd) {
            Ok(()) => Ok(if buffer.is_empty() { Flushed::Drained } else { Flushed::Blocked }),
            Err(error) if is_retry(error) => Ok(Flushed::Blocked),
            Err(error) => Err(error),
        }
    }

    /// Marks the end of our direction. False if it was marked, or the stream is closing.
    pub fn write_eof(&self) -> bool {
        if self.is_closing() || self.has_write_eof() {
            return false;
        }
        self.write_end.set(WriteEnd::Eof);
        true
    }

    // ---- the end ---------------------------------------------------------------------------

    /// No more reads; writes what is buffered, then the connection is lost.
    pub fn close(&self) -> Closed {
        self.life.close(self.has_unsent())
    }

    /// After a flush that drained: true if the stream was closing, and so is lost now.
    pub fn finish_closing(&self) -> bool {
        self.life.finish_closing()
    }

    /// Drops what is unsent and ends the stream. False if it had ended before.
    pub fn abort(&self) -> bool {
        if !self.life.end() {
            return false;
        }
        self.discard_unsent();
        true
    }

    /// Forgets what is not written.
    pub fn discard_unsent(&self) {
        self.deferred.set(false);
        let unsent = self.buffer.take();
        drop(unsent);
    }
}

impl<B: AsRef<[u8]>> Stream<B> {
    /// Shuts our direction down if it is marked ended and everything is written.
    pub fn shut_down_if_ended(&self, fd: BorrowedFd<'_>) -> Result<()> {
        if self.has_write_eof() && !self.has_unsent() && self.phase() == Phase::Open {
            shutdown(fd, Shutdown::Write)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write as _},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::*;
    use crate::{Errno, pipe::set_nonblocking};

    fn pair() -> (UnixStream, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        (a, b)
    }

    fn write(stream: &Stream<Vec<u8>>, fd: &UnixStream, turn: Option<u64>, data: &[u8]) -> Written {
        let turn = turn.map(|number| WriteTurn { number, is_crowded: false });
        stream.write(fd.as_fd(), turn, data, |from| data[from..].to_vec()).unwrap()
    }

    fn fill(stream: &Stream<Vec<u8>>, fd: &UnixStream) -> usize {
        let chunk = vec![7; 100_000];
        let mut written = 0;
        loop {
            written += chunk.len();
            if write(stream, fd, None, &chunk) == Written::Buffered {
                return written;
            }
        }
    }

    #[test]
    fn a_write_goes_out_at_once() {
        let (a, mut b) = pair();
        let stream = Stream::new(true);
        assert_eq!(write(&stream, &a, Some(1), b"now"), Written::All);
        let mut got = [0; 3];
        b.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"now");
    }

    #[test]
    fn after_a_turn_with_two_writes_the_next_turns_are_joined_until_one_writes_once() {
        let (a, mut b) = pair();
        let stream = Stream::new(true);
        assert_eq!(write(&stream, &a, Some(1), b"1"), Written::All);
        assert_eq!(write(&stream, &a, Some(1), b"2"), Written::All);
        assert_eq!(write(&stream, &a, Some(2), b"3"), Written::Deferred);
        assert_eq!(write(&stream, &a, Some(2), b"4"), Written::Joined);
        assert_eq!(stream.flush(a.as_fd()), Ok(Flushed::Drained));
        assert_eq!(write(&stream, &a, Some(3), b"5"), Written::Deferred);
        assert_eq!(stream.flush(a.as_fd()), Ok(Flushed::Drained));
        assert_eq!(write(&stream, &a, Some(4), b"6"), Written::All);
        let mut got = [0; 6];
        b.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"123456");
    }

    #[test]
    fn outside_a_batch_nothing_is_deferred() {
        let (a, _b) = pair();
        let stream = Stream::new(true);
        write(&stream, &a, Some(1), b"1");
        write(&stream, &a, Some(1), b"2");
        assert_eq!(write(&stream, &a, None, b"3"), Written::All);
    }

    #[test]
    fn what_the_socket_does_not_take_is_kept_in_order() {
        let (a, mut b) = pair();
        let stream = Stream::new(true);
        let written = fill(&stream, &a);
        assert_eq!(write(&stream, &a, None, b"the end"), Written::Buffered);
        assert!(stream.interest().contains(Interest::WRITE));
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            b.read_to_end(&mut all).unwrap();
            all
        });
        while stream.flush(a.as_fd()).unwrap() == Flushed::Blocked {
            std::thread::yield_now();
        }
        assert!(stream.write_eof());
        stream.shut_down_if_ended(a.as_fd()).unwrap();
        let all = reader.join().unwrap();
        assert_eq!(all.len(), written + b"the end".len());
        assert!(all.ends_with(b"\x07the end"));
    }

    #[test]
    fn close_waits_for_the_buffer_and_abort_drops_it() {
        let (a, _b) = pair();
        let stream = Stream::new(true);
        fill(&stream, &a);
        assert_eq!(stream.close(), Closed::Flushing);
        assert_eq!(stream.close(), Closed::Already);
        assert!(stream.abort());
        assert_eq!(stream.phase(), Phase::Lost);
        assert_eq!(stream.unsent_bytes(), 0);
        assert!(!stream.abort());
    }

    #[test]
    fn a_pause_before_the_start_holds_after_it() {
        let stream: Stream<Vec<u8>> = Stream::new(true);
        assert!(stream.pause_reading());
        stream.start_reading();
        assert!(!stream.wants_data());
        assert!(stream.resume_reading());
        assert!(stream.wants_data());
        assert_eq!(stream.interest(), Interest::READ);
    }

    #[test]
    fn a_blocking_descriptor_does_not_block() {
        let (a, b) = pair();
        a.set_nonblocking(false).unwrap();
        let stream = Stream::new(true);
        assert_eq!(stream.receive(a.as_fd(), &mut [0; 16]), Err(Errno::AGAIN));
        fill(&stream, &a);
        assert_eq!(stream.flush(a.as_fd()), Ok(Flushed::Blocked));
        write(&stream, &a, None, b"a second chunk");
        assert_eq!(stream.flush(a.as_fd()), Ok(Flushed::Blocked));
        drop(b);
    }

    #[test]
    fn receiving_reports_data_then_would_block_then_the_end() {
        let (a, mut b) = pair();
        let stream: Stream<Vec<u8>> = Stream::new(true);
        let mut buffer = [0; 16];
        b.write_all(b"data").unwrap();
        assert_eq!(stream.receive(a.as_fd(), &mut buffer), Ok(4));
        assert_eq!(stream.receive(a.as_fd(), &mut buffer), Err(Errno::AGAIN));
        drop(b);
        assert_eq!(stream.receive(a.as_fd(), &mut buffer), Ok(0));
    }

    #[test]
    fn a_pipe_is_read_and_written_by_the_calls_of_a_file() {
        let (reader, writer) = std::io::pipe().unwrap();
        set_nonblocking(reader.as_fd()).unwrap();
        set_nonblocking(writer.as_fd()).unwrap();
        let reading: Stream<Vec<u8>, Pipe> = Stream::new(false);
        let writing: Stream<Vec<u8>, Pipe> = Stream::new(false);
        let write = |data: &[u8]| writing.write(writer.as_fd(), None, data, |at| data[at..].into());
        let mut written = 0;
        for size in [100_000, 1, 0, 2] {
            write(&vec![7; size]).unwrap();
            written += size;
        }
        assert_eq!(writing.flush(writer.as_fd()), Ok(Flushed::Blocked));
        let mut received = 0;
        let mut buffer = vec![0; 65_536];
        while received < written {
            received += reading.receive(reader.as_fd(), &mut *buffer).unwrap();
            writing.flush(writer.as_fd()).unwrap();
        }
        assert_eq!(received, written);
        assert_eq!(reading.receive(reader.as_fd(), &mut *buffer), Err(Errno::AGAIN));
        drop(reader);
        assert_eq!(write(b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn a_write_to_a_peer_that_is_gone_keeps_its_errno() {
        let (a, b) = pair();
        drop(b);
        let stream: Stream<Vec<u8>> = Stream::new(true);
        let result = stream.write(a.as_fd(), None, b"x", |_| Vec::new());
        assert_eq!(result, Err(Errno::PIPE));
    }
}
