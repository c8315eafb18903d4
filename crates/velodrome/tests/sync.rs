//! Event, Lock, Condition, semaphores and Queue: first come, first served, and no turn is ever lost.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::Duration,
};

use velodrome::{
    BoundedSemaphore, Condition, Event, Lock, Queue, QueueEmpty, QueueFull, create_task,
    panic_message, run, sleep, timeout,
};

async fn turn() {
    sleep(Duration::ZERO).await;
}

#[test]
fn an_event_lets_all_that_wait_go_in_order() {
    run(async {
        let event = Rc::new(Event::new());
        let trace = Rc::new(RefCell::new(Vec::new()));
        for number in 0..3 {
            let (event, trace) = (event.clone(), trace.clone());
            create_task(async move {
                event.wait().await;
                trace.borrow_mut().push(number);
            })
            .detach();
        }
        turn().await;
        event.set();
        event.clear();
        turn().await;
        turn().await;
        assert_eq!(*trace.borrow(), [0, 1, 2], "although it was cleared before their turn");
        assert!(timeout(Duration::from_millis(1), event.wait()).await.is_err());
        event.set();
        assert!(event.is_set());
        event.wait().await;
    })
    .unwrap();
}

#[test]
fn a_lock_is_fair() {
    run(async {
        let lock = Rc::new(Lock::new(Vec::new()));
        let guard = lock.acquire().await;
        let tasks: Vec<_> = (0..3)
            .map(|number| {
                let lock = lock.clone();
                create_task(async move { lock.acquire().await.push(number) })
            })
            .collect();
        turn().await;
        drop(guard);
        assert!(lock.try_acquire().is_none(), "it is the first one's already");
        lock.acquire().await.push(3);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*lock.acquire().await, [0, 1, 2, 3]);
    })
    .unwrap();
}

#[test]
fn a_waiter_that_is_cancelled_when_its_turn_has_come_passes_it_on() {
    run(async {
        let lock = Rc::new(Lock::new(0));
        let guard = lock.acquire().await;
        let add = |amount: i32| {
            let lock = lock.clone();
            create_task(async move { *lock.acquire().await += amount })
        };
        let (first, second) = (add(1), add(10));
        turn().await;
        drop(guard);
        first.cancel();
        assert!(first.await.unwrap_err().is_cancelled());
        second.await.unwrap();
        assert!(!lock.locked());
        assert_eq!(*lock.try_acquire().unwrap(), 10);
    })
    .unwrap();
}

#[test]
fn the_last_waiter_that_is_cancelled_leaves_the_lock_free() {
    run(async {
        let lock = Rc::new(Lock::new(()));
        let guard = lock.acquire().await;
        let waiting = create_task({
            let lock = lock.clone();
            async move { drop(lock.acquire().await) }
        });
        turn().await;
        drop(guard);
        assert!(lock.locked());
        waiting.cancel();
        assert!(waiting.await.is_err());
        assert!(!lock.locked());
        assert!(lock.try_acquire().is_some());
    })
    .unwrap();
}

