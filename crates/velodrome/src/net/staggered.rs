//! Attempts that begin one after the other, of which the first success counts, as asyncio's `staggered_race`.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::time::{Sleep, sleep};

/// What the first attempt that succeeds brought, or the errors of all, in the order of the attempts.
///
/// The next attempt begins when `delay` is over since the last one began, or when that has failed. The others
/// are dropped when one has succeeded.
pub async fn staggered_race<A, F, R, E>(
    attempts: impl IntoIterator<Item = A>,
    delay: Duration,
    begin: impl Fn(A) -> F,
) -> Result<R, Vec<E>>
where
    F: Future<Output = Result<R, E>>,
{
    let mut race = Race {
        attempts: attempts.into_iter(),
        begin,
        delay,
        begun: Vec::new(),
        until_next: UntilNext::Now,
    };
    poll_fn(|context| race.poll(context)).await
}

struct Race<I, B, F, E> {
    attempts: I,
    begin: B,
    delay: Duration,
    begun: Vec<Attempt<F, E>>,
    until_next: UntilNext,
}

enum Attempt<F, E> {
    UnderWay(Pin<Box<F>>),
    Failed(E),
}

/// When the next attempt begins.
enum UntilNext {
    Now,
    Delayed(Sleep),
    /// There is none.
    Never,
}

impl<I, B, F, R, E> Race<I, B, F, E>
where
    I: Iterator,
    B: Fn(I::Item) -> F,
    F: Future<Output = Result<R, E>>,
{
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<R, Vec<E>>> {
        loop {
            let mut last_has_failed = self.begun.is_empty();
            for attempt in &mut self.begun {
                last_has_failed = false;
                if let Attempt::UnderWay(future) = attempt {
                    match future.as_mut().poll(context) {
                        Poll::Pending => continue,
                        Poll::Ready(Ok(result)) => return Poll::Ready(Ok(result)),
                        Poll::Ready(Err(error)) => *attempt = Attempt::Failed(error),
                    }
                }
                last_has_failed = true;
            }
            let is_time = match &mut self.until_next {
                UntilNext::Now => true,
                UntilNext::Delayed(sleep) => {
                    last_has_failed || Pin::new(sleep).poll(context).is_ready()
                }
                UntilNext::Never => false,
            };
            if !is_time {
                return self.outcome();
            }
            match self.attempts.next() {
                Some(attempt) => {
                    self.begun.push(Attempt::UnderWay(Box::pin((self.begin)(attempt))));
                    self.until_next = UntilNext::Delayed(sleep(self.delay));
                }
                None => self.until_next = UntilNext::Never,
            }
        }
    }

    /// When no attempt can succeed any more.
    fn outcome(&mut self) -> Poll<Result<R, Vec<E>>> {
        let is_over = matches!(self.until_next, UntilNext::Never)
            && self.begun.iter().all(|attempt| matches!(attempt, Attempt::Failed(_)));
        if !is_over {
            return Poll::Pending;
        }
        let failed = self.begun.drain(..).filter_map(|attempt| match attempt {
            Attempt::Failed(error) => Some(error),
            Attempt::UnderWay(_) => None,
        });
        Poll::Ready(Err(failed.collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::{Clock, EventLoop};

    struct Noted<'a>(&'a RefCell<Vec<String>>, String);

    impl Drop for Noted<'_> {
        fn drop(&mut self) {
            self.0.borrow_mut().push(format!("{} over", self.1));
        }
    }

    /// What happens at which millisecond of a race of attempts that fail (`-`) or succeed (`+`) after so many.
    fn trace(script: &'static str, delay_ms: u64) -> String {
        let event_loop = EventLoop::with_clock(Clock::Manual(Cell::new(0)));
        let runs = event_loop.clone();
        let trace = event_loop.run_until_complete(async move {
            let log = RefCell::new(Vec::new());
            let now = || runs.time().as_millis();
            let delay = Duration::from_millis(delay_ms);
            let outcome = staggered_race(script.split(' '), delay, |attempt: &str| {
                log.borrow_mut().push(format!("{attempt}@{}", now()));
                let log = &log;
                async move {
                    let _noted = Noted(log, attempt.into());
                    sleep(Duration::from_millis(attempt[1..].parse().unwrap())).await;
                    if attempt.starts_with('+') { Ok(attempt) } else { Err(attempt) }
                }
            })
            .await;
            let outcome = match outcome {
                Ok(attempt) => attempt.into(),
                Err(errors) => errors.join(""),
            };
            format!("{}, {outcome}@{}", log.take().join(", "), now())
        });
        event_loop.close().unwrap();
        trace.unwrap()
    }

    #[test]
    fn the_next_begins_after_the_delay_or_when_the_last_one_has_failed() {
        // The times and outcomes are those of asyncio's `staggered_race`.
        for (script, expected) in [
            ("+5 +1", "+5@0, +5 over, +5@5"),
            ("-5 +1", "-5@0, -5 over, +1@5, +1 over, +1@6"),
            ("+15 +1", "+15@0, +1@10, +1 over, +15 over, +1@11"),
            ("+15 +50", "+15@0, +50@10, +15 over, +50 over, +15@15"),
            ("-5 -1 -2", "-5@0, -5 over, -1@5, -1 over, -2@6, -2 over, -5-1-2@8"),
            // That an earlier one fails begins nothing.
            ("-15 -30 +1", "-15@0, -30@10, -15 over, +1@20, +1 over, -30 over, +1@21"),
            // The delay is that of the last.
            ("-3 +50 +1", "-3@0, -3 over, +50@3, +1@13, +1 over, +50 over, +1@14"),
            ("-35 -4 -7", "-35@0, -4@10, -4 over, -7@14, -7 over, -35 over, -35-4-7@35"),
        ] {
            assert_eq!(trace(script, 10), expected, "{script}");
        }
    }
}
