"""call_later and call_at."""

import asyncio
import contextlib
import contextvars
import gc
import math
import random
import time
import weakref

import pytest

# The loop may treat a timer as due when the clock cannot tell the difference.
RESOLUTION = time.get_clock_info("monotonic").resolution


def run_for(loop, seconds):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def test_time_is_the_monotonic_clock(loop):
    before = time.monotonic()
    now = loop.time()
    assert isinstance(now, float)
    assert before <= now <= time.monotonic()


def test_a_timer_is_never_early(loop):
    early = []

    def check(due):
        if loop.time() < due - RESOLUTION:
            early.append((due, loop.time()))

    generator = random.Random(1)
    for _ in range(300):
        due = loop.time() + generator.random() / 20
        loop.call_at(due, check, due)
    run_for(loop, 0.1)
    assert early == []


@pytest.mark.parametrize("delay", [1e-6, 50e-6, 200e-6, 1e-3, 1.5e-3, 9.99e-3])
def test_a_lonely_timer_is_never_early(loop, delay):
    begin = loop.time()
    run_for(loop, delay)
    assert loop.time() >= begin + delay - RESOLUTION


def test_timers_run_in_the_order_of_their_times(loop):
    ran = []
    base = loop.time()
    order = list(range(200))
    random.Random(2).shuffle(order)
    for number in order:
        loop.call_at(base + number / 10000, ran.append, number)
    run_for(loop, 0.05)
    assert ran == sorted(order)


def test_timers_of_the_past_run_in_the_order_of_their_times(loop):
    ran = []
    for when in (5.0, 1.0, 3.0, 2.0, 4.0):
        loop.call_at(when, ran.append, when)
    loop.stop()
    loop.run_forever()
    assert ran == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_timers_of_one_time_all_run(loop):
    ran = []
    when = loop.time() + 0.002
    for number in range(50):
        loop.call_at(when, ran.append, number)
    run_for(loop, 0.01)
    assert sorted(ran) == list(range(50))


def test_an_earlier_timer_set_later_runs_first(loop):
    ran = []
    loop.call_later(0.02, ran.append, "late")
    loop.call_later(0.001, ran.append, "early")
    run_for(loop, 0.04)
    assert ran == ["early", "late"]


def test_a_timer_set_while_another_is_awaited_runs(loop):
    ran = []
    loop.call_later(1000, ran.append, "never").cancel()
    loop.call_later(1000, ran.append, "never")
    loop.call_soon(loop.call_later, 0.001, loop.stop)
    loop.run_forever()
    assert ran == []


@pytest.mark.parametrize("delay", [0, 0.0, -1, -1e9, -math.inf])
def test_a_delay_of_zero_or_less_means_the_next_tick(loop, delay):
    ran = []
    loop.call_later(delay, ran.append, 1)
    loop.stop()
    loop.run_forever()
    assert ran == [1]


def test_a_timer_set_by_a_timer_waits_for_the_next_tick(loop):
    ran = []
    loop.call_later(0, lambda: loop.call_later(-1, ran.append, "second"))
    loop.stop()
    loop.run_forever()
    assert ran == []
    loop.stop()
    loop.run_forever()
    assert ran == ["second"]


@pytest.mark.parametrize("delay", [math.inf, 1e12, 10**10])
def test_a_timer_far_away_never_runs_and_does_no_harm(loop, delay):
    ran = []
    timer = loop.call_later(delay, ran.append, 1)
    run_for(loop, 0.001)
    timer.cancel()
    assert ran == []


def test_the_loop_sleeps_through_a_timer_that_is_infinitely_far(loop):
    # With nothing else to wait for, the loop must still turn infinity into a sleep.
    timer = loop.call_later(math.inf, print)
    loop.call_soon(loop.run_in_executor, None, lambda: loop.call_soon_threadsafe(loop.stop))
    loop.run_forever()
    timer.cancel()


def test_when_is_the_time_that_was_asked_for(loop):
    assert loop.call_at(123.25, print).when() == 123.25
    before = loop.time()
    when = loop.call_later(10, print).when()
    assert before + 10 <= when <= loop.time() + 10
    loop.close()


def test_whole_numbers_are_times(loop):
    ran = []
    loop.call_later(0, ran.append, 1)
    loop.call_at(0, ran.append, 2)
    loop.stop()
    loop.run_forever()
    assert sorted(ran) == [1, 2]


def test_none_is_no_time(loop):
    with pytest.raises(TypeError, match=r"^delay must not be None$"):
        loop.call_later(None, print)
    with pytest.raises(TypeError, match=r"^when cannot be None$"):
        loop.call_at(None, print)


def test_text_is_no_delay(loop):
    with pytest.raises(TypeError):
        loop.call_later("1", print)


