//! Tasks that wait for a turn, in the order in which they came.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

#[derive(Debug, Default)]
pub(super) struct Waiters(RefCell<VecDeque<Rc<Place>>>);

#[derive(Debug, Default)]
struct Place {
    is_called: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Place {
    fn call(&self) {
        self.is_called.set(true);
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Waiters {
    /// Gets a place behind all others at once. Ready when it is called.
    pub fn wait(&self) -> Wait<'_> {
        let place = Rc::new(Place::default());
        self.0.borrow_mut().push_back(Rc::clone(&place));
        Wait { waiters: self, place }
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub fn call_first(&self) {
        let first = self.0.borrow_mut().pop_front();
        if let Some(place) = first {
            place.call();
        }
    }

    pub fn call_all(&self) {
        let places = self.0.take();
        places.iter().for_each(|place| place.call());
    }
}

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
        let before = {
            let mut waker = self.place.waker.borrow_mut();
            match &*waker {
                Some(known) if known.will_wake(context.waker()) => None,
                _ => waker.replace(context.waker().clone()),
            }
        };
        drop(before);
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
