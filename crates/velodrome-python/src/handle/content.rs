//! What handles let go of.
//!
//! Handles can be in each other, each the only one that has the next: to free them would be a call inside of a
//! call, and thousands of them more than the stack has room for. Before 3.14 CPython looks after that only for
//! classes of its own and for those of Python code. So beyond some depth the rest is put aside, and let go of
//! by the outermost.

use std::cell::{Cell, RefCell};

use pyo3::prelude::*;

use crate::{call::Held, gil::GilBound};

/// CPython's own classes stop there, too.
const MAX_DEPTH: u32 = 50;

/// Of all threads: one that lets another one run meanwhile is still at it.
static DEPTH: GilBound<Cell<u32>> = GilBound::new(Cell::new(0));
static PUT_ASIDE: GilBound<RefCell<Vec<Content>>> = GilBound::new(RefCell::new(Vec::new()));

/// The callback and the context are `others`.
pub struct Content {
    pub arguments: Held,
    pub others: [Option<Py<PyAny>>; 2],
}

impl Content {
    /// Drops it. This may run code of any kind.
    #[inline]
    pub fn release(self, py: Python<'_>) {
        let depth = DEPTH.get(py);
        if depth.get() >= MAX_DEPTH {
            return PUT_ASIDE.get(py).borrow_mut().push(self);
        }
        depth.set(depth.get() + 1);
        self.drop_refs(py);
        while depth.get() == 1 {
            let Some(content) = PUT_ASIDE.get(py).borrow_mut().pop() else { break };
            content.drop_refs(py);
        }
        depth.set(depth.get() - 1);
    }

    #[inline]
    fn drop_refs(self, py: Python<'_>) {
        self.arguments.release(py);
        self.others.into_iter().flatten().for_each(|object| object.drop_ref(py));
    }
}
