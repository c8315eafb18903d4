//! What the servers in Rust share: one thread over epoll, with as many connections as come.

use std::error::Error;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use crate::sys::{Epoll, EventBuffer, Interest};

pub trait Connection {
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

/// Serves until the process is ended; `new` gets sockets that do not block.
pub fn serve<C: Connection>(
    listener: TcpListener,
    new: impl Fn(TcpStream) -> io::Result<C>,
) -> Result<(), Box<dyn Error>> {
    const LISTENER: usize = usize::MAX;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd(), LISTENER, Interest::Read)?;
    let mut ready = EventBuffer::default();
    let mut scratch = vec![0; 256 * 1024];
    let mut served: Vec<Option<Served<C>>> = Vec::new();
    let mut vacant = Vec::new();
    loop {
        for index in epoll.wait(&mut ready, -1)? {
            if index == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    socket.set_nonblocking(true)?;
                    socket.set_nodelay(true)?;
                    let index = vacant.pop().unwrap_or_else(|| {
                        served.push(None);
                        served.len() - 1
                    });
                    let descriptor = socket.as_raw_fd();
                    epoll.add(descriptor, index, Interest::Read)?;
                    let connection = new(socket)?;
                    served[index] = Some(Served { connection, descriptor, waits_for_room: false });
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
