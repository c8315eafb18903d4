//! A task in memory: a header, and behind it the future or what became of it.
//!
//! Its owners in the executor's thread are the executor's list until the task is done, each
//! [`Task`](super::Task), and its step in a queue: a [`RawTask`]. They anchor the count of the others, the
//! wakers, which may be anywhere. The future and its outcome are dropped in the executor's thread, before the last
//! `RawTask` goes, so whatever thread has the last waker frees memory and nothing else.

#![allow(unsafe_code)]

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    mem::{self, ManuallyDrop},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    ptr::{NonNull, drop_in_place},
    sync::atomic::{AtomicBool, Ordering::AcqRel},
    task::{Context, Poll, RawWaker, RawWakerVTable, Waker},
};

use super::{
    ExceptionContext, TaskError,
    blocks::Blocks,
    count::{Count, Left},
};
use crate::{
    executor::{Local, SharedRef},
    panics::quietly,
};

/// In a queue, or to be put there once the step that is under way has ended.
const SCHEDULED: u8 = 1;
const RUNNING: u8 = 2;
const DONE: u8 = 4;
/// The next step drops the future instead of polling it.
const CANCELLED: u8 = 8;
/// There is a `Task` that may ask for the outcome.
const HAS_TASK: u8 = 16;
/// ...and has waited for it.
const AWAITED: u8 = 32;
/// Nobody is told of a panic.
const SILENT: u8 = 64;
/// The outcome is gone.
const TAKEN: u8 = 128;

/// The place of a task that is not in the executor's list.
const NOWHERE: u32 = u32::MAX;

struct Header {
    wakers: Count,
    /// Woken by another thread, and the executor's has not heard of it.
    woken: AtomicBool,
    /// From here on for the executor's own thread only.
    state: Cell<u8>,
    /// How many `RawTask` there are.
    owners: Cell<u32>,
    place: Cell<u32>,
    id: u64,
    /// Of who waits for the end.
    waiter: Cell<Option<Waker>>,
    rare: Cell<Option<Box<Rare>>>,
    /// Taken out when the memory is freed.
    shared: ManuallyDrop<SharedRef>,
    vtable: &'static Vtable,
}

/// What depends on the type of the future. All but `free` are for the executor's thread.
struct Vtable {
    /// True if the task has come to its end.
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> bool,
    /// Drops the future; the outcome is an error.
    cancel: unsafe fn(NonNull<Header>),
    /// Moves the outcome into an `Option<Result<T, TaskError>>`, if it is there.
    take: unsafe fn(NonNull<Header>, *mut ()),
    /// Drops the outcome; returns the panic that it may be.
    discard: unsafe fn(NonNull<Header>) -> Option<Box<dyn Any + Send>>,
    free: unsafe fn(NonNull<Header>),
}

#[repr(C)]
struct Memory<F: Future> {
    header: Header,
    stage: UnsafeCell<Stage<F>>,
}

enum Stage<F: Future> {
    Future(F),
    Outcome(Result<F::Output, TaskError>),
    Taken,
}

/// What few tasks have.
#[derive(Default)]
struct Rare {
    name: Option<Box<str>>,
    callbacks: Vec<Box<dyn FnOnce()>>,
    /// How many of the callbacks are called before the waiter is woken: those that were there first.
    before_waiter: usize,
}

impl<F: Future> Memory<F> {
    const VTABLE: Vtable = Vtable {
        poll: Self::poll,
        cancel: Self::cancel,
        take: Self::take,
        discard: Self::discard,
        free: Self::free,
    };

    /// # Safety
    ///
    /// The header of a `Memory<F>`, in the executor's thread, and nobody else is in its stage.
    unsafe fn stage<'a>(header: NonNull<Header>) -> &'a mut Stage<F> {
        // SAFETY: the header is the first field of a `Memory<F>` in `repr(C)`; the rest is promised.
        unsafe { &mut *header.cast::<Self>().as_ref().stage.get() }
    }

