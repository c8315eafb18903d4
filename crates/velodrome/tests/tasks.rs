//! Tasks: their steps, their end, and what is to be known of them.

use std::{
    cell::{Cell, RefCell},
    future::{pending, poll_fn},
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use velodrome::{
    EventLoop, ExceptionContext, TaskError, TaskFuture, all_tasks, create_task, current_task,
    get_running_loop, new_event_loop, panic_message, run, sleep,
};

type Trace = Rc<RefCell<Vec<String>>>;

async fn turn() {
    sleep(Duration::ZERO).await;
}

struct Noted(Trace, &'static str);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.borrow_mut().push(self.1.into());
    }
}

#[test]
fn a_task_need_not_be_send_and_begins_in_the_next_turn() {
    run(async {
        let value = Rc::new(Cell::new(0));
        let own = value.clone();
        let task = create_task(async move {
            own.set(1);
            turn().await;
            own.set(2);
            own
        });
        assert_eq!(value.get(), 0);
        turn().await;
        assert_eq!(value.get(), 1);
        let own = task.await.unwrap();
        assert_eq!(own.get(), 2);
    })
    .unwrap();
}

#[test]
fn a_task_that_is_cancelled_before_its_first_step_never_begins() {
    run(async {
        let trace = Trace::default();
        let held = Noted(trace.clone(), "dropped");
        let task = create_task(async move {
            let _held = held;
            unreachable!()
        });
        assert!(task.cancel());
        assert!(task.cancel(), "it is asked for twice, and still not done");
        assert!(!task.done());
        assert!(trace.borrow().is_empty());
        let outcome: Result<(), TaskError> = task.await;
        assert!(outcome.unwrap_err().is_cancelled());
        assert_eq!(*trace.borrow(), ["dropped"]);
    })
    .unwrap();
}

#[test]
fn a_task_that_is_cancelled_while_it_waits_drops_its_future_in_the_next_turn() {
    run(async {
        let trace = Trace::default();
        let held = Noted(trace.clone(), "dropped");
        let task = create_task(async move {
            let _held = held;
            pending::<()>().await;
        });
        turn().await;
        task.cancel();
        assert!(trace.borrow().is_empty());
        turn().await;
        assert!(task.done());
        assert!(!task.cancel(), "it is done");
        assert_eq!(*trace.borrow(), ["dropped"]);
    })
    .unwrap();
}

#[test]
fn a_cancelled_task_ends_before_the_task_that_it_awaits() {
    run(async {
        let trace = Trace::default();
        let (outer, inner) = (Noted(trace.clone(), "outer"), Noted(trace.clone(), "inner"));
        let task = create_task(async move {
            let _outer = outer;
            let awaited = create_task(async move {
                let _inner = inner;
                pending::<()>().await;
            });
            awaited.await.unwrap();
        });
        turn().await;
        turn().await;
        task.cancel();
        turn().await;
        assert_eq!(*trace.borrow(), ["outer"]);
        turn().await;
        assert_eq!(*trace.borrow(), ["outer", "inner"]);
    })
    .unwrap();
}

#[test]
fn a_task_that_cancels_itself_ends_at_its_next_wait() {
    run(async {
        let reached = Rc::new(Cell::new(0));
        let count = reached.clone();
        let task = create_task(async move {
            assert!(current_task().unwrap().cancel());
            count.set(1);
            turn().await;
            count.set(2);
        });
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(reached.get(), 1);
        let ready = create_task(async {
            current_task().unwrap().cancel();
            5
        });
        assert_eq!(ready.await.unwrap(), 5, "it did not wait any more");
    })
    .unwrap();
}

#[test]
fn dropping_detaches_unless_it_was_awaited() {
    run(async {
        let trace = Trace::default();
        for (name, is_awaited) in [("detached", false), ("awaited", true)] {
            let trace = trace.clone();
            let mut task = create_task(async move {
                for _ in 0..4 {
                    turn().await;
                }
                trace.borrow_mut().push(name.into());
            });
            if is_awaited {
                poll_fn(|context| {
                    assert!(Future::poll(std::pin::Pin::new(&mut task), context).is_pending());
                    Poll::Ready(())
                })
                .await;
            }
            drop(task);
        }
        for _ in 0..8 {
            turn().await;
        }
        assert_eq!(*trace.borrow(), ["detached"]);
    })
    .unwrap();
}

#[test]
fn names_and_numbers() {
    run(async {
        let own = current_task().unwrap();
        assert_eq!((own.id(), own.name().as_str()), (1, "Task-1"));
        let task = create_task(async { current_task().unwrap().name() });
        assert_eq!(task.name(), "Task-2");
        task.set_name("mine");
        let names: Vec<_> = all_tasks().unwrap().iter().map(|task| task.name()).collect();
        assert_eq!(names, ["Task-1", "mine"]);
        assert_eq!(format!("{task:?}"), r#"Task { name: "mine", state: "pending" }"#);
        assert_eq!(task.await.unwrap(), "mine");
        assert_eq!(all_tasks().unwrap().len(), 1);
    })
    .unwrap();
    assert!(current_task().is_none());
    assert!(all_tasks().is_err());
}

#[test]
fn done_callbacks_come_in_order_and_in_the_turn_after_the_end() {
    run(async {
        let trace = Trace::default();
        let note = |what: &'static str| {
            let trace = trace.clone();
            move || trace.borrow_mut().push(what.into())
        };
        let end = note("end");
        let task = create_task(async move { end() });
        task.add_done_callback(note("first"));
        task.add_done_callback(note("second"));
        turn().await;
        assert_eq!(*trace.borrow(), ["end"]);
        task.add_done_callback(note("third"));
        assert_eq!(trace.borrow().len(), 1, "not inside the call");
        turn().await;
        assert_eq!(*trace.borrow(), ["end", "first", "second", "third"]);
    })
    .unwrap();
}

