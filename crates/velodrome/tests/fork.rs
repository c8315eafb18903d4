//! What a forked child that goes on with its parent's loop finds.

#![allow(unsafe_code)]

use std::time::Duration;

use velodrome::{get_running_loop, new_event_loop, process, timeout};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn functions_that_block_run_in_a_child_too() {
    let event_loop = new_event_loop();
    let twice = || async { timeout(LONG, get_running_loop().unwrap().run_in_executor(|| 2)).await };
    assert_eq!(event_loop.run_until_complete(twice()).unwrap().unwrap(), 2);
    // SAFETY: the child runs the loop, and ends without returning to the test's harness. What it
    // allocates, and the threads that it starts, work in a child of glibc's fork.
    let child = unsafe { libc::fork() };
    if child == 0 {
        process::forked();
        let done = event_loop.run_until_complete(twice());
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if matches!(done, Ok(Ok(2))) { 7 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: a child of ours, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status}");
    assert_eq!(event_loop.run_until_complete(twice()).unwrap().unwrap(), 2);
    event_loop.close().unwrap();
}
