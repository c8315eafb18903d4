//! Several futures at once, as `asyncio.gather`.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::{
    events::create_task,
    task::{Task, TaskError},
};

/// Runs futures side by side, each as a task, and gives their outputs in the order of the futures.
///
/// The tasks are made at once. The first that panics is the outcome, and the others go on, of whose panics
/// nobody is told; dropping the `Gather` before it is ready cancels them. [`Gather::return_exceptions`] waits for all instead.
/// Panics outside a running loop.
///
/// ```
/// # velodrome::run(async {
/// let squares = velodrome::gather((1..4).map(|n| async move { n * n })).await.unwrap();
/// assert_eq!(squares, [1, 4, 9]);
/// # }).unwrap();
/// ```
pub fn gather<F: Future + 'static>(futures: impl IntoIterator<Item = F>) -> Gather<F::Output> {
    let tasks: Vec<_> = futures.into_iter().map(create_task).collect();
    let state = Rc::new(State {
        remaining: Cell::new(tasks.len()),
        outcomes: RefCell::new(tasks.iter().map(|_| None).collect()),
        tasks: RefCell::new(Vec::new()),
        failed: Cell::new(false),
        waker: Cell::new(None),
    });
    for (place, task) in tasks.iter().enumerate() {
        let state = Rc::clone(&state);
        task.add_done_callback(move || state.task_done(place));
    }
    state.tasks.replace(tasks);
    Gather { state, is_over: false }
}

/// See [`gather`].
///
/// ```
/// # velodrome::run(async {
/// use velodrome::{Gather, gather};
///
/// let both: Gather<_> = gather([6, 7].map(|number| async move { number * 2 }));
/// assert_eq!(both.await.unwrap(), [12, 14]);
/// # }).unwrap();
/// ```
#[must_use = "a future does nothing until it is awaited"]
pub struct Gather<T> {
    state: Rc<State<T>>,
    is_over: bool,
}

struct State<T> {
    remaining: Cell<usize>,
    outcomes: RefCell<Vec<Option<Result<T, TaskError>>>>,
    tasks: RefCell<Vec<Task<T>>>,
    failed: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl<T> State<T> {
    fn task_done(&self, place: usize) {
        let outcome = self.tasks.borrow_mut().get_mut(place).and_then(Task::result);
        self.remaining.set(self.remaining.get() - 1);
        let fails = matches!(outcome, Some(Err(_))) && !self.failed.replace(true);
        if let Some(kept) = self.outcomes.borrow_mut().get_mut(place) {
            *kept = outcome;
        }
        if (fails || self.remaining.get() == 0)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// The outcomes, once all are there.
    fn all(&self) -> Option<Vec<Result<T, TaskError>>> {
        let is_ready = self.remaining.get() == 0;
        is_ready.then(|| self.outcomes.take().into_iter().flatten().collect())
    }

    fn first_error(&self) -> Option<TaskError> {
        let mut outcomes = self.outcomes.borrow_mut();
        let failed = outcomes.iter_mut().find(|outcome| matches!(outcome, Some(Err(_))))?;
        failed.take()?.err()
    }

    /// Who gathers has gone. What is not done is cancelled.
    fn give_up(&self) {
        let tasks = self.tasks.take();
        tasks.iter().for_each(|task| {
            task.cancel();
        });
    }
}

impl<T> Gather<T> {
    /// Waits for all, and gives the outcome of each.
    ///
    /// ```
    /// # velodrome::run(async {
    /// let halves = (0..3).map(|n| async move { if n % 2 == 1 { panic!("odd") } else { n / 2 } });
    /// let outcomes = velodrome::gather(halves).return_exceptions().await;
    /// assert_eq!(*outcomes[2].as_ref().unwrap(), 1);
    /// assert_eq!(outcomes[1].as_ref().unwrap_err().to_string(), "the task panicked: odd");
    /// # }).unwrap();
    /// ```
    pub fn return_exceptions(mut self) -> GatherAll<T> {
        self.is_over = true;
        GatherAll { state: Rc::clone(&self.state), is_over: false }
    }
}

impl<T> Future for Gather<T> {
    type Output = Result<Vec<T>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let state = Rc::clone(&self.state);
        if state.failed.get()
            && let Some(error) = state.first_error()
        {
            self.is_over = true;
            for task in state.tasks.take() {
                // As asyncio: whoever gathers has heard of one panic, and hears of no other.
                task.keep_silent();
                task.detach();
            }
            return Poll::Ready(Err(error));
        }
        match state.all() {
            Some(outcomes) => {
                self.is_over = true;
                Poll::Ready(outcomes.into_iter().collect())
            }
            None => {
                state.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Gather<T> {
    fn drop(&mut self) {
        if !self.is_over {
            self.state.give_up();
        }
    }
}

/// See [`Gather::return_exceptions`].
///
/// ```
/// # velodrome::run(async {
/// use velodrome::{GatherAll, gather};
///
/// let numbers = [0_u32, 2].map(|number| async move { 1 / number });
/// let all: GatherAll<_> = gather(numbers).return_exceptions();
/// let outcomes = all.await;
/// assert!(outcomes[0].is_err(), "a division by zero");
/// assert_eq!(*outcomes[1].as_ref().unwrap(), 0);
/// # }).unwrap();
/// ```
#[must_use = "a future does nothing until it is awaited"]
pub struct GatherAll<T> {
    state: Rc<State<T>>,
    is_over: bool,
}

impl<T> Future for GatherAll<T> {
    type Output = Vec<Result<T, TaskError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.state.all() {
            Some(outcomes) => {
                self.is_over = true;
                Poll::Ready(outcomes)
            }
            None => {
                self.state.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for GatherAll<T> {
    fn drop(&mut self) {
        if !self.is_over {
            self.state.give_up();
        }
    }
}
