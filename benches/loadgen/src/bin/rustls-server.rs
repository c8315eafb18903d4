//! The floor: servers.py's TLS servers without Python, by rustls on one thread over epoll.
//!
//! `rustls-server SERVER SCRATCH [VERSION]` prints its address, then serves until ended. It leaves out what a program does
//! not need here: timeouts, addresses, flow control beyond "do not read while an answer waits for room". What a loop costs
//! more than this is what Python, OpenSSL and the loop itself cost.
//!
//! The server `strict` is for the tests of TLS clients: an echo that tells of each connection how it has ended.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use loadgen::server::{self, Connection, Next};
use loadgen::tls::{self, TlsStream};

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
    server::serve(listener, |socket: TcpStream| {
        socket.set_nodelay(true)?;
        let stream = TlsStream::accept(socket, config.clone())?;
        Ok(Some(TlsConnection { stream, role, waits_for_room: false }))
    })
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

struct TlsConnection {
    stream: TlsStream,
    role: Role,
    waits_for_room: bool,
}

impl Connection for TlsConnection {
    fn advance(&mut self, scratch: &mut [u8]) -> io::Result<Next> {
        if !self.waits_for_room {
            match self.stream.read(scratch) {
                Ok(0) => return Ok(Next::End),
                Ok(count) => self.answer(&scratch[..count])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.stream.peer_said_goodbye() {
                self.stream.session.send_close_notify();
                self.stream.flush()?;
                return Ok(Next::End);
            }
        }
        self.waits_for_room = match self.stream.flush() {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(error) => return Err(error),
        };
        Ok(if self.waits_for_room { Next::Write } else { Next::Read })
    }

    fn end(self, how: io::Result<()>) {
        if let Role::StrictEcho = self.role {
            match how {
                Ok(()) => println!("close_notify"),
                Err(error) => println!("{error}"),
            }
        }
    }
}

impl TlsConnection {
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
