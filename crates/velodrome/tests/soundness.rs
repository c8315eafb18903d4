//! Safe code that tries to break the loop from inside: destructors, wakers and panics that come back.

use std::{
    cell::{Cell, RefCell},
    future::{pending, poll_fn},
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind, panic_any},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::{self, ThreadId},
    time::Duration,
};

use velodrome::{
    Error, EventLoop, TaskFuture, Woken, create_task, current_task,
    executor::{Executor, Remote},
    get_running_loop, new_event_loop, run, sleep,
};

/// Calls a function when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn on_drop<F: FnMut()>(function: F) -> OnDrop<F> {
    OnDrop(function)
}

/// Panics with something whose destructor panics, too.
fn panic_twice() -> ! {
    panic_any(on_drop(|| panic!("the payload's destructor")))
}

/// A waker that panics when it is used.
struct Angry;

impl Wake for Angry {
    fn wake(self: Arc<Self>) {
        panic!("a waker");
    }
}

/// A waker that does nothing.
struct Idle;

impl Wake for Idle {
    fn wake(self: Arc<Self>) {}
}

/// Hands its waker out, and waits for ever.
async fn leak_waker(wakers: Rc<RefCell<Vec<Waker>>>) {
    poll_fn(|context| {
        wakers.borrow_mut().push(context.waker().clone());
        Poll::<()>::Pending
    })
    .await;
}

/// Runs its loop when it is dropped, and counts the polls that come then.
struct RunsInDrop {
    event_loop: EventLoop,
    future: TaskFuture,
    is_dropping: bool,
    seen: Rc<RefCell<Vec<&'static str>>>,
}

impl Future for RunsInDrop {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.is_dropping {
            self.seen.borrow_mut().push("polled while it is dropped");
            return Poll::Pending;
        }
        self.future.as_mut().poll(context)
    }
}

impl Drop for RunsInDrop {
    fn drop(&mut self) {
        self.is_dropping = true;
        self.event_loop.set_task_factory(None::<fn(&EventLoop, TaskFuture) -> _>);
        assert!(matches!(self.event_loop.run_until_complete(async { 7 }), Ok(7)));
        self.seen.borrow_mut().push("ran");
    }
}

#[test]
fn a_run_inside_the_destructor_of_a_task_that_a_stop_has_ended_does_not_poll_it() {
    let event_loop = new_event_loop();
    let seen = Rc::new(RefCell::new(Vec::new()));
    event_loop.set_task_factory(Some({
        let seen = seen.clone();
        move |event_loop: &EventLoop, future: TaskFuture| {
            let (event_loop, seen) = (event_loop.clone(), seen.clone());
            let task = event_loop.clone();
            task.new_task(Box::pin(RunsInDrop { event_loop, future, is_dropping: false, seen }))
        }
    }));
    let stop = event_loop.clone();
    let stopped = event_loop.run_until_complete(poll_fn(move |context: &mut Context<'_>| {
        // A step of this task is queued when it ends.
        context.waker().wake_by_ref();
        stop.stop();
        Poll::<()>::Pending
    }));
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(*seen.borrow(), ["ran"]);
}

#[test]
fn a_future_whose_destructor_panics_with_a_bomb_is_dropped_once() {
    let drops = Rc::new(Cell::new(0));
    let event_loop = new_event_loop();
    event_loop.set_exception_handler(Some(|_: &EventLoop, _: &_| {}));
    let count = drops.clone();
    let task = event_loop.create_task(async move {
        let _guard = on_drop(move || {
            count.set(count.get() + 1);
            panic_twice();
        });
        pending::<()>().await;
    });
    event_loop.run_until_complete(sleep(Duration::ZERO)).unwrap();
    task.cancel();
    event_loop.run_until_complete(sleep(Duration::ZERO)).unwrap();
    assert!(task.done());
    // The outcome is a bomb; whoever takes it may keep it.
    let mut task = task;
    std::mem::forget(task.result());
    event_loop.close().unwrap();
    assert_eq!(drops.get(), 1);
}

