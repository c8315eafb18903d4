//! Waiting for a time: `sleep`, and `timeout` around another future.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    TimerKey,
    driver::{self, Driver},
};

/// Waits for a while, as `asyncio.sleep`; never less. A sleep of zero lets everything that is ready run
/// once.
///
/// It begins when it is polled first. Panics when it is polled outside a running loop.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let start = Instant::now();
/// velodrome::run(velodrome::sleep(Duration::from_millis(2)))?;
/// assert!(start.elapsed() >= Duration::from_millis(2));
/// # Ok::<(), velodrome::Error>(())
/// ```
pub fn sleep(delay: Duration) -> Sleep {
    if delay.is_zero() {
        return Sleep(State::Yield);
    }
    Sleep(State::New(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)))
}

/// See [`sleep`].
///
/// ```
/// # velodrome::run(async {
/// use std::time::Duration;
/// use velodrome::{Sleep, sleep};
///
/// let limit: Sleep = sleep(Duration::from_millis(1));
/// // It begins now.
/// limit.await;
/// # }).unwrap();
/// ```
#[must_use = "a future does nothing until it is awaited"]
pub struct Sleep(State);

enum State {
    /// Nanoseconds from the first poll.
    New(u64),
    Waiting(Rc<dyn Driver>, TimerKey),
    Yield,
    Done,
}

impl Future for Sleep {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            State::Yield => {
                self.0 = State::Done;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            State::New(delay_ns) => {
                let driver = driver::polling();
                let key = driver.set_timer(*delay_ns, context.waker().clone());
                self.0 = State::Waiting(driver, key);
                Poll::Pending
            }
            State::Waiting(driver, key) => {
                if driver.renew_timer(*key, context.waker()) {
                    return Poll::Pending;
                }
                self.0 = State::Done;
                Poll::Ready(())
            }
            State::Done => Poll::Ready(()),
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let State::Waiting(driver, key) = &self.0 {
            driver.cancel_timer(*key);
        }
    }
}

/// Drops a future that takes longer than `limit`, as `asyncio.timeout`. A future that is ready by then
/// wins.
///
/// ```
/// use std::time::Duration;
/// use velodrome::{TimedOut, sleep, timeout};
///
/// # velodrome::run(async {
/// let limit = Duration::from_millis(2);
/// assert_eq!(timeout(limit, async { 42 }).await, Ok(42));
/// assert_eq!(timeout(limit, sleep(Duration::from_secs(60))).await, Err(TimedOut));
/// # }).unwrap();
/// ```
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, TimedOut> {
    let mut future = std::pin::pin!(future);
    let mut limit = (!limit.is_zero()).then(|| sleep(limit));
    std::future::poll_fn(move |context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        match &mut limit {
            Some(sleep) => Pin::new(sleep).poll(context).map(|()| Err(TimedOut)),
            None => Poll::Ready(Err(TimedOut)),
        }
    })
    .await
}

/// The future of a [`timeout`] was not ready in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct TimedOut;
