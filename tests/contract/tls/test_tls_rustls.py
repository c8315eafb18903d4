"""rustls, a TLS that has nothing of OpenSSL in it, at the other end.

The client is the benchmark's load generator: it compares every byte that comes back, and fails if a handshake is not of
the kind it should be or if the server ends a connection without close_notify. The server echoes, and tells of each
connection how it has ended. Neither looks at who signed a certificate; rustls has no say in whether ours does.
"""

import asyncio
import json
import shutil
import ssl
import subprocess

import pytest
from checker import BufferedRecorder, Recorder
from support import TESTS

CRATE = TESTS.parent / "benches" / "loadgen"
VERSIONS = ["1.2", "1.3"]

# The first test may have to wait for the compiler.
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("cargo") is None, reason="no cargo to build the peer with"),
]


@pytest.fixture(scope="session")
def programs():
    """The folder with the crate's programs, as the benchmark builds them."""
    target = CRATE / "target"
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", CRATE / "Cargo.toml"]
    subprocess.run([*command, "--target-dir", target], check=True)
    return target / "release"


# --- rustls connects ------------------------------------------------------------------------------


class Echo(Recorder):
    def data_received(self, data):
        self.transport.write(data)


class BufferedEcho(BufferedRecorder):
    def buffer_updated(self, count):
        self.transport.write(self.buffer[:count])


class Goodbye(Recorder):
    def connection_made(self, transport):
        super().connection_made(transport)
        transport.close()


class Acknowledging(Recorder):
    """Answers for sixteen messages with the last byte, as `loadgen --upload` wants it."""

    size = 10_000

    def __init__(self):
        super().__init__()
        self.missing = 16 * self.size

    def data_received(self, data):
        for last in range(self.missing, len(data) + 1, 16 * self.size):
            self.transport.write(data[last - 1 : last])
        self.missing = (self.missing - len(data) - 1) % (16 * self.size) + 1


@pytest.fixture
def generate(loop, programs, certificates):
    """Runs the generator against a server of such protocols: what it says, and the protocols."""

    async def generate(make_protocol, *options, version="1.3", certificate=None):
        protocols = []

        def factory():
            protocols.append(make_protocol())
            return protocols[-1]

        context = certificates.server_context(certificate)
        async with await loop.create_server(factory, "127.0.0.1", 0, ssl=context) as server:
            host, port = server.sockets[0].getsockname()
            command = [programs / "loadgen", "--tls", f"{host}:{port}", "--tls-version", version, *options]
            child = await asyncio.create_subprocess_exec(
                *command, "--window-ms", "200", "--warm-up-ms", "20", stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            output, errors = await child.communicate()
            assert child.returncode == 0, errors
            endings = await asyncio.gather(*(protocol.lost for protocol in protocols))
        assert {protocol.transport.get_extra_info("cipher")[1] for protocol in protocols} == {f"TLSv{version}"}
        return json.loads(output), endings

    return generate


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocol", [Echo, BufferedEcho])
@pytest.mark.parametrize("size", ["1", "1000", "16385", "1000000"])
async def test_every_byte_of_an_echo_comes_back(generate, protocol, size, version):
    report, endings = await generate(protocol, "--echo", size, "--connections", "5", version=version)
    assert report["operations"] > 0
    assert endings == [None] * 5


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_upload_arrives(generate, version):
    report, _ = await generate(Acknowledging, "--upload", str(Acknowledging.size), version=version)
    assert report["operations"] > 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("resume", [(), ("--resume",)], ids=["full", "resumed"])
async def test_a_client_comes_again_and_again(generate, resume, version):
    report, endings = await generate(
        Echo, "--echo", "64", "--reconnect", *resume, "--connections", "3", version=version
    )
    assert report["operations"] > 3
    assert set(endings) == {None}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_server_that_closes_announces_the_end(generate, version):
    report, _ = await generate(Goodbye, "--connect", version=version)
    assert report["operations"] > 0


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_server_may_have_an_rsa_key(generate, certificates, version):
    report, _ = await generate(Echo, "--echo", "1000", version=version, certificate=certificates.rsa)
    assert report["operations"] > 0


# --- rustls listens -------------------------------------------------------------------------------


@pytest.fixture
def serve(loop, programs, certificates, tmp_path):
    """Starts the server: its port, and a function that ends it and returns how its connections have ended."""
    children = []
    # It knows the file by this name.
    (tmp_path / "certificate.pem").write_bytes(certificates.ecdsa.read_bytes())

    async def start(version):
        command = [programs / "rustls-server", "strict", tmp_path, version]
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        children.append(child)
        address = json.loads(await child.stdout.readline())["tls"]

        async def endings(count):
            return [(await child.stdout.readline()).decode().strip() for _ in range(count)]

        return int(address.rpartition(":")[2]), endings

    yield start

    async def kill_all():
        for child in children:
            child.kill()
            await child.communicate()

    loop.run_until_complete(kill_all())


async def connect_at_once(port, context):
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")


async def upgrade(port, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await writer.start_tls(context, server_hostname="localhost")
    return reader, writer


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("connect", [connect_at_once, upgrade])
async def test_a_client_gets_its_bytes_back(loop, serve, certificates, connect, version):
    port, endings = await serve(version)
    context = certificates.client_context()

    async def client(number):
        reader, writer = await connect(port, context)
        for size in (1, 1000, 16384, 16385, 1_000_000):
            data = bytes((number + position) % 251 for position in range(size))
            writer.write(data)
            assert await reader.readexactly(size) == data
        spoken = writer.get_extra_info("ssl_object").version()
        writer.close()
        await writer.wait_closed()
        return spoken

    assert await asyncio.gather(*map(client, range(5))) == [f"TLSv{version}"] * 5
    assert await endings(5) == ["close_notify"] * 5


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_that_aborts_does_not_announce_the_end(loop, serve, certificates, version):
    port, endings = await serve(version)
    reader, writer = await connect_at_once(port, certificates.client_context())
    writer.write(b"x")
    await reader.readexactly(1)
    writer.transport.abort()
    assert await endings(1) == ["the connection was closed without close_notify"]


@pytest.mark.differs("the alert is dropped with the connection")
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_that_does_not_trust_the_server_says_so(loop, serve, version):
    port, endings = await serve(version)
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect_at_once(port, ssl.create_default_context())
    (ending,) = await endings(1)
    assert ending == "received fatal alert: UnknownCA"
