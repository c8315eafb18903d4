//! asyncio's protocols: who is called by a transport.

use std::{io, net::SocketAddr};

use crate::{DatagramTransport, Transport};

/// Who hears of a connection, as `asyncio.Protocol`. Each method does nothing until it is implemented.
///
/// The calls come in this order: `connection_made` once; `data_received` (or the methods of a
/// [`BufferedProtocol`]) any number of times, then
/// `eof_received` at most once; `connection_lost` once. Only a loop that is closed calls no more, not even
/// `connection_lost`: it drops the protocol.
///
/// A protocol may call its transport in any way in any method, and so may everybody else.
///
/// A program that shares a protocol with its transport may borrow it within a callback, or between two
/// `await`s: what is to be told meanwhile is told afterwards. But if the loop finds it borrowed when something
/// has arrived, as across an `await`, it cannot call it; that is reported and ends the connection as a panic
/// does, and `connection_lost` waits until it can be called.
///
/// A panic in a method is told to the loop's exception handler and ends the connection: the last call is
/// `connection_lost`, with an error that says so. The loop goes on.
///
/// ```
/// use velodrome::{Protocol, Transport};
///
/// #[derive(Default)]
/// struct Shout(Option<Transport>);
///
/// impl Protocol for Shout {
///     fn connection_made(&mut self, transport: Transport) {
///         self.0 = Some(transport);
///     }
///
///     fn data_received(&mut self, data: &[u8]) {
///         let transport = self.0.as_ref().expect("the connection was made");
///         transport.write(&data.to_ascii_uppercase());
///     }
/// }
/// ```
pub trait Protocol {
    /// The connection is made, and this is the transport that it has.
    fn connection_made(&mut self, transport: Transport) {
        let _ = transport;
    }

    /// Something has arrived. How much has nothing to do with how it was sent.
    fn data_received(&mut self, data: &[u8]) {
        let _ = data;
    }

    /// The peer sends no more. True keeps the other direction open; otherwise the transport closes itself.
    fn eof_received(&mut self) -> bool {
        false
    }

    /// The connection is lost: by this error, or without one if it was closed, aborted or ended by the
    /// peer. The transport lets go of the protocol after it.
    fn connection_lost(&mut self, error: Option<io::Error>) {
        let _ = error;
    }

    /// More waits for the socket than the high mark of [`Transport::set_write_buffer_limits`]. Called once,
    /// from within `write`; but if that was called by the protocol itself, after its method.
    ///
    /// ```
    /// use velodrome::{Protocol, Transport};
    ///
    /// /// Sends numbers as fast as the peer takes them, until it ends its direction.
    /// #[derive(Default)]
    /// struct Count {
    ///     transport: Option<Transport>,
    ///     is_paused: bool,
    ///     number: u64,
    /// }
    ///
    /// impl Count {
    ///     fn send(&mut self) {
    ///         while !self.is_paused && self.number < 1000 {
    ///             let line = format!("{}\n", self.number);
    ///             self.transport.as_ref().expect("the connection was made").write(line.as_bytes());
    ///             self.number += 1;
    ///         }
    ///     }
    /// }
    ///
    /// impl Protocol for Count {
    ///     fn connection_made(&mut self, transport: Transport) {
    ///         self.transport = Some(transport);
    ///         self.send();
    ///     }
    ///
    ///     fn eof_received(&mut self) -> bool {
    ///         // It may read on: close when we are through.
    ///         self.number < 1000
    ///     }
    ///
    ///     fn pause_writing(&mut self) {
    ///         self.is_paused = true;
    ///     }
    ///
    ///     fn resume_writing(&mut self) {
    ///         self.is_paused = false;
    ///         self.send();
    ///     }
    /// }
    /// ```
    fn pause_writing(&mut self) {}

    /// No more waits than the low mark: see [`Protocol::pause_writing`].
    fn resume_writing(&mut self) {}

    /// `Some(self)` of a [`BufferedProtocol`], which is told of data by its methods, not by
    /// [`Protocol::data_received`]. Asked once for each connection that has this protocol.
    fn buffered(&mut self) -> Option<&mut dyn BufferedProtocol> {
        None
    }
}

