//! The page the project starts from, in Rust: which loop is whose.
//!
//! `cargo run -p velodrome --example set_event_loop`

use std::{rc::Rc, thread, time::Duration};

use velodrome::{
    DefaultEventLoopPolicy, Error, EventLoop, EventLoopPolicy, TaskFuture, create_task,
    get_event_loop, get_event_loop_policy, get_running_loop, new_event_loop, run, set_event_loop,
    set_event_loop_policy, sleep,
};

const A_WHILE: Duration = Duration::from_millis(20);

fn main() -> Result<(), Error> {
    typical_use()?;
    without_a_loop();
    a_loop_for_each_thread();
    policy()?;
    task_factory()?;
    run_does_it_all()
}

/// A loop is nobody's until it is set.
fn typical_use() -> Result<(), Error> {
    let event_loop = new_event_loop();
    set_event_loop(Some(event_loop.clone()));
    event_loop.run_until_complete(sleep(A_WHILE))?;
    event_loop.close()?;
    set_event_loop(None);
    println!("slept on a loop that was set");
    Ok(())
}

/// `get_event_loop` is an error in a thread for which none was set.
fn without_a_loop() {
    match get_event_loop() {
        Err(error) => println!("without one: {error}"),
        Ok(_) => unreachable!("none is set"),
    }
}

/// Each thread has its own, by its own hand.
fn a_loop_for_each_thread() {
    fn run() -> Result<(), Error> {
        let event_loop = new_event_loop();
        set_event_loop(Some(event_loop.clone()));
        event_loop.run_until_complete(sleep(A_WHILE))?;
        event_loop.close()
    }

    let threads: Vec<_> = (0..3).map(|_| thread::spawn(run)).collect();
    for thread in threads {
        thread.join().expect("a thread that does not panic").expect("a loop of its own");
    }
    println!("three threads slept, each on its own loop");
}

/// A policy says who makes the loops, and which is the current one.
fn policy() -> Result<(), Error> {
    struct Talking(DefaultEventLoopPolicy);

    impl EventLoopPolicy for Talking {
        fn get_event_loop(&self) -> Result<EventLoop, Error> {
            self.0.get_event_loop()
        }

        fn set_event_loop(&self, event_loop: Option<EventLoop>) {
            self.0.set_event_loop(event_loop);
        }

        fn new_event_loop(&self) -> EventLoop {
            println!("the policy makes a loop");
            self.0.new_event_loop()
        }
    }

    set_event_loop_policy(Some(Rc::new(Talking(DefaultEventLoopPolicy))));
    let event_loop = get_event_loop_policy().new_event_loop();
    event_loop.run_until_complete(sleep(A_WHILE))?;
    set_event_loop_policy(None);
    Ok(())
}

/// A task factory makes every task of its loop.
fn task_factory() -> Result<(), Error> {
    let event_loop = new_event_loop();
    event_loop.set_task_factory(Some(|event_loop: &EventLoop, future: TaskFuture| {
        let task = event_loop.new_task(future);
        task.set_name(format!("made by the factory: {}", task.name()));
        task
    }));
    event_loop.run_until_complete(async {
        let task = create_task(sleep(A_WHILE));
        println!("{}", task.name());
        task.await.expect("it is not cancelled");
    })
}

/// `run` makes a loop, sets it, runs and closes it.
fn run_does_it_all() -> Result<(), Error> {
    let same = run(async {
        sleep(A_WHILE).await;
        get_running_loop().is_ok() && get_event_loop().is_ok()
    })?;
    println!("in run: {same}; afterwards: {}", get_event_loop().is_ok());
    Ok(())
}
