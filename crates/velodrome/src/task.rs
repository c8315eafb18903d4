//! Tasks: futures that run on a loop by themselves, and what is to be known of them.

#![allow(unsafe_code)]

pub(crate) mod blocks;
pub(crate) mod count;
pub(crate) mod raw;

use std::{
    any::Any,
    cell::Cell,
    fmt,
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use raw::RawTask;
pub use raw::{Step, Woken};

use crate::panics::panic_message;

/// A future that runs on a loop, as `asyncio.Task`. Awaiting it gives its outcome.
///
/// Dropping it detaches: the task goes on, and a panic in it is told to the exception handler. Dropping
/// it after it was polled cancels the task, since whoever awaited it has been cancelled.
///
/// ```
/// # velodrome::run(async {
/// let task = velodrome::create_task(async { 6 * 7 });
/// assert_eq!(task.await.unwrap(), 42);
/// # }).unwrap();
/// ```
#[must_use = "a task that is dropped at once cannot be awaited or cancelled; say so by `detach`"]
pub struct Task<T> {
    raw: Owned,
    /// Where the output comes to, if the task's own future was made by a factory.
    output: Option<Rc<Cell<Option<T>>>>,
    of_type: PhantomData<T>,
}

impl<T> Task<T> {
    /// The task's own future has the output `T`.
    pub(crate) fn of(raw: RawTask) -> Self {
        Task { raw: Owned(raw), output: None, of_type: PhantomData }
    }

    /// The task's own future leaves its output in `output`.
    pub(crate) fn with_output(task: Task<()>, output: Rc<Cell<Option<T>>>) -> Self {
        Task { raw: task.raw, output: Some(output), of_type: PhantomData }
    }

    /// Asks for the end: at its next step the future is dropped. False if the task is done.
    ///
    /// ```
    /// # velodrome::run(async {
    /// let task = velodrome::create_task(std::future::pending::<()>());
    /// assert!(task.cancel());
    /// let error = task.await.unwrap_err();
    /// assert!(error.is_cancelled());
    /// # }).unwrap();
    /// ```
    pub fn cancel(&self) -> bool {
        self.raw.0.cancel()
    }

    /// Whether the task has ended, in whatever way.
    pub fn done(&self) -> bool {
        self.raw.0.is_done()
    }

    /// The name that was set, or `Task-` and the number of the task in its loop.
    pub fn name(&self) -> String {
        self.raw.0.name()
    }

    /// Gives it a name, for reports.
    pub fn set_name(&self, name: impl Into<String>) {
        self.raw.0.set_name(name.into());
    }

    /// Takes the outcome; `None` if the task is not done, or it was taken before.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::{cell::Cell, rc::Rc, time::Duration};
    ///
    /// let mut task = velodrome::create_task(async { 42 });
    /// task.set_name("the answer");
    /// assert_eq!((task.name().as_str(), task.done()), ("the answer", false));
    /// assert!(task.result().is_none());
    /// let told = Rc::new(Cell::new(false));
    /// let tell = told.clone();
    /// task.add_done_callback(move || tell.set(true));
    /// velodrome::sleep(Duration::from_millis(1)).await;
    /// assert!(task.done() && told.get());
    /// assert_eq!(task.result().unwrap().unwrap(), 42);
    /// # }).unwrap();
    /// ```
    pub fn result(&mut self) -> Option<Result<T, TaskError>> {
        match &self.output {
            // SAFETY: the type of the task's own future.
            None => unsafe { self.raw.0.take_outcome::<T>() },
            Some(output) => {
                // SAFETY: a task of a factory has a future without output.
                let outcome = unsafe { self.raw.0.take_outcome::<()>() }?;
                Some(outcome.and_then(|()| output.take().ok_or(TaskError::Cancelled)))
            }
        }
    }

    /// Has a callback called when the task is done, in the next tick if it is. Callbacks are called in the
    /// order in which they were added, through `call_soon`.
    pub fn add_done_callback(&self, callback: impl FnOnce() + 'static) {
        self.raw.0.call_when_done(Box::new(callback));
    }

    /// What can be known and done without the type of the output.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use velodrome::TaskHandle;
    ///
    /// let task = velodrome::create_task(std::future::pending::<()>());
    /// let handle: TaskHandle = task.handle();
    /// assert_eq!(handle.name(), task.name());
    /// assert_ne!(handle.id(), velodrome::current_task().unwrap().id());
    /// handle.cancel();
    /// assert!(task.await.is_err());
    /// # }).unwrap();
    /// ```
    pub fn handle(&self) -> TaskHandle {
        TaskHandle::of(self.raw.0.clone())
    }

    /// A panic of it is not told to the exception handler, as somebody else knows of it.
    pub(crate) fn keep_silent(&self) {
        self.raw.0.keep_silent();
    }

    /// Drops the future now, where [`Task::cancel`] leaves it to the next step; while it is being polled,
    /// after that.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::rc::Rc;
    ///
    /// let shared = Rc::new(());
    /// let own = shared.clone();
    /// let task = velodrome::create_task(async move {
    ///     std::future::pending::<()>().await;
    ///     drop(own);
    /// });
    /// task.abort();
    /// assert_eq!(Rc::strong_count(&shared), 1, "the future is gone");
    /// # task.detach();
    /// # }).unwrap();
    /// ```
    pub fn abort(&self) {
        self.raw.0.abort();
    }

    /// Lets it run to its end by itself, even if it was awaited before.
    pub fn detach(self) {
        self.raw.0.detach();
    }
}

/// The owner who may ask for the outcome.
struct Owned(RawTask);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.drop_task();
    }
}

