"""What a protocol raises over TLS: who hears of it, and what becomes of the connection."""

import asyncio
import contextlib
import logging
import socket
import ssl

import pytest
from checker import SMALL_BUFFER, Recorder, fill, polled
from tls_checker import ViewRecorder, connect_tls

FATAL = "Fatal error on SSL protocol"


class Raising(Recorder):
    """Raises `error` in the method called `method`."""

    def __init__(self, method, error):
        super().__init__()
        self.method = method
        self.error = error

    def note(self, call):
        super().note(call)
        if call == self.method:
            raise self.error


class BufferedRaising(Raising, ViewRecorder):
    """The same; get_buffer() raises once it is `armed`, as it may be called when there is nothing to read yet."""

    armed = False

    def get_buffer(self, sizehint):
        if self.armed and self.method == "get_buffer":
            raise self.error
        return super().get_buffer(sizehint)


def take_fatal(reports, error, message=FATAL):
    """Check the one report."""
    context = reports.take()
    assert context["message"] == message
    assert context["exception"] is error
    assert "transport" in context and "protocol" in context


@pytest.mark.parametrize("method", ["data_received", "buffer_updated", "get_buffer"])
async def test_an_exception_while_reading_is_reported_and_ends_the_connection(loop, tls_stream, reports, method):
    error = ZeroDivisionError()
    protocol = Raising(method, error) if method == "data_received" else BufferedRaising(method, error)
    transport, _, peer = await tls_stream(protocol)
    protocol.armed = True
    await peer.send(b"x")
    assert await protocol.lost is error
    take_fatal(reports, error)
    assert transport.is_closing()
    assert "eof_received" not in protocol.calls
    assert protocol.calls.count("connection_lost") == 1


@pytest.mark.parametrize("buffer", [b"constant" * 10, None, "text"], ids=["constant", "none", "text"])
async def test_what_cannot_be_filled_is_reported_and_ends_the_connection(loop, tls_stream, reports, buffer):
    class Protocol(ViewRecorder):
        armed = False

        def get_buffer(self, sizehint):
            return buffer if self.armed else super().get_buffer(sizehint)

    _, protocol, peer = await tls_stream(Protocol())
    protocol.armed = True
    await peer.send(b"x")
    error = await protocol.lost
    assert isinstance(error, TypeError)
    take_fatal(reports, error)
    assert protocol.data == b""
    if isinstance(buffer, bytes):
        assert buffer == b"constant" * 10


async def test_an_empty_buffer_ends_the_connection(loop, tls_stream, reports):
    """asyncio takes it for the end of the peer; without TLS it is an error."""

    class Protocol(ViewRecorder):
        armed = False

        def get_buffer(self, sizehint):
            return bytearray() if self.armed else super().get_buffer(sizehint)

    _, protocol, peer = await tls_stream(Protocol())
    protocol.armed = True
    await peer.send(b"x")
    with contextlib.suppress(OSError):
        await peer.unwrap()
    peer.close()
    await protocol.lost
    assert protocol.data == b""
    assert protocol.calls.count("connection_lost") == 1
    reports.clear()


@pytest.mark.parametrize("method", ["data_received", "buffer_updated"])
async def test_an_exception_while_reading_drops_what_is_held(loop, tls_stream, reports, method):
    error = ZeroDivisionError()
    protocol = Raising(method, error) if method == "data_received" else BufferedRaising(method, error)
    transport, _, peer = await tls_stream(protocol, receive_buffer=SMALL_BUFFER)
    fill(transport)
    await peer.send(b"x")
    assert await protocol.lost is error
    take_fatal(reports, error)
    assert transport.get_write_buffer_size() == 0


async def test_an_exception_while_reading_is_told_to_the_peer_by_nothing_but_the_end(loop, tls_stream, reports):
    protocol = Raising("data_received", ZeroDivisionError())
    _, _, peer = await tls_stream(protocol)
    await peer.send(b"x")
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        await peer.receive()
    await protocol.lost
    reports.clear()


@pytest.mark.parametrize("method", ["data_received", "buffer_updated", "eof_received"])
async def test_an_error_of_the_system_is_not_reported(loop, tls_stream, method):
    """It is taken for one of the connection."""
    error = OSError(5, "by the protocol")
    protocol = BufferedRaising(method, error) if method == "buffer_updated" else Raising(method, error)
    _, _, peer = await tls_stream(protocol)
    if method == "eof_received":
        await peer.close_notify()
    else:
        await peer.send(b"x")
    assert await protocol.lost is error


async def test_an_exception_of_eof_received_is_reported_and_ends_the_connection(loop, tls_stream, reports):
    error = ZeroDivisionError()
    protocol = Raising("eof_received", error)
    _, _, peer = await tls_stream(protocol)
    await peer.close_notify()
    assert await protocol.lost is error
    take_fatal(reports, error, "Error calling eof_received()")
    assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


async def test_an_exception_of_eof_received_at_the_end_of_the_socket_is_reported(loop, tls_stream, reports):
    error = ZeroDivisionError()
    protocol = Raising("eof_received", error)
    _, _, peer = await tls_stream(protocol)
    peer.sock.shutdown(socket.SHUT_WR)
    await protocol.lost
    take_fatal(reports, error, "Error calling eof_received()")
    assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


async def test_an_exception_of_pause_writing_is_reported_and_the_connection_goes_on(loop, tls_stream, reports):
    error = ZeroDivisionError()
    protocol = Raising("pause_writing", error)
    transport, _, peer = await tls_stream(protocol, receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=1000)
    written = fill(transport)
    take_fatal(reports, error, "protocol.pause_writing() failed")
    assert await peer.receive_exactly(len(written)) == written
    await protocol.called("resume_writing")


