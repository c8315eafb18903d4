"""Sends requests to a service from a process of its own and compares every byte that comes back.

    load.py CLIENT LOOP PORT [CERTIFICATES]

With a folder of certificates it speaks TLS. Prints how many answers were right; any wrong one ends it with an
exception.
"""

import asyncio
import hashlib
import random
import sys
from pathlib import Path

from certificates import Certificates
from support import loop_factory

WORKERS = 10
SIZES = (0, 1, 100, 1000, 10_000, 100_000)


class Service:
    """Where the service is, and how to speak with it: `context` is None without TLS."""

    def __init__(self, port, certificates):
        self.address = "127.0.0.1", port
        self.certificates = certificates
        self.context = certificates.client_context() if certificates else None

    def url(self, scheme, path=""):
        """`scheme` is that without TLS."""
        host, port = self.address
        return f"{scheme}{'s' if self.context else ''}://{host}:{port}{path}"


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


def aiohttp_session(service, **options):
    import aiohttp

    # True is what aiohttp does by itself.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=service.context or True), **options)


async def http(service, path, requests=60):
    """POST with aiohttp's client, over connections that are kept."""
    import aiohttp

    connections = []

    async def count(*event):
        connections.append(event)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(count)
    async with aiohttp_session(service, base_url=service.url("http"), trace_configs=[trace]) as session:

        async def worker(payloads):
            for _ in range(requests):
                payload = payloads.next()
                async with session.post(path, data=payload) as response:
                    assert response.status == 200
                    assert await response.read() == payload
            return requests

        answers = await work(worker)
    assert len(connections) <= WORKERS
    return answers


async def http_large(service, megabytes=8):
    """Upload and download at once: the answer begins before the request has ended, and neither is kept whole."""

    async def worker(payloads):
        sent, received = hashlib.sha256(), hashlib.sha256()

        async def upload():
            left = megabytes << 20
            while left:
                piece = payloads.next(smallest=1)[:left]
                sent.update(piece)
                left -= len(piece)
                yield piece

        async with session.post("/chunked", data=upload()) as response:
            async for piece in response.content.iter_any():
                received.update(piece)
        assert received.digest() == sent.digest()
        return 1

    async with aiohttp_session(service, base_url=service.url("http")) as session:
        return await work(worker)


async def http_whole(service, megabytes=16):
    """One large body at once, there and back."""
    payload = Payloads(0).random.randbytes(megabytes << 20)
    async with (
        aiohttp_session(service, base_url=service.url("http")) as session,
        session.post("/", data=payload) as response,
    ):
        assert await response.read() == payload
        return 1


async def http_mutual(service):
    """With a certificate of our own; without one, or with one of a stranger, there is no answer."""
    import aiohttp

    async def ask(certificate):
        service.context = service.certificates.client_context(certificate)
        async with (
            aiohttp_session(service) as session,
            session.get(service.url("http", "/client-certificate")) as response,
        ):
            return await response.json()

    answer = await ask(service.certificates.client)
    assert answer["subject"] == [[["commonName", "client"]]]
    for certificate in None, service.certificates.stranger:
        try:
            await ask(certificate)
        except aiohttp.ClientError:
            pass  # in TLS 1.3 the handshake is over for us when the server refuses
        else:
            raise AssertionError("the server took a client that it does not know")
    return 1


async def httpx_client(service, version="HTTP/1.1", requests=60):
    """POST with httpx, whose TLS is anyio's; in HTTP/2 all requests share one connection."""
    import httpx

    async with httpx.AsyncClient(
        base_url=service.url("http"), verify=service.context, http2=version == "HTTP/2", trust_env=False, timeout=60
    ) as client:

        async def worker(payloads):
            for _ in range(requests):
                payload = payloads.next()
                response = await client.post("/", content=payload)
                assert response.http_version == version
                assert response.content == payload
            return requests

        return await work(worker)


async def http_close(service, requests=30):
    """A connection for each request."""
    async def worker(payloads):
        for _ in range(requests):
            payload = payloads.next()
            async with (
                aiohttp_session(service, headers={"Connection": "close"}) as session,
                session.post(service.url("http", "/"), data=payload) as response,
            ):
                assert await response.read() == payload
        return requests

    return await work(worker)


async def pipelined(service, requests=200):
    """Plain HTTP/1.1 over asyncio's streams, all requests before the first answer is read."""

    async def worker(payloads):
        reader, writer = await asyncio.open_connection(*service.address, ssl=service.context)
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