/// A future without `async`, so that its destructor runs when the task drops it, not while it unwinds.
struct PanicsTwice(Rc<Cell<u32>>);

impl Future for PanicsTwice {
    type Output = OnDrop<fn()>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(on_drop(|| panic_twice()))
    }
}

impl Drop for PanicsTwice {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        panic!("a destructor");
    }
}

#[test]
fn an_output_and_a_future_that_both_panic_when_dropped_are_dropped_once() {
    let drops = Rc::new(Cell::new(0));
    let event_loop = new_event_loop();
    event_loop.set_exception_handler(Some(|_: &EventLoop, _: &_| {}));
    let task = event_loop.create_task(PanicsTwice(drops.clone()));
    event_loop.run_until_complete(sleep(Duration::ZERO)).unwrap();
    assert!(task.done());
    drop(task);
    event_loop.close().unwrap();
    assert_eq!(drops.get(), 1);
}

#[test]
fn a_callback_that_panics_with_a_bomb_does_not_leave_the_loop() {
    let event_loop = new_event_loop();
    event_loop.set_exception_handler(Some(|_: &EventLoop, _: &_| {}));
    event_loop.call_soon(|| panic_twice());
    let stop = event_loop.clone();
    event_loop.call_soon(move || stop.stop());
    event_loop.run_forever().unwrap();
}

#[test]
fn a_detached_task_of_which_nobody_hears_and_which_panics_with_a_bomb_does_not_leave_the_loop() {
    let event_loop = new_event_loop();
    event_loop.set_exception_handler(Some(|_: &EventLoop, _: &_| {}));
    event_loop.create_task(async { panic_twice() }).detach();
    event_loop.run_until_complete(sleep(Duration::ZERO)).unwrap();
}

/// Notes the thread in which it is dropped.
struct NotesThread(Arc<Mutex<Vec<ThreadId>>>, PhantomData<Rc<()>>);

impl Drop for NotesThread {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(thread::current().id());
    }
}

#[test]
fn an_output_is_dropped_in_its_thread_even_if_a_waker_of_who_waited_panics() {
    let dropped_in = Arc::new(Mutex::new(Vec::new()));
    let wakers = Rc::new(RefCell::new(Vec::<Waker>::new()));
    let event_loop = new_event_loop();
    event_loop.set_exception_handler(Some(|_: &EventLoop, _: &_| {}));
    let output = NotesThread(dropped_in.clone(), PhantomData);
    let mut task = event_loop.create_task({
        let wakers = wakers.clone();
        async move {
            sleep(Duration::ZERO).await;
            poll_fn(|context| {
                wakers.borrow_mut().push(context.waker().clone());
                Poll::Ready(())
            })
            .await;
            output
        }
    });
    let angry = Waker::from(Arc::new(Angry));
    assert!(Pin::new(&mut task).poll(&mut Context::from_waker(&angry)).is_pending());
    task.detach();
    event_loop
        .run_until_complete(async {
            for _ in 0..5 {
                sleep(Duration::ZERO).await;
            }
        })
        .unwrap();
    event_loop.close().unwrap();
    drop(event_loop);
    let wakers: Vec<Waker> = wakers.take();
    assert_eq!(wakers.len(), 1);
    thread::spawn(move || drop(wakers)).join().unwrap();
    assert_eq!(*dropped_in.lock().unwrap(), [thread::current().id()]);
}

