//! What transports and servers leave with their loop.
//!
//! The loop holds each from its birth to its end, and lets go of those that are left when it is closed:
//! a protocol keeps its transport and the transport its protocol, so nobody else could.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use slab::Slab;

use crate::{panics::quietly, poller::Readiness};

/// What an endpoint does when its turn in the ready queue comes.
pub(crate) enum Turn {
    /// Tell the protocol of the connection and start to read.
    Open,
    /// The descriptor is ready.
    Ready(Readiness),
    /// Tell the protocol what could not be told while somebody had it borrowed.
    Owed,
    /// Tell the protocol that the connection is lost and let everything go.
    Lost,
}

/// A transport or a listener.
pub(crate) trait Endpoint {
    fn take_turn(self: Rc<Self>, turn: Turn);

    /// At the end of a batch, if it asked for that.
    fn flush_deferred(self: Rc<Self>) {}

    /// The loop is closed: nobody will call any more.
    fn let_go(&self);
}

/// As much as a stream reads at once: the size that the Python transports were measured with.
const SCRATCH_BYTES: usize = 256 * 1024;

/// The endpoints of a loop.
#[derive(Default)]
pub(crate) struct Endpoints {
    open: RefCell<Slab<Rc<dyn Endpoint>>>,
    /// Something of theirs waits for the end of the batch.
    deferred: RefCell<Vec<Rc<dyn Endpoint>>>,
    /// Where streams read to; taken out while a protocol looks at it.
    scratch: Cell<Option<Box<[u8]>>>,
}

impl Endpoints {
    pub fn add(&self, endpoint: Rc<dyn Endpoint>) -> usize {
        self.open.borrow_mut().insert(endpoint)
    }

    /// Gives an endpoint back that is at its end. `None` if the loop was closed first.
    pub fn remove(&self, key: usize) -> Option<Rc<dyn Endpoint>> {
        self.open.borrow_mut().try_remove(key)
    }

    pub fn defer_flush(&self, endpoint: Rc<dyn Endpoint>) {
        self.deferred.borrow_mut().push(endpoint);
    }

    #[inline]
    pub fn flush_deferred(&self) {
        if self.deferred.borrow().is_empty() {
            return;
        }
        let deferred = self.deferred.take();
        for endpoint in deferred {
            endpoint.flush_deferred();
        }
    }

    pub fn take_scratch(&self) -> Box<[u8]> {
        self.scratch.take().unwrap_or_else(|| vec![0; SCRATCH_BYTES].into())
    }

    pub fn put_back_scratch(&self, scratch: Box<[u8]>) {
        self.scratch.set(Some(scratch));
    }

    /// Lets go of all. A panic in a protocol's destructor does not keep the others.
    pub fn close(&self) {
        let open = self.open.take();
        for (_, endpoint) in open {
            quietly(|| endpoint.let_go());
            quietly(|| drop(endpoint));
        }
        quietly(|| drop(self.deferred.take()));
        drop(self.scratch.take());
    }
}
