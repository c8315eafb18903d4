//! A datagram transport: what a program calls, and what happens in its turns.
//!
//! The model's [`DatagramSocket`] decides, as its stream does for a connection.

use std::{
    cell::RefCell,
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::net::{RecvFlags, SocketAddrAny, getsockname, recvfrom};

use super::{
    base::{Base, Based},
    buffer_limits,
};
use crate::{
    datagram::{Datagram, DatagramSocket, Flushed, Target},
    endpoint::{self, Turn},
    error::is_retry,
    event_loop::Inner,
    life::{Closed, Phase},
    protocol::DatagramProtocol,
};

/// What a waiting datagram counts beyond its data, in asyncio.
const HEADER_BYTES: usize = 8;

/// A UDP socket of a [`DatagramProtocol`], as `asyncio.DatagramTransport`. Clones are the same socket.
///
/// [`EventLoop::create_datagram_endpoint`](crate::EventLoop::create_datagram_endpoint) makes it, and the loop
/// keeps it until `connection_lost`: dropping it changes nothing.
///
/// ```
/// # velodrome::run(async {
/// use std::{cell::{Cell, RefCell}, net::SocketAddr, rc::Rc};
/// use velodrome::{DatagramProtocol, UdpSocket};
///
/// /// Counts what it is told.
/// #[derive(Clone, Default)]
/// struct Count(Rc<Cell<usize>>, Rc<velodrome::Event>);
///
/// impl DatagramProtocol for Count {
///     fn datagram_received(&mut self, _data: &[u8], _from: SocketAddr) {
///         self.0.set(self.0.get() + 1);
///         self.1.set();
///     }
/// }
///
/// let event_loop = velodrome::get_running_loop().unwrap();
/// let peer = UdpSocket::bind("127.0.0.1:0").await?;
/// let remote = peer.local_addr()?;
/// let (transport, protocol) =
///     event_loop.create_datagram_endpoint(Count::default, None, Some(remote)).await?;
/// assert_eq!(transport.peer_addr(), Some(remote));
/// transport.sendto(b"hello", None);
/// let (_, from) = peer.recv_from(&mut [0; 16]).await?;
/// assert_eq!(transport.local_addr(), Some(from));
///
/// // Another one is told from now on, and of nothing as long as reading is paused.
/// let other = Count::default();
/// assert!(transport.get_protocol().is_some());
/// transport.set_protocol(Rc::new(RefCell::new(other.clone())));
/// transport.pause_reading();
/// assert!(!transport.is_reading());
/// peer.send_to(b"x", from).await?;
/// transport.resume_reading();
/// other.1.wait().await;
/// assert_eq!((protocol.borrow().0.get(), other.0.get()), (0, 1));
///
/// transport.set_write_buffer_limits(Some(4096), None);
/// assert_eq!(transport.get_write_buffer_limits(), (1024, 4096));
/// assert_eq!(transport.get_write_buffer_size(), 0);
/// let number = transport.with_socket(|socket| std::os::fd::AsRawFd::as_raw_fd(&socket));
/// assert!(number.is_some());
/// transport.abort();
/// transport.close();
/// assert!(transport.is_closing());
/// # std::io::Result::Ok(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Clone)]
pub struct DatagramTransport(pub(super) Rc<Endpoint>);

impl DatagramTransport {
    /// Sends `data` in one datagram, to the peer that the socket is connected to without an address. What the
    /// socket does not take now is copied, and sent as soon as it does. An error goes to `error_received`.
    ///
    /// # Panics
    ///
    /// With another address than the one that the socket is connected to.
    pub fn sendto(&self, data: &[u8], to: Option<SocketAddr>) {
        self.0.sendto(data, to);
    }

    /// Closes the socket after what waits is sent. No more is received, and `connection_lost` is called
    /// later. Idempotent.
    pub fn close(&self) {
        self.0.close();
    }

    /// Closes the socket at once; what waits is lost. `connection_lost` is called later.
    pub fn abort(&self) {
        self.0.force_close(None);
    }

    /// Whether it is closing, or closed.
    pub fn is_closing(&self) -> bool {
        self.0.socket.is_closing()
    }

    /// No more `datagram_received` until [`DatagramTransport::resume_reading`]. Idempotent.
    pub fn pause_reading(&self) {
        self.0.socket.pause_reading();
    }

    /// Undoes [`DatagramTransport::pause_reading`]. Idempotent.
    pub fn resume_reading(&self) {
        if self.0.socket.resume_reading() {
            self.0.set_interest(true);
        }
    }

    /// Whether it is open and not paused.
    pub fn is_reading(&self) -> bool {
        self.0.socket.is_reading()
    }

    /// See [`Transport::set_write_buffer_limits`](crate::Transport::set_write_buffer_limits).
    pub fn set_write_buffer_limits(&self, high: Option<usize>, low: Option<usize>) {
        let (low, high) = buffer_limits(high, low);
        self.0.socket.flow.set_limits(low, high);
        self.0.pause_protocol_if_full();
    }

    /// The marks: (low, high).
    pub fn get_write_buffer_limits(&self) -> (usize, usize) {
        self.0.socket.flow.limits()
    }

    /// How many bytes wait for the socket, with 8 for each datagram, as in asyncio.
    pub fn get_write_buffer_size(&self) -> usize {
        self.0.socket.unsent_bytes()
    }

    /// The address that the socket has; none after `connection_lost`.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.base.with_fd(|fd| getsockname(fd)).ok()?.try_into().ok()
    }

    /// The address that the socket is connected to.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.peer
    }

    /// See [`Transport::with_socket`](crate::Transport::with_socket).
    pub fn with_socket<R>(&self, look: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        self.0.base.socket().map(|socket| look(socket.as_fd()))
    }

    /// See [`Transport::set_protocol`](crate::Transport::set_protocol).
    pub fn set_protocol(&self, protocol: Rc<RefCell<dyn DatagramProtocol>>) {
        self.0.base.set_protocol(protocol);
    }

    /// The protocol, until `connection_lost`.
    pub fn get_protocol(&self) -> Option<Rc<RefCell<dyn DatagramProtocol>>> {
        self.0.base.protocol()
    }
}

