//! sleep, timeout, gather, task groups, and functions in threads.

use std::{
    cell::{Cell, RefCell},
    future::pending,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use velodrome::{
    Clock, EventLoop, ExceptionContext, TaskError, TimedOut, all_tasks, create_task, gather,
    get_running_loop, new_event_loop, run, sleep, task_group, timeout,
};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(2);

async fn turn() {
    sleep(Duration::ZERO).await;
}

/// Counts how many of it are alive.
struct Alive(Rc<Cell<i32>>);

impl Alive {
    fn new(count: &Rc<Cell<i32>>) -> Self {
        count.set(count.get() + 1);
        Alive(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[test]
fn a_sleep_is_never_short_and_begins_with_its_first_poll() {
    run(async {
        let sleeping = sleep(SHORT);
        thread::sleep(SHORT * 2);
        let start = Instant::now();
        sleeping.await;
        assert!(start.elapsed() >= SHORT);
    })
    .unwrap();
}

#[test]
fn a_sleep_moves_from_task_to_task() {
    run(async {
        let mut sleeping = Box::pin(sleep(SHORT * 5));
        assert_eq!(timeout(SHORT, &mut sleeping).await, Err(TimedOut));
        // Polled by another task from now on, which it must wake.
        create_task(sleeping).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_timeout_drops_what_takes_longer() {
    run(async {
        let count = Rc::new(Cell::new(0));
        let alive = Alive::new(&count);
        let outcome = timeout(SHORT, async move {
            let _alive = alive;
            pending::<()>().await;
        });
        assert_eq!(outcome.await, Err(TimedOut));
        assert_eq!(count.get(), 0);
        assert_eq!(timeout(LONG, async { 3 }).await, Ok(3));
        assert_eq!(timeout(Duration::ZERO, async { 4 }).await, Ok(4), "ready by then");
        assert_eq!(timeout(Duration::ZERO, pending::<()>()).await, Err(TimedOut));
    })
    .unwrap();
}

#[test]
fn the_inner_of_two_timeouts_is_the_one_that_strikes_first() {
    run(async {
        let start = Instant::now();
        let outcome = timeout(LONG, timeout(SHORT, sleep(LONG))).await;
        assert_eq!(outcome, Ok(Err(TimedOut)));
        let outcome = timeout(SHORT, timeout(LONG, sleep(LONG))).await;
        assert_eq!(outcome, Err(TimedOut));
        assert!(start.elapsed() < LONG);
    })
    .unwrap();
}

#[test]
fn timeouts_in_any_number_leave_no_timers() {
    run(async {
        for _ in 0..10_000 {
            timeout(LONG, turn()).await.unwrap();
        }
    })
    .unwrap();
}

#[test]
fn gather_gives_outputs_in_the_order_of_the_futures() {
    run(async {
        let futures = [3, 1, 2].map(|number| async move {
            for _ in 0..number {
                turn().await;
            }
            number
        });
        assert_eq!(gather(futures).await.unwrap(), [3, 1, 2]);
        let none: [std::future::Ready<u8>; 0] = [];
        assert!(gather(none).await.unwrap().is_empty());
    })
    .unwrap();
}

#[test]
fn the_first_panic_is_the_outcome_of_gather_and_the_others_go_on_in_silence() {
    let event_loop = new_event_loop();
    let told = Rc::new(Cell::new(0));
    let count = told.clone();
    event_loop.set_exception_handler(Some(move |_: &EventLoop, _: &ExceptionContext| {
        count.set(count.get() + 1);
    }));
    let ended = Rc::new(Cell::new(0));
    let done = ended.clone();
    event_loop
        .run_until_complete(async move {
            let futures = (0..3).map(|number| {
                let done = done.clone();
                async move {
                    for _ in 0..=4 * number {
                        turn().await;
                    }
                    done.set(done.get() + 1);
                    assert!(number == 1, "number {number}");
                }
            });
            let error = gather(futures).await.unwrap_err();
            assert_eq!(error.to_string(), "the task panicked: number 0");
            assert_eq!(done.get(), 1);
            sleep(SHORT).await;
        })
        .unwrap();
    assert_eq!(ended.get(), 3);
    assert_eq!(told.get(), 0);
}

#[test]
fn gather_with_exceptions_waits_for_all() {
    run(async {
        let futures = (0..3).map(|number| async move {
            turn().await;
            assert!(number != 1, "on purpose");
            number
        });
        let outcomes = gather(futures).return_exceptions().await;
        assert!(matches!(&outcomes[..], [Ok(0), Err(TaskError::Panicked(_)), Ok(2)]));
    })
    .unwrap();
}

#[test]
fn a_gather_that_is_cancelled_cancels_its_tasks() {
    run(async {
        let count = Rc::new(Cell::new(0));
        for with_exceptions in [false, true] {
            let alive: Vec<_> = (0..3).map(|_| Alive::new(&count)).collect();
            let gathering = gather(alive.into_iter().map(|alive| async move {
                let _alive = alive;
                gather([pending::<()>()]).await.unwrap();
            }));
            let outer = create_task(async move {
                if with_exceptions {
                    gathering.return_exceptions().await;
                } else {
                    gathering.await.unwrap();
                }
            });
            turn().await;
            outer.cancel();
            assert!(outer.await.unwrap_err().is_cancelled());
            sleep(SHORT).await;
            assert_eq!(count.get(), 0);
            assert_eq!(all_tasks().unwrap().len(), 1);
        }
    })
    .unwrap();
}

#[test]
fn a_group_waits_for_its_tasks_and_theirs() {
    run(async {
        let sum = Rc::new(Cell::new(0));
        let add = sum.clone();
        let output = task_group(async move |group| {
            let inner = group.clone();
            group
                .create_task(async move {
                    turn().await;
                    inner.create_task(async move { add.set(add.get() + 1) }).detach();
                })
                .detach();
            "body"
        });
        assert_eq!(output.await.unwrap(), "body");
        assert_eq!(sum.get(), 1);
    })
    .unwrap();
}

#[test]
fn a_panic_in_a_group_cancels_the_others_and_the_body() {
    run(async {
        let count = Rc::new(Cell::new(0));
        let (in_task, in_body) = (Alive::new(&count), Alive::new(&count));
        let outcome: Result<(), _> = task_group(async move |group| {
            let _in_body = in_body;
            group
                .create_task(async move {
                    let _in_task = in_task;
                    pending::<()>().await;
                })
                .detach();
            group.create_task(async { panic!("one") }).detach();
            group.create_task(async { panic!("two") }).detach();
            pending::<()>().await;
        })
        .await;
        let error = outcome.unwrap_err();
        assert_eq!(error.to_string(), "unhandled errors in a task group; one; two");
        assert_eq!(error.failures.len(), 2, "as in asyncio, the other one had begun");
        assert_eq!(count.get(), 0);
    })
    .unwrap();
}

#[test]
fn an_inner_group_fails_alone_unless_its_outcome_is_passed_on() {
    run(async {
        let outer = task_group(async |_outer| {
            let inner = task_group(async |inner| {
                inner.create_task(async { panic!("inner") }).detach();
            });
            inner.await.is_err()
        });
        assert!(outer.await.unwrap());
        let outer = task_group(async |group| {
            let failing = group.clone();
            group
                .create_task(async move {
                    let inner = task_group(async |inner| inner.fail(io::Error::other("inner")));
                    if let Err(error) = inner.await {
                        failing.fail(error);
                    }
                })
                .detach();
        });
        let text = outer.await.unwrap_err().to_string();
        assert_eq!(
            text,
            "unhandled errors in a task group; unhandled errors in a task group; inner"
        );
    })
    .unwrap();
}

#[test]
fn a_group_that_is_cancelled_cancels_all_and_what_comes_after_its_end_is_cancelled_too() {
    run(async {
        let count = Rc::new(Cell::new(0));
        let kept = Rc::new(RefCell::new(None));
        let (alive, keep) = (Alive::new(&count), kept.clone());
        let outer = create_task(task_group(async move |group| {
            *keep.borrow_mut() = Some(group.clone());
            group
                .create_task(async move {
                    let _alive = alive;
                    pending::<()>().await;
                })
                .detach();
            pending::<()>().await;
        }));
        turn().await;
        turn().await;
        outer.cancel();
        assert!(outer.await.is_err());
        turn().await;
        assert_eq!(count.get(), 0);
        let group = kept.take().unwrap();
        let late = group.create_task(async { unreachable!() });
        let outcome: Result<(), _> = late.await;
        assert!(outcome.unwrap_err().is_cancelled());
    })
    .unwrap();
}

#[test]
fn a_cancelled_task_is_no_failure_of_its_group() {
    run(async {
        let outcome = task_group(async |group| {
            let task = group.create_task(pending::<()>());
            turn().await;
            task.cancel();
            task.await.unwrap_err().is_cancelled()
        });
        assert!(outcome.await.unwrap());
    })
    .unwrap();
}

#[test]
fn functions_run_side_by_side_in_threads_and_their_panics_come_back() {
    run(async {
        let event_loop = get_running_loop().unwrap();
        let main = thread::current().id();
        let both = Arc::new((Mutex::new(0), Condvar::new()));
        // Each waits for the other: they begin without being awaited.
        let jobs = [(); 2].map(|()| {
            let both = both.clone();
            event_loop.run_in_executor(move || {
                let (count, changed) = &*both;
                *count.lock().unwrap() += 1;
                changed.notify_all();
                drop(changed.wait_while(count.lock().unwrap(), |count| *count < 2).unwrap());
                thread::current().id()
            })
        });
        for job in jobs {
            assert_ne!(job.await, main);
        }
        let panicking = create_task(event_loop.run_in_executor(|| panic!("in a thread")));
        let outcome: Result<(), _> = panicking.await;
        assert_eq!(outcome.unwrap_err().to_string(), "the task panicked: in a thread");
    })
    .unwrap();
}

#[test]
fn an_output_that_nobody_waits_for_and_that_panics_does_not_end_the_pool() {
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("an output's destructor");
        }
    }

    run(async {
        let event_loop = get_running_loop().unwrap();
        let gate = Arc::new(Mutex::new(()));
        // None is done before nobody waits for it: its output would be dropped here.
        let closed = gate.lock().unwrap();
        for _ in 0..100 {
            let gate = gate.clone();
            drop(event_loop.run_in_executor(move || {
                drop(gate.lock());
                Bomb
            }));
        }
        drop(closed);
        event_loop.shutdown_default_executor().await;
        assert_eq!(event_loop.run_in_executor(|| 1).await, 1, "a new pool");
    })
    .unwrap();
}

#[test]
fn a_future_that_is_ready_at_its_time_is_not_timed_out() {
    let event_loop = EventLoop::with_clock(Clock::Manual(Cell::new(0)));
    let second = Duration::from_secs(1);
    let both =
        async { (timeout(second, sleep(second)).await, timeout(second, sleep(2 * second)).await) };
    assert_eq!(event_loop.run_until_complete(both).unwrap(), (Ok(()), Err(TimedOut)));
    assert_eq!(event_loop.time(), 2 * second);
}

#[test]
fn a_future_of_a_loop_panics_elsewhere() {
    let sleeping = catch_unwind(AssertUnwindSafe(|| {
        let mut future = Box::pin(sleep(LONG));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let _ = future.as_mut().poll(&mut context);
    }));
    assert!(sleeping.is_err());
}
