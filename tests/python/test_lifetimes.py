"""What is done with is gone: objects, descriptors, threads, memory."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
import threading
import weakref

import pytest
import velodrome
from support import gone, open_fds, resident_bytes, thread_count, warning_texts


@pytest.fixture
def loop(new_loop):
    loop = new_loop()
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class Token:
    """Something that a weak reference can watch."""


# --- nothing keeps itself alive -------------------------------------------------------------------


def test_a_closed_loop_is_freed(new_loop):
    loop = new_loop()
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    watched = weakref.ref(loop)
    del loop
    assert gone(watched)


def test_a_loop_that_never_ran_is_freed(new_loop):
    loop = new_loop()
    watched = weakref.ref(loop)
    loop.close()
    del loop
    assert gone(watched)


@pytest.mark.parametrize("close", [True, False])
def test_a_loop_in_a_cycle_with_its_callbacks_is_freed(new_loop, close):
    loop = new_loop()
    token = Token()
    token.loop = loop
    one, other = socket.socketpair()
    with one, other:
        loop.call_soon(print, token)
        loop.call_later(1000, print, token, loop)
        loop.call_soon_threadsafe(print, token)
        loop.add_reader(one, print, token)
        loop.add_signal_handler(signal.SIGUSR1, print, token)
        loop.set_exception_handler(lambda loop, context, token=token: None)
        loop.set_task_factory(lambda loop, coro, token=token, **keywords: None)
        loop.remove_signal_handler(signal.SIGUSR1)
        watched = weakref.ref(loop), weakref.ref(token)
        if close:
            loop.close()
        with warning_texts() as texts:
            del loop, token
            assert gone(*watched)
        assert any("unclosed event loop" in text for text in texts) == (not close)


def test_a_loop_that_never_ran_is_freed_with_what_it_queued(new_loop):
    loop = new_loop()
    for _ in range(4):
        # Nobody keeps the handles, so one of them goes round.
        loop.call_soon(print)
        loop.call_soon_threadsafe(print)
    watched = weakref.ref(loop)
    with warning_texts() as texts:
        del loop
        assert gone(watched)
    assert any("unclosed event loop" in text for text in texts)


def test_calls_from_another_thread_keep_no_reference_of_the_loop(loop):
    def flood():
        for _ in range(1000):
            loop.call_soon_threadsafe(int)

    before = sys.getrefcount(loop)
    thread = threading.Thread(target=flood)
    thread.start()
    thread.join()
    # The handles that wait have one each; here nobody keeps them, so it is the last one's.
    assert sys.getrefcount(loop) <= before + 2


def test_a_handle_that_the_garbage_collector_shows_is_not_used_again(loop):
    ran = []
    loop.call_soon(ran.append, 0)
    loop.call_soon(loop.stop)
    loop.run_forever()
    found = [thing for thing in gc.get_objects() if type(thing).__name__ == "Handle"]
    for handle in found:
        handle.cancel()
    loop.call_soon(ran.append, 1)
    loop.call_soon(ran.append, 2)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [0, 1, 2]


def test_a_loop_in_a_cycle_with_its_own_attributes_is_freed(new_loop):
    loop = new_loop()
    loop.mine = loop
    loop.close()
    watched = weakref.ref(loop)
    del loop
    assert gone(watched)


def test_a_handle_that_ran_keeps_nothing_alive(loop):
    token = Token()
    watched = weakref.ref(token)
    loop.call_soon(lambda _: None, token)
    loop.call_later(0, lambda _: None, token)
    loop.call_soon_threadsafe(lambda _: None, token)
    del token
    loop.run_until_complete(asyncio.sleep(0.001))
    assert gone(watched)


def test_a_finished_task_keeps_nothing_alive(loop):
    async def worker(token):
        await asyncio.sleep(0)
        await asyncio.sleep(0.0001)

    token = Token()
    watched = weakref.ref(token)
    task = loop.create_task(worker(token))
    del token
    loop.run_until_complete(task)
    watched_task = weakref.ref(task)
    del task
    assert gone(watched, watched_task)


def test_a_failed_task_keeps_nothing_alive(loop):
    async def worker(token):
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def main():
        with contextlib.suppress(ZeroDivisionError):
            await asyncio.create_task(worker(Token()))

    before = sum(isinstance(each, Token) for each in gc.get_objects())
    loop.run_until_complete(main())
    gc.collect()
    assert sum(isinstance(each, Token) for each in gc.get_objects()) == before


def test_an_exception_that_was_handled_keeps_nothing_alive(loop):
    token = Token()
    watched = weakref.ref(token)

    def fail(token):
        raise ZeroDivisionError

    loop.set_exception_handler(lambda loop, context: None)
    loop.call_soon(fail, token)
    del token
    loop.run_until_complete(asyncio.sleep(0))
    assert gone(watched)


def test_an_interrupt_keeps_nothing_alive(loop):
    token = Token()
    watched = weakref.ref(token)

    def interrupt(token):
        raise KeyboardInterrupt

    loop.call_soon(interrupt, token)
    del token
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert gone(watched)


class Keeper(asyncio.Protocol):
    """Holds its transport, as most protocols do, and so makes a cycle."""

    def connection_made(self, transport):
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class BufferedKeeper(Keeper, asyncio.BufferedProtocol):
    data_received = None

    def get_buffer(self, sizehint):
        self.buffer = bytearray(1000)
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(memoryview(self.buffer)[:count])


@pytest.mark.parametrize("protocol_class", [Keeper, BufferedKeeper])
@pytest.mark.parametrize("end", ["close", "abort", "peer", "error"])
def test_a_closed_connection_is_freed(loop, protocol_class, end):
    async def main():
        one, other = socket.socketpair()
        other.setblocking(False)
        with other:
            transport, protocol = await loop.create_connection(protocol_class, sock=one)
            await loop.sock_sendall(other, b"hello")
            assert await loop.sock_recv(other, 100) == b"hello"
            transport.set_write_buffer_limits(high=10)
            if end == "close":
                transport.write(b"last")
                transport.close()
            elif end == "abort":
                transport.abort()
            elif end == "peer":
                other.shutdown(socket.SHUT_WR)
            else:
                other.close()
                transport.write(b"x")
            await protocol.lost
            await asyncio.sleep(0)
        return weakref.ref(transport), weakref.ref(protocol)

    assert gone(*loop.run_until_complete(main()))


def test_accepted_connections_and_their_server_are_freed(loop):
    watched = []

    class Accepted(Keeper):
        def connection_made(self, transport):
            super().connection_made(transport)
            watched.extend([weakref.ref(self), weakref.ref(transport)])

    async def main():
        server = await loop.create_server(Accepted, "127.0.0.1", 0)
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            watched.extend([weakref.ref(reader), weakref.ref(writer)])
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        for reference in watched[::4]:
            if protocol := reference():
                await protocol.lost
        watched.append(weakref.ref(server))
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert len(watched) == 13
    assert gone(*watched)


def test_a_protocol_that_was_replaced_is_freed(loop):
    async def main():
        one, other = socket.socketpair()
        with other:
            transport, old = await loop.create_connection(Keeper, sock=one)
            new = Keeper()
            new.connection_made(transport)
            transport.set_protocol(new)
            watched = weakref.ref(old)
            del old
            assert gone(watched)
            transport.close()
            await new.lost

    loop.run_until_complete(main())


def test_an_open_connection_of_a_closed_loop_is_freed_with_a_warning(new_loop):
    before = open_fds()
    loop = new_loop()
    one, other = socket.socketpair()
    transport, protocol = loop.run_until_complete(loop.create_connection(Keeper, sock=one))
    loop.close()
    watched = weakref.ref(transport), weakref.ref(protocol), weakref.ref(loop)
    with warning_texts() as texts:
        del one, transport, protocol, loop
        assert gone(*watched)
    assert any("unclosed transport" in text for text in texts)
    other.close()
    assert open_fds() == before


def test_a_reader_that_was_removed_keeps_nothing_alive(loop):
    one, other = socket.socketpair()
    with one, other:
        token = Token()
        watched = weakref.ref(token)
        loop.add_reader(one, print, token)
        loop.add_writer(one, print, token)
        del token
        loop.remove_reader(one)
        loop.remove_writer(one)
        assert gone(watched)


def test_a_cancelled_sock_call_keeps_nothing_alive(loop):
    async def main():
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            buffer = Buffer(10)
            watched = weakref.ref(buffer)
            task = asyncio.create_task(loop.sock_recv_into(one, buffer))
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            del task, buffer
            await asyncio.sleep(0)
            return gone(watched)

    class Buffer(bytearray):
        pass

    assert loop.run_until_complete(main())


def test_a_signal_handler_that_was_removed_keeps_nothing_alive(loop):
    token = Token()
    watched = weakref.ref(token)
    loop.add_signal_handler(signal.SIGUSR1, print, token)
    del token
    loop.remove_signal_handler(signal.SIGUSR1)
    assert gone(watched)


# --- descriptors are closed, and closed once ------------------------------------------------------


def test_closing_a_transport_closes_its_descriptor_and_no_later_one(loop):
    """The number is taken again at once; whatever closes it a second time would close the new owner's."""

    async def main():
        for _ in range(20):
            one, other = socket.socketpair()
            number = one.fileno()
            transport, protocol = await loop.create_connection(Keeper, sock=one)
            transport.close()
            await protocol.lost
            await asyncio.sleep(0)
            with pytest.raises(OSError):
                os.fstat(number)
            owner = os.dup2(other.fileno(), number)
            inode = os.fstat(owner).st_ino
            other.close()
            del one, transport, protocol
            gc.collect()
            await asyncio.sleep(0.0001)
            assert os.fstat(owner).st_ino == inode
            os.close(owner)

    loop.run_until_complete(main())


