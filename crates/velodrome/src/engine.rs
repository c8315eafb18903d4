//! The engine of every event loop: owns the parts and turns them, one tick after the other.
//!
//! A tick runs exactly the callbacks that were queued when its batch began; what they add waits
//! for the next one, so nobody starves and descriptors are looked at regularly. While callbacks
//! are ready, the poll is skipped for a few ticks and a short time: it costs a system call, and
//! most callbacks only schedule the next.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    os::fd::RawFd,
    sync::Arc,
};

use crate::{
    Clock, Errno, Result,
    crowd::{Crowd, WriteTurn},
    inbox::Inbox,
    poller::{Events, PRECISE_BELOW_NS, Poller, Readiness, Token},
    process::Process,
    registry::{Opened, Reactor},
    timer::{Key, Timers},
};

/// What a loop is made of: says what waits in its queues.
pub trait Kind {
    /// What waits in the ready queue.
    type Callback;
    /// What other threads send. In the loop's thread it becomes a callback.
    type Sent: Into<Self::Callback>;
    /// What waits for its time. When it is due, it becomes a callback.
    type Timer: Into<Self::Callback>;
    /// Who hears of a descriptor.
    type Source: Source<Callback = Self::Callback> + Clone;
}

/// Who runs a loop: says how a callback is called.
pub trait Host<K: Kind> {
    /// Why a run ended before it was stopped.
    type Exit;

    /// Runs one callback. Nothing of the loop is borrowed. An error leaves the loop at once.
    fn call(&self, callback: K::Callback) -> Result<(), Self::Exit>;

    /// Before each sleep. True if code of the host's has run: what there is to wait for may have
    /// changed.
    fn falls_asleep(&self) -> Result<bool, Self::Exit>;

    /// What the run ends with if the loop cannot get the descriptors that it needs to sleep, or if
    /// somebody has closed them.
    fn cannot_sleep(&self, error: Errno) -> Self::Exit;

    /// Runs a wait that may block, with whatever lock the host holds released.
    fn sleep<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R;

    /// Whether it is worth a system call to see, before a sleep, if something is ready already: where
    /// `sleep` releases a lock that nobody else can want, which costs more.
    fn may_look_first(&self) -> bool {
        false
    }

    /// After each poll: `signals` arrived since the last one.
    fn polled(&self, signals: &[u8]) -> Result<(), Self::Exit>;

    /// The time on a clock of the host's own, if it has one: timers follow it.
    fn now_ns(&self) -> Result<Option<u64>, Self::Exit> {
        Ok(None)
    }

    /// What was written and held back goes out: after each batch, also one that an error ended, and in the middle of
    /// those in which many write.
    fn send_held(&self) -> Result<(), Self::Exit>;
}

/// Turns the readiness of a descriptor into callbacks.
pub trait Source {
    type Callback;

    /// Pushes what should run. Must not run it: the loop is in the middle of its events.
    fn ready(self, readiness: Readiness, push: &mut dyn FnMut(Self::Callback));
}

/// The poll is skipped for at most so many ticks in a row while callbacks are ready and none of them
/// touches a descriptor; for twice as many after each poll that found nothing...
const TICKS_WITHOUT_POLL: u32 = 16;
/// ...up to this...
const MAX_TICKS_WITHOUT_POLL: u32 = 64;
/// ...and for at most so long.
const MAX_NS_WITHOUT_POLL: u64 = 50_000;

/// The longest sleep. `epoll_wait` counts milliseconds up to 24 days; what counts further is a system
/// call that not every kernel or sandbox has.
const LONGEST_POLL_NS: u64 = 24 * 3600 * 1_000_000_000;

/// A timer that was set to come after so long or more may wait for those that follow it, so that they share a wake-up...
const MIN_DELAY_WITH_SLACK_NS: u64 = 1_000_000;
/// ...for this part of its delay...
const SLACK_PART: u64 = 4;
/// ...and at most so long. asyncio rounds its sleeps up to a millisecond.
const MAX_SLACK_NS: u64 = 1_000_000;

