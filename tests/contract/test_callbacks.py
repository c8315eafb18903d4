"""call_soon and its handles: order, contexts, errors."""

import asyncio
import contextvars
import gc
import random
import socket
import sys
import time
import weakref

import pytest
from support import run_child

variable = contextvars.ContextVar("variable", default="default")


class Token:
    pass


def run_batches(loop, count=3):
    """Let the loop go round `count` times."""

    def step(left):
        if left:
            loop.call_soon(step, left - 1)
        else:
            loop.stop()

    loop.call_soon(step, count)
    loop.run_forever()


# --- order ----------------------------------------------------------------------------------------


def test_callbacks_run_in_the_order_of_registration(loop):
    ran = []
    for number in range(1000):
        loop.call_soon(ran.append, number)
    run_batches(loop)
    assert ran == list(range(1000))


def test_a_callback_added_during_a_tick_runs_in_the_next(loop):
    ran = []

    def first():
        ran.append("first")
        loop.call_soon(ran.append, "added")

    loop.call_soon(first)
    loop.call_soon(ran.append, "second")
    run_batches(loop)
    assert ran == ["first", "second", "added"]


def test_a_batch_is_what_was_queued_when_it_began(loop):
    ran = []

    def again():
        ran.append("again")
        loop.call_soon(again)

    loop.call_soon(again)
    loop.stop()
    loop.run_forever()
    assert ran == ["again"]


