//! The same scripts on this loop and on CPython's asyncio: the order of everything must be the same.
//!
//! A script is programs, divided by `;`; each is a task. See `differential.py` for what the steps mean.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env,
    io::Write,
    process::{Command, Stdio},
    rc::Rc,
    time::Duration,
};

use velodrome::{Event, Lock, Queue, TaskHandle, create_task, get_running_loop, run, sleep};

const SCRIPTS: u64 = 300;

struct Script {
    programs: Vec<Vec<String>>,
    trace: RefCell<Vec<String>>,
    tasks: RefCell<BTreeMap<usize, TaskHandle>>,
    event: Event,
    lock: Lock,
    queue: Queue<usize>,
}

struct Over(Rc<Script>, usize);

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

    fn spawn(self: &Rc<Self>, number: usize) {
        if self.tasks.borrow().contains_key(&number) {
            return;
        }
        let script = self.clone();
        let task = create_task(async move {
            // A coroutine that never begins has no `finally`.
            let _over = Over(script.clone(), number);
            for (at, step) in script.programs[number].iter().enumerate() {
                script.note(format!("{number}.{at}"));
                script.step(number, at, step).await;
            }
        });
        task.add_done_callback(self.noting(format!("{number}done")));
        self.tasks.borrow_mut().insert(number, task.handle());
        task.detach();
    }

    async fn step(self: &Rc<Self>, number: usize, at: usize, step: &str) {
        let event_loop = get_running_loop().unwrap();
        let argument = step[1..].parse().unwrap_or(0);
        match &step[..1] {
            "y" => sleep(Duration::ZERO).await,
            "c" => drop(event_loop.call_soon(self.noting(format!("{number}.{at}called")))),
            "k" => event_loop.call_soon(self.noting("never".into())).cancel(),
            "t" => {
                let note = self.noting(format!("{number}.{at}timer"));
                drop(event_loop.call_later(Duration::ZERO, note));
            }
            "s" => self.spawn(argument),
            "x" if argument != number => {
                let task = self.tasks.borrow().get(&argument).cloned();
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
                self.note(format!("{number}.{at}locked"));
                for _ in 0..argument {
                    sleep(Duration::ZERO).await;
                }
            }
            "p" => self.queue.put(number).await,
            "g" => {
                let item = self.queue.get().await;
                self.note(format!("{number}.{at}got{item}"));
            }
            _ => {}
        }
    }
}

fn on_velodrome(line: &str) -> String {
    run(async {
        let script = Rc::new(Script {
            programs: line
                .split(';')
                .map(|program| program.split_whitespace().map(str::to_owned).collect())
                .collect(),
            trace: RefCell::default(),
            tasks: RefCell::default(),
            event: Event::new(),
            lock: Lock::default(),
            queue: Queue::bounded(2),
        });
        script.spawn(0);
        for _ in 0..80 {
            sleep(Duration::ZERO).await;
        }
        script.trace.take().join(" ")
    })
    .unwrap()
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
                    match below(12) {
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
                        _ => "g".into(),
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

#[test]
fn any_script_has_the_same_trace_on_asyncio() {
    let scripts: Vec<String> = (1..=SCRIPTS).map(random_script).collect();
    let expected = on_asyncio(&scripts);
    assert_eq!(expected.len(), scripts.len());
    for (line, expected) in scripts.into_iter().zip(expected) {
        if on_velodrome(&line) != expected {
            let line = shortest(line);
            let theirs = on_asyncio(std::slice::from_ref(&line));
            panic!("{line}\nasyncio:   {}\nvelodrome: {}", theirs[0], on_velodrome(&line));
        }
    }
}