/// No sleep is to end for a timer sooner after the last one: timers that follow closely share a wake-up.
const MIN_SLEEP_NS: u64 = 100_000;

/// See [`Host::may_look_first`]: a busy loop finds something nearly always, and what waits for one peer never.
const SLEEPS_AFTER_A_VAIN_LOOK: u32 = 16;

pub struct Engine<K: Kind> {
    clock: Clock,
    /// How far the host's own clock is from ours.
    shift_ns: Cell<i64>,
    ready: RefCell<VecDeque<K::Callback>>,
    timers: RefCell<Timers<K::Timer>>,
    inbox: Arc<Inbox<K::Sent>>,
    reactor: Reactor<K::Source>,
    /// Made it, or has taken it over.
    owner: Cell<Process>,
    /// Reused by every poll; taken out while one is under way.
    events: Cell<Option<Events>>,
    stopping: Cell<bool>,
    /// Counts batches; what happens under one number happens in one turn.
    turn: Cell<u64>,
    in_batch: Cell<bool>,
    crowd: Crowd,
    ticks_without_poll: Cell<u32>,
    /// Between [`TICKS_WITHOUT_POLL`] and [`MAX_TICKS_WITHOUT_POLL`].
    ticks_allowed: Cell<u32>,
    last_poll_ns: Cell<u64>,
    /// How many sleeps come before a look without sleeping is worth trying again.
    looks_to_pass: Cell<u32>,
}

impl<K: Kind> Default for Engine<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Kind> Engine<K> {
    /// Makes no system call: descriptors are opened once something is watched or the loop has to
    /// sleep.
    pub fn new() -> Self {
        Self::with_clock(Clock::default())
    }

    pub fn with_clock(clock: Clock) -> Self {
        let waker = Arc::default();
        let inbox = Arc::new(Inbox::new(Arc::clone(&waker)));
        Engine {
            clock,
            shift_ns: Cell::new(0),
            ready: RefCell::default(),
            timers: RefCell::default(),
            inbox,
            reactor: Reactor::new(waker),
            owner: Cell::new(Process::current()),
            events: Cell::new(None),
            stopping: Cell::new(false),
            turn: Cell::new(0),
            in_batch: Cell::new(false),
            crowd: Crowd::default(),
            ticks_without_poll: Cell::new(0),
            ticks_allowed: Cell::new(TICKS_WITHOUT_POLL),
            last_poll_ns: Cell::new(0),
            looks_to_pass: Cell::new(0),
        }
    }

    /// Runs ticks until one ends with `stop` called. The first tick always polls.
    ///
    /// A forked child that runs its parent's loop gets descriptors of its own for it.
    pub fn run<H: Host<K>>(&self, host: &H) -> Result<(), H::Exit> {
        self.ticks_without_poll.set(MAX_TICKS_WITHOUT_POLL);
        self.ticks_allowed.set(TICKS_WITHOUT_POLL);
        // A child may run what its parent has made.
        self.reactor.take_over().map_err(|error| host.cannot_sleep(error))?;
        self.owner.set(Process::current());
        let result = loop {
            if let Err(exit) = self.tick(host) {
                break Err(exit);
            }
            if self.stopping.get() {
                break Ok(());
            }
        };
        self.stopping.set(false);
        result
    }

    fn tick<H: Host<K>>(&self, host: &H) -> Result<(), H::Exit> {
        self.take_inbox();
        if self.should_poll() {
            self.set_clock(host)?;
            self.poll(host)?;
        }
        self.set_clock(host)?;
        self.take_due_timers();
        self.in_batch.set(true);
        let batch_began_ns = self.last_poll_ns.get();
        let result = self.run_batch(host);
        self.in_batch.set(false);
        let done = host.send_held();
        self.crowd.batch_done(|| self.clock.now_ns() - batch_began_ns);
        result.and(done)
    }

