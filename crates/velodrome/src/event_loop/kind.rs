//! What waits in the queues of a loop of closures, and who hears of descriptors.

use std::{rc::Rc, task::Waker};

use crate::{
    async_fd::FdWakers,
    endpoint::{Endpoint, Turn},
    engine::{Kind, Source},
    handle::{Scheduled, SentCall},
    poller::Readiness,
    readers::FdCallbacks,
    task::{Step, Woken},
};

/// What a loop of closures is made of.
pub(super) enum Closures {}

impl Kind for Closures {
    type Callback = Callback;
    type Sent = Sent;
    type Timer = Timer;
    type Source = FdSource;
}

pub(crate) enum Callback {
    Step(Step),
    Wake(Waker),
    Handle(Rc<dyn Scheduled>),
    Once(Box<dyn FnOnce()>),
    Woken(Woken),
    Sent(SentCall),
    Turn(Rc<dyn Endpoint>, Turn),
}

/// What other threads send.
pub(super) enum Sent {
    Woken(Woken),
    Call(SentCall),
}

impl From<Sent> for Callback {
    fn from(sent: Sent) -> Self {
        match sent {
            Sent::Woken(woken) => Callback::Woken(woken),
            Sent::Call(callback) => Callback::Sent(callback),
        }
    }
}

pub(super) enum Timer {
    Wake(Waker),
    Handle(Rc<dyn Scheduled>),
}

impl From<Timer> for Callback {
    fn from(timer: Timer) -> Self {
        match timer {
            Timer::Wake(waker) => Callback::Wake(waker),
            Timer::Handle(handle) => Callback::Handle(handle),
        }
    }
}

/// Who hears of a descriptor.
#[derive(Clone)]
pub(crate) enum FdSource {
    Wakers(Rc<FdWakers>),
    Callbacks(Rc<FdCallbacks>),
    Endpoint(Rc<dyn Endpoint>),
}

impl Source for FdSource {
    type Callback = Callback;

    fn ready(self, readiness: Readiness, push: &mut dyn FnMut(Callback)) {
        match self {
            FdSource::Wakers(wakers) => {
                wakers.ready(readiness, |waker| push(Callback::Wake(waker)));
            }
            FdSource::Callbacks(callbacks) => {
                callbacks.ready(readiness, |callback| push(Callback::Handle(callback)));
            }
            FdSource::Endpoint(endpoint) => push(Callback::Turn(endpoint, Turn::Ready(readiness))),
        }
    }
}
