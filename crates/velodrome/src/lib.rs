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
//! For Rust programs there is [`EventLoop`] over it, with tasks, sockets, pipes, children and signals:
//!
//! ```
//! use std::time::Duration;
//!
//! let event_loop = velodrome::new_event_loop();
//! velodrome::set_event_loop(Some(event_loop.clone()));
//! event_loop.run_until_complete(async {
//!     let task = velodrome::create_task(velodrome::sleep(Duration::from_millis(1)));
//!     task.await.expect("nobody cancels it");
//! })?;
//! event_loop.close()?;
//! velodrome::set_event_loop(None);
//! # Ok::<(), velodrome::Error>(())
//! ```
//!
//! Everything but [`Inbox`], [`LoopHandle`] and [`ThreadsafeHandle`] belongs to one thread. Nothing is borrowed while a callback runs, so
//! a callback may call back into the loop in any way.

#![deny(unsafe_code)]

pub mod client;
pub mod clock;
pub mod datagram;
pub mod driver;
pub mod engine;
pub mod error;
pub mod executor;
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

mod async_fd;
mod command;
mod endpoint;
mod event_loop;
mod events;
mod gather;
mod handle;
mod io_traits;
mod panics;
mod pipe_ends;
mod protocol;
mod readers;
mod signals;
mod sync;
mod task;
mod task_group;
mod thread_pool;
mod time;
mod transport;

pub use async_fd::{Async, Direction, FdWakers};
pub use clock::Clock;
pub use command::{Child, Command};
pub use engine::{Engine, Host, Kind, Source};
pub(crate) use error::Result;
pub use error::{Errno, Error};
pub use event_loop::{EventLoop, ExceptionHandler, LoopHandle, TaskFactory, TaskFuture};
pub use events::{
    DefaultEventLoopPolicy, EventLoopPolicy, all_tasks, create_task, current_task, get_event_loop,
    get_event_loop_policy, get_running_loop, new_event_loop, run, set_event_loop,
    set_event_loop_policy,
};
pub use gather::{Gather, GatherAll, gather};
pub use handle::{Handle, ThreadsafeHandle, TimerHandle};
pub use inbox::Inbox;
pub use net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
pub use panics::panic_message;
pub use pipe_ends::{PipeReader, PipeWriter, stderr, stdin, stdout};
pub use poller::{Interest, Readiness};
pub use protocol::{DatagramProtocol, Protocol};
pub use rustix::process::Signal;
pub use signals::{Signals, signal};
pub use sync::{
    BoundedSemaphore, Condition, ConditionGuard, Event, Lock, LockGuard, Permit, Queue, QueueEmpty,
    QueueFull, Semaphore,
};
pub use task::{ExceptionContext, Step, Task, TaskError, TaskHandle, Woken};
pub use task_group::{Failure, TaskGroup, TaskGroupError, task_group};
pub use time::{Sleep, TimedOut, sleep, timeout};
pub use timer::{Key as TimerKey, Timers};
pub use transport::{DatagramTransport, Server, Transport};
