"""The same frameworks over TLS, and protocols that begin without it, with every byte compared."""

import pytest


@pytest.mark.parametrize("client", ["http", "http-chunked", "http-close", "http-pipelined", "httpx", "websocket"])
@pytest.mark.parametrize("server", ["uvicorn-httptools", "uvicorn-h11"])
def test_uvicorn_answers(service, load, certificates, server, client):
    assert load(client, service(server, certificates).port, certificates) >= 300


@pytest.mark.parametrize(
    "client", ["http", "http-chunked", "http-close", "http-pipelined", "httpx", "websocket-path", "aiohttp-websocket"]
)
def test_aiohttp_answers(service, load, certificates, client):
    assert load(client, service("aiohttp", certificates).port, certificates) >= 300


def test_aiohttp_receives_and_sends_a_large_body(service, load, certificates):
    assert load("http-whole", service("aiohttp", certificates).port, certificates) == 1


def test_aiohttp_streams_large_bodies_both_ways_at_once(service, load, certificates):
    assert load("http-large", service("aiohttp", certificates).port, certificates) == 10


def test_aiohttp_takes_clients_by_their_certificates(service, load, certificates):
    assert load("http-mutual", service("aiohttp-mutual", certificates).port, certificates) == 1


def test_http_2_is_agreed_upon_and_spoken(service, load, certificates):
    assert load("httpx-http2", service("hypercorn", certificates).port, certificates) == 600


def test_websockets_answers(service, load, certificates):
    assert load("websocket", service("websockets", certificates).port, certificates) == 1200


@pytest.mark.parametrize("client", ["anyio", "streams"])
@pytest.mark.parametrize("server", ["anyio", "streams"])
def test_a_byte_stream_answers(service, load, certificates, server, client):
    """anyio brings a TLS of its own, over the loop's TCP."""
    assert load(client, service(server, certificates).port, certificates) == 600


def test_a_database_connection_is_upgraded(service, load, certificates):
    assert load("asyncpg", service("postgresql", certificates).port, certificates) == 610


@pytest.mark.parametrize("client", ["aiosmtplib", "smtplib"])
def test_a_mail_connection_is_upgraded(service, load, certificates, client):
    """aiosmtpd puts asyncio's own SSLProtocol over the loop's TCP."""
    assert load(client, service("smtp", certificates).port, certificates) == 200


@pytest.mark.parametrize(("server", "kind"), [("streams", "echo"), ("uvicorn-httptools", "http"), ("aiohttp", "http")])
def test_three_thousand_connections_leave_nothing_behind(service, connections, certificates, server, kind):
    """Descriptors, threads and memory are where they were before."""
    running = service(server, certificates)
    assert connections(kind, running.port, 1000, certificates) == 1000  # warm-up: caches and free lists fill
    before = running.settled()
    resident = running.resident_bytes()
    assert connections(kind, running.port, 3000, certificates) == 3000
    assert running.settled() == before
    # 700 bytes a connection: less than a transport, a protocol or a socket takes.
    assert running.resident_bytes() - resident < 2 << 20
