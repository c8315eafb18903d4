//! What the servers in Rust share: one thread over epoll, with as many connections as come.

use std::error::Error;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::sys::{self, Epoll, EventBuffer, Interest};

pub trait Listener: AsRawFd {
    type Socket: From<OwnedFd> + AsRawFd;
}

impl Listener for TcpListener {
    type Socket = TcpStream;
}

impl Listener for UnixListener {
    type Socket = UnixStream;
}

pub trait Connection {
    /// What it waits for at first.
    const FIRST: Next = Next::Read;

    /// Does what the socket allows.
    fn advance(&mut self, scratch: &mut [u8]) -> io::Result<Next>;

    /// It has come to its end, or failed. The load generator leaves in the middle of something, and is the one to
    /// complain about errors.
    fn end(self, how: io::Result<()>);
}

/// What a connection waits for.
pub enum Next {
    Read,
    Write,
    End,
}

/// Serves until the process is ended. `new` gets sockets that do not block, and makes nothing of those that it is done
/// with already.
pub fn serve<L: Listener, C: Connection>(
    listener: L,
    new: impl Fn(L::Socket) -> io::Result<Option<C>>,
) -> Result<(), Box<dyn Error>> {
    const LISTENER: usize = usize::MAX;
    sys::do_not_block(listener.as_raw_fd())?;
    let epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd(), LISTENER, Interest::Read)?;
    let mut ready = EventBuffer::default();
    let mut scratch = vec![0; 256 * 1024];
    let mut served: Vec<Option<Served<C>>> = Vec::new();
    let mut vacant = Vec::new();
    loop {
        for index in epoll.wait(&mut ready, -1)? {
            if index == LISTENER {
                while let Ok(socket) = sys::accept(listener.as_raw_fd()) {
                    let descriptor = socket.as_raw_fd();
                    let Some(connection) = new(socket.into())? else { continue };
                    let index = vacant.pop().unwrap_or_else(|| {
                        served.push(None);
                        served.len() - 1
                    });
                    epoll.add(descriptor, index, Interest::Read)?;
                    let new = Served { connection, descriptor, waits_for_room: false };
                    served[index].insert(new).wait_for(C::FIRST, &epoll, index)?;
                }
                continue;
            }
            // An event of this batch may be older than the connection's end.
            let Some(found) = &mut served[index] else { continue };
            let how = match found.connection.advance(&mut scratch) {
                Ok(Next::End) => Ok(()),
                Ok(next) => {
                    found.wait_for(next, &epoll, index)?;
                    continue;
                }
                Err(error) => Err(error),
            };
            let ended = served[index].take().expect("it was found");
            ended.connection.end(how);
            vacant.push(index);
        }
    }
}

struct Served<C> {
    connection: C,
    descriptor: RawFd,
    waits_for_room: bool,
}

impl<C> Served<C> {
    fn wait_for(&mut self, next: Next, epoll: &Epoll, index: usize) -> io::Result<()> {
        let blocked = matches!(next, Next::Write);
        if blocked == self.waits_for_room {
            return Ok(());
        }
        self.waits_for_room = blocked;
        let interest = if blocked { Interest::Write } else { Interest::Read };
        epoll.modify(self.descriptor, index, interest)
    }
}
