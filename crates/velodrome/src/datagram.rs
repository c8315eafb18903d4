//! A datagram socket as a state machine: UDP, and Unix sockets of type datagram or packet.
//!
//! Like [`Stream`](crate::stream::Stream), it owns what a transport knows and performs the I/O,
//! but neither the descriptor nor the protocol. A datagram is sent at once unless others wait; of
//! those that wait, many go out with one system call.
//!
//! ```
//! use std::{net::UdpSocket, os::fd::AsFd};
//! use velodrome::datagram::{Datagram, DatagramSocket, Flushed, Target};
//!
//! let (here, there) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
//! here.connect(there.local_addr()?)?;
//! let socket = DatagramSocket::new(0);
//! assert!(socket.send(here.as_fd(), b"now", None)?);
//! socket.queue(Datagram { data: b"later", to: Target::Peer });
//! assert_eq!(socket.unsent_bytes(), 5);
//! assert_eq!(socket.flush(here.as_fd())?, Flushed::Drained);
//! for expected in [&b"now"[..], b"later"] {
//!     let mut buffer = [0; 16];
//!     let count = there.recv(&mut buffer)?;
//!     assert_eq!(&buffer[..count], expected);
//! }
//! # std::io::Result::Ok(())
//! ```

mod receive_batch;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io::IoSlice,
    os::fd::BorrowedFd,
};

pub use receive_batch::{ReceiveBatch, Received};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, send, sendmmsg, sendto};

use crate::{
    Result,
    error::is_retry,
    life::{Closed, Life, Phase},
    net::{SEND_FLAGS, SocketAddrAny},
    poller::Interest,
    stream::FlowControl,
};

/// At most so many go out with one system call.
const MAX_BATCH: usize = 32;

/// A datagram that waits for the socket.
#[derive(Debug)]
pub struct Datagram<B> {
    pub data: B,
    pub to: Target,
}

/// Where a datagram goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// To the peer that the socket is connected to.
    Peer,
    Address(SocketAddrAny),
    /// Only the owner of the datagram can send it: it knows more of addresses.
    ByOwner,
}

/// What became of a flush.
#[derive(Debug, PartialEq, Eq)]
pub enum Flushed<B> {
    /// Nothing waits any more.
    Drained,
    /// The socket takes no more for now.
    Blocked,
    /// It is the turn of this one, which its owner must send. Then flush again.
    ByOwner(B),
}

#[derive(Debug)]
pub struct DatagramSocket<B> {
    life: Life,
    /// The protocol knows the connection.
    started: Cell<bool>,
    paused: Cell<bool>,
    unsent: RefCell<VecDeque<Datagram<B>>>,
    unsent_bytes: Cell<usize>,
    /// What each waiting datagram counts beyond its data.
    header_bytes: usize,
    pub flow: FlowControl,
}

impl<B: AsRef<[u8]>> DatagramSocket<B> {
    /// A socket that does not receive before [`DatagramSocket::start_reading`].
    pub fn new(header_bytes: usize) -> Self {
        DatagramSocket {
            life: Life::new(),
            started: Cell::new(false),
            paused: Cell::new(false),
            unsent: RefCell::default(),
            unsent_bytes: Cell::new(0),
            header_bytes,
            flow: FlowControl::default(),
        }
    }

    pub fn phase(&self) -> Phase {
        self.life.phase()
    }

    pub fn is_closing(&self) -> bool {
        self.life.is_closing()
    }

    /// What the poller should watch the descriptor for.
    pub fn interest(&self) -> Interest {
        let mut interest = Interest::NONE;
        if self.wants_datagrams() {
            interest |= Interest::READ;
        }
        if self.phase() != Phase::Lost && self.has_unsent() {
            interest |= Interest::WRITE;
        }
        interest
    }

    // ---- receiving -------------------------------------------------------------------------

    /// Whether datagrams may be delivered now.
    pub fn wants_datagrams(&self) -> bool {
        self.started.get() && self.is_reading()
    }

    pub fn start_reading(&self) {
        self.started.set(true);
    }

