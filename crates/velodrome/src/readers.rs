//! `add_reader` and `add_writer`: callbacks that are called while a descriptor is ready.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{AsFd, AsRawFd},
    rc::Rc,
};

use crate::{
    EventLoop,
    async_fd::Direction,
    error::Error,
    event_loop::FdSource,
    handle::Scheduled,
    poller::{Interest, Readiness},
};

/// The callbacks of a descriptor.
#[derive(Default)]
pub(crate) struct FdCallbacks {
    reader: RefCell<Option<Rc<dyn Scheduled>>>,
    writer: RefCell<Option<Rc<dyn Scheduled>>>,
}

/// A callback that is called again and again.
struct Repeated<F> {
    /// Taken out while it is called.
    callback: Cell<Option<F>>,
    is_cancelled: Cell<bool>,
}

impl<F: FnMut()> Scheduled for Repeated<F> {
    fn run(&self) {
        if let Some(callback) = self.callback.take() {
            // Put back even if it panics, as asyncio goes on calling it.
            let mut back = PutBack { place: self, callback: Some(callback) };
            if let Some(callback) = &mut back.callback {
                callback();
            }
        }
    }

    fn cancel(&self) {
        self.is_cancelled.set(true);
        drop(self.callback.take());
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.get()
    }
}

struct PutBack<'a, F> {
    place: &'a Repeated<F>,
    callback: Option<F>,
}

impl<F> Drop for PutBack<'_, F> {
    fn drop(&mut self) {
        if !self.place.is_cancelled.get() {
            self.place.callback.set(self.callback.take());
        }
    }
}

impl FdCallbacks {
    fn place(&self, direction: Direction) -> &RefCell<Option<Rc<dyn Scheduled>>> {
        match direction {
            Direction::Read => &self.reader,
            Direction::Write => &self.writer,
        }
    }

    fn interest(&self) -> Interest {
        let mut interest = Interest::NONE;
        if self.reader.borrow().is_some() {
            interest |= Interest::READ;
        }
        if self.writer.borrow().is_some() {
            interest |= Interest::WRITE;
        }
        interest
    }

    pub fn ready(&self, readiness: Readiness, mut push: impl FnMut(Rc<dyn Scheduled>)) {
        for (is_ready, place) in
            [(readiness.readable, &self.reader), (readiness.writable, &self.writer)]
        {
            let callback = place.borrow().clone();
            if let (true, Some(callback)) = (is_ready, callback) {
                push(callback);
            }
        }
    }
}

impl EventLoop {
    /// Calls `callback` in each turn in which `fd` can be read, in place of the reader that it had.
    ///
    /// It must be taken back by [`EventLoop::remove_reader`] before the descriptor is closed. Fails with
    /// `AlreadyExists` if an [`Async`](crate::Async) has the descriptor.
    ///
    /// ```
    /// use std::{io::Write, os::unix::net::UnixStream};
    ///
    /// let event_loop = velodrome::new_event_loop();
    /// let (mut one, other) = UnixStream::pair()?;
    /// let stop = event_loop.clone();
    /// event_loop.add_reader(&other, move || stop.stop())?;
    /// one.write_all(b"x")?;
    /// event_loop.run_forever()?;
    /// assert!(event_loop.remove_reader(&other));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_reader(&self, fd: impl AsFd, callback: impl FnMut() + 'static) -> io::Result<()> {
        self.add_callback(Direction::Read, &fd, callback)
    }

    /// Calls `callback` in each turn in which `fd` can be written: see [`EventLoop::add_reader`].
    pub fn add_writer(&self, fd: impl AsFd, callback: impl FnMut() + 'static) -> io::Result<()> {
        self.add_callback(Direction::Write, &fd, callback)
    }

    /// Takes the reader of `fd` back, which is dropped now. False if there is none.
    pub fn remove_reader(&self, fd: impl AsFd) -> bool {
        self.remove_callback(Direction::Read, &fd)
    }

    /// See [`EventLoop::remove_reader`].
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::{os::unix::net::UnixStream, rc::Rc};
    ///
    /// let event_loop = velodrome::get_running_loop().unwrap();
    /// let (one, _other) = UnixStream::pair()?;
    /// let writable = Rc::new(velodrome::Event::new());
    /// let tell = writable.clone();
    /// event_loop.add_writer(&one, move || tell.set())?;
    /// writable.wait().await;
    /// assert!(event_loop.remove_writer(&one));
    /// assert!(!event_loop.remove_writer(&one), "it is not there any more");
    /// # std::io::Result::Ok(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn remove_writer(&self, fd: impl AsFd) -> bool {
        self.remove_callback(Direction::Write, &fd)
    }

    fn callbacks(&self, fd: &impl AsFd) -> Option<Rc<FdCallbacks>> {
        match self.reactor().source(fd.as_fd().as_raw_fd()) {
            Some(FdSource::Callbacks(callbacks)) => Some(callbacks),
            _ => None,
        }
    }

    fn add_callback(
        &self,
        direction: Direction,
        fd: &impl AsFd,
        callback: impl FnMut() + 'static,
    ) -> io::Result<()> {
        if self.is_closed() {
            return Err(io::Error::other(Error::Closed));
        }
        let added: Rc<dyn Scheduled> = Rc::new(Repeated {
            callback: Cell::new(Some(callback)),
            is_cancelled: Cell::new(false),
        });
        let number = fd.as_fd().as_raw_fd();
        let known = self.callbacks(fd).filter(|_| self.reactor().is_current(number));
        let replaced = if let Some(known) = known {
            let replaced = known.place(direction).replace(Some(added));
            self.reactor().set_interest(number, known.interest())?;
            replaced
        } else {
            let new = Rc::new(FdCallbacks::default());
            new.place(direction).replace(Some(added));
            let interest = new.interest();
            self.register(number, FdSource::Callbacks(new), interest)?;
            None
        };
        if let Some(replaced) = replaced {
            replaced.cancel();
        }
        Ok(())
    }

    fn remove_callback(&self, direction: Direction, fd: &impl AsFd) -> bool {
        let Some(known) = self.callbacks(fd) else { return false };
        let Some(removed) = known.place(direction).take() else { return false };
        let number = fd.as_fd().as_raw_fd();
        let interest = known.interest();
        if interest == Interest::NONE {
            drop(self.reactor().deregister(number));
        } else {
            // A descriptor that was closed behind our back has no interest in anything.
            let _ = self.reactor().set_interest(number, interest);
        }
        removed.cancel();
        true
    }
}