async def websocket(service, path, messages=60):
    """Messages of both kinds with the websockets library's client."""
    from websockets.asyncio.client import connect

    async def worker(payloads):
        options = {"ssl": service.context} if service.context else {}
        async with connect(service.url("ws", path), max_size=None, proxy=None, **options) as connection:
            for _ in range(messages):
                for message in (payloads.next(), payloads.next_text()):
                    await connection.send(message)
                    assert await connection.recv() == message
        return 2 * messages

    return await work(worker)


async def aiohttp_websocket(service, path, messages=60):
    async with aiohttp_session(service) as session:

        async def worker(payloads):
            async with session.ws_connect(service.url("http", path), max_msg_size=0) as connection:
                for _ in range(messages):
                    payload = payloads.next()
                    await connection.send_bytes(payload)
                    assert await connection.receive_bytes() == payload
            return messages

        return await work(worker)


async def anyio_tcp(service, messages=60):
    import anyio

    async def worker(payloads):
        async with await anyio.connect_tcp(*service.address, ssl_context=service.context) as stream:
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


async def streams(service, messages=60):
    async def worker(payloads):
        reader, writer = await asyncio.open_connection(*service.address, ssl=service.context)
        for _ in range(messages):
            payload = payloads.next(smallest=1)
            writer.write(payload)
            assert await reader.readexactly(len(payload)) == payload
        writer.close()
        await writer.wait_closed()
        return messages

    return await work(worker)


async def asyncpg_client(service, statements=60):
    """Connections that begin without TLS."""
    import asyncpg

    host, port = service.address

    async def worker(payloads):
        connection = await asyncpg.connect(host=host, port=port, user="nobody", database="none", ssl=service.context)
        assert await connection.fetchval("SELECT 1") == 1
        for _ in range(statements):
            payload = payloads.next()
            assert await connection.fetchval("SELECT $1::bytea", payload) == payload
        await connection.close()
        return statements + 1

    return await work(worker)


def mail(payloads):
    """A message of many lines, and what a server receives that computes its digest."""
    lines = payloads.random.randbytes(payloads.random.choice(SIZES)).hex("\n", -32).encode().splitlines()
    text = b"\r\n".join([b"Subject: TLS", b"", *lines, b""])
    return text, hashlib.sha256(text).hexdigest()


async def aiosmtplib_client(service, messages=20):
    import aiosmtplib

    host, port = service.address

    async def worker(payloads):
        for _ in range(messages):
            text, digest = mail(payloads)
            async with aiosmtplib.SMTP(hostname=host, port=port, start_tls=True, tls_context=service.context) as client:
                _, answer = await client.sendmail("a@example.org", ["b@example.org"], text)
                assert answer == digest
        return messages

    return await work(worker)


async def smtplib_client(service, messages=20):
    """The standard library's, which blocks."""
    import smtplib

    def send(text):
        with smtplib.SMTP(*service.address, local_hostname="localhost") as client:
            client.starttls(context=service.context)
            client.ehlo()
            client.mail("a@example.org")
            client.rcpt("b@example.org")
            return client.data(text)

    async def worker(payloads):
        for _ in range(messages):
            text, digest = mail(payloads)
            assert await asyncio.to_thread(send, text) == (250, digest.encode())
        return messages

    return await work(worker)


CLIENTS = {
    "http": lambda service: http(service, "/"),
    "http-chunked": lambda service: http(service, "/chunked"),
    "http-close": http_close,
    "http-large": http_large,
    "http-whole": http_whole,
    "http-mutual": http_mutual,
    "http-pipelined": pipelined,
    "httpx": httpx_client,
    "httpx-http2": lambda service: httpx_client(service, "HTTP/2"),
    "websocket": lambda service: websocket(service, "/"),
    "websocket-path": lambda service: websocket(service, "/websocket"),
    "aiohttp-websocket": lambda service: aiohttp_websocket(service, "/websocket"),
    "anyio": anyio_tcp,
    "streams": streams,
    "asyncpg": asyncpg_client,
    "aiosmtplib": aiosmtplib_client,
    "smtplib": smtplib_client,
}

if __name__ == "__main__":
    client, loop_name, port, *folder = sys.argv[1:]
    certificates = Certificates(Path(*folder)) if folder else None
    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        print(runner.run(CLIENTS[client](Service(int(port), certificates))))
