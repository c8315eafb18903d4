//! What tasks of one loop share: `Event`, `Lock`, `Condition`, semaphores and `Queue`, as in asyncio. First come, first served.
//!
//! They are for one thread. From another one, go through
//! [`LoopHandle::call_soon_threadsafe`](crate::LoopHandle::call_soon_threadsafe).

mod condition;
mod event;
mod lock;
mod queue;
mod semaphore;
mod waiters;

pub use condition::{Condition, ConditionGuard};
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use queue::{Queue, QueueEmpty, QueueFull};
pub use semaphore::{BoundedSemaphore, Permit, Semaphore};
