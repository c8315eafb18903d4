"""Running, stopping and closing a loop."""

import asyncio
import gc
import sys
import threading
import warnings
import weakref

import pytest


class Token:
    """Something that a weak reference can watch."""


async def fail(exception):
    raise exception


def in_thread(function):
    """Call `function` in a thread; what it returned, or the exception that it raised."""
    outcome = []

    def target():
        try:
            outcome.append(function())
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return outcome[0]


# --- run_until_complete ---------------------------------------------------------------------------


def test_a_loop_is_an_asyncio_loop(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)


def test_run_until_complete_returns_the_result_of_a_coroutine(loop):
    assert loop.run_until_complete(asyncio.sleep(0, "result")) == "result"


def test_run_until_complete_returns_the_result_of_a_future(loop):
    future = loop.create_future()
    loop.call_soon(future.set_result, 5)
    assert loop.run_until_complete(future) == 5


def test_run_until_complete_accepts_any_awaitable(loop):
    class Awaitable:
        def __await__(self):
            yield
            return "awaited"

    assert loop.run_until_complete(Awaitable()) == "awaited"


def test_run_until_complete_raises_what_the_coroutine_raised(loop):
    with pytest.raises(ZeroDivisionError):
        loop.run_until_complete(fail(ZeroDivisionError()))


def test_run_until_complete_of_a_done_future_returns_at_once(loop):
    future = loop.create_future()
    future.set_result(1)
    assert loop.run_until_complete(future) == 1


def test_run_until_complete_of_a_cancelled_task_raises_cancelled_error(loop):
    task = loop.create_task(asyncio.sleep(0))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_run_until_complete_rejects_what_cannot_be_awaited(loop):
    with pytest.raises(TypeError, match="An asyncio.Future, a coroutine or an awaitable is required"):
        loop.run_until_complete(42)


def test_run_until_complete_rejects_a_future_of_another_loop(loop, new_loop):
    other = new_loop()
    try:
        with pytest.raises(ValueError, match="The future belongs to a different loop than the one specified"):
            loop.run_until_complete(other.create_future())
    finally:
        other.close()


def test_stop_before_the_future_is_done_is_an_error(loop):
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
        loop.run_until_complete(loop.create_future())


def test_an_unfinished_future_gets_its_stop_callback_removed(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError):
        loop.run_until_complete(future)
    ran = []
    future.set_result(None)
    loop.call_soon(loop.call_soon, loop.call_soon, ran.append, 1)
    loop.call_soon(loop.call_soon, loop.call_soon, loop.call_soon, loop.stop)
    loop.run_forever()
    assert ran == [1]


# --- run_forever, stop ----------------------------------------------------------------------------