def test_closing_a_loop_closes_its_descriptors_and_no_later_one(new_loop):
    before = open_fds()
    loop = new_loop()
    loop.run_until_complete(asyncio.sleep(0.001))
    numbers = open_fds().keys() - before.keys()
    assert numbers
    loop.close()
    assert open_fds().keys() == before.keys()
    pipes = [os.pipe() for _ in range(len(numbers))]
    taken = open_fds()
    loop.close()
    del loop
    gc.collect()
    assert open_fds() == taken
    for read, write in pipes:
        os.close(read)
        os.close(write)


def test_a_loop_with_nothing_to_wait_for_opens_no_descriptor(new_loop):
    before = open_fds()
    loop = new_loop()
    assert loop.run_until_complete(asyncio.sleep(0, "done")) == "done"
    assert open_fds() == before
    loop.close()


def test_a_loop_is_usable_after_a_sleep_without_descriptors(new_loop):
    loop = new_loop()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            loop.run_until_complete(asyncio.sleep(0.001))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not loop.is_running()
    assert loop.run_until_complete(asyncio.sleep(0.001, "slept")) == "slept"
    loop.close()


async def echo_once(address):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()


async def echo_connections(loop, count, protocol=Keeper):
    """`count` connections to a server of this loop, twenty at a time."""
    server = await loop.create_server(protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for _ in range(0, count, 20):
        await asyncio.gather(*(echo_once(address) for _ in range(20)))
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.001)


