"""add_reader and add_writer: any descriptor, watched until it is removed."""

import asyncio
import contextlib
import gc
import os
import re
import select
import socket
import weakref

import pytest
from checker import Recorder, polled


class FileObject:
    """Only has a fileno."""

    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd


@pytest.fixture
def pipe():
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    yield read, write
    for fd in (read, write):
        with contextlib.suppress(OSError):
            os.close(fd)


async def test_a_reader_is_called_when_there_is_input(loop, socket_pair):
    one, other = socket_pair
    readable = loop.create_future()
    assert loop.add_reader(one, lambda: readable.done() or readable.set_result(one.recv(10))) is None
    await polled(loop)
    assert not readable.done()
    other.send(b"input")
    assert await readable == b"input"
    assert loop.remove_reader(one) is True


async def test_a_reader_is_called_again_while_input_is_left(loop, socket_pair):
    one, other = socket_pair
    seen = bytearray()
    done = loop.create_future()

    def read_one_byte():
        seen.extend(one.recv(1))
        if len(seen) == 5:
            done.set_result(None)

    loop.add_reader(one, read_one_byte)
    other.send(b"input")
    await done
    loop.remove_reader(one)
    assert seen == b"input"


async def test_a_reader_is_called_at_the_end_of_the_stream(loop, socket_pair):
    one, other = socket_pair
    ended = loop.create_future()
    loop.add_reader(one, lambda: ended.done() or ended.set_result(one.recv(10)))
    other.close()
    assert await ended == b""
    loop.remove_reader(one)


async def test_a_writer_is_called_when_there_is_room(loop, socket_pair):
    one, other = socket_pair
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(bytes(65536))
    writable = loop.create_future()

    def has_room():
        loop.remove_writer(one)
        writable.set_result(None)

    loop.add_writer(one, has_room)
    await polled(loop)
    assert not writable.done()
    with contextlib.suppress(BlockingIOError):
        while other.recv(1 << 20):
            pass
    await writable
    assert one.send(b"x") == 1


async def test_a_writer_is_called_at_once_if_there_is_room(loop, socket_pair):
    one, _ = socket_pair
    writable = loop.create_future()
    loop.add_writer(one, lambda: writable.done() or writable.set_result(1))
    assert await writable == 1
    assert loop.remove_writer(one) is True


async def test_arguments_reach_the_callback(loop, socket_pair):
    one, other = socket_pair
    seen = loop.create_future()

    def callback(*args):
        loop.remove_reader(one)
        seen.set_result(args)

    loop.add_reader(one, callback, 1, "two", None)
    other.send(b"x")
    assert await seen == (1, "two", None)


@pytest.mark.parametrize("what", ["fd", "socket", "fileno"])
async def test_any_file_object_can_be_watched(loop, socket_pair, what):
    one, other = socket_pair
    watched = {"fd": one.fileno(), "socket": one, "fileno": FileObject(one.fileno())}[what]
    readable = loop.create_future()
    loop.add_reader(watched, lambda: readable.done() or readable.set_result(None))
    other.send(b"x")
    await readable
    assert loop.remove_reader(one.fileno()) is True
    assert loop.remove_reader(watched) is False


async def test_pipes_can_be_watched(loop, pipe):
    read, write = pipe
    readable, writable = loop.create_future(), loop.create_future()
    loop.add_reader(read, lambda: readable.done() or readable.set_result(os.read(read, 10)))
    loop.add_writer(write, lambda: writable.done() or writable.set_result(os.write(write, b"pipe")))
    await writable
    assert await readable == b"pipe"
    loop.remove_reader(read)
    loop.remove_writer(write)


async def test_a_writer_hears_that_nobody_reads_the_pipe_any_more(loop, pipe):
    read, write = pipe
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(65536))
    called = loop.create_future()
    loop.add_writer(write, lambda: called.done() or called.set_result(None))
    await polled(loop)
    assert not called.done()
    os.close(read)
    await called
    loop.remove_writer(write)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")


async def test_remove_tells_whether_there_was_one(loop, socket_pair):
    one, _ = socket_pair
    assert loop.remove_reader(one) is False
    assert loop.remove_writer(one) is False
    loop.add_reader(one, print)
    assert loop.remove_writer(one) is False
    assert loop.remove_reader(one) is True
    assert loop.remove_reader(one) is False
    loop.add_writer(one, print)
    assert loop.remove_reader(one) is False
    assert loop.remove_writer(one) is True
    assert loop.remove_writer(one) is False


