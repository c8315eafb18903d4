//! Signals as a stream of events.
//!
//! The handler counts, and makes a descriptor readable that the loops watch: an eventfd, of which each
//! loop has a duplicate. Nobody reads it, since every write is a change, which is all that they are told of.

#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicI32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    process::Signal,
};

use crate::async_fd::{Async, Direction};

const NUMBERS: usize = 65;

/// How often each signal has come.
static COUNTS: [AtomicU64; NUMBERS] = [const { AtomicU64::new(0) }; NUMBERS];
/// What the handler writes to. It is never closed.
static WRITTEN: AtomicI32 = AtomicI32::new(-1);
static EVENT: OnceLock<OwnedFd> = OnceLock::new();
/// The signals that are listened to: by how many, and what was there before.
static LISTENERS: Mutex<BTreeMap<i32, (usize, Before)>> = Mutex::new(BTreeMap::new());

struct Before(libc::sigaction);

// SAFETY: an address of a function, flags and a set: values that belong to no thread.
unsafe impl Send for Before {}

/// Listens to a signal from now on, in place of what the process did when it came.
///
/// Many may listen to the same one, in any number of loops and threads. What was done before is done again
/// when the last of them is dropped. Fails with `InvalidInput` for signals that cannot be handled, or that
/// mean that the program is broken, as SIGSEGV.
///
/// ```no_run
/// # velodrome::run(async {
/// let mut terminations = velodrome::signal(velodrome::Signal::TERM)?;
/// terminations.recv().await;
/// println!("asked to end");
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap().unwrap();
/// ```
pub fn signal(signal: Signal) -> io::Result<Signals> {
    let refused = [Signal::KILL, Signal::STOP, Signal::SEGV, Signal::ILL, Signal::FPE, Signal::BUS];
    if refused.contains(&signal) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the signal cannot be handled"));
    }
    let number = signal.as_raw();
    let event = Async::new(event()?.try_clone()?)?;
    let counted = usize::try_from(number).ok().and_then(|at| COUNTS.get(at));
    let count = counted.ok_or(io::ErrorKind::InvalidInput)?;
    let seen = count.load(Acquire);
    listen(number)?;
    Ok(Signals { number, count, seen, event })
}

/// See [`signal`].
///
/// ```
/// # velodrome::run(async {
/// use std::future::poll_fn;
/// use velodrome::{Command, Signal, Signals, signal};
///
/// let mut signals: Signals = signal(Signal::USR1)?;
/// let mut send_it = Command::new("sh");
/// send_it.args(["-c", "kill -USR1 $PPID"]);
/// send_it.spawn()?.wait().await?;
/// signals.recv().await;
/// send_it.spawn()?.wait().await?;
/// // The same, where there is a context.
/// poll_fn(|context| signals.poll_recv(context)).await;
/// # std::io::Result::Ok(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct Signals {
    number: i32,
    count: &'static AtomicU64,
    /// How many of them were received.
    seen: u64,
    event: Async<OwnedFd>,
}

impl Signals {
    /// Waits for the signal to come once more. What came since the last call counts; the kernel makes one
    /// of signals that it has not delivered yet.
    pub async fn recv(&mut self) {
        poll_fn(|context| self.poll_recv(context)).await;
    }

    /// See [`Signals::recv`].
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.count.load(Acquire) != self.seen {
                self.seen += 1;
                return Poll::Ready(());
            }
            if self.event.poll_ready(Direction::Read, context).is_pending() {
                return Poll::Pending;
            }
            // A signal that comes now is a change that the loop will hear of.
            self.event.not_ready(Direction::Read);
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let mut listeners = listeners();
        if let Some((count, _)) = listeners.get_mut(&self.number) {
            *count -= 1;
            if *count == 0
                && let Some((_, Before(before))) = listeners.remove(&self.number)
            {
                // SAFETY: what `sigaction` has handed out for this signal is valid for it.
                unsafe { libc::sigaction(self.number, &raw const before, std::ptr::null_mut()) };
            }
        }
    }
}

fn listeners() -> MutexGuard<'static, BTreeMap<i32, (usize, Before)>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn event() -> io::Result<&'static OwnedFd> {
    if let Some(event) = EVENT.get() {
        return Ok(event);
    }
    let event = EVENT.get_or_init({
        let new = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        move || new
    });
    WRITTEN.store(event.as_fd().as_raw_fd(), Release);
    Ok(event)
}

fn listen(number: i32) -> io::Result<()> {
    let mut listeners = listeners();
    if let Some((count, _)) = listeners.get_mut(&number) {
        *count += 1;
        return Ok(());
    }
    // SAFETY: all zeros are a valid `sigaction`: the default action, without flags, and an empty set.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as extern "C" fn(i32) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid, and the handler does only what a handler may.
    if unsafe { libc::sigaction(number, &raw const action, &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    listeners.insert(number, (1, Before(before)));
    Ok(())
}

/// Runs in whatever thread and at whatever point the signal comes: counts, and writes, and leaves errno as
/// it was.
extern "C" fn handle(number: i32) {
    if let Some(count) = usize::try_from(number).ok().and_then(|at| COUNTS.get(at)) {
        count.fetch_add(1, Release);
    }
    let one = 1_u64;
    // SAFETY: errno is this thread's; the descriptor is an eventfd that is never closed; eight bytes are
    // read from `one`.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(WRITTEN.load(Relaxed), (&raw const one).cast(), 8);
        *errno = before;
    }
}
