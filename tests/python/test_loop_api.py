"""The table of C functions by which extension modules reach a loop (crates/velodrome-abi), called by ctypes."""

import asyncio
import ctypes
import errno
import gc
import os
import socket
import sys
import threading
import weakref
from collections import Counter

import pytest
import velodrome._native as native
from support import gone

OK, CLOSED = 0, -1
READABLE, WRITABLE, HUNG_UP = 1, 2, 4

pointer = ctypes.c_void_p
attached = ctypes.PYFUNCTYPE  # with the GIL; CFUNCTYPE releases it
Run = ctypes.CFUNCTYPE(None, pointer)
Ready = ctypes.CFUNCTYPE(None, pointer, ctypes.c_uint32)


class Record(ctypes.Structure):
    _fields_ = [("data", pointer), ("functions", pointer)]


class Functions(ctypes.Structure):
    _fields_ = [("run", pointer), ("drop", pointer)]


class Table(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("version", ctypes.c_uint32),
        ("open", attached(pointer, ctypes.py_object)),
        ("retain", ctypes.CFUNCTYPE(None, pointer)),
        ("release", ctypes.CFUNCTYPE(None, pointer)),
        ("runs_here", attached(ctypes.c_int, pointer)),
        ("now_ns", attached(ctypes.c_uint64, pointer)),
        ("call_soon", attached(ctypes.c_int, pointer, Record)),
        ("call_soon_threadsafe", ctypes.CFUNCTYPE(ctypes.c_int, pointer, Record)),
        ("at_close", attached(ctypes.c_int, pointer, Record)),
        (
            "call_at",
            attached(ctypes.c_int, pointer, ctypes.c_uint64, Record, ctypes.POINTER(ctypes.c_uint64)),
        ),
        ("timer_data", attached(pointer, pointer, ctypes.c_uint64)),
        ("cancel_timer", attached(None, pointer, ctypes.c_uint64)),
        ("add_fd", attached(ctypes.c_int, pointer, ctypes.c_int, Record)),
        ("remove_fd", attached(None, pointer, ctypes.c_int, pointer)),
    ]


capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype, capsule_pointer.argtypes = pointer, [ctypes.py_object, ctypes.c_char_p]

api = Table.from_address(capsule_pointer(native.loop_api, b"velodrome._native.loop_api"))


class Records:
    """Records whose data are numbers, and what became of each."""

    def __init__(self):
        self.log, self.hooks = [], {}
        self.keep = Run(self.ran), Run(self.dropped), Ready(self.is_ready)
        run, drop, ready = (ctypes.cast(function, pointer) for function in self.keep)
        self.functions, self.fd_functions = Functions(run, drop), Functions(ready, drop)

    def ran(self, data):
        self.log.append(("run", data))
        self.hooks.get(data, lambda: None)()

    def dropped(self, data):
        self.log.append(("drop", data))

    def is_ready(self, data, readiness):
        self.log.append(("ready", data, readiness))
        self.hooks.get(data, lambda: None)()

    def __call__(self, data):
        return Record(data, ctypes.addressof(self.functions))

    def of_fd(self, data):
        return Record(data, ctypes.addressof(self.fd_functions))


@pytest.fixture
def loop(new_loop):
    loop = new_loop()
    yield loop
    loop.close()


@pytest.fixture
def records():
    return Records()


@pytest.fixture
def door(loop):
    door = api.open(loop)
    yield door
    api.release(door)


def test_the_table_has_a_size_and_a_version():
    assert (api.size, api.version) == (ctypes.sizeof(Table), 1)


def test_only_velodromes_open_loops_have_a_door(new_loop):
    assert api.open(object()) is None
    other = asyncio.SelectorEventLoop()
    assert api.open(other) is None
    other.close()
    loop = new_loop()
    loop.close()
    assert api.open(loop) is None


def test_a_loop_runs_in_its_thread_only(loop, door):
    async def look():
        here = api.runs_here(door)
        there = await asyncio.to_thread(api.runs_here, door)
        return here, there

    assert api.runs_here(door) == 0
    assert loop.run_until_complete(look()) == (1, 0)
    loop.run_until_complete(loop.shutdown_default_executor())


def test_the_clock_is_the_loops(loop, door):
    before = loop.time()
    now = api.now_ns(door) / 1e9
    assert before <= now + 1e-6 and now <= loop.time() + 1e-6


