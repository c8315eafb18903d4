//! Pipes, child processes, signals, and callbacks of descriptors.

use std::{
    cell::{Cell, RefCell},
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    os::unix::process::ExitStatusExt,
    process::Stdio,
    rc::Rc,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    fs::{OFlags, fcntl_getfl},
    process::{getpid, kill_process},
};
use velodrome::{
    Async, Command, PipeReader, PipeWriter, Semaphore, Signal, create_task, gather, new_event_loop,
    run, signal, sleep, timeout,
};

const LONG: Duration = Duration::from_secs(10);

/// Signals are the whole process's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn a_megabyte_goes_through_a_pipe_and_its_end_is_seen() {
    run(async {
        let (reader, writer) = io::pipe().unwrap();
        let (reader, writer) = (PipeReader::new(reader).unwrap(), PipeWriter::new(writer).unwrap());
        let all: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 251) as u8).collect();
        let sent = all.clone();
        let writing = create_task(async move { writer.write_all(&sent).await });
        assert!(timeout(LONG, reader.read_to_end()).await.unwrap().unwrap() == all);
        writing.await.unwrap().unwrap();
    })
    .unwrap();
}

#[test]
fn a_writer_hears_that_nobody_reads() {
    run(async {
        let (reader, writer) = io::pipe().unwrap();
        let writer = PipeWriter::new(writer).unwrap();
        let writing = create_task(async move { writer.write_all(&[0; 1 << 20]).await });
        sleep(Duration::from_millis(1)).await;
        drop(reader);
        let broken = timeout(LONG, writing).await.unwrap().unwrap().unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
    })
    .unwrap();
}

#[test]
fn a_descriptor_blocks_again_when_its_reader_is_gone() {
    run(async {
        let (reader, _writer) = io::pipe().unwrap();
        let same = reader.try_clone().unwrap();
        let is_non_blocking = || fcntl_getfl(&same).unwrap().contains(OFlags::NONBLOCK);
        let reader = PipeReader::new(reader).unwrap();
        assert!(is_non_blocking());
        drop(reader);
        assert!(!is_non_blocking());
    })
    .unwrap();
}