/// Whether they are of the same socket.
impl PartialEq for DatagramTransport {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for DatagramTransport {}

impl fmt::Debug for DatagramTransport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DatagramTransport")
            .field("open", &!self.is_closing())
            .field("reading", &self.is_reading())
            .field("unsent", &self.get_write_buffer_size())
            .finish()
    }
}

pub(super) struct Endpoint {
    base: Base<dyn DatagramProtocol>,
    socket: DatagramSocket<Vec<u8>>,
    peer: Option<SocketAddr>,
}

impl Endpoint {
    /// Over a socket that is connected to `peer`. The protocol is told in the next turn.
    pub fn over(
        event_loop: &Rc<Inner>,
        fd: OwnedFd,
        protocol: Rc<RefCell<dyn DatagramProtocol>>,
        peer: Option<SocketAddr>,
    ) -> io::Result<Rc<Self>> {
        let endpoint = Rc::new(Endpoint {
            base: Base::new(event_loop, fd, protocol),
            socket: DatagramSocket::new(HEADER_BYTES),
            peer,
        });
        endpoint.start()?;
        Ok(endpoint)
    }

    fn open(self: &Rc<Self>) {
        let transport = DatagramTransport(self.clone());
        self.call("connection_made", |protocol| protocol.connection_made(transport));
        self.socket.start_reading();
        self.set_interest(true);
        self.base.opened.set();
    }

    // ---- receiving -------------------------------------------------------------------------

    /// One in each turn, as asyncio has it: what a protocol does in a call comes before the next.
    fn readable(self: &Rc<Self>) {
        if !self.socket.wants_datagrams() {
            // Paused or closing: only now is it worth a system call to tell the poller so.
            return self.set_interest(false);
        }
        let Some(event_loop) = self.base.event_loop() else { return };
        let mut scratch = event_loop.endpoints().take_scratch();
        let received = self.base.with_fd(|fd| recvfrom(fd, &mut scratch[..], RecvFlags::DONTWAIT));
        match received {
            Ok((count, _, from)) => {
                let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                if let Some(from) = from {
                    let data = &scratch[..count];
                    self.call("datagram_received", |protocol| {
                        protocol.datagram_received(data, from);
                    });
                }
            }
            Err(error) if is_retry(error) => {}
            Err(error) => self.failed(error.into()),
        }
        event_loop.endpoints().put_back_scratch(scratch);
    }

    // ---- sending ---------------------------------------------------------------------------

    fn sendto(self: &Rc<Self>, data: &[u8], to: Option<SocketAddr>) {
        let to = match (self.peer, to) {
            (Some(peer), Some(to)) => {
                assert!(peer == to, "Invalid address: must be None or {peer}");
                None
            }
            (_, to) => to.map(SocketAddrAny::from),
        };
        if self.socket.phase() == Phase::Lost {
            return;
        }
        match self.base.with_fd(|fd| self.socket.send(fd, data, to.as_ref())) {
            Ok(true) => {}
            Ok(false) => {
                let to = to.map_or(Target::Peer, Target::Address);
                self.socket.queue(Datagram { data: data.to_vec(), to });
                self.set_interest(true);
                self.pause_protocol_if_full();
            }
            Err(error) => self.failed(error.into()),
        }
    }

    fn pause_protocol_if_full(self: &Rc<Self>) {
        if self.socket.flow.should_pause(self.socket.unsent_bytes()) {
            self.tell("pause_writing", |protocol| protocol.pause_writing());
        }
    }