def test_call_soon_threadsafe_keeps_its_place_in_the_own_thread(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_soon_threadsafe(ran.append, 2)
    loop.call_soon(ran.append, 3)
    run_batches(loop)
    assert ran == [1, 2, 3]


def test_call_soon_threadsafe_keeps_its_place_inside_a_run(loop):
    ran = []

    def add():
        loop.call_soon(ran.append, 1)
        loop.call_soon_threadsafe(ran.append, 2)
        loop.call_soon(ran.append, 3)

    loop.call_soon(add)
    run_batches(loop)
    assert ran == [1, 2, 3]


def test_a_threadsafe_callback_added_during_a_tick_runs_in_the_next(loop):
    ran = []

    def first():
        ran.append("first")
        loop.call_soon_threadsafe(ran.append, "added")

    loop.call_soon(first)
    loop.call_soon(ran.append, "second")
    run_batches(loop)
    assert ran == ["first", "second", "added"]


def test_a_tick_runs_what_is_queued_then_io_then_timers(loop, socket_pair):
    one, other = socket_pair
    ran = []

    def note(what):
        ran.append(what)
        if len(ran) == 3:
            loop.stop()

    def readable():
        loop.remove_reader(one)
        note("io")

    def prepare():
        other.send(b"x")
        loop.add_reader(one, readable)
        loop.call_later(0, note, "timer")
        loop.call_soon(note, "soon")

    loop.call_soon(prepare)
    loop.run_forever()
    assert ran == ["soon", "io", "timer"]


def test_what_has_arrived_is_not_timed_out_by_a_loop_that_was_blocked(loop):
    connections = [socket.socketpair() for _ in range(300)]
    served = []
    timed_out = []

    def readable(one, timer):
        timer.cancel()
        loop.remove_reader(one)
        served.append(one.recv(1))
        if len(served) == len(connections):
            loop.stop()

    def block():
        for one, other in connections:
            other.send(b"x")
            loop.add_reader(one, readable, one, loop.call_later(0.001, timed_out.append, one))
        time.sleep(0.01)

    loop.call_soon(block)
    loop.run_forever()
    assert timed_out == []
    for one, other in connections:
        one.close()
        other.close()


def test_endless_callbacks_do_not_starve_io(loop, socket_pair):
    one, other = socket_pair
    loop.add_reader(one, loop.stop)
    other.send(b"x")

    def again():
        loop.call_soon(again)

    loop.call_soon(again)
    loop.run_forever()
    loop.remove_reader(one)


def test_endless_callbacks_do_not_starve_timers(loop):
    loop.call_later(0.001, loop.stop)

    def again():
        loop.call_soon(again)

    loop.call_soon(again)
    loop.run_forever()


def test_each_callback_runs_once(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    run_batches(loop, 10)
    run_batches(loop, 10)
    assert ran == [1]


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(8))
def test_arguments_reach_the_callback(loop, count):
    seen = []
    arguments = tuple(object() for _ in range(count))
    loop.call_soon(lambda *args: seen.append(args), *arguments)
    loop.call_soon_threadsafe(lambda *args: seen.append(args), *arguments)
    loop.call_later(0, lambda *args: seen.append(args), *arguments)
    loop.call_at(0, lambda *args: seen.append(args), *arguments)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert seen == [arguments] * 4


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_a_callback_is_required(loop, method):
    with pytest.raises(TypeError):
        getattr(loop, method)()


@pytest.mark.parametrize("method", ["call_later", "call_at"])
def test_a_time_and_a_callback_are_required(loop, method):
    with pytest.raises(TypeError):
        getattr(loop, method)()
    with pytest.raises(TypeError):
        getattr(loop, method)(1)


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_unknown_keywords_are_refused(loop, method):
    with pytest.raises(TypeError):
        getattr(loop, method)(print, end="")


@pytest.mark.parametrize("method", ["call_later", "call_at"])
def test_unknown_keywords_are_refused_by_timers(loop, method):
    with pytest.raises(TypeError):
        getattr(loop, method)(1, print, end="")


def test_the_callback_may_be_given_by_keyword(loop):
    ran = []
    loop.call_soon(callback=lambda: ran.append("soon"))
    loop.call_soon_threadsafe(callback=lambda: ran.append("threadsafe"))
    loop.call_later(delay=0, callback=lambda: ran.append("later"))
    loop.call_at(when=0, callback=lambda: ran.append("at"))
    run_batches(loop, 5)
    assert sorted(ran) == ["at", "later", "soon", "threadsafe"]


def test_what_cannot_be_called_fails_when_it_is_called(loop, reports):
    loop.call_soon(None)
    run_batches(loop)
    assert isinstance(reports.take()["exception"], TypeError)


def test_arguments_are_dropped_when_the_callback_has_run(loop):
    token = Token()
    watched = weakref.ref(token)
    loop.call_soon(lambda _: None, token)
    del token
    run_batches(loop)
    assert watched() is None


# --- contexts -------------------------------------------------------------------------------------


def registrations(loop, sock):
    """Every way to register `callback(*args)`, by name."""
    return {
        "call_soon": lambda callback, *args: loop.call_soon(callback, *args),
        "call_soon_threadsafe": lambda callback, *args: loop.call_soon_threadsafe(callback, *args),
        "call_later": lambda callback, *args: loop.call_later(0, callback, *args),
        "call_at": lambda callback, *args: loop.call_at(0, callback, *args),
        "add_reader": lambda callback, *args: loop.add_reader(sock, callback, *args),
        "add_writer": lambda callback, *args: loop.add_writer(sock, callback, *args),
    }


WAYS = ("call_soon", "call_soon_threadsafe", "call_later", "call_at", "add_reader", "add_writer")


@pytest.fixture
def register(loop, socket_pair, request):
    one, other = socket_pair
    other.send(b"readable")
    yield registrations(loop, one)[request.param]
    loop.remove_reader(one)
    loop.remove_writer(one)


@pytest.mark.parametrize("register", WAYS, indirect=True)
def test_the_context_is_captured_at_registration(loop, register):
    seen = []

    def look():
        seen.append(variable.get())
        loop.stop()

    token = variable.set("registered")
    register(look)
    variable.reset(token)
    loop.run_forever()
    assert seen == ["registered"]


@pytest.mark.parametrize("register", WAYS, indirect=True)
def test_a_callback_cannot_change_the_context_of_its_caller(loop, register):
    def change():
        variable.set("changed")
        loop.stop()

    register(change)
    loop.run_forever()
    assert variable.get() == "default"


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_a_given_context_is_the_one_used(loop, method):
    context = contextvars.copy_context()
    time = {"call_later": [0], "call_at": [0]}.get(method, [])
    getattr(loop, method)(*time, variable.set, "inside", context=context)
    run_batches(loop, 5)
    assert context[variable] == "inside"
    assert variable.get() == "default"


def test_a_context_of_none_is_the_present_one(loop):
    seen = []
    token = variable.set("present")
    loop.call_soon(lambda: seen.append(variable.get()), context=None)
    variable.reset(token)
    run_batches(loop)
    assert seen == ["present"]


def test_callbacks_of_one_context_see_each_other(loop):
    context = contextvars.copy_context()
    seen = []
    loop.call_soon(variable.set, "shared", context=context)
    loop.call_soon(lambda: seen.append(variable.get()), context=context)
    run_batches(loop)
    assert seen == ["shared"]


# --- errors ---------------------------------------------------------------------------------------


def broken(*args):
    raise ZeroDivisionError


@pytest.mark.parametrize("register", WAYS, indirect=True)
def test_an_exception_goes_to_the_handler(loop, register, reports):
    def fail():
        loop.stop()
        broken()

    register(fail)
    loop.run_forever()
    context = reports.take()
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["message"].startswith("Exception in callback ")
    assert "fail" in context["message"]
    assert isinstance(context["handle"], asyncio.Handle)
    assert context.keys() == {"message", "exception", "handle"}


def test_the_loop_goes_on_after_an_exception(loop, reports):
    ran = []
    loop.call_soon(broken)
    loop.call_soon(ran.append, "next")
    run_batches(loop)
    assert ran == ["next"]
    reports.take()


def test_the_reported_handle_is_the_one_that_was_returned(loop, reports):
    handle = loop.call_soon(broken)
    run_batches(loop)
    assert reports.take()["handle"] is handle


def test_a_base_exception_that_is_no_interrupt_goes_to_the_handler(loop, reports):
    class Custom(BaseException):
        pass

    def fail():
        raise Custom

    loop.call_soon(fail)
    run_batches(loop)
    assert isinstance(reports.take()["exception"], Custom)


def test_the_traceback_shows_the_callback(loop, reports):
    loop.call_soon(broken)
    run_batches(loop)
    traceback = reports.take()["exception"].__traceback__
    while traceback.tb_next:
        traceback = traceback.tb_next
    assert traceback.tb_frame.f_code is broken.__code__


def test_an_exception_does_not_keep_the_arguments_alive(loop, reports):
    token = Token()
    watched = weakref.ref(token)
    loop.call_soon(broken, token)
    del token
    run_batches(loop)
    reports.take()
    gc.collect()
    assert watched() is None


# --- handles --------------------------------------------------------------------------------------


def make_handle(loop, method):
    return loop.call_later(1000, print, "x") if method == "call_later" else getattr(loop, method)(print, "x")


HANDLES = ("call_soon", "call_soon_threadsafe", "call_later")


@pytest.mark.parametrize("method", HANDLES)
def test_a_handle_is_an_asyncio_handle(loop, method):
    handle = make_handle(loop, method)
    assert isinstance(handle, asyncio.Handle)
    assert isinstance(handle, asyncio.TimerHandle) == (method == "call_later")
    handle.cancel()


def test_a_cancelled_callback_never_runs(loop):
    ran = []
    loop.call_soon(ran.append, 1).cancel()
    loop.call_soon_threadsafe(ran.append, 2).cancel()
    run_batches(loop)
    assert ran == []


def test_a_callback_can_be_cancelled_inside_its_own_batch(loop):
    ran = []
    loop.call_soon(lambda: handle.cancel())
    handle = loop.call_soon(ran.append, 1)
    run_batches(loop)
    assert ran == []


@pytest.mark.parametrize("method", HANDLES)
def test_cancelled_tells(loop, method):
    handle = make_handle(loop, method)
    assert handle.cancelled() is False
    assert handle.cancel() is None
    assert handle.cancelled() is True
    handle.cancel()
    assert handle.cancelled() is True


@pytest.mark.parametrize("method", HANDLES)
def test_cancel_drops_the_arguments_at_once(loop, method):
    token = Token()
    watched = weakref.ref(token)
    delay = [1000] if method == "call_later" else []
    handle = getattr(loop, method)(*delay, print, token)
    del token
    assert watched() is not None
    handle.cancel()
    assert watched() is None


def test_cancel_after_the_callback_has_run_is_harmless(loop):
    handle = loop.call_soon(lambda: None)
    run_batches(loop)
    assert not handle.cancelled()
    handle.cancel()
    run_batches(loop)


def test_a_callback_may_cancel_itself(loop):
    ran = []
    handle = loop.call_soon(lambda: ran.append(handle.cancel()))
    run_batches(loop)
    assert ran == [None]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Handle.get_context() is new in 3.12")
@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_get_context_is_the_context_it_runs_in(loop, method):
    context = contextvars.copy_context()
    delay = [1000] if method == "call_later" else []
    handle = getattr(loop, method)(*delay, print, context=context)
    assert handle.get_context() is context
    handle.cancel()
    present = getattr(loop, method)(*delay, print)
    assert isinstance(present.get_context(), contextvars.Context)
    present.cancel()


def test_repr_names_the_callback(loop):
    handle = loop.call_soon(broken)
    assert repr(handle).startswith("<Handle broken(")
    assert "test_callbacks.py:" in repr(handle)
    handle.cancel()
    assert repr(handle) == "<Handle cancelled>"


def test_repr_of_a_timer_shows_its_time(loop):
    timer = loop.call_at(12.5, broken)
    assert repr(timer).startswith("<TimerHandle when=12.5 broken(")
    timer.cancel()
    assert repr(timer) == "<TimerHandle cancelled when=12.5>"


def test_a_handle_takes_weak_references(loop):
    handle = loop.call_soon(lambda: None)
    assert weakref.ref(handle)() is handle
    run_batches(loop)


def test_a_handle_that_is_kept_stays_what_it_was(loop):
    kept = [loop.call_soon(broken).cancel, loop.call_soon(int)]
    loop.call_soon(float)
    kept.append(loop.call_soon(bool))
    kept.append(loop.call_soon_threadsafe(bytes))
    loop.call_soon(list)
    kept.pop(0)()
    names = [repr(handle).split()[1] for handle in kept]
    assert names == ["int()>", "bool()>", "bytes()>"]
    run_batches(loop)
    assert [repr(handle).split()[1] for handle in kept] == names


@pytest.mark.parametrize("method", ["call_soon", "call_later"])
def test_handles_that_have_each_other_end_one_after_the_other(loop_name, method):
    """Each is the only one that has the next; calls inside of calls would need more stack than there is."""
    code = f"""
        import asyncio

        when = ["call_later", "call_soon"].index({method!r})
        loop = new_event_loop()
        handle = None
        for _ in range(200_000):
            handle = getattr(loop, {method!r})(*[1][when:], print, handle)
        loop.close()
        del handle
        print("ended")
    """
    assert run_child(loop_name, code).stdout == "ended\n"


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_a_handle_with_a_weak_reference_is_not_used_for_another_callback(loop, method):
    ran = []
    watched = weakref.ref(getattr(loop, method)(ran.append, 1))
    getattr(loop, method)(ran.append, 2)
    getattr(loop, method)(ran.append, 3)
    watched().cancel()
    run_batches(loop)
    assert ran == [2, 3]
    assert watched() is None


def test_the_report_of_a_handle_that_nobody_kept_names_its_callback(loop, reports):
    def other():
        raise LookupError

    loop.call_soon(broken)
    loop.call_soon(other)
    loop.call_soon(int)
    run_batches(loop)
    for name in ("broken", "other"):
        report = reports.pop(0)
        assert isinstance(report["handle"], asyncio.Handle)
        assert not report["handle"].cancelled()
        assert f"{name}()" in repr(report["handle"])
        assert f"{name}()" in report["message"]


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_the_report_of_a_handle_that_nobody_kept_has_one_of_its_kind(loop, method, reports):
    kept = getattr(loop, method)(broken)
    getattr(loop, method)(broken)
    getattr(loop, method)(int)
    run_batches(loop)
    of_kept, of_dropped = (reports.pop(0)["handle"] for _ in range(2))
    assert of_kept is kept
    assert of_dropped.__class__ is kept.__class__
    assert of_dropped._loop is loop


@pytest.mark.parametrize("seed", range(20))
def test_whoever_keeps_drops_or_cancels_handles_the_right_callbacks_run(loop, seed):
    """Registrations as they come, nested in callbacks too: each runs once, in order, unless cancelled."""
    contextvars.copy_context().run(register_at_random, loop, random.Random(seed))


def register_at_random(loop, chance):
    ran, expected, kept = [], [], {}

    def callback(number, *rest):
        assert rest == tuple(range(len(rest)))
        assert variable.get() == number
        ran.append(number)
        if number % 7 == 0 and number < 1000:
            register(number + 1000)
        if chance.random() < 0.2 and kept:
            kept.pop(chance.choice(sorted(kept)))

    def register(number):
        variable.set(number)
        method = chance.choice([loop.call_soon, loop.call_soon_threadsafe])
        arguments = (callback, number, *range(chance.randrange(5)))
        fate = chance.choice(["drop", "drop", "drop", "keep", "watch", "cancel"])
        if fate == "cancel":
            method(*arguments).cancel()
            return
        expected.append(number)
        if fate == "drop":
            method(*arguments)
        else:
            handle = method(*arguments)
            kept[number] = handle if fate == "keep" else weakref.ref(handle)

    for number in range(300):
        register(number)
    for number in chance.sample(sorted(kept), 20):
        handle = kept.pop(number)
        handle = handle() if isinstance(handle, weakref.ref) else handle
        handle.cancel()
        expected.remove(number)
    run_batches(loop)
    assert ran == expected


# --- timer handles compare by time ----------------------------------------------------------------


@pytest.fixture
def timers(loop):
    early, late = loop.call_at(1e9, print), loop.call_at(2e9, print)
    yield early, late
    early.cancel()
    late.cancel()


def test_timers_are_ordered_by_time(timers):
    early, late = timers
    assert early < late and early <= late and late > early and late >= early
    assert not early > late and not early >= late and not late < early and not late <= early
    assert early <= early and early >= early


def test_timers_are_equal_if_all_is_equal(loop, timers):
    early, late = timers
    same = loop.call_at(1e9, print)
    other = loop.call_at(1e9, print, "argument")
    assert early == same and not early != same
    assert early != late and early != other
    same.cancel()
    assert early != same
    other.cancel()


def test_the_hash_of_a_timer_is_that_of_its_time(timers):
    early, late = timers
    assert hash(early) == hash(early.when()) == hash(1e9)
    assert {early: 1, late: 2}[late] == 2


def test_a_timer_does_not_compare_with_anything_else(loop, timers):
    early, _ = timers
    handle = loop.call_soon(lambda: None)
    assert early != handle and early != 1e9
    for other in (handle, 1e9, None):
        with pytest.raises(TypeError):
            assert early < other
        with pytest.raises(TypeError):
            assert early >= other
    run_batches(loop)


def test_a_plain_handle_has_no_order(loop):
    one, other = loop.call_soon(lambda: None), loop.call_soon(lambda: None)
    assert one == one and one != other and hash(one) != hash(other)
    with pytest.raises(TypeError):
        assert one < other
    run_batches(loop)