    #[inline]
    fn set_clock<H: Host<K>>(&self, host: &H) -> Result<(), H::Exit> {
        if let Some(now_ns) = host.now_ns()? {
            self.shift_ns.set(now_ns.wrapping_sub(self.clock.now_ns()).cast_signed());
        }
        Ok(())
    }

    /// The host no longer has a clock of its own.
    pub fn reset_clock(&self) {
        self.shift_ns.set(0);
    }

    fn run_batch<H: Host<K>>(&self, host: &H) -> Result<(), H::Exit> {
        self.turn.set(self.turn.get() + 1);
        let batch = self.ready.borrow().len();
        for _ in 0..batch {
            let Some(callback) = self.ready.borrow_mut().pop_front() else { break };
            self.crowd.next_callback();
            host.call(callback)?;
            if self.crowd.must_send() {
                host.send_held()?;
            }
        }
        Ok(())
    }

    fn should_poll(&self) -> bool {
        if self.ready.borrow().is_empty() {
            return true;
        }
        if self.reactor.take_touched() {
            return true;
        }
        let ticks = self.ticks_without_poll.get();
        if ticks >= self.ticks_allowed.get() || self.has_due_timer() {
            return true;
        }
        // The clock is looked at after 0, 1, 2, 4, 8, 16, 24, 32... ticks: a look costs as much as a
        // tick of the model's, and ticks that were quick may become slow.
        if (ticks.is_multiple_of(8) || ticks.is_power_of_two())
            && self.clock.now_ns() - self.last_poll_ns.get() >= MAX_NS_WITHOUT_POLL
        {
            return true;
        }
        self.ticks_without_poll.set(ticks + 1);
        false
    }

    /// What is ready must run before it.
    fn has_due_timer(&self) -> bool {
        let deadline_ns = self.timers.borrow_mut().next_deadline_ns();
        deadline_ns.is_some_and(|deadline_ns| deadline_ns <= self.now_ns())
    }

    fn poll<H: Host<K>>(&self, host: &H) -> Result<(), H::Exit> {
        let mut timeout_ns = self.poll_timeout_ns();
        if timeout_ns != Some(0) {
            self.reactor.ensure_open().map_err(|error| host.cannot_sleep(error))?;
            if host.falls_asleep()? {
                timeout_ns = self.poll_timeout_ns();
            }
        }
        let turns_clock = self.clock.is_manual() && timeout_ns.is_some_and(|wait_ns| wait_ns > 0);
        if turns_clock {
            timeout_ns = Some(0);
        }
        let signals = match self.reactor.opened() {
            Some(opened) => {
                let waited = self.wait(host, &opened, timeout_ns);
                waited.map_err(|error| host.cannot_sleep(error))?
            }
            // Nothing was ever watched, and there is no need to sleep.
            None => Vec::new(),
        };
        if turns_clock && signals.is_empty() && self.ready.borrow().is_empty() {
            self.turn_clock();
        }
        self.ticks_without_poll.set(0);
        self.last_poll_ns.set(self.clock.now_ns());
        host.polled(&signals)
    }

    /// In place of a sleep until the next timer.
    #[cold]
    fn turn_clock(&self) {
        let deadline_ns = self.timers.borrow_mut().next_deadline_ns();
        if let Some(deadline_ns) = deadline_ns {
            self.clock.advance(deadline_ns.saturating_sub(self.now_ns()));
        }
    }

