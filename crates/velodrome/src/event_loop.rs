//! The event loop for Rust programs: closures and futures on the engine.

#[forbid(unsafe_code)]
mod kind;
mod lent;

use std::{
    any::Any,
    cell::{Cell, RefCell},
    io::{self, Write},
    mem::forget,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    rc::{Rc, Weak},
    sync::Arc,
    task::Waker,
    thread,
    time::Duration,
};

pub(crate) use kind::FdSource;
use kind::{Callback, Closures, Sent, Timer};
use lent::lend;

use crate::{
    Clock,
    async_fd::FdWakers,
    driver::{self, Driver},
    endpoint::{Endpoint, Endpoints, Turn},
    engine::{Engine, Host},
    error::{Errno, Error},
    events::{self, Running},
    executor::{Executor, Remote},
    handle::{Handle, ThreadsafeHandle, TimerHandle},
    inbox::Inbox,
    panics::{panic_message, quietly},
    poller::Interest,
    registry::Reactor,
    task::{ExceptionContext, Step, Task, TaskError, TaskHandle, Woken},
    timer::Key,
};

/// An event loop of this thread, as `asyncio.AbstractEventLoop`. Clones are the same loop.
///
/// ```
/// let event_loop = velodrome::new_event_loop();
/// event_loop.run_until_complete(velodrome::sleep(std::time::Duration::from_millis(1)))?;
/// event_loop.close()?;
/// # Ok::<(), velodrome::Error>(())
/// ```
///
/// The last clone that is dropped closes the loop.
#[derive(Clone)]
pub struct EventLoop(Rc<Owner>);