def test_a_cancelled_timer_never_runs(loop):
    ran = []
    loop.call_later(0.001, ran.append, 1).cancel()
    loop.call_later(0, ran.append, 2).cancel()
    run_for(loop, 0.005)
    assert ran == []


def test_a_due_timer_can_be_cancelled_by_a_callback_of_its_batch(loop):
    ran = []
    loop.call_at(1, lambda: second.cancel())
    second = loop.call_at(2, ran.append, "second")
    loop.stop()
    loop.run_forever()
    assert ran == []


def test_cancelling_most_timers_leaves_the_others(loop):
    ran = []
    timers = [loop.call_later(number / 100000, ran.append, number) for number in range(1000)]
    for number, timer in enumerate(timers):
        if number % 10:
            timer.cancel()
    run_for(loop, 0.03)
    assert ran == list(range(0, 1000, 10))


def test_a_timer_cancelled_after_it_ran_is_harmless(loop):
    timer = loop.call_later(0, lambda: None)
    run_for(loop, 0.001)
    timer.cancel()
    assert timer.cancelled()
    run_for(loop, 0.001)


def test_a_timer_has_nothing_of_those_that_are_gone(loop):
    ran = []
    gone = loop.call_at(10**9, ran.append, "gone")
    watched = weakref.ref(gone)
    gone.cancel()
    del gone
    for again in range(600):
        loop.call_at(10**9, ran.append, again, context=contextvars.Context()).cancel()
        timer = loop.call_later(60, ran.append, "new", "another")
        assert type(timer.when()) is float
        assert timer._scheduled
        assert not timer.cancelled()
        assert (timer._args, timer._loop) == (("new", "another"), loop)
        timer.cancel()
    timers = [loop.call_later(0.001, ran.append, number) for number in range(600)]
    assert len({id(timer) for timer in timers}) == len(timers)
    del timers
    run_for(loop, 0.005)
    assert ran == list(range(600))
    assert watched() is None


def test_a_timer_in_a_cycle_is_freed(loop):
    class Owner:
        def fire(self):
            pass

    for _ in range(3):
        owner = Owner()
        owner.timer = loop.call_later(0, owner.fire)
        watched = weakref.ref(owner)
        run_for(loop, 0.001)
        del owner
        gc.collect()
        assert watched() is None


def test_what_a_timer_drops_may_set_timers(loop):
    ran = []

    class Dropped:
        def __del__(self):
            ran.append(None)
            loop.call_later(0, ran.append, "set by what was dropped")

    for _ in range(400):
        loop.call_later(0.001, lambda _: None, Dropped())
        loop.call_later(60, print, Dropped()).cancel()
    run_for(loop, 0.005)
    run_for(loop, 0.001)
    assert ran.count("set by what was dropped") == ran.count(None) == 800


def test_cancel_takes_no_arguments(loop):
    timer = loop.call_later(60, print)
    with pytest.raises(TypeError, match=r"cancel\(\) takes 1 positional argument but 2 were given"):
        timer.cancel(1)
    with pytest.raises(TypeError, match=r"cancel\(\) got an unexpected keyword argument 'x'"):
        timer.cancel(x=1)
    assert not timer.cancelled()
    timer.cancel()


def test_sleep_sleeps_long_enough(loop):
    begin = loop.time()
    loop.run_until_complete(asyncio.sleep(0.003))
    assert loop.time() >= begin + 0.003 - RESOLUTION


def test_a_cancelled_sleep_ends_at_once(loop):
    async def main():
        task = asyncio.create_task(asyncio.sleep(1000))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    loop.run_until_complete(main())


def test_sleeps_end_in_the_order_of_their_times(loop):
    ended = []

    async def sleeper(seconds):
        await asyncio.sleep(seconds)
        ended.append(seconds)

    async def main():
        await asyncio.gather(*(sleeper(n / 1000) for n in (5, 1, 4, 2, 3)))

    loop.run_until_complete(main())
    assert ended == [0.001, 0.002, 0.003, 0.004, 0.005]


def test_wait_for_gives_up(loop):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.create_future(), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await loop.create_future()

    loop.run_until_complete(main())


def test_what_a_dropped_timer_lets_go_of_is_not_slept_through(loop):
    late = loop.call_later(60, loop.stop)
    timer = loop.call_later(1, print)
    timer.cancel()
    freed = weakref.ref(timer, lambda _: loop.call_soon(loop.stop))
    del timer
    loop.call_soon(lambda: None)
    loop.run_forever()
    late.cancel()
    assert freed() is None


