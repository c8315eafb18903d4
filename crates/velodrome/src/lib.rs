//! asyncio's event loop system, with no Python in it.
//!
//! This crate is the model beneath the Python package `velodrome`: a ready queue, timers, a
//! thread-safe inbox, a poller with its registry of descriptors, byte streams and datagram sockets
//! as state machines, and TLS sessions of a libssl over byte buffers. It is generic over what a
//! callback is ([`Kind`]) and how it is called ([`Host`]), so the same engine runs Python callables
//! and Rust closures.
//!
//! One tick, from [`Engine::run`]:
//!
//! ```text
//! inbox ──> ready queue <── due timers
//!                ^      <── events: poller ─> token ─> source
//!                │
//!       the callbacks that were queued when the batch began run, in order;
//!       what they add waits for the next tick
//! ```
//!
//! Everything but [`Inbox`] belongs to one thread. Nothing is borrowed while a callback runs, so
//! a callback may call back into the loop in any way.

pub mod client;
pub mod clock;
pub mod datagram;
pub mod engine;
pub mod error;
pub mod inbox;
pub mod life;
pub mod net;
pub mod pipe;
pub mod poller;
pub mod process;
pub mod registry;
pub mod server;
pub mod signal;
pub mod stream;
pub mod timer;
pub mod tls;
pub mod waker;

pub use clock::Clock;
pub use engine::{Engine, Host, Kind, Source};
pub use error::{Errno, Result};
pub use inbox::Inbox;
pub use poller::{Interest, Readiness};
pub use timer::{Key as TimerKey, Timers};
