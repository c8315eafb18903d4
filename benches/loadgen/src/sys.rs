//! The system calls that std does not offer, each behind a safe function.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

#[derive(Clone, Copy)]
pub enum Interest {
    Read,
    Write,
    ReadAndWrite,
}

/// A level-triggered epoll instance whose events carry a client's index.
pub struct Epoll(OwnedFd);

pub struct EventBuffer([libc::epoll_event; 128]);

impl Default for EventBuffer {
    fn default() -> Self {
        Self([libc::epoll_event { events: 0, u64: 0 }; 128])
    }
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `epoll_create1` just returned it, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    pub fn add(&self, descriptor: RawFd, index: usize, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, descriptor, index, interest)
    }

    pub fn modify(&self, descriptor: RawFd, index: usize, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, descriptor, index, interest)
    }

    pub fn remove(&self, descriptor: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, descriptor, 0, Interest::Read)
    }

    fn control(
        &self,
        operation: i32,
        descriptor: RawFd,
        index: usize,
        interest: Interest,
    ) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::EPOLLIN,
            Interest::Write => libc::EPOLLOUT,
            Interest::ReadAndWrite => libc::EPOLLIN | libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events as u32, u64: index as u64 };
        // SAFETY: `event` is valid for the call, which copies it; a bad descriptor is an error, not undefined.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, descriptor, &mut event) })?;
        Ok(())
    }

    /// The indices of the clients that can go on; none after the timeout or a signal.
    pub fn wait<'a>(
        &self,
        buffer: &'a mut EventBuffer,
        timeout_ms: i32,
    ) -> io::Result<impl Iterator<Item = usize> + 'a> {
        let room = buffer.0.len() as i32;
        // SAFETY: the kernel writes at most `room` events, and the buffer has that many.
        let result = unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), buffer.0.as_mut_ptr(), room, timeout_ms)
        };
        let count = match check(result) {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(buffer.0[..count].iter().map(|event| event.u64 as usize))
    }
}

/// Of a listening socket that does not block: a connection that does not block either, by one system call.
pub fn accept(listener: RawFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: without room for an address nothing is written.
    let descriptor =
        check(unsafe { libc::accept4(listener, ptr::null_mut(), ptr::null_mut(), flags) })?;
    // SAFETY: `accept4` just returned it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

pub fn do_not_block(descriptor: RawFd) -> io::Result<()> {
    let mut yes = 1;
    // SAFETY: `FIONBIO` reads the integer that it is given the address of.
    check(unsafe { libc::ioctl(descriptor, libc::FIONBIO, &mut yes) })?;
    Ok(())
}

/// Makes closing the socket send RST, which leaves no TIME_WAIT on either side.
pub fn reset_on_close(descriptor: RawFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the pointer and the length describe `linger`, which the call only reads.
    check(unsafe {
        libc::setsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            mem::size_of_val(&linger) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Tells the other side that no more will come; what it sends still does.
pub fn end_output(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::shutdown(descriptor, libc::SHUT_WR) })?;
    Ok(())
}

/// The CPU time of a whole process: user and system, every thread, in nanoseconds.
///
/// `/proc/PID/stat` counts in hundredths of a second, and `/proc/PID/schedstat` knows only the main thread and is
/// brought up to date at the scheduler's tick; this clock has neither fault.
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    pub fn of_process(pid: i32) -> io::Result<Self> {
        let mut clock = 0;
        // SAFETY: `clock` is valid for the write.
        match unsafe { libc::clock_getcpuclockid(pid, &mut clock) } {
            0 => Ok(Self(clock)),
            // Unlike most calls it returns the error instead of setting errno.
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    pub fn of_this_process() -> Self {
        Self(libc::CLOCK_PROCESS_CPUTIME_ID)
    }

    pub fn now(&self) -> io::Result<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for the write.
        check(unsafe { libc::clock_gettime(self.0, &mut time) })?;
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

/// The memory that a process has to itself, in bytes: what would be free again without it.
///
/// The code of a library that others use too is not counted, nor is what the kernel keeps for its sockets.
pub fn private_bytes(pid: i32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    let kibibytes: Option<u64> = text
        .lines()
        .filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"))
        .map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    match kibibytes {
        Some(count @ 1..) => Ok(count * 1024),
        _ => Err(io::Error::other(format!("{path} does not tell"))),
    }
}

pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
