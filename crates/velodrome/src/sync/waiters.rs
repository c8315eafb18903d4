//! Tasks that wait for a turn, in the order in which they came.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::task::raw::wakes_cancelled;

#[derive(Default)]
pub(super) struct Waiters(RefCell<VecDeque<Rc<Place>>>);

#[derive(Default)]
struct Place {
    is_called: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Place {
    fn call(&self) {
        self.is_called.set(true);
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether its task was cancelled, and has had no step since: as in asyncio, it no longer waits.
    fn is_given_up(&self) -> bool {
        let waker = self.waker.take();
        let is_given_up = waker.as_ref().is_some_and(wakes_cancelled);
        self.waker.set(waker);
        is_given_up
    }
}

impl Waiters {
    /// Gets a place behind all others at once. Ready when it is called.
    pub fn wait(&self) -> Wait<'_> {
        let place = Rc::new(Place::default());
        self.0.borrow_mut().push_back(Rc::clone(&place));
        Wait { waiters: self, place }
    }

    /// Whether nobody waits, or only those who have given up.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().iter().all(|place| place.is_given_up())
    }

    /// Calls the first, even if it has given up: it is to pass its turn on, when it ends.
    pub fn call_oldest(&self) {
        let oldest = self.0.borrow_mut().pop_front();
        if let Some(place) = oldest {
            place.call();
        }
    }

    /// Calls the first that has not given up. False if nobody waits.
    pub fn call_first(&self) -> bool {
        loop {
            let first = self.0.borrow_mut().pop_front();
            let Some(place) = first else { return false };
            if !place.is_given_up() {
                place.call();
                return true;
            }
        }
    }

    pub fn call_all(&self) {
        let places = self.0.take();
        places.iter().for_each(|place| place.call());
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} waiting", self.0.borrow().len())
    }
}

/// A place among those that wait.
pub(super) struct Wait<'a> {
    waiters: &'a Waiters,
    place: Rc<Place>,
}

impl Wait<'_> {
    /// Whether its turn has come.
    pub fn is_called(&self) -> bool {
        self.place.is_called.get()
    }
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.is_called() {
            return Poll::Ready(());
        }
        let known = self.place.waker.take();
        let waker = match known {
            Some(known) if known.will_wake(context.waker()) => known,
            _ => context.waker().clone(),
        };
        self.place.waker.set(Some(waker));
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.is_called() {
            self.waiters.0.borrow_mut().retain(|place| !Rc::ptr_eq(place, &self.place));
        }
    }
}

/// A task that waits for a turn, which it takes by itself afterwards. If it is dropped when its turn has
/// come, it passes it on.
pub(super) struct Turn<'a, F: Fn()> {
    wait: Option<Wait<'a>>,
    pass_on: F,
}

impl<'a, F: Fn()> Turn<'a, F> {
    /// Waits for a turn in `waiters`.
    pub async fn come(waiters: &'a Waiters, pass_on: F) {
        let mut turn = Turn { wait: Some(waiters.wait()), pass_on };
        if let Some(wait) = &mut turn.wait {
            wait.await;
        }
        turn.wait = None;
    }
}

impl<F: Fn()> Drop for Turn<'_, F> {
    fn drop(&mut self) {
        if self.wait.take().is_some_and(|wait| wait.is_called()) {
            (self.pass_on)();
        }
    }
}
