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
    waiting: RefCell<Vec<Waiter>>,
    /// Numbers of [`Waiting`]s that were given out.
    numbers: Cell<u64>,
}

#[derive(Debug)]
struct Waiter {
    /// Of the future that takes it back if it is dropped; [`NOBODY`]: it stays until the next change.
    owner: u64,
    waker: Waker,
}

const NOBODY: u64 = 0;

impl Default for FdWakers {
    /// Nothing is known yet: the first system call will tell.
    fn default() -> Self {
        let half = || Half {
            is_ready: Cell::new(true),
            is_over: Cell::new(false),
            waiting: RefCell::default(),
            numbers: Cell::new(NOBODY),
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
                half.wake_all(&mut wake);
            }
        }
    }

    /// Who waits, for a garbage collector or a report.
    pub fn is_waited_for(&self) -> bool {
        !self.read.waiting.borrow().is_empty() || !self.write.waiting.borrow().is_empty()
    }
}

impl Half {
    fn wait(&self, owner: u64, waker: &Waker) {
        let is_known = |waiter: &Waiter| waiter.owner == owner && waiter.waker.will_wake(waker);
        if self.waiting.borrow().iter().any(is_known) {
            return;
        }
        // It may be foreign code that clones and drops it.
        let waiter = Waiter { owner, waker: waker.clone() };
        let replaced = if owner == NOBODY { None } else { self.take_back(owner) };
        self.waiting.borrow_mut().push(waiter);
        drop(replaced);
    }

    fn wake_all(&self, wake: &mut impl FnMut(Waker)) {
        // What wakes may be foreign code, which may come back here.
        let mut waiting = self.waiting.take();
        // Mostly there is only one.
        if let Some(last) = waiting.pop() {
            if !waiting.is_empty() {
                waiting.drain(..).for_each(|waiter| wake(waiter.waker));
            }
            wake(last.waker);
            // Its memory is for those who wait next.
            let mut place = self.waiting.borrow_mut();
            if place.capacity() == 0 {
                *place = waiting;
            }
        }
    }

    fn take_back(&self, owner: u64) -> Option<Waiter> {
        let mut waiting = self.waiting.borrow_mut();
        let place = waiting.iter().position(|waiter| waiter.owner == owner)?;
        Some(waiting.remove(place))
    }

    fn would_block(&self) {
        if !self.is_over.get() {
            self.is_ready.set(false);
        }
    }
}

/// A future's wait for a descriptor. What it leaves with the descriptor goes when it is dropped.
pub(crate) struct Waiting<'a> {
    half: &'a Half,
    /// [`NOBODY`] until it has to wait.
    number: Cell<u64>,
}

impl Waiting<'_> {
    fn wait(&self, waker: &Waker) {
        if self.number.get() == NOBODY {
            self.half.numbers.set(self.half.numbers.get() + 1);
            self.number.set(self.half.numbers.get());
        }
        self.half.wait(self.number.get(), waker);
    }
}

impl Drop for Waiting<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.number.get() != NOBODY {
            let left = self.half.take_back(self.number.get());
            drop(left);
        }
    }
}