// Nothing is pinned in it.
impl<T> Unpin for Task<T> {}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.done() {
            self.raw.0.wake_when_done(context.waker());
            return Poll::Pending;
        }
        match self.result() {
            Some(outcome) => Poll::Ready(outcome),
            None => panic!("the outcome of {} was taken before", self.name()),
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle().fmt(formatter)
    }
}

/// A task of any type: what [`all_tasks`](crate::all_tasks) and
/// [`current_task`](crate::current_task) return.
///
/// ```
/// # velodrome::run(async {
/// let task = velodrome::create_task(std::future::pending::<()>());
/// let handle = task.handle();
/// handle.set_name("waits for ever");
/// assert!(handle.cancel());
/// assert!(task.await.unwrap_err().is_cancelled());
/// assert!(handle.done());
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct TaskHandle(RawTask);

impl TaskHandle {
    pub(crate) fn of(raw: RawTask) -> Self {
        TaskHandle(raw)
    }

    /// The number of the task in its loop, from 1.
    pub fn id(&self) -> u64 {
        self.0.id()
    }

    /// See [`Task::name`].
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// See [`Task::set_name`].
    pub fn set_name(&self, name: impl Into<String>) {
        self.0.set_name(name.into());
    }

    /// See [`Task::cancel`].
    pub fn cancel(&self) -> bool {
        self.0.cancel()
    }

    /// See [`Task::done`].
    pub fn done(&self) -> bool {
        self.0.is_done()
    }

    pub(crate) fn abort(&self) {
        self.0.abort();
    }

    pub(crate) fn keep_silent(&self) {
        self.0.keep_silent();
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.done() { "done" } else { "pending" };
        formatter.debug_struct("Task").field("name", &self.name()).field("state", &state).finish()
    }
}

/// Why a task has no output.
///
/// ```
/// use velodrome::{TaskError, create_task};
///
/// # velodrome::run(async {
/// match create_task(async { panic!("oh") }).await {
///     Ok(()) => unreachable!(),
///     Err(TaskError::Cancelled) => unreachable!(),
///     Err(error) => assert_eq!(error.to_string(), "the task panicked: oh"),
/// }
/// # }).unwrap();
/// ```
#[derive(thiserror::Error)]
pub enum TaskError {
    /// It was cancelled, or its loop was closed.
    #[error("the task was cancelled")]
    Cancelled,
    /// It panicked, with this.
    #[error("the task panicked: {}", panic_message(.0.as_ref()))]
    Panicked(Box<dyn Any + Send>),
}

impl TaskError {
    pub fn is_cancelled(&self) -> bool {
        matches!(self, TaskError::Cancelled)
    }

    /// Goes on with the panic of the task, or panics because it was cancelled.
    ///
    /// ```
    /// let caught = std::panic::catch_unwind(|| {
    ///     velodrome::run(async {
    ///         let task = velodrome::create_task(async { panic!("oh") });
    ///         task.await.unwrap_or_else(|error| error.resume())
    ///     })
    /// });
    /// assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "oh");
    /// ```
    pub fn resume(self) -> ! {
        match self {
            TaskError::Cancelled => panic!("the task was cancelled"),
            TaskError::Panicked(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskError::Cancelled => formatter.write_str("Cancelled"),
            TaskError::Panicked(panic) => {
                formatter.debug_tuple("Panicked").field(&panic_message(panic.as_ref())).finish()
            }
        }
    }
}

/// What the exception handler is told, as asyncio's `context`.
pub struct ExceptionContext {
    pub message: String,
    /// What the panic was called with.
    pub exception: Box<dyn Any + Send>,
    /// The name of the task, if it was one.
    pub task: Option<String>,
}

impl fmt::Debug for ExceptionContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ExceptionContext")
            .field("message", &self.message)
            .field("exception", &panic_message(self.exception.as_ref()))
            .field("task", &self.task)
            .finish()
    }
}