#[test]
fn a_loop_closes_whole_when_wakers_and_destructors_panic() {
    let drops = Rc::new(Cell::new(0));
    let event_loop = new_event_loop();
    event_loop.set_exception_handler(Some(|_: &EventLoop, _: &_| {}));
    let angry = Waker::from(Arc::new(Angry));
    for _ in 0..3 {
        let count = drops.clone();
        let mut task = event_loop.create_task(async move {
            let _guard = on_drop(move || {
                count.set(count.get() + 1);
                panic_twice();
            });
            pending::<()>().await;
        });
        assert!(Pin::new(&mut task).poll(&mut Context::from_waker(&angry)).is_pending());
        task.detach();
    }
    let _ = event_loop.run_until_complete(sleep(Duration::ZERO));
    event_loop.close().unwrap();
    assert_eq!(drops.get(), 3);
    assert!(event_loop.all_tasks().is_empty());
}

#[test]
fn a_callback_whose_destructor_panics_at_close_does_not_keep_the_others() {
    let alive = Rc::new(());
    let event_loop = new_event_loop();
    let (first, second, third) = (alive.clone(), alive.clone(), alive.clone());
    let bomb = on_drop(|| panic!("a destructor"));
    event_loop.call_soon(move || drop((first, &bomb)));
    event_loop.call_soon(move || drop(second));
    event_loop.call_later(Duration::from_secs(60), move || drop(third));
    let closed = catch_unwind(AssertUnwindSafe(|| event_loop.close()));
    assert!(closed.is_err(), "the panic is the caller's, as with any destructor");
    assert!(event_loop.is_closed());
    drop(event_loop);
    assert_eq!(Rc::strong_count(&alive), 1);
}

/// Resumes tasks in whatever thread has woken them, which is not allowed.
struct Wrong;

impl Remote for Wrong {
    fn send(&self, woken: Woken) {
        woken.resume();
    }
}

#[test]
fn a_task_is_not_resumed_in_another_thread() {
    let executor = Executor::new(Wrong);
    let event_loop = new_event_loop();
    let wakers = Rc::new(RefCell::new(Vec::new()));
    event_loop
        .run_until_complete(async {
            let driver = velodrome::driver::current().unwrap();
            executor.bind(driver);
            let _task = executor.spawn(leak_waker(wakers.clone()));
            sleep(Duration::ZERO).await;
        })
        .unwrap();
    let waker: Waker = wakers.borrow()[0].clone();
    let woken = thread::spawn(move || waker.wake()).join();
    assert!(woken.is_err(), "it must be refused before anything of the task is touched");
    executor.close();
}

#[test]
fn a_future_may_do_anything_to_its_own_loop() {
    run(async {
        let event_loop = get_running_loop().unwrap();
        assert!(matches!(event_loop.close(), Err(Error::Running)));
        assert!(matches!(event_loop.run_forever(), Err(Error::Running)));
        assert!(matches!(event_loop.run_until_complete(async {}), Err(Error::Running)));
        assert!(matches!(new_event_loop().run_forever(), Err(Error::AnotherIsRunning)));
        assert!(matches!(run(async {}), Err(Error::AnotherIsRunning)));
        assert!(current_task().unwrap().cancel());
    })
    .unwrap();
}

#[test]
fn destructors_at_close_may_spawn_schedule_wake_and_close() {
    let event_loop = new_event_loop();
    let wakers = Rc::new(RefCell::new(Vec::new()));
    let spawned = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..3 {
        let (again, wakers, spawned) = (event_loop.clone(), wakers.clone(), spawned.clone());
        event_loop
            .create_task(async move {
                let inner = wakers.clone();
                let _guard = on_drop(move || {
                    for waker in inner.take() {
                        let waker: Waker = waker;
                        waker.wake();
                    }
                    again.close().unwrap();
                    again.call_soon(|| unreachable!());
                    again.call_later(Duration::ZERO, || unreachable!());
                    let task = again.create_task(async { unreachable!() });
                    assert!(task.done());
                    spawned.borrow_mut().push(task);
                    assert!(matches!(again.run_forever(), Err(Error::Closed)));
                });
                leak_waker(wakers).await;
            })
            .detach();
    }
    event_loop.run_until_complete(sleep(Duration::ZERO)).unwrap();
    event_loop.close().unwrap();
    assert_eq!(spawned.borrow().len(), 3);
}