    unsafe fn poll(header: NonNull<Header>, context: &mut Context<'_>) -> bool {
        // SAFETY: promised by the caller. While the future runs it cannot get here again, as RUNNING
        // keeps every other step away.
        let stage = unsafe { Self::stage(header) };
        let Stage::Future(future) = stage else { return true };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the future lies in the task's memory until it is dropped there.
            unsafe { Pin::new_unchecked(&mut *future) }.poll(context)
        }));
        let outcome = match polled {
            Ok(Poll::Pending) => return false,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(TaskError::Panicked(panic)),
        };
        Self::end(stage, outcome);
        true
    }

    unsafe fn cancel(header: NonNull<Header>) {
        // SAFETY: promised by the caller, as above.
        let stage = unsafe { Self::stage(header) };
        if matches!(stage, Stage::Future(_)) {
            Self::end(stage, Err(TaskError::Cancelled));
        }
    }

    /// Drops the future. What that panics with is the outcome, then.
    fn end(stage: &mut Stage<F>, mut outcome: Result<F::Output, TaskError>) {
        if let Stage::Future(future) = stage {
            let future: *mut F = future;
            // SAFETY: the stage is overwritten next, without a look at what was dropped here.
            let dropped = catch_unwind(AssertUnwindSafe(|| unsafe { drop_in_place(future) }));
            if let Err(panic) = dropped {
                let replaced = mem::replace(&mut outcome, Err(TaskError::Panicked(panic)));
                quietly(|| drop(replaced));
            }
        }
        // SAFETY: valid for writes; the future in it has just been dropped, and nothing else needs to.
        unsafe { std::ptr::write(stage, Stage::Outcome(outcome)) };
    }

    unsafe fn take(header: NonNull<Header>, outcome: *mut ()) {
        // SAFETY: promised by the caller.
        let stage = unsafe { Self::stage(header) };
        if matches!(stage, Stage::Outcome(_))
            && let Stage::Outcome(taken) = mem::replace(stage, Stage::Taken)
        {
            // SAFETY: promised by the caller: it points to such an option.
            unsafe { *outcome.cast::<Option<Result<F::Output, TaskError>>>() = Some(taken) };
        }
    }

    unsafe fn discard(header: NonNull<Header>) -> Option<Box<dyn Any + Send>> {
        let mut outcome: Option<Result<F::Output, TaskError>> = None;
        // SAFETY: promised by the caller; the option is of the type that `take` fills.
        unsafe { Self::take(header, (&raw mut outcome).cast()) };
        match outcome {
            Some(Err(TaskError::Panicked(panic))) => Some(panic),
            other => catch_unwind(AssertUnwindSafe(|| drop(other))).err(),
        }
    }

    unsafe fn free(header: NonNull<Header>) {
        let memory = header.cast::<Self>();
        // SAFETY: the caller was the last owner, so nobody looks at the header again.
        let shared = unsafe { std::ptr::read(&raw const (*header.as_ptr()).shared) };
        let shared = ManuallyDrop::into_inner(shared);
        // SAFETY: as above. The future and its outcome are gone, or belong to a task that was never
        // started, in the executor's thread.
        unsafe { drop_in_place(memory.as_ptr()) };
        if shared.is_here() {
            // SAFETY: from `take` in `RawTask::new`, and what was in it is dropped.
            unsafe { shared.local().blocks.put(memory) };
        } else {
            // SAFETY: as above.
            unsafe { Blocks::free(memory) };
        }
    }
}

/// An owner of a task in the executor's thread, which it does not leave.
pub(crate) struct RawTask(NonNull<Header>);

