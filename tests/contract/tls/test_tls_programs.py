"""Other people's TLS: `openssl s_client`, `openssl s_server` and `curl`, each a child that talks by loopback."""

import asyncio
import os
import shutil
import ssl

import pytest
from checker import LARGE, Recorder, polled

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
ALLOW_CLIENT_RENEGOTIATION = 1 << 8  # SSL_OP_ALLOW_CLIENT_RENEGOTIATION of OpenSSL 3


class Program:
    """A child, and all that it has said."""

    def __init__(self, process):
        self.process = process
        self.output = b""

    async def read(self):
        chunk = await self.process.stdout.read(1 << 20)
        self.output += chunk
        return chunk

    async def said(self, text):
        while text not in self.output:
            assert await self.read(), self.output[-5000:]

    async def tell(self, text):
        self.process.stdin.write(text)
        await self.process.stdin.drain()

    async def end(self):
        """Close its input and read on to the end: its status."""
        self.process.stdin.close()
        while await self.read():
            pass
        return await self.process.wait()


@pytest.fixture
def run(loop):
    """Starts programs; what has not ended with the test is killed."""
    programs = []

    async def start(*command):
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},  # a sanitizer's
        )
        programs.append(Program(process))
        return programs[-1]

    yield start

    async def kill_all():
        for program in programs:
            if program.process.returncode is None:
                program.process.kill()
            await program.end()

    loop.run_until_complete(kill_all())


# --- programs that connect ------------------------------------------------------------------------


@pytest.fixture
def serve(loop):
    """Starts a server that answers each line: its address, and the connections that it had."""
    opened = []

    class Answering(Recorder):
        def data_received(self, data):
            super().data_received(data)
            while b"\n" in self.data:
                line, _, rest = bytes(self.data).partition(b"\n")
                self.data = bytearray(rest)
                self.transport.write(b"answer to " + line + b"\n")

    async def start(context):
        connections = []

        def factory():
            connections.append(Answering())
            return connections[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context)
        opened.append(server)
        return "%s:%d" % server.sockets[0].getsockname(), connections

    yield start

    async def close_all():
        for server in opened:
            server.close()
            await server.wait_closed()

    loop.run_until_complete(close_all())


def s_client(address, certificates, *options):
    command = ["openssl", "s_client", "-connect", address, "-CAfile", certificates.authority]
    return [*command, "-verify_return_error", "-verify_hostname", "localhost", "-servername", "localhost", *options]