async def test_removing_the_reader_leaves_the_writer(loop, socket_pair):
    one, other = socket_pair
    called = loop.create_future()
    loop.add_reader(one, called.set_exception, AssertionError("removed"))
    loop.add_writer(one, lambda: called.done() or called.set_result("writer"))
    loop.remove_reader(one)
    other.send(b"x")
    assert await called == "writer"
    assert loop.remove_writer(one) is True


async def test_removing_the_writer_leaves_the_reader(loop, socket_pair):
    one, other = socket_pair
    called = loop.create_future()
    loop.add_writer(one, called.set_exception, AssertionError("removed"))
    loop.add_reader(one, lambda: called.done() or called.set_result("reader"))
    loop.remove_writer(one)
    other.send(b"x")
    assert await called == "reader"
    assert loop.remove_reader(one) is True


async def test_a_descriptor_may_have_a_reader_and_a_writer(loop, socket_pair):
    one, other = socket_pair
    called = set()
    both = loop.create_future()

    def callback(which):
        called.add(which)
        if len(called) == 2 and not both.done():
            both.set_result(None)

    loop.add_reader(one, callback, "reader")
    loop.add_writer(one, callback, "writer")
    other.send(b"x")
    await both
    loop.remove_reader(one)
    loop.remove_writer(one)


async def test_a_second_reader_replaces_the_first(loop, socket_pair):
    one, other = socket_pair
    called = []
    readable = loop.create_future()
    loop.add_reader(one, called.append, "first")
    loop.add_reader(one, lambda: readable.done() or readable.set_result("second"))
    other.send(b"x")
    assert await readable == "second"
    assert called == []
    assert loop.remove_reader(one) is True
    assert loop.remove_reader(one) is False


def test_a_reader_replaced_in_the_batch_it_is_due_in_is_not_called(loop, socket_pair):
    one, other = socket_pair
    called = []
    loop.add_reader(one, called.append, "old")
    other.send(b"x")
    loop.call_soon(loop.add_reader, one, called.append, "new")
    for _ in range(2):
        loop.stop()
        loop.run_forever()
    loop.remove_reader(one)
    assert called == ["new"]


def test_a_reader_removed_by_another_of_the_same_poll_is_not_called(loop, socket_pair, tcp_pair):
    pairs = {"unix": socket_pair, "tcp": tcp_pair}
    called = []

    def callback(name):
        called.append(name)
        for one, _ in pairs.values():
            loop.remove_reader(one)
        loop.stop()

    for name, (one, other) in pairs.items():
        loop.add_reader(one, callback, name)
        other.send(b"x")
    # TCP delivers in its own time: both have to be readable before the loop looks.
    for one, _ in pairs.values():
        select.select([one], [], [])
    loop.run_forever()
    assert len(called) == 1


def test_a_reader_may_remove_itself(loop, socket_pair):
    one, other = socket_pair
    called = []

    def once():
        called.append(loop.remove_reader(one))
        loop.call_soon(loop.call_soon, loop.stop)

    loop.add_reader(one, once)
    other.send(b"x")
    loop.run_forever()
    assert called == [True]


async def test_a_reader_may_close_its_socket(loop, socket_pair):
    one, other = socket_pair
    closed = loop.create_future()

    def close():
        loop.remove_reader(one)
        one.close()
        closed.set_result(None)

    loop.add_reader(one, close)
    other.send(b"x")
    await closed
    await polled(loop)


async def test_a_descriptor_number_used_again_belongs_to_its_new_owner(loop):
    for _ in range(5):
        one, other = socket.socketpair()
        with one, other:
            called = loop.create_future()
            loop.add_reader(one, lambda called=called: called.done() or called.set_result(None))
            other.send(b"x")
            await called
            loop.remove_reader(one)


def test_an_event_of_a_closed_descriptor_does_not_reach_the_next_owner(loop, socket_pair, tcp_pair):
    """Two readers are ready; the first closes the other's descriptor and opens a new one of the same number."""
    one, other = socket_pair
    two, peer = tcp_pair
    called = []
    opened = []

    def take_over(mine, theirs):
        called.append("first")
        loop.remove_reader(mine)
        loop.remove_reader(theirs)
        number = theirs.fileno()
        theirs.close()
        opened.extend(socket.socketpair())
        assert number in (opened[0].fileno(), opened[1].fileno())
        for sock in opened:
            loop.add_reader(sock, called.append, "next owner")
        loop.call_soon(loop.call_soon, loop.stop)

    loop.add_reader(one, take_over, one, two)
    loop.add_reader(two, take_over, two, one)
    other.send(b"x")
    peer.send(b"x")
    select.select([two], [], [])
    loop.run_forever()
    for sock in opened:
        loop.remove_reader(sock)
        sock.close()
    assert called == ["first"]