impl RawTask {
    /// A task that is in no list and no queue yet.
    pub fn new<F: Future + 'static>(future: F, shared: SharedRef, id: u64) -> Self {
        let memory = shared.local().blocks.take::<Memory<F>>();
        let header = Header {
            wakers: Count::anchored(),
            woken: AtomicBool::new(false),
            state: Cell::new(HAS_TASK),
            owners: Cell::new(1),
            place: Cell::new(NOWHERE),
            id,
            waiter: Cell::new(None),
            rare: Cell::new(None),
            shared: ManuallyDrop::new(shared),
            vtable: &Memory::<F>::VTABLE,
        };
        // SAFETY: memory for this type, which nobody else has.
        unsafe { memory.write(Memory { header, stage: UnsafeCell::new(Stage::Future(future)) }) };
        RawTask(memory.cast())
    }

    fn header(&self) -> &Header {
        // SAFETY: an owner keeps the memory.
        unsafe { self.0.as_ref() }
    }

    /// The executor's part; a task that is not sent, or a look at the thread, makes sure that it is ours.
    fn local(&self) -> &Local {
        self.header().shared.local()
    }

    fn has(&self, flags: u8) -> bool {
        self.header().state.get() & flags != 0
    }

    fn set(&self, flags: u8) {
        let state = &self.header().state;
        state.set(state.get() | flags);
    }

    fn unset(&self, flags: u8) {
        self.change(flags, 0);
    }

    #[inline]
    fn change(&self, unset: u8, set: u8) {
        let state = &self.header().state;
        state.set(state.get() & !unset | set);
    }

    pub fn id(&self) -> u64 {
        self.header().id
    }

    pub fn is_done(&self) -> bool {
        self.has(DONE)
    }

    pub fn name(&self) -> String {
        let rare = self.header().rare.take();
        let name = rare.as_ref().and_then(|rare| rare.name.clone());
        self.header().rare.set(rare);
        name.map_or_else(|| format!("Task-{}", self.id()), String::from)
    }

    pub fn set_name(&self, name: String) {
        self.change_rare(|rare| rare.name = Some(name.into()));
    }

    fn change_rare(&self, change: impl FnOnce(&mut Rare)) {
        let mut rare = self.header().rare.take().unwrap_or_default();
        change(&mut rare);
        self.header().rare.set(Some(rare));
    }

    /// Queues the first step of a task that is in the executor's list.
    pub fn start(&self, place: usize) {
        let place = u32::try_from(place).ok().filter(|&place| place != NOWHERE);
        self.header().place.set(place.expect("fewer tasks than memory has room for"));
        self.set(SCHEDULED);
        self.clone().schedule();
    }

    /// Asks for the end; false if it has come already.
    pub fn cancel(&self) -> bool {
        if self.is_done() {
            return false;
        }
        self.set(CANCELLED);
        self.wake();
        true
    }

    /// Ends it at once, unless it is being polled: then at its next step.
    pub fn abort(&self) {
        if self.has(RUNNING) {
            self.set(CANCELLED);
            // Who closes an executor from inside a task goes on to the next one.
            self.leave_list();
        } else if !self.is_done() {
            self.set(RUNNING);
            // SAFETY: in the executor's thread, and RUNNING was not set: nobody is in the stage.
            unsafe { (self.header().vtable.cancel)(self.0) };
            self.finish();
        }
    }

    fn leave_list(&self) {
        let place = self.header().place.replace(NOWHERE);
        if place != NOWHERE {
            let mut tasks = self.local().tasks.borrow_mut();
            let task = tasks.swap_remove(place as usize);
            if let Some(moved) = tasks.get(place as usize) {
                moved.header().place.set(place);
            }
            drop(tasks);
            // It may be the last owner but us.
            drop(task);
        }
    }

    /// The future is gone and the outcome there.
    fn finish(&self) {
        self.change(RUNNING | SCHEDULED, DONE);
        self.leave_list();
        let waiter = self.header().waiter.take();
        match self.header().rare.take() {
            None => {
                if let Some(waker) = waiter {
                    // A panic must not leave the outcome in the hands of the last owner.
                    quietly(|| waker.wake());
                }
            }
            Some(rare) => self.tell(*rare, waiter),
        }
        if !self.has(HAS_TASK) {
            self.discard();
        }
    }

    /// Tells all in the order in which they have asked.
    #[cold]
    fn tell(&self, mut rare: Rare, waiter: Option<Waker>) {
        let mut callbacks = mem::take(&mut rare.callbacks).into_iter();
        let before_waiter = rare.before_waiter;
        // It has the name.
        self.header().rare.set(Some(Box::new(rare)));
        callbacks.by_ref().take(before_waiter).for_each(|callback| self.call_soon(callback));
        quietly(|| waiter.into_iter().for_each(Waker::wake));
        callbacks.for_each(|callback| self.call_soon(callback));
    }

    fn call_soon(&self, callback: Box<dyn FnOnce()>) {
        if let Some(driver) = self.local().driver() {
            driver.call_soon(callback);
        }
    }

    /// Drops the outcome, of which nobody will hear; a panic is reported.
    fn discard(&self) {
        if self.has(TAKEN) {
            return;
        }
        // SAFETY: in the executor's thread; the task is done, so nobody is in the stage.
        let panic = unsafe { (self.header().vtable.discard)(self.0) };
        let Some(exception) = panic else { return };
        quietly(|| match self.local().driver() {
            Some(driver) if !self.has(SILENT) => driver.report(ExceptionContext {
                message: "Task exception was never retrieved".into(),
                exception,
                task: Some(self.name()),
            }),
            _ => drop(exception),
        });
    }

    /// The outcome, if it is there and was not taken.
    ///
    /// # Safety
    ///
    /// `T` is the output of the task's future.
    pub unsafe fn take_outcome<T>(&self) -> Option<Result<T, TaskError>> {
        let mut outcome: Option<Result<T, TaskError>> = None;
        if self.is_done() && !self.has(TAKEN) {
            self.set(TAKEN);
            // SAFETY: in the executor's thread and done; the option is of the type that is promised.
            unsafe { (self.header().vtable.take)(self.0, (&raw mut outcome).cast()) };
        }
        outcome
    }

    /// Wakes at the end, in place of whom this `Task` had woken before.
    pub fn wake_when_done(&self, waker: &Waker) {
        self.set(AWAITED);
        let waiter = self.header().waiter.take();
        if waiter.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.header().waiter.set(waiter);
            return;
        }
        if waiter.is_none() {
            let mut rare = self.header().rare.take();
            if let Some(rare) = &mut rare {
                rare.before_waiter = rare.callbacks.len();
            }
            self.header().rare.set(rare);
        }
        // It may be foreign code that clones it, and that drops the one before.
        let waker = waker.clone();
        self.header().waiter.set(Some(waker));
    }

    /// Queues a callback at the end; at once if it has come.
    pub fn call_when_done(&self, callback: Box<dyn FnOnce()>) {
        if self.is_done() {
            self.call_soon(callback);
        } else {
            self.change_rare(|rare| rare.callbacks.push(callback));
        }
    }

    /// Nobody will ask for the outcome. Who had waited for it has given up: then the task ends, too.
    pub fn drop_task(&self) {
        self.unset(HAS_TASK);
        if self.is_done() {
            self.discard();
        } else if self.has(AWAITED) {
            self.cancel();
        }
    }

    pub fn keep_silent(&self) {
        self.set(SILENT);
    }

    /// Nobody will ask for the outcome, and the task goes on.
    pub fn detach(&self) {
        self.unset(AWAITED);
    }

    /// Queues the next step, unless one is queued.
    #[inline]
    fn wake(&self) {
        if self.header().begin_to_schedule() {
            self.clone().schedule();
        }
    }

    /// Queues the next step. Of a loop that is closed, nothing runs any more.
    #[inline]
    fn schedule(self) {
        if let Some(driver) = self.local().driver() {
            driver.schedule(Step(self));
        }
    }
}