/// A descriptor on the loop that runs in this thread. There can be one for each descriptor.
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
    /// Fails without a running loop, with `PermissionDenied` for what cannot be waited for, as a regular
    /// file, and with `AlreadyExists` if there is another one for the descriptor.
    pub fn new(io: T) -> io::Result<Self> {
        Self::try_new(io).map_err(|(error, _)| error)
    }

    /// As [`Async::new`]; a descriptor that it fails with comes back.
    ///
    /// ```
    /// # velodrome::run(async {
    /// // A regular file cannot be waited for.
    /// let file = std::fs::File::open("/proc/self/exe")?;
    /// let (error, file) = velodrome::Async::try_new(file).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    /// assert!(file.metadata()?.is_file());
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn try_new(io: T) -> Result<Self, (io::Error, T)> {
        let wakers = Rc::new(FdWakers::default());
        let added = driver::current().map_err(io::Error::other).and_then(|driver| {
            driver.add_fd(io.as_fd(), Rc::clone(&wakers))?;
            Ok(driver)
        });
        match added {
            Ok(driver) => {
                let fd = io.as_fd().as_raw_fd();
                Ok(Async { io: Some(io), fd, wakers, driver })
            }
            Err(error) => Err((error, io)),
        }
    }

    pub fn get_ref(&self) -> &T {
        self.io.as_ref().expect("it is there until into_inner, which takes the rest as well")
    }

    /// Deregisters the descriptor and gives it back.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::{io::{Read, Write}, os::unix::net::UnixStream};
    /// use velodrome::{Async, Direction};
    ///
    /// let (one, mut other) = UnixStream::pair()?;
    /// one.set_nonblocking(true)?;
    /// let one = Async::new(one)?;
    /// assert_eq!(one.write_with(|mut fd| fd.write(b"to")).await?, 2);
    /// other.read_exact(&mut [0; 2])?;
    ///
    /// // Nothing is there, as we know: the loop tells when that changes.
    /// one.not_ready(Direction::Read);
    /// other.write_all(b"fro")?;
    /// one.readable().await;
    /// one.writable().await;
    /// let mut buffer = [0; 16];
    /// let count = one.get_ref().read(&mut buffer)?;
    /// assert_eq!(&buffer[..count], b"fro");
    /// // Less than there was room for: the next call would block.
    /// one.moved_less(Direction::Read);
    ///
    /// let one: UnixStream = one.into_inner();
    /// # drop(one);
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn into_inner(mut self) -> T {
        self.driver.remove_fd(self.fd);
        self.io.take().expect("it is there until into_inner, which takes the rest as well")
    }

    /// Does `operation` until it no longer would block.
    pub async fn read_with<R>(
        &self,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        self.operate(Direction::Read, &mut operation).await
    }

    /// See [`Async::read_with`].
    pub async fn write_with<R>(
        &self,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        self.operate(Direction::Write, &mut operation).await
    }

    async fn operate<R>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        let waiting = self.waiting(direction);
        poll_fn(|context| self.poll_io_as(&waiting, context, &mut operation)).await
    }

    /// Waits until the descriptor can be read, as far as the loop knows: see [`Async::poll_io`].
    pub async fn readable(&self) {
        self.ready(Direction::Read).await;
    }

    /// See [`Async::readable`].
    pub async fn writable(&self) {
        self.ready(Direction::Write).await;
    }

    async fn ready(&self, direction: Direction) {
        let waiting = self.waiting(direction);
        poll_fn(|context| {
            if waiting.half.is_ready.get() {
                return Poll::Ready(());
            }
            waiting.wait(context.waker());
            Poll::Pending
        })
        .await;
    }

    #[inline]
    pub(crate) fn waiting(&self, direction: Direction) -> Waiting<'_> {
        Waiting { half: self.wakers.half(direction), number: Cell::new(NOBODY) }
    }

    /// Ready if no system call in this direction would have blocked since the last change.
    ///
    /// For `poll` functions; who polls it last is woken even if it no longer cares.
    pub fn poll_ready(&self, direction: Direction, context: &mut Context<'_>) -> Poll<()> {
        let half = self.wakers.half(direction);
        if half.is_ready.get() {
            return Poll::Ready(());
        }
        half.wait(NOBODY, context.waker());
        Poll::Pending
    }

    /// Does `operation` if it may succeed. If it would have blocked, the task is woken when that changes.
    ///
    /// For `poll` functions; who polls it last is woken even if it no longer cares.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::{future::poll_fn, io::{Read, Write}, os::unix::net::UnixStream};
    /// use velodrome::{Async, Direction};
    ///
    /// let (one, mut other) = UnixStream::pair()?;
    /// one.set_nonblocking(true)?;
    /// let one = Async::new(one)?;
    /// other.write_all(b"x")?;
    /// poll_fn(|context| one.poll_ready(Direction::Read, context)).await;
    /// let mut byte = [0];
    /// let read =
    ///     poll_fn(|context| one.poll_io(Direction::Read, context, |mut fd| fd.read(&mut byte))).await?;
    /// assert_eq!((read, byte), (1, *b"x"));
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    #[inline]
    pub fn poll_io<R>(
        &self,
        direction: Direction,
        context: &mut Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let half = self.wakers.half(direction);
        let done = self.attempt(half, operation);
        if done.is_pending() {
            half.wait(NOBODY, context.waker());
        }
        done
    }

    #[inline]
    pub(crate) fn poll_io_as<R>(
        &self,
        waiting: &Waiting<'_>,
        context: &mut Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let done = self.attempt(waiting.half, operation);
        if done.is_pending() {
            waiting.wait(context.waker());
        }
        done
    }

    #[inline]
    fn attempt<R>(
        &self,
        half: &Half,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        while half.is_ready.get() {
            match operation(self.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    half.is_ready.set(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
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
        let waiting =
            [&self.wakers.read, &self.wakers.write].map(|half| half.waiting.borrow().len());
        let mut text = formatter.debug_struct("Async");
        text.field("fd", &self.fd).field("waiting", &waiting.iter().sum::<usize>()).finish()
    }
}
