"""Sockets with methods of their own: whatever the transport is, asyncio's or native, it calls them."""

import asyncio
import socket

import pytest
from checker import Recorder, receive_exactly
from support import run_child


class Shouting(socket.socket):
    """Says everything loudly."""

    def recv(self, *args):
        return super().recv(*args).upper()

    def recvfrom(self, *args):
        data, address = super().recvfrom(*args)
        return data.upper(), address

    def send(self, data, *args):
        return super().send(bytes(data).upper(), *args)

    def sendmsg(self, buffers, *args):
        return super().sendmsg([bytes(each).upper() for each in buffers], *args)

    def sendto(self, data, *args):
        return super().sendto(bytes(data).upper(), *args)


class Tracked(socket.socket):
    """Knows who came."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.came = []

    def accept(self):
        sock, address = super().accept()
        self.came.append(address)
        return sock, address


def shouting(sock):
    return Shouting(sock.family, sock.type, sock.proto, fileno=sock.detach())


async def test_a_transport_receives_and_sends_by_the_sockets_methods(loop, socket_pair):
    one, other = socket_pair
    transport, protocol = await loop.create_connection(Recorder, sock=shouting(one))
    other.send(b"question")
    assert await protocol.received(8) == b"QUESTION"
    transport.write(b"answer")
    transport.writelines([b"and", b"more"])
    assert await receive_exactly(loop, other, 13) == b"ANSWERANDMORE"
    payload = b"x" * 1_000_000
    transport.write(payload)
    transport.close()
    assert await receive_exactly(loop, other, len(payload)) == payload.upper()
    assert await protocol.lost is None


async def test_a_stream_writer_over_such_a_socket(loop, socket_pair):
    one, other = socket_pair
    reader, writer = await asyncio.open_connection(sock=shouting(one))
    other.send(b"line\n")
    assert await reader.readline() == b"LINE\n"
    writer.write(b"answer")
    await writer.drain()
    assert await receive_exactly(loop, other, 6) == b"ANSWER"
    writer.close()
    await writer.wait_closed()


async def test_a_server_accepts_by_the_sockets_method(loop):
    accepted = []

    def factory():
        accepted.append(Recorder())
        return accepted[-1]

    listener = Tracked()
    listener.bind(("127.0.0.1", 0))
    async with await loop.create_server(factory, sock=listener) as server:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        while len(accepted) < 3:
            await asyncio.sleep(0)
        assert sorted(listener.came) == sorted(client.getsockname() for client in clients)
        for client in clients:
            client.send(b"hello")
            client.close()
        for protocol in accepted:
            assert await protocol.received(5) == b"hello"
            await protocol.lost
        server.close()
        await server.wait_closed()
    assert listener.fileno() == -1


@pytest.mark.parametrize("connected", [True, False])
async def test_a_datagram_endpoint_receives_and_sends_by_the_sockets_methods(loop, connected):
    class Datagrams(Recorder):
        def datagram_received(self, data, address):
            self.data += data
            self.note("datagram_received")

    with socket.socket(type=socket.SOCK_DGRAM) as peer, socket.socket(type=socket.SOCK_DGRAM) as sock:
        for each in (peer, sock):
            each.bind(("127.0.0.1", 0))
            each.setblocking(False)
        address = sock.getsockname()
        if connected:
            sock.connect(peer.getsockname())
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=shouting(sock))
        peer.sendto(b"question", address)
        assert await protocol.received(8) == b"QUESTION"
        transport.sendto(b"answer", None if connected else peer.getsockname())
        assert await loop.sock_recv(peer, 10) == b"ANSWER"
        transport.close()
        await protocol.lost


def test_a_class_of_sockets_that_was_replaced_before_the_first_loop_has_its_own_way(loop_name):
    code = """
        import asyncio, socket

        class Socket(socket.socket):
            def recv(self, *arguments):
                return super().recv(*arguments).upper()

        socket.socket = Socket
        loop = new_event_loop()

        async def main():
            one, other = socket.socketpair()
            with one, other:
                one = Socket(fileno=one.detach())
                with one:
                    one.setblocking(False)
                    other.send(b"abc")
                    print(await loop.sock_recv(one, 10))

        loop.run_until_complete(main())
        loop.close()
    """
    assert run_child(loop_name, code).stdout == "b'ABC'\n"


async def test_a_method_that_was_put_on_pythons_class_is_called(loop, socket_pair, monkeypatch):
    one, other = socket_pair
    monkeypatch.setattr(socket.socket, "recv", lambda self, count: socket.SocketType.recv(self, count).upper())
    other.send(b"abc")
    assert await loop.sock_recv(one, 10) == b"ABC"
