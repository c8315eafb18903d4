//! A future that `run_until_complete` polls in a task without owning it.

#![allow(unsafe_code)]

use std::{
    cell::Cell,
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

type Erased<'a> = Pin<&'a mut dyn Future<Output = ()>>;

/// A future that a run lends to its task, whoever has that in the end: once it is recalled, the task waits
/// for ever.
pub(super) struct Lent(Rc<Cell<Option<Erased<'static>>>>);

pub(super) fn lend<'a>(future: Erased<'a>) -> (Lent, Recalled<'a>) {
    // SAFETY: it is used by `Lent` alone, which takes it out of the place that they share to poll it, and
    // puts it back. `Recalled` has the true lifetime, and empties the place in the end. It is not leaked:
    // the one who lends keeps it in a local variable.
    let future: Erased<'static> = unsafe { std::mem::transmute(future) };
    let place = Rc::new(Cell::new(Some(future)));
    (Lent(Rc::clone(&place)), Recalled { place, lent: PhantomData })
}

impl Future for Lent {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(mut future) = self.0.take() else { return Poll::Pending };
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.0.set(Some(future));
        }
        polled
    }
}

pub(super) struct Recalled<'a> {
    place: Rc<Cell<Option<Erased<'static>>>>,
    lent: PhantomData<Erased<'a>>,
}

impl Drop for Recalled<'_> {
    fn drop(&mut self) {
        self.place.take();
    }
}