/// A protocol with a receive buffer of its own, as `asyncio.BufferedProtocol`: what arrives is written there
/// by the socket, and copied by nobody. [`Protocol::buffered`] says that a protocol is one.
///
/// ```
/// use std::io;
/// use velodrome::{BufferedProtocol, Protocol, TcpStream, Transport};
///
/// /// Answers each message of 4 bytes with its sum.
/// #[derive(Default)]
/// struct Sums {
///     transport: Option<Transport>,
///     message: [u8; 4],
///     filled: usize,
/// }
///
/// impl Protocol for Sums {
///     fn connection_made(&mut self, transport: Transport) {
///         self.transport = Some(transport);
///     }
///
///     fn buffered(&mut self) -> Option<&mut dyn BufferedProtocol> {
///         Some(self)
///     }
/// }
///
/// impl BufferedProtocol for Sums {
///     fn get_buffer(&mut self, _size_hint: Option<usize>) -> &mut [u8] {
///         &mut self.message[self.filled..]
///     }
///
///     fn buffer_updated(&mut self, count: usize) {
///         self.filled += count;
///         if self.filled == self.message.len() {
///             let transport = self.transport.as_ref().expect("the connection was made");
///             transport.write(&[self.message.iter().sum()]);
///             self.filled = 0;
///         }
///     }
/// }
///
/// velodrome::run(async {
///     let event_loop = velodrome::get_running_loop().unwrap();
///     let server = event_loop.create_server(Sums::default, "127.0.0.1:0").await?;
///     let client = TcpStream::connect(server.sockets()[0]).await?;
///     client.write_all(&[1, 2, 3, 4, 5, 6, 7, 8]).await?;
///     let mut answers = [0; 2];
///     client.read_exact(&mut answers).await?;
///     assert_eq!(answers, [10, 26]);
///     io::Result::Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait BufferedProtocol: Protocol {
    /// Where what arrives next is to be written. An empty buffer ends the connection, as a panic does.
    ///
    /// `size_hint`: the size that the buffer should have at least. A transport gives none; who hands data on that
    /// it has already does.
    fn get_buffer(&mut self, size_hint: Option<usize>) -> &mut [u8];

    /// The first `count` bytes of the buffer have arrived. Not called if [`BufferedProtocol::get_buffer`] was
    /// called in vain.
    fn buffer_updated(&mut self, count: usize);
}

/// Who hears of datagrams, as `asyncio.DatagramProtocol`. Each method does nothing until it is implemented.
///
/// What [`Protocol`] says of borrowing, of panics and of the end holds here, too.
///
/// ```
/// use std::{io, net::SocketAddr};
/// use velodrome::{DatagramProtocol, DatagramTransport};
///
/// #[derive(Default)]
/// struct Count {
///     transport: Option<DatagramTransport>,
///     received: usize,
///     errors: usize,
///     is_paused: bool,
/// }
///
/// impl DatagramProtocol for Count {
///     fn connection_made(&mut self, transport: DatagramTransport) {
///         self.transport = Some(transport);
///     }
///
///     fn datagram_received(&mut self, data: &[u8], from: SocketAddr) {
///         self.received += data.len();
///         if let (Some(transport), false) = (&self.transport, self.is_paused) {
///             transport.sendto(self.received.to_string().as_bytes(), Some(from));
///         }
///     }
///
///     fn error_received(&mut self, error: io::Error) {
///         eprintln!("it goes on after {error}");
///         self.errors += 1;
///     }
///
///     fn connection_lost(&mut self, _error: Option<io::Error>) {
///         self.transport = None;
///     }
///
///     fn pause_writing(&mut self) {
///         self.is_paused = true;
///     }
///
///     fn resume_writing(&mut self) {
///         self.is_paused = false;
///     }
/// }
/// ```
pub trait DatagramProtocol {
    /// The socket is there, and this is its transport.
    fn connection_made(&mut self, transport: DatagramTransport) {
        let _ = transport;
    }

    /// A datagram has arrived. There is one in each turn of the loop, at most.
    fn datagram_received(&mut self, data: &[u8], from: SocketAddr) {
        let _ = (data, from);
    }

    /// A datagram could not be sent or received, as when the peer refused one before. Called from within
    /// `sendto`; but if that was called by the protocol itself, after its method. The transport goes on.
    fn error_received(&mut self, error: io::Error) {
        let _ = error;
    }

    /// The transport was closed or aborted; an error if the loop or the protocol failed.
    fn connection_lost(&mut self, error: Option<io::Error>) {
        let _ = error;
    }

    /// See [`Protocol::pause_writing`].
    fn pause_writing(&mut self) {}

    /// See [`Protocol::resume_writing`].
    fn resume_writing(&mut self) {}
}
