"""Streams, servers and transports."""

import asyncio
import contextlib
import pathlib
import socket
import ssl

from activity import LOCALHOST, Expected, activity, check, ended, pieces, some_bytes, to_the_end, unix_path


async def start_stream_server(soak, rng, handler, **options):
    """A server, and the function that connects to it.

    asyncio forgets a server that serves already if it is cancelled while it makes it.
    """
    if rng.random() < 0.5:
        server = await to_the_end(asyncio.start_server(handler, LOCALHOST, 0, **options), asyncio.Server.close)
        address = server.sockets[0].getsockname()
        return server, lambda **how: asyncio.open_connection(*address, **how)
    path = unix_path(soak, rng)
    server = await to_the_end(asyncio.start_unix_server(handler, path, **options), asyncio.Server.close)
    return server, lambda **how: asyncio.open_unix_connection(path, **how)


def echo_handler(chunk_size):
    async def handler(reader, writer):
        try:
            while data := await reader.read(chunk_size):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the client has gone
        finally:
            writer.close()

    return handler


async def exchange(rng, reader, writer):
    for _ in range(rng.randrange(1, 6)):
        data = some_bytes(rng)
        sending = asyncio.ensure_future(send_all(rng, writer, data))
        try:
            check(await reader.readexactly(len(data)) == data, "another echo")
            await sending
        finally:
            await ended(sending)


async def send_all(rng, writer, data):
    for piece in list(pieces(rng, data)):
        writer.write(piece)
        if rng.random() < 0.5:
            await writer.drain()
    await writer.drain()


@activity
async def echo_over_streams(soak, rng, **options):
    server, connect = await start_stream_server(soak, rng, echo_handler(rng.choice([1000, 65536])), **options)
    writers = []
    whole = False
    try:
        for _ in range(rng.randrange(1, 4)):
            client = {"ssl": soak.client_tls, "server_hostname": "localhost"} if options else {}
            reader, writer = await connect(**client)
            writers.append(writer)
            await exchange(rng, reader, writer)
            if not options and rng.random() < 0.3:
                writer.write_eof()
                check(await reader.read() == b"", "more than the echo")
        whole = True
    finally:
        for writer in writers:
            # Nobody reads the rest of an exchange that was given up: it would wait for ever.
            writer.close() if whole and rng.random() < 0.7 else writer.transport.abort()
        server.close()


@activity
async def echo_over_tls(soak, rng):
    if soak.server_tls is not None:
        await echo_over_streams(soak, rng, ssl=soak.server_tls)


@activity
async def a_server_closed_amid_its_clients(soak, rng):
    server, connect = await start_stream_server(soak, rng, echo_handler(10_000))
    how = rng.choice(["close", "close_clients", "abort_clients", "none"])

    async def client(seed):
        writer = None
        try:
            reader, writer = await connect()
            while True:
                writer.write(seed * 1000)
                await writer.drain()
                data = await reader.read(100_000)
                check(data == seed * len(data), "somebody else's data")
                if not data:
                    break
        except OSError:
            pass
        finally:
            if writer is not None:
                writer.transport.abort()

    clients = [asyncio.ensure_future(client(bytes([number]))) for number in range(rng.randrange(1, 6))]
    try:
        await asyncio.sleep(rng.choice([0, rng.uniform(0, 0.02)]))
        server.close()
        if how in ("close_clients", "abort_clients") and hasattr(server, how):
            getattr(server, how)()
        await asyncio.sleep(rng.choice([0, 0.002]))
    finally:
        server.close()
        await ended(*clients)
    for each in clients:
        if not each.cancelled():
            each.result()


@activity
async def serving_forever(soak, rng):
    server, connect = await start_stream_server(soak, rng, echo_handler(10_000), start_serving=rng.random() < 0.5)
    async with server:
        serving = asyncio.ensure_future(server.serve_forever())
        try:
            await asyncio.sleep(0)
            reader, writer = await connect()
            try:
                await exchange(rng, reader, writer)
            finally:
                writer.transport.abort()
        finally:
            await ended(serving)


# ---- protocols ---------------------------------------------------------------------------------------------------


class Peer(asyncio.Protocol):
    """Collects what comes in; pauses now and then."""

    def __init__(self, rng):
        self.rng = rng
        self.loop = asyncio.get_running_loop()
        self.data = bytearray()
        self.is_lost = False
        self.ended = self.loop.create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        self.transport = None
        self.unwanted = False

    def connection_made(self, transport):
        self.transport = transport
        if self.unwanted:
            transport.abort()

    def connection_lost(self, exc):
        self.is_lost = True
        self.writable.set()
        self.end()

    def abort(self):
        """End the connection, even one that is yet to come."""
        self.unwanted = True
        if self.transport is not None:
            self.transport.abort()

    def end(self):
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data):
        self.data += data
        if self.rng.random() < 0.1:
            self.transport.pause_reading()
            self.loop.call_later(self.rng.choice([0, 0.001]), self.transport.resume_reading)

    def eof_received(self):
        self.end()
        return True

    def pause_writing(self):
        self.writable.clear()

    def resume_writing(self):
        self.writable.set()


