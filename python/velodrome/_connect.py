"""Connecting: the common case without asyncio's detours.

A socket that the loop makes itself is a `_native.ClientSocket`, which is connected without a Python
object and then becomes the transport's. Where a program could tell (debug mode, a subclass, a
method or `socket.socket` replaced, an audit hook), or where something goes wrong at once, `_native`
has none, and asyncio's own method does the whole of it.
"""

import contextvars
import socket
import sys
import types

from . import _native

# The protocol then lives in the context in which its factory was called, without what that changes.
_CONTEXT_COMES_FIRST = sys.version_info >= (3, 15)

# What asyncio calls on its way, of the loop and of a socket.
_OF_LOOP = (
    "_add_writer",
    "_connect_sock",
    "_create_connection_transport",
    "_ensure_fd_no_transport",
    "_ensure_resolved",
    "_make_socket_transport",
    "_make_ssl_transport",
    "_remove_writer",
    "_sock_connect",
    "_sock_connect_cb",
    "_sock_write_done",
    "call_soon",
    # A program's own expects sockets of Python from `_connect_sock`.
    "create_connection",
    "create_future",
    "create_unix_connection",
    "remove_writer",
    "sock_connect",
)
_OF_SOCKET = (
    "__init__",
    "close",
    "connect",
    "detach",
    "fileno",
    "getpeername",
    "getsockname",
    "getsockopt",
    "gettimeout",
    "setblocking",
)


def _is_original(method):
    """Whether it is asyncio's, Python's or ours: it may have been replaced before we came."""
    if not isinstance(method, types.FunctionType):
        return isinstance(method, types.MethodDescriptorType)
    # Where it was written; `__module__` may be that of a method that it wraps.
    name = method.__globals__["__name__"]
    module = sys.modules.get(name)
    return (
        name.partition(".")[0] in ("asyncio", "socket", __package__)
        and method.__globals__ is getattr(module, "__dict__", None)
    )


def learn_originals(loop_class, asyncio_class):
    """Note what has to be in its place for a connection without a Python socket."""
    classes = (loop_class, _OF_LOOP), (asyncio_class, _OF_LOOP), (socket.socket, _OF_SOCKET)
    if all(_is_original(getattr(cls, name)) for cls, names in classes for name in names):
        _native.learn_originals(*classes)


class ConnectMethods:
    """What is common to the ways to connect."""

    async def _make_connection(self, sock, protocol_factory):
        """Wait for a `ClientSocket` and make its transport, as asyncio does for a plain socket."""
        try:
            if (waiter := sock.wait()) is not None:
                await waiter
            context = contextvars.copy_context() if _CONTEXT_COMES_FIRST else None
            protocol = protocol_factory()
            waiter = self.create_future()
            transport = _native.make_stream_transport(
                self, sock, protocol, waiter, None, None, context
            )
        except BaseException:
            # It may refer to the exception, which refers to this frame.
            waiter = None
            sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def _connect_sock(self, exceptions, addr_info, local_addr_infos=None):
        """Connect to one of the addresses: asyncio's hook, whose result goes to its transports."""
        sock = None
        if local_addr_infos is None:
            family, kind, protocol, _, address = addr_info
            sock = self._connect_found(family, kind, protocol, address)
        if sock is None:
            try:
                return await super()._connect_sock(exceptions, addr_info, local_addr_infos)
            finally:
                # As below.
                exceptions = None
        my_exceptions = []
        exceptions.append(my_exceptions)
        try:
            if (waiter := sock.wait()) is not None:
                await waiter
            return sock
        except BaseException as exc:
            if isinstance(exc, OSError):
                my_exceptions.append(exc)
            sock.close()
            raise
        finally:
            # An exception refers to this frame.
            exceptions = my_exceptions = waiter = None
