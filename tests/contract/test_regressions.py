"""Faults that velodrome had once, each named after what went wrong."""

import asyncio
import contextlib
import contextvars
import socket

import pytest
from support import run_child


class TwoWritesThenAnError(asyncio.Protocol):
    """Writes twice for its first message; for the second it writes and raises."""

    def __init__(self):
        self.messages = 0

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.messages += 1
        self.transport.write(b"a")
        if self.messages > 1:
            raise ValueError("on purpose")
        self.transport.write(b"b")


async def test_what_was_written_before_a_protocol_raised_is_sent(loop, reports, socket_pair):
    one, peer = socket_pair
    await loop.create_connection(TwoWritesThenAnError, sock=one)
    await loop.sock_sendall(peer, b"1")
    got = b""
    while got != b"ab":
        got += await loop.sock_recv(peer, 10)
    await loop.sock_sendall(peer, b"2")
    assert await loop.sock_recv(peer, 10) == b"a"
    assert await loop.sock_recv(peer, 10) == b""
    assert isinstance(reports.take()["exception"], ValueError)


async def test_asking_for_the_socket_sends_what_is_held_back(loop, socket_pair):
    one, peer = socket_pair
    _, writer = await asyncio.open_connection(sock=one)
    writer.write(b"1")
    writer.write(b"2")
    await asyncio.sleep(0)
    writer.write(b"3")
    writer.write(b"4")
    writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    got = b""
    while not got.endswith(b"4"):
        data = await loop.sock_recv(peer, 10)
        assert data, f"lost something after {got}"
        got += data
    assert got == b"1234"
    writer.close()
    await writer.wait_closed()


async def test_a_closing_transport_keeps_writing_whoever_asks_for_its_descriptor(loop, socket_pair):
    one, peer = socket_pair
    lost = loop.create_future()

    class Lost(asyncio.Protocol):
        def connection_lost(self, exc):
            lost.set_result(exc)

    transport, _ = await loop.create_connection(Lost, sock=one)
    transport.write(b"x" * 3_000_000)
    transport.close()
    with contextlib.suppress(RuntimeError):  # asyncio lets a reader in; velodrome refuses it
        loop.add_reader(one.fileno(), lambda: None)
    loop.remove_reader(one.fileno())
    received = 0
    while data := await loop.sock_recv(peer, 1_000_000):
        received += len(data)
    assert received == 3_000_000
    assert await lost is None


def test_a_descriptor_that_cannot_be_is_refused_without_making_room_for_it(loop):
    with pytest.raises(OSError):
        loop.add_reader(2**31 - 1, print)


async def test_a_cancelled_receive_lets_go_of_its_buffer_though_the_socket_is_closed(loop, socket_pair):
    one, _ = socket_pair
    buffer = bytearray(10)
    task = asyncio.ensure_future(loop.sock_recv_into(one, buffer))
    await asyncio.sleep(0)
    loop.remove_reader(one)
    one.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    buffer.extend(b"it is not exported any more")


async def test_a_low_mark_holds_though_writes_are_joined(loop, socket_pair):
    one, _ = socket_pair
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    _, writer = await asyncio.open_connection(sock=one)
    writer.transport.set_write_buffer_limits(0)
    writer.write(b"1")
    writer.write(b"2")
    await asyncio.sleep(0)

    async def fill():
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    task = asyncio.ensure_future(fill())
    while not writer.transport.get_write_buffer_size():
        await asyncio.sleep(0)
    assert writer.transport.get_write_buffer_size() <= 1000
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    writer.transport.abort()
    await writer.wait_closed()


def test_a_finalizer_may_close_the_loop_while_timers_are_swept(loop):
    class Closes:
        def __del__(self):
            loop.close()

    variable = contextvars.ContextVar("variable")

    def set_timer():
        variable.set(Closes())
        return loop.call_later(9, print)

    handles = [contextvars.copy_context().run(set_timer)]
    handles += [loop.call_later(9, print) for _ in range(150)]
    handles += [loop.call_later(99, print)]
    handles.pop(0).cancel()
    for handle in handles[:-1]:
        handle.cancel()
    del handle, handles
    assert loop.is_closed() or loop.close() is None