async def test_an_exception_of_resume_writing_is_reported_and_the_connection_goes_on(loop, tls_stream, reports):
    error = ZeroDivisionError()
    protocol = Raising("resume_writing", error)
    transport, _, peer = await tls_stream(protocol, receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=1000)
    written = fill(transport)
    assert await peer.receive_exactly(len(written)) == written
    await protocol.called("resume_writing")
    take_fatal(reports, error, "protocol.resume_writing() failed")
    transport.write(b"still open")
    assert await peer.receive_exactly(10) == b"still open"


async def test_an_exception_of_connection_lost_is_reported(loop, tls_stream, reports):
    class Protocol(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    transport, protocol, _ = await tls_stream(Protocol())
    transport.abort()
    await protocol.lost
    context = reports.take()
    assert "connection_lost" in context["message"]
    assert isinstance(context["exception"], ZeroDivisionError)
    await polled(loop)
    assert protocol.calls.count("connection_lost") == 1


CONNECTION_MADE_FAILED = (
    "Fatal error: protocol.buffer_updated() call failed.",  # asyncio's: what the transport called is the TLS protocol
    "Fatal error: protocol.connection_made() call failed.",  # as without TLS
)


async def test_an_exception_of_connection_made_of_a_client_is_reported_and_raised(loop, certificates, reports):
    error = ZeroDivisionError()
    protocol = Raising("connection_made", error)

    async def handler(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(handler, "127.0.0.1", 0, ssl=certificates.server_context()) as server:
        address = server.sockets[0].getsockname()
        with pytest.raises(ZeroDivisionError) as caught:
            await loop.create_connection(
                lambda: protocol, *address, ssl=certificates.client_context(), server_hostname="localhost"
            )
        assert caught.value is error
        assert await protocol.lost is error
    context = reports.take()
    assert context["message"] in CONNECTION_MADE_FAILED
    assert context["exception"] is error
    assert "transport" in context and "protocol" in context
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_an_exception_of_connection_made_of_a_server_is_reported(loop, certificates, reports):
    error = ZeroDivisionError()
    protocol = Raising("connection_made", error)
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=certificates.server_context())
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=certificates.client_context(), server_hostname="localhost"
    )
    assert await protocol.lost is error
    assert await reader.read() == b""
    context = reports.take()
    assert context["message"] in CONNECTION_MADE_FAILED
    assert context["exception"] is error
    assert "transport" in context and "protocol" in context
    assert protocol.calls == ["connection_made", "connection_lost"]
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", ["data_received", "eof_received", "buffer_updated"])
def test_what_is_to_end_the_program_leaves_the_loop(loop, certificates, method, error):
    async def connect():
        protocol = (BufferedRaising if method == "buffer_updated" else Raising)(method, error())
        return await connect_tls(loop, "server", protocol, certificates)

    async def provoke():
        if method == "eof_received":
            await peer.close_notify()
        else:
            await peer.send(b"x")
        await asyncio.sleep(60)

    transport, protocol, peer = loop.run_until_complete(connect())
    with pytest.raises(error):
        loop.run_until_complete(provoke())
    peer.close()
    transport.abort()
    loop.run_until_complete(polled(loop))


async def test_an_ordinary_error_of_the_connection_is_not_reported(loop, tls_stream):
    _, protocol, peer = await tls_stream(Recorder())
    await peer.wire.send(b"garbage that is no record")
    assert isinstance(await protocol.lost, ssl.SSLError)


async def test_debug_mode_logs_an_error_of_the_connection(loop, tls_stream, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 60
    caplog.set_level(logging.DEBUG, "asyncio")
    _, protocol, peer = await tls_stream(Recorder())
    await peer.wire.send(b"garbage that is no record")
    await protocol.lost
    assert any("Fatal error on SSL protocol" in record.getMessage() for record in caplog.records)
    assert all(record.levelno < logging.WARNING for record in caplog.records)


async def test_debug_mode_logs_the_handshake(loop, tls_stream, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 60
    caplog.set_level(logging.DEBUG, "asyncio")
    await tls_stream(Recorder())
    messages = [record.getMessage() for record in caplog.records]
    assert any("starts SSL handshake" in message for message in messages)
    assert any("SSL handshake took " in message for message in messages)


async def test_what_was_written_before_an_exception_arrives(loop, tls_stream, reports):
    """Also if writes are joined, which a transport learns from turns with two of them."""
    error = ZeroDivisionError()

    class Protocol(Recorder):
        def data_received(self, data):
            self.transport.write(data[:1])
            self.transport.write(data[1:])
            if data == b"4.":
                raise error

    _, protocol, peer = await tls_stream(Protocol())
    for message in (b"1.", b"2.", b"3.", b"4."):
        await peer.send(message)
        assert await peer.receive_exactly(2) == message
    assert await protocol.lost is error
    take_fatal(reports, error)


@pytest.mark.parametrize("method", ["data_received", "buffer_updated", "get_buffer"])
@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()], ids=repr)
async def test_what_is_no_ordinary_exception_is_reported_by_the_transport_below(
    loop, tls_stream, reports, method, error
):
    protocol = Raising(method, error) if method == "data_received" else BufferedRaising(method, error)
    _, _, peer = await tls_stream(protocol)
    protocol.armed = True
    await peer.send(b"x")
    assert await protocol.lost is error
    take_fatal(reports, error, "Fatal error: protocol.buffer_updated() call failed.")