def test_two_thousand_connections_leave_no_descriptor_and_no_thread(loop):
    loop.run_until_complete(echo_connections(loop, 20))
    gc.collect()
    before = len(open_fds()), thread_count()
    loop.run_until_complete(echo_connections(loop, 2000))
    gc.collect()
    assert (len(open_fds()), thread_count()) == before


def test_no_thread_is_started_for_a_numeric_address(loop):
    before = thread_count()
    loop.run_until_complete(echo_connections(loop, 20))
    assert thread_count() == before


def test_cancelled_timers_do_not_pile_up(loop):
    async def main(rounds):
        for _ in range(rounds):
            for _ in range(10_000):
                loop.call_later(3600, print).cancel()
            await asyncio.sleep(0)

    loop.run_until_complete(main(10))
    before = resident_bytes("self")
    loop.run_until_complete(main(40))
    # 400,000 entries would be at least 10 MB.
    assert resident_bytes("self") - before < 8 << 20


def test_the_class_of_timers_is_not_kept_or_lost_by_them(loop):
    kind = velodrome._native.TimerHandle
    loop.call_later(60, print).cancel()
    before = sys.getrefcount(kind)
    for _ in range(3):
        timers = [loop.call_later(60, print) for _ in range(1000)]
        assert sys.getrefcount(kind) == before + len(timers)
        while timers:
            timers.pop().cancel()
        assert sys.getrefcount(kind) == before


# --- nothing grows --------------------------------------------------------------------------------

OPERATIONS = 200


async def many_call_soon(loop):
    for _ in range(OPERATIONS):
        loop.call_soon(int)
        loop.call_soon(int, "1")
        loop.call_soon(max, 1, 2, 3, 4, 5)
    await asyncio.sleep(0)


async def many_call_soon_threadsafe(loop):
    for _ in range(OPERATIONS):
        loop.call_soon_threadsafe(int, "1")
    await asyncio.sleep(0)


async def many_cancelled(loop):
    for _ in range(OPERATIONS):
        loop.call_later(100, int, "1").cancel()
        loop.call_soon(int, "1").cancel()
    await asyncio.sleep(0)


async def many_timers(loop):
    for _ in range(OPERATIONS):
        loop.call_later(0, int, "1")
    await asyncio.sleep(0.001)


async def many_tasks(loop):
    async def worker():
        await asyncio.sleep(0)
        await asyncio.sleep(1e-5)
        return 1

    await asyncio.gather(*(worker() for _ in range(OPERATIONS)))


