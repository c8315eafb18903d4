"""create_unix_server and create_unix_connection."""

import asyncio
import errno
import os
import pathlib
import socket
import stat
import sys

import pytest
import velodrome
from checker import Recorder

# Abstract names belong to the whole machine: several runs of these tests must not meet.
ABSTRACT = f"\0velodrome-{os.getpid()}"

since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="servers remove their socket since 3.13")


@pytest.fixture
def path(tmp_path):
    # Relative, because the system allows no more than 107 characters.
    before = os.getcwd()
    os.chdir(tmp_path)
    yield "the.socket"
    os.chdir(before)


async def meet(loop, server, address):
    """Connect to the server and exchange a word."""
    transport, protocol = await loop.create_unix_connection(Recorder, address)
    transport.write(b"hello")
    assert await protocol.received(5) == b"hello"
    transport.close()
    await protocol.lost
    server.close()
    await server.wait_closed()


class Echo(Recorder):
    def data_received(self, data):
        self.transport.write(data)


@pytest.mark.parametrize("kind", [str, pathlib.Path, os.fsencode, lambda path: pathlib.Path(path).absolute()])
async def test_a_path_of_any_kind_is_served(loop, path, kind):
    server = await loop.create_unix_server(Echo, kind(path))
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    await meet(loop, server, kind(path))


@pytest.mark.parametrize("address", [ABSTRACT, os.fsencode(ABSTRACT)], ids=["str", "bytes"])
async def test_an_abstract_name_is_served(loop, address):
    server = await loop.create_unix_server(Echo, address)
    await meet(loop, server, address)


async def test_a_socket_of_our_own_is_served(loop, path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server = await loop.create_unix_server(Echo, sock=sock)
    assert server.sockets[0].fileno() == sock.fileno()
    await meet(loop, server, path)


async def test_a_socket_of_our_own_is_connected(loop, path):
    server = await loop.create_unix_server(Echo, path)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    transport, protocol = await loop.create_unix_connection(Recorder, sock=sock)
    assert transport.get_extra_info("peername") == path
    transport.close()
    await protocol.lost
    server.close()


async def test_the_socket_of_a_former_server_is_replaced(loop, path):
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(path)
    server = await loop.create_unix_server(Echo, path)
    await meet(loop, server, path)


async def test_a_file_in_the_way_is_left_alone(loop, path):
    pathlib.Path(path).write_text("a file")
    with pytest.raises(OSError, match=f"Address '{path}' is already in use") as caught:
        await loop.create_unix_server(Echo, path)
    assert caught.value.errno == errno.EADDRINUSE
    assert pathlib.Path(path).read_text() == "a file"


async def test_an_abstract_name_in_use_is_an_error(loop):
    server = await loop.create_unix_server(Echo, ABSTRACT)
    with pytest.raises(OSError) as caught:
        await loop.create_unix_server(Echo, ABSTRACT)
    assert caught.value.errno == errno.EADDRINUSE
    server.close()


async def test_a_missing_directory_is_an_error(loop, path):
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_server(Echo, f"missing/{path}")


async def test_a_path_that_is_too_long_is_an_error(loop):
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        await loop.create_unix_server(Echo, "x" * 200)


@since_3_13
async def test_close_removes_the_path(loop, path):
    server = await loop.create_unix_server(Echo, path)
    server.close()
    assert not os.path.exists(path)


@since_3_13
async def test_close_leaves_the_path_on_request(loop, path):
    server = await loop.create_unix_server(Echo, path, cleanup_socket=False)
    server.close()
    assert os.path.exists(path)


@since_3_13
async def test_close_leaves_the_path_of_a_later_server(loop, path):
    server = await loop.create_unix_server(Echo, path)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as later:
        later.bind(path)
        server.close()
        assert os.path.exists(path)


@since_3_13
async def test_close_does_not_mind_that_the_path_is_gone(loop, path):
    server = await loop.create_unix_server(Echo, path)
    os.unlink(path)
    server.close()
    await server.wait_closed()


async def test_start_serving_false_waits(loop, path):
    server = await loop.create_unix_server(Echo, path, start_serving=False)
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, path)
    await server.start_serving()
    await meet(loop, server, path)


async def test_nobody_at_the_path_is_an_error(loop, path):
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_connection(Recorder, path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, path)


