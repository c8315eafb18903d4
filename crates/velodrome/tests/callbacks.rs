//! call_soon, call_later, call_at, call_soon_threadsafe, and what becomes of panics.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use velodrome::{
    EventLoop, ExceptionContext, ThreadsafeHandle, new_event_loop, panic_message, sleep,
};

type Trace = Rc<RefCell<Vec<String>>>;

fn note(trace: &Trace, what: impl Into<String>) -> impl FnOnce() + 'static {
    let (trace, what) = (trace.clone(), what.into());
    move || trace.borrow_mut().push(what)
}

fn run_for(event_loop: &EventLoop, time: Duration) {
    event_loop.run_until_complete(sleep(time)).unwrap();
}

#[test]
fn callbacks_run_in_the_order_of_the_calls_and_what_they_add_comes_after() {
    let event_loop = new_event_loop();
    let trace = Trace::default();
    for number in 0..3 {
        let (again, trace) = (event_loop.clone(), trace.clone());
        event_loop.call_soon(move || {
            trace.borrow_mut().push(format!("{number}"));
            again.call_soon(note(&trace, format!("{number} later")));
        });
    }
    run_for(&event_loop, Duration::ZERO);
    assert_eq!(*trace.borrow(), ["0", "1", "2", "0 later", "1 later", "2 later"]);
}

#[test]
fn a_cancelled_callback_is_dropped_at_once() {
    let event_loop = new_event_loop();
    let held = Rc::new(());
    let (a, b) = (held.clone(), held.clone());
    let soon = event_loop.call_soon(move || drop(a));
    let later = event_loop.call_later(Duration::from_secs(60), move || drop(b));
    assert_eq!(Rc::strong_count(&held), 3);
    assert!(!soon.cancelled() && !later.cancelled());
    soon.cancel();
    later.cancel();
    later.cancel();
    assert_eq!(Rc::strong_count(&held), 1);
    assert!(soon.cancelled() && later.cancelled());
    run_for(&event_loop, Duration::ZERO);
}

#[test]
fn a_callback_may_cancel_the_next_one_and_itself() {
    let event_loop = new_event_loop();
    let trace = Trace::default();
    let handles = Rc::new(RefCell::new(Vec::new()));
    let all = handles.clone();
    let first =
        event_loop.call_soon(move || all.borrow().iter().for_each(velodrome::Handle::cancel));
    let second = event_loop.call_soon(note(&trace, "never"));
    handles.borrow_mut().extend([first, second]);
    event_loop.call_soon(note(&trace, "last"));
    run_for(&event_loop, Duration::ZERO);
    assert_eq!(*trace.borrow(), ["last"]);
}

