//! asyncio's protocols: who is called by a transport.

use std::{io, net::SocketAddr};

use crate::{DatagramTransport, Transport};

/// Who hears of a connection, as `asyncio.Protocol`. Each method does nothing until it is implemented.
///
/// The calls come in this order: `connection_made` once; `data_received` any number of times, then
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
/// A panic in a method is told to the loop's exception handler and ends the connection: the next call is
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
    fn pause_writing(&mut self) {}

    /// No more waits than the low mark: see [`Protocol::pause_writing`].
    fn resume_writing(&mut self) {}
}

/// Who hears of datagrams, as `asyncio.DatagramProtocol`. Each method does nothing until it is implemented.
///
/// What [`Protocol`] says of borrowing, of panics and of the end holds here, too.
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