def test_stop_ends_run_forever(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert not loop.is_running()


def test_stop_lets_the_callbacks_behind_it_in_the_batch_run(loop):
    ran = []
    loop.call_soon(loop.stop)
    loop.call_soon(ran.append, "behind")
    loop.run_forever()
    assert ran == ["behind"]


def test_callbacks_added_in_the_last_batch_wait_for_the_next_run(loop):
    ran = []

    def last():
        loop.stop()
        loop.call_soon(ran.append, "added")

    loop.call_soon(last)
    loop.run_forever()
    assert ran == []
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == ["added"]


def test_stop_before_the_run_means_one_batch(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_soon(loop.call_soon, ran.append, 2)
    loop.stop()
    loop.run_forever()
    assert ran == [1]


def test_stop_before_the_run_still_looks_at_io_and_timers(loop, socket_pair):
    one, other = socket_pair
    ran = []
    other.send(b"x")
    loop.add_reader(one, ran.append, "io")
    loop.call_later(-1, ran.append, "timer")
    loop.stop()
    loop.run_forever()
    loop.remove_reader(one)
    assert sorted(ran) == ["io", "timer"]


def test_stop_counts_once(loop):
    ran = []
    loop.stop()
    loop.stop()
    loop.run_forever()
    loop.call_soon(loop.call_soon, ran.append, 1)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert ran == [1]


def test_a_loop_runs_again_after_stop(loop):
    for _ in range(3):
        assert loop.run_until_complete(asyncio.sleep(0, "again")) == "again"


def test_is_running_is_true_only_inside(loop):
    inside = []
    assert not loop.is_running()
    loop.call_soon(lambda: inside.append(loop.is_running()))
    loop.run_until_complete(asyncio.sleep(0))
    assert inside == [True]
    assert not loop.is_running()


def test_the_running_loop_is_known_only_inside(loop):
    seen = []
    loop.call_soon(lambda: seen.append(asyncio.get_running_loop()))
    loop.run_until_complete(asyncio.sleep(0))
    assert seen == [loop]
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_get_event_loop_inside_is_the_running_loop(loop):
    async def current():
        return asyncio.get_event_loop()

    assert loop.run_until_complete(current()) is loop


def test_a_running_loop_cannot_be_run(loop):
    async def nested():
        with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
            loop.run_forever()
        future = loop.create_future()
        with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
            loop.run_until_complete(future)

    loop.run_until_complete(nested())


def test_another_loop_cannot_be_run_inside(loop, new_loop):
    other = new_loop()

    async def nested():
        with pytest.raises(RuntimeError, match=r"^Cannot run the event loop while another loop is running$"):
            other.run_forever()

    try:
        loop.run_until_complete(nested())
        assert not other.is_running()
        assert other.run_until_complete(asyncio.sleep(0, "usable")) == "usable"
    finally:
        other.close()


def test_a_loop_runs_in_any_thread(loop):
    assert in_thread(lambda: loop.run_until_complete(asyncio.sleep(0, 3))) == 3
    assert loop.run_until_complete(asyncio.sleep(0, 4)) == 4


def test_a_loop_running_in_one_thread_cannot_be_run_from_another(loop):
    async def main():
        return in_thread(loop.run_forever)

    error = loop.run_until_complete(main())
    assert isinstance(error, RuntimeError)
    assert str(error) == "This event loop is already running"


def test_a_loop_running_elsewhere_is_running_but_not_ours(loop):
    async def main():
        return in_thread(lambda: (loop.is_running(), asyncio._get_running_loop()))

    assert loop.run_until_complete(main()) == (True, None)


# --- exceptions that leave the loop ---------------------------------------------------------------


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_leaves_the_loop_from_a_callback(loop, exception):
    def interrupt():
        raise exception

    loop.call_soon(interrupt)
    with pytest.raises(exception):
        loop.run_forever()
    assert not loop.is_running()
    assert loop.run_until_complete(asyncio.sleep(0, "usable")) == "usable"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_leaves_the_loop_from_a_coroutine(loop, exception):
    with pytest.raises(exception):
        loop.run_until_complete(fail(exception()))
    assert loop.run_until_complete(asyncio.sleep(0, "usable")) == "usable"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_leaves_the_loop_from_a_timer(loop, exception):
    def interrupt():
        raise exception

    loop.call_later(0.001, interrupt)
    with pytest.raises(exception):
        loop.run_forever()


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_leaves_the_loop_from_a_reader(loop, socket_pair, exception):
    one, other = socket_pair

    def interrupt():
        loop.remove_reader(one)
        raise exception

    loop.add_reader(one, interrupt)
    other.send(b"x")
    with pytest.raises(exception):
        loop.run_forever()


def test_callbacks_behind_an_interrupt_run_in_the_next_run(loop):
    ran = []

    def interrupt():
        raise KeyboardInterrupt

    loop.call_soon(ran.append, 1)
    loop.call_soon(interrupt)
    loop.call_soon(ran.append, 2)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert ran == [1]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [1, 2]


def test_a_task_that_was_interrupted_is_not_reported_as_pending(loop):
    async def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(interrupted())
    gc.collect()  # `loop` checks that nothing was reported


# --- close ----------------------------------------------------------------------------------------


def test_close_is_seen_by_is_closed(loop):
    assert not loop.is_closed()
    loop.close()
    assert loop.is_closed()


def test_close_twice_is_harmless(loop):
    loop.close()
    loop.close()


def test_a_running_loop_cannot_be_closed(loop):
    async def main():
        with pytest.raises(RuntimeError, match=r"^Cannot close a running event loop$"):
            loop.close()

    loop.run_until_complete(main())
    assert not loop.is_closed()


def test_a_loop_running_elsewhere_cannot_be_closed(loop):
    async def main():
        return in_thread(loop.close)

    assert str(loop.run_until_complete(main())) == "Cannot close a running event loop"


@pytest.mark.parametrize(
    "use",
    [
        lambda loop: loop.call_soon(print),
        lambda loop: loop.call_soon_threadsafe(print),
        lambda loop: loop.call_later(1, print),
        lambda loop: loop.call_at(1, print),
        lambda loop: loop.run_forever(),
        lambda loop: loop.run_until_complete(loop.create_future()),
        lambda loop: loop.run_in_executor(None, print),
        lambda loop: loop.add_reader(0, print),
        lambda loop: loop.add_writer(0, print),
        lambda loop: loop.add_signal_handler(10, print),
    ],
    ids=lambda use: "-".join(name for name in use.__code__.co_names if name not in ("print", "loop")),
)
def test_a_closed_loop_refuses(loop, use):
    loop.close()
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        use(loop)


def test_a_closed_loop_refuses_a_task(loop):
    loop.close()
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        loop.create_task(coroutine)
    coroutine.close()


def test_a_closed_loop_has_no_readers_and_writers_to_remove(loop, socket_pair):
    one, _ = socket_pair
    loop.add_reader(one, print)
    loop.close()
    assert loop.remove_reader(one) is False
    assert loop.remove_writer(one) is False


def test_close_drops_what_was_queued(loop, socket_pair):
    one, _ = socket_pair
    tokens = [Token() for _ in range(4)]
    watched = [weakref.ref(token) for token in tokens]
    loop.call_soon(print, tokens[0])
    loop.call_later(1000, print, tokens[1])
    loop.call_soon_threadsafe(print, tokens[2])
    loop.add_reader(one, print, tokens[3])
    tokens.clear()
    loop.close()
    gc.collect()
    # asyncio keeps readers until the loop itself goes; what it promises is the two queues.
    assert [ref() for ref in watched[:3]] == [None] * 3


def test_close_leaves_a_descriptor_that_was_only_watched(loop, socket_pair):
    one, other = socket_pair
    loop.add_reader(one, print)
    loop.close()
    other.send(b"alive")
    assert one.recv(5) == b"alive"


def test_a_loop_dropped_unclosed_warns_and_returns_its_descriptors(new_loop):
    loop = new_loop()
    loop.run_until_complete(asyncio.sleep(0))
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()


def test_a_closed_loop_does_not_warn(new_loop):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = new_loop()
        loop.close()
        del loop
        gc.collect()
    assert caught == []


def test_repr_shows_the_state(loop):
    name = type(loop).__name__
    assert repr(loop) == f"<{name} running=False closed=False debug=False>"
    loop.close()
    assert repr(loop) == f"<{name} running=False closed=True debug=False>"


# --- the current loop -----------------------------------------------------------------------------


def test_set_event_loop_makes_a_loop_current(loop):
    asyncio.set_event_loop(loop)
    try:
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)


def test_set_event_loop_is_per_thread(loop):
    asyncio.set_event_loop(loop)
    try:
        error = in_thread(asyncio.get_event_loop)
    finally:
        asyncio.set_event_loop(None)
    assert isinstance(error, RuntimeError)
    assert "There is no current event loop in thread" in str(error)


def test_a_runner_uses_the_factory(new_loop):
    async def running():
        return asyncio.get_running_loop()

    made = []
    with asyncio.Runner(loop_factory=lambda: made.append(new_loop()) or made[0]) as runner:
        assert runner.run(running()) is made[0]
        assert runner.run(running()) is made[0]
    assert made[0].is_closed()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run() takes loop_factory since 3.12")
def test_asyncio_run_uses_the_factory(new_loop):
    async def running():
        return asyncio.get_running_loop()

    loop = asyncio.run(running(), loop_factory=new_loop)
    assert type(loop) is type(new_loop().close() or loop)
    assert loop.is_closed()


def test_a_runner_cancels_what_is_left_and_joins_the_executor(new_loop):
    ended = []

    async def background():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    async def main():
        main.task = asyncio.create_task(background())
        await asyncio.get_running_loop().run_in_executor(None, ended.append, "executor")

    before = threading.active_count()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert ended == ["executor", "task"]
    assert threading.active_count() == before


# --- asynchronous generators ----------------------------------------------------------------------


async def numbers(closed):
    try:
        yield 1
        yield 2
    finally:
        closed.append(True)


async def first(generator):
    # The hooks are called where the iteration begins, so it has to begin inside the loop.
    return await anext(generator)


async def test_an_abandoned_generator_is_closed_by_the_loop(loop):
    closed = []
    generator = numbers(closed)
    assert await anext(generator) == 1
    del generator
    gc.collect()
    for _ in range(3):
        await asyncio.sleep(0)
    assert closed == [True]


def test_shutdown_asyncgens_closes_generators_that_are_still_held(loop):
    closed = []
    generator = numbers(closed)
    assert loop.run_until_complete(first(generator)) == 1
    assert closed == []
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert closed == [True]


def test_an_error_while_closing_a_generator_is_reported(loop, reports):
    async def broken():
        try:
            yield 1
        finally:
            raise ZeroDivisionError

    generator = broken()
    loop.run_until_complete(first(generator))
    loop.run_until_complete(loop.shutdown_asyncgens())
    context = reports.take()
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["asyncgen"] is generator
    assert "an error occurred during closing of asynchronous generator" in context["message"]


def test_a_generator_begun_after_the_shutdown_warns(loop):
    loop.run_until_complete(loop.shutdown_asyncgens())
    generator = numbers([])
    with pytest.warns(ResourceWarning, match="was scheduled after loop.shutdown_asyncgens"):
        loop.run_until_complete(first(generator))
    loop.run_until_complete(generator.aclose())


def test_the_generator_hooks_are_restored_after_the_run(loop):
    def firstiter(generator):
        pass

    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=firstiter)
    try:
        inside = []
        loop.call_soon(lambda: inside.append(sys.get_asyncgen_hooks().firstiter))
        loop.run_until_complete(asyncio.sleep(0))
        assert inside[0] not in (None, firstiter)
        assert sys.get_asyncgen_hooks() == (firstiter, before.finalizer)
    finally:
        sys.set_asyncgen_hooks(*before)


