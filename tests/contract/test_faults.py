"""Protocols that raise, re-enter, close or lie, and systems that run out of something.

Each ends as asyncio's documentation says: the exception is reported once, the connection ends once, and its
descriptor is closed.
"""

import asyncio
import gc
import socket
import sys

import pytest
from checker import SMALL_BUFFER, BufferedRecorder, EofKeeper, Recorder, fill, polled, receive_all, receive_exactly
from support import run_child


def raising(base, method):
    """A protocol of class `base` whose `method` does what it does and then raises the protocol's `error`."""

    def call(self, *args):
        getattr(base, method)(self, *args)
        raise self.error

    return type(f"Raising{base.__name__}", (base,), {method: call, "error": ZeroDivisionError("the protocol's")})()


def calling(base, method, action):
    """A class of `base` whose `method` calls `action(transport)` first."""

    def call(self, *args):
        action(self.transport or args[0])
        return getattr(base, method)(self, *args)

    return type(f"Calling{base.__name__}", (base,), {method: call})


async def ended(protocol, transport):
    """Wait for the end; the connection must have ended once and its socket must be closed."""
    sock = transport.get_extra_info("socket")
    exc = await protocol.lost
    await asyncio.sleep(0)
    assert sock is None or sock.fileno() == -1
    assert protocol.calls.count("connection_lost") == 1
    return exc


def reported_by_transport(reports, transport, protocol, message):
    context = reports.take()
    assert context["message"] == message
    assert context["transport"] is transport
    assert context["protocol"] is protocol
    return context["exception"]


def test_a_loop_whose_poller_was_closed_says_so(loop_name):
    code = """
    import os
    loop = new_event_loop()
    loop.call_later(0.001, os.closerange, 3, 1000)  # as programs do to become daemons
    loop.call_later(1, loop.stop)
    try:
        loop.run_forever()
    except OSError as error:
        print(os.strerror(error.errno), loop.is_running(), flush=True)
    os._exit(0)
    """
    assert run_child(loop_name, code).stdout == "Bad file descriptor False\n"


# --- callbacks that raise -------------------------------------------------------------------------


async def test_connection_made_that_raises_is_reported_and_the_connection_stays(loop, stream, reports):
    transport, protocol, peer = await stream(raising(Recorder, "connection_made"))
    assert reports.take()["exception"] is protocol.error
    await loop.sock_sendall(peer, b"x")
    assert await protocol.received(1) == b"x"


async def test_data_received_that_raises_ends_the_connection(loop, stream, reports):
    transport, protocol, peer = await stream(raising(Recorder, "data_received"))
    await loop.sock_sendall(peer, b"x")
    assert await ended(protocol, transport) is protocol.error
    message = "Fatal error: protocol.data_received() call failed."
    assert reported_by_transport(reports, transport, protocol, message) is protocol.error


async def test_buffer_updated_that_raises_ends_the_connection(loop, stream, reports):
    transport, protocol, peer = await stream(raising(BufferedRecorder, "buffer_updated"))
    await loop.sock_sendall(peer, b"x")
    assert await ended(protocol, transport) is protocol.error
    message = "Fatal error: protocol.buffer_updated() call failed."
    assert reported_by_transport(reports, transport, protocol, message) is protocol.error


async def test_get_buffer_that_raises_ends_the_connection(loop, stream, reports):
    transport, protocol, peer = await stream(raising(BufferedRecorder, "get_buffer"))
    await loop.sock_sendall(peer, b"x")
    assert await ended(protocol, transport) is protocol.error
    message = "Fatal error: protocol.get_buffer() call failed."
    assert reported_by_transport(reports, transport, protocol, message) is protocol.error


async def test_an_empty_buffer_ends_the_connection(loop, stream, reports):
    transport, protocol, peer = await stream(BufferedRecorder(0))
    await loop.sock_sendall(peer, b"x")
    exc = await ended(protocol, transport)
    assert isinstance(exc, RuntimeError)
    assert str(exc) == "get_buffer() returned an empty buffer"
    message = "Fatal error: protocol.get_buffer() call failed."
    assert reported_by_transport(reports, transport, protocol, message) is exc