#[test]
fn timers_are_never_early_and_come_in_order() {
    let event_loop = new_event_loop();
    let trace = Trace::default();
    let start = Instant::now();
    let early = Rc::new(Cell::new(0));
    for delay in [5_u64, 1, 3, 2, 4, 0] {
        let (trace, early) = (trace.clone(), early.clone());
        event_loop.call_later(Duration::from_millis(delay), move || {
            if start.elapsed() < Duration::from_millis(delay) {
                early.set(early.get() + 1);
            }
            trace.borrow_mut().push(delay.to_string());
        });
    }
    let when = event_loop.time() + Duration::from_millis(6);
    for number in 6..9 {
        let timer = event_loop.call_at(when, note(&trace, number.to_string()));
        assert_eq!(timer.when(), when);
    }
    run_for(&event_loop, Duration::from_millis(10));
    assert_eq!(*trace.borrow(), ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(early.get(), 0);
}

#[test]
fn a_time_beyond_all_time_never_comes_and_is_no_error() {
    let event_loop = new_event_loop();
    let timer = event_loop.call_later(Duration::MAX, || unreachable!());
    event_loop.call_at(Duration::MAX, || unreachable!());
    run_for(&event_loop, Duration::from_millis(1));
    timer.cancel();
}

#[test]
fn what_is_ready_runs_before_a_timer_that_is_due() {
    let event_loop = new_event_loop();
    let trace = Trace::default();
    event_loop.call_later(Duration::ZERO, note(&trace, "timer"));
    event_loop.call_soon(note(&trace, "soon"));
    run_for(&event_loop, Duration::ZERO);
    assert_eq!(*trace.borrow(), ["soon", "timer"]);
}

#[test]
fn calls_from_threads_arrive_each_in_its_order_and_wake_a_loop_that_sleeps() {
    const THREADS: usize = 4;
    const CALLS: u32 = 2000;
    let event_loop = new_event_loop();
    let arrived: Arc<[AtomicU32; THREADS]> = Arc::default();
    let threads: Vec<_> = (0..THREADS)
        .map(|sender| {
            let (handle, arrived) = (event_loop.handle(), arrived.clone());
            thread::spawn(move || {
                for number in 0..CALLS {
                    let arrived = arrived.clone();
                    handle
                        .call_soon_threadsafe(move || {
                            assert_eq!(arrived[sender].fetch_add(1, Relaxed), number);
                        })
                        .unwrap();
                }
            })
        })
        .collect();
    event_loop
        .run_until_complete(async {
            while arrived.iter().map(|count| count.load(Relaxed)).sum::<u32>() < 4 * CALLS {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_call_from_a_thread_stops_a_loop_that_sleeps_for_ever() {
    let event_loop = new_event_loop();
    let stopper = event_loop.handle();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        let stop = || velodrome::get_running_loop().unwrap().stop();
        stopper.call_soon_threadsafe(stop).unwrap();
    });
    event_loop.run_forever().unwrap();
}

#[test]
fn a_call_from_a_thread_is_cancelled_in_any_thread_and_dropped_there() {
    struct DropsIn(mpsc::Sender<thread::ThreadId>);
    impl Drop for DropsIn {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    let event_loop = new_event_loop();
    let (dropped, dropped_in) = mpsc::channel();
    let given = DropsIn(dropped);
    let handle = event_loop
        .handle()
        .call_soon_threadsafe(move || {
            let _given = given;
            unreachable!()
        })
        .unwrap();
    let other = handle.clone();
    let canceller = thread::spawn(move || {
        assert!(!other.cancelled());
        other.cancel();
        thread::current().id()
    });
    assert_eq!(canceller.join().unwrap(), dropped_in.try_recv().unwrap());
    assert!(handle.cancelled());
    run_for(&event_loop, Duration::ZERO);
}

#[test]
fn a_call_that_cancels_itself_is_called() {
    let event_loop = new_event_loop();
    let (give, given) = mpsc::channel::<ThreadsafeHandle>();
    let (done, is_done) = mpsc::channel();
    let handle = event_loop
        .handle()
        .call_soon_threadsafe(move || {
            given.recv().unwrap().cancel();
            done.send(()).unwrap();
        })
        .unwrap();
    give.send(handle.clone()).unwrap();
    run_for(&event_loop, Duration::ZERO);
    is_done.try_recv().unwrap();
    assert!(handle.cancelled());
}

#[test]
fn a_handle_does_not_keep_what_a_closed_loop_has_not_called() {
    let event_loop = new_event_loop();
    let value = Arc::new(());
    let given = value.clone();
    let handle = event_loop.handle().call_soon_threadsafe(move || drop(given)).unwrap();
    event_loop.close().unwrap();
    assert_eq!(Arc::strong_count(&value), 1);
    assert!(!handle.cancelled());
}

#[test]
fn calls_that_are_cancelled_while_the_loop_runs_leave_nothing() {
    const CALLS: u32 = 2000;
    let event_loop = new_event_loop();
    let called = Arc::new(AtomicU32::new(0));
    let (loop_handle, count) = (event_loop.handle(), called.clone());
    let sender = thread::spawn(move || {
        for _ in 0..CALLS {
            let count = count.clone();
            let call = move || {
                count.fetch_add(1, Relaxed);
            };
            loop_handle.call_soon_threadsafe(call).unwrap().cancel();
        }
        let stop = || velodrome::get_running_loop().unwrap().stop();
        loop_handle.call_soon_threadsafe(stop).unwrap();
    });
    event_loop.run_forever().unwrap();
    sender.join().unwrap();
    assert!(called.load(Relaxed) <= CALLS);
    assert_eq!(Arc::strong_count(&called), 1);
}

#[test]
fn a_panic_is_told_to_the_handler_and_the_loop_goes_on() {
    let event_loop = new_event_loop();
    let trace = Trace::default();
    let told = trace.clone();
    event_loop.set_exception_handler(Some(move |of: &EventLoop, context: &ExceptionContext| {
        assert!(of.is_running());
        let text = panic_message(context.exception.as_ref());
        told.borrow_mut().push(format!("{}: {text}", context.message));
    }));
    assert!(event_loop.get_exception_handler().is_some());
    event_loop.call_soon(|| panic!("first"));
    event_loop.call_later(Duration::ZERO, || panic!("{}", "second"));
    event_loop.call_soon(note(&trace, "between"));
    run_for(&event_loop, Duration::from_millis(1));
    assert_eq!(
        *trace.borrow(),
        ["Exception in callback: first", "between", "Exception in callback: second"]
    );
}

#[test]
fn a_handler_that_panics_or_takes_itself_away_does_no_harm() {
    let event_loop = new_event_loop();
    let calls = Rc::new(Cell::new(0));
    let count = calls.clone();
    event_loop.set_exception_handler(Some(move |of: &EventLoop, _: &ExceptionContext| {
        count.set(count.get() + 1);
        of.set_exception_handler(None::<fn(&EventLoop, &ExceptionContext)>);
        panic!("the handler");
    }));
    event_loop.call_soon(|| panic!("first"));
    event_loop.call_soon(|| panic!("second"));
    run_for(&event_loop, Duration::ZERO);
    assert_eq!(calls.get(), 1);
    assert!(event_loop.get_exception_handler().is_none());
    assert_eq!(Rc::strong_count(&calls), 1, "the handler is gone");
}