impl Header {
    /// Whether a step must be queued.
    #[inline]
    fn begin_to_schedule(&self) -> bool {
        let state = self.state.get();
        if state & (SCHEDULED | DONE) != 0 {
            return false;
        }
        self.state.set(state | SCHEDULED);
        state & RUNNING == 0
    }
}

impl Clone for RawTask {
    #[inline]
    fn clone(&self) -> Self {
        let owners = &self.header().owners;
        owners.set(owners.get() + 1);
        RawTask(self.0)
    }
}

impl Drop for RawTask {
    #[inline]
    fn drop(&mut self) {
        let header = self.header();
        let owners = header.owners.get() - 1;
        header.owners.set(owners);
        if owners == 0 && header.wakers.weigh_anchor() == Left::Nobody {
            // SAFETY: this was the last owner, and there are no wakers.
            unsafe { (header.vtable.free)(self.0) };
        }
    }
}

/// The task that is being polled.
#[derive(Default)]
pub(crate) struct Current(Cell<Option<NonNull<Header>>>);

impl Current {
    pub fn get(&self) -> Option<RawTask> {
        let header = self.0.get()?;
        // SAFETY: the step that has put it here is under way, and an owner.
        let lent = ManuallyDrop::new(RawTask(header));
        Some(RawTask::clone(&lent))
    }
}

/// A step of a task, in the ready queue of its loop.
pub struct Step(RawTask);

impl Step {
    /// The number of the task in its loop.
    pub fn id(&self) -> u64 {
        self.0.id()
    }

    /// Polls the future, or drops it if the task was cancelled. A panic is the outcome of the task.
    pub fn run(self) {
        let Step(task) = self;
        if task.has(DONE | RUNNING) {
            // Running: its future is being dropped, by a destructor that has come here.
            return;
        }
        let local = task.local();
        task.change(SCHEDULED, RUNNING);
        let before = local.current.0.replace(Some(task.0));
        let mut is_done = if task.has(CANCELLED) {
            // SAFETY: in the executor's thread; a task that runs has no second step.
            unsafe { (task.header().vtable.cancel)(task.0) };
            true
        } else {
            // Lent for the poll: the step is an owner all the while.
            // SAFETY: the vtable keeps what `RawWaker` asks for; it is not dropped, so it needs no count.
            let waker = ManuallyDrop::new(unsafe {
                Waker::new(task.0.as_ptr().cast_const().cast(), &WAKER)
            });
            // SAFETY: as above.
            unsafe { (task.header().vtable.poll)(task.0, &mut Context::from_waker(&waker)) }
        };
        local.current.0.set(before);
        if !is_done && task.header().place.get() == NOWHERE {
            // Aborted meanwhile: it gets no next step.
            // SAFETY: as above.
            unsafe { (task.header().vtable.cancel)(task.0) };
            is_done = true;
        }
        if is_done {
            task.finish();
            return;
        }
        task.unset(RUNNING);
        if task.has(SCHEDULED) {
            task.schedule();
        }
    }
}

