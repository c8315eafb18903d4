//! The other way round: a connection that the server makes, and after it the next.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use loadgen::sys::{self, Epoll, Interest};

use crate::client::{first_sequence, open_tcp, prepare, would_retry, Address, Work};
use crate::report::Tally;
use crate::Peer;

pub struct Host<'a> {
    index: usize,
    work: &'a Work,
    epoll: &'a Epoll,
    /// Its end is what tells the server to connect no more, and the server's end that it does so.
    invitation: TcpStream,
    listener: TcpListener,
    guest: Option<Guest>,
    sequence: usize,
    is_leaving: bool,
    has_left: bool,
}

struct Guest {
    socket: TcpStream,
    came: Instant,
    received: usize,
}

impl<'a> Host<'a> {
    pub fn invite(index: usize, work: &'a Work, epoll: &'a Epoll) -> io::Result<Self> {
        let Address::Tcp(address) = &work.address else { unreachable!("the options demand TCP") };
        let listener = TcpListener::bind((address.ip(), 0))?;
        listener.set_nonblocking(true)?;
        let mut invitation = open_tcp(address)?;
        writeln!(invitation, "{}", listener.local_addr()?.port())?;
        // With one index for all three, each is looked at when one of them is ready.
        epoll.add(listener.as_raw_fd(), index, Interest::Read)?;
        epoll.add(invitation.as_raw_fd(), index, Interest::Read)?;
        Ok(Self {
            index,
            work,
            epoll,
            invitation,
            listener,
            guest: None,
            sequence: first_sequence(index),
            is_leaving: false,
            has_left: false,
        })
    }

    /// Lets the next connection in and sends the request.
    fn welcome(&mut self) -> io::Result<()> {
        let (mut socket, _) = match self.listener.accept() {
            Err(error) if would_retry(&error) => return Ok(()),
            accepted => accepted?,
        };
        let came = Instant::now();
        prepare(&socket)?;
        // A new socket has room for a message.
        socket.write_all(self.work.exchange.request(self.sequence))?;
        self.epoll.add(socket.as_raw_fd(), self.index, Interest::Read)?;
        self.guest = Some(Guest { socket, came, received: 0 });
        Ok(())
    }

    /// Reads once and compares; true when the answer was complete and the server has closed the connection.
    fn hear(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        let Some(guest) = &mut self.guest else { return Ok(false) };
        let awaited = &self.work.exchange.reply(self.sequence)[guest.received..];
        let fault = match guest.socket.read(scratch) {
            Ok(0) if awaited.is_empty() => return Ok(true),
            Ok(0) => "the server closed the connection",
            Ok(count) if count > awaited.len() => "more bytes came back than were asked for",
            Ok(count) if scratch[..count] != awaited[..count] => "wrong bytes came back",
            Ok(count) => {
                guest.received += count;
                return Ok(false);
            }
            Err(error) if would_retry(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let (index, sequence, received) = (self.index, self.sequence, guest.received);
        Err(io::Error::other(format!(
            "{fault} (host {index}, message {sequence}, after {received} bytes of the answer)"
        )))
    }

    /// Whether the server has ended the invitation.
    fn is_declined(&mut self) -> io::Result<bool> {
        match self.invitation.read(&mut [0]) {
            Ok(0) => Ok(true),
            Ok(_) => Err(io::Error::other("bytes came back for an invitation")),
            Err(error) if would_retry(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Peer for Host<'_> {
    fn advance(&mut self, scratch: &mut [u8], tally: &mut Tally) -> io::Result<()> {
        if self.hear(scratch)? {
            // The server closed first; resetting spares it TIME_WAIT and with it the ephemeral ports.
            let guest = self.guest.take().expect("it was heard");
            sys::reset_on_close(guest.socket.as_raw_fd())?;
            tally.operations += 1;
            tally.latencies_ns.push(guest.came.elapsed().as_nanos() as u64);
            self.sequence += 1;
        }
        if self.guest.is_none() {
            self.welcome()?;
        }
        if !self.has_left && self.is_declined()? {
            if !self.is_leaving {
                return Err(io::Error::other("the server does not want to connect any more"));
            }
            self.has_left = true;
            self.epoll.remove(self.invitation.as_raw_fd())?;
        }
        Ok(())
    }

    fn leave(&mut self) -> io::Result<()> {
        self.is_leaving = true;
        sys::end_output(self.invitation.as_raw_fd())
    }

    fn has_left(&self) -> bool {
        self.has_left
    }

    fn was_answered(&self) -> bool {
        self.sequence > first_sequence(self.index)
    }

    fn reset_on_close(&self) -> io::Result<()> {
        sys::reset_on_close(self.invitation.as_raw_fd())
    }
}