@pytest.mark.parametrize("buffer", [b"read-only", memoryview(b"read-only"), "text", 5, None], ids=repr)
async def test_a_buffer_that_cannot_be_written_to_ends_the_connection(loop, stream, reports, buffer):
    protocol = BufferedRecorder()
    protocol.buffer = buffer
    transport, protocol, peer = await stream(protocol)
    await loop.sock_sendall(peer, b"x")
    exc = await ended(protocol, transport)
    assert isinstance(exc, TypeError | BufferError)
    assert reports.take()["exception"] is exc


async def test_eof_received_that_raises_ends_the_connection(stream, reports):
    transport, protocol, peer = await stream(raising(Recorder, "eof_received"))
    peer.shutdown(socket.SHUT_WR)
    assert await ended(protocol, transport) is protocol.error
    message = "Fatal error: protocol.eof_received() call failed."
    assert reported_by_transport(reports, transport, protocol, message) is protocol.error


async def test_connection_lost_that_raises_is_reported_and_the_socket_is_closed(stream, reports):
    transport, protocol, _ = await stream(raising(Recorder, "connection_lost"))
    transport.close()
    assert await ended(protocol, transport) is None
    assert reports.take()["exception"] is protocol.error


async def test_pause_writing_that_raises_is_reported_and_the_connection_stays(loop, stream, reports):
    transport, protocol, peer = await stream(raising(Recorder, "pause_writing"), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    assert reported_by_transport(reports, transport, protocol, "protocol.pause_writing() failed") is protocol.error
    assert await receive_exactly(loop, peer, len(written)) == written
    await protocol.called("resume_writing")
    assert not transport.is_closing()


async def test_resume_writing_that_raises_is_reported_and_the_connection_stays(loop, stream, reports):
    transport, protocol, peer = await stream(raising(Recorder, "resume_writing"), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    assert await receive_exactly(loop, peer, len(written)) == written
    await protocol.called("resume_writing")
    assert reported_by_transport(reports, transport, protocol, "protocol.resume_writing() failed") is protocol.error
    transport.write(b"more")
    assert await receive_exactly(loop, peer, 4) == b"more"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(
    "method", ["connection_made", "data_received", "buffer_updated", "get_buffer", "connection_lost"]
)
def test_an_interrupt_in_the_protocol_leaves_the_loop(loop, stream, method, exception):
    base = BufferedRecorder if "buffer" in method else Recorder
    interrupts = []

    def interrupt_once(self, *args):
        result = getattr(base, method)(self, *args)
        if not interrupts:
            interrupts.append(1)
            raise exception
        return result

    async def main():
        protocol = type("Interrupting", (base,), {method: interrupt_once})()
        transport, _, peer = await stream(protocol)
        await loop.sock_sendall(peer, b"x")
        await protocol.received(1)
        transport.close()
        await protocol.lost

    task = loop.create_task(main())
    with pytest.raises(exception):
        loop.run_until_complete(task)
    assert not loop.is_running()
    loop.run_until_complete(task)  # and then all goes on


async def test_an_exception_in_a_paused_protocol_loses_nothing(loop, stream, reports):
    """connection_made raises after it has paused: nothing may be delivered."""

    class Protocol(Recorder):
        def connection_made(self, transport):
            transport.pause_reading()
            super().connection_made(transport)
            raise ZeroDivisionError

    transport, protocol, peer = await stream(Protocol())
    reports.take()
    await loop.sock_sendall(peer, b"x")
    await polled(loop)
    assert protocol.data == b""
    transport.resume_reading()
    assert await protocol.received(1) == b"x"


async def test_a_protocol_without_the_callbacks_is_reported(loop, stream, reports):
    class Protocol(BufferedRecorder):
        buffer_updated = None

    transport, protocol, peer = await stream(Protocol())
    await loop.sock_sendall(peer, b"x")
    assert isinstance(await ended(protocol, transport), TypeError)
    reports.take()


# --- callbacks that close, abort, pause or write --------------------------------------------------

ENDS = {"close": lambda transport: transport.close(), "abort": lambda transport: transport.abort()}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("method", ["data_received", "eof_received"])
async def test_the_protocol_may_end_the_connection(loop, stream, end, method):
    transport, protocol, peer = await stream(calling(Recorder, method, ENDS[end])())
    await loop.sock_sendall(peer, b"x")
    if method == "eof_received":
        peer.shutdown(socket.SHUT_WR)
    assert await ended(protocol, transport) is None
    await polled(loop)
    assert protocol.calls.count(method) == 1


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
async def test_a_buffered_protocol_may_end_the_connection(loop, stream, end, method):
    transport, protocol, peer = await stream(calling(BufferedRecorder, method, ENDS[end])())
    await loop.sock_sendall(peer, b"x")
    assert await ended(protocol, transport) is None


@pytest.mark.parametrize("end", ENDS)
async def test_connection_made_may_end_the_connection(loop, tcp_pair, end):
    one, peer = tcp_pair

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            ENDS[end](transport)

    peer.send(b"never read")
    transport, protocol = await loop.create_connection(Protocol, sock=one)
    assert await ended(protocol, transport) is None
    assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.parametrize("end", ENDS)
async def test_connection_made_of_an_accepted_connection_may_end_it(loop, end):
    protocols = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            protocols.append(self)
            ENDS[end](transport)

    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.setblocking(False)
        assert await loop.sock_recv(client, 1) == b""
        assert await ended(protocols[0], protocols[0].transport) is None
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("end", ENDS)
async def test_pause_writing_may_end_the_connection(stream, end):
    ends = ENDS["abort"] if end == "abort" else lambda transport: (transport.close(), transport.abort())
    protocol = calling(Recorder, "pause_writing", ends)()
    transport, protocol, _ = await stream(protocol, receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    while not transport.is_closing():
        transport.write(bytes(65536))
    assert await ended(protocol, transport) is None


@pytest.mark.differs("asyncio ends the connection twice", when=sys.version_info < (3, 14))
@pytest.mark.parametrize("end", ENDS)
async def test_resume_writing_may_end_the_connection(loop, stream, reports, end):
    protocol = calling(Recorder, "resume_writing", ENDS[end])()
    transport, protocol, peer = await stream(protocol, receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    assert await receive_exactly(loop, peer, len(written)) == written
    assert await ended(protocol, transport) is None
    await polled(loop)
    reported = list(reports)
    reports.clear()
    assert reported == []


async def test_connection_lost_may_use_the_transport(stream):
    def use(transport):
        transport.close()
        transport.abort()
        transport.write(b"x")
        transport.write_eof()
        transport.pause_reading()
        transport.resume_reading()

    transport, protocol, _ = await stream(calling(Recorder, "connection_lost", use)())
    transport.close()
    assert await ended(protocol, transport) is None


async def test_data_received_may_write_much(loop, stream):
    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            for _ in range(100):
                self.transport.write(bytes(10_000))
            self.transport.close()

    _, protocol, peer = await stream(Protocol())
    await loop.sock_sendall(peer, b"x")
    assert len(await receive_all(loop, peer)) == 1_000_000
    await protocol.lost


async def test_resume_writing_may_write_until_it_is_paused_again(loop, stream):
    class Protocol(Recorder):
        left = 50

        def resume_writing(self):
            super().resume_writing()
            while self.left and self.calls.count("pause_writing") == self.calls.count("resume_writing"):
                self.left -= 1
                self.transport.write(bytes(20_000))

    transport, protocol, peer = await stream(Protocol(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    received = await receive_exactly(loop, peer, len(written) + 50 * 20_000)
    assert received == written + bytes(50 * 20_000)


async def test_pause_writing_may_write(loop, stream):
    protocol = calling(Recorder, "pause_writing", lambda transport: transport.write(b"<paused>"))()
    transport, _, peer = await stream(protocol, receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    transport.write(b"after")
    assert await receive_exactly(loop, peer, len(written) + 13) == written + b"<paused>after"
    assert protocol.calls.count("pause_writing") == 1


async def test_data_received_may_stop_the_loop(loop, tcp_pair):
    one, peer = tcp_pair
    transport, protocol = await loop.create_connection(Recorder, sock=one)
    stopped = asyncio.get_running_loop().create_future()
    protocol.data_received = stopped.set_result
    peer.send(b"x")
    assert await stopped == b"x"
    transport.close()
    await protocol.lost


async def test_one_protocol_may_end_the_connection_of_another(loop, tcp_pair, socket_pair):
    """Both are readable in one poll; whichever is first ends both."""
    protocols = []

    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            for protocol in protocols:
                protocol.transport.abort()

    for sock, _ in (tcp_pair, socket_pair):
        _, protocol = await loop.create_connection(Protocol, sock=sock)
        protocols.append(protocol)
    for _, peer in (tcp_pair, socket_pair):
        peer.send(b"x")
    for protocol in protocols:
        assert await ended(protocol, protocol.transport) is None
    assert sum(protocol.calls.count("data_received") for protocol in protocols) == 1


async def test_a_buffer_that_changes_its_size_does_no_harm(loop, stream):
    class Protocol(BufferedRecorder):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            del self.buffer[:]
            self.buffer += bytes(1 + len(self.data) % 7)

    _, protocol, peer = await stream(Protocol(3))
    await loop.sock_sendall(peer, bytes(range(200)))
    assert await protocol.received(200) == bytes(range(200))


async def test_a_transport_that_nobody_holds_stays_open(loop, stream):
    _, protocol, peer = await stream(Recorder())
    protocol.transport = None
    gc.collect()
    await loop.sock_sendall(peer, b"x")
    assert await protocol.received(1) == b"x"


async def test_an_end_with_data_still_unread_gives_the_data_first(loop, stream):
    transport, protocol, peer = await stream(EofKeeper())
    transport.pause_reading()
    await loop.sock_sendall(peer, b"unread")
    peer.close()
    await polled(loop)
    transport.resume_reading()
    assert await protocol.received(6) == b"unread"


async def test_a_finalizer_may_ask_the_transport_that_is_answering(loop, stream):
    """Up to Python 3.11 any allocation may run the garbage collector, and so what belongs to somebody else."""
    answers = []

    class Garbage:
        def __init__(self, transport):
            self.transport = transport
            self.itself = self

        def __del__(self):
            answers.append(self.transport.get_extra_info("peername"))

    thresholds = gc.get_threshold()
    for allocations in range(1, 15):
        transport, _, _ = await stream(Recorder())
        gc.collect()
        Garbage(transport)
        try:
            gc.set_threshold(allocations)
            transport.get_extra_info("sockname")
        finally:
            gc.set_threshold(*thresholds)
    gc.collect()
    assert len(answers) == 14


# --- factories ------------------------------------------------------------------------------------


async def test_a_factory_that_raises_fails_the_connection(loop, socket_pair):
    def factory():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await loop.create_connection(factory, sock=socket_pair[0])


# asyncio leaves the socket, and a transport that is half made, to the garbage collector.
left_to_the_collector = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@left_to_the_collector
@pytest.mark.parametrize("made", [None, 3, object()])
async def test_a_factory_that_makes_no_protocol_fails_the_connection(loop, socket_pair, made):
    with pytest.raises(AttributeError, match="object has no attribute 'connection_made'"):
        await loop.create_connection(lambda: made, sock=socket_pair[0])
    gc.collect()


@left_to_the_collector
async def test_a_factory_that_makes_no_protocol_fails_the_endpoint(loop):
    with pytest.raises(AttributeError, match="object has no attribute 'connection_made'"):
        await loop.create_datagram_endpoint(lambda: None, local_addr=("127.0.0.1", 0))
    gc.collect()


@left_to_the_collector
@pytest.mark.parametrize("debug", [False, True])
async def test_a_factory_that_raises_drops_the_client_and_the_server_goes_on(loop, reports, debug):
    protocols = []

    def factory():
        if not protocols:
            protocols.append(None)
            raise ZeroDivisionError
        protocols.append(Recorder())
        return protocols[-1]

    loop.set_debug(debug)
    loop.slow_callback_duration = 1000
    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with socket.create_connection(address) as client:
        client.setblocking(False)
        while not protocols:
            await asyncio.sleep(0)
        await polled(loop)
        if debug or reports:
            # Taken out of `reports` first: the traceback keeps the accepted socket open.
            assert described(reports.take()) == (
                "Error on transport creation for incoming connection",
                ZeroDivisionError,
            )
        gc.collect()
        assert await loop.sock_recv(client, 1) == b""
    with socket.create_connection(address):
        while len(protocols) < 2:
            await asyncio.sleep(0)
        await protocols[1].made
    await protocols[1].lost
    server.close()
    await server.wait_closed()


def described(context):
    return context["message"], type(context["exception"])


# --- descriptors run out --------------------------------------------------------------------------

EXHAUSTED = """
    import asyncio, json, os, resource, socket, sys

    ACCEPTED = 5

    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        def handler(loop, context):
            reported.append((context["message"], type(context["exception"]).__name__,
                             context["exception"].errno, type(context["socket"]).__name__))
            exhausted.set()
        loop.set_exception_handler(handler)
        exhausted = asyncio.Event()

        served = []
        async def serve(reader, writer):
            served.append(await reader.readline())
            writer.write(b"served\\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=20)
        clients = [socket.socket() for _ in range(ACCEPTED)]
        for client in clients:
            client.setblocking(False)
        # Every free descriptor below the limit is taken, and then the clients connect.
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        begin = loop.time()
        for client in clients:
            await loop.sock_connect(client, server.sockets[0].getsockname())
            await loop.sock_sendall(client, b"hello\\n")
        await exhausted.wait()
        first_pause = len(reported)
        for fd in held:
            os.close(fd)
        for client in clients:
            assert await loop.sock_recv(client, 100) == b"served\\n"
            client.close()
        paused = loop.time() - begin
        server.close()
        await server.wait_closed()
        print(json.dumps([reported, first_pause, len(served), paused]))

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
"""


@pytest.fixture(scope="module")
def exhausted(loop_name):
    """What a server reported that had no descriptor left: reports, reports of the first pause, served, seconds."""
    import json

    return json.loads(run_child(loop_name, EXHAUSTED).stdout)


def test_a_server_without_descriptors_tells_so(exhausted):
    reported, _, _, _ = exhausted
    message, exception, number, kind = reported[0]
    assert message == "socket.accept() out of system resource"
    assert (exception, number, kind) == ("OSError", 24, "TransportSocket")


def test_every_waiting_client_is_served_when_there_are_descriptors_again(exhausted):
    _, _, served, _ = exhausted
    assert served == 5


def test_a_server_without_descriptors_pauses_for_a_second(exhausted):
    _, _, _, seconds = exhausted
    assert seconds >= 1


@pytest.mark.differs("asyncio tells it once for every place in the backlog")
def test_a_server_without_descriptors_tells_so_once_in_a_pause(exhausted):
    _, first_pause, _, _ = exhausted
    assert first_pause == 1


@pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux calls sockets")
def test_clients_that_leave_before_they_are_accepted_do_no_harm(loop_name):
    code = """
        import asyncio, socket
        async def main():
            loop = asyncio.get_running_loop()
            served = []
            async def serve(reader, writer):
                served.append(await reader.read())
                writer.close()
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            for _ in range(50):
                client = socket.create_connection(address)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
                client.close()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"the last")
            writer.write_eof()
            await reader.read()
            writer.close()
            server.close()
            print(served[-1])
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    """
    assert "b'the last'" in run_child(loop_name, code).stdout
