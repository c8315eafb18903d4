"""The other end of a TLS connection, driven by hand, and TLS streams of every kind to try protocols on."""

import asyncio
import contextlib
import socket
import ssl

from checker import BufferedRecorder, connect_stream

# A client by TCP, a server by TCP, a client over a Unix socket that speaks TLS 1.2, a client and a server that
# began without TLS.
TLS_KINDS = ("client", "server", "unix", "upgraded", "upgraded server")
SERVER_KINDS = ("server", "upgraded server")


class ViewRecorder(BufferedRecorder):
    """Its buffer is a view: asyncio's TLS fills parts of what it gets, and parts of a bytearray are copies."""

    def get_buffer(self, sizehint):
        return memoryview(self.buffer)


class Wire:
    """A non-blocking socket, as what TLS runs over."""

    def __init__(self, loop, sock):
        self.loop = loop
        self.sock = sock

    async def send(self, data):
        await self.loop.sock_sendall(self.sock, data)

    async def receive(self, count=1 << 18):
        return await self.loop.sock_recv(self.sock, count)

    def close(self):
        self.sock.close()


class TlsPeer:
    """One end of a TLS connection over a wire, which may be a TlsPeer, too.

    What a call has to send has been sent when it returns; nothing is read that no call waits for.
    """

    def __init__(self, wire, context, server_side=False, server_hostname=None, session=None):
        self.wire = wire
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_side, server_hostname, session)

    @property
    def sock(self):
        return self.wire.sock

    async def _finish(self, function, *args):
        """Call the function until it needs no more of the other side."""
        while True:
            try:
                result = function(*args)
            except ssl.SSLWantReadError:
                await self.flush()
                await self.feed()
            except ssl.SSLError:
                with contextlib.suppress(ConnectionError):
                    await self.flush()  # the alert
                raise
            else:
                await self.flush()
                return result

    async def flush(self):
        if data := self.outgoing.read():
            await self.wire.send(data)

    async def feed(self):
        if data := await self.wire.receive():
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    async def handshake(self):
        await self._finish(self.ssl.do_handshake)

    async def send(self, data):
        view = memoryview(data)
        # So that records go out while there is room for them, and not all at once.
        for start in range(0, len(view), 1 << 16):
            await self._finish(self.ssl.write, view[start : start + (1 << 16)])

    async def receive(self, count=1 << 18):
        """Some data; nothing is the end that the other side announced, and one that it did not is an SSLEOFError."""
        try:
            return await self._finish(self.ssl.read, count)
        except ssl.SSLZeroReturnError:
            return b""  # what SSLObject says instead once close_notify() has been called

    async def receive_exactly(self, count):
        data = bytearray()
        while len(data) < count:
            chunk = await self.receive(count - len(data))
            assert chunk, f"end of stream after {len(data)} of {count} bytes"
            data += chunk
        return bytes(data)

    async def receive_all(self):
        data = bytearray()
        while chunk := await self.receive():
            data += chunk
        return bytes(data)

    async def close_notify(self):
        """Say that no more will come."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.unwrap()
        await self.flush()

    async def unwrap(self):
        """Say that no more will come, and wait until the other side has said the same."""
        await self._finish(self.ssl.unwrap)

    def close(self):
        self.wire.close()


async def connect_tls(loop, kind, protocol, certificates, receive_buffer=None, **options):
    """Open a TLS stream of `kind`: (transport, protocol, the TlsPeer)."""
    is_server = kind in SERVER_KINDS
    server_context = certificates.server_context()
    client_context = certificates.client_context()
    if kind == "unix":
        client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    ours, theirs = (server_context, client_context) if is_server else (client_context, server_context)
    names = {} if is_server else {"server_hostname": "localhost"}

    def make_peer(sock):
        sock.setblocking(False)
        return TlsPeer(Wire(loop, sock), theirs, not is_server, "localhost" if is_server else None)

    if kind == "server":
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=ours, **options)
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        peer = make_peer(sock)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        await peer.handshake()
        transport = await protocol.made
        server.close()
        return transport, protocol, peer

    if kind.startswith("upgraded"):
        plain, _, sock = await connect_stream(
            loop, "accepted" if is_server else "tcp", protocol, receive_buffer=receive_buffer
        )
        peer = make_peer(sock)
        upgrading = loop.start_tls(plain, protocol, ours, server_side=is_server, **names, **options)
        protocol.transport, _ = await asyncio.gather(upgrading, peer.handshake())
        return protocol.transport, protocol, peer

    if kind == "unix":
        one, other = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            if receive_buffer:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            one = socket.create_connection(listener.getsockname())
            other, _ = listener.accept()
    if receive_buffer:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    peer = make_peer(other)
    connecting = loop.create_connection(lambda: protocol, sock=one, ssl=ours, **names, **options)
    (transport, _), _ = await asyncio.gather(connecting, peer.handshake())
    return transport, protocol, peer


async def receive_all_there_is(peer):
    """What comes before the end, whether or not that is announced, and whether it was."""
    data = bytearray()
    try:
        while chunk := await peer.receive():
            data += chunk
    except (ssl.SSLEOFError, ConnectionResetError):
        return bytes(data), False
    return bytes(data), True
