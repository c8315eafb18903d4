//! One workload on one runtime, in this process and one thread: prints the CPU nanoseconds per operation.
//!
//!     runtimes RUNTIME WORKLOAD [SECONDS]
//!
//! A workload is repeated in blocks until it has run for so long (0.5 s); the first block is not counted. In the echo
//! workloads client and server are tasks of the same runtime, so both sides are paid for; every byte is checked. The
//! runtime `transports` is velodrome with protocols instead of tasks, for these workloads alone.

mod compio;
mod monoio;
mod smol;
mod tokio;
mod transports;
mod velodrome;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    process::ExitCode,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// What to do, and how often in a block.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Workload {
    /// Tasks that are done at once, made by the hundred and awaited.
    Spawn,
    /// One task that gives way again and again.
    Yield,
    /// A hundred of them.
    Yield100,
    /// Two tasks that wake each other.
    PingPong,
    /// Timers that are set and given up.
    TimerCancel,
    /// A thousand tasks that sleep for up to 10 ms, again and again.
    TimerFire,
    /// Messages of so many bytes there and back, on so many connections.
    Echo { size: usize, connections: usize },
}

const WORKLOADS: [(&str, Workload); 9] = [
    ("spawn", Workload::Spawn),
    ("yield", Workload::Yield),
    ("yield-100", Workload::Yield100),
    ("ping-pong", Workload::PingPong),
    ("timer-cancel", Workload::TimerCancel),
    ("timer-fire", Workload::TimerFire),
    ("echo-1k-10", Workload::Echo { size: 1 << 10, connections: 10 }),
    ("echo-1k-100", Workload::Echo { size: 1 << 10, connections: 100 }),
    ("echo-100k-10", Workload::Echo { size: 100 << 10, connections: 10 }),
];

/// Counts CPU time, from after the first block to the end.
struct Meter {
    end: Instant,
    start_ns: Option<u64>,
    operations: u64,
}

impl Meter {
    fn new(seconds: f64) -> Self {
        Meter {
            end: Instant::now() + Duration::from_secs_f64(seconds),
            start_ns: None,
            operations: 0,
        }
    }

    /// A block of so many operations is done; false if that is enough.
    fn block(&mut self, operations: u64) -> bool {
        if self.start_ns.is_some() {
            self.operations += operations;
        } else {
            self.start_ns = Some(cpu_ns());
        }
        Instant::now() < self.end || self.operations == 0
    }

    fn report(&self) -> f64 {
        let start_ns = self.start_ns.expect("a block was done");
        (cpu_ns() - start_ns) as f64 / self.operations as f64
    }
}

fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Gives way once, in the way that every runtime understands.
async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What two tasks hand to each other.
#[derive(Default)]
struct Baton {
    holder: Cell<usize>,
    waiting: RefCell<[Option<Waker>; 2]>,
}

impl Baton {
    async fn take(&self, me: usize) {
        poll_fn(|context| {
            if self.holder.get() == me {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut()[me] = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn hand_on(&self, me: usize) {
        let other = 1 - me;
        self.holder.set(other);
        let waker = self.waiting.borrow_mut()[other].take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

async fn play(baton: Rc<Baton>, me: usize, times: u64) {
    for _ in 0..times {
        baton.take(me).await;
        baton.hand_on(me);
    }
}

/// Polls a future once and drops it.
async fn give_up<F: Future>(future: F) {
    let mut future = std::pin::pin!(future);
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// Milliseconds that a task sleeps: the same for all runtimes.
fn delay(task: u64, time: u64) -> Duration {
    Duration::from_micros(1_000 + (task * 7919 + time * 104_729) % 9_000)
}

/// On each connection, in a block.
fn echo_messages(size: usize, connections: usize) -> usize {
    200_000 / connections / (1 + size / 2048)
}

/// The workloads without sockets, for a runtime whose module has `spawn` and `sleep`.
macro_rules! workloads {
    () => {
        pub async fn run(workload: crate::Workload, mut meter: crate::Meter) -> f64 {
            use crate::Workload;
            loop {
                let operations = match workload {
                    Workload::Spawn => {
                        for _ in 0..100 {
                            let tasks: Vec<_> =
                                (0..100_u64).map(|number| spawn(async move { number })).collect();
                            for (number, task) in (0..).zip(tasks) {
                                assert_eq!(joined(task.await), number);
                            }
                        }
                        10_000
                    }
                    Workload::Yield => {
                        let task = spawn(async {
                            for _ in 0..100_000 {
                                crate::yield_now().await;
                            }
                        });
                        joined(task.await);
                        100_000
                    }
                    Workload::Yield100 => {
                        let tasks: Vec<_> = (0..100)
                            .map(|_| {
                                spawn(async {
                                    for _ in 0..1_000 {
                                        crate::yield_now().await;
                                    }
                                })
                            })
                            .collect();
                        for task in tasks {
                            joined(task.await);
                        }
                        100_000
                    }
                    Workload::PingPong => {
                        let baton = std::rc::Rc::new(crate::Baton::default());
                        let one = spawn(crate::play(baton.clone(), 0, 50_000));
                        let other = spawn(crate::play(baton, 1, 50_000));
                        joined(one.await);
                        joined(other.await);
                        100_000
                    }
                    Workload::TimerCancel => {
                        for _ in 0..10_000 {
                            crate::give_up(sleep(std::time::Duration::from_secs(60))).await;
                        }
                        10_000
                    }
                    Workload::TimerFire => {
                        let tasks: Vec<_> = (0..1_000)
                            .map(|task| {
                                spawn(async move {
                                    for time in 0..10 {
                                        sleep(crate::delay(task, time)).await;
                                    }
                                })
                            })
                            .collect();
                        for task in tasks {
                            joined(task.await);
                        }
                        10_000
                    }
                    Workload::Echo { size, connections } => {
                        let messages = crate::echo_messages(size, connections);
                        echo(size, connections, messages).await;
                        (messages * connections) as u64
                    }
                };
                if !meter.block(operations) {
                    return meter.report();
                }
            }
        }
    };
}
pub(crate) use workloads;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    type Run = fn(Workload, Meter) -> f64;
    let runtimes: [(&str, Run); 6] = [
        ("velodrome", velodrome::main),
        ("transports", transports::main),
        ("tokio", tokio::main),
        ("smol", smol::main),
        ("monoio", monoio::main),
        ("compio", compio::main),
    ];
    let names = |list: Vec<&str>| list.join(", ");
    let runtime = arguments.first().and_then(|name| runtimes.iter().find(|it| it.0 == name));
    let workload = arguments.get(1).and_then(|name| WORKLOADS.iter().find(|it| it.0 == name));
    let seconds = arguments.get(2).map_or(Ok(0.5), |text| text.parse());
    let (Some((_, run)), Some((_, workload)), Ok(seconds)) = (runtime, workload, seconds) else {
        eprintln!(
            "usage: runtimes RUNTIME WORKLOAD [SECONDS]\nruntimes: {}\nworkloads: {}",
            names(runtimes.iter().map(|it| it.0).collect()),
            names(WORKLOADS.iter().map(|it| it.0).collect()),
        );
        return ExitCode::from(2);
    };
    println!("{:.1}", run(*workload, Meter::new(seconds)));
    ExitCode::SUCCESS
}