    /// Queues what the poller, and other threads meanwhile, have to tell. Returns the signals.
    fn wait<H: Host<K>>(
        &self,
        host: &H,
        opened: &Opened,
        timeout_ns: Option<u64>,
    ) -> Result<Vec<u8>> {
        let poller = &opened.poller;
        let mut events = self.events.take().unwrap_or_default();
        // All that is ready runs before the timers that are due: what has arrived is not timed out.
        events.make_room(self.reactor.capacity());
        let waited = if timeout_ns == Some(0) {
            poller.wait(Some(0), &mut events)
        } else if self.looks_first(host) && self.finds_something(poller, &mut events) {
            Ok(())
        } else if self.inbox.fall_asleep() {
            let waited = host.sleep(|| poller.wait(timeout_ns, &mut events));
            self.inbox.wake_up();
            waited
        } else {
            poller.wait(Some(0), &mut events)
        };
        match waited {
            Ok(()) => {}
            // Interrupted by a signal, which `polled` looks after.
            Err(Errno::INTR) => events.clear(),
            // The poller is open no more, as somebody has closed what was not theirs.
            Err(error) => return Err(error),
        }
        let found_nothing = timeout_ns == Some(0) && events.is_empty();
        self.ticks_allowed.set(if found_nothing {
            (self.ticks_allowed.get() * 2).min(MAX_TICKS_WITHOUT_POLL)
        } else {
            TICKS_WITHOUT_POLL
        });
        self.take_inbox();
        let signals = self.take_events(opened, &mut events);
        self.events.set(Some(events));
        Ok(signals)
    }

    fn looks_first<H: Host<K>>(&self, host: &H) -> bool {
        let to_pass = self.looks_to_pass.get();
        self.looks_to_pass.set(to_pass.saturating_sub(1));
        to_pass == 0 && host.may_look_first()
    }

    /// Polls without sleeping. In vain, or with an error, it is not tried again soon.
    fn finds_something(&self, poller: &Poller, events: &mut Events) -> bool {
        let found = poller.wait(Some(0), events).is_ok() && !events.is_empty();
        if !found {
            self.looks_to_pass.set(SLEEPS_AFTER_A_VAIN_LOOK);
        }
        found
    }

    /// How long the poll may sleep; `None` without end.
    fn poll_timeout_ns(&self) -> Option<u64> {
        if self.stopping.get() || !self.ready.borrow().is_empty() {
            return Some(0);
        }
        let mut timers = self.timers.borrow_mut();
        // Without a timer the clock is not looked at.
        let deadline_ns = timers.next_deadline_ns()?;
        let now_ns = self.now_ns();
        let mut wait_ns = deadline_ns.saturating_sub(now_ns);
        if wait_ns == 0 {
            return Some(0);
        }
        // Longer sleeps end at a whole millisecond, which is as good. One that is shared is precise, or
        // both would make a timer late.
        if wait_ns < PRECISE_BELOW_NS - MAX_SLACK_NS {
            wait_ns = timers.shared_wake_up_ns()?.saturating_sub(now_ns);
        }
        let awake_ns = self.clock.now_ns() - self.last_poll_ns.get();
        Some(wait_ns.max(MIN_SLEEP_NS.saturating_sub(awake_ns)).min(LONGEST_POLL_NS))
    }

    fn take_events(&self, opened: &Opened, events: &mut Events) -> Vec<u8> {
        let mut signals = Vec::new();
        for event in events.iter() {
            match event.token {
                Token::WAKER => self.reactor.waker.drain(),
                Token::SIGNAL => signals.extend(opened.signals.take()),
                _ => {
                    if let Some((source, readiness)) = self.reactor.resolve(&event) {
                        source.ready(readiness, &mut |callback| {
                            self.ready.borrow_mut().push_back(callback);
                        });
                    }
                }
            }
        }
        signals
    }

    #[inline]
    fn take_inbox(&self) {
        if self.inbox.is_filled() {
            self.take_what_was_sent();
        }
    }

    #[inline(never)]
    fn take_what_was_sent(&self) {
        let sent = self.inbox.take();
        self.ready.borrow_mut().extend(sent.into_iter().map(Into::into));
    }

    fn take_due_timers(&self) {
        if self.timers.borrow().is_empty() {
            return;
        }
        let now_ns = self.now_ns();
        loop {
            let due = self.timers.borrow_mut().pop_due(now_ns);
            let Some(timer) = due else { break };
            // First: it may be code of the host's.
            let callback = timer.into();
            self.ready.borrow_mut().push_back(callback);
        }
    }