    /// An error of the network is the protocol's to know.
    fn failed(self: &Rc<Self>, error: io::Error) {
        self.tell("error_received", |protocol| protocol.error_received(error));
    }

    /// The socket is writable: sends what waits.
    fn flush(self: &Rc<Self>) {
        if self.socket.phase() == Phase::Lost {
            return;
        }
        match self.base.with_fd(|fd| self.socket.flush(fd)) {
            Ok(Flushed::Drained | Flushed::Blocked) => {}
            Ok(Flushed::ByOwner(_)) => unreachable!("`sendto` leaves none to its owner"),
            // What is left, if only the news that nothing is, waits for the next event.
            Err(error) => return self.failed(error.into()),
        }
        if self.socket.flow.should_resume(self.socket.unsent_bytes()) {
            self.tell("resume_writing", |protocol| protocol.resume_writing());
        }
        if self.socket.has_unsent() || self.socket.phase() == Phase::Lost {
            return;
        }
        self.set_interest(true);
        if self.socket.finish_closing() {
            self.lose(None);
        }
    }

    // ---- the poller, and the end -----------------------------------------------------------

    fn set_interest(self: &Rc<Self>, keep_reading: bool) {
        if self.socket.phase() == Phase::Lost {
            return;
        }
        if let Err(error) = self.base.set_interest(self.socket.interest(), keep_reading) {
            self.fatal(error.into());
        }
    }

    /// Ends it without sending what waits.
    fn force_close(self: &Rc<Self>, because: Option<io::Error>) {
        if self.socket.abort() {
            self.lose(because);
        }
    }

    fn lost(self: &Rc<Self>) {
        if self.waits_to_be_lost() {
            return;
        }
        let because = self.base.lost_because.take();
        self.call("connection_lost", |protocol| protocol.connection_lost(because));
        self.release();
    }
}

impl endpoint::Endpoint for Endpoint {
    fn take_turn(self: Rc<Self>, turn: Turn) {
        match turn {
            Turn::Ready(readiness) => {
                if readiness.readable {
                    self.readable();
                }
                if readiness.writable {
                    self.flush();
                }
            }
            Turn::Open => self.open(),
            Turn::Owed => self.tell_owed(),
            Turn::Lost => self.lost(),
        }
    }

    fn let_go(&self) {
        self.socket.abort();
        self.release();
    }
}

impl Based for Endpoint {
    type Protocol = dyn DatagramProtocol;

    fn base(&self) -> &Base<dyn DatagramProtocol> {
        &self.base
    }

    fn close(self: &Rc<Self>) {
        match self.socket.close() {
            Closed::Already => {}
            Closed::Flushing => self.set_interest(false),
            Closed::Lost => self.lose(None),
        }
    }

    #[cold]
    fn fatal(self: &Rc<Self>, because: io::Error) {
        self.force_close(Some(because));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[derive(Default)]
    struct Log(Vec<&'static str>);

    impl DatagramProtocol for Log {
        fn pause_writing(&mut self) {
            self.0.push("pause");
        }

        fn resume_writing(&mut self) {
            self.0.push("resume");
        }

        fn connection_lost(&mut self, error: Option<io::Error>) {
            assert!(error.is_none());
            self.0.push("lost");
        }
    }

    /// A Unix socket, since it can be full: UDP drops what the peer does not read.
    #[test]
    fn datagrams_that_the_socket_does_not_take_wait_and_are_sent_before_the_end() {
        let event_loop = crate::new_event_loop();
        let (ours, peer) = UnixDatagram::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let protocol = Rc::new(RefCell::new(Log::default()));
        let endpoint =
            Endpoint::over(event_loop.inner(), ours.into(), protocol.clone(), None).unwrap();
        let transport = DatagramTransport(endpoint);
        let mut sent = 0_u32;
        while protocol.borrow().0.is_empty() {
            transport.sendto(&[&sent.to_ne_bytes()[..], &[0; 996]].concat(), None);
            sent += 1;
        }
        assert!(transport.get_write_buffer_size() > 64 * 1024);
        transport.close();
        let mut received = 0;
        event_loop
            .run_until_complete(async {
                while protocol.borrow().0.last() != Some(&"lost") {
                    let mut data = [0; 2000];
                    while let Ok(count) = peer.recv(&mut data) {
                        assert_eq!(count, 1000);
                        assert_eq!(data[..4], u32::to_ne_bytes(received));
                        received += 1;
                    }
                    crate::sleep(std::time::Duration::ZERO).await;
                }
                while peer.recv(&mut [0; 2000]).is_ok() {
                    received += 1;
                }
            })
            .unwrap();
        assert_eq!(received, sent);
        assert_eq!(protocol.borrow().0, ["pause", "resume", "lost"]);
        event_loop.close().unwrap();
    }
}
