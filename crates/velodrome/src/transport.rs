//! asyncio's transports: what a program calls. What the loop does is in `transport/connection.rs`.

mod base;
mod connect;
mod connection;
mod datagram;
mod server;

use std::{
    cell::RefCell,
    fmt,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
};

use base::Based;
use connection::Connection;
pub use datagram::DatagramTransport;
pub use server::{Server, ServerOptions};

use crate::{life::Phase, protocol::Protocol, stream::HIGH_WATER_BYTES};

/// A connection of a [`Protocol`], as `asyncio.Transport`. Clones are the same connection.
///
/// It is the loop that keeps the connection, from its begin until `connection_lost`: dropping a transport
/// changes nothing.
///
/// ```
/// use std::{io, net::Shutdown, os::unix::net::UnixStream};
/// use velodrome::{Event, Protocol, Transport};
///
/// #[derive(Default)]
/// struct Collect {
///     received: Vec<u8>,
///     is_over: std::rc::Rc<Event>,
/// }
///
/// impl Protocol for Collect {
///     fn connection_made(&mut self, transport: Transport) {
///         transport.write(b"hello");
///         transport.write_eof();
///     }
///
///     fn data_received(&mut self, data: &[u8]) {
///         self.received.extend(data);
///     }
///
///     fn connection_lost(&mut self, _error: Option<io::Error>) {
///         self.is_over.set();
///     }
/// }
///
/// velodrome::run(async {
///     let event_loop = velodrome::get_running_loop().unwrap();
///     let (one, other) = UnixStream::pair()?;
///     let (_, here) = event_loop.connect_accepted_socket(Collect::default, one).await?;
///     let (transport, there) = event_loop.connect_accepted_socket(Collect::default, other).await?;
///     let (here_is_over, there_is_over) =
///         (here.borrow().is_over.clone(), there.borrow().is_over.clone());
///     here_is_over.wait().await;
///     there_is_over.wait().await;
///     assert_eq!(here.borrow().received, b"hello");
///     assert_eq!(there.borrow().received, b"hello");
///     assert!(transport.is_closing());
///     io::Result::Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Transport(Rc<Connection>);

impl Transport {
    /// Sends `data`, or copies what the socket does not take now, to send it as soon as it does. Nothing is
    /// sent once the connection is lost.
    ///
    /// A transport that wrote twice in a turn of the loop holds the writes of its next turns back to the end
    /// of the batch of callbacks, and sends them in one.
    ///
    /// # Panics
    ///
    /// After [`Transport::write_eof`].
    pub fn write(&self, data: &[u8]) {
        self.0.write(data);
    }

    /// Sends all of `list_of_data`, with one system call if the socket takes it.
    ///
    /// # Panics
    ///
    /// After [`Transport::write_eof`].
    pub fn writelines<B: AsRef<[u8]>>(&self, list_of_data: impl IntoIterator<Item = B>) {
        self.0.writelines(list_of_data.into_iter().map(|data| data.as_ref().to_vec()).collect());
    }

    /// Ends our direction after what is buffered is sent; data may still be received. Idempotent.
    pub fn write_eof(&self) {
        self.0.flush_if_deferred();
        if self.0.stream.write_eof() {
            self.0.shut_down_if_ended();
        }
    }

    /// Whether there is a [`Transport::write_eof`]: always.
    pub fn can_write_eof(&self) -> bool {
        true
    }

    /// Closes the connection after what is buffered is sent. No more is received from now on, and
    /// `connection_lost` is called later, without an error. Idempotent.
    pub fn close(&self) {
        self.0.close();
    }

    /// Closes the connection at once; what is buffered is lost. `connection_lost` is called later, without
    /// an error.
    pub fn abort(&self) {
        // What `write` would have sent at once must not be lost by being held back.
        self.0.flush_if_deferred();
        self.0.force_close(None);
    }

    /// Whether it is closing, or closed.
    pub fn is_closing(&self) -> bool {
        self.0.stream.is_closing()
    }

    /// No more `data_received` until [`Transport::resume_reading`]. Idempotent.
    pub fn pause_reading(&self) {
        self.0.flush_if_deferred();
        self.0.stream.pause_reading();
    }

    /// Undoes [`Transport::pause_reading`]. Idempotent.
    pub fn resume_reading(&self) {
        if self.0.stream.resume_reading() {
            self.0.update_interest();
        }
    }

    /// Whether it is open and not paused.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::{cell::RefCell, io::Write, os::unix::net::UnixStream, rc::Rc};
    /// use velodrome::{Event, Protocol};
    ///
    /// struct Tell(Rc<Event>);
    ///
    /// impl Protocol for Tell {
    ///     fn data_received(&mut self, _data: &[u8]) {
    ///         self.0.set();
    ///     }
    /// }
    ///
    /// let event_loop = velodrome::get_running_loop().unwrap();
    /// let (ours, mut peer) = UnixStream::pair()?;
    /// let (first, second) = (Rc::new(Event::new()), Rc::new(Event::new()));
    /// let protocol = Tell(first.clone());
    /// let (transport, _) = event_loop.connect_accepted_socket(|| protocol, ours).await?;
    /// transport.pause_reading();
    /// assert!(!transport.is_reading());
    /// peer.write_all(b"hello")?;
    /// // Who is to be told may change: a protocol that is followed by another one.
    /// transport.set_protocol(Rc::new(RefCell::new(Tell(second.clone()))));
    /// transport.resume_reading();
    /// second.wait().await;
    /// assert!(!first.is_set() && transport.get_protocol().is_some());
    /// // A Unix socket has no such address.
    /// assert_eq!((transport.peer_addr(), transport.local_addr()), (None, None));
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn is_reading(&self) -> bool {
        self.0.stream.is_reading()
    }

