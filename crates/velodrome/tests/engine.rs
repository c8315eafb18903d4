//! The loop without Python: callbacks are closures.

use std::{
    cell::{Cell, RefCell},
    io::Write,
    os::{fd::AsRawFd, unix::net::UnixStream},
    rc::Rc,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use velodrome::{Clock, Engine, Errno, Host, Interest, Kind, Readiness, Source, TimerKey};

type Action = Box<dyn FnOnce(&Program) -> Result<(), &'static str>>;

/// What a loop of these tests is made of.
enum Closures {}

/// A callback is a closure, or a number that came from another thread.
enum Callback {
    Local(Action),
    Sent(u32),
    Readable(&'static str),
}

struct Timer(Action);

#[derive(Clone)]
struct Named(&'static str);

impl Kind for Closures {
    type Callback = Callback;
    type Sent = Callback;
    type Timer = Timer;
    type Source = Named;
}

impl From<Timer> for Callback {
    fn from(timer: Timer) -> Self {
        Callback::Local(timer.0)
    }
}

impl Source for Named {
    type Callback = Callback;

    fn ready(self, readiness: Readiness, push: &mut dyn FnMut(Callback)) {
        if readiness.readable {
            push(Callback::Readable(self.0));
        }
    }
}

/// A loop and what happened on it.
struct Program {
    engine: Engine<Closures>,
    trace: RefCell<Vec<String>>,
    batches: Cell<u32>,
    sleeps: Cell<u32>,
    may_look_first: Cell<bool>,
    /// What the next sleep is preceded by.
    before_sleep: Cell<Option<fn(&Program)>>,
}

impl Program {
    fn new(clock: Clock) -> Self {
        Program {
            engine: Engine::with_clock(clock),
            trace: RefCell::default(),
            batches: Cell::new(0),
            sleeps: Cell::new(0),
            may_look_first: Cell::new(false),
            before_sleep: Cell::default(),
        }
    }

    fn note(&self, what: impl Into<String>) {
        self.trace.borrow_mut().push(what.into());
    }

    fn soon(&self, action: impl FnOnce(&Program) + 'static) {
        self.try_soon(|program| {
            action(program);
            Ok(())
        });
    }

    fn try_soon(&self, action: impl FnOnce(&Program) -> Result<(), &'static str> + 'static) {
        self.engine.call_soon(Callback::Local(Box::new(action)));
    }

    fn at(&self, deadline_ns: u64, action: impl FnOnce(&Program) + 'static) -> TimerKey {
        let action: Action = Box::new(|program| {
            action(program);
            Ok(())
        });
        self.engine.call_at(deadline_ns, Timer(action))
    }

    fn run(&self) -> Result<(), &'static str> {
        self.engine.run(self)
    }

    fn trace(&self) -> Vec<String> {
        self.trace.take()
    }
}

impl Host<Closures> for Program {
    type Exit = &'static str;

    fn call(&self, callback: Callback) -> Result<(), &'static str> {
        match callback {
            Callback::Local(action) => action(self),
            Callback::Sent(number) => {
                self.note(format!("sent {number}"));
                Ok(())
            }
            Callback::Readable(name) => {
                self.note(format!("{name} readable"));
                Ok(())
            }
        }
    }

    fn falls_asleep(&self) -> Result<bool, &'static str> {
        let Some(action) = self.before_sleep.take() else { return Ok(false) };
        action(self);
        Ok(true)
    }

    fn cannot_sleep(&self, _error: Errno) -> &'static str {
        "cannot sleep"
    }

    fn sleep<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R {
        self.sleeps.set(self.sleeps.get() + 1);
        wait()
    }

    fn may_look_first(&self) -> bool {
        self.may_look_first.get()
    }

    fn polled(&self, signals: &[u8]) -> Result<(), &'static str> {
        for signal in signals {
            self.note(format!("signal {signal}"));
        }
        Ok(())
    }

    fn send_held(&self) -> Result<(), &'static str> {
        self.batches.set(self.batches.get() + 1);
        Ok(())
    }
}

#[test]
fn callbacks_run_in_the_order_in_which_they_were_queued() {
    let program = Program::new(Clock::default());
    for number in 0..3 {
        program.soon(move |program| program.note(number.to_string()));
    }
    program.soon(|program| program.engine.stop());
    program.run().unwrap();
    assert_eq!(program.trace(), ["0", "1", "2"]);
}

#[test]
fn what_is_queued_before_a_sleep_is_not_slept_over() {
    let program = Program::new(Clock::default());
    program.before_sleep.set(Some(|program| {
        program.soon(|program| {
            program.note("queued");
            program.engine.stop();
        });
    }));
    program.run().unwrap();
    assert_eq!(program.trace(), ["queued"]);
    assert_eq!(program.sleeps.get(), 0);
}

