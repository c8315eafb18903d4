//! Many datagrams with one system call: `recvmmsg`, which rustix does not have.

#![allow(unsafe_code)]

use std::{
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use crate::{
    Errno, Result,
    net::{SocketAddrAny, SocketAddrStorage},
};

/// Room for the datagrams of one call. A loop has one; the kernel hands out its memory page by
/// page, so small datagrams cost one page each.
pub struct ReceiveBatch {
    memory: Box<[MaybeUninit<u8>]>,
    headers: [libc::mmsghdr; ReceiveBatch::MAX],
    slices: [libc::iovec; ReceiveBatch::MAX],
    addresses: Box<[MaybeUninit<SocketAddrStorage>; ReceiveBatch::MAX]>,
    /// How many the last call received.
    received: usize,
}

/// One datagram, until the next call.
pub struct Received<'a> {
    pub data: &'a [u8],
    /// `None` if the sender has no address: an unnamed Unix socket.
    pub from: Option<SocketAddrAny>,
}

impl ReceiveBatch {
    /// At most so many datagrams are received at once.
    pub const MAX: usize = 16;
    /// No IP datagram is larger.
    pub const IP_BYTES: usize = 64 * 1024;
    /// Other datagrams are cut off here, as asyncio cuts them.
    pub const OTHER_BYTES: usize = 256 * 1024;

    #[expect(clippy::new_without_default, reason = "it allocates a mebibyte")]
    pub fn new() -> Self {
        // SAFETY: all fields are integers or pointers, for which zero is a value.
        let zeroed =
            unsafe { (MaybeUninit::zeroed().assume_init(), MaybeUninit::zeroed().assume_init()) };
        ReceiveBatch {
            memory: Box::new_uninit_slice(Self::MAX * Self::IP_BYTES),
            headers: zeroed.0,
            slices: zeroed.1,
            addresses: Box::new([const { MaybeUninit::uninit() }; Self::MAX]),
            received: 0,
        }
    }

    /// Receives up to `at_most` datagrams of up to `len_bytes` each, at least one. Would-block and
    /// interrupted are errors to retry.
    ///
    /// Panics if the datagrams are larger than the room, that is more than [`Self::OTHER_BYTES`].
    pub fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        len_bytes: usize,
        at_most: usize,
    ) -> Result<usize> {
        let count = at_most.clamp(1, Self::MAX).min(self.memory.len() / len_bytes);
        assert!(count > 0, "a datagram of {len_bytes} bytes does not fit");
        self.received = 0;
        let rooms = self.memory.chunks_exact_mut(len_bytes).zip(self.addresses.iter_mut());
        for ((room, address), (slice, header)) in
            rooms.zip(self.slices.iter_mut().zip(&mut self.headers)).take(count)
        {
            *slice = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let message = &mut header.msg_hdr;
            message.msg_name = address.as_mut_ptr().cast();
            message.msg_namelen = size_of::<SocketAddrStorage>() as libc::socklen_t;
            message.msg_iov = slice;
            message.msg_iovlen = 1;
            message.msg_control = ptr::null_mut();
            message.msg_controllen = 0;
            message.msg_flags = 0;
        }
        // SAFETY: the first `count` headers each name one slice of `memory` and one address, all
        // of which live as long as `self` and overlap nothing.
        let received = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(received) => {
                self.received = received;
                Ok(received)
            }
            Err(_) => Err(last_error()),
        }
    }

    /// One of the datagrams that the last call received, in order of arrival.
    ///
    /// Panics if there were not so many.
    pub fn get(&self, index: usize) -> Received<'_> {
        assert!(index < self.received, "{index} of {} datagrams", self.received);
        let header = &self.headers[index];
        let message = &header.msg_hdr;
        let len = (header.msg_len as usize).min(self.slices[index].iov_len);
        // SAFETY: the last call wrote `len` bytes to the slice, which is part of `memory`.
        let data = unsafe { std::slice::from_raw_parts(self.slices[index].iov_base.cast(), len) };
        let name_len = message.msg_namelen;
        let is_named = (size_of::<libc::sa_family_t>()..=size_of::<SocketAddrStorage>())
            .contains(&(name_len as usize));
        // SAFETY: the kernel wrote a valid address of `name_len` bytes, which is in range.
        let from = is_named
            .then(|| unsafe { SocketAddrAny::read(self.addresses[index].as_ptr(), name_len) });
        Received { data, from }
    }
}

// SAFETY: the pointers inside lead to memory that it owns and are set anew by each call.
unsafe impl Send for ReceiveBatch {}

fn last_error() -> Errno {
    let errno = std::io::Error::last_os_error().raw_os_error();
    errno.map_or(Errno::IO, Errno::from_raw_os_error)
}
