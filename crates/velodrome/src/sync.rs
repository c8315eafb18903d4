//! What tasks of one loop share: `Event`, `Lock`, `Condition`, semaphores and `Queue`, as in asyncio. First come, first served.
//!
//! They are for one thread. From another one, go through
//! [`LoopHandle::call_soon_threadsafe`](crate::LoopHandle::call_soon_threadsafe).

#[forbid(unsafe_code)]
mod condition;
#[forbid(unsafe_code)]
mod event;
mod lock;
#[forbid(unsafe_code)]
mod queue;
#[forbid(unsafe_code)]
mod semaphore;
#[forbid(unsafe_code)]
mod waiters;

pub use condition::{Condition, ConditionGuard};
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use queue::{Queue, QueueEmpty, QueueFull};
pub use semaphore::{BoundedSemaphore, Permit, Semaphore};
