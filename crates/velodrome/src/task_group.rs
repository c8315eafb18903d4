//! Tasks that end together, as `asyncio.TaskGroup`.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use slab::Slab;

use crate::{
    events::{create_task, current_task},
    panics::panic_message,
    task::{Task, TaskHandle},
};

/// Runs `body` and all tasks that it makes with the group, and is ready when all have ended.
///
/// If one panics, or [`TaskGroup::fail`] is called, the others are cancelled, `body` among them, and the
/// result has all that failed. Dropping the future of the group cancels them, too. What a task that only
/// was cancelled would have done is no failure.
///
/// ```
/// # velodrome::run(async {
/// let sum = velodrome::task_group(async |group| {
///     let one = group.create_task(async { 20 });
///     let other = group.create_task(async { 22 });
///     one.await.unwrap() + other.await.unwrap()
/// });
/// assert_eq!(sum.await.unwrap(), 42);
/// # }).unwrap();
/// ```
pub async fn task_group<R>(body: impl AsyncFnOnce(TaskGroup) -> R) -> Result<R, TaskGroupError> {
    let group = TaskGroup(Rc::new(State::default()));
    let _ended = CancelledAtLast(Rc::clone(&group.0));
    let state = Rc::clone(&group.0);
    let mut result = None;
    {
        let mut body = pin!(body(group));
        poll_fn(|context| {
            if state.has_failed.get() {
                return Poll::Ready(());
            }
            match catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(context))) {
                Ok(Poll::Ready(output)) => result = Some(output),
                Ok(Poll::Pending) => {
                    state.waker.set(Some(context.waker().clone()));
                    return Poll::Pending;
                }
                Err(panic) => state.fail(Failure::Panic(panic)),
            }
            Poll::Ready(())
        })
        .await;
    }
    poll_fn(|context| {
        if state.tasks.borrow().is_empty() {
            return Poll::Ready(());
        }
        state.waker.set(Some(context.waker().clone()));
        Poll::Pending
    })
    .await;
    match result {
        Some(output) if !state.has_failed.get() => Ok(output),
        _ => Err(TaskGroupError { failures: state.failures.take() }),
    }
}

/// Makes the tasks of a [`task_group`]. Clones are the same group.
///
/// ```
/// # velodrome::run(async {
/// use velodrome::{Failure, TaskGroup, task_group};
///
/// let outcome = task_group(async |group: TaskGroup| {
///     let sum = group.create_task(async { 1 + 2 });
///     let sum = sum.await.unwrap();
///     if sum != 4 {
///         group.fail("the sum is wrong");
///     }
///     sum
/// })
/// .await;
/// let failures = outcome.unwrap_err().failures;
/// assert!(matches!(&failures[..], [Failure::Error(error)] if error.to_string() == "the sum is wrong"));
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct TaskGroup(Rc<State>);

#[derive(Default)]
struct State {
    tasks: RefCell<Slab<TaskHandle>>,
    /// What tasks panicked with, by their numbers, until their callbacks are called.
    panics: RefCell<BTreeMap<u64, Box<dyn Any + Send>>>,
    failures: RefCell<Vec<Failure>>,
    has_failed: Cell<bool>,
    /// Its future was dropped, or is ready.
    is_over: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl TaskGroup {
    /// Makes a task that the group waits for. Once the group has failed, or is over, it is cancelled at
    /// once.
    pub fn create_task<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        let task = create_task(Guarded { future, state: Rc::clone(&self.0) });
        if self.0.has_failed.get() || self.0.is_over.get() {
            task.cancel();
        }
        let place = self.0.tasks.borrow_mut().insert(task.handle());
        let state = Rc::clone(&self.0);
        let id = task.handle().id();
        task.add_done_callback(move || {
            let done = state.tasks.borrow_mut().remove(place);
            drop(done);
            let panic = state.panics.borrow_mut().remove(&id);
            if let Some(panic) = panic {
                state.fail(Failure::Panic(panic));
            }
            if state.tasks.borrow().is_empty() {
                state.wake();
            }
        });
        task
    }

    /// Has the group end with an error. The tasks that are not done are cancelled.
    pub fn fail(&self, error: impl Into<Box<dyn std::error::Error>>) {
        self.0.fail(Failure::Error(error.into()));
    }
}

impl State {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn fail(&self, failure: Failure) {
        self.failures.borrow_mut().push(failure);
        if !self.has_failed.replace(true) {
            self.cancel_all();
            self.wake();
        }
    }

    fn cancel_all(&self) {
        let tasks: Vec<_> = self.tasks.borrow().iter().map(|(_, task)| task.clone()).collect();
        tasks.iter().for_each(|task| {
            task.cancel();
        });
    }
}

/// However the group ends, no task outlives it.
struct CancelledAtLast(Rc<State>);

impl Drop for CancelledAtLast {
    fn drop(&mut self) {
        self.0.is_over.set(true);
        self.0.cancel_all();
    }
}

pin_project_lite::pin_project! {
    /// The future of a task of a group. A panic is the group's, and its text the task's.
    struct Guarded<F> {
        #[pin]
        future: F,
        state: Rc<State>,
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        match catch_unwind(AssertUnwindSafe(|| this.future.poll(context))) {
            Ok(polled) => polled,
            Err(panic) => {
                let text = panic_message(panic.as_ref()).to_owned();
                // The others go on until the callbacks of this one are called, as in asyncio.
                if let Some(task) = current_task() {
                    task.keep_silent();
                    this.state.panics.borrow_mut().insert(task.id(), panic);
                } else {
                    this.state.fail(Failure::Panic(panic));
                }
                resume_unwind(Box::new(text))
            }
        }
    }
}

/// Why a group has failed.
pub enum Failure {
    /// A task, or the group's body, panicked with this.
    Panic(Box<dyn Any + Send>),
    /// From [`TaskGroup::fail`].
    Error(Box<dyn std::error::Error>),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Panic(panic) => formatter.write_str(panic_message(panic.as_ref())),
            Failure::Error(error) => error.fmt(formatter),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Panic(_) => write!(formatter, "Panic({:?})", self.to_string()),
            Failure::Error(error) => formatter.debug_tuple("Error").field(error).finish(),
        }
    }
}

/// All that failed in a group, in order, as an `ExceptionGroup`.
///
/// ```
/// # velodrome::run(async {
/// let failed = velodrome::task_group(async |group| {
///     group.create_task(std::future::pending::<()>()).detach();
///     group.fail(std::io::Error::other("no answer"));
/// });
/// let error = failed.await.unwrap_err();
/// assert_eq!(error.failures.len(), 1);
/// assert_eq!(error.to_string(), "unhandled errors in a task group; no answer");
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct TaskGroupError {
    pub failures: Vec<Failure>,
}

impl fmt::Display for TaskGroupError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("unhandled errors in a task group")?;
        for failure in &self.failures {
            write!(formatter, "; {failure}")?;
        }
        Ok(())
    }
}

impl std::error::Error for TaskGroupError {}