# --- wake-up --------------------------------------------------------------------------------------


def test_two_loops_run_in_turn(loop, new_loop):
    other = new_loop()
    try:
        for turn in range(3):
            assert loop.run_until_complete(asyncio.sleep(0, turn)) == turn
            assert other.run_until_complete(asyncio.sleep(0, turn)) == turn
    finally:
        other.close()


def test_many_loops_return_their_descriptors(new_loop):
    # `no_descriptor_is_left_open` looks.
    for _ in range(50):
        loop = new_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


# --- attributes -----------------------------------------------------------------------------------


def test_a_subclass_may_have_attributes_of_the_same_names(loop):
    class Subclass(type(loop)):
        slow_callback_duration = 1

    subclassed = Subclass()
    assert subclassed.slow_callback_duration == 0.1
    del subclassed.slow_callback_duration
    assert subclassed.slow_callback_duration == 1
    subclassed.close()


def test_attributes_can_be_set_and_deleted(loop):
    for name in ("_default_executor", "of_the_programs"):
        before = getattr(loop, name, None)
        setattr(loop, name, 1)
        assert getattr(loop, name) == 1
        delattr(loop, name)
        with pytest.raises(AttributeError):
            getattr(loop, name)
        with pytest.raises(AttributeError):
            delattr(loop, name)
        setattr(loop, name, before)


def test_what_a_loop_has_lives_as_long(loop, new_loop):
    other, token = new_loop(), Token()
    token.loop, other._exception_handler = other, token
    seen = weakref.ref(token)
    other.close()
    del other, token
    gc.collect()
    assert seen() is None
