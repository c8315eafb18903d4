//! Rust futures on a loop's ready queue: the tasks of one thread.
//!
//! A task belongs to the thread that made it. There it is polled and dropped, so its future need not
//! be `Send`. Its wakers may go anywhere: in the task's own thread a wake-up goes straight into the
//! ready queue, from any other through the loop's inbox.

#![allow(unsafe_code)]

use std::{
    cell::{Cell, RefCell},
    marker::PhantomData,
    mem,
    ptr::NonNull,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use crate::{
    driver::Driver,
    task::{
        Task, TaskHandle,
        blocks::Blocks,
        count::{Count, Left},
        raw::{Current, RawTask, Woken},
    },
    thread_pool::ThreadPool,
};

/// How other threads reach a loop.
pub trait Remote: Send + Sync {
    /// Sees to it that [`Woken::resume`] is called in the loop's thread, soon. Drops it if the loop is
    /// closed.
    fn send(&self, woken: Woken);
}

/// The tasks of a loop. It stays in the thread that made it.
pub struct Executor {
    shared: Owned,
    /// Made by the first function that blocks.
    threads: RefCell<Option<ThreadPool>>,
    of_thread: PhantomData<Rc<()>>,
}

/// What a task knows of its executor, in any thread.
struct Shared {
    /// The memory of tasks, which wakers may keep for as long as they like. The executor is the anchor.
    tasks: Count,
    thread: Thread,
    remote: Box<dyn Remote>,
    local: Local,
}

/// The executor's part in what it shares with its tasks.
struct Owned(NonNull<Shared>);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: in the executor's thread, as it is not `Send`; the anchor keeps it until here.
        if unsafe { self.0.as_ref() }.tasks.weigh_anchor() == Left::Nobody {
            // SAFETY: nobody has it any more.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

/// A task's part in it. What a thread that is not the executor's may do is to look where it is, to send, and
/// to drop it.
pub(crate) struct SharedRef(NonNull<Shared>);

impl SharedRef {
    #[inline]
    fn get(&self) -> &Shared {
        // SAFETY: it is counted, which keeps it.
        unsafe { self.0.as_ref() }
    }

    /// Whether this is the executor's thread.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.get().thread == Thread::current()
    }

    pub fn remote(&self) -> &dyn Remote {
        &*self.get().remote
    }

    /// The part for the executor's own thread. Panics in any other.
    #[inline]
    pub fn local(&self) -> &Local {
        assert!(self.is_here(), "a task stays in the thread of its executor");
        &self.get().local
    }
}

impl Drop for SharedRef {
    #[inline]
    fn drop(&mut self) {
        let tasks = &self.get().tasks;
        let left = if self.is_here() { tasks.remove_here() } else { tasks.remove_elsewhere() };
        if left == Left::Nobody {
            // SAFETY: nobody has it any more. The executor has gone before, which has emptied `local`:
            // nothing of it is dropped in a thread that it does not belong to.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

/// The part for the executor's own thread.
pub(crate) struct Local {
    driver: RefCell<Option<Rc<dyn Driver>>>,
    /// The tasks that are not done.
    pub tasks: RefCell<Vec<RawTask>>,
    pub blocks: Blocks,
    /// The task that is being polled.
    pub current: Current,
    next_id: Cell<u64>,
}

impl Local {
    /// The loop, until it is closed.
    #[inline]
    pub fn driver(&self) -> Option<Rc<dyn Driver>> {
        self.driver.borrow().clone()
    }
}

impl Executor {
    /// An executor of this thread. It runs nothing until [`Executor::bind`].
    pub fn new(remote: impl Remote + 'static) -> Self {
        let local = Local {
            driver: RefCell::new(None),
            tasks: RefCell::default(),
            blocks: Blocks::default(),
            current: Current::default(),
            next_id: Cell::new(1),
        };
        let shared = Shared {
            tasks: Count::anchored(),
            thread: Thread::current(),
            remote: Box::new(remote),
            local,
        };
        let shared = Owned(NonNull::from(Box::leak(Box::new(shared))));
        Executor { shared, threads: RefCell::default(), of_thread: PhantomData }
    }

    /// Says which loop runs the tasks. The executor keeps it until it is closed.
    pub fn bind(&self, driver: Rc<dyn Driver>) {
        self.local().driver.replace(Some(driver));
    }

    fn local(&self) -> &Local {
        // SAFETY: in the executor's thread, as it is not `Send`; the executor keeps it.
        &unsafe { self.shared.0.as_ref() }.local
    }

    fn share(&self) -> SharedRef {
        // SAFETY: as above.
        unsafe { self.shared.0.as_ref() }.tasks.add_here();
        SharedRef(self.shared.0)
    }

    /// Makes a task, whose first step is queued. Once the executor is closed, the future is dropped and
    /// the task cancelled.
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        let local = self.local();
        let id = local.next_id.replace(local.next_id.get() + 1);
        let task = RawTask::new(future, self.share(), id);
        if local.driver.borrow().is_some() {
            let mut tasks = local.tasks.borrow_mut();
            let place = tasks.len();
            tasks.push(task.clone());
            drop(tasks);
            task.start(place);
        } else {
            task.abort();
        }
        Task::of(task)
    }

    /// The task that is being polled.
    pub fn current_task(&self) -> Option<TaskHandle> {
        self.local().current.get().map(TaskHandle::of)
    }

    /// The tasks that are not done, the oldest first.
    pub fn all_tasks(&self) -> Vec<TaskHandle> {
        let tasks = self.local().tasks.borrow();
        let mut handles: Vec<_> = tasks.iter().cloned().map(TaskHandle::of).collect();
        handles.sort_by_key(TaskHandle::id);
        handles
    }

    /// Runs a function that blocks in a thread of the loop's pool, as soon as one is free. The future gives
    /// its output, or what it panicked with.
    pub fn run_blocking<R: Send + 'static, F: FnOnce() -> R + Send + 'static>(
        &self,
        function: F,
    ) -> impl Future<Output = thread::Result<R>> + use<R, F> {
        let mut threads = self.threads.borrow_mut();
        if threads.as_ref().is_some_and(ThreadPool::is_parents) {
            // Its threads are not here, and its lock may be held by one.
            mem::forget(threads.take());
        }
        threads.get_or_insert_with(ThreadPool::default).run(function)
    }

    /// The pool, to be shut down; the next function that blocks makes a new one.
    pub(crate) fn take_threads(&self) -> Option<ThreadPool> {
        let threads = self.threads.take()?;
        if threads.is_parents() {
            mem::forget(threads);
            return None;
        }
        Some(threads)
    }

    /// Drops the futures of all tasks, which end as cancelled. Afterwards nothing runs and nothing can be
    /// spawned.
    pub fn close(&self) {
        // What a destructor spawns is dropped, too: no more tasks come.
        let driver = self.local().driver.take();
        self.all_tasks().iter().for_each(TaskHandle::abort);
        drop(self.take_threads());
        drop(driver);
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.close();
    }
}

/// The number of a thread. No two threads of a process ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread(u64);

impl Thread {
    /// That of the calling thread. It is there to the end, also while destructors of thread-locals run.
    #[inline]
    pub fn current() -> Self {
        thread_local! {
            static NUMBER: Cell<u64> = const { Cell::new(0) };
        }
        #[cold]
        fn new_number(number: &Cell<u64>) -> u64 {
            static NEXT: AtomicU64 = AtomicU64::new(1);
            number.set(NEXT.fetch_add(1, Relaxed));
            number.get()
        }
        // It has no destructor, so it is there to the end of the thread.
        Thread(NUMBER.with(|number| match number.get() {
            0 => new_number(number),
            known => known,
        }))
    }
}