#[test]
fn an_executor_that_is_closed_by_one_of_its_tasks_drops_that_one_after_its_step() {
    let dropped = Rc::new(Cell::new(0));
    let event_loop = new_event_loop();
    let count = dropped.clone();
    let seen = event_loop.run_until_complete(async move {
        let driver = velodrome::driver::current().unwrap();
        for _ in 0..2 {
            let count = count.clone();
            let waiting = create_task(async move {
                let _guard = on_drop(move || count.set(count.get() + 1));
                pending::<()>().await;
            });
            waiting.detach();
        }
        sleep(Duration::ZERO).await;
        let before = count.get();
        let inner = count.clone();
        create_task(async move {
            let own = inner.clone();
            let _guard = on_drop(move || own.set(own.get() + 10));
            driver.executor().close();
            assert_eq!(inner.get(), 2, "the others are gone, this one is in its step");
            pending::<()>().await;
        })
        .detach();
        let stop = get_running_loop().unwrap();
        stop.call_soon({
            let stop = stop.clone();
            move || stop.stop()
        });
        sleep(Duration::ZERO).await;
        before
    });
    assert!(seen.is_err(), "the outer one was ended, too");
    assert_eq!(dropped.get(), 12);
}

#[test]
fn a_waker_may_be_used_and_dropped_anywhere_after_everything_is_gone() {
    let wakers = Rc::new(RefCell::new(Vec::new()));
    let event_loop = new_event_loop();
    event_loop.create_task(leak_waker(wakers.clone())).detach();
    event_loop.run_until_complete(sleep(Duration::ZERO)).unwrap();
    let waker: Waker = wakers.borrow()[0].clone();
    drop(event_loop);
    waker.wake_by_ref();
    let (sender, receiver) = mpsc::channel();
    let other = waker.clone();
    thread::spawn(move || {
        other.wake_by_ref();
        let copy = other.clone();
        other.wake();
        sender.send(copy).unwrap();
    })
    .join()
    .unwrap();
    receiver.recv().unwrap().wake();
    waker.wake();
    drop(wakers);
}

#[test]
fn a_thread_that_ends_drops_its_current_loop_with_all_its_tasks() {
    let dropped_in = Arc::new(Mutex::new(Vec::new()));
    let noted = dropped_in.clone();
    let id = thread::spawn(move || {
        let event_loop = new_event_loop();
        velodrome::set_event_loop(Some(event_loop.clone()));
        let note = NotesThread(noted, PhantomData);
        event_loop
            .create_task(async move {
                let _note = note;
                // Asks for what a thread that ends no longer has.
                let _guard = on_drop(|| {
                    assert!(get_running_loop().is_err());
                    assert!(current_task().is_none());
                });
                pending::<()>().await;
            })
            .detach();
        event_loop.run_until_complete(sleep(Duration::ZERO)).unwrap();
        thread::current().id()
    })
    .join()
    .unwrap();
    assert_eq!(*dropped_in.lock().unwrap(), [id]);
}

#[test]
fn a_future_that_a_factory_keeps_is_dead_after_the_run() {
    let kept = Rc::new(RefCell::new(None));
    let event_loop = new_event_loop();
    let keep = kept.clone();
    event_loop.set_task_factory(Some(move |event_loop: &EventLoop, future: TaskFuture| {
        *keep.borrow_mut() = Some(future);
        event_loop.new_task(Box::pin(async {}))
    }));
    let text = String::from("borrowed");
    let outcome = event_loop.run_until_complete(async { text.len() });
    assert!(matches!(outcome, Err(Error::Cancelled)));
    drop(text);
    let mut kept: TaskFuture = kept.take().unwrap();
    let idle = Waker::from(Arc::new(Idle));
    assert!(kept.as_mut().poll(&mut Context::from_waker(&idle)).is_pending());
}