#[test]
fn a_lock_keeps_tasks_apart_over_waits() {
    run(async {
        let lock = Rc::new(Lock::new(0));
        let inside = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..50)
            .map(|number| {
                let (lock, inside) = (lock.clone(), inside.clone());
                create_task(async move {
                    let mut guard = lock.acquire().await;
                    assert_eq!(inside.replace(1), 0);
                    if number % 2 == 0 {
                        turn().await;
                    }
                    *guard += 1;
                    inside.set(0);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*lock.acquire().await, 50);
    })
    .unwrap();
}

#[test]
fn a_queue_keeps_its_order_and_its_size() {
    run(async {
        let queue = Rc::new(Queue::bounded(2));
        let putting = create_task({
            let queue = queue.clone();
            async move {
                for number in 0..10 {
                    queue.put(number).await;
                    assert!(queue.qsize() <= 2);
                }
            }
        });
        let mut got = Vec::new();
        for _ in 0..10 {
            got.push(queue.get().await);
            queue.task_done();
        }
        assert_eq!(got, (0..10).collect::<Vec<_>>());
        putting.await.unwrap();
        queue.join().await;
        assert_eq!(queue.get_nowait(), Err(QueueEmpty));
        queue.put_nowait(1).unwrap();
        queue.put_nowait(2).unwrap();
        assert_eq!(queue.put_nowait(3), Err(QueueFull(3)));
        assert!(timeout(Duration::from_millis(1), queue.join()).await.is_err());
    })
    .unwrap();
}

#[test]
fn a_getter_that_is_cancelled_when_an_item_has_come_lets_the_next_one_have_it() {
    run(async {
        let queue = Rc::new(Queue::new());
        let get = || {
            let queue = queue.clone();
            create_task(async move { queue.get().await })
        };
        let (first, second) = (get(), get());
        turn().await;
        queue.put_nowait(1).unwrap();
        first.cancel();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(second.await.unwrap(), 1);
    })
    .unwrap();
}

#[test]
fn a_putter_that_is_cancelled_when_there_is_room_lets_the_next_one_have_it() {
    run(async {
        let queue = Rc::new(Queue::bounded(1));
        queue.put_nowait(0).unwrap();
        let put = |number| {
            let queue = queue.clone();
            create_task(async move { queue.put(number).await })
        };
        let (first, second) = (put(1), put(2));
        turn().await;
        assert_eq!(queue.get_nowait(), Ok(0));
        first.cancel();
        assert!(first.await.unwrap_err().is_cancelled());
        second.await.unwrap();
        assert_eq!(queue.get().await, 2);
    })
    .unwrap();
}

#[test]
#[should_panic(expected = "task_done() called too many times")]
fn more_work_cannot_be_done_than_there_was() {
    Queue::<u8>::new().task_done();
}

/// A task that waits to be notified, and notes its number.
fn waits(condition: &Rc<Condition<Vec<usize>>>, number: usize) -> velodrome::Task<()> {
    let condition = condition.clone();
    create_task(async move { condition.acquire().await.wait().await.push(number) })
}

#[test]
fn a_condition_notifies_the_first_that_wait_and_lets_them_have_the_lock_one_by_one() {
    run(async {
        let condition = Rc::new(Condition::new(Vec::new()));
        let tasks: Vec<_> = (0..5).map(|number| waits(&condition, number)).collect();
        turn().await;
        let guard = condition.acquire().await;
        guard.notify(2);
        turn().await;
        turn().await;
        assert!(guard.is_empty(), "the lock is not theirs yet");
        drop(guard);
        for _ in 0..4 {
            turn().await;
        }
        let guard = condition.acquire().await;
        assert_eq!(*guard, [0, 1]);
        guard.notify_all();
        drop(guard);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*condition.acquire().await, [0, 1, 2, 3, 4]);
        assert!(!condition.locked());
    })
    .unwrap();
}

#[test]
fn conditions_may_share_a_lock() {
    run(async {
        let lock = Rc::new(Lock::new(Vec::new()));
        let (one, other) = (
            Rc::new(Condition::with_lock(lock.clone())),
            Rc::new(Condition::with_lock(lock.clone())),
        );
        let (first, second) = (waits(&one, 1), waits(&other, 2));
        turn().await;
        other.acquire().await.notify_all();
        second.await.unwrap();
        assert_eq!(*lock.acquire().await, [2]);
        assert!(!first.done());
        assert!(!one.locked());
    })
    .unwrap();
}

#[test]
fn a_notification_of_a_task_that_is_cancelled_goes_to_the_next_one() {
    run(async {
        // Before it waits for the lock, and while it does.
        for turns in 0..2 {
            let condition = Rc::new(Condition::new(Vec::new()));
            let (first, second) = (waits(&condition, 1), waits(&condition, 2));
            turn().await;
            let guard = condition.acquire().await;
            guard.notify(1);
            for _ in 0..turns {
                turn().await;
            }
            first.cancel();
            assert!(first.await.unwrap_err().is_cancelled());
            drop(guard);
            second.await.unwrap();
            assert_eq!(*condition.acquire().await, [2]);
        }
    })
    .unwrap();
}

#[test]
fn a_task_that_is_cancelled_before_it_is_notified_takes_nothing_away() {
    run(async {
        let condition = Rc::new(Condition::new(Vec::new()));
        let (first, second) = (waits(&condition, 1), waits(&condition, 2));
        turn().await;
        first.cancel();
        condition.acquire().await.notify(1);
        second.await.unwrap();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(*condition.acquire().await, [2]);
    })
    .unwrap();
}

#[test]
fn a_bounded_semaphore_has_no_more_permits_than_at_first() {
    run(async {
        let semaphore = BoundedSemaphore::new(2);
        semaphore.acquire().await.forget();
        let permit = semaphore.try_acquire().unwrap();
        assert!(semaphore.locked());
        semaphore.release();
        drop(permit);
        let permits = [semaphore.acquire().await, semaphore.acquire().await];
        assert!(semaphore.try_acquire().is_none());
        drop(permits);
        let released = catch_unwind(AssertUnwindSafe(|| semaphore.release()));
        let text = panic_message(released.unwrap_err().as_ref()).to_owned();
        assert_eq!(text, "BoundedSemaphore released too many times");
    })
    .unwrap();
}