@pytest.mark.parametrize("kind", ["socket", "datagrams", "tls", "reading", "writing"])
def test_a_transport_that_nobody_closed_may_go_while_an_exception_is_on_its_way(loop_name, kind):
    code = """
        import asyncio, gc, os, socket, ssl, sys, warnings

        def made():
            loop = new_event_loop()
            one, other = socket.socketpair()
            one.setblocking(False)
            pipe = os.fdopen(os.dup(one.fileno()), "wb", 0)
            protocol = asyncio.Protocol()
            match sys.argv[1]:
                case "socket":
                    transport = loop._make_socket_transport(one, protocol)
                case "datagrams":
                    transport = loop._make_datagram_transport(one, asyncio.DatagramProtocol())
                case "tls":
                    context = ssl.create_default_context()
                    transport = loop._make_ssl_transport(one, protocol, context, server_hostname="x")
                case "reading":
                    transport = loop._make_read_pipe_transport(pipe, protocol)
                case "writing":
                    transport = loop._make_write_pipe_transport(pipe, protocol)
            loop.close()
            return transport

        def failing():
            raise ZeroDivisionError("the program's")

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                made(), failing()
            except ZeroDivisionError as error:
                assert error.args == ("the program's",)
                assert error.__context__ is None
            else:
                raise AssertionError("the exception is lost")
            gc.collect()
        assert any("unclosed transport" in str(warning.message) for warning in caught), caught
    """
    run_child(loop_name, code, kind)


def test_a_signal_handler_may_need_what_is_being_loaded_for_the_loop(loop_name):
    code = """
        import asyncio, os, signal, time

        def trial(delay):
            loop = new_event_loop()
            loop.set_debug(True)  # a timer then needs what is not there before the first one
            ran = []
            signal.signal(signal.SIGALRM, lambda *_: ran.append(loop.call_later(0, print)))

            async def main():
                signal.setitimer(signal.ITIMER_REAL, delay)
                loop.call_later(0, ran.append, 1)
                while len(ran) < 2:
                    await asyncio.sleep(0.001)

            loop.run_until_complete(main())

        for number in range(1, 31):
            if (child := os.fork()) == 0:
                try:
                    trial(number * 40e-6)
                finally:
                    os._exit(0)
            for _ in range(3000):
                if os.waitpid(child, os.WNOHANG)[0]:
                    break
                time.sleep(0.01)
            else:
                os.kill(child, signal.SIGKILL)
                raise AssertionError(f"trial {number} hangs")
    """
    run_child(loop_name, code)


@pytest.mark.parametrize("has_run", [False, True])
def test_a_loop_runs_while_the_interpreter_ends(loop_name, has_run):
    code = """
        import asyncio, sys

        def fails():
            raise ZeroDivisionError

        class Client:
            def __init__(self):
                self.loop = new_event_loop()
                self.loop.set_exception_handler(lambda loop, context: print(context["message"][:21]))

            async def close(self):
                self.loop.call_soon(fails)
                print("closed")

            def __del__(self, sleep=asyncio.sleep):
                self.loop.run_until_complete(self.close())
                self.loop.close()

        client = Client()
        if sys.argv[1] == "True":
            client.loop.run_until_complete(asyncio.sleep(0))
    """
    child = run_child(loop_name, code, has_run)
    assert child.stdout == "closed\nException in callback\n"
    assert child.stderr == ""


def test_a_connection_is_refused_while_the_interpreter_ends(loop_name):
    code = """
        import asyncio, socket

        class Client:
            def __init__(self, address):
                self.loop, self.address = new_event_loop(), address
                self.protocol = asyncio.Protocol

            async def talk(self):
                transport, _ = await self.loop.create_connection(self.protocol, *self.address)
                transport.close()

            def __del__(self):
                try:
                    self.loop.run_until_complete(self.talk())
                except ConnectionRefusedError:
                    print("refused")
                self.loop.close()

        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = Client(listener.getsockname())
            client.loop.run_until_complete(client.talk())
    """
    child = run_child(loop_name, code)
    assert (child.stdout, child.stderr) == ("refused\n", "")


def test_the_first_connection_needs_no_descriptor_but_its_own(loop_name):
    code = """
        import asyncio, os, resource, socket

        async def main():
            await asyncio.sleep(0.001)
            loop = asyncio.get_running_loop()
            one, other = socket.socketpair()
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            hoard = []
            try:
                while True:
                    hoard.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
            transport.write(b"sent")
            assert other.recv(10) == b"sent"
            transport.close()
            await asyncio.sleep(0)
            other.close()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    """
    run_child(loop_name, code)


def test_what_is_patched_during_the_first_connection_is_no_base_of_transports(loop_name):
    code = """
        import asyncio
        from unittest import mock

        async def main():
            async def answer(reader, writer):
                writer.close()

            with mock.patch("asyncio.DatagramTransport"), mock.patch("asyncio.Transport"):
                server = await asyncio.start_server(answer, "127.0.0.1", 0)
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                assert await reader.read() == b""
                writer.close()
                server.close()
            assert isinstance(writer.transport, asyncio.Transport)

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    """
    run_child(loop_name, code)
