//! Which loop is whose, and how loops run and end.

use std::{
    cell::{Cell, RefCell},
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use velodrome::{
    DefaultEventLoopPolicy, Error, EventLoop, EventLoopPolicy, create_task, get_event_loop,
    get_running_loop, new_event_loop, run, set_event_loop, set_event_loop_policy, sleep,
};

const SHORT: Duration = Duration::from_millis(1);

#[test]
fn there_is_no_current_loop_until_one_is_set_and_none_after_it_is_unset() {
    assert!(matches!(get_event_loop(), Err(Error::NoCurrentLoop)));
    assert!(matches!(get_running_loop(), Err(Error::NoRunningLoop)));
    let event_loop = new_event_loop();
    assert!(get_event_loop().is_err(), "a new loop is nobody's");
    set_event_loop(Some(event_loop));
    assert!(get_event_loop().is_ok());
    assert!(get_running_loop().is_err());
    set_event_loop(None);
    assert!(get_event_loop().is_err());
}

#[test]
fn a_running_loop_comes_before_the_current_one() {
    let (current, running) = (new_event_loop(), new_event_loop());
    current.close().unwrap();
    set_event_loop(Some(current));
    let closed = running.run_until_complete(async { get_event_loop().unwrap().is_closed() });
    assert!(!closed.unwrap());
    set_event_loop(None);
}

#[test]
fn each_thread_has_its_own_loop() {
    let event_loop = new_event_loop();
    set_event_loop(Some(event_loop.clone()));
    let threads: Vec<_> = (0..4)
        .map(|number| {
            thread::spawn(move || {
                assert!(get_event_loop().is_err());
                set_event_loop(Some(new_event_loop()));
                let event_loop = get_event_loop().unwrap();
                let outcome = event_loop.run_until_complete(async {
                    sleep(SHORT).await;
                    number
                });
                outcome.unwrap()
            })
        })
        .collect();
    let numbers: Vec<i32> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert!(!event_loop.is_closed());
    set_event_loop(None);
}

#[test]
fn a_policy_makes_the_loops_and_knows_the_current_one() {
    struct Counting {
        made: Cell<u32>,
        set: RefCell<Vec<bool>>,
    }

    impl EventLoopPolicy for Counting {
        fn get_event_loop(&self) -> Result<EventLoop, Error> {
            Ok(self.new_event_loop())
        }

        fn set_event_loop(&self, event_loop: Option<EventLoop>) {
            self.set.borrow_mut().push(event_loop.is_some());
        }

        fn new_event_loop(&self) -> EventLoop {
            self.made.set(self.made.get() + 1);
            DefaultEventLoopPolicy.new_event_loop()
        }
    }

    let policy = Rc::new(Counting { made: Cell::new(0), set: RefCell::default() });
    set_event_loop_policy(Some(policy.clone()));
    assert!(get_event_loop().is_ok(), "this policy makes one for whoever asks");
    assert_eq!(run(async { 1 }).unwrap(), 1);
    assert_eq!(policy.made.get(), 2);
    assert_eq!(*policy.set.borrow(), [true, false]);
    set_event_loop_policy(None);
    assert!(get_event_loop().is_err());
    assert_eq!(Rc::strong_count(&policy), 1);
}

#[test]
fn stop_before_a_run_ends_it_after_one_turn() {
    let event_loop = new_event_loop();
    let calls = Rc::new(Cell::new(0));
    let (again, count) = (event_loop.clone(), calls.clone());
    event_loop.call_soon(move || {
        count.set(count.get() + 1);
        again.call_soon(move || count.set(count.get() + 10));
    });
    event_loop.stop();
    event_loop.run_forever().unwrap();
    assert_eq!(calls.get(), 1, "what a callback adds waits for the next turn");
    event_loop.stop();
    event_loop.run_forever().unwrap();
    assert_eq!(calls.get(), 11);
}

#[test]
fn a_loop_that_was_stopped_runs_again() {
    let event_loop = new_event_loop();
    let stop = event_loop.clone();
    let stopped = event_loop.run_until_complete(async move {
        stop.stop();
        pending::<()>().await;
    });
    assert!(matches!(stopped, Err(Error::Stopped)));
    // The first run's task has ended with it, and must not end this one.
    let slept = event_loop.run_until_complete(async {
        sleep(SHORT).await;
        7
    });
    assert_eq!(slept.unwrap(), 7);
}

#[test]
fn a_future_that_is_done_in_the_turn_of_a_stop_has_its_output_and_leaves_nothing_behind() {
    let event_loop = new_event_loop();
    let stop = event_loop.clone();
    let outcome = event_loop.run_until_complete(async move {
        stop.stop();
        1
    });
    assert_eq!(outcome.unwrap(), 1);
    let slept = event_loop.run_until_complete(async {
        sleep(SHORT).await;
        2
    });
    assert_eq!(slept.unwrap(), 2);
}

#[test]
fn a_run_may_borrow() {
    let event_loop = new_event_loop();
    let mut words = vec![String::from("one")];
    event_loop
        .run_until_complete(async {
            sleep(SHORT).await;
            words.push("two".into());
        })
        .unwrap();
    assert_eq!(words, ["one", "two"]);
}

async fn hold<T>(_held: T, waiting: impl Future) {
    waiting.await;
}

#[test]
fn a_stopped_run_has_let_go_of_what_it_borrowed() {
    let event_loop = new_event_loop();
    let value = RefCell::new(1);
    let stop = event_loop.clone();
    let stopped = event_loop.run_until_complete(async {
        let waiting = pending::<()>();
        stop.stop();
        hold(value.borrow_mut(), waiting).await;
    });
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(value.into_inner(), 1);
}

#[test]
fn a_panic_of_the_future_goes_on_outside_and_the_loop_can_run_again() {
    let event_loop = new_event_loop();
    let told = Rc::new(Cell::new(false));
    let note = told.clone();
    event_loop.set_exception_handler(Some(move |_: &EventLoop, _: &_| note.set(true)));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        event_loop.run_until_complete(async {
            sleep(SHORT).await;
            panic!("on purpose");
        })
    }));
    assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "on purpose");
    assert!(!event_loop.is_running());
    assert!(get_running_loop().is_err());
    assert_eq!(event_loop.run_until_complete(async { 2 }).unwrap(), 2);
    assert!(!told.get(), "who ran it has heard of it");
}