def test_records_run_in_order_with_callbacks(loop, door, records):
    loop.call_soon(records.log.append, "first")
    assert api.call_soon(door, records(1)) == OK
    loop.call_soon(records.log.append, "second")
    assert api.call_soon_threadsafe(door, records(2)) == OK
    loop.call_soon(records.log.append, "third")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert records.log == ["first", ("run", 1), "second", ("run", 2), "third"]


def test_a_record_runs_in_the_next_iteration(loop, door, records):
    records.hooks[1] = lambda: (api.call_soon(door, records(2)), loop.call_soon(records.log.append, "after"))
    api.call_soon(door, records(1))
    loop.call_soon(records.log.append, "same")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert records.log == [("run", 1), "same"]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert records.log[2:] == [("run", 2), "after"]


def test_another_thread_ends_the_loops_sleep(loop, door, records):
    records.hooks[7] = loop.stop
    timer = threading.Timer(0.05, api.call_soon_threadsafe, (door, records(7)))
    timer.start()
    loop.run_forever()
    timer.join()
    assert records.log == [("run", 7)]


@pytest.mark.parametrize("debug", [False, True])
def test_an_exception_goes_to_the_handler(loop, door, records, debug):
    loop.set_debug(debug)
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    # ctypes reports what a callback raises; what it leaves set in C stays.
    raiser = ctypes.PYFUNCTYPE(None, pointer)(("PyErr_NoMemory", ctypes.pythonapi))
    functions = Functions(ctypes.cast(raiser, pointer), records.functions.drop)
    assert api.call_soon(door, Record(1, ctypes.addressof(functions))) == OK
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert [type(context["exception"]) for context in contexts] == [MemoryError]
    assert contexts[0]["message"] == "Exception in a callback of an extension module"


def test_a_keyboard_interrupt_leaves_the_loop(loop, door, records):
    set_none = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("PyErr_SetNone", ctypes.pythonapi))
    functions = Functions(ctypes.cast(set_none, pointer), records.functions.drop)
    api.call_soon(door, Record(id(KeyboardInterrupt), ctypes.addressof(functions)))
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()


def test_timers(loop, door, records):
    key, late = ctypes.c_uint64(), ctypes.c_uint64()
    now = api.now_ns(door)
    assert api.call_at(door, now + 20_000_000, records(1), key) == OK
    assert api.call_at(door, now + 3_600_000_000_000, records(2), late) == OK
    assert 0 not in (key.value, late.value)
    assert (api.timer_data(door, key), api.timer_data(door, late)) == (1, 2)
    records.hooks[1] = loop.stop
    loop.run_forever()
    assert records.log == [("run", 1)]
    assert api.now_ns(door) >= now + 20_000_000
    assert api.timer_data(door, key) is None
    api.cancel_timer(door, key)
    api.cancel_timer(door, late)
    assert records.log == [("run", 1), ("drop", 2)]
    assert api.timer_data(door, late) is None
    assert api.timer_data(door, 0) is None


def test_timers_of_python_are_nobody_elses(loop, door):
    handle = loop.call_later(3600, print)
    for number in range(1 << 32, (1 << 32) + 8):
        assert api.timer_data(door, number) is None
    handle.cancel()


def test_readiness_is_told_once_a_change(loop, door, records):
    one, other = socket.socketpair()
    with one, other:
        assert api.add_fd(door, one.fileno(), records.of_fd(5)) == OK
        loop.run_until_complete(asyncio.sleep(0.01))
        assert records.log == [("ready", 5, WRITABLE)]
        other.send(b"x")
        loop.run_until_complete(asyncio.sleep(0.01))
        assert records.log[1:] == [("ready", 5, READABLE | WRITABLE)]
        other.close()
        loop.run_until_complete(asyncio.sleep(0.01))
        assert records.log[2:] == [("ready", 5, READABLE | WRITABLE | HUNG_UP)]
        api.remove_fd(door, one.fileno(), 6)
        assert len(records.log) == 3, "it is another's"
        api.remove_fd(door, one.fileno(), 5)
        assert records.log[3:] == [("drop", 5)]
        api.remove_fd(door, one.fileno(), 5)
        assert len(records.log) == 4


def test_what_cannot_be_watched_is_refused(loop, door, records):
    assert api.add_fd(door, -1, records.of_fd(1)) == errno.EBADF
    with open(__file__) as file:
        assert api.add_fd(door, file.fileno(), records.of_fd(1)) == errno.EPERM
    one, other = socket.socketpair()
    with one, other:
        loop.add_reader(one, print)
        assert api.add_fd(door, one.fileno(), records.of_fd(1)) == errno.EBUSY
        loop.remove_reader(one)
        assert records.log == [], "what is refused is the caller's"
        assert api.add_fd(door, one.fileno(), records.of_fd(2)) == OK
        with pytest.raises(RuntimeError, match="is used by an extension module"):
            loop.add_reader(one, print)
        assert not loop.remove_reader(one)
        api.remove_fd(door, one.fileno(), 2)


