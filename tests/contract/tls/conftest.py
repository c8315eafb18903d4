"""Certificates, and TLS streams with a peer that is driven by hand; all are closed at the end of a test."""

import asyncio

import pytest

# So that its assertions tell as much as those of the tests.
pytest.register_assert_rewrite("tls_checker")

from tls_checker import TLS_KINDS, connect_tls


@pytest.fixture(params=TLS_KINDS)
def tls_stream(request, loop, certificates):
    """Makes (transport, protocol, TlsPeer) triples of one kind; all are closed at the end."""
    streams = []

    async def connect(protocol, **options):
        opened = await connect_tls(loop, request.param, protocol, certificates, **options)
        streams.append(opened)
        return opened

    connect.kind = request.param
    connect.forget_all = streams.clear  # for tests of what is freed
    yield connect

    async def close_all():
        for transport, protocol, peer in streams:
            peer.close()
            if not protocol.lost.done():
                transport.abort()
        await asyncio.gather(*(protocol.lost for _, protocol, _ in streams))

    if streams and not loop.is_closed():
        loop.run_until_complete(close_all())
