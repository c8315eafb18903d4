//! The floor: servers.py's TLS servers without Python, by rustls on one thread over epoll.
//!
//! `rustls-server SERVER SCRATCH [VERSION]` prints its address, then serves until ended. It leaves out what a program does
//! not need here: timeouts, addresses, flow control beyond "do not read while an answer waits for room". What a loop costs
//! more than this is what Python, OpenSSL and the loop itself cost.
//!
//! The server `strict` is for the tests of TLS clients: an echo that tells of each connection how it has ended.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use loadgen::sys::{Epoll, EventBuffer, Interest};
use loadgen::tls::{self, TlsStream};
use rustls::ServerConfig;

/// As in servers.py.
const UPLOAD_INTERVAL: usize = 16 * 64 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (server, scratch, version) = match &arguments[..] {
        [server, scratch] => (server, scratch, Some(tls::NEWEST)),
        [server, scratch, number] => (server, scratch, tls::version(number)),
        _ => return Err("usage: rustls-server SERVER SCRATCH [1.2 | 1.3]".into()),
    };
    let version = version.ok_or("no such version of TLS")?;
    let role = match server.as_str() {
        "strict" => Role::StrictEcho,
        "tls-protocol" => Role::Echo,
        "tls-receive" => Role::Receive { missing: UPLOAD_INTERVAL },
        other => return Err(format!("no such server: {other}").into()),
    };
    let pem = std::fs::read(Path::new(scratch).join("certificate.pem"))?;
    let config = tls::server_config(&pem, version)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!(r#"{{"tls": "{}"}}"#, listener.local_addr()?);
    serve(listener, &config, role)
}

fn serve(
    listener: TcpListener,
    config: &Arc<ServerConfig>,
    role: Role,
) -> Result<(), Box<dyn Error>> {
    const LISTENER: usize = usize::MAX;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd(), LISTENER, Interest::Read)?;
    let mut ready = EventBuffer::default();
    let mut scratch = vec![0; 256 * 1024];
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut vacant = Vec::new();
    loop {
        for index in epoll.wait(&mut ready, -1)? {
            if index == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    socket.set_nonblocking(true)?;
                    socket.set_nodelay(true)?;
                    let index = vacant.pop().unwrap_or_else(|| {
                        connections.push(None);
                        connections.len() - 1
                    });
                    epoll.add(socket.as_raw_fd(), index, Interest::Read)?;
                    let stream = TlsStream::accept(socket, config.clone())?;
                    connections[index] =
                        Some(Connection { index, stream, role, waits_for_room: false });
                }
                continue;
            }
            // An event of this batch may be older than the connection's end.
            let Some(connection) = &mut connections[index] else { continue };
            let ending = match connection.advance(&epoll, &mut scratch) {
                Ok(true) => continue,
                Ok(false) => "close_notify".to_string(),
                Err(error) => error.to_string(),
            };
            // The load generator leaves in the middle of something; it is the one to complain about errors.
            if let Role::StrictEcho = connection.role {
                println!("{ending}");
            }
            connections[index] = None;
            vacant.push(index);
        }
    }
}

#[derive(Clone, Copy)]
enum Role {
    Echo,
    StrictEcho,
    /// `missing` bytes until the next answer.
    Receive {
        missing: usize,
    },
}

struct Connection {
    index: usize,
    stream: TlsStream,
    role: Role,
    waits_for_room: bool,
}

impl Connection {
    /// Does what the socket allows; false when the connection has come to its end.
    fn advance(&mut self, epoll: &Epoll, scratch: &mut [u8]) -> io::Result<bool> {
        if !self.waits_for_room {
            match self.stream.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(count) => self.answer(&scratch[..count])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.stream.peer_said_goodbye() {
                self.stream.session.send_close_notify();
                self.stream.flush()?;
                return Ok(false);
            }
        }
        let blocked = match self.stream.flush() {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(error) => return Err(error),
        };
        if blocked != self.waits_for_room {
            self.waits_for_room = blocked;
            let interest = if blocked { Interest::Write } else { Interest::Read };
            epoll.modify(self.stream.as_raw_fd(), self.index, interest)?;
        }
        Ok(true)
    }

    fn answer(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.role {
            Role::Echo | Role::StrictEcho => self.stream.write_all(data),
            Role::Receive { missing } => {
                let mut end = *missing;
                while end <= data.len() {
                    self.stream.write_all(&data[end - 1..end])?;
                    end += UPLOAD_INTERVAL;
                }
                *missing = end - data.len();
                Ok(())
            }
        }
    }
}
