//! The same scripts on this loop and on CPython's asyncio: the order of everything must be the same.
//!
//! A script is programs, divided by `;`; each is a task. See `differential.py` for what the steps mean.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    env,
    io::{Read, Write},
    os::unix::net::UnixStream,
    panic::resume_unwind,
    process::{Command, Stdio},
    rc::Rc,
    time::Duration,
};

use velodrome::{
    Async, Clock, Condition, Event, EventLoop, Lock, Queue, Semaphore, TaskHandle, create_task,
    gather, sleep, task_group, timeout,
};

const SCRIPTS: u64 = 400;
/// Milliseconds on the hand-turned clock: room for what each program does at a time of its own.
const UNIT: u64 = 64;

struct Script {
    event_loop: EventLoop,
    programs: Vec<Vec<String>>,
    trace: RefCell<Vec<String>>,
    tasks: RefCell<BTreeMap<usize, TaskHandle>>,
    not_to_cancel: RefCell<BTreeSet<usize>>,
    is_over: Cell<bool>,
    event: Event,
    lock: Lock,
    semaphore: Semaphore,
    condition: Condition,
    queue: Queue<usize>,
    streams: RefCell<Vec<(Rc<Async<UnixStream>>, UnixStream)>>,
    watched: Vec<(UnixStream, UnixStream)>,
    readers: RefCell<BTreeSet<usize>>,
}

struct Over(Rc<Script>, String);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.note(format!("{}over", self.1));
    }
}

impl Script {
    fn note(&self, what: String) {
        self.trace.borrow_mut().push(what);
    }

