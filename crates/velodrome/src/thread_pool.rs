//! Threads for functions that block: the loop's default executor.
//!
//! As `concurrent.futures.ThreadPoolExecutor`: a thread is added while none is idle, up to a limit, and
//! lives until the pool ends.

use std::{
    collections::VecDeque,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    thread,
};

use crate::{panics::quietly, process::Process};

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct ThreadPool {
    shared: Arc<Shared>,
    limit: usize,
    /// Has the threads.
    owner: Process,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is a job, or no more will come.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    is_closed: bool,
    /// Who waits for the last thread to end.
    waker: Option<Waker>,
}

/// Where the output of a job comes to.
struct Output<R> {
    result: Option<thread::Result<R>>,
    waker: Option<Waker>,
}

impl Default for ThreadPool {
    /// As many threads as Python's pool has at most.
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let limit = (processors + 4).min(32);
        ThreadPool { shared: Arc::default(), limit, owner: Process::current() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ThreadPool {
    /// Whether this process is a child of the one that made it: then it has no threads, and must be
    /// forgotten.
    pub fn is_parents(&self) -> bool {
        !self.owner.is_current()
    }

    /// Queues a function at once. The future gives its output, or what it panicked with.
    pub fn run<R: Send + 'static, F: FnOnce() -> R + Send + 'static>(
        &self,
        function: F,
    ) -> impl Future<Output = thread::Result<R>> + use<R, F> {
        let output = Arc::new(Mutex::new(Output { result: None, waker: None }));
        let place = Arc::clone(&output);
        self.push(Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(function));
            let waker = {
                let mut output = lock(&place);
                output.result = Some(result);
                output.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }));
        poll_fn(move |context| {
            let mut output = lock(&output);
            match output.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    output.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    fn push(&self, job: Job) {
        let mut queue = lock(&self.shared.queue);
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() {
            self.shared.changed.notify_one();
        } else if queue.threads < self.limit {
            let shared = Arc::clone(&self.shared);
            let name = format!("velodrome_{}", queue.threads);
            if thread::Builder::new().name(name).spawn(move || shared.work()).is_ok() {
                queue.threads += 1;
            } else if queue.threads == 0 {
                // There is no thread to be had: here, now, rather than never.
                let job = queue.jobs.pop_back();
                drop(queue);
                if let Some(job) = job {
                    job();
                }
            }
        }
    }

    /// Takes no more jobs, and is ready when all are done.
    pub async fn shut_down(self) {
        self.close();
        poll_fn(|context| {
            let mut queue = lock(&self.shared.queue);
            if queue.threads == 0 {
                return Poll::Ready(());
            }
            queue.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn close(&self) {
        lock(&self.shared.queue).is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for ThreadPool {
    /// The threads end when they have done what they were given.
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // Foreign code again: the destructor of an output that nobody waits for.
                quietly(job);
                queue = lock(&self.queue);
            } else if queue.is_closed {
                queue.threads -= 1;
                let waker = if queue.threads == 0 { queue.waker.take() } else { None };
                drop(queue);
                if let Some(waker) = waker {
                    waker.wake();
                }
                return;
            } else {
                queue.idle += 1;
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }
}