#[test]
fn a_closed_loop_refuses_to_run_and_drops_what_it_is_given() {
    let event_loop = new_event_loop();
    event_loop.close().unwrap();
    event_loop.close().unwrap();
    assert!(event_loop.is_closed());
    assert!(matches!(event_loop.run_forever(), Err(Error::Closed)));
    assert!(matches!(event_loop.run_until_complete(async {}), Err(Error::Closed)));
    let given = Rc::new(());
    let (a, b, c) = (given.clone(), given.clone(), given.clone());
    assert!(event_loop.call_soon(move || drop(a)).cancelled());
    assert!(event_loop.call_later(SHORT, move || drop(b)).cancelled());
    let mut task = event_loop.create_task(async move { drop(c) });
    assert!(task.result().unwrap().unwrap_err().is_cancelled());
    assert_eq!(Rc::strong_count(&given), 1);
    let refused = event_loop.handle().call_soon_threadsafe(|| unreachable!());
    assert!(matches!(refused, Err(Error::Closed)));
}

#[test]
fn a_handle_of_another_thread_outlives_the_loop() {
    let event_loop = new_event_loop();
    let handle = event_loop.handle();
    drop(event_loop);
    let value = Arc::new(());
    let given = value.clone();
    let taken = thread::spawn(move || handle.call_soon_threadsafe(move || drop(given)));
    assert!(matches!(taken.join().unwrap(), Err(Error::Closed)));
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn run_cancels_what_is_left_and_waits_for_the_threads() {
    let alive = Rc::new(());
    let done = Arc::new(Mutex::new(false));
    let (held, noted) = (alive.clone(), done.clone());
    run(async move {
        create_task(async move {
            let _held = held;
            pending::<()>().await;
        })
        .detach();
        drop(get_running_loop().unwrap().run_in_executor(move || {
            thread::sleep(Duration::from_millis(20));
            *noted.lock().unwrap() = true;
        }));
        sleep(Duration::ZERO).await;
    })
    .unwrap();
    assert_eq!(Rc::strong_count(&alive), 1);
    assert!(*done.lock().unwrap());
    assert!(get_event_loop().is_err());
}

#[test]
fn the_time_is_that_of_the_timers() {
    let event_loop = new_event_loop();
    let before = event_loop.time();
    event_loop.run_until_complete(sleep(Duration::from_millis(5))).unwrap();
    assert!(event_loop.time() - before >= Duration::from_millis(5));
}