    /// Whether `is_reading` holds for a user: open and not paused.
    pub fn is_reading(&self) -> bool {
        !self.is_closing() && !self.paused.get()
    }

    /// False if it is closing or paused already.
    pub fn pause_reading(&self) -> bool {
        !self.is_closing() && !self.paused.replace(true)
    }

    /// False if it is closing or not paused.
    pub fn resume_reading(&self) -> bool {
        !self.is_closing() && self.paused.replace(false)
    }

    // ---- sending ---------------------------------------------------------------------------

    pub fn has_unsent(&self) -> bool {
        !self.unsent.borrow().is_empty()
    }

    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes.get()
    }

    /// Sends at once, to the connected peer without an address. False if others wait, or if the
    /// socket takes no more for now: then it is to be queued.
    pub fn send(
        &self,
        fd: BorrowedFd<'_>,
        data: &[u8],
        to: Option<&SocketAddrAny>,
    ) -> Result<bool> {
        if self.has_unsent() {
            return Ok(false);
        }
        let sent = match to {
            Some(to) => sendto(fd, data, SEND_FLAGS, to),
            None => send(fd, data, SEND_FLAGS),
        };
        match sent {
            Ok(_) => Ok(true),
            Err(error) if is_retry(error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets a datagram wait until the socket is writable.
    pub fn queue(&self, datagram: Datagram<B>) {
        self.count(datagram.data.as_ref().len(), usize::wrapping_add);
        self.unsent.borrow_mut().push_back(datagram);
    }

    /// Puts back one that its owner could not send for now: it is the first again.
    pub fn put_back(&self, data: B) {
        self.count(data.as_ref().len(), usize::wrapping_add);
        self.unsent.borrow_mut().push_front(Datagram { data, to: Target::ByOwner });
    }

    /// Looks at the datagrams that wait.
    pub fn inspect(&self, mut look: impl FnMut(&B)) {
        if let Ok(unsent) = self.unsent.try_borrow() {
            unsent.iter().for_each(|datagram| look(&datagram.data));
        }
    }

    /// Sends what waits, as far as the socket takes it. A datagram that fails is dropped, and its
    /// error returned; those behind it wait for the next flush.
    pub fn flush(&self, fd: BorrowedFd<'_>) -> Result<Flushed<B>> {
        loop {
            let sent = match self.unsent.borrow().as_slices().0 {
                [] => return Ok(Flushed::Drained),
                [Datagram { to: Target::ByOwner, .. }, ..] => None,
                // To the connected peer one by one: between others, the kernel would lose the
                // error of one that the peer has refused.
                [first @ Datagram { to: Target::Peer, .. }, ..] => {
                    Some(send(fd, first.data.as_ref(), SEND_FLAGS).map(|_| 1))
                }
                many => Some(send_batch(fd, many)),
            };
            match sent {
                Some(Ok(count)) => drop(self.take(count)),
                Some(Err(error)) if is_retry(error) => return Ok(Flushed::Blocked),
                Some(Err(error)) => {
                    drop(self.take(1));
                    return Err(error);
                }
                None => {
                    if let Some(first) = self.take(1).pop() {
                        return Ok(Flushed::ByOwner(first.data));
                    }
                }
            }
        }
    }

    fn take(&self, count: usize) -> Vec<Datagram<B>> {
        let taken: Vec<_> = self.unsent.borrow_mut().drain(..count).collect();
        for datagram in &taken {
            self.count(datagram.data.as_ref().len(), usize::wrapping_sub);
        }
        taken
    }

    fn count(&self, len: usize, change: fn(usize, usize) -> usize) {
        self.unsent_bytes.set(change(self.unsent_bytes.get(), len + self.header_bytes));
    }

    // ---- the end ---------------------------------------------------------------------------

    /// No more is received; what waits is sent, then the socket is done.
    pub fn close(&self) -> Closed {
        self.life.close(self.has_unsent())
    }

    /// After a flush that drained: true if the socket was closing, and so is done now.
    pub fn finish_closing(&self) -> bool {
        self.life.finish_closing()
    }

    /// Drops what waits and ends the socket. False if it had ended before.
    pub fn abort(&self) -> bool {
        if !self.life.end() {
            return false;
        }
        let unsent = self.unsent.take();
        self.unsent_bytes.set(0);
        drop(unsent);
        true
    }
}

/// Sends the leading datagrams that have an address, and returns how many went out.
fn send_batch<B: AsRef<[u8]>>(fd: BorrowedFd<'_>, datagrams: &[Datagram<B>]) -> Result<usize> {
    let leading = || {
        datagrams.iter().take(MAX_BATCH).map_while(|datagram| match &datagram.to {
            Target::Address(to) => Some((&datagram.data, to)),
            Target::Peer | Target::ByOwner => None,
        })
    };
    let slices: Vec<_> = leading().map(|(data, _)| [IoSlice::new(data.as_ref())]).collect();
    let mut controls: Vec<_> = leading().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<_> = leading()
        .zip(&slices)
        .zip(&mut controls)
        .map(|(((_, to), slice), control)| MMsgHdr::new_with_addr(to, slice, control))
        .collect();
    sendmmsg(fd, &mut messages, SEND_FLAGS)
}

#[cfg(test)]
mod tests {
    use std::{
        net::UdpSocket,
        os::{fd::AsFd, unix::net::UnixDatagram},
    };

    use super::*;
    use crate::{Errno, net::local_address};

    fn udp() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn received(socket: &UdpSocket) -> Vec<Vec<u8>> {
        let mut batch = ReceiveBatch::new();
        let mut all = Vec::new();
        while let Ok(count) = batch.receive(socket.as_fd(), ReceiveBatch::IP_BYTES, 4) {
            all.extend((0..count).map(|at| batch.get(at).data.to_vec()));
        }
        all
    }

    #[test]
    fn what_waits_goes_out_in_order_whatever_its_address() {
        let (from, one, other) = (udp(), udp(), udp());
        let [to_one, to_other] = [&one, &other].map(|it| local_address(it.as_fd()).unwrap());
        let socket = DatagramSocket::new(8);
        for number in 0..100_u8 {
            let to = if number % 3 == 0 { &to_other } else { &to_one };
            socket.queue(Datagram { data: vec![number; 3], to: Target::Address(to.clone()) });
        }
        assert_eq!(socket.unsent_bytes(), 100 * (3 + 8));
        assert!(!socket.send(from.as_fd(), b"waits its turn", Some(&to_one)).unwrap());
        assert_eq!(socket.flush(from.as_fd()), Ok(Flushed::Drained));
        assert_eq!(socket.unsent_bytes(), 0);
        let numbers = |third: bool| (0..100_u8).filter(move |it| (it % 3 == 0) == third);
        assert_eq!(received(&one), numbers(false).map(|it| vec![it; 3]).collect::<Vec<_>>());
        assert_eq!(received(&other), numbers(true).map(|it| vec![it; 3]).collect::<Vec<_>>());
    }

    #[test]
    fn a_blocking_descriptor_does_not_block() {
        let (ours, _theirs) = UnixDatagram::pair().unwrap();
        let socket = DatagramSocket::new(0);
        while socket.send(ours.as_fd(), b"fills it", None).unwrap() {}
        socket.queue(Datagram { data: b"waits", to: Target::Peer });
        assert_eq!(socket.flush(ours.as_fd()), Ok(Flushed::Blocked));
    }

    #[test]
    fn a_full_peer_blocks_and_a_later_flush_goes_on() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let socket = DatagramSocket::new(0);
        let mut count = 0_u32;
        while socket.send(ours.as_fd(), &count.to_ne_bytes(), None).unwrap() {
            count += 1;
        }
        for number in count..count + 50 {
            socket.queue(Datagram { data: number.to_ne_bytes().to_vec(), to: Target::Peer });
        }
        assert_eq!(socket.interest(), Interest::WRITE);
        let mut next = 0;
        while socket.flush(ours.as_fd()) == Ok(Flushed::Blocked) {
            let mut buffer = [0; 8];
            assert_eq!(theirs.recv(&mut buffer).unwrap(), 4);
            assert_eq!(buffer[..4], u32::to_ne_bytes(next));
            next += 1;
        }
        assert_eq!(socket.interest(), Interest::NONE);
        assert!(next >= 50);
    }

    #[test]
    fn a_datagram_that_fails_is_dropped_and_the_others_are_sent() {
        let (from, to) = (udp(), udp());
        let address = local_address(to.as_fd()).unwrap();
        let socket = DatagramSocket::new(8);
        for data in [vec![1], vec![0; 70_000], vec![2]] {
            socket.queue(Datagram { data, to: Target::Address(address.clone()) });
        }
        assert_eq!(socket.flush(from.as_fd()), Err(Errno::MSGSIZE));
        assert_eq!(socket.flush(from.as_fd()), Ok(Flushed::Drained));
        assert_eq!(received(&to), [vec![1], vec![2]]);
    }

    #[test]
    fn what_only_its_owner_can_send_waits_for_its_turn() {
        let (from, to) = (udp(), udp());
        let address = local_address(to.as_fd()).unwrap();
        let socket = DatagramSocket::new(8);
        socket.queue(Datagram { data: vec![1], to: Target::Address(address.clone()) });
        socket.queue(Datagram { data: vec![2], to: Target::ByOwner });
        socket.queue(Datagram { data: vec![3], to: Target::Address(address) });
        assert_eq!(socket.flush(from.as_fd()), Ok(Flushed::ByOwner(vec![2])));
        assert_eq!(socket.unsent_bytes(), 9);
        socket.put_back(vec![2]);
        assert_eq!(socket.unsent_bytes(), 18);
        assert_eq!(received(&to), [vec![1]]);
        assert_eq!(socket.flush(from.as_fd()), Ok(Flushed::ByOwner(vec![2])));
        assert_eq!(socket.flush(from.as_fd()), Ok(Flushed::Drained));
        assert_eq!(received(&to), [vec![3]]);
    }

    #[test]
    fn a_refusal_is_not_lost_among_those_that_wait() {
        let from = udp();
        let nobody = {
            let gone = udp();
            gone.local_addr().unwrap()
        };
        from.connect(nobody).unwrap();
        let socket = DatagramSocket::new(8);
        assert_eq!(socket.send(from.as_fd(), b"refused", None), Ok(true));
        for _ in 0..3 {
            socket.queue(Datagram { data: vec![0], to: Target::Peer });
        }
        let mut refusals = 0;
        while socket.flush(from.as_fd()) == Err(Errno::CONNREFUSED) {
            refusals += 1;
        }
        assert!(refusals >= 1);
        assert!(!socket.has_unsent());
    }

    #[test]
    fn closing_sends_what_waits_and_aborting_drops_it() {
        let (from, to) = (udp(), udp());
        let address = local_address(to.as_fd()).unwrap();
        let socket = DatagramSocket::new(8);
        socket.start_reading();
        socket.queue(Datagram { data: vec![1], to: Target::Address(address.clone()) });
        assert_eq!(socket.close(), Closed::Flushing);
        assert_eq!(socket.close(), Closed::Already);
        assert_eq!(socket.interest(), Interest::WRITE);
        assert_eq!(socket.flush(from.as_fd()), Ok(Flushed::Drained));
        assert!(socket.finish_closing());
        assert!(!socket.finish_closing());
        let other = DatagramSocket::new(8);
        other.queue(Datagram { data: vec![2], to: Target::Address(address) });
        assert!(other.abort());
        assert!(!other.abort());
        assert_eq!((other.unsent_bytes(), other.interest()), (0, Interest::NONE));
        assert_eq!(received(&to), [vec![1]]);
    }

    #[test]
    fn a_pause_before_the_start_holds() {
        let socket: DatagramSocket<Vec<u8>> = DatagramSocket::new(8);
        assert!(socket.pause_reading());
        assert!(!socket.pause_reading());
        socket.start_reading();
        assert_eq!(socket.interest(), Interest::NONE);
        assert!(socket.resume_reading());
        assert!(!socket.resume_reading());
        assert_eq!(socket.interest(), Interest::READ);
    }
}