/// Closes the loop in the end, which its own tasks and timers would otherwise keep.
struct Owner(Rc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

pub(crate) struct Inner {
    engine: Engine<Closures>,
    executor: Executor,
    endpoints: Endpoints,
    is_running: Cell<bool>,
    is_closed: Cell<bool>,
    exception_handler: RefCell<Option<Rc<dyn ExceptionHandler>>>,
    task_factory: RefCell<Option<Rc<dyn TaskFactory>>>,
    /// For those who get the loop from its tasks.
    owner: RefCell<Weak<Owner>>,
}

struct ToInbox(Arc<Inbox<Sent>>);

impl Remote for ToInbox {
    fn send(&self, woken: Woken) {
        // What a closed loop hands back is dropped.
        let _ = self.0.push(Sent::Woken(woken));
    }
}

impl Driver for Inner {
    fn executor(&self) -> &Executor {
        &self.executor
    }

    #[inline]
    fn schedule(&self, step: Step) {
        self.engine.call_soon(Callback::Step(step));
    }

    fn call_soon(&self, callback: Box<dyn FnOnce()>) {
        self.engine.call_soon(Callback::Once(callback));
    }

    fn set_timer(&self, delay_ns: u64, waker: Waker) -> Key {
        let deadline_ns = self.engine.now_ns().saturating_add(delay_ns);
        self.engine.call_later(delay_ns, deadline_ns, Timer::Wake(waker))
    }

    fn renew_timer(&self, key: Key, waker: &Waker) -> bool {
        let replaced = self.engine.timer_mut(key, |timer| match timer {
            Timer::Wake(known) if known.will_wake(waker) => None,
            timer => Some(std::mem::replace(timer, Timer::Wake(waker.clone()))),
        });
        replaced.is_some()
    }

    fn cancel_timer(&self, key: Key) {
        drop(self.engine.cancel_timer(key));
    }

    fn add_fd(&self, fd: BorrowedFd<'_>, wakers: Rc<FdWakers>) -> io::Result<()> {
        if self.is_closed.get() {
            return Err(io::Error::other(Error::Closed));
        }
        let interest = Interest::READ | Interest::WRITE | Interest::EDGE;
        self.register(fd.as_raw_fd(), FdSource::Wakers(wakers), interest)
    }

    fn remove_fd(&self, fd: RawFd) {
        drop(self.engine.reactor().deregister(fd));
    }

    fn report(&self, context: ExceptionContext) {
        self.call_exception_handler(&context);
    }
}

impl Host<Closures> for Inner {
    type Exit = Error;

    #[inline]
    fn call(&self, callback: Callback) -> Result<(), Error> {
        let called = catch_unwind(AssertUnwindSafe(|| match callback {
            Callback::Step(step) => step.run(),
            Callback::Wake(waker) => waker.wake(),
            Callback::Handle(handle) => handle.run(),
            Callback::Once(callback) => callback(),
            Callback::Woken(woken) => woken.resume(),
            Callback::Turn(endpoint, turn) => endpoint.take_turn(turn),
            Callback::Sent(callback) => callback.run(),
        }));
        if let Err(exception) = called {
            self.callback_panicked(exception);
        }
        Ok(())
    }

    fn falls_asleep(&self) -> Result<bool, Error> {
        Ok(false)
    }

    fn cannot_sleep(&self, error: Errno) -> Error {
        Error::Io(error.into())
    }

    fn sleep<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R {
        wait()
    }

    fn polled(&self, _signals: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn send_held(&self) -> Result<(), Error> {
        self.endpoints.flush_deferred();
        Ok(())
    }
}

impl Inner {
    pub fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    pub fn reactor(&self) -> &Reactor<FdSource> {
        self.engine.reactor()
    }

    /// The turn that something is written in: see [`Engine::turn_of_write`].
    pub fn turn_of_write(&self) -> Option<crate::crowd::WriteTurn> {
        self.engine.turn_of_write()
    }

    pub fn queue_turn(&self, endpoint: Rc<dyn Endpoint>, turn: Turn) {
        self.engine.call_soon(Callback::Turn(endpoint, turn));
    }

    pub fn call_after(&self, delay: Duration, callback: impl FnOnce() + 'static) {
        let (_handle, scheduled) = Handle::new(callback);
        let delay_ns = whole_ns(delay);
        let deadline_ns = self.engine.now_ns().saturating_add(delay_ns);
        self.engine.call_later(delay_ns, deadline_ns, Timer::Handle(scheduled));
    }

    /// Tells the exception handler of what is nobody's outcome.
    #[cold]
    pub fn tell_of(&self, message: String, exception: Box<dyn Any + Send>) {
        quietly(|| self.report(ExceptionContext { message, exception, task: None }));
    }

    fn register(&self, fd: RawFd, source: FdSource, interest: Interest) -> io::Result<()> {
        let reactor = self.engine.reactor();
        if reactor.source(fd).is_some() && reactor.is_current(fd) {
            let message = "the descriptor has an owner on this loop";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        let replaced = reactor.register(fd, source, interest)?;
        drop(replaced);
        Ok(())
    }

    #[cold]
    fn callback_panicked(&self, exception: Box<dyn Any + Send>) {
        self.tell_of("Exception in callback".into(), exception);
    }

    fn call_exception_handler(&self, context: &ExceptionContext) {
        let handler = self.exception_handler.borrow().clone();
        let event_loop = self.owner.borrow().upgrade().map(EventLoop);
        let (Some(handler), Some(event_loop)) = (handler, event_loop) else {
            default_exception_handler(context);
            return;
        };
        let handled = catch_unwind(AssertUnwindSafe(|| handler.handle(&event_loop, context)));
        if let Err(exception) = handled {
            default_exception_handler(&ExceptionContext {
                message: "Unhandled error in exception handler".into(),
                exception,
                task: None,
            });
            default_exception_handler(context);
        }
    }

    fn close(&self) {
        if self.is_closed.replace(true) {
            return;
        }
        self.executor.close();
        self.endpoints.close();
        let closed = catch_unwind(AssertUnwindSafe(|| self.engine.close()));
        if closed.is_err() {
            // The destructor of a callback: those that are left may hold the loop.
            quietly(|| self.engine.close());
        }
        let dropped = (self.exception_handler.take(), self.task_factory.take());
        drop(dropped);
        match closed {
            Err(panic) if !thread::panicking() => resume_unwind(panic),
            Err(panic) => forget(panic),
            Ok(()) => {}
        }
    }
}

/// The longest that can be counted lasts as long as any.
fn whole_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// asyncio's way of telling: on standard error.
fn default_exception_handler(context: &ExceptionContext) {
    let of_task = context.task.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    let exception = panic_message(context.exception.as_ref());
    // Where there is nobody to read it, there is nobody to tell.
    let _ = writeln!(io::stderr(), "velodrome: {}{of_task}: {exception}", context.message);
}

/// Who is told of panics that nobody else hears of. Closures of this shape are handlers.
///
/// ```
/// use std::{cell::RefCell, rc::Rc, time::Duration};
/// use velodrome::{EventLoop, ExceptionContext, panic_message};
///
/// let event_loop = velodrome::new_event_loop();
/// let told = Rc::new(RefCell::new(String::new()));
/// let own = told.clone();
/// event_loop.set_exception_handler(Some(move |_: &EventLoop, context: &ExceptionContext| {
///     let text = panic_message(context.exception.as_ref());
///     *own.borrow_mut() = format!("{}: {text}", context.message);
/// }));
/// event_loop.call_soon(|| panic!("oh"));
/// event_loop.run_until_complete(velodrome::sleep(Duration::ZERO))?;
/// assert_eq!(*told.borrow(), "Exception in callback: oh");
/// # Ok::<(), velodrome::Error>(())
/// ```
pub trait ExceptionHandler {
    fn handle(&self, event_loop: &EventLoop, context: &ExceptionContext);
}

impl<F: Fn(&EventLoop, &ExceptionContext)> ExceptionHandler for F {
    fn handle(&self, event_loop: &EventLoop, context: &ExceptionContext) {
        self(event_loop, context);
    }
}

/// The future of a task that a [`TaskFactory`] makes. It leaves its output by itself.
pub type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Makes the tasks of a loop. Closures of this shape are factories.
///
/// ```
/// # use std::{cell::Cell, rc::Rc};
/// use velodrome::{EventLoop, TaskFuture};
///
/// let event_loop = velodrome::new_event_loop();
/// let made = Rc::new(Cell::new(0));
/// let count = made.clone();
/// event_loop.set_task_factory(Some(move |event_loop: &EventLoop, future: TaskFuture| {
///     count.set(count.get() + 1);
///     event_loop.new_task(future)
/// }));
/// let answer = event_loop.run_until_complete(async { velodrome::create_task(async { 42 }).await });
/// assert_eq!(answer?.unwrap(), 42);
/// assert_eq!(made.get(), 2, "the outer one is a task, too");
/// # Ok::<(), velodrome::Error>(())
/// ```
pub trait TaskFactory {
    /// Makes a task of `future`, by [`EventLoop::new_task`] in the end.
    fn create_task(&self, event_loop: &EventLoop, future: TaskFuture) -> Task<()>;
}

impl<F: Fn(&EventLoop, TaskFuture) -> Task<()>> TaskFactory for F {
    fn create_task(&self, event_loop: &EventLoop, future: TaskFuture) -> Task<()> {
        self(event_loop, future)
    }
}

impl Default for EventLoop {
    fn default() -> Self {
        Self::new()
    }
}

impl EventLoop {
    /// A loop of this thread. It is nobody's current loop until [`set_event_loop`](crate::set_event_loop).
    ///
    /// It opens no descriptors until it has to sleep.
    pub fn new() -> Self {
        Self::with_clock(Clock::default())
    }

    /// A loop whose timers follow `clock`: a manual one makes programs that sleep quick to test, and the same
    /// in each run. Time does not go on while they wait for other threads or processes.
    ///
    /// ```
    /// use std::{cell::Cell, time::Duration};
    /// use velodrome::{Clock, EventLoop, sleep};
    ///
    /// let event_loop = EventLoop::with_clock(Clock::Manual(Cell::new(0)));
    /// event_loop.run_until_complete(sleep(Duration::from_secs(3600)))?;
    /// assert_eq!(event_loop.time(), Duration::from_secs(3600));
    /// # Ok::<(), velodrome::Error>(())
    /// ```
    pub fn with_clock(clock: Clock) -> Self {
        let engine = Engine::with_clock(clock);
        let executor = Executor::new(ToInbox(Arc::clone(engine.inbox())));
        let inner = Rc::new(Inner {
            engine,
            executor,
            endpoints: Endpoints::default(),
            is_running: Cell::new(false),
            is_closed: Cell::new(false),
            exception_handler: RefCell::default(),
            task_factory: RefCell::default(),
            owner: RefCell::default(),
        });
        inner.executor.bind(Rc::clone(&inner) as Rc<dyn Driver>);
        let owner = Rc::new(Owner(inner));
        owner.0.owner.replace(Rc::downgrade(&owner));
        EventLoop(owner)
    }

    pub(crate) fn inner(&self) -> &Rc<Inner> {
        &self.0.0
    }

    pub(crate) fn reactor(&self) -> &Reactor<FdSource> {
        self.inner().engine.reactor()
    }

    pub(crate) fn register(&self, fd: RawFd, source: FdSource, of: Interest) -> io::Result<()> {
        self.inner().register(fd, source, of)
    }

    // ---- running ---------------------------------------------------------------------------

    /// Runs until [`EventLoop::stop`] is called.
    ///
    /// ```
    /// let event_loop = velodrome::new_event_loop();
    /// let own = event_loop.clone();
    /// event_loop.call_soon(move || own.stop());
    /// event_loop.run_forever()?;
    /// # Ok::<(), velodrome::Error>(())
    /// ```
    pub fn run_forever(&self) -> Result<(), Error> {
        self.check_can_run()?;
        let inner = self.inner();
        let _running = Running::enter(self.clone());
        let _entered = driver::enter(Rc::clone(inner) as Rc<dyn Driver>);
        inner.is_running.set(true);
        let _ended = Ended(&inner.is_running);
        inner.engine.run(&**inner)
    }

    /// Runs until `future` is done, and returns its output. It is a task, as all that a loop runs.
    ///
    /// A panic of the future goes on here. Fails as asyncio's does: while a loop is running, after
    /// `close`, and if `stop` comes first, which drops the future.
    pub fn run_until_complete<F: Future>(&self, future: F) -> Result<F::Output, Error> {
        self.check_can_run()?;
        let mut output = None;
        let outcome = {
            let future = pin!(async { output = Some(future.await) });
            let (lent, _recalled) = lend(future);
            let mut task = Aborted(self.task_of_factory(Box::pin(lent)));
            let is_over = Rc::new(Cell::new(false));
            let _over = Over(Rc::clone(&is_over));
            let inner = Rc::clone(self.inner());
            task.0.add_done_callback(move || {
                // Queued in the last turn of this run, it must not end the next one.
                if !is_over.get() {
                    inner.engine.stop();
                }
            });
            self.run_forever()?;
            task.0.result()
        };
        match outcome {
            Some(Ok(())) => output.ok_or(Error::Cancelled),
            Some(Err(TaskError::Cancelled)) => Err(Error::Cancelled),
            Some(Err(TaskError::Panicked(panic))) => resume_unwind(panic),
            None => Err(Error::Stopped),
        }
    }

    fn check_can_run(&self) -> Result<(), Error> {
        if self.is_closed() {
            Err(Error::Closed)
        } else if self.is_running() {
            Err(Error::Running)
        } else if events::is_running() {
            Err(Error::AnotherIsRunning)
        } else {
            Ok(())
        }
    }

    /// Ends the run after the batch of callbacks that is under way, or after the next one.
    pub fn stop(&self) {
        self.inner().engine.stop();
    }

    /// Drops everything that waits; the futures of tasks among it. Idempotent. Fails while the loop is
    /// running.
    pub fn close(&self) -> Result<(), Error> {
        if self.is_running() {
            return Err(Error::Running);
        }
        self.inner().close();
        Ok(())
    }

    /// Whether the loop is running.
    ///
    /// ```
    /// let event_loop = velodrome::new_event_loop();
    /// assert!(!event_loop.is_running() && !event_loop.is_closed());
    /// event_loop.run_until_complete(async {
    ///     assert!(velodrome::get_running_loop().unwrap().is_running());
    /// })?;
    /// event_loop.close()?;
    /// assert!(event_loop.is_closed());
    /// # Ok::<(), velodrome::Error>(())
    /// ```
    pub fn is_running(&self) -> bool {
        self.inner().is_running.get()
    }

    /// Whether the loop was closed.
    pub fn is_closed(&self) -> bool {
        self.inner().is_closed.get()
    }

    /// The time on the loop's clock, which never goes back; since an arbitrary start.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.inner().engine.now_ns())
    }

    // ---- callbacks -------------------------------------------------------------------------

    /// Calls `callback` in the next tick. A panic in it goes to the exception handler.
    ///
    /// A loop that is closed drops it.
    pub fn call_soon(&self, callback: impl FnOnce() + 'static) -> Handle {
        let (handle, scheduled) = Handle::new(callback);
        if self.is_closed() {
            handle.cancel();
        } else {
            self.inner().engine.call_soon(Callback::Handle(scheduled));
        }
        handle
    }

    /// Calls `callback` after `delay`, never before.
    pub fn call_later(&self, delay: Duration, callback: impl FnOnce() + 'static) -> TimerHandle {
        self.set_timer(delay, self.time().saturating_add(delay), callback)
    }

    /// Calls `callback` at `when` on the clock of [`EventLoop::time`], never before. Callbacks of one time
    /// are called in the order in which they were added.
    ///
    /// ```
    /// use std::{cell::RefCell, rc::Rc, time::Duration};
    ///
    /// let event_loop = velodrome::new_event_loop();
    /// let order = Rc::new(RefCell::new(Vec::new()));
    /// let note = |what: &'static str| {
    ///     let order = order.clone();
    ///     move || order.borrow_mut().push(what)
    /// };
    /// let when = event_loop.time() + Duration::from_millis(2);
    /// event_loop.call_at(when, note("at"));
    /// let later: velodrome::TimerHandle = event_loop.call_later(Duration::from_millis(1), note("never"));
    /// event_loop.call_later(Duration::from_millis(1), note("later"));
    /// event_loop.call_soon(note("soon"));
    /// assert!(!later.cancelled());
    /// later.cancel();
    /// assert!(later.cancelled());
    /// let stop = event_loop.clone();
    /// event_loop.call_later(Duration::from_millis(4), move || stop.stop());
    /// event_loop.run_forever()?;
    /// assert_eq!(*order.borrow(), ["soon", "later", "at"]);
    /// # Ok::<(), velodrome::Error>(())
    /// ```
    pub fn call_at(&self, when: Duration, callback: impl FnOnce() + 'static) -> TimerHandle {
        self.set_timer(Duration::ZERO, when, callback)
    }

    fn set_timer(
        &self,
        delay: Duration,
        when: Duration,
        callback: impl FnOnce() + 'static,
    ) -> TimerHandle {
        let (handle, scheduled) = Handle::new(callback);
        if self.is_closed() {
            handle.cancel();
            return TimerHandle::new(handle, when, None);
        }
        let timer = Timer::Handle(scheduled);
        let key = self.inner().engine.call_later(whole_ns(delay), whole_ns(when), timer);
        TimerHandle::new(handle, when, Some((Rc::downgrade(self.inner()), key)))
    }

    /// What other threads call the loop by.
    ///
    /// ```
    /// let event_loop = velodrome::new_event_loop();
    /// let handle = event_loop.handle();
    /// let thread = std::thread::spawn(move || {
    ///     handle.call_soon_threadsafe(|| velodrome::get_running_loop().unwrap().stop());
    /// });
    /// event_loop.run_forever()?;
    /// thread.join().unwrap();
    /// # Ok::<(), velodrome::Error>(())
    /// ```
    pub fn handle(&self) -> LoopHandle {
        LoopHandle(Arc::clone(self.inner().engine.inbox()))
    }

    // ---- tasks -----------------------------------------------------------------------------

    /// Runs a future on the loop by itself, from the next tick on. It need not be `Send`.
    ///
    /// A loop that is closed drops it, and the task is cancelled.
    pub fn create_task<F: Future + 'static>(&self, future: F) -> Task<F::Output> {
        if self.inner().task_factory.borrow().is_none() {
            return self.inner().executor.spawn(future);
        }
        let output = Rc::new(Cell::new(None));
        let place = Rc::clone(&output);
        let future = Box::pin(async move { place.set(Some(future.await)) });
        Task::with_output(self.task_of_factory(future), output)
    }

    fn task_of_factory(&self, future: TaskFuture) -> Task<()> {
        let factory = self.inner().task_factory.borrow().clone();
        match factory {
            Some(factory) => factory.create_task(self, future),
            None => self.new_task(future),
        }
    }

    /// Makes a task past the task factory: for factories.
    pub fn new_task(&self, future: TaskFuture) -> Task<()> {
        self.inner().executor.spawn(future)
    }

    /// Has all tasks made by `factory`, or by the loop itself again.
    pub fn set_task_factory(&self, factory: Option<impl TaskFactory + 'static>) {
        let factory = factory.map(|factory| Rc::new(factory) as Rc<dyn TaskFactory>);
        let before = self.inner().task_factory.replace(factory);
        drop(before);
    }

    /// The factory that was set.
    ///
    /// ```
    /// use velodrome::{EventLoop, TaskFuture};
    ///
    /// let event_loop = velodrome::new_event_loop();
    /// assert!(event_loop.get_task_factory().is_none());
    /// event_loop.set_task_factory(Some(|event_loop: &EventLoop, future: TaskFuture| {
    ///     let task = event_loop.new_task(future);
    ///     task.set_name("of the factory");
    ///     task
    /// }));
    /// let factory = event_loop.get_task_factory().expect("it was set");
    /// let task = factory.create_task(&event_loop, Box::pin(async {}));
    /// assert_eq!(task.name(), "of the factory");
    /// # task.detach();
    /// ```
    pub fn get_task_factory(&self) -> Option<Rc<dyn TaskFactory>> {
        self.inner().task_factory.borrow().clone()
    }

    /// The tasks that are not done, the oldest first.
    ///
    /// ```
    /// let event_loop = velodrome::new_event_loop();
    /// let task = event_loop.create_task(async {});
    /// task.set_name("the only one");
    /// assert_eq!(event_loop.all_tasks()[0].name(), "the only one");
    /// event_loop.run_until_complete(task)?.unwrap();
    /// assert!(event_loop.all_tasks().is_empty());
    /// # Ok::<(), velodrome::Error>(())
    /// ```
    pub fn all_tasks(&self) -> Vec<TaskHandle> {
        self.inner().executor.all_tasks()
    }

    // ---- reports ---------------------------------------------------------------------------

    /// Has panics told to `handler`, or on standard error again.
    pub fn set_exception_handler(&self, handler: Option<impl ExceptionHandler + 'static>) {
        let handler = handler.map(|handler| Rc::new(handler) as Rc<dyn ExceptionHandler>);
        let before = self.inner().exception_handler.replace(handler);
        drop(before);
    }

    /// The handler that was set.
    pub fn get_exception_handler(&self) -> Option<Rc<dyn ExceptionHandler>> {
        self.inner().exception_handler.borrow().clone()
    }

    /// Tells the exception handler. A panic in the handler is told on standard error.
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    /// use velodrome::{EventLoop, ExceptionContext};
    ///
    /// let event_loop = velodrome::new_event_loop();
    /// assert!(event_loop.get_exception_handler().is_none());
    /// let count = Rc::new(Cell::new(0));
    /// let told = count.clone();
    /// event_loop.set_exception_handler(Some(move |event_loop: &EventLoop, context: &ExceptionContext| {
    ///     told.set(told.get() + 1);
    ///     event_loop.default_exception_handler(context);
    /// }));
    /// let exception = Box::new("the reason");
    /// let context = ExceptionContext { message: "Something failed".into(), exception, task: None };
    /// event_loop.call_exception_handler(&context);
    /// let handler = event_loop.get_exception_handler().expect("it was set");
    /// handler.handle(&event_loop, &context);
    /// assert_eq!(count.get(), 2);
    /// ```
    pub fn call_exception_handler(&self, context: &ExceptionContext) {
        self.inner().call_exception_handler(context);
    }

    /// What is done without a handler: a line on standard error.
    pub fn default_exception_handler(&self, context: &ExceptionContext) {
        default_exception_handler(context);
    }

    // ---- threads ---------------------------------------------------------------------------

    /// Runs `function` in a thread of the loop's pool, from now on, and gives its output. A panic in it goes
    /// on where it is awaited.
    ///
    /// ```
    /// # velodrome::run(async {
    /// let event_loop = velodrome::get_running_loop()?;
    /// let sum = event_loop.run_in_executor(|| (1..=100).sum::<u32>()).await;
    /// assert_eq!(sum, 5050);
    /// # Ok::<(), velodrome::Error>(())
    /// # }).unwrap().unwrap();
    /// ```
    pub fn run_in_executor<R: Send + 'static, F: FnOnce() -> R + Send + 'static>(
        &self,
        function: F,
    ) -> impl Future<Output = R> + use<R, F> {
        let job = self.inner().executor.run_blocking(function);
        async move {
            match job.await {
                Ok(output) => output,
                Err(panic) => resume_unwind(panic),
            }
        }
    }

    /// Waits until the threads of the pool have done all that they were given.
    ///
    /// ```
    /// # velodrome::run(async {
    /// use std::{thread, time::Duration};
    ///
    /// let event_loop = velodrome::get_running_loop()?;
    /// // Nobody waits for it, but it is done in the end.
    /// drop(event_loop.run_in_executor(|| thread::sleep(Duration::from_millis(1))));
    /// event_loop.shutdown_default_executor().await;
    /// # Ok::<(), velodrome::Error>(())
    /// # }).unwrap().unwrap();
    /// ```
    pub async fn shutdown_default_executor(&self) {
        let threads = self.inner().executor.take_threads();
        if let Some(threads) = threads {
            threads.shut_down().await;
        }
    }
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EventLoop")
            .field("running", &self.is_running())
            .field("closed", &self.is_closed())
            .finish()
    }
}

