//! asyncio's event loop system, with no Python in it: who knows asyncio knows its names.
//!
//! ```
//! use std::time::Duration;
//! use velodrome::{TcpListener, TcpStream, create_task, run, timeout};
//!
//! run(async {
//!     let listener = TcpListener::bind("127.0.0.1:0").await?;
//!     let address = listener.local_addr()?;
//!     create_task(async move {
//!         let (client, _peer) = listener.accept().await?;
//!         let mut buffer = [0; 1024];
//!         loop {
//!             match client.read(&mut buffer).await? {
//!                 0 => return Ok::<(), std::io::Error>(()),
//!                 count => client.write_all(&buffer[..count]).await?,
//!             }
//!         }
//!     })
//!     .detach();
//!
//!     let connection = TcpStream::connect(address).await?;
//!     connection.write_all(b"hello").await?;
//!     let mut answer = [0; 5];
//!     timeout(Duration::from_secs(5), connection.read_exact(&mut answer)).await.expect("an answer")?;
//!     assert_eq!(&answer, b"hello");
//!     Ok::<(), std::io::Error>(())
//! })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - **Loops**: [`run`] does all; [`new_event_loop`], [`set_event_loop`], [`get_event_loop`],
//!   [`get_running_loop`] and [`EventLoopPolicy`] say which loop is whose. [`EventLoop`] has `call_soon`,
//!   `call_later`, `run_forever`, `run_until_complete`, `stop` and the rest, [`LoopHandle`] what other threads call.
//! - **Tasks**: [`create_task`], [`Task`], [`gather`], [`task_group`], [`sleep`], [`timeout`]. Futures need not be
//!   `Send`. Dropping one cancels it, and [`Task::cancel`] drops it.
//! - **Between tasks**: [`Event`], [`Lock`], [`Condition`], [`Semaphore`], [`BoundedSemaphore`], [`Queue`].
//! - **The world**: [`TcpStream`], [`TcpListener`], [`UnixStream`], [`UnixListener`], [`UdpSocket`], [`PipeReader`],
//!   [`PipeWriter`], [`Command`], [`signal`](fn@signal), [`EventLoop::add_reader`], [`EventLoop::run_in_executor`],
//!   and [`Async`] for any descriptor. Streams have the traits of `futures-io`.
//! - **Tests**: a loop with a manual [`Clock`] does not sleep.
//!
//! The feature `tokio` gives the streams tokio's `AsyncRead` and `AsyncWrite`; there is no runtime of tokio in it.
//!
//! A loop and what belongs to it stay in one thread; only [`LoopHandle`], [`ThreadsafeHandle`], [`Inbox`] and wakers
//! go elsewhere. Nothing is borrowed while a callback runs, so a callback may call back into the loop in any way. The
//! order in which callbacks, tasks, timers and descriptors have their turns is asyncio's, but for a few cases that
//! `docs/rust.md` lists.
//!
//! # The model beneath
//!
//! This crate is the model of the Python package `velodrome`, too: a ready queue, timers, a thread-safe inbox, a
//! poller with its registry of descriptors, byte streams and datagram sockets as state machines, and TLS sessions
//! of a libssl over byte buffers. It is generic over what a callback is ([`Kind`]) and how it is called ([`Host`]),
//! so the same engine runs Python callables and Rust closures.
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

#![deny(unsafe_code)]

#[forbid(unsafe_code)]
pub mod client;
#[forbid(unsafe_code)]
pub mod clock;
#[forbid(unsafe_code)]
pub mod crowd;
pub mod datagram;
#[forbid(unsafe_code)]
pub mod driver;
#[forbid(unsafe_code)]
pub mod engine;
#[forbid(unsafe_code)]
pub mod error;
pub mod executor;
#[forbid(unsafe_code)]
pub mod inbox;
#[forbid(unsafe_code)]
pub mod life;
#[forbid(unsafe_code)]
pub mod net;
#[forbid(unsafe_code)]
pub mod pipe;
pub mod poller;
pub mod process;
pub mod registry;
#[forbid(unsafe_code)]
pub mod server;
#[forbid(unsafe_code)]
pub mod signal;
#[forbid(unsafe_code)]
pub mod stream;
#[forbid(unsafe_code)]
pub mod timer;
pub mod tls;
#[forbid(unsafe_code)]
pub mod waker;

#[forbid(unsafe_code)]
mod async_fd;
#[forbid(unsafe_code)]
mod command;
#[forbid(unsafe_code)]
mod endpoint;
mod event_loop;
#[forbid(unsafe_code)]
mod events;
#[forbid(unsafe_code)]
mod gather;
#[forbid(unsafe_code)]
mod handle;
#[forbid(unsafe_code)]
mod io_traits;
#[forbid(unsafe_code)]
mod panics;
#[forbid(unsafe_code)]
mod pipe_ends;
#[forbid(unsafe_code)]
mod protocol;
#[forbid(unsafe_code)]
mod readers;
mod signals;
mod sync;
mod task;
#[forbid(unsafe_code)]
mod task_group;
#[forbid(unsafe_code)]
mod thread_pool;
#[forbid(unsafe_code)]
mod time;
#[forbid(unsafe_code)]
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
pub use net::{ConnectOptions, TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
pub use panics::panic_message;
pub use pipe_ends::{PipeReader, PipeWriter, stderr, stdin, stdout};
pub use poller::{Interest, Readiness};
pub use protocol::{BufferedProtocol, DatagramProtocol, Protocol};
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
pub use transport::{DatagramTransport, Server, ServerOptions, Transport};

/// Runs what the file shows.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Runs what the page shows.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/rust.md")]
struct Page;