class BufferedPeer(Peer, asyncio.BufferedProtocol):
    def __init__(self, rng):
        super().__init__(rng)
        self.buffer = bytearray(rng.choice([100, 4096, 100_000]))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        Peer.data_received(self, memoryview(self.buffer)[:count])


async def connected_peers(soak, rng, stack):
    """Two protocols, connected in one of many ways; the stack has what ends them."""
    loop = soak.loop
    one, other = (rng.choice([Peer, BufferedPeer])(rng) for _ in range(2))
    stack.callback(one.abort)
    stack.callback(other.abort)
    kind = rng.choice(["tcp", "unix", "pair", "accepted"])
    if kind == "pair":
        socks = socket.socketpair()
        for peer, sock in zip((one, other), socks, strict=True):
            stack.callback(close_unless_taken, peer, sock)
        for peer, sock in zip((one, other), socks, strict=True):
            await loop.create_connection(lambda peer=peer: peer, sock=sock)
    elif kind == "accepted":
        with socket.create_server((LOCALHOST, 0)) as listener:
            await loop.create_connection(lambda: one, *listener.getsockname())
            sock, _ = listener.accept()
        stack.callback(close_unless_taken, other, sock)
        await loop.connect_accepted_socket(lambda: other, sock)
    else:
        if kind == "tcp":
            serving = loop.create_server(lambda: other, LOCALHOST, 0)
        else:
            path = unix_path(soak, rng)
            serving = loop.create_unix_server(lambda: other, path)
        server = await to_the_end(serving, asyncio.Server.close)
        try:
            if kind == "tcp":
                await loop.create_connection(lambda: one, *server.sockets[0].getsockname())
            else:
                await loop.create_unix_connection(lambda: one, path)
            while other.transport is None:
                await asyncio.sleep(0)
        finally:
            server.close()
    return one, other


def close_unless_taken(peer, sock):
    if peer.transport is None:
        sock.close()


@activity
async def a_transfer_between_protocols(soak, rng):
    with contextlib.ExitStack() as stack:
        one, other = await connected_peers(soak, rng, stack)
        data = some_bytes(rng, 500_000)
        whole = True
        if rng.random() < 0.3:
            one.transport.set_write_buffer_limits(high=rng.choice([0, 1000]))
        for piece in list(pieces(rng, data)):
            await one.writable.wait()
            if rng.random() < 0.2:
                one.transport.writelines([piece, b"", b""])
            else:
                one.transport.write(piece)
            if rng.random() < 0.02:
                await asyncio.sleep(0)
            if rng.random() < 0.01:
                rng.choice([one, other]).transport.abort()
                whole = False
                break
        if whole and rng.random() < 0.5:
            one.transport.write_eof()
        else:
            one.transport.close()
        await other.ended
        check(data.startswith(other.data), "other data than was sent")
        check(len(other.data) == len(data) or not whole, "less data than was sent")


@activity
async def protocols_that_change_and_fail(soak, rng):
    """A protocol raises somewhere; another one takes the connection over."""
    loop = soak.loop
    where = rng.choice(["connection_made", "data_received", "eof_received", "connection_lost", "factory", "none"])

    class Failing(Peer):
        pass

    def fail(self, *args):
        getattr(Peer, where)(self, *args)
        raise Expected(where)

    if where not in ("factory", "none"):
        setattr(Failing, where, fail)
    peers = []

    def factory():
        if where == "factory":
            raise Expected(where)
        peers.append(Failing(rng))
        return peers[-1]

    server = await to_the_end(loop.create_server(factory, LOCALHOST, 0), asyncio.Server.close)
    client = socket.socket()
    client.setblocking(False)
    try:
        with client:
            await loop.sock_connect(client, server.sockets[0].getsockname())
            await loop.sock_sendall(client, b"first")
            await asyncio.sleep(0.001)
            for peer in peers:
                if peer.transport is not None and not peer.transport.is_closing() and rng.random() < 0.5:
                    peers.append(BufferedPeer(rng))
                    peers[-1].transport = peer.transport
                    peer.transport.set_protocol(peers[-1])
                    break
            with contextlib.suppress(OSError):
                await loop.sock_sendall(client, b"second")
                await asyncio.sleep(0.001)
    finally:
        server.close()
        for peer in peers:
            peer.abort()


@activity
async def sendfile_of_a_transport(soak, rng):
    with contextlib.ExitStack() as stack:
        one, other = await connected_peers(soak, rng, stack)
        if rng.random() < 0.4:  # so that it has to wait
            one.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        file = stack.enter_context(open(soak.file, "rb"))
        offset, count = rng.randrange(1000), rng.choice([None, rng.randrange(1, 100_000)])
        one.transport.write(b"head")
        other.transport.write(b"meanwhile")
        await soak.loop.sendfile(one.transport, file, offset, count)
        while one.data != b"meanwhile":
            await asyncio.sleep(0.0005)
        one.transport.close()
        await other.ended
        check(other.data == b"head" + soak.content[offset:][:count], "another file")


def tls_contexts():
    """Of a server and of its clients, with the certificate of CPython's own tests; None without it."""
    try:
        import test

        certificate = pathlib.Path(test.__file__).parent / "certdata" / "keycert.pem"
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate)
        return server, ssl.create_default_context(cafile=certificate)
    except (ImportError, OSError):
        return None, None