@pytest.mark.parametrize(
    ("function", "args", "keywords", "name"),
    [
        ("call_soon", [print], {"callback": print}, "callback"),
        ("call_later", [0, print], {"callback": print}, "callback"),
        ("call_later", [0, print], {"delay": 0}, "delay"),
        ("call_at", [print], {"when": 0}, "when"),
        ("call_at", [0, print], {"callback": print}, "callback"),
    ],
)
def test_an_argument_may_be_given_once_only(loop, function, args, keywords, name):
    with pytest.raises(TypeError, match=rf"{function}\(\) got multiple values for argument '{name}'"):
        getattr(loop, function)(*args, **keywords)


@pytest.mark.parametrize("function", ["time", "get_debug", "create_future"])
def test_what_takes_no_arguments_takes_none(loop, function):
    with pytest.raises(TypeError, match=rf"{function}\(\) takes 1 positional argument but 2 were given"):
        getattr(loop, function)(1)
    with pytest.raises(TypeError, match=rf"{function}\(\) got an unexpected keyword argument 'x'"):
        getattr(loop, function)(x=1)


class OtherClock:
    """A clock that a test turns."""

    def __init__(self, time):
        self.real, self.ahead = time, 0

    def __call__(self):
        return self.real() + self.ahead


def has_run(loop, ran):
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    return bool(ran)


def test_timers_follow_a_time_put_on_the_loop(loop):
    ran = []
    timer = loop.call_later(3600, ran.append, 1)
    loop.time = clock = OtherClock(loop.time)
    assert not has_run(loop, ran)
    clock.ahead = 3599
    assert not has_run(loop, ran)
    clock.ahead = 3600
    assert has_run(loop, ran)
    late = loop.call_later(3600, ran.append, 2)
    assert late.when() - timer.when() >= 3600
    del loop.time
    clock.ahead = 10_000
    ran.clear()
    assert not has_run(loop, ran)
    late.cancel()


def test_timers_follow_the_time_of_a_subclass(new_loop):
    with contextlib.closing(new_loop()) as loop:
        base = type(loop)

    class Ahead(base):
        ahead = 0

        def time(self):
            return super().time() + self.ahead

    loop, ran = Ahead(), []
    loop.call_later(3600, ran.append, 1)
    assert not has_run(loop, ran)
    loop.ahead = 3600
    assert has_run(loop, ran)
    loop.close()


def test_timers_follow_a_time_put_on_the_class(loop, monkeypatch):
    ran = []
    loop.call_later(3600, ran.append, 1)
    with monkeypatch.context() as patch:
        clock = OtherClock(loop.time)
        patch.setattr(type(loop), "time", lambda self: clock())
        assert not has_run(loop, ran)
        clock.ahead = 3600
        assert has_run(loop, ran)
        late = loop.call_later(3600, ran.append, 2)
        assert late.when() >= loop.time() + 3599
        late.cancel()
    ran.clear()
    later = loop.call_later(3600, ran.append, 3)
    assert later.when() < late.when()
    assert not has_run(loop, ran)
    later.cancel()


def noting(call_at, calls):
    def noting_call_at(*args, **keywords):
        calls.append(args)
        return call_at(*args, **keywords)

    return noting_call_at


def test_call_later_calls_a_call_at_put_on_the_loop(loop):
    calls = []
    loop.call_at = noting(loop.call_at, calls)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert len(calls) == 1
    del loop.call_at
    loop.run_until_complete(asyncio.sleep(0.001))
    assert len(calls) == 1


def test_call_later_calls_a_call_at_put_on_the_class(loop, monkeypatch):
    calls = []
    loop.run_until_complete(asyncio.sleep(0.001))
    with monkeypatch.context() as patch:
        patch.setattr(type(loop), "call_at", noting(type(loop).call_at, calls))
        loop.run_until_complete(asyncio.sleep(0.001))
    assert len(calls) == 1
    loop.run_until_complete(asyncio.sleep(0.001))
    assert len(calls) == 1


def test_call_later_calls_the_call_at_of_a_subclass(new_loop):
    with contextlib.closing(new_loop()) as loop:
        base = type(loop)

    calls = []

    class Noting(base):
        call_at = noting(base.call_at, calls)

    loop = Noting()
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    assert len(calls) == 1


def test_a_time_that_stands_still(loop):
    loop.time = lambda: 100
    order = []
    loop.call_later(0, order.append, "now")
    loop.call_at(100, order.append, "at")
    loop.call_later(1, order.append, "never")
    has_run(loop, order)
    assert order == ["now", "at"]


def test_what_a_time_raises_leaves_the_loop(loop):
    def broken():
        raise ZeroDivisionError

    loop.call_later(3600, print)
    loop.time = broken
    with pytest.raises(ZeroDivisionError):
        loop.run_forever()
    del loop.time


@pytest.mark.parametrize("when", [5, 5.0, 5.5])
def test_when_is_what_was_given(loop, when):
    timer = loop.call_at(when, print)
    assert timer.when() == when
    assert type(timer.when()) is type(when)
    timer.cancel()
