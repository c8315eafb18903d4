"""The servers under load. `python servers.py LOOP SERVER SCRATCH` prints its address, then serves until ended.

They are written as a user would write them, the same for every loop. What they send is checked byte by byte by loadgen.
SCRATCH is a folder with a certificate and a port, for those who need them.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys

import loops

CHUNK = 100 * 1024  # what one read may take, where the program chooses

CERTIFICATE = "certificate.pem"  # in the scratch folder, with its key
PORT = "port"  # in the scratch folder: the one that processes share

# The benchmark passes both to the load generator, which compares each answer with the reply.
HTTP_REQUEST = b"GET /hello HTTP/1.1\r\nHost: localhost\r\nUser-Agent: loadgen\r\nAccept: */*\r\n\r\n"
HTTP_REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nConnection: keep-alive\r\n\r\nHello, world!"
)
UVICORN_REPLY = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\r\nHello, world!"
)
# aiohttp adds these two; if they are there already, every byte of an answer is known beforehand.
AIOHTTP_HEADERS = {"Date": "Thu, 01 Jan 1970 00:00:00 GMT", "Server": "aiohttp"}
AIOHTTP_REPLY = (
    b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: aiohttp\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 13\r\n\r\nHello, world!"
)

# An upload is answered with its last byte so often; the messages are the load generator's, and so is their number.
UPLOAD_MESSAGE = 64 * 1024
UPLOAD_INTERVAL = 16 * UPLOAD_MESSAGE

# What is sent without being asked for: the size of a message, and how many different ones there are. That is a prime,
# so that what gets lost or comes twice does not happen to be all of them.
DOWNLOAD = 64 * 1024, 17
SMALL_DOWNLOAD = 64, 2039

RECORD = 1024  # what readexactly() awaits
GREETING = b"220 localhost: what would you like to hear today? Ready for it.\n"  # for who only connects
VISIT = 64  # what is said on a connection of our own making

# As many as the kernel lets wait: thousands of connections come at once, and who finds no place waits a second.
BACKLOG = 4096

SERVERS = {}


def server(name):
    def register(function):
        SERVERS[name] = function
        return function

    return register


class EchoProtocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class TwoWritesProtocol(EchoProtocol):
    """Answers as most servers do: a head, then a body."""

    def data_received(self, data):
        self.transport.write(data[:200])
        self.transport.write(data[200:])


class EchoBufferedProtocol(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = memoryview(bytearray(CHUNK))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        # A copy, since the buffer is read into again while the transport may still hold what it could not send.
        self.transport.write(bytes(self.buffer[:count]))


class ReceiveProtocol(asyncio.Protocol):
    """Takes what comes, and says so now and then."""

    def connection_made(self, transport):
        self.transport = transport
        self.missing = UPLOAD_INTERVAL  # until the next answer

    def data_received(self, data):
        self.missing -= len(data)
        while self.missing <= 0:
            end = len(data) + self.missing
            self.transport.write(data[end - 1 : end])
            self.missing += UPLOAD_INTERVAL


class SendProtocol(asyncio.Protocol):
    """Sends the messages over and over, as fast as the transport takes them, until the other side ends."""

    def __init__(self, loop, messages):
        self.loop = loop
        self.messages = messages
        self.resumed = None  # a future while writing is paused
        self.is_wanted = True

    def connection_made(self, transport):
        self.transport = transport
        self.task = self.loop.create_task(self.send())

    def pause_writing(self):
        self.resumed = self.loop.create_future()

    def resume_writing(self):
        self.resumed.set_result(None)
        self.resumed = None

    def eof_received(self):
        self.is_wanted = False
        return True  # send() closes the transport

    async def send(self):
        while self.is_wanted:
            for message in self.messages:
                self.transport.write(message)
                if self.resumed is not None:
                    await self.resumed
            await asyncio.sleep(0)
        self.transport.close()


def messages_of_numbers(size, count):
    """So many messages, which together are the numbers from 0 on: no byte can be missing unnoticed."""
    numbers = b"".join(number.to_bytes(4, "little") for number in range(size * count // 4))
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


class VisitProtocol(asyncio.Protocol):
    """Echoes one message and closes."""

    def __init__(self, loop):
        self.ended = loop.create_future()
        self.missing = VISIT

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)
        self.missing -= len(data)
        if not self.missing:
            self.transport.close()

    def connection_lost(self, exc):
        if exc:
            self.ended.set_exception(exc)
        else:
            self.ended.set_result(None)


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


class CloseProtocol(asyncio.Protocol):
    def connection_made(self, transport):
        transport.close()


class GreetProtocol(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(GREETING)
        transport.close()


class HttpProtocol(asyncio.Protocol):
    """As little HTTP as answers a GET without a body honestly, pipelined requests included."""

    def connection_made(self, transport):
        self.transport = transport
        self.unparsed = b""

    def data_received(self, data):
        self.unparsed += data
        while (end := self.unparsed.find(b"\r\n\r\n")) >= 0:
            request_line, *header_lines = self.unparsed[:end].split(b"\r\n")
            self.unparsed = self.unparsed[end + 4 :]
            method, path, _ = request_line.split(b" ")
            headers = dict(line.split(b": ", 1) for line in header_lines)
            if (method, path) != (b"GET", b"/hello") or b"Host" not in headers:
                self.transport.close()
                return
            self.transport.write(HTTP_REPLY)


async def echo_stream(reader, writer):
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # the load generator has waited long enough for an answer
    finally:
        writer.close()


async def echo_records(reader, writer):
    try:
        while True:
            writer.write(await reader.readexactly(RECORD))
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def echo_lines(reader, writer):
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def visit(reader, writer):
    """Connect to the port that the load generator names, again and again, until it hangs up."""
    loop = asyncio.get_running_loop()
    port = int(await reader.readline())
    while not reader.at_eof():
        _, protocol = await loop.create_connection(lambda: VisitProtocol(loop), "127.0.0.1", port)
        await protocol.ended
    writer.close()


async def echo_socket(loop, connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            while data := await loop.sock_recv(connection, CHUNK):
                await loop.sock_sendall(connection, data)
        except ConnectionError:
            pass


async def serve_tcp(loop, protocol):
    server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=BACKLOG)
    return server, tcp_address(server.sockets[0])


async def serve_streams(handler):
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    return server, tcp_address(server.sockets[0])


async def serve_tls(loop, protocol, scratch):
    server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=server_context(scratch))
    return server, tls_address(server.sockets[0])


def shared_port(scratch):
    with open(os.path.join(scratch, PORT)) as file:
        return int(file.read())


def server_context(scratch):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(os.path.join(scratch, CERTIFICATE))
    return context


@server("protocol")
async def protocol_server(loop, scratch):
    return await serve_tcp(loop, EchoProtocol)


@server("two-writes")
async def two_writes_server(loop, scratch):
    return await serve_tcp(loop, TwoWritesProtocol)


@server("buffered")
async def buffered_server(loop, scratch):
    return await serve_tcp(loop, EchoBufferedProtocol)


@server("receive")
async def receive_server(loop, scratch):
    return await serve_tcp(loop, ReceiveProtocol)


@server("tls-protocol")
async def tls_protocol_server(loop, scratch):
    return await serve_tls(loop, EchoProtocol, scratch)


@server("tls-buffered")
async def tls_buffered_server(loop, scratch):
    return await serve_tls(loop, EchoBufferedProtocol, scratch)


@server("tls-receive")
async def tls_receive_server(loop, scratch):
    return await serve_tls(loop, ReceiveProtocol, scratch)


@server("tls-streams")
async def tls_streams_server(loop, scratch):
    server = await asyncio.start_server(echo_stream, "127.0.0.1", 0, ssl=server_context(scratch))
    return server, tls_address(server.sockets[0])


@server("accept-close")
async def accept_close_server(loop, scratch):
    return await serve_tcp(loop, CloseProtocol)


@server("accept-write-close")
async def accept_write_close_server(loop, scratch):
    return await serve_tcp(loop, GreetProtocol)


@server("http")
async def http_server(loop, scratch):
    return await serve_tcp(loop, HttpProtocol)


@server("http-shared")
async def shared_http_server(loop, scratch):
    """One of several processes that listen on one port; the kernel deals out the connections."""
    port = shared_port(scratch)
    server = await loop.create_server(HttpProtocol, "127.0.0.1", port, backlog=BACKLOG, reuse_port=True)
    return server, tcp_address(server.sockets[0])


@server("streams")
async def streams_server(loop, scratch):
    return await serve_streams(echo_stream)


@server("streams-readexactly")
async def streams_readexactly_server(loop, scratch):
    return await serve_streams(echo_records)


@server("streams-readline")
async def streams_readline_server(loop, scratch):
    return await serve_streams(echo_lines)


@server("send")
async def send_server(loop, scratch):
    messages = messages_of_numbers(*DOWNLOAD)
    return await serve_tcp(loop, lambda: SendProtocol(loop, messages))


@server("send-small")
async def send_small_server(loop, scratch):
    messages = messages_of_numbers(*SMALL_DOWNLOAD)
    return await serve_tcp(loop, lambda: SendProtocol(loop, messages))


@server("connect")
async def connect_server(loop, scratch):
    return await serve_streams(visit)


@server("unix-protocol")
async def unix_protocol_server(loop, scratch):
    path = os.path.join(scratch, "server.sock")
    server = await loop.create_unix_server(EchoProtocol, path)
    return server, {"unix": path}


@server("unix-streams")
async def unix_streams_server(loop, scratch):
    path = os.path.join(scratch, "server.sock")
    server = await asyncio.start_unix_server(echo_stream, path)
    return server, {"unix": path}


@server("udp")
async def udp_server(loop, scratch):
    transport, _ = await loop.create_datagram_endpoint(EchoDatagrams, local_addr=("127.0.0.1", 0))
    host, port = transport.get_extra_info("sockname")
    return transport, {"udp": f"{host}:{port}"}


@server("sock")
async def sock_server(loop, scratch):
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setblocking(False)

    async def accept():
        tasks = set()
        while True:
            connection, _ = await loop.sock_accept(listener)
            task = loop.create_task(echo_socket(loop, connection))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    return loop.create_task(accept()), tcp_address(listener)


# ---- real services, which need the packages of requirements.txt ------------------------------------------------------


async def asgi_app(scope, receive, send):
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def serve_uvicorn(loop, http, sockets=None):
    import uvicorn

    # Without the header that tells the time, because every byte of an answer is known beforehand.
    config = uvicorn.Config(
        asgi_app, port=0, http=http, ws="none", lifespan="off", log_level="warning", access_log=False, date_header=False
    )
    server = uvicorn.Server(config)
    task = loop.create_task(server.serve(sockets))
    while not server.started:
        await asyncio.sleep(0.01)
    return task, tcp_address(server.servers[0].sockets[0])


@server("uvicorn-httptools")
async def uvicorn_httptools_server(loop, scratch):
    return await serve_uvicorn(loop, "httptools")


@server("uvicorn-h11")
async def uvicorn_h11_server(loop, scratch):
    return await serve_uvicorn(loop, "h11")


@server("uvicorn-shared")
async def shared_uvicorn_server(loop, scratch):
    """One of several workers, each with a listening socket of its own on one port."""
    listener = socket.create_server(("127.0.0.1", shared_port(scratch)), backlog=BACKLOG, reuse_port=True)
    return await serve_uvicorn(loop, "httptools", [listener])


@server("aiohttp")
async def aiohttp_server(loop, scratch):
    from aiohttp import web

    async def hello(request):
        return web.Response(text="Hello, world!", headers=AIOHTTP_HEADERS)

    app = web.Application()
    app.add_routes([web.get("/hello", hello)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG).start()
    host, port = runner.addresses[0]
    return runner, {"tcp": f"{host}:{port}"}


@server("websockets")
async def websockets_server(loop, scratch):
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed

    async def echo(connection):
        with contextlib.suppress(ConnectionClosed):  # the load generator just leaves
            async for message in connection:
                await connection.send(message)

    server = await serve(echo, "127.0.0.1", 0)
    return server, {"websocket": tcp_address(server.sockets[0])["tcp"]}


def tcp_address(listener):
    host, port = listener.getsockname()
    return {"tcp": f"{host}:{port}"}


def tls_address(listener):
    return {"tls": tcp_address(listener)["tcp"]}


def main():
    loop_name, server_name, scratch = sys.argv[1:]
    # Asked to end, it ends like any program, which writes what a profiler has counted; run.py just kills it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    kept = []  # the server lives as long as the process

    async def start(loop):
        server, address = await SERVERS[server_name](loop, scratch)
        kept.append(server)
        print(json.dumps(address), flush=True)

    loops.run_forever(loop_name, start)


if __name__ == "__main__":
    main()