async def test_an_exception_in_a_reader_is_reported_and_it_stays(loop, socket_pair, reports):
    one, other = socket_pair
    seen = []
    done = loop.create_future()

    def callback():
        one.recv(1)
        seen.append(1)
        if len(seen) == 2:
            done.set_result(None)
        raise ZeroDivisionError

    loop.add_reader(one, callback)
    other.send(b"xx")
    await done
    loop.remove_reader(one)
    assert [type(context["exception"]) for context in reports] == [ZeroDivisionError] * 2
    reports.clear()


# --- bad descriptors ------------------------------------------------------------------------------

ADD = ("add_reader", "add_writer")
REMOVE = ("remove_reader", "remove_writer")


def use(loop, method, fd):
    return getattr(loop, method)(fd, *([print] if method in ADD else []))


@pytest.mark.parametrize("method", ADD + REMOVE)
@pytest.mark.parametrize("fd", [None, "text", 1.5, object()], ids=repr)
def test_what_has_no_descriptor_is_refused(loop, method, fd):
    with pytest.raises(ValueError, match=rf"^Invalid file object: {re.escape(repr(fd))}$"):
        use(loop, method, fd)


@pytest.mark.parametrize("method", ADD + REMOVE)
def test_a_negative_descriptor_is_refused(loop, method):
    with pytest.raises(ValueError, match=r"^Invalid file descriptor: -1$"):
        use(loop, method, -1)


@pytest.mark.parametrize("method", ADD + REMOVE)
def test_a_closed_socket_is_refused(loop, method, socket_pair):
    one, _ = socket_pair
    one.close()
    with pytest.raises(ValueError, match="Invalid file"):
        use(loop, method, one)


@pytest.mark.parametrize("method", ADD)
def test_a_closed_descriptor_is_an_error_of_the_system(loop, method, pipe):
    read, _ = pipe
    os.close(read)
    with pytest.raises(OSError, match="Bad file descriptor"):
        use(loop, method, read)


@pytest.mark.parametrize("method", REMOVE)
def test_a_closed_descriptor_has_nothing_to_remove(loop, method, pipe):
    read, _ = pipe
    os.close(read)
    assert use(loop, method, read) is False


@pytest.mark.parametrize("method", ADD)
def test_a_regular_file_cannot_be_watched(loop, method, tmp_path):
    with open(tmp_path / "file", "w") as file, pytest.raises(PermissionError):
        use(loop, method, file)


async def test_a_descriptor_that_was_refused_can_be_watched_later(loop, tmp_path):
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(PermissionError):
            loop.add_reader(file, print)
        assert loop.remove_reader(file) is False


@pytest.mark.parametrize("method", ADD)
def test_a_callback_is_required(loop, socket_pair, method):
    with pytest.raises(TypeError):
        getattr(loop, method)(socket_pair[0])


@pytest.mark.parametrize("direction", ["reader", "writer"])
def test_arguments_may_be_named(loop, socket_pair, direction):
    add, remove = getattr(loop, f"add_{direction}"), getattr(loop, f"remove_{direction}")
    assert add(fd=socket_pair[0], callback=print) is None
    assert remove(fd=socket_pair[0]) is True
    assert add(socket_pair[0], callback=print) is None
    assert remove(socket_pair[0]) is True


@pytest.mark.parametrize("method", ADD)
def test_a_context_is_refused(loop, socket_pair, method):
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'context'"):
        getattr(loop, method)(socket_pair[0], print, context=None)


@pytest.mark.parametrize("method", REMOVE)
def test_only_a_descriptor_is_removed(loop, socket_pair, method):
    with pytest.raises(TypeError):
        getattr(loop, method)()
    with pytest.raises(TypeError):
        getattr(loop, method)(socket_pair[0], print)


@pytest.mark.parametrize("ends", ["removed", "replaced"])
def test_the_handle_of_a_reader_stays_cancelled(loop, socket_pair, ends):
    one, other = socket_pair
    called = []
    handle = loop._add_reader(one.fileno(), called.append, "old")
    assert not handle.cancelled()
    if ends == "removed":
        loop.remove_reader(one)
    loop.add_reader(one, called.append, "new")
    later = loop.call_soon(called.append, "soon")
    assert handle.cancelled()
    other.send(b"x")
    loop.stop()
    loop.run_forever()
    loop.remove_reader(one)
    assert called == ["soon", "new"]
    assert handle.cancelled()
    assert not later.cancelled()


