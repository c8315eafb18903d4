"""TLS: the arguments of asyncio's methods, and the native transport in the middle that they make.

The engine is the libssl that the interpreter's `ssl` has loaded. `VELODROME_TLS=python` takes the
`ssl` module itself, as every connection does for which libssl cannot be used directly.
"""

import asyncio
import asyncio.constants
import functools
import os

from . import _native

try:
    import ssl
except ImportError:  # a Python without TLS
    ssl = None  # type: ignore[assignment]

_USE_LIBSSL = os.environ.get("VELODROME_TLS", "libssl") != "python"


def _seconds(name, value, default):
    if value is None:
        return default
    if value <= 0:
        raise ValueError(f"{name} should be a positive number, got {value}")
    return value


def _default_context(server_side, server_hostname):
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    # `ssl=True`: a client's secure defaults.
    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context


def make_transport(
    loop,
    protocol,
    sslcontext,
    waiter=None,
    server_side=False,
    server_hostname=None,
    call_connection_made=True,
    ssl_handshake_timeout=None,
    ssl_shutdown_timeout=None,
):
    """Make the TLS transport of `protocol`, to become the protocol of a transport below."""
    if ssl is None:
        raise RuntimeError("stdlib ssl module not available")
    handshake_timeout = _seconds(
        "ssl_handshake_timeout",
        ssl_handshake_timeout,
        asyncio.constants.SSL_HANDSHAKE_TIMEOUT,
    )
    shutdown_timeout = _seconds(
        "ssl_shutdown_timeout", ssl_shutdown_timeout, asyncio.constants.SSL_SHUTDOWN_TIMEOUT
    )
    return _native.SSLTransport(
        loop,
        protocol,
        sslcontext or _default_context(server_side, server_hostname),
        waiter,
        server_side,
        (server_hostname or None) if not server_side else None,
        call_connection_made,
        handshake_timeout,
        shutdown_timeout,
        _USE_LIBSSL,
    )


def make_ssl_transport(
    loop,
    rawsock,
    protocol,
    sslcontext,
    waiter=None,
    *,
    server_side=False,
    server_hostname=None,
    extra=None,
    server=None,
    ssl_handshake_timeout=None,
    ssl_shutdown_timeout=None,
    context=None,
):
    loop._ensure_fd_no_transport(rawsock)
    tls = make_transport(
        loop,
        protocol,
        sslcontext,
        waiter,
        server_side,
        server_hostname,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    loop._make_socket_transport(rawsock, tls, extra=extra, server=server, context=context)
    return tls


def server_transport_factory(
    loop, protocol_factory, sslcontext, ssl_handshake_timeout, ssl_shutdown_timeout
):
    """What a listener calls for each connection."""
    return functools.partial(
        _make_server_transport,
        loop,
        protocol_factory,
        sslcontext,
        ssl_handshake_timeout,
        ssl_shutdown_timeout,
    )


def _make_server_transport(
    loop, protocol_factory, sslcontext, ssl_handshake_timeout, ssl_shutdown_timeout
):
    waiter = None
    if loop._debug:
        # What goes wrong before the connection is made is the peer's doing, as a rule: asyncio
        # speaks of it in debug mode only. The waiter is where it arrives.
        waiter = loop.create_future()
        waiter.add_done_callback(functools.partial(_server_transport_made, loop))
    return make_transport(
        loop,
        protocol_factory(),
        sslcontext,
        waiter,
        server_side=True,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )


def _server_transport_made(loop, waiter):
    if not waiter.cancelled() and waiter.exception() is not None:
        loop.call_exception_handler(
            {
                "message": "Error on transport creation for incoming connection",
                "exception": waiter.exception(),
            }
        )


async def start_tls(
    loop,
    transport,
    protocol,
    sslcontext,
    server_side,
    server_hostname,
    ssl_handshake_timeout,
    ssl_shutdown_timeout,
):
    if ssl is None:
        raise RuntimeError("Python ssl module is not available")
    if not isinstance(sslcontext, ssl.SSLContext):
        raise TypeError(
            f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
        )
    if not getattr(transport, "_start_tls_compatible", False):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")

    waiter = loop.create_future()
    tls = make_transport(
        loop,
        protocol,
        sslcontext,
        waiter,
        server_side,
        server_hostname,
        call_connection_made=False,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    # Nothing may come before `connection_made`.
    transport.pause_reading()
    if server_side and isinstance(protocol, asyncio.StreamReaderProtocol):
        reader = getattr(protocol, "_stream_reader", None)
        received = getattr(reader, "_buffer", None)
        if received:
            tls._feed(received)
            received.clear()
    tls._take_over(transport)
    transport.set_protocol(tls)
    made = loop.call_soon(tls.connection_made, transport)
    resumed = loop.call_soon(transport.resume_reading)
    try:
        await waiter
    except BaseException:
        transport.close()
        made.cancel()
        resumed.cancel()
        raise
    return tls