    /// Sets the marks, in bytes, above which the protocol is told to pause, and at which to resume writing.
    /// As in asyncio, `high` is 64 KiB or four times `low` if it is not given, and `low` a quarter of it.
    ///
    /// # Panics
    ///
    /// If `low` is above `high`.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::os::unix::net::UnixStream;
    /// use velodrome::Protocol;
    ///
    /// struct Nothing;
    /// impl Protocol for Nothing {}
    ///
    /// let event_loop = velodrome::get_running_loop().unwrap();
    /// let (ours, _peer) = UnixStream::pair()?;
    /// let (transport, _) = event_loop.connect_accepted_socket(|| Nothing, ours).await?;
    /// transport.set_write_buffer_limits(Some(1000), None);
    /// assert_eq!(transport.get_write_buffer_limits(), (250, 1000));
    /// transport.writelines([&[0; 1 << 20][..], b"the end"]);
    /// assert!(transport.get_write_buffer_size() > 0, "more than the socket takes");
    /// // `write_eof` and `close` would wait for the peer to read.
    /// assert!(transport.can_write_eof());
    /// transport.abort();
    /// assert!(transport.is_closing());
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn set_write_buffer_limits(&self, high: Option<usize>, low: Option<usize>) {
        let (low, high) = buffer_limits(high, low);
        self.0.stream.flow.set_limits(low, high);
        self.0.flush_if_deferred();
        self.0.pause_protocol_if_full();
    }

    /// The marks: (low, high).
    pub fn get_write_buffer_limits(&self) -> (usize, usize) {
        self.0.stream.flow.limits()
    }

    /// How many bytes wait for the socket.
    pub fn get_write_buffer_size(&self) -> usize {
        self.0.flush_if_deferred();
        self.0.stream.unsent_bytes()
    }

    /// Where the connection comes from; nothing for a Unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.peer_addr
    }

    /// The connection's own end; nothing for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.local_addr
    }

    /// Has `look` look at the socket, as `get_extra_info("socket")` is for: options, credentials of the peer, its
    /// number. `None` once the connection is lost. Whoever reads, writes or shuts it down confuses the transport.
    ///
    /// ```
    /// use std::{io, net::TcpStream, os::fd::AsRawFd};
    /// use velodrome::{Protocol, TcpListener};
    ///
    /// struct Nothing;
    /// impl Protocol for Nothing {}
    ///
    /// velodrome::run(async {
    ///     let event_loop = velodrome::get_running_loop().unwrap();
    ///     let listener = TcpListener::bind("127.0.0.1:0").await?;
    ///     let address = listener.local_addr()?;
    ///     let (transport, _) = event_loop.create_connection(|| Nothing, address).await?;
    ///     let number = transport.with_socket(|socket| socket.as_raw_fd());
    ///     assert!(number.is_some_and(|number| number > 2));
    ///     // A duplicate is a socket of the standard library, with all that it can set.
    ///     let duplicate = transport.with_socket(|socket| socket.try_clone_to_owned());
    ///     let duplicate = TcpStream::from(duplicate.expect("it is open")?);
    ///     duplicate.set_ttl(7)?;
    ///     assert!(duplicate.nodelay()?);
    ///     transport.close();
    ///     io::Result::Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_socket<R>(&self, look: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        self.0.flush_if_deferred();
        self.0.base.socket().map(|socket| look(socket.as_fd()))
    }

    /// Has another protocol called from now on. It is not told of the connection. Nothing happens once the
    /// protocol was told that the connection is lost.
    pub fn set_protocol(&self, protocol: Rc<RefCell<dyn Protocol>>) {
        self.0.flush_if_deferred();
        self.0.set_protocol(protocol);
    }

    /// The protocol, until the connection is lost.
    pub fn get_protocol(&self) -> Option<Rc<RefCell<dyn Protocol>>> {
        self.0.base.protocol()
    }
}

/// The marks, low and high, in bytes.
fn buffer_limits(high: Option<usize>, low: Option<usize>) -> (usize, usize) {
    let high = high.unwrap_or_else(|| low.map_or(HIGH_WATER_BYTES, |low| low.saturating_mul(4)));
    let low = low.unwrap_or(high / 4);
    assert!(high >= low, "high ({high}) must be >= low ({low}) must be >= 0");
    (low, high)
}

/// Whether they are of the same connection.
impl PartialEq for Transport {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Transport {}

impl fmt::Debug for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = &self.0.stream;
        formatter
            .debug_struct("Transport")
            .field("open", &(stream.phase() == Phase::Open))
            .field("reading", &stream.is_reading())
            .field("unsent", &stream.unsent_bytes())
            .finish()
    }
}