def test_a_removed_reader_lets_go_of_its_callback(loop, socket_pair):
    class Callback:
        def __call__(self, argument):
            pass

    callback, argument = Callback(), Callback()
    gone = [weakref.ref(callback), weakref.ref(argument)]
    loop.add_reader(socket_pair[0], callback, argument)
    loop.remove_reader(socket_pair[0])
    del callback, argument
    assert [reference() for reference in gone] == [None, None]


@pytest.mark.parametrize("method", ADD + REMOVE)
def test_a_transport_that_asyncio_knows_has_its_descriptor(loop, socket_pair, method):
    class Transport:
        def is_closing(self):
            return False

    def is_refused():
        with pytest.raises(RuntimeError, match="is used by transport"):
            use(loop, method, socket_pair[0])
        return True

    use(loop, method, socket_pair[0])
    transports, transport = loop._transports, Transport()
    transports[socket_pair[0].fileno()] = transport
    assert is_refused()
    loop._transports = weakref.WeakValueDictionary()
    use(loop, method, socket_pair[0])
    loop._transports = {socket_pair[0].fileno(): transport}
    assert is_refused()
    loop._transports = transports
    assert is_refused()
    del transport
    loop._transports.clear()
    use(loop, method, socket_pair[0])
    loop.remove_reader(socket_pair[0])
    loop.remove_writer(socket_pair[0])


@pytest.mark.parametrize("method", ADD + REMOVE)
async def test_the_descriptor_of_a_transport_is_refused(loop, socket_pair, method):
    one, _ = socket_pair
    transport, protocol = await loop.create_connection(Recorder, sock=one)
    for fd in (transport.get_extra_info("socket"), transport.get_extra_info("socket").fileno()):
        expected = f"File descriptor {fd!r} is used by transport {transport!r}"
        with pytest.raises(RuntimeError, match=f"^{re.escape(expected)}$"):
            use(loop, method, fd)
    transport.close()
    await protocol.lost


async def test_a_descriptor_is_free_when_its_transport_is_gone(loop):
    one, other = socket.socketpair()
    with other:
        fd = one.fileno()
        transport, protocol = await loop.create_connection(Recorder, sock=one)
        transport.close()
        await protocol.lost
        await asyncio.sleep(0)
        duplicate = os.dup2(other.fileno(), fd)
        loop.add_reader(duplicate, print)
        assert loop.remove_reader(duplicate) is True
        os.close(duplicate)


@pytest.mark.parametrize("error", [OSError(5, "it broke"), RuntimeError("it broke"), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
def test_what_fileno_raises_is_raised(loop, method, error):
    class Broken:
        def fileno(self):
            raise error

    with pytest.raises(type(error)) as caught:
        use(loop, method, Broken())
    assert caught.value is error


def test_a_number_that_no_descriptor_has(loop):
    for method in (loop.add_reader, loop.add_writer):
        with pytest.raises(OverflowError):
            method(2**40, print)
    assert loop.remove_reader(2**40) is False
    assert loop.remove_writer(2**40) is False


async def test_the_other_direction_of_a_closed_descriptor_is_forgotten(loop):
    calls = []
    one, other = socket.socketpair()
    number = one.fileno()
    loop.add_writer(number, calls.append, "old")
    one.close()
    next_one, next_other = socket.socketpair()
    with other, next_one, next_other:
        assert next_one.fileno() == number
        readable = loop.create_future()
        try:
            loop.add_reader(number, lambda: readable.done() or readable.set_result(None))
        except FileNotFoundError:
            # asyncio refuses it once.
            loop.remove_reader(number)
            loop.add_reader(number, lambda: readable.done() or readable.set_result(None))
        next_other.send(b"x")
        await readable
        assert calls == []
        assert loop.remove_reader(number)
        assert not loop.remove_writer(number)


@pytest.mark.parametrize("method", ["reader", "writer"])
def test_a_closed_socket_can_still_be_removed(loop, socket_pair, method):
    one, other = socket_pair
    getattr(loop, f"add_{method}")(one, print)
    one.close()
    assert getattr(loop, f"remove_{method}")(one) is True
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        getattr(loop, f"remove_{method}")(one)
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        getattr(loop, f"remove_{method}")(other.close() or other)


def test_a_socket_stays_open_while_it_is_watched(loop):
    one, other = socket.socketpair()
    received = []
    watched = weakref.ref(one)
    loop.add_reader(one, lambda: (received.append(watched().recv(10)), loop.stop()))
    del one
    gc.collect()
    with other:
        other.send(b"x")
        loop.run_forever()
        assert received == [b"x"]
        with watched() as one:
            loop.remove_reader(one)
        del one
        gc.collect()
        assert watched() is None