#[test]
fn a_look_before_the_sleep_finds_what_is_ready() {
    for may_look_first in [false, true] {
        let program = Program::new(Clock::default());
        program.may_look_first.set(may_look_first);
        let (reader, mut writer) = UnixStream::pair().unwrap();
        writer.write_all(b"never read").unwrap();
        let reactor = program.engine.reactor();
        reactor.register(reader.as_raw_fd(), Named("socket"), Interest::READ).unwrap();
        program.at(program.engine.now_ns() + 2_000_000, |program| program.engine.stop());
        program.run().unwrap();
        assert!(program.trace().len() > 1);
        assert_eq!(program.sleeps.get() == 0, may_look_first);
    }
}

#[test]
fn a_vain_look_is_followed_by_a_sleep_until_something_comes() {
    let program = Program::new(Clock::default());
    program.may_look_first.set(true);
    let (reader, mut writer) = UnixStream::pair().unwrap();
    let reactor = program.engine.reactor();
    reactor.register(reader.as_raw_fd(), Named("socket"), Interest::READ).unwrap();
    let peer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(2));
        writer.write_all(b"late").unwrap();
        writer
    });
    program.at(program.engine.now_ns() + 50_000_000, |program| program.engine.stop());
    program.run().unwrap();
    assert!(program.sleeps.get() > 0);
    assert_eq!(program.trace()[0], "socket readable");
    drop(peer.join().unwrap());
}

#[test]
fn what_a_callback_queues_waits_for_the_next_batch() {
    let program = Program::new(Clock::default());
    program.soon(|program| {
        program.note("first");
        program.soon(|program| program.note("added"));
    });
    program.soon(|program| {
        program.note("second");
        program.engine.stop();
    });
    program.run().unwrap();
    assert_eq!(program.trace(), ["first", "second"]);
    program.soon(|program| program.engine.stop());
    program.run().unwrap();
    assert_eq!(program.trace(), ["added"], "it was kept for the next run");
}

#[test]
fn a_stop_before_the_run_ends_it_after_one_batch() {
    let program = Program::new(Clock::default());
    program.engine.stop();
    program.soon(|program| program.note("once"));
    program.run().unwrap();
    assert_eq!((program.trace(), program.batches.get()), (vec!["once".to_owned()], 1));
}

#[test]
fn an_error_leaves_the_loop_and_the_rest_of_the_batch_stays() {
    let program = Program::new(Clock::default());
    program.try_soon(|_| Err("out"));
    program.soon(|program| {
        program.note("rest");
        program.engine.stop();
    });
    assert_eq!(program.run(), Err("out"));
    assert_eq!(program.batches.get(), 1, "the batch was finished off all the same");
    program.run().unwrap();
    assert_eq!(program.trace(), ["rest"]);
}

#[test]
fn timers_fire_when_the_clock_has_come_to_them_and_not_before() {
    let program = Program::new(Clock::Manual(Cell::new(1000)));
    program.at(1010, |program| program.note("late"));
    program.at(1000, |program| program.note("due"));
    let cancelled = program.at(1000, |program| program.note("cancelled"));
    assert!(program.engine.cancel_timer(cancelled).is_some());
    program.engine.stop();
    program.run().unwrap();
    assert_eq!(program.trace(), ["due"]);
}

#[test]
fn a_manual_clock_is_turned_to_the_next_timer_once_nothing_is_ready() {
    let hour_ns = 3_600_000_000_000;
    let program = Program::new(Clock::Manual(Cell::new(0)));
    let (reader, mut writer) = UnixStream::pair().unwrap();
    writer.write_all(b"x").unwrap();
    let fd = reader.as_raw_fd();
    program.engine.reactor().register(fd, Named("socket"), Interest::READ).unwrap();
    program.at(hour_ns, |program| program.note(program.engine.now_ns().to_string()));
    program.at(hour_ns + 1, |program| program.engine.stop());
    program.soon(move |program| {
        program.soon(move |program| {
            program.note(program.engine.now_ns().to_string());
            assert!(program.engine.reactor().deregister(fd).is_some());
        });
    });
    program.run().unwrap();
    assert_eq!(program.trace(), ["socket readable", "0", &hour_ns.to_string()]);
    assert_eq!(program.engine.now_ns(), hour_ns + 1);
}

#[test]
fn a_sleep_ends_at_its_time_and_not_early() {
    let program = Program::new(Clock::default());
    let start = Instant::now();
    let deadline_ns = program.engine.now_ns() + 20_000_000;
    program.at(deadline_ns, move |program| {
        assert!(program.engine.now_ns() >= deadline_ns);
        program.engine.stop();
    });
    program.run().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
}

#[test]
fn ready_callbacks_come_before_io_and_io_before_timers() {
    let program = Program::new(Clock::default());
    let (reader, mut writer) = UnixStream::pair().unwrap();
    writer.write_all(b"x").unwrap();
    let reactor = program.engine.reactor();
    reactor.register(reader.as_raw_fd(), Named("socket"), Interest::READ).unwrap();
    program.at(0, |program| program.note("timer"));
    program.soon(|program| program.note("soon"));
    program.engine.stop();
    program.run().unwrap();
    assert_eq!(program.trace(), ["soon", "socket readable", "timer"]);
}

