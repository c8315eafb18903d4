//! Any descriptor as an async type: tries the system call first, waits for readiness if it would block.
//!
//! A descriptor is registered once, for changes of its readiness (edges). What the last change said is
//! remembered until a system call finds the opposite.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::{
    driver::{self, Driver},
    poller::Readiness,
};

/// One of the two ways through a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
}

/// Who waits for a descriptor, and what is known of it.
#[derive(Debug)]
pub struct FdWakers {
    read: Half,
    write: Half,
}

#[derive(Debug)]
struct Half {
    /// False after a system call that would have blocked, until the loop reports a change.
    is_ready: Cell<bool>,
    /// The peer has closed, or there is an error: no more changes will come.
    is_over: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Default for FdWakers {
    /// Nothing is known yet: the first system call will tell.
    fn default() -> Self {
        let half = || Half {
            is_ready: Cell::new(true),
            is_over: Cell::new(false),
            waiting: RefCell::default(),
        };
        FdWakers { read: half(), write: half() }
    }
}

impl FdWakers {
    fn half(&self, direction: Direction) -> &Half {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }

    /// Notes what the poller reports, and hands out who waited for it.
    pub fn ready(&self, readiness: Readiness, mut wake: impl FnMut(Waker)) {
        for (half, is_ready) in
            [(&self.read, readiness.readable), (&self.write, readiness.writable)]
        {
            if is_ready {
                half.is_over.set(half.is_over.get() || readiness.hung_up);
                half.is_ready.set(true);
                // One by one: what wakes may be foreign code, which may come back here.
                let waiting = half.waiting.take();
                waiting.into_iter().for_each(&mut wake);
            }
        }
    }

    /// Who waits, for a garbage collector or a report.
    pub fn is_waited_for(&self) -> bool {
        !self.read.waiting.borrow().is_empty() || !self.write.waiting.borrow().is_empty()
    }
}

impl Half {
    fn wait(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    fn would_block(&self) {
        if !self.is_over.get() {
            self.is_ready.set(false);
        }
    }
}

/// A descriptor on the loop that runs in this thread.
///
/// The descriptor should be non-blocking. Dropping it deregisters the descriptor and drops the `T`,
/// which closes it; whoever waits for it is not woken, as nobody can wait without borrowing it.
///
/// ```
/// # velodrome::run(async {
/// use std::{io::{Read, Write}, os::unix::net::UnixStream};
/// use velodrome::Async;
///
/// let (mut here, there) = UnixStream::pair().unwrap();
/// there.set_nonblocking(true).unwrap();
/// let there = Async::new(there).unwrap();
/// here.write_all(b"hello").unwrap();
/// let mut buffer = [0; 16];
/// let count = there.read_with(|mut stream| stream.read(&mut buffer)).await.unwrap();
/// assert_eq!(&buffer[..count], b"hello");
/// # }).unwrap();
/// ```
pub struct Async<T: AsFd> {
    /// `None` only after `into_inner`.
    io: Option<T>,
    fd: RawFd,
    wakers: Rc<FdWakers>,
    driver: Rc<dyn Driver>,
}

impl<T: AsFd> Async<T> {
    /// Registers a descriptor with the running loop.
    ///
    /// Fails without a running loop, and with `PermissionDenied` for what cannot be waited for, as a
    /// regular file.
    pub fn new(io: T) -> io::Result<Self> {
        let driver = driver::current().map_err(io::Error::other)?;
        let wakers = Rc::new(FdWakers::default());
        driver.add_fd(io.as_fd(), Rc::clone(&wakers))?;
        let fd = io.as_fd().as_raw_fd();
        Ok(Async { io: Some(io), fd, wakers, driver })
    }

    pub fn get_ref(&self) -> &T {
        self.io.as_ref().expect("it is there until into_inner, which takes the rest as well")
    }

    /// Deregisters the descriptor and gives it back.
    pub fn into_inner(mut self) -> T {
        self.driver.remove_fd(self.fd);
        self.io.take().expect("it is there until into_inner, which takes the rest as well")
    }

    /// Does `operation` until it no longer would block.
    pub async fn read_with<R>(
        &self,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        poll_fn(|context| self.poll_io(Direction::Read, context, &mut operation)).await
    }

    /// See [`Async::read_with`].
    pub async fn write_with<R>(
        &self,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        poll_fn(|context| self.poll_io(Direction::Write, context, &mut operation)).await
    }

    /// Waits until the descriptor can be read, as far as the loop knows: see [`Async::poll_io`].
    pub async fn readable(&self) {
        poll_fn(|context| self.poll_ready(Direction::Read, context)).await;
    }

    /// See [`Async::readable`].
    pub async fn writable(&self) {
        poll_fn(|context| self.poll_ready(Direction::Write, context)).await;
    }

    /// Ready if no system call in this direction would have blocked since the last change.
    pub fn poll_ready(&self, direction: Direction, context: &mut Context<'_>) -> Poll<()> {
        let half = self.wakers.half(direction);
        if half.is_ready.get() {
            return Poll::Ready(());
        }
        half.wait(context.waker());
        Poll::Pending
    }

    /// Does `operation` if it may succeed. If it would have blocked, the task is woken when that changes.
    #[inline]
    pub fn poll_io<R>(
        &self,
        direction: Direction,
        context: &mut Context<'_>,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let half = self.wakers.half(direction);
        while half.is_ready.get() {
            match operation(self.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    half.is_ready.set(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
        half.wait(context.waker());
        Poll::Pending
    }

    /// Nothing is possible in this direction until the loop reports a change.
    pub fn not_ready(&self, direction: Direction) {
        self.wakers.half(direction).is_ready.set(false);
    }

    /// A system call has moved less than it was asked to: the next one would block. For streams only.
    #[inline]
    pub fn moved_less(&self, direction: Direction) {
        self.wakers.half(direction).would_block();
    }
}

impl<T: AsFd> Drop for Async<T> {
    fn drop(&mut self) {
        if self.io.is_some() {
            self.driver.remove_fd(self.fd);
        }
    }
}

impl<T: AsFd> AsFd for Async<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.get_ref().as_fd()
    }
}

impl<T: AsFd> std::fmt::Debug for Async<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Async").field("fd", &self.fd).finish_non_exhaustive()
    }
}
