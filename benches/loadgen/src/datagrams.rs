//! Datagrams, as many with one system call as there are.

use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::ptr;

use crate::sys::check;

/// Room for what one call receives.
pub struct Batch {
    headers: Vec<libc::mmsghdr>,
    slices: Vec<libc::iovec>,
    addresses: Vec<libc::sockaddr_storage>,
    memory: Vec<u8>,
}

impl Batch {
    const MAX: usize = 64;
    const LARGEST: usize = 64 * 1024; // no UDP datagram is larger

    #[expect(clippy::new_without_default, reason = "it takes four mebibytes")]
    pub fn new() -> Self {
        // SAFETY: all fields of these are integers or pointers, for which zero is a value.
        let (header, slice, address) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Self {
            headers: vec![header; Self::MAX],
            slices: vec![slice; Self::MAX],
            addresses: vec![address; Self::MAX],
            memory: vec![0; Self::MAX * Self::LARGEST],
        }
    }

    /// Receives what there is, at most so much as there is room for, and sends each back to where it came from.
    pub fn echo(&mut self, socket: RawFd) -> io::Result<()> {
        let rooms = self.memory.chunks_exact_mut(Self::LARGEST).zip(&mut self.addresses);
        for ((room, address), (slice, header)) in
            rooms.zip(self.slices.iter_mut().zip(&mut self.headers))
        {
            *slice = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            header.msg_hdr.msg_name = (&raw mut *address).cast();
            header.msg_hdr.msg_namelen = mem::size_of_val(address) as libc::socklen_t;
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
        }
        let (headers, room) = (self.headers.as_mut_ptr(), Self::MAX as libc::c_uint);
        // SAFETY: there are so many headers; each names an address and, by one slice, a part of `memory`, which are as
        // long as it says, live as long as `self` and overlap nothing.
        let received =
            unsafe { libc::recvmmsg(socket, headers, room, libc::MSG_DONTWAIT, ptr::null_mut()) };
        let received = check(received)? as usize;
        let mut sent = 0;
        for (header, slice) in self.headers.iter().zip(&mut self.slices).take(received) {
            slice.iov_len = header.msg_len as usize;
        }
        while sent < received {
            let (left, count) = (&mut self.headers[sent..received], (received - sent) as u32);
            // SAFETY: as above, but for the slices, which are shorter, and the addresses, which the kernel has written.
            let count =
                unsafe { libc::sendmmsg(socket, left.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
            sent += check(count)? as usize;
        }
        Ok(())
    }
}