async def many_cancelled_tasks(loop):
    async def worker():
        await asyncio.sleep(100)

    tasks = [loop.create_task(worker()) for _ in range(OPERATIONS)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def many_failed_tasks(loop):
    async def worker():
        await asyncio.sleep(0)
        raise ZeroDivisionError

    await asyncio.gather(*(worker() for _ in range(OPERATIONS)), return_exceptions=True)


async def many_failed_callbacks(loop):
    loop.set_exception_handler(lambda loop, context: None)
    for _ in range(OPERATIONS):
        loop.call_soon(divmod, 1, 0)
    await asyncio.sleep(0)


async def many_futures(loop):
    for _ in range(OPERATIONS):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future


async def many_connections(loop):
    await echo_connections(loop, OPERATIONS)


async def many_buffered_connections(loop):
    await echo_connections(loop, OPERATIONS, BufferedKeeper)


async def many_broken_connections(loop):
    class Failing(Keeper):
        def data_received(self, data):
            raise ZeroDivisionError

    loop.set_exception_handler(lambda loop, context: None)
    for _ in range(OPERATIONS):
        one, other = socket.socketpair()
        with other:
            _, protocol = await loop.create_connection(Failing, sock=one)
            other.send(b"x")
            await protocol.lost


async def many_messages(loop):
    one, other = socket.socketpair()
    other.setblocking(False)
    with other:
        transport, protocol = await loop.create_connection(Keeper, sock=one)
        for _ in range(OPERATIONS):
            await loop.sock_sendall(other, b"x" * 1000)
            await loop.sock_recv(other, 1000)
        transport.close()
        await protocol.lost


async def many_sock_calls(loop):
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        buffer = bytearray(100)
        for _ in range(OPERATIONS):
            receiving = loop.create_task(loop.sock_recv_into(one, buffer))
            await asyncio.sleep(0)
            await loop.sock_sendall(other, b"x" * 100)
            await receiving


async def many_readers(loop):
    one, other = socket.socketpair()
    with one, other:
        for _ in range(OPERATIONS):
            loop.add_reader(one, int, "1")
            loop.add_writer(one, int, "1")
            loop.remove_reader(one)
            loop.remove_writer(one)


async def many_signals(loop):
    for _ in range(OPERATIONS):
        received = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, lambda received=received: received.done() or received.set_result(None))
        os.kill(os.getpid(), signal.SIGUSR1)
        await received
        loop.remove_signal_handler(signal.SIGUSR1)


async def many_executor_calls(loop):
    await asyncio.gather(*(loop.run_in_executor(None, int, "1") for _ in range(OPERATIONS)))


async def many_addresses(loop):
    for _ in range(OPERATIONS):
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)


async def many_look_ups(loop):
    await asyncio.gather(*(loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM) for _ in range(OPERATIONS)))


async def many_failed_look_ups(loop):
    look_ups = (loop.getaddrinfo("127.0.0.1", "no-such-service") for _ in range(OPERATIONS))
    await asyncio.gather(*look_ups, return_exceptions=True)


async def many_cancelled_look_ups(loop):
    tasks = [loop.create_task(loop.getaddrinfo("localhost", 80)) for _ in range(OPERATIONS)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


WORKLOADS = {name: function for name, function in globals().items() if name.startswith("many_")}


def grown(metric, action, warm_up=3):
    """By how much the metric grows from round to round at least, once it has warmed up."""
    for _ in range(warm_up):
        action()
    sizes = []
    for _ in range(5):
        action()
        gc.collect()
        sizes.append(metric())
    return min(later - earlier for earlier, later in zip(sizes, sizes[1:], strict=False))


# A leak grows by one object an operation; anything else stands still in at least one round.
ALLOWED = OPERATIONS // 4

METRICS = [sys.getallocatedblocks]
if hasattr(sys, "gettotalrefcount"):
    METRICS.append(sys.gettotalrefcount)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_objects_do_not_grow_with(loop, workload, metric):
    assert grown(metric, lambda: loop.run_until_complete(WORKLOADS[workload](loop))) < ALLOWED


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_objects_do_not_grow_with_loops(new_loop, metric):
    def action():
        for _ in range(50):
            loop = new_loop()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    # Caches of small objects may take some hundred loops to fill.
    assert grown(metric, action, warm_up=15) < 25


def test_memory_does_not_grow_with_loops(new_loop):
    def action(count):
        for _ in range(count):
            loop = new_loop()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
        gc.collect()

    action(200)
    before = resident_bytes("self")
    action(1000)
    # One page for each loop would be 4 MB.
    assert resident_bytes("self") - before < 2 << 20