#[test]
fn a_result_is_taken_once() {
    let event_loop = new_event_loop();
    let mut task = event_loop.create_task(async { String::from("x") });
    assert!(task.result().is_none());
    event_loop.run_until_complete(turn()).unwrap();
    assert_eq!(task.result().unwrap().unwrap(), "x");
    assert!(task.result().is_none());
}

#[test]
fn a_factory_makes_the_tasks_of_every_type_and_their_drop_means_the_same() {
    let event_loop = new_event_loop();
    let made = Rc::new(RefCell::new(Vec::new()));
    let noted = made.clone();
    event_loop.set_task_factory(Some(move |event_loop: &EventLoop, future: TaskFuture| {
        let task = event_loop.new_task(future);
        task.set_name(format!("made {}", task.name()));
        noted.borrow_mut().push(task.name());
        task
    }));
    assert!(event_loop.get_task_factory().is_some());
    event_loop
        .run_until_complete(async {
            assert_eq!(create_task(async { vec![1] }).await.unwrap(), [1]);
            let cancelled = create_task(pending::<u8>());
            cancelled.cancel();
            assert!(cancelled.await.unwrap_err().is_cancelled());
            let panicked = create_task(async { panic!("on purpose") });
            let outcome: Result<(), _> = panicked.await;
            assert_eq!(outcome.unwrap_err().to_string(), "the task panicked: on purpose");
        })
        .unwrap();
    assert_eq!(*made.borrow(), ["made Task-1", "made Task-2", "made Task-3", "made Task-4"]);
    event_loop.set_task_factory(None::<fn(&EventLoop, TaskFuture) -> _>);
    assert_eq!(Rc::strong_count(&made), 1);
}

#[test]
fn a_panic_that_nobody_retrieves_is_reported_with_the_name_of_the_task() {
    let event_loop = new_event_loop();
    let trace = Trace::default();
    let told = trace.clone();
    event_loop.set_exception_handler(Some(move |_: &EventLoop, context: &ExceptionContext| {
        let text = panic_message(context.exception.as_ref());
        let task = context.task.clone().unwrap();
        told.borrow_mut().push(format!("{} ({task}): {text}", context.message));
    }));
    event_loop.create_task(async { panic!("detached") }).detach();
    let kept = event_loop.create_task(async { panic!("dropped later") });
    let mut taken = event_loop.create_task(async { panic!("taken") });
    event_loop.run_until_complete(turn()).unwrap();
    assert_eq!(*trace.borrow(), ["Task exception was never retrieved (Task-1): detached"]);
    let outcome: Option<Result<(), _>> = taken.result();
    assert!(matches!(outcome, Some(Err(TaskError::Panicked(_)))));
    drop(taken);
    let _: &velodrome::Task<()> = &kept;
    drop(kept);
    assert_eq!(
        *trace.borrow(),
        [
            "Task exception was never retrieved (Task-1): detached",
            "Task exception was never retrieved (Task-2): dropped later"
        ]
    );
}

#[test]
fn a_panic_in_a_destructor_is_the_outcome() {
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a destructor");
        }
    }

    run(async {
        let task = create_task(async {
            let _bomb = Bomb;
            pending::<()>().await;
        });
        turn().await;
        task.cancel();
        let error = task.await.unwrap_err();
        assert_eq!(error.to_string(), "the task panicked: a destructor");
    })
    .unwrap();
}

#[test]
fn a_waker_of_another_thread_is_never_lost() {
    const WAKES: u32 = 100_000;
    let slot: Arc<Mutex<(u32, Option<Waker>)>> = Arc::default();
    let shared = slot.clone();
    let waking = thread::spawn(move || {
        for _ in 0..WAKES {
            let waker = {
                let mut slot = shared.lock().unwrap();
                slot.0 += 1;
                slot.1.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    });
    let polls = run(async move {
        let mut polls = 0_u32;
        poll_fn(|context| {
            polls += 1;
            let mut slot = slot.lock().unwrap();
            if slot.0 == WAKES {
                return Poll::Ready(());
            }
            slot.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        polls
    })
    .unwrap();
    assert!(polls > 0);
    waking.join().unwrap();
}

#[test]
fn wakes_before_the_next_step_are_one() {
    run(async {
        let polls = Rc::new(Cell::new(0));
        let wakers = Rc::new(RefCell::new(None::<Waker>));
        let (count, leak) = (polls.clone(), wakers.clone());
        let task = create_task(poll_fn(move |context| {
            count.set(count.get() + 1);
            context.waker().wake_by_ref();
            context.waker().wake_by_ref();
            leak.replace(Some(context.waker().clone()));
            if count.get() == 1 { Poll::Pending } else { Poll::Ready(()) }
        }));
        turn().await;
        let waker = wakers.take().unwrap();
        waker.wake_by_ref();
        waker.wake();
        task.await.unwrap();
        turn().await;
        assert_eq!(polls.get(), 2);
    })
    .unwrap();
}

#[test]
fn ten_thousand_tasks_leave_nothing() {
    let alive = Rc::new(());
    run(async {
        let tasks: Vec<_> = (0..10_000)
            .map(|number| {
                let held = alive.clone();
                create_task(async move {
                    if number % 3 == 0 {
                        turn().await;
                    }
                    drop(held);
                    number
                })
            })
            .collect();
        for (number, task) in tasks.into_iter().enumerate() {
            if number % 7 == 0 {
                task.cancel();
            } else {
                assert_eq!(task.await.unwrap(), number);
            }
        }
        assert!(get_running_loop().unwrap().all_tasks().len() <= 10_000);
    })
    .unwrap();
    assert_eq!(Rc::strong_count(&alive), 1);
}
