//! The floor: servers of servers.py without Python, on one thread over epoll.
//!
//! `epoll-server SERVER SCRATCH` prints its address, then serves until ended. It leaves out what a program does not need
//! here: timeouts, addresses, flow control beyond "do not read while an answer waits for room". What a loop costs more
//! than this is what Python and the loop itself cost.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use loadgen::datagrams::Batch;
use loadgen::server::{self, Connection, Next};
use loadgen::sys::{Epoll, EventBuffer, Interest};

/// As in servers.py, as is all that is sent.
const GREETING: &[u8] = b"220 localhost: what would you like to hear today? Ready for it.\n";
const PIECE: usize = 64 * 1024;
const PIECES: usize = 17;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, scratch] = &arguments[..] else {
        return Err("usage: epoll-server SERVER SCRATCH".into());
    };
    match server.as_str() {
        "protocol" => server::serve(tcp_listener()?, |socket: TcpStream| {
            socket.set_nodelay(true)?;
            Ok(Some(Echo { socket, unsent: Vec::new() }))
        }),
        "unix-protocol" => {
            let path = Path::new(scratch).join("server.sock");
            let listener = UnixListener::bind(&path)?;
            println!(r#"{{"unix": "{}"}}"#, path.display());
            server::serve(listener, |socket: UnixStream| {
                Ok(Some(Echo { socket, unsent: Vec::new() }))
            })
        }
        "udp" => serve_datagrams(),
        "accept-write-close" => server::serve(tcp_listener()?, greet),
        "send" => {
            let numbers = 0..(PIECE * PIECES / 4) as u32;
            let cycle: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
            server::serve(tcp_listener()?, |socket: TcpStream| {
                socket.set_nodelay(true)?;
                Ok(Some(Sender { socket, cycle: &cycle, at: 0 }))
            })
        }
        other => Err(format!("no such server: {other}").into()),
    }
}

/// Of which the address has been printed.
fn tcp_listener() -> io::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!(r#"{{"tcp": "{}"}}"#, listener.local_addr()?);
    Ok(listener)
}

struct Echo<S> {
    socket: S,
    unsent: Vec<u8>,
}

impl<S: Read + Write> Connection for Echo<S> {
    fn advance(&mut self, scratch: &mut [u8]) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            let sent = unless_blocked(self.socket.write(&self.unsent))?.unwrap_or(0);
            self.unsent.drain(..sent);
        } else {
            let count = match unless_blocked(self.socket.read(scratch))? {
                Some(0) => return Ok(Next::End),
                Some(count) => count,
                None => return Ok(Next::Read),
            };
            let sent = unless_blocked(self.socket.write(&scratch[..count]))?.unwrap_or(0);
            self.unsent.extend_from_slice(&scratch[sent..count]);
        }
        Ok(if self.unsent.is_empty() { Next::Read } else { Next::Write })
    }

    fn end(self, _: io::Result<()>) {}
}

/// Sends the cycle over and over, until the other side ends.
struct Sender<'a> {
    socket: TcpStream,
    cycle: &'a [u8],
    /// How much of the cycle has been sent.
    at: usize,
}

impl Connection for Sender<'_> {
    const FIRST: Next = Next::Write;

    fn advance(&mut self, scratch: &mut [u8]) -> io::Result<Next> {
        if unless_blocked(self.socket.read(&mut scratch[..1]))? == Some(0) {
            return Ok(Next::End);
        }
        loop {
            let end = (self.at / PIECE + 1) * PIECE;
            let Some(sent) = unless_blocked(self.socket.write(&self.cycle[self.at..end]))? else {
                return Ok(Next::Write);
            };
            self.at = (self.at + sent) % self.cycle.len();
        }
    }

    fn end(self, _: io::Result<()>) {}
}

/// Who connects is told this, and no more. There is always room for so little.
fn greet(mut socket: TcpStream) -> io::Result<Option<Echo<TcpStream>>> {
    socket.write_all(GREETING)?;
    Ok(None)
}

fn serve_datagrams() -> Result<(), Box<dyn Error>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    println!(r#"{{"udp": "{}"}}"#, socket.local_addr()?);
    let epoll = Epoll::new()?;
    epoll.add(socket.as_raw_fd(), 0, Interest::Read)?;
    let (mut ready, mut batch) = (EventBuffer::default(), Batch::new());
    loop {
        for _ in epoll.wait(&mut ready, -1)? {
            unless_blocked(batch.echo(socket.as_raw_fd()))?;
        }
    }
}

fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}