    fn noting(self: &Rc<Self>, what: String) -> impl FnOnce() + 'static {
        let script = self.clone();
        move || script.note(what)
    }

    /// How long it is to a time of so many units from now; of the next unit, at least.
    fn until(&self, units: u64, ticks: u64) -> Duration {
        let now = u64::try_from(self.event_loop.time().as_millis()).unwrap();
        Duration::from_millis((now / UNIT + 1 + units) * UNIT + ticks - now)
    }

    fn later(self: &Rc<Self>, delay: Duration, action: impl FnOnce(Rc<Self>) + 'static) {
        let script = self.clone();
        self.event_loop.call_later(delay, move || action(script));
    }

    fn spawn(self: &Rc<Self>, number: usize) {
        if self.tasks.borrow().contains_key(&number) {
            return;
        }
        let script = self.clone();
        let task = create_task(async move {
            // A coroutine that never begins has no `finally`.
            let _over = Over(script.clone(), number.to_string());
            for (at, step) in script.programs[number].iter().enumerate() {
                script.note(format!("{number}.{at}"));
                script.step(number, at, step).await;
            }
        });
        task.add_done_callback(self.noting(format!("{number}done")));
        self.tasks.borrow_mut().insert(number, task.handle());
        task.detach();
    }

    async fn child(self: Rc<Self>, name: String, yields: u64, sleeps: bool, fails: bool) -> String {
        let _over = Over(self.clone(), name.clone());
        self.note(format!("{name}begins"));
        for _ in 0..yields {
            sleep(Duration::ZERO).await;
        }
        if sleeps {
            sleep(self.until(0, 0)).await;
        }
        if fails {
            resume_unwind(Box::new("failed"));
        }
        name
    }

    fn children(
        self: &Rc<Self>,
        name: &str,
        argument: u64,
        fails: bool,
    ) -> Vec<impl Future<Output = String> + use<>> {
        let child = |place| {
            let fails = fails && place == argument % 2;
            self.clone().child(format!("{name}c{place}"), place + argument, argument >= 3, fails)
        };
        (0..1 + argument % 3).map(child).collect()
    }

    async fn wait_for_tasks(self: &Rc<Self>, name: &str, op: &str, argument: u64) {
        let is_ok = match op {
            "a" => {
                let child = self.clone().child(format!("{name}a"), argument, argument >= 3, false);
                create_task(child).await.unwrap();
                self.note(format!("{name}awaited"));
                true
            }
            "G" => {
                let names = gather(self.children(name, argument, argument == 5)).await;
                let text = names.as_ref().map(|names| names.join(","));
                text.map(|names| self.note(format!("{name}gathered{names}"))).is_ok()
            }
            _ => {
                let grouped = task_group(async |group| {
                    for child in self.children(name, argument, argument % 3 == 2) {
                        group.create_task(child).detach();
                    }
                    sleep(Duration::ZERO).await;
                    self.note(format!("{name}body"));
                    if argument % 2 == 1 {
                        sleep(self.until(1, 0)).await;
                        self.note(format!("{name}bodyslept"));
                    }
                });
                grouped.await.map(|()| self.note(format!("{name}grouped"))).is_ok()
            }
        };
        if !is_ok {
            self.note(format!("{name}failed"));
        }
    }

    fn write(&self, number: usize) {
        for number in [number, (number + 1) % self.programs.len()] {
            (&self.streams.borrow()[number].1).write_all(b"x").unwrap();
            (&self.watched[number].1).write_all(b"x").unwrap();
        }
    }

    fn toggle_reader(self: &Rc<Self>, number: usize) {
        let (end, _) = &self.watched[number];
        if self.readers.borrow_mut().remove(&number) {
            assert!(self.event_loop.remove_reader(end));
            return;
        }
        self.readers.borrow_mut().insert(number);
        let script = Rc::downgrade(self);
        let read = move || {
            let script = script.upgrade().unwrap();
            let count = (&script.watched[number].0).read(&mut [0; 16]).unwrap();
            script.note(format!("{number}readable{count}"));
        };
        self.event_loop.add_reader(end, read).unwrap();
    }

    async fn step(self: &Rc<Self>, number: usize, at: usize, step: &str) {
        let event_loop = &self.event_loop;
        let argument: u64 = step[1..].parse().unwrap_or(0);
        let other = argument as usize;
        let name = format!("{number}.{at}");
        match &step[..1] {
            "y" => sleep(Duration::ZERO).await,
            "c" => drop(event_loop.call_soon(self.noting(format!("{name}called")))),
            "k" => event_loop.call_soon(self.noting("never".into())).cancel(),
            "t" => {
                let note = self.noting(format!("{name}timer"));
                drop(event_loop.call_later(Duration::ZERO, note));
            }
            "D" => {
                let note = self.noting(format!("{name}later"));
                drop(event_loop.call_later(self.until(argument, 0), note));
            }
            "K" => {
                let never = self.noting("never".into());
                event_loop.call_later(self.until(argument, 0), never).cancel();
            }
            "d" => sleep(self.until(argument, 0)).await,
            "o" => {
                let limit = self.until(argument / 2, 32 + number as u64);
                let within = timeout(limit, async {
                    if argument % 2 == 1 {
                        sleep(self.until(1, 0)).await;
                    } else {
                        self.event.wait().await;
                    }
                });
                let how = if within.await.is_ok() { "intime" } else { "late" };
                self.note(format!("{name}{how}"));
            }
            op @ ("a" | "G" | "T") => {
                self.not_to_cancel.borrow_mut().insert(number);
                self.wait_for_tasks(&name, op, argument).await;
                self.not_to_cancel.borrow_mut().remove(&number);
            }
            "S" => event_loop.stop(),
            "w" => {
                let delay = self.until(0, 16 + number as u64);
                self.later(delay, move |script| script.write(other));
            }
            "R" => {
                let delay = self.until(0, 48 + number as u64);
                self.later(delay, move |script| script.toggle_reader(number));
            }
            "r" => {
                let stream = self.streams.borrow()[number].0.clone();
                let read = stream.read_with(|mut stream| stream.read(&mut [0; 16]));
                let count = read.await.unwrap();
                self.note(format!("{name}read{count}"));
            }
            "s" => self.spawn(other),
            "x" if other != number && !self.not_to_cancel.borrow().contains(&other) => {
                let task = self.tasks.borrow().get(&other).cloned();
                if let Some(task) = task {
                    task.cancel();
                }
            }
            "e" => self.event.wait().await,
            "E" => {
                self.event.set();
                self.event.clear();
            }
            "l" => {
                let _guard = self.lock.acquire().await;
                self.note(format!("{name}locked"));
                for _ in 0..argument {
                    sleep(Duration::ZERO).await;
                }
            }
            "C" => {
                self.not_to_cancel.borrow_mut().insert(number);
                let guard = self.condition.acquire().await;
                self.note(format!("{name}waits"));
                let _guard = guard.wait().await;
                self.note(format!("{name}notified"));
                self.not_to_cancel.borrow_mut().remove(&number);
            }
            "N" => self.condition.acquire().await.notify(other),
            "m" => {
                let _permit = self.semaphore.acquire().await;
                self.note(format!("{name}permitted"));
                for _ in 0..argument {
                    sleep(Duration::ZERO).await;
                }
            }
            "p" => self.queue.put(number).await,
            "g" => {
                let item = self.queue.get().await;
                self.note(format!("{name}got{item}"));
            }
            _ => {}
        }
    }
}

