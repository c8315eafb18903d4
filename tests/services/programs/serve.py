"""Serves one of the frameworks on the loop of the given name until its input ends.

    serve.py SERVICE LOOP [CERTIFICATES]

With a folder of certificates it speaks TLS. Prints the port when it is ready. Each service answers with the bytes
that it was sent.
"""

import asyncio
import contextlib
import functools
import hashlib
import socket
import sys
import threading
from pathlib import Path

import fake_postgresql
from certificates import Certificates
from support import loop_factory


async def input_ended():
    """Wait for the end of standard input: the test that started us is done with us, or is dead."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    # A thread of its own, so that no service is tested together with a pipe on its loop.
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set_result, None))).start()
    await ended


def ready(port):
    print(port, flush=True)


def context_of(certificates):
    """What asyncio's `ssl=` and its kin take: None is a service without TLS."""
    return certificates.server_context() if certificates else None


# --- uvicorn --------------------------------------------------------------------------------------


async def asgi_app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            echoed = {key: value for key, value in message.items() if key in ("text", "bytes") and value is not None}
            await send({"type": "websocket.send", **echoed})
        return
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-type", b"application/octet-stream")]
    if scope["path"] == "/chunked":
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, len(body), 1000):
            await send({"type": "http.response.body", "body": bytes(body[start : start + 1000]), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(body)})


def uvicorn_service(http):
    async def serve(certificates):
        import uvicorn

        certificate = certificates.ecdsa if certificates else None
        config = uvicorn.Config(
            asgi_app, port=0, http=http, log_level="warning", access_log=False, ssl_certfile=certificate
        )
        server = uvicorn.Server(config)
        # Its own signal handling stays away: the end of the input ends this service.
        serving = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        ready(server.servers[0].sockets[0].getsockname()[1])
        await input_ended()
        server.should_exit = True
        await serving

    return serve


# --- hypercorn, for HTTP/2 ------------------------------------------------------------------------


async def hypercorn_service(certificates):
    import hypercorn.asyncio

    listener = socket.create_server(("127.0.0.1", 0))
    config = hypercorn.Config()
    config.loglevel = "WARNING"
    config.certfile = config.keyfile = certificates.ecdsa
    ready(listener.getsockname()[1])
    config.bind = f"fd://{listener.detach()}"
    await hypercorn.asyncio.serve(asgi_app, config, shutdown_trigger=input_ended)


# --- aiohttp --------------------------------------------------------------------------------------


async def aiohttp_service(certificates):
    await serve_aiohttp(context_of(certificates))


async def aiohttp_mutual_service(certificates):
    await serve_aiohttp(certificates.mutual_server_context())


async def serve_aiohttp(context):
    from aiohttp import WSMsgType, web

    async def plain(request):
        return web.Response(body=await request.read())

    async def chunked(request):
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_chunked(1000):
            await response.write(chunk)
        await response.write_eof()
        return response

    async def websocket(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            else:
                await socket.send_str(message.data)
        return socket

    async def client_certificate(request):
        return web.json_response(request.get_extra_info("peercert"))

    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.post("/", plain), web.post("/chunked", chunked), web.get("/websocket", websocket)])
    app.add_routes([web.get("/client-certificate", client_certificate)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    ready(runner.addresses[0][1])
    await input_ended()
    await runner.cleanup()


# --- websockets -----------------------------------------------------------------------------------


async def websockets_service(certificates):
    from websockets.asyncio.server import serve

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, max_size=None, ssl=context_of(certificates)) as server:
        ready(server.sockets[0].getsockname()[1])
        await input_ended()


# --- anyio ----------------------------------------------------------------------------------------


async def anyio_service(certificates):
    import anyio
    from anyio.streams.tls import TLSListener

    async def echo(stream):
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    if certificates:
        listener = TLSListener(listener, certificates.server_context())
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        ready(port)
        await input_ended()
        group.cancel_scope.cancel()


# --- asyncio's own streams ------------------------------------------------------------------------


async def streams_service(certificates):
    async def echo(reader, writer):
        with contextlib.suppress(ConnectionError):
            try:
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            finally:
                writer.close()
                # Or the collector may find the error of the connection before the streams, and tell of it.
                await writer.wait_closed()

    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context_of(certificates)) as server:
        ready(server.sockets[0].getsockname()[1])
        await input_ended()


# --- protocols that begin without TLS ------------------------------------------------------------


async def postgresql_service(certificates):
    session = functools.partial(fake_postgresql.session, context=context_of(certificates))
    async with await asyncio.start_server(session, "127.0.0.1", 0) as server:
        ready(server.sockets[0].getsockname()[1])
        await input_ended()


async def smtp_service(certificates):
    from aiosmtpd.smtp import SMTP

    class Handler:
        async def handle_DATA(self, server, session, envelope):
            assert session.ssl
            return f"250 {hashlib.sha256(envelope.content).hexdigest()}"

    loop = asyncio.get_running_loop()

    def make_protocol():
        context = certificates.server_context()
        return SMTP(Handler(), hostname="localhost", tls_context=context, require_starttls=True, loop=loop)

    server = await loop.create_server(make_protocol, "127.0.0.1", 0)
    ready(server.sockets[0].getsockname()[1])
    await input_ended()
    server.close()


SERVICES = {
    "uvicorn-h11": uvicorn_service("h11"),
    "uvicorn-httptools": uvicorn_service("httptools"),
    "hypercorn": hypercorn_service,
    "aiohttp": aiohttp_service,
    "aiohttp-mutual": aiohttp_mutual_service,
    "websockets": websockets_service,
    "anyio": anyio_service,
    "streams": streams_service,
    "postgresql": postgresql_service,
    "smtp": smtp_service,
}

if __name__ == "__main__":
    service, loop_name, *folder = sys.argv[1:]
    certificates = Certificates(Path(*folder)) if folder else None
    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        runner.run(SERVICES[service](certificates))