/// A task on its way to its own thread, since another one has woken it.
pub struct Woken(CountedWaker);

impl Woken {
    /// Queues the task's next step. Panics if this is not the thread of its loop.
    pub fn resume(self) {
        let header = self.0.header();
        assert!(header.shared.is_here(), "a task stays in the thread of its executor");
        // Before the step: who wakes it from now on has something new to tell. The swap brings what the
        // one who woke it has written.
        header.woken.swap(false, AcqRel);
        self.0.wake();
    }
}

/// What is in a waker: an owner of the task's memory, in any thread.
struct CountedWaker(NonNull<Header>);

// SAFETY: in a thread that is not the executor's it is only counted, by atomic numbers, and handed on.
unsafe impl Send for CountedWaker {}
// SAFETY: as above.
unsafe impl Sync for CountedWaker {}

impl CountedWaker {
    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: it is counted, which keeps the memory.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn wake(&self) {
        if self.header().shared.is_here() {
            if self.header().begin_to_schedule() {
                self.owner().schedule();
            }
        } else if !self.header().woken.swap(true, AcqRel) {
            self.header().shared.remote().send(Woken(self.clone()));
        }
    }

    /// In the executor's thread, while the task is not done: the executor's list has it, so that the count
    /// is anchored.
    #[inline]
    fn owner(&self) -> RawTask {
        let owners = &self.header().owners;
        owners.set(owners.get() + 1);
        RawTask(self.0)
    }

    fn into_raw(self) -> *const () {
        ManuallyDrop::new(self).0.as_ptr().cast()
    }

    /// # Safety
    ///
    /// From [`CountedWaker::into_raw`], once for each.
    #[inline]
    unsafe fn from_raw(data: *const ()) -> Self {
        // SAFETY: as promised, it was not null.
        CountedWaker(unsafe { NonNull::new_unchecked(data.cast_mut().cast()) })
    }
}

impl Clone for CountedWaker {
    #[inline]
    fn clone(&self) -> Self {
        let header = self.header();
        if header.shared.is_here() {
            header.wakers.add_here();
        } else {
            header.wakers.add_elsewhere();
        }
        CountedWaker(self.0)
    }
}

impl Drop for CountedWaker {
    #[inline]
    fn drop(&mut self) {
        let header = self.header();
        let left = if header.shared.is_here() {
            header.wakers.remove_here()
        } else {
            header.wakers.remove_elsewhere()
        };
        if left == Left::Nobody {
            // SAFETY: no `RawTask` is left, as the count is anchored as long as there is one, and this
            // was the last waker.
            unsafe { (header.vtable.free)(self.0) };
        }
    }
}

/// Whether it wakes a task of this thread that was cancelled: its next step drops the future.
pub(crate) fn wakes_cancelled(waker: &Waker) -> bool {
    if !std::ptr::eq(waker.vtable(), &raw const WAKER) {
        return false;
    }
    // SAFETY: with this table, `data` is from `CountedWaker::into_raw`, or lent by `Step::run`. The waker stays.
    let waker = ManuallyDrop::new(unsafe { CountedWaker::from_raw(waker.data()) });
    let header = waker.header();
    header.shared.is_here() && header.state.get() & CANCELLED != 0
}

static WAKER: RawWakerVTable = RawWakerVTable::new(clone_waker, wake, wake_by_ref, drop_waker);

/// # Safety
///
/// For the four: `data` is from `CountedWaker::into_raw`, or lent by `Step::run`.
unsafe fn clone_waker(data: *const ()) -> RawWaker {
    // SAFETY: the waker that is cloned stays.
    let waker = ManuallyDrop::new(unsafe { CountedWaker::from_raw(data) });
    RawWaker::new(CountedWaker::clone(&waker).into_raw(), &WAKER)
}

unsafe fn wake(data: *const ()) {
    // SAFETY: the waker is used up.
    unsafe { CountedWaker::from_raw(data) }.wake();
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: the waker stays.
    ManuallyDrop::new(unsafe { CountedWaker::from_raw(data) }).wake();
}

unsafe fn drop_waker(data: *const ()) {
    // SAFETY: the waker is used up.
    drop(unsafe { CountedWaker::from_raw(data) });
}
