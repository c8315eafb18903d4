"""Sends requests to a service from a process of its own and compares every byte that comes back.

    load.py CLIENT LOOP PORT

Prints how many answers were right; any wrong one ends it with an exception.
"""

import asyncio
import random
import sys

from support import loop_factory

WORKERS = 10
SIZES = (0, 1, 100, 1000, 10_000, 100_000)


class Payloads:
    """Bytes of many sizes, the same in every run; no two workers send the same."""

    def __init__(self, worker):
        self.random = random.Random(worker)

    def next(self, smallest=0):
        return self.random.randbytes(max(smallest, self.random.choice(SIZES)))

    def next_text(self):
        return "".join(self.random.choices("velodrome äöü €", k=self.random.choice(SIZES[:-1])))


async def work(worker):
    """Run ten of `worker(payloads)` side by side; the sum of what they return."""
    return sum(await asyncio.gather(*(worker(Payloads(number)) for number in range(WORKERS))))


async def http(port, path, requests=60):
    """POST with aiohttp's client, over connections that are kept."""
    import aiohttp

    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def worker(payloads):
            for _ in range(requests):
                payload = payloads.next()
                async with session.post(path, data=payload) as response:
                    assert response.status == 200
                    assert await response.read() == payload
            return requests

        return await work(worker)


async def http_close(port, requests=30):
    """The same with a connection for each request."""
    import aiohttp

    async def worker(payloads):
        for _ in range(requests):
            payload = payloads.next()
            async with (
                aiohttp.ClientSession(headers={"Connection": "close"}) as session,
                session.post(f"http://127.0.0.1:{port}/", data=payload) as response,
            ):
                assert await response.read() == payload
        return requests

    return await work(worker)


async def pipelined(port, requests=200):
    """Plain HTTP/1.1 over asyncio's streams, all requests before the first answer is read."""

    async def worker(payloads):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = [payloads.random.randbytes(payloads.random.randrange(100)) for _ in range(requests)]
        for payload in sent:
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(payload))
            writer.write(payload)
        for payload in sent:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            lines = head.lower().split(b"\r\n")
            lengths = [line.split(b":")[1] for line in lines if line.startswith(b"content-length")]
            assert await reader.readexactly(int(lengths[0])) == payload
        writer.close()
        await writer.wait_closed()
        return requests

    return await work(worker)


async def websocket(port, path, messages=60):
    """Messages of both kinds with the websockets library's client."""
    from websockets.asyncio.client import connect

    async def worker(payloads):
        async with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as connection:
            for _ in range(messages):
                for message in (payloads.next(), payloads.next_text()):
                    await connection.send(message)
                    assert await connection.recv() == message
        return 2 * messages

    return await work(worker)


async def aiohttp_websocket(port, path, messages=60):
    import aiohttp

    async with aiohttp.ClientSession() as session:

        async def worker(payloads):
            async with session.ws_connect(f"http://127.0.0.1:{port}{path}", max_msg_size=0) as connection:
                for _ in range(messages):
                    payload = payloads.next()
                    await connection.send_bytes(payload)
                    assert await connection.receive_bytes() == payload
            return messages

        return await work(worker)


async def anyio_tcp(port, messages=60):
    import anyio

    async def worker(payloads):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            for _ in range(messages):
                payload = payloads.next(smallest=1)
                received = bytearray()
                async with anyio.create_task_group() as group:
                    group.start_soon(stream.send, payload)
                    while len(received) < len(payload):
                        received += await stream.receive()
                assert received == payload
        return messages

    return await work(worker)


async def streams(port, messages=60):
    async def worker(payloads):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(messages):
            payload = payloads.next(smallest=1)
            writer.write(payload)
            assert await reader.readexactly(len(payload)) == payload
        writer.close()
        await writer.wait_closed()
        return messages

    return await work(worker)


CLIENTS = {
    "http": lambda port: http(port, "/"),
    "http-chunked": lambda port: http(port, "/chunked"),
    "http-close": http_close,
    "http-pipelined": pipelined,
    "websocket": lambda port: websocket(port, "/"),
    "websocket-path": lambda port: websocket(port, "/websocket"),
    "aiohttp-websocket": lambda port: aiohttp_websocket(port, "/websocket"),
    "anyio": anyio_tcp,
    "streams": streams,
}

if __name__ == "__main__":
    client, loop_name, port = sys.argv[1:]
    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        print(runner.run(CLIENTS[client](int(port))))