async def test_the_names_of_the_two_ends(loop, path):
    accepted = loop.create_future()

    class Accepted(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.set_result(self)

    server = await loop.create_unix_server(Accepted, path)
    transport, protocol = await loop.create_unix_connection(Recorder, path)
    theirs = (await accepted).transport
    assert transport.get_extra_info("peername") == theirs.get_extra_info("sockname") == path
    assert transport.get_extra_info("sockname") == ""
    assert theirs.get_extra_info("peername") == ""
    transport.close()
    await protocol.lost
    await (await accepted).lost
    server.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "path was not specified, and no sock specified"),
        ({"path": "x", "sock": True}, "path and sock can not be specified at the same time"),
        ({"sock": True}, "A UNIX Domain Stream Socket was expected, got .*"),
        ({"path": "x", "ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"path": "x", "ssl_shutdown_timeout": 1}, "ssl_shutdown_timeout is only meaningful with ssl"),
    ],
)
async def test_arguments_of_a_server_that_make_no_sense_are_refused(loop, options, message):
    with socket.socket() as sock, pytest.raises(ValueError, match=f"^{message}$"):
        await loop.create_unix_server(Echo, **(options | ({"sock": sock} if "sock" in options else {})))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no path and sock were specified"),
        ({"path": "x", "sock": True}, "path and sock can not be specified at the same time"),
        ({"sock": True}, "A UNIX Domain Stream Socket was expected, got .*"),
        ({"path": "x", "server_hostname": "y"}, "server_hostname is only meaningful with ssl"),
        ({"path": "x", "ssl": True}, "you have to pass server_hostname when using ssl"),
        ({"path": "x", "ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"path": "x", "ssl_shutdown_timeout": 1}, "ssl_shutdown_timeout is only meaningful with ssl"),
    ],
)
async def test_arguments_of_a_connection_that_make_no_sense_are_refused(loop, options, message):
    with socket.socket() as sock, pytest.raises(ValueError, match=f"^{message}$"):
        await loop.create_unix_connection(Recorder, **(options | ({"sock": sock} if "sock" in options else {})))


async def test_ssl_must_be_a_context(loop, path):
    with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
        await loop.create_unix_server(Echo, path, ssl=True)


async def test_streams_over_a_unix_path(loop, path):
    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"shout\n")
        assert await reader.read() == b"SHOUT\n"
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def knows_mode(loop):
    if isinstance(loop, velodrome.Loop) or sys.version_info >= (3, 16):
        return
    pytest.skip("asyncio has the mode since 3.16")


@pytest.mark.parametrize("start_serving", [True, False])
async def test_the_mode_is_that_of_the_socket_file(loop, path, knows_mode, start_serving):
    server = await loop.create_unix_server(Echo, path, mode=0o600, start_serving=start_serving)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert server.is_serving() == start_serving
    await server.start_serving()
    await meet(loop, server, path)


async def test_nobody_can_connect_before_the_mode_is_set(loop, path, knows_mode, monkeypatch):
    refused = []

    def chmod(*arguments):
        with socket.socket(socket.AF_UNIX) as client:
            refused.append(client.connect_ex(path))
        return real_chmod(*arguments)

    real_chmod = os.chmod
    monkeypatch.setattr(os, "chmod", chmod)
    server = await loop.create_unix_server(Echo, path, mode=0o600)
    assert refused == [errno.ECONNREFUSED]
    await meet(loop, server, path)


async def test_a_mode_that_fails_leaves_no_server_behind(loop, path, knows_mode):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TypeError):
        await loop.create_unix_server(Echo, path, mode="rw")
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.path.exists(path) == (sys.version_info < (3, 13))


async def test_a_mode_without_a_file_is_refused(loop, knows_mode):
    with pytest.raises(ValueError, match="^mode is not meaningful for an abstract socket$"):
        await loop.create_unix_server(Echo, ABSTRACT, mode=0o600)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ValueError, match="^mode is only meaningful with path$"):
        await loop.create_unix_server(Echo, sock=sock, mode=0o600)


async def test_start_unix_server_passes_the_mode_on(loop, path, knows_mode):
    async with await asyncio.start_unix_server(lambda reader, writer: None, path, mode=0o640):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