def test_a_descriptor_that_was_closed_gives_its_number_away(loop, door, records):
    one, other = socket.socketpair()
    number = one.fileno()
    assert api.add_fd(door, number, records.of_fd(1)) == OK
    one.close()
    there = os.dup2(other.fileno(), number)
    try:
        loop.add_writer(there, records.log.append, "writable")
        assert records.log == [("drop", 1)]
        api.remove_fd(door, number, 1)
        loop.run_until_complete(asyncio.sleep(0.001))
        assert "writable" in records.log, "it has another owner by now"
        loop.remove_writer(there)
    finally:
        os.close(there)
        other.close()


@pytest.mark.parametrize("how", ["close", "forget", "collect"])
def test_every_record_is_dropped_once_at_the_end(new_loop, records, how):
    loop = new_loop()
    door = api.open(loop)
    one, other = socket.socketpair()
    for data, leave in enumerate([api.call_soon, api.call_soon_threadsafe, api.at_close], 1):
        assert leave(door, records(data)) == OK
    assert api.call_at(door, 1 << 62, records(4), ctypes.c_uint64()) == OK
    assert api.add_fd(door, one.fileno(), records.of_fd(5)) == OK
    with one, other:
        watched = weakref.ref(loop)
        if how == "close":
            loop.close()
        else:
            if how == "collect":
                loop.itself = loop
            with pytest.warns(ResourceWarning):
                del loop
                gc.collect()
            assert gone(watched)
    assert Counter(records.log) == Counter(("drop", data) for data in range(1, 6))
    assert records.log[0] == ("drop", 3), "what was left for the end comes first"
    # The door is there still, and says that the loop is not.
    key = ctypes.c_uint64()
    assert api.call_soon(door, records(9)) == CLOSED
    assert api.call_soon_threadsafe(door, records(9)) == CLOSED
    assert api.at_close(door, records(9)) == CLOSED
    assert api.call_at(door, 0, records(9), key) == CLOSED
    assert api.add_fd(door, 0, records.of_fd(9)) == CLOSED
    assert (api.timer_data(door, 1 << 32), api.runs_here(door)) == (None, 0)
    api.cancel_timer(door, 1 << 32)
    api.remove_fd(door, 0, 9)
    assert api.now_ns(door) > 0
    api.release(door)
    assert len(records.log) == 5


def test_a_drop_may_come_back(loop, door, records):
    key = ctypes.c_uint64()
    again = []
    dropped = Run(lambda data: again.append(api.call_soon(door, records(data + 1))))
    functions = Functions(records.functions.run, ctypes.cast(dropped, pointer))
    api.call_at(door, 1 << 62, Record(1, ctypes.addressof(functions)), key)
    api.cancel_timer(door, key)
    assert again == [OK]
    api.call_soon(door, Record(3, ctypes.addressof(functions)))
    loop.close()
    assert again == [OK, CLOSED]
    assert records.log == [("drop", 2)]


def test_a_door_has_as_many_references_as_were_taken(new_loop):
    loop = new_loop()
    doors = {api.open(loop) for _ in range(10)}
    (door,) = doors
    api.retain(door)
    for _ in range(10):
        api.release(door)
    loop.close()
    assert api.runs_here(door) == 0
    api.release(door)


@pytest.mark.skipif(not hasattr(sys, "gettotalrefcount"), reason="needs a debug build")
def test_nothing_of_python_is_leaked(new_loop, records):
    def round_trip():
        loop = new_loop()
        door = api.open(loop)
        one, other = socket.socketpair()
        with one, other:
            records.hooks[2] = loop.stop
            api.call_soon(door, records(1))
            api.call_at(door, 0, records(2), ctypes.c_uint64())
            api.call_at(door, 1 << 62, records(3), ctypes.c_uint64())
            api.add_fd(door, one.fileno(), records.of_fd(4))
            loop.run_forever()
            loop.close()
        api.release(door)
        records.log.clear()
        records.hooks.clear()
        gc.collect()

    for _ in range(5):
        round_trip()
    before = sys.gettotalrefcount()
    for _ in range(50):
        round_trip()
    assert abs(sys.gettotalrefcount() - before) < 25
