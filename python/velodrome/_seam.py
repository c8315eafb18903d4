"""What `_native` calls in Python: messages, reports and debug mode's handles.

It is imported before a loop sleeps for the first time, with the first transport or listener, or
when something of it is needed.
"""

import asyncio
import asyncio.base_events
import asyncio.constants
import asyncio.sslproto
import asyncio.transports
import asyncio.trsock
import socket
from asyncio.log import logger

from ._native import send_held


class StreamTransport(asyncio.transports._FlowControlMixin, asyncio.transports.Transport):
    """What a native transport says it is, for `isinstance(transport, asyncio.Transport)`."""

    __slots__ = ()


class DatagramTransport(
    asyncio.transports._FlowControlMixin,
    asyncio.transports.DatagramTransport,
    asyncio.transports.Transport,
):
    """What a native datagram transport says it is."""

    __slots__ = ()


class ReadPipeTransport(asyncio.transports.ReadTransport):
    """What a native transport of the reading end of a pipe says it is."""

    __slots__ = ()


class WritePipeTransport(asyncio.transports._FlowControlMixin, asyncio.transports.WriteTransport):
    """What a native transport of the writing end of a pipe says it is."""

    __slots__ = ()


class SSLTransport(asyncio.sslproto._SSLProtocolTransport):
    """What a native TLS transport says it is."""

    __slots__ = ()


class TransportSocket(asyncio.trsock.TransportSocket):
    """A transport's socket: what goes past the transport does not overtake what it has written."""

    __slots__ = ()

    def fileno(self):
        send_held()
        return super().fileno()

    def dup(self):
        send_held()
        return super().dup()

    def shutdown(self, how):
        send_held()
        super().shutdown(how)


def log_hang_up(transport):
    logger.info("%r was closed by peer", transport)


def transport_failed(loop, message, exc, transport, protocol):
    """A protocol raised, or a transport failed for another reason than the network's."""
    loop.call_exception_handler(
        {"message": message, "exception": exc, "transport": transport, "protocol": protocol}
    )


def tls_failed(loop, message, exc, transport, tls):
    """A TLS connection ends: asyncio tells of everything but the network's and TLS's own errors."""
    if isinstance(exc, OSError):
        if loop is not None and loop.get_debug():
            debug_error(tls, message, exc)
    elif loop is not None and not isinstance(exc, asyncio.CancelledError):
        transport_failed(loop, message, exc, transport, tls)


def debug_handshake_done(loop, tls, start):
    logger.debug("%r: SSL handshake took %.1f ms", tls, (loop.time() - start) * 1e3)


def warn_half_open_tls():
    logger.warning("returning true from eof_received() has no effect when using ssl")


def accept_failed(loop, message, exc, sock):
    """An incoming connection could not be made."""
    context = {"message": message, "exception": exc}
    if sock is not None:
        context["socket"] = TransportSocket(sock)
    loop.call_exception_handler(context)


def accept_exhausted(loop, exc, sock, listener):
    """Descriptors or memory ran out: one message, and another try in a while."""
    accept_failed(loop, "socket.accept() out of system resource", exc, sock)
    loop.call_later(asyncio.constants.ACCEPT_RETRY_DELAY, listener.resume)


def closed_socket(family):
    """What `get_extra_info("socket")` answers after the end if nobody asked before."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.close()
    return TransportSocket(sock)


def warn_lost_write(message):
    """Somebody keeps writing to a connection that is lost."""
    logger.warning(message)


def debug_log(message, subject):
    logger.debug(message, subject)


def debug_error(subject, message, exc):
    logger.debug("%r: %s", subject, message, exc_info=exc)


def slow_callback(subject, seconds):
    """Debug mode: a callback took longer than `loop.slow_callback_duration`."""
    if isinstance(subject, asyncio.Handle):
        subject = asyncio.base_events._format_handle(subject)
    asyncio.base_events.logger.warning("Executing %s took %.3f seconds", subject, seconds)


def call_at_debug(loop, when, callback, args, context):
    """Debug mode's `call_at`: asyncio's checks, and a handle that knows where it was made."""
    loop._check_thread()
    loop._check_callback(callback, "call_at")
    timer = asyncio.TimerHandle(when, callback, args, loop, context)
    if timer._source_traceback:
        del timer._source_traceback[-1]
    timer._scheduled = loop._schedule(when, timer)
    return timer


def watch_handle_debug(loop, callback, args, context):
    """Debug mode's handle of a reader or writer."""
    return asyncio.Handle(callback, args, loop, context)


def ensure_no_python_transport(loop, fd, number):
    """asyncio's transports in Python (see `Loop._make_datagram_transport`) own theirs, too."""
    transport = loop._transports.get(number)
    if transport and not transport.is_closing():
        raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")


def sendfile_mode():
    return asyncio.constants._SendfileMode.TRY_NATIVE


def tls_sendfile_mode():
    return asyncio.constants._SendfileMode.FALLBACK