#[test]
fn files_and_dev_null_are_read_without_being_watched() {
    run(async {
        let file = fs::File::open("/proc/self/cmdline").unwrap();
        assert!(!PipeReader::new(file).unwrap().read_to_end().await.unwrap().is_empty());
        let null = fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        let reader = PipeReader::new(null.try_clone().unwrap()).unwrap();
        assert_eq!(reader.read(&mut [0; 8]).await.unwrap(), 0);
        PipeWriter::new(null).unwrap().write_all(b"gone").await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_child_is_spoken_to_and_waited_for() {
    run(async {
        let mut cat = Command::new("cat");
        let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
        stdin.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(stdout.read(&mut buffer).await.unwrap(), 5);
        assert!(cat.try_wait().unwrap().is_none());
        drop(stdin);
        assert!(timeout(LONG, cat.wait()).await.unwrap().unwrap().success());
        assert!(cat.wait().await.unwrap().success(), "it is known for ever");
        assert_eq!(stdout.read(&mut buffer).await.unwrap(), 0);
    })
    .unwrap();
}

#[test]
fn output_is_taken_from_both_streams_at_once_however_much_it_is() {
    run(async {
        let script = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; exit 3";
        let output = timeout(LONG, sh(script).output()).await.unwrap().unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (300_000, 300_000));
        assert_eq!(output.status.code(), Some(3));
        let mut cat = Command::new("cat");
        let cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = vec![7; 300_000];
        let output = timeout(LONG, cat.communicate(&input)).await.unwrap().unwrap();
        assert!(output.stdout == input);
        let mut deaf = sh("exit 0");
        let deaf = deaf.stdin(Stdio::piped()).spawn().unwrap();
        assert!(deaf.communicate(&input).await.unwrap().status.success());
    })
    .unwrap();
}

#[test]
fn children_end_each_with_its_own_status() {
    run(async {
        let children = (0..20).map(|number| async move {
            let mut child = sh(&format!("exit {number}")).spawn().unwrap();
            child.wait().await.unwrap().code() == Some(number)
        });
        assert!(gather(children).await.unwrap().into_iter().all(|right| right));
        assert!(Command::new("/nowhere/to/be/found").spawn().is_err());
    })
    .unwrap();
}

#[test]
fn a_child_is_killed_and_signalled_and_killed_when_it_is_dropped() {
    run(async {
        let mut child = sh("exec sleep 60").spawn().unwrap();
        assert!(timeout(Duration::from_millis(5), child.wait()).await.is_err());
        child.send_signal(Signal::TERM).unwrap();
        assert_eq!(child.wait().await.unwrap().signal(), Some(15));
        child.send_signal(Signal::TERM).unwrap();
        let mut child = sh("exec sleep 60").spawn().unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().await.unwrap().signal(), Some(9));
        let child = sh("exec sleep 60").spawn().unwrap();
        let directory = format!("/proc/{}", child.id());
        drop(child);
        for _ in 0..1000 {
            if fs::metadata(&directory).is_err() {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("it is still there, or nobody has waited for it");
    })
    .unwrap();
}

#[test]
fn somebody_elses_child_is_not_reaped() {
    run(async {
        let mut theirs = std::process::Command::new("true").spawn().unwrap();
        assert!(sh("exit 0").output().await.unwrap().status.success());
        thread::sleep(Duration::from_millis(20));
        assert!(theirs.wait().unwrap().success());
    })
    .unwrap();
}

#[test]
fn signals_are_counted_for_all_who_listen_and_handled_as_before_in_the_end() {
    let _alone = alone();
    let handler_of = || {
        fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find(|line| line.starts_with("SigCgt"))
            .unwrap()
            .to_owned()
    };
    let before = handler_of();
    run(async {
        let mut first = signal(Signal::USR1).unwrap();
        let mut second = signal(Signal::USR1).unwrap();
        let mut other = signal(Signal::USR2).unwrap();
        assert_ne!(handler_of(), before);
        assert!(timeout(Duration::from_millis(2), first.recv()).await.is_err());
        for _ in 0..3 {
            let listening = create_task(async move {
                first.recv().await;
                first
            });
            sleep(Duration::from_millis(1)).await;
            kill_process(getpid(), Signal::USR1).unwrap();
            first = timeout(LONG, listening).await.unwrap().unwrap();
        }
        for _ in 0..3 {
            timeout(LONG, second.recv()).await.unwrap();
        }
        assert!(timeout(Duration::from_millis(2), second.recv()).await.is_err());
        assert!(timeout(Duration::from_millis(2), other.recv()).await.is_err());
        drop(first);
        kill_process(getpid(), Signal::USR1).unwrap();
        timeout(LONG, second.recv()).await.unwrap();
        assert!(signal(Signal::KILL).is_err() && signal(Signal::SEGV).is_err());
    })
    .unwrap();
    assert_eq!(handler_of(), before);
}

#[test]
fn a_signal_reaches_the_loops_of_all_threads() {
    let _alone = alone();
    let ready = std::sync::Arc::new(std::sync::Barrier::new(3));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let ready = ready.clone();
            thread::spawn(move || {
                run(async {
                    let mut hangups = signal(Signal::HUP).unwrap();
                    ready.wait();
                    timeout(LONG, hangups.recv()).await.is_ok()
                })
                .unwrap()
            })
        })
        .collect();
    ready.wait();
    kill_process(getpid(), Signal::HUP).unwrap();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
}

#[test]
fn readers_and_writers_are_called_while_the_descriptor_is_ready() {
    let event_loop = new_event_loop();
    let (mut one, other) = UnixStream::pair().unwrap();
    let other = Rc::new(other);
    let trace = Rc::new(RefCell::new(Vec::new()));
    let (reading, noted, stop) = (other.clone(), trace.clone(), event_loop.clone());
    event_loop
        .add_reader(&other, move || {
            let mut byte = [0];
            (&*reading).read_exact(&mut byte).unwrap();
            noted.borrow_mut().push(byte[0]);
            if byte[0] == b'c' {
                assert!(stop.remove_reader(&reading));
                assert!(!stop.remove_reader(&reading));
                stop.stop();
            }
        })
        .unwrap();
    let written = Rc::new(Cell::new(0));
    let (count, own, again) = (written.clone(), other.clone(), event_loop.clone());
    event_loop
        .add_writer(&other, move || {
            count.set(count.get() + 1);
            if count.get() == 2 {
                assert!(again.remove_writer(&own));
            }
        })
        .unwrap();
    one.write_all(b"abc").unwrap();
    event_loop.run_forever().unwrap();
    assert_eq!((&trace.borrow()[..], written.get()), (&b"abc"[..], 2));
    assert_eq!(Rc::strong_count(&other), 1, "both callbacks are gone");
}

#[test]
fn a_reader_that_panics_is_called_again_and_one_is_replaced_by_the_next() {
    let event_loop = new_event_loop();
    let (mut one, other) = UnixStream::pair().unwrap();
    let calls = Rc::new(Cell::new(0));
    let held = Rc::new(());
    let first = held.clone();
    event_loop.add_reader(&other, move || drop(first.clone())).unwrap();
    let (count, stop) = (calls.clone(), event_loop.clone());
    event_loop
        .add_reader(&other, move || {
            count.set(count.get() + 1);
            if count.get() == 3 {
                stop.stop();
            }
            panic!("on purpose");
        })
        .unwrap();
    assert_eq!(Rc::strong_count(&held), 1);
    let told = Rc::new(Cell::new(0));
    let heard = told.clone();
    event_loop.set_exception_handler(Some(move |_: &velodrome::EventLoop, _: &_| {
        heard.set(heard.get() + 1);
    }));
    one.write_all(b"x").unwrap();
    event_loop.run_forever().unwrap();
    assert_eq!((calls.get(), told.get()), (3, 3));
    let refused = event_loop.run_until_complete(async { Async::new(&other).map(drop) });
    assert_eq!(refused.unwrap().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    event_loop.close().unwrap();
    assert!(event_loop.add_reader(&other, || {}).is_err());
    assert_eq!(Rc::strong_count(&calls), 1);
}

thread_local! {
    static INSIDE: Rc<Cell<u32>> = Rc::default();
}

/// Counts who is inside, also if it is cancelled there.
struct Inside(Rc<Cell<u32>>);

impl Inside {
    fn enter(count: Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Inside(count)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[test]
fn a_semaphore_lets_so_many_in_and_loses_no_permit() {
    run(async {
        let semaphore = Rc::new(Semaphore::new(2));
        let most = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..20)
            .map(|number| {
                let (semaphore, most) = (semaphore.clone(), most.clone());
                let inside = INSIDE.with(Rc::clone);
                let task = create_task(async move {
                    let _permit = semaphore.acquire().await;
                    let _inside = Inside::enter(inside);
                    most.set(INSIDE.with(|inside| inside.get()).max(most.get()));
                    sleep(Duration::ZERO).await;
                });
                (number, task)
            })
            .collect();
        sleep(Duration::ZERO).await;
        for (number, task) in tasks {
            if number % 3 == 1 {
                let was_waiting = task.cancel();
                assert_eq!(task.await.is_err(), was_waiting);
            } else {
                task.await.unwrap();
            }
        }
        assert_eq!(most.get(), 2);
        let (one, two) = (semaphore.try_acquire().unwrap(), semaphore.try_acquire().unwrap());
        assert!(semaphore.try_acquire().is_none());
        one.forget();
        drop(two);
        semaphore.release();
        assert!(!semaphore.locked());
    })
    .unwrap();
}
