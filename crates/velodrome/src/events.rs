//! Which loop is whose: the current loop of a thread, the running one, and the policy that makes them.

use std::{cell::RefCell, rc::Rc};

use crate::{
    error::Error,
    event_loop::EventLoop,
    task::{Task, TaskHandle},
};

thread_local! {
    static OF_THREAD: OfThread = const {
        OfThread { current: RefCell::new(None), running: RefCell::new(None), policy: RefCell::new(None) }
    };
}

struct OfThread {
    /// What the default policy was told.
    current: RefCell<Option<EventLoop>>,
    running: RefCell<Option<EventLoop>>,
    policy: RefCell<Option<Rc<dyn EventLoopPolicy>>>,
}

fn of_thread<R>(look: impl FnOnce(&OfThread) -> Option<R>) -> Option<R> {
    // In a thread that ends, nothing is set any more.
    OF_THREAD.try_with(look).ok().flatten()
}

/// Who makes the loops of a thread, and knows which is its current one.
///
/// ```
/// use std::{cell::Cell, rc::Rc};
/// use velodrome::{DefaultEventLoopPolicy, Error, EventLoop, EventLoopPolicy};
///
/// #[derive(Default)]
/// struct Counting(Cell<u32>);
///
/// impl EventLoopPolicy for Counting {
///     fn get_event_loop(&self) -> Result<EventLoop, Error> {
///         DefaultEventLoopPolicy.get_event_loop()
///     }
///
///     fn set_event_loop(&self, event_loop: Option<EventLoop>) {
///         DefaultEventLoopPolicy.set_event_loop(event_loop);
///     }
///
///     fn new_event_loop(&self) -> EventLoop {
///         self.0.set(self.0.get() + 1);
///         EventLoop::new()
///     }
/// }
///
/// let counting = Rc::new(Counting::default());
/// velodrome::set_event_loop_policy(Some(counting.clone()));
/// velodrome::run(async {})?;
/// assert_eq!(counting.0.get(), 1);
/// velodrome::set_event_loop_policy(None);
/// # Ok::<(), Error>(())
/// ```
pub trait EventLoopPolicy {
    /// The current loop.
    fn get_event_loop(&self) -> Result<EventLoop, Error>;
    /// Makes a loop the current one, or none.
    fn set_event_loop(&self, event_loop: Option<EventLoop>);
    /// A new loop, which is not the current one.
    fn new_event_loop(&self) -> EventLoop {
        EventLoop::new()
    }
}

/// One current loop for each thread, none until it is set.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultEventLoopPolicy;

impl EventLoopPolicy for DefaultEventLoopPolicy {
    fn get_event_loop(&self) -> Result<EventLoop, Error> {
        of_thread(|own| own.current.borrow().clone()).ok_or(Error::NoCurrentLoop)
    }

    fn set_event_loop(&self, event_loop: Option<EventLoop>) {
        // Dropped when nothing is borrowed: it may be the last of a loop, which closes it.
        let before = of_thread(|own| own.current.replace(event_loop));
        drop(before);
    }
}

/// The policy of this thread.
///
/// ```
/// use velodrome::{get_event_loop, get_event_loop_policy};
///
/// let policy = get_event_loop_policy();
/// policy.set_event_loop(Some(policy.new_event_loop()));
/// get_event_loop()?.run_until_complete(async {})?;
/// # policy.set_event_loop(None);
/// # Ok::<(), velodrome::Error>(())
/// ```
pub fn get_event_loop_policy() -> Rc<dyn EventLoopPolicy> {
    of_thread(|own| own.policy.borrow().clone()).unwrap_or_else(|| Rc::new(DefaultEventLoopPolicy))
}

/// Sets the policy of this thread; `None` is the default one.
pub fn set_event_loop_policy(policy: Option<Rc<dyn EventLoopPolicy>>) {
    let before = of_thread(|own| own.policy.replace(policy));
    drop(before);
}

/// Makes a loop, as the policy says. It is nobody's current loop until [`set_event_loop`].
pub fn new_event_loop() -> EventLoop {
    get_event_loop_policy().new_event_loop()
}

/// Says which loop is the one of this thread; `None`: none is.
///
/// ```
/// use velodrome::{get_event_loop, new_event_loop, set_event_loop};
///
/// set_event_loop(Some(new_event_loop()));
/// get_event_loop()?.run_until_complete(async {})?;
/// set_event_loop(None);
/// assert!(get_event_loop().is_err());
/// # Ok::<(), velodrome::Error>(())
/// ```
pub fn set_event_loop(event_loop: Option<EventLoop>) {
    get_event_loop_policy().set_event_loop(event_loop);
}

/// The loop that runs in this thread, or else the one that was set for it.
///
/// An error if there is neither.
pub fn get_event_loop() -> Result<EventLoop, Error> {
    get_running_loop().or_else(|_| get_event_loop_policy().get_event_loop())
}