#[test]
fn io_is_looked_at_while_callbacks_keep_coming() {
    fn again(program: &Program) {
        if program.trace.borrow().is_empty() {
            program.soon(again);
        } else {
            program.engine.stop();
        }
    }
    let program = Program::new(Clock::default());
    let (reader, mut writer) = UnixStream::pair().unwrap();
    let reactor = program.engine.reactor();
    reactor.register(reader.as_raw_fd(), Named("socket"), Interest::READ).unwrap();
    program.soon(move |program| {
        writer.write_all(b"x").unwrap();
        // Kept open: an end would be readable, too.
        program.soon(move |_| drop(writer));
    });
    program.soon(again);
    program.run().unwrap();
    assert_eq!(program.trace()[0], "socket readable");
}

#[test]
fn callbacks_that_become_slow_hold_io_back_for_few_of_them() {
    /// Each takes as long as the poller may be left alone.
    fn slow(program: &Program, count: Rc<Cell<u32>>) {
        if !program.trace.borrow().is_empty() {
            return program.engine.stop();
        }
        count.set(count.get() + 1);
        thread::sleep(Duration::from_micros(50));
        program.soon(move |program| slow(program, count));
    }
    fn quick(program: &Program, left: u32, writer: Rc<UnixStream>, count: Rc<Cell<u32>>) {
        if left > 0 {
            return program.soon(move |program| quick(program, left - 1, writer, count));
        }
        (&*writer).write_all(b"x").unwrap();
        slow(program, count);
    }
    // Polls that find nothing become rare; the slow ones begin anywhere between two of them.
    for number_of_quick in 200..264 {
        let program = Program::new(Clock::default());
        let (reader, writer) = UnixStream::pair().unwrap();
        let reactor = program.engine.reactor();
        reactor.register(reader.as_raw_fd(), Named("socket"), Interest::READ).unwrap();
        let (writer, count) = (Rc::new(writer), Rc::default());
        quick(&program, number_of_quick, Rc::clone(&writer), Rc::clone(&count));
        program.run().unwrap();
        assert_eq!(program.trace()[0], "socket readable");
        assert!(count.get() <= 10, "{} after {number_of_quick}", count.get());
    }
}

#[test]
fn another_thread_ends_the_sleep_and_keeps_its_order() {
    let program = Program::new(Clock::default());
    // The inbox takes what is `Send`; these callbacks are not, but for the numbers.
    struct Numbers(Arc<velodrome::Inbox<Callback>>);
    // SAFETY: the thread below pushes numbers only, and nobody else looks into the callbacks.
    unsafe impl Send for Numbers {}
    impl Numbers {
        fn push(&self, number: u32) {
            self.0.push(Callback::Sent(number)).ok().expect("the loop is open");
        }
    }
    let numbers = Numbers(Arc::clone(program.engine.inbox()));
    let (started, start) = mpsc::channel();
    let sender = thread::spawn(move || {
        start.recv().unwrap();
        for number in 0..100 {
            numbers.push(number);
        }
    });
    fn until_all(program: &Program) {
        if program.trace.borrow().len() == 100 {
            program.engine.stop();
        } else {
            let soon = program.engine.now_ns() + 1_000_000;
            program.at(soon, until_all);
        }
    }
    program.soon(move |program| {
        started.send(()).unwrap();
        until_all(program);
    });
    program.run().unwrap();
    sender.join().unwrap();
    let expected: Vec<String> = (0..100).map(|number| format!("sent {number}")).collect();
    assert_eq!(program.trace(), expected);
}

#[test]
fn signal_numbers_come_out_in_the_loop() {
    let program = Program::new(Clock::default());
    let fd = program.engine.signal_writer().unwrap();
    // SAFETY: the loop keeps the pipe open while it lives.
    let pipe = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    rustix::io::write(pipe, &[2, 15]).unwrap();
    program.engine.stop();
    program.run().unwrap();
    assert_eq!(program.trace(), ["signal 2", "signal 15"]);
}

#[test]
fn signal_numbers_of_the_last_turn_are_to_be_had_and_may_be_kept() {
    let program = Program::new(Clock::default());
    assert_eq!(program.engine.signals_since_poll(true), []);
    let fd = program.engine.signal_writer().unwrap();
    // SAFETY: the loop keeps the pipe open while it lives.
    let pipe = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    rustix::io::write(pipe, &[2, 15]).unwrap();
    assert_eq!(program.engine.signals_since_poll(true), [2, 15]);
    assert_eq!(program.engine.signals_since_poll(false), [2, 15]);
    rustix::io::write(pipe, &[10]).unwrap();
    assert_eq!(program.engine.signals_since_poll(true), [10]);
    program.engine.stop();
    program.run().unwrap();
    assert_eq!(program.trace(), ["signal 10"]);
}

#[test]
fn clearing_drops_everything_that_waits() {
    let program = Program::new(Clock::default());
    let kept = Rc::new(());
    let (a, b) = (Rc::clone(&kept), Rc::clone(&kept));
    program.soon(move |_| drop(a));
    program.at(u64::MAX, move |_| drop(b));
    assert_eq!(Rc::strong_count(&kept), 3);
    program.engine.clear();
    assert_eq!(Rc::strong_count(&kept), 1);
}
