//! The floor: servers.py's echo over TCP without Python, on one thread over epoll.
//!
//! `epoll-server protocol SCRATCH` prints its address, then serves until ended. It leaves out what a program does not
//! need here: timeouts, addresses, flow control beyond "do not read while an answer waits for room". What a loop costs
//! more than this is what Python and the loop itself cost.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use loadgen::server::{self, Connection, Next};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [server, _] if server == "protocol" => {}
        _ => return Err("usage: epoll-server protocol SCRATCH".into()),
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!(r#"{{"tcp": "{}"}}"#, listener.local_addr()?);
    server::serve(listener, |socket| Ok(Echo { socket, unsent: Vec::new() }))
}

struct Echo {
    socket: TcpStream,
    unsent: Vec<u8>,
}

impl Connection for Echo {
    fn advance(&mut self, scratch: &mut [u8]) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            let sent = written(self.socket.write(&self.unsent))?;
            self.unsent.drain(..sent);
        } else {
            let count = match self.socket.read(scratch) {
                Ok(0) => return Ok(Next::End),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Read),
                Err(error) => return Err(error),
            };
            let sent = written(self.socket.write(&scratch[..count]))?;
            self.unsent.extend_from_slice(&scratch[sent..count]);
        }
        Ok(if self.unsent.is_empty() { Next::Read } else { Next::Write })
    }

    fn end(self, _: io::Result<()>) {}
}

/// How many bytes the socket took.
fn written(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