/// The loop that runs in this thread: for callbacks and tasks.
///
/// ```
/// assert!(velodrome::get_running_loop().is_err());
/// velodrome::run(async { assert!(velodrome::get_running_loop().unwrap().is_running()) })?;
/// # Ok::<(), velodrome::Error>(())
/// ```
pub fn get_running_loop() -> Result<EventLoop, Error> {
    of_thread(|own| own.running.borrow().clone()).ok_or(Error::NoRunningLoop)
}

pub(crate) fn is_running() -> bool {
    get_running_loop().is_ok()
}

/// Makes a loop the running one of this thread until it is dropped.
pub(crate) struct Running;

impl Running {
    pub fn enter(event_loop: EventLoop) -> Self {
        of_thread(|own| own.running.replace(Some(event_loop)));
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let event_loop = of_thread(|own| own.running.take());
        drop(event_loop);
    }
}

/// Runs a future on a new loop, as `asyncio.run`, and returns its output.
///
/// The loop is the current one of the thread meanwhile. In the end the tasks that are left are cancelled,
/// the threads of its pool have done what they were given, and the loop is closed.
///
/// ```
/// let answer = velodrome::run(async { 6 * 7 })?;
/// assert_eq!(answer, 42);
/// # Ok::<(), velodrome::Error>(())
/// ```
pub fn run<F: Future>(future: F) -> Result<F::Output, Error> {
    if is_running() {
        return Err(Error::AnotherIsRunning);
    }
    let event_loop = new_event_loop();
    set_event_loop(Some(event_loop.clone()));
    let _closed = Closed(event_loop.clone());
    event_loop.run_until_complete(future)
}

/// What [`run`] leaves behind is cleaned up, also after a panic.
struct Closed(EventLoop);

impl Drop for Closed {
    fn drop(&mut self) {
        let Closed(event_loop) = self;
        if !event_loop.is_closed() {
            cancel_all_tasks(event_loop);
            // Without tasks it can only fail for want of descriptors, and then closing joins the threads.
            let shutdown = event_loop.clone();
            let _ = event_loop
                .run_until_complete(async move { shutdown.shutdown_default_executor().await });
        }
        set_event_loop(None);
        // It does not run, so that this cannot fail.
        let _ = event_loop.close();
    }
}

/// Cancels what is left and lets it end.
fn cancel_all_tasks(event_loop: &EventLoop) {
    let tasks = event_loop.all_tasks();
    if tasks.is_empty() {
        return;
    }
    tasks.iter().for_each(|task| {
        task.cancel();
    });
    let _ = event_loop.run_until_complete(crate::sleep(std::time::Duration::ZERO));
}

/// [`EventLoop::create_task`] on the driver that runs in this thread.
///
/// Panics if none does.
///
/// ```
/// use std::rc::Rc;
///
/// velodrome::run(async {
///     // It need not be `Send`.
///     let shared = Rc::new(42);
///     let task = velodrome::create_task({
///         let shared = shared.clone();
///         async move { *shared }
///     });
///     assert_eq!(task.await.unwrap(), 42);
/// })?;
/// # Ok::<(), velodrome::Error>(())
/// ```
pub fn create_task<F: Future + 'static>(future: F) -> Task<F::Output> {
    let mut future = Some(future);
    // Lent, not cloned: no other loop can become the running one meanwhile.
    let task = of_thread(|own| {
        let running = own.running.borrow();
        Some(running.as_ref()?.create_task(future.take()?))
    });
    match (task, future) {
        (Some(task), _) => task,
        // The loop may be one that is not this crate's.
        (None, Some(future)) => crate::driver::polling().executor().spawn(future),
        (None, None) => unreachable!("a future that is taken becomes a task"),
    }
}

/// The task that is being polled, if one is.
///
/// ```
/// velodrome::run(async { assert_eq!(velodrome::current_task().unwrap().name(), "Task-1") })?;
/// assert!(velodrome::current_task().is_none());
/// # Ok::<(), velodrome::Error>(())
/// ```
pub fn current_task() -> Option<TaskHandle> {
    crate::driver::current().ok()?.executor().current_task()
}

/// The tasks of the running loop that are not done, the oldest first.
///
/// ```
/// velodrome::run(async {
///     velodrome::create_task(std::future::pending::<()>()).detach();
///     assert_eq!(velodrome::all_tasks().unwrap().len(), 2);
///     for task in velodrome::all_tasks().unwrap().into_iter().skip(1) {
///         task.cancel();
///     }
/// })?;
/// # Ok::<(), velodrome::Error>(())
/// ```
pub fn all_tasks() -> Result<Vec<TaskHandle>, Error> {
    Ok(crate::driver::current()?.executor().all_tasks())
}
