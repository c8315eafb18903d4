//! The floor by other means: the echo of epoll-server over io_uring, on one thread.
//!
//! `io-uring-server protocol SCRATCH` prints its address, then serves until ended. A connection is asked for bytes once
//! and gives them as they come (multishot), into buffers that all connections share; so one that waits has none. What
//! there is to be done is given to the kernel in the same call in which the server waits. Needs Linux 6.1.

use std::alloc::{self, Layout};
use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{cqueue, opcode, squeue, IoUring};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [server, _] if server == "protocol" => {}
        _ => return Err("usage: io-uring-server protocol SCRATCH".into()),
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut server = Server::new(listener)?;
    println!(r#"{{"tcp": "{}"}}"#, server.listener.local_addr()?);
    server.serve()
}

struct Server {
    ring: IoUring,
    buffers: Buffers,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
}

struct Connection {
    socket: TcpStream,
    /// The first is being sent; two at once could come out mixed.
    answers: VecDeque<Answer>,
    /// Nothing more comes.
    is_over: bool,
}

struct Answer {
    buffer: u16,
    length: u32,
}

/// What a completion is about; the other bits of its number are the connection.
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;

impl Server {
    fn new(listener: TcpListener) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(16 * 1024)
            .build(4 * 1024)
            .map_err(|error| io::Error::new(error.kind(), format!("io_uring: {error}")))?;
        let buffers = Buffers::register(&ring)?;
        Ok(Self { ring, buffers, listener, connections: Vec::new(), vacant: Vec::new() })
    }

    fn serve(&mut self) -> Result<(), Box<dyn Error>> {
        self.accept()?;
        let mut complete: Vec<cqueue::Entry> = Vec::new();
        loop {
            self.ring.submit_and_wait(1)?;
            complete.extend(self.ring.completion());
            for entry in complete.drain(..) {
                let index = (entry.user_data() >> 2) as usize;
                match entry.user_data() & 3 {
                    ACCEPT => self.accepted(&entry)?,
                    RECEIVE => self.received(index, &entry)?,
                    _ => self.sent(index)?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd()));
        self.push(accept.build().user_data(ACCEPT))
    }

    fn receive(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = &self.connections[index] else { return Ok(()) };
        let receive = opcode::RecvMulti::new(Fd(connection.socket.as_raw_fd()), Buffers::GROUP);
        self.push(receive.build().user_data((index as u64) << 2 | RECEIVE))
    }

    /// Sends the first of the answers.
    fn send(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = &self.connections[index] else { return Ok(()) };
        let Some(answer) = connection.answers.front() else { return Ok(()) };
        let bytes = self.buffers.address(answer.buffer);
        let send = opcode::Send::new(Fd(connection.socket.as_raw_fd()), bytes, answer.length)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        self.push(send.build().user_data((index as u64) << 2 | SEND))
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the only memory that an entry points to is a buffer, and these live as long as the process. A
            // socket is closed when nothing of it is under way.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?; // which makes room
        }
    }

    fn accepted(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        if !cqueue::more(entry.flags()) {
            self.accept()?;
        }
        let descriptor = result_of(entry)?;
        // SAFETY: the kernel just made it for us, and nothing else owns it.
        let socket = unsafe { TcpStream::from_raw_fd(descriptor as i32) };
        socket.set_nodelay(true)?;
        let connection = Connection { socket, answers: VecDeque::new(), is_over: false };
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.connections[index] = Some(connection);
        self.receive(index)
    }

    fn received(&mut self, index: usize, entry: &cqueue::Entry) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        match (result_of(entry), cqueue::buffer_select(entry.flags())) {
            (Ok(length @ 1..), Some(buffer)) => {
                connection.answers.push_back(Answer { buffer, length });
                if connection.answers.len() == 1 {
                    self.send(index)?;
                }
            }
            // All buffers are in use, which they are not for long.
            (Err(error), _) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            // The load generator is the one to complain about errors.
            _ => {
                connection.is_over = true;
                self.close_if_over(index);
                return Ok(());
            }
        }
        if !cqueue::more(entry.flags()) {
            self.receive(index)?;
        }
        Ok(())
    }

    /// All of the first answer, unless the connection has failed, of which `received` learns, too.
    fn sent(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        if let Some(answer) = connection.answers.pop_front() {
            self.buffers.provide(answer.buffer);
        }
        self.close_if_over(index);
        self.send(index)
    }

    fn close_if_over(&mut self, index: usize) {
        let is_over =
            |connection: &mut Connection| connection.is_over && connection.answers.is_empty();
        if self.connections[index].take_if(is_over).is_some() {
            self.vacant.push(index);
        }
    }
}

fn result_of(entry: &cqueue::Entry) -> io::Result<u32> {
    let result = entry.result();
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Memory for the kernel to receive into, and the ring by which it is told what is free. Never freed.
struct Buffers {
    /// Invariant: points to `COUNT` entries, which the kernel only reads.
    ring: *mut BufRingEntry,
    /// Invariant: points to `COUNT` buffers of `SIZE` bytes.
    memory: *mut u8,
    tail: u16,
}

impl Buffers {
    const GROUP: u16 = 0;
    const COUNT: u16 = 128; // a power of two
    const SIZE: usize = 128 * 1024;

    fn register(ring: &IoUring) -> io::Result<Self> {
        let entries = pages(Self::COUNT as usize * size_of::<BufRingEntry>());
        let memory = pages(Self::COUNT as usize * Self::SIZE);
        // SAFETY: `entries` is never freed, and has so many.
        unsafe {
            let flags = 0;
            let submitter = ring.submitter();
            submitter.register_buf_ring_with_flags(entries as u64, Self::COUNT, Self::GROUP, flags)
        }?;
        let mut buffers = Self { ring: entries.cast(), memory, tail: 0 };
        (0..Self::COUNT).for_each(|buffer| buffers.provide(buffer));
        Ok(buffers)
    }

    fn address(&self, buffer: u16) -> *mut u8 {
        // SAFETY: the kernel and `register` name no other buffers than there are (invariant of `memory`).
        unsafe { self.memory.add(buffer as usize * Self::SIZE) }
    }

    /// Gives a buffer to the kernel.
    fn provide(&mut self, buffer: u16) {
        let address = self.address(buffer);
        // SAFETY: it is one of the entries (invariant of `ring`), and one that the kernel does not look at before the
        // tail says so.
        let entry = unsafe { &mut *self.ring.add((self.tail % Self::COUNT) as usize) };
        entry.set_addr(address as u64);
        entry.set_len(Self::SIZE as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry (invariant of `ring`), where nothing else is read or written.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed memory that begins with a page.
fn pages(bytes: usize) -> *mut u8 {
    let layout = Layout::from_size_align(bytes, 4096).expect("a small size");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc::alloc_zeroed(layout) };
    if memory.is_null() {
        alloc::handle_alloc_error(layout);
    }
    memory
}
