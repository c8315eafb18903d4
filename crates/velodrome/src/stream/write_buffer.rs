//! What the descriptor did not take yet: chunks, held as they came, written with one system call.

use std::{collections::VecDeque, io::IoSlice, os::fd::BorrowedFd};

use super::Channel;
use crate::Result;

/// More chunks than this go out with the next call. (The kernel's own limit is 1024.)
const MAX_SLICES: usize = 64;

/// More than a few chunks that are smaller than this, on average, are copied together: so many more
/// of them go out with one call, and the kernel takes one block for less than it takes many.
const COPIED_CHUNK_BYTES: usize = 512;
const COPIED_BYTES: usize = 32 * 1024;
const FEW_SLICES: usize = 8;

#[derive(Debug)]
pub struct WriteBuffer<B> {
    chunks: VecDeque<B>,
    /// How much of the first chunk is written.
    written_of_first: usize,
    len_bytes: usize,
}

impl<B> Default for WriteBuffer<B> {
    fn default() -> Self {
        WriteBuffer { chunks: VecDeque::new(), written_of_first: 0, len_bytes: 0 }
    }
}

impl<B: AsRef<[u8]>> WriteBuffer<B> {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    pub fn push(&mut self, chunk: B) {
        let len = chunk.as_ref().len();
        if len > 0 {
            self.len_bytes += len;
            self.chunks.push_back(chunk);
        }
    }

    /// Adds what another buffer holds, of which nothing is written.
    pub fn append(&mut self, other: Self) {
        self.len_bytes += other.len_bytes;
        self.chunks.extend(other.chunks);
    }

    /// What comes next: the rest of the first chunk.
    pub fn first(&self) -> Option<&[u8]> {
        self.chunks.front().map(|chunk| &chunk.as_ref()[self.written_of_first..])
    }

    /// Copies the beginning of what waits, as much as fits.
    pub fn copy_to(&self, buffer: &mut [u8]) -> usize {
        let mut from = self.written_of_first;
        let mut copied = 0;
        for chunk in &self.chunks {
            let chunk = &chunk.as_ref()[from..];
            let count = chunk.len().min(buffer.len() - copied);
            buffer[copied..copied + count].copy_from_slice(&chunk[..count]);
            copied += count;
            from = 0;
            if copied == buffer.len() {
                break;
            }
        }
        copied
    }

    /// Writes until the buffer is empty or the descriptor takes less than it was given.
    pub fn write_to<C: Channel>(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        while !self.is_empty() {
            let (offered, sent) = self.send_once::<C>(fd)?;
            self.consume(sent);
            if sent < offered {
                break;
            }
        }
        Ok(())
    }

    fn send_once<C: Channel>(&self, fd: BorrowedFd<'_>) -> Result<(usize, usize)> {
        let first = &self.chunks[0].as_ref()[self.written_of_first..];
        if self.chunks.len() == 1 {
            return Ok((first.len(), C::send(fd, first)?));
        }
        let count = self.chunks.len();
        if count > FEW_SLICES && self.len_bytes < count * COPIED_CHUNK_BYTES {
            return self.send_copied::<C>(fd);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        slices[0] = IoSlice::new(first);
        let mut offered = first.len();
        let mut count = 1;
        for (slice, chunk) in slices[1..].iter_mut().zip(self.chunks.iter().skip(1)) {
            *slice = IoSlice::new(chunk.as_ref());
            offered += chunk.as_ref().len();
            count += 1;
        }
        Ok((offered, C::send_slices(fd, &slices[..count])?))
    }

    fn send_copied<C: Channel>(&self, fd: BorrowedFd<'_>) -> Result<(usize, usize)> {
        let mut block = vec![0; self.len_bytes.min(COPIED_BYTES)];
        let offered = self.copy_to(&mut block);
        Ok((offered, C::send(fd, &block)?))
    }

    /// Forgets the first `sent` bytes, which have gone.
    pub fn consume(&mut self, mut sent: usize) {
        self.len_bytes -= sent;
        while sent > 0 {
            let left_of_first = self.chunks[0].as_ref().len() - self.written_of_first;
            if sent < left_of_first {
                self.written_of_first += sent;
                return;
            }
            sent -= left_of_first;
            self.written_of_first = 0;
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() && self.chunks.capacity() > MAX_SLICES {
            // A burst of small writes does not keep its memory.
            self.chunks = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::{super::Socket, *};
    use crate::Errno;

    /// Writes them into a socket that takes a part of them at a time; what arrives.
    fn sent(sizes: impl IntoIterator<Item = usize>) -> (Vec<u8>, Vec<u8>) {
        let (one, mut other) = UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        let mut buffer = WriteBuffer::default();
        let mut all = Vec::new();
        for size in sizes {
            let chunk: Vec<u8> = (all.len()..all.len() + size).map(|at| (at % 251) as u8).collect();
            all.extend(&chunk);
            buffer.push(chunk);
        }
        let mut arrived = Vec::new();
        while !buffer.is_empty() {
            match buffer.write_to::<Socket>(one.as_fd()) {
                Ok(()) | Err(Errno::AGAIN) => {}
                Err(error) => panic!("{error}"),
            }
            // Not at a border of chunks.
            let mut block = [0; 10_007];
            let count = other.read(&mut block).unwrap();
            arrived.extend(&block[..count]);
        }
        drop(one);
        other.read_to_end(&mut arrived).unwrap();
        (all, arrived)
    }

    #[test]
    fn small_chunks_arrive_in_order() {
        let (all, arrived) = sent((0..20_000).map(|number| number % 100));
        assert_eq!(all.len(), 990_000);
        assert!(all == arrived);
    }

    #[test]
    fn large_and_small_chunks_arrive_in_order() {
        let (all, arrived) = sent((0..2_000).map(|number| if number % 7 == 0 { 5_000 } else { 3 }));
        assert!(all == arrived);
    }
}
