"""What `_native` calls in Python: messages, reports and debug mode's handles."""

import asyncio
import asyncio.base_events
import asyncio.constants
import asyncio.events
import asyncio.format_helpers
import asyncio.sslproto
import asyncio.transports
import asyncio.trsock
import contextlib
import inspect
import socket
import threading
from asyncio.log import logger


class StreamTransport(asyncio.transports._FlowControlMixin, asyncio.Transport):
    """What a native transport says it is, for `isinstance(transport, asyncio.Transport)`."""

    __slots__ = ()


class DatagramTransport(
    asyncio.transports._FlowControlMixin, asyncio.DatagramTransport, asyncio.Transport
):
    """What a native datagram transport says it is."""

    __slots__ = ()


class ReadPipeTransport(asyncio.ReadTransport):
    """What a native transport of the reading end of a pipe says it is."""

    __slots__ = ()


class WritePipeTransport(asyncio.transports._FlowControlMixin, asyncio.WriteTransport):
    """What a native transport of the writing end of a pipe says it is."""

    __slots__ = ()


class SSLTransport(asyncio.sslproto._SSLProtocolTransport):
    """What a native TLS transport says it is."""

    __slots__ = ()


def callback_failed(loop, handle, exc):
    """A callback raised: tell the exception handler."""
    format_source = asyncio.format_helpers._format_callback_source
    # The callback is named as this version's `Handle._run` names it.
    takes_debug = "debug" in inspect.signature(format_source).parameters
    keywords = {"debug": loop.get_debug()} if takes_debug else {}
    source = format_source(handle._callback, handle._args or (), **keywords)
    loop.call_exception_handler(
        {"message": f"Exception in callback {source}", "exception": exc, "handle": handle}
    )


def turn_failed(loop, subject, exc):
    """The loop's own work for a transport, a listener or a socket failed."""
    loop.call_exception_handler({"message": f"Exception in {subject!r}", "exception": exc})


def record_failed(loop, exc):
    """A callback of an extension module left an exception."""
    message = "Exception in a callback of an extension module"
    loop.call_exception_handler({"message": message, "exception": exc})


def pipe_turn_failed(loop, callback, exc, context):
    """A pipe's turn failed, which to asyncio is a callback of the loop like any other."""
    callback_failed(loop, asyncio.Handle(callback, (), loop, context), exc)


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
        context["socket"] = asyncio.trsock.TransportSocket(sock)
    loop.call_exception_handler(context)


def accept_exhausted(loop, exc, sock, listener):
    """Descriptors or memory ran out: one message, and another try in a while."""
    accept_failed(loop, "socket.accept() out of system resource", exc, sock)
    loop.call_later(asyncio.constants.ACCEPT_RETRY_DELAY, listener.resume)


def closed_socket(family):
    """What `get_extra_info("socket")` answers after the end if nobody asked before."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.close()
    return asyncio.trsock.TransportSocket(sock)


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


def learn_task_callbacks():
    """What a C task passes to `call_soon` for its steps and its wake-ups; None if not known.

    Runs a task on a stand-in for a loop that keeps what it is given. If this thread is in the
    middle of a task of another loop, in a thread of its own.
    """
    if asyncio.Task.__module__ != "_asyncio":
        return None, None  # asyncio in Python, without its accelerator
    learnt = [None, None]
    if asyncio.events._get_running_loop() is None:
        _run_task_on_stand_in(learnt)
        return tuple(learnt)
    thread = threading.Thread(target=_run_task_on_stand_in, args=(learnt,))
    try:
        thread.start()
    except RuntimeError:
        return None, None  # no thread is to be had
    thread.join()
    return tuple(learnt)


class _StandIn:
    """As much of a loop as a task needs."""

    def __init__(self):
        self.calls = []

    def call_soon(self, callback, *args, context=None):
        self.calls.append(callback)

    def get_debug(self):
        return False


def _run_task_on_stand_in(learnt):
    async def wait(future):
        await future

    loop = _StandIn()
    asyncio.events._set_running_loop(loop)
    try:
        # A task that does it in another way is not recognised, and all is well.
        with contextlib.suppress(Exception):
            future = asyncio.Future(loop=loop)
            # With a name: who has none is counted, and a program's first task is Task-1.
            task = asyncio.Task(wait(future), loop=loop, name=__name__)
            (step,) = loop.calls
            step()
            future.set_result(None)
            _, wakeup = loop.calls
            wakeup(future)
            task.result()
            learnt[:] = step, wakeup
    finally:
        asyncio.events._set_running_loop(None)