    /// Queues a callback for the next tick. From the loop's thread only.
    #[inline]
    pub fn call_soon(&self, callback: K::Callback) {
        if self.inbox.is_filled() {
            // Whoever filled it did so before this call: keep the order.
            self.take_inbox();
        }
        self.ready.borrow_mut().push_back(callback);
    }

    /// Lends the callback that was queued last, to be exchanged for one that does the same.
    ///
    /// `change` must not reach the loop.
    #[inline]
    pub fn change_last<R>(&self, change: impl FnOnce(&mut K::Callback) -> Option<R>) -> Option<R> {
        self.ready.borrow_mut().back_mut().and_then(change)
    }

    /// Queues a timer. `deadline_ns` is on the clock of [`Engine::now_ns`].
    pub fn call_at(&self, deadline_ns: u64, timer: K::Timer) -> Key {
        self.timers.borrow_mut().insert(deadline_ns, 0, timer)
    }

    /// Queues a timer that was to come after `delay_ns`, which is at `deadline_ns`. After a longer delay it may come a
    /// little later, together with others.
    pub fn call_later(&self, delay_ns: u64, deadline_ns: u64, timer: K::Timer) -> Key {
        self.timers.borrow_mut().insert(deadline_ns, slack_ns(delay_ns), timer)
    }

    /// Takes a timer out that was cancelled, if it still waits; drop it where foreign code may run.
    #[must_use]
    pub fn cancel_timer(&self, key: Key) -> Option<K::Timer> {
        self.timers.borrow_mut().remove(key)
    }

    /// Lends a timer that still waits.
    pub fn timer_mut<R>(&self, key: Key, change: impl FnOnce(&mut K::Timer) -> R) -> Option<R> {
        self.timers.borrow_mut().get_mut(key).map(change)
    }

    /// The door for other threads.
    pub fn inbox(&self) -> &Arc<Inbox<K::Sent>> {
        &self.inbox
    }

    /// Ends the run after the batch that is under way, or after the next one.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.inbox.wake();
    }

    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns().wrapping_add_signed(self.shift_ns.get())
    }

    /// Whether no descriptor is watched and no timer set.
    pub fn waits_for_callbacks_only(&self) -> bool {
        self.timers.try_borrow().is_ok_and(|timers| timers.is_empty()) && self.reactor.is_idle()
    }

    /// The number of the turn that something is written in, as [`Engine::turn`] tells it. Whoever reads
    /// it may be here, so the next tick polls.
    #[inline]
    pub fn turn_of_write(&self) -> Option<WriteTurn> {
        self.reactor.touch();
        self.turn().map(|number| {
            self.crowd.note_write();
            WriteTurn { number, is_crowded: self.crowd.is_crowded() }
        })
    }

    pub fn reactor(&self) -> &Reactor<K::Source> {
        &self.reactor
    }

    /// The number of the turn that callbacks are run in, or `None` between batches.
    #[inline]
    pub fn turn(&self) -> Option<u64> {
        self.in_batch.get().then(|| self.turn.get())
    }

    /// Where a signal handler may write signal numbers.
    pub fn signal_writer(&self) -> Result<RawFd> {
        Ok(self.reactor.open()?.signals.writer())
    }

    /// The signal numbers that arrived since the last poll. If they are to be kept, the next poll tells
    /// of them, too.
    pub fn signals_since_poll(&self, keep: bool) -> Vec<u8> {
        let Some(opened) = self.reactor.opened() else { return Vec::new() };
        let numbers = opened.signals.take();
        if keep {
            opened.signals.put_back(&numbers);
        }
        numbers
    }

    /// Whether this process is a forked child that inherited the loop from its parent, and has not run
    /// it.
    pub fn is_inherited(&self) -> bool {
        !self.owner.get().is_current()
    }

    /// As [`Engine::clear`], and the inbox drops what is sent from now on. The poller is closed.
    pub fn close(&self) {
        drop(self.inbox.close());
        self.clear();
        self.reactor.close();
    }

    /// Drops every callback, timer and source. Nothing is borrowed while they are dropped.
    pub fn clear(&self) {
        drop(self.ready.take());
        drop(self.inbox.take());
        let timers = self.timers.borrow_mut().clear();
        drop(timers);
        drop(self.reactor.clear());
    }

    /// Looks at everything that waits, for a garbage collector.
    pub fn inspect(
        &self,
        mut callback: impl FnMut(&K::Callback),
        sent: impl FnMut(&K::Sent),
        mut timer: impl FnMut(&K::Timer),
        source: impl FnMut(&K::Source),
    ) {
        if let Ok(ready) = self.ready.try_borrow() {
            ready.iter().for_each(&mut callback);
        }
        self.inbox.inspect(sent);
        if let Ok(timers) = self.timers.try_borrow() {
            timers.iter().for_each(&mut timer);
        }
        self.reactor.inspect(source);
    }
}