@pytest.mark.parametrize("client_certificate", [False, True], ids=["anonymous", "with a certificate"])
@pytest.mark.parametrize("key", ["rsa", "ecdsa"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_s_client_is_served(loop, run, serve, certificates, version, key, client_certificate):
    context = certificates.server_context(getattr(certificates, key))
    options = ["-tls" + version.replace(".", "_")]
    if client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.authority)
        options += ["-cert", certificates.client, "-key", certificates.client]
    address, connections = await serve(context)
    program = await run(*s_client(address, certificates, *options))
    for number in range(3):
        await program.tell(b"line %d\n" % number)
        await program.said(b"answer to line %d\n" % number)
    assert await program.end() == 0
    (connection,) = connections
    assert await connection.lost is None
    assert connection.transport.get_extra_info("ssl_object").version() == "TLSv" + version
    subject = (connection.transport.get_extra_info("peercert") or {}).get("subject")
    assert subject == (((("commonName", "client"),),) if client_certificate else None)


async def test_s_client_is_sent_much(loop, run, certificates):
    async def handler(reader, writer):
        writer.write(await reader.readline())
        writer.write(much)
        await writer.drain()
        writer.close()

    much = LARGE.hex().encode()[: 4 << 20] + b"\n"
    async with await asyncio.start_server(handler, "127.0.0.1", 0, ssl=certificates.server_context()) as server:
        program = await run(*s_client("%s:%d" % server.sockets[0].getsockname(), certificates, "-quiet"))
        await program.tell(b"begin\n")
        await program.said(much)
        await program.end()


async def test_s_client_sends_much(loop, run, certificates):
    async def handler(reader, writer):
        received.append(await reader.readexactly(len(much)))
        writer.write(b"got it\n")
        await writer.drain()
        writer.close()

    received = []
    much = LARGE.hex().encode()[: 4 << 20]
    async with await asyncio.start_server(handler, "127.0.0.1", 0, ssl=certificates.server_context()) as server:
        program = await run(*s_client("%s:%d" % server.sockets[0].getsockname(), certificates, "-quiet"))
        await program.tell(much)
        await program.said(b"got it\n")
        await program.end()
    assert received == [much]


@pytest.mark.parametrize("version", VERSIONS)
async def test_s_client_resumes_its_session(loop, run, serve, certificates, version, tmp_path):
    context = certificates.server_context()
    context.maximum_version = VERSIONS[version]
    address, connections = await serve(context)
    for number, option in enumerate(["-sess_out", "-sess_in"]):
        program = await run(*s_client(address, certificates, option, tmp_path / "session"))
        await program.tell(b"line %d\n" % number)
        await program.said(b"answer to line %d\n" % number)
        await program.end()
        assert (b"\nReused, TLSv" if option == "-sess_in" else b"\nNew, TLSv") + version.encode() in program.output
        await connections[-1].lost
    reused = [each.transport.get_extra_info("ssl_object").session_reused for each in connections]
    assert reused == [False, True]


@pytest.mark.parametrize("letter", ["k", "K"], ids=["its own", "both"])
async def test_s_client_changes_its_keys(loop, run, serve, certificates, letter):
    address, connections = await serve(certificates.server_context())
    program = await run(*s_client(address, certificates, "-tls1_3"))
    for number in range(5):
        await program.tell(b"line %d\n" % number)
        await program.said(b"answer to line %d\n" % number)
        await program.tell(letter.encode() + b"\n")
        while program.output.count(b"KEYUPDATE") <= number:
            assert await program.read()
    await program.tell(b"the last line\n")
    await program.said(b"answer to the last line\n")
    await program.end()
    assert await connections[0].lost is None


async def test_s_client_negotiates_again(loop, run, serve, certificates):
    context = certificates.server_context()
    context.options |= ALLOW_CLIENT_RENEGOTIATION
    address, connections = await serve(context)
    program = await run(*s_client(address, certificates, "-tls1_2"))
    for number in range(3):
        await program.tell(b"line %d\n" % number)
        await program.said(b"answer to line %d\n" % number)
        await program.tell(b"R\n")
        while program.output.count(b"RENEGOTIATING") <= number:
            assert await program.read()
    await program.tell(b"the last line\n")
    await program.said(b"answer to the last line\n")
    await program.end()
    assert await connections[0].lost is None


async def test_s_client_distrusts(loop, run, serve, certificates):
    address, connections = await serve(certificates.server_context(certificates.stranger))
    program = await run(*s_client(address, certificates))
    assert await program.end() != 0
    assert b"verify error" in program.output
    await polled(loop)
    assert connections[0].calls == []


async def test_s_client_is_left(loop, run, serve, certificates):
    """The server ends the connection, and says so."""
    address, connections = await serve(certificates.server_context())
    program = await run(*s_client(address, certificates, "-quiet"))
    await program.tell(b"line\n")
    await program.said(b"answer to line\n")
    connections[0].transport.close()
    assert await connections[0].lost is None
    while await program.read():
        pass
    assert await program.end() == 0


# --- programs that are connected to ---------------------------------------------------------------


async def connect_to_s_server(loop, run, context, certificates, certificate, *options):
    """The program and the protocol of a connection to it."""
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", certificate]
    program = await run(*command, *options)
    address = await listening(program)
    _, protocol = await loop.create_connection(Recorder, *address, ssl=context, server_hostname="localhost")
    return program, protocol


async def listening(program):
    await program.said(b"ACCEPT 127.0.0.1:")
    while b"\n" not in program.output.partition(b"ACCEPT ")[2]:
        await program.read()
    host, _, port = program.output.partition(b"ACCEPT ")[2].partition(b"\n")[0].decode().partition(":")
    return host, int(port)


async def order(program, protocol, letter):
    """Have s_server do something. It takes what comes together for one order, and says so with the next data only."""
    orders, pings = program.output.count(b"SSL_do_handshake ->"), program.output.count(b"ping\n")
    await program.tell(letter + b"\n")
    while program.output.count(b"SSL_do_handshake ->") == orders:
        protocol.transport.write(b"ping\n")
        pings += 1
        while program.output.count(b"ping\n") < pings:
            assert await program.read(), program.output[-5000:]


@pytest.mark.parametrize("client_certificate", [False, True], ids=["anonymous", "with a certificate"])
@pytest.mark.parametrize("key", ["rsa", "ecdsa"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_s_server_is_a_server(loop, run, certificates, version, key, client_certificate):
    context = certificates.client_context(certificates.client if client_certificate else None)
    options = ["-tls" + version.replace(".", "_"), "-naccept", "1"]
    if client_certificate:
        options += ["-CAfile", certificates.authority, "-Verify", "1", "-verify_return_error"]
    program, protocol = await connect_to_s_server(
        loop, run, context, certificates, getattr(certificates, key), *options
    )
    assert protocol.transport.get_extra_info("ssl_object").version() == "TLSv" + version
    assert protocol.transport.get_extra_info("peercert")["subject"] == ((("commonName", key),),)
    protocol.transport.write(b"from the client\n")
    await program.said(b"from the client\n")
    await program.tell(b"from the server\n")
    assert await protocol.received(16) == b"from the server\n"
    if client_certificate:
        assert b"CN = client" in program.output or b"CN=client" in program.output
    protocol.transport.close()
    await program.end()
    await protocol.lost


async def test_s_server_receives_much(loop, run, certificates):
    program, protocol = await connect_to_s_server(
        loop, run, certificates.client_context(), certificates, certificates.ecdsa, "-naccept", "1"
    )
    much = LARGE.hex().encode()[: 4 << 20]
    protocol.transport.write(much)
    await program.said(much)
    protocol.transport.close()
    await program.end()
    await protocol.lost


async def test_s_server_sends_much_and_leaves(loop, run, certificates, tmp_path):
    (tmp_path / "page").write_bytes(LARGE)
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-WWW", "-naccept", "1"]
    command += ["-cert", certificates.rsa, "-key", certificates.rsa]
    program = await run("sh", "-c", f"cd '{tmp_path}' && exec \"$@\"", "sh", *command)
    address = await listening(program)
    reader, writer = await asyncio.open_connection(
        *address, ssl=certificates.client_context(), server_hostname="localhost"
    )
    writer.write(b"GET /page HTTP/1.0\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ok")
    assert await reader.read() == LARGE
    writer.close()
    await writer.wait_closed()
    await program.end()


@pytest.mark.parametrize("letter", ["k", "K"], ids=["its own", "both"])
async def test_s_server_changes_its_keys(loop, run, certificates, letter):
    program, protocol = await connect_to_s_server(
        loop, run, certificates.client_context(), certificates, certificates.ecdsa, "-tls1_3", "-naccept", "1"
    )
    for number in range(5):
        protocol.transport.write(b"from the client %d\n" % number)
        await program.said(b"from the client %d\n" % number)
        await order(program, protocol, letter.encode())
        await program.tell(b"from the server %d\n" % number)
        assert await protocol.received(18 * (number + 1))
    assert protocol.data == b"".join(b"from the server %d\n" % number for number in range(5))
    protocol.transport.write(b"goodbye\n")
    await program.said(b"goodbye\n")
    protocol.transport.close()
    await program.end()
    await protocol.lost


async def test_s_server_negotiates_again(loop, run, certificates):
    """What is written in the meantime may have to wait for the server's answer."""
    program, protocol = await connect_to_s_server(
        loop, run, certificates.client_context(), certificates, certificates.ecdsa, "-tls1_2", "-naccept", "1"
    )
    for number in range(3):
        protocol.transport.write(b"from the client %d\n" % number)
        await program.said(b"from the client %d\n" % number)
        await order(program, protocol, b"r")
        for _ in range(100):
            protocol.transport.write(b"x" * 1000)
            await asyncio.sleep(0)
        protocol.transport.write(b"\n%d has been written\n" % number)
        await program.said(b"\n%d has been written\n" % number)
        await program.tell(b"from the server %d\n" % number)
        assert await protocol.received(18 * (number + 1))
    protocol.transport.close()
    await program.end()
    await protocol.lost


async def test_s_server_asks_for_a_certificate_later(loop, run, certificates):
    context = certificates.client_context(certificates.client)
    context.post_handshake_auth = True
    options = ["-tls1_3", "-naccept", "1", "-CAfile", certificates.authority]
    program, protocol = await connect_to_s_server(loop, run, context, certificates, certificates.ecdsa, *options)
    await order(program, protocol, b"c")
    # Each OpenSSL writes a name in its own way. What is written now may overtake the answer.
    protocol.transport.write(b"from the client\n")
    await program.said(b"from the client\n")
    while b"CN = client" not in program.output and b"CN=client" not in program.output:
        assert await program.read(), program.output[-5000:]
    protocol.transport.close()
    await program.end()
    await protocol.lost


async def test_s_server_is_killed(loop, run, certificates):
    program, protocol = await connect_to_s_server(
        loop, run, certificates.client_context(), certificates, certificates.ecdsa
    )
    program.process.kill()
    exc = await protocol.lost
    assert exc is None or isinstance(exc, ConnectionResetError)


# --- curl -----------------------------------------------------------------------------------------


async def http(reader, writer):
    """Answers one request: a POST with the size of what came, a GET with much."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"POST"):
        (size,) = (int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length:"))
        if b"100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(size)
        answer = b"%d bytes, as they were" % size if body == LARGE[:size] else b"others"
    else:
        answer = LARGE
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(answer))
    writer.write(answer)
    await writer.drain()
    writer.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_curl_is_served(loop, run, certificates, method, version, tmp_path):
    context = certificates.server_context(certificates.rsa)
    context.maximum_version = VERSIONS[version]
    body, output = tmp_path / "body", tmp_path / "output"
    body.write_bytes(LARGE[: 3 << 20])
    async with await asyncio.start_server(http, "127.0.0.1", 0, ssl=context) as server:
        url = "https://%s:%d/" % server.sockets[0].getsockname()
        options = ["--data-binary", f"@{body}"] if method == "POST" else []
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--output", output]
        program = await run(*command, "--cacert", certificates.authority, *options, url)
        assert await program.end() == 0, program.output
    assert output.read_bytes() == (LARGE if method == "GET" else b"%d bytes, as they were" % (3 << 20))


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_curl_distrusts(loop, run, certificates):
    context = certificates.server_context(certificates.stranger)
    async with await asyncio.start_server(http, "127.0.0.1", 0, ssl=context) as server:
        url = "https://%s:%d/" % server.sockets[0].getsockname()
        program = await run("curl", "--silent", "--noproxy", "*", "--cacert", certificates.authority, url)
        assert await program.end() == 60  # CURLE_PEER_FAILED_VERIFICATION