/// A loop as other threads have it.
///
/// ```
/// # velodrome::run(async {
/// let handle = velodrome::get_running_loop()?.handle();
/// std::thread::spawn(move || {
///     handle.call_soon_threadsafe(|| println!("in the loop's thread")).expect("it is not closed");
/// });
/// # Ok::<(), velodrome::Error>(())
/// # }).unwrap().unwrap();
/// ```
#[derive(Clone)]
pub struct LoopHandle(Arc<Inbox<Sent>>);

impl LoopHandle {
    /// Calls `callback` in the loop's thread, soon; in the order of the calls. [`Error::Closed`] if the loop is
    /// closed, which drops it.
    pub fn call_soon_threadsafe(
        &self,
        callback: impl FnOnce() + Send + 'static,
    ) -> Result<ThreadsafeHandle, Error> {
        let (handle, sent) = ThreadsafeHandle::new(callback);
        match self.0.push(Sent::Call(sent)) {
            Ok(_) => Ok(handle),
            Err(_) => Err(Error::Closed),
        }
    }
}

/// The task of a run that may end before it.
struct Aborted(Task<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Says that a run until a future is done is over, whatever ends it.
struct Over(Rc<Cell<bool>>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// Says that a run is over, whatever ends it.
struct Ended<'a>(&'a Cell<bool>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