fn slack_ns(delay_ns: u64) -> u32 {
    if delay_ns < MIN_DELAY_WITH_SLACK_NS {
        return 0;
    }
    (delay_ns / SLACK_PART).min(MAX_SLACK_NS) as u32
}

/// Errors of the operating system that mean that descriptors, buffers or memory ran out.
pub fn is_exhausted(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Timer;

    impl From<Timer> for () {
        fn from(_: Timer) {}
    }

    #[derive(Clone)]
    struct NoSource;

    impl Source for NoSource {
        type Callback = ();

        fn ready(self, _: Readiness, _: &mut dyn FnMut(())) {}
    }

    enum Nothing {}

    impl Kind for Nothing {
        type Callback = ();
        type Sent = ();
        type Timer = Timer;
        type Source = NoSource;
    }

    #[test]
    fn a_sleep_is_one_that_every_kernel_can_count() {
        let engine = Engine::<Nothing>::new();
        assert_eq!(engine.poll_timeout_ns(), None);
        engine.call_at(u64::MAX, Timer);
        assert_eq!(engine.poll_timeout_ns(), Some(LONGEST_POLL_NS));
        assert!(LONGEST_POLL_NS / 1_000_000 < i32::MAX as u64);
        engine.call_soon(());
        assert_eq!(engine.poll_timeout_ns(), Some(0));
    }

    /// The sleep of a loop with timers that were set for after so many microseconds.
    fn sleep_us(delays_us: &[u64], exact_us: &[u64]) -> u64 {
        let engine = Engine::<Nothing>::with_clock(Clock::Manual(Cell::new(0)));
        for delay_ns in delays_us.iter().map(|delay_us| delay_us * 1_000) {
            engine.call_later(delay_ns, delay_ns, Timer);
        }
        for deadline_ns in exact_us.iter().map(|deadline_us| deadline_us * 1_000) {
            engine.call_at(deadline_ns, Timer);
        }
        engine.poll_timeout_ns().unwrap() / 1_000
    }

    #[test]
    fn a_timer_waits_a_quarter_of_its_delay_for_those_that_follow() {
        assert_eq!(sleep_us(&[2_000], &[]), 2_000, "alone");
        assert_eq!(sleep_us(&[2_000, 2_501], &[]), 2_000);
        assert_eq!(sleep_us(&[2_000, 2_300, 2_500], &[]), 2_500);
        assert_eq!(sleep_us(&[4_500, 5_500, 5_501], &[]), 5_500, "a millisecond at most");
        assert_eq!(sleep_us(&[4_999, 5_999], &[]), 5_999, "which the poller counts in nanoseconds");
        assert_eq!(sleep_us(&[5_000, 5_999], &[]), 5_000);
        assert_eq!(PRECISE_BELOW_NS, 6_000_000);
    }

    #[test]
    fn short_timers_and_times_that_were_named_are_exact() {
        assert_eq!(sleep_us(&[999, 1_000], &[]), 999);
        assert_eq!(sleep_us(&[2_000, 2_500], &[2_100]), 2_100);
        assert_eq!(sleep_us(&[2_200, 2_500], &[2_100]), 2_100);
    }
}