/// A pair of ends that do not block.
fn pair() -> (UnixStream, UnixStream) {
    let (one, other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    (one, other)
}

fn on_velodrome(line: &str) -> String {
    let event_loop = EventLoop::with_clock(Clock::Manual(Cell::new(0)));
    let programs: Vec<Vec<String>> = line
        .split(';')
        .map(|program| program.split_whitespace().map(str::to_owned).collect())
        .collect();
    let script = Rc::new(Script {
        event_loop: event_loop.clone(),
        trace: RefCell::default(),
        tasks: RefCell::default(),
        not_to_cancel: RefCell::default(),
        is_over: Cell::new(false),
        event: Event::new(),
        lock: Lock::default(),
        semaphore: Semaphore::new(2),
        condition: Condition::default(),
        queue: Queue::bounded(2),
        streams: RefCell::default(),
        watched: programs.iter().map(|_| pair()).collect(),
        readers: RefCell::default(),
        programs,
    });
    script.later(Duration::from_millis(1000 * UNIT), |script| {
        script.is_over.set(true);
        script.event_loop.stop();
    });
    let begun = script.clone();
    event_loop.call_soon(move || {
        let stream = |(end, peer)| (Rc::new(Async::new(end).unwrap()), peer);
        *begun.streams.borrow_mut() = begun.programs.iter().map(|_| stream(pair())).collect();
        begun.spawn(0);
    });
    while !script.is_over.get() {
        event_loop.run_forever().unwrap();
        script.note("stopped".into());
    }
    let trace = script.trace.take().join(" ");
    event_loop.close().unwrap();
    trace
}

fn on_asyncio(lines: &[String]) -> Vec<String> {
    let python = env::var("PYO3_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut child = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a Python, to compare with");
    let mut stdin = child.stdin.take().unwrap();
    let text = lines.join("\n") + "\n";
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A script of six programs. The first begins all others sooner or later.
fn random_script(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = |limit: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let programs: Vec<String> = (0..6)
        .map(|number| {
            let mut steps: Vec<String> = (0..1 + below(8))
                .map(|_| {
                    let argument = below(6);
                    match below(32) {
                        0 | 1 => "y".into(),
                        2 => "c".into(),
                        3 => "t".into(),
                        4 => "k".into(),
                        5 => format!("s{argument}"),
                        6 => format!("x{argument}"),
                        7 => "e".into(),
                        8 => "E".into(),
                        9 => format!("l{}", argument / 2),
                        10 => "p".into(),
                        11 => "g".into(),
                        12 => format!("D{}", argument / 2),
                        13 => format!("K{}", argument / 2),
                        14 | 15 => format!("d{}", argument / 2),
                        16 => format!("o{argument}"),
                        17 => format!("a{argument}"),
                        18 => format!("G{argument}"),
                        19 => format!("T{argument}"),
                        20 => "S".into(),
                        21 | 22 => format!("w{argument}"),
                        23 => "R".into(),
                        26 | 27 => "C".into(),
                        28 | 29 => format!("N{}", argument / 2),
                        24 | 25 => format!("m{}", argument / 2),
                        _ => "r".into(),
                    }
                })
                .collect();
            if number == 0 {
                (1..6).for_each(|other| steps.insert(below(2) as usize, format!("s{other}")));
            }
            steps.join(" ")
        })
        .collect();
    programs.join(";")
}

/// Drops steps as long as the two still differ.
fn shortest(line: String) -> String {
    let mut steps: Vec<String> =
        line.replace(';', " ; ").split_whitespace().map(str::to_owned).collect();
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        let dropped = fewer.remove(at);
        let line = fewer.join(" ");
        if dropped != ";" && on_asyncio(std::slice::from_ref(&line)) != [on_velodrome(&line)] {
            steps = fewer;
        } else {
            at += 1;
        }
    }
    steps.join(" ")
}

fn compare(scripts: Vec<String>) -> Vec<String> {
    let traces = on_asyncio(&scripts);
    assert_eq!(traces.len(), scripts.len());
    for (line, expected) in scripts.into_iter().zip(&traces) {
        if on_velodrome(&line) != *expected {
            let line = shortest(line);
            let theirs = on_asyncio(std::slice::from_ref(&line));
            panic!("{line}\nasyncio:   {}\nvelodrome: {}", theirs[0], on_velodrome(&line));
        }
    }
    traces
}

/// `DIFFERENTIAL_SCRIPTS=20000 cargo test` looks longer.
#[test]
fn any_script_has_the_same_trace_on_asyncio() {
    let count = env::var("DIFFERENTIAL_SCRIPTS").map_or(SCRIPTS, |count| count.parse().unwrap());
    let traces = compare((1..=count).map(random_script).collect()).join(" ");
    // All that can happen has happened.
    for what in [
        "called",
        "timer",
        "later",
        "late ",
        "intime",
        "awaited",
        "gathered",
        "failed",
        "body ",
        "bodyslept",
        "grouped",
        "stopped",
        "read1",
        "read2",
        "readable1",
        "readable2",
        "locked",
        "got",
    ] {
        let times = traces.matches(what).count();
        assert!(times >= 5, "{what}: {times}");
    }
    assert!(!traces.contains("never"));
}

/// Found by chance, and mended.
#[test]
fn scripts_that_once_differed_have_the_same_trace() {
    let scripts = [
        // A task group cancelled the others in the step that failed, not in its callback.
        "s3 s1 ; T2 ; ; y T1 ; ;",
        // A queue gave its turn to a task that had been cancelled before.
        "s5 s4 T1 x5 p ; ; ; ; o0 g ; g",
        // But a lock does, which passes it on.
        "s1 s3 s2 ; l1 ; x3 l0 ; l0 ; ;",
        // A semaphore gave a free permit past a task that had one waiting for it.
        "s3 s2 m2 ; ; m0 ; m2 m1 ; ;",
    ];
    compare(scripts.map(str::to_owned).into());
}
