"""The event loop class.

What runs per callback or per packet is in `_native.Loop`, which comes first. What runs per
connection or per loop is inherited from the loop class of the running Python, so that its
arguments, its checks and its messages are asyncio's own of that version. This file joins the two:
it replaces what in asyncio's class would reach for a selector.
"""

import asyncio
import asyncio.base_events
import asyncio.constants
import contextlib
import functools
import inspect
import os
import selectors
import socket
import warnings
import weakref

from . import _connect, _names, _native, _signals, _sockets, _tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from ._subprocess import SubprocessTransport

    _Method = TypeVar("_Method")

_SSL_HANDSHAKE_TIMEOUT = asyncio.constants.SSL_HANDSHAKE_TIMEOUT
_SSL_SHUTDOWN_TIMEOUT = asyncio.constants.SSL_SHUTDOWN_TIMEOUT


_DATAGRAM_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)

# By name once: a program may put another class in asyncio's place.
_AsyncioLoop = asyncio.SelectorEventLoop

# To type checkers, asyncio's is no coroutine function.
_create_unix_connection: "Any" = _AsyncioLoop.create_unix_connection


class _RegistryView:
    """Stands where asyncio's class has a selector: its transports look there for their `repr`."""

    def __init__(self, loop):
        self._loop = weakref.ref(loop)

    def get_key(self, fd):
        loop = self._loop()
        number = fd if isinstance(fd, int) else fd.fileno()
        events = 0 if loop is None else loop._interest(number)
        if not events:
            raise KeyError(fd)
        return selectors.SelectorKey(fd, number, events, None)

    def close(self):
        pass


def _declared_as(method: "_Method") -> "Callable[[Any], _Method]":
    """Show what a method of asyncio's takes, and its documentation."""
    return functools.wraps(method)  # type: ignore[arg-type,return-value]


def _has_original(sock, *methods):
    """Whether these methods are Python's own, so that the native ones do the same.

    What has others, or only looks like a socket, is called as asyncio calls it.
    """
    cls = type(sock)
    return cls is socket.socket or (
        issubclass(cls, socket.socket)
        and all(getattr(cls, name) is getattr(socket.socket, name) for name in methods)
    )


class _WithMode:
    """Where `inspect` looks for the parameters of `create_unix_server`: those that asyncio's method
    has in the running Python, and `mode`. Worked out when somebody asks.
    """

    __call__ = _AsyncioLoop.create_unix_server

    @property
    def __signature__(self):
        signature = inspect.signature(_AsyncioLoop.create_unix_server)
        mode = inspect.Parameter("mode", inspect.Parameter.KEYWORD_ONLY, default=None)
        parameters = signature.parameters | {"mode": mode}
        return signature.replace(parameters=list(parameters.values()))


def _with_mode(method):
    method.__wrapped__ = _WithMode()
    return method


@contextlib.contextmanager
def _closed_unless_done(server):
    """Close a server that its caller will not get, as the start fails or is cancelled."""
    try:
        yield
    except BaseException:
        server.close()
        raise


# What asyncio's loops set on themselves, in any Python, and this one. Since each has a place of its
# own the loop has no dictionary, as long as a program sets nothing else: from Python 3.13 on, the
# interpreter remembers what the name of a method means only for such objects.
_ATTRIBUTES = (
    "_asyncgens",
    "_asyncgens_shutdown_called",
    "_children",
    "_clock_resolution",
    "_closed",
    "_coroutine_origin_tracking_enabled",
    "_coroutine_origin_tracking_saved_depth",
    "_current_handle",
    "_default_executor",
    "_exception_handler",
    "_executor_shutdown_called",
    "_internal_fds",
    "_old_agen_hooks",
    "_resolver",
    "_scheduled",
    "_selector",
    "_signal_handlers",
    "_stopping",
    "_timer_cancelled_count",
    "_transports",
    "_unix_server_sockets",
    "_watcher",
    "slow_callback_duration",
)


class Loop(  # type: ignore[misc]
    _connect.ConnectMethods,
    _sockets.SockMethods,
    _tls.TlsMethods,
    _signals.SignalMethods,
    _names.NameMethods,
    _native.Loop,
    _AsyncioLoop,
):
    """An asyncio event loop."""

    __slots__ = _ATTRIBUTES

    def __init__(self) -> None:
        self._children: set[SubprocessTransport] = set()
        self._resolver = None
        _AsyncioLoop.__init__(self, _RegistryView(self))  # type: ignore[arg-type]

    def _make_self_pipe(self) -> None:
        """asyncio's way to wake a sleeping loop; the native part has its own."""

    def _close_self_pipe(self) -> None:
        pass

    def close(self) -> None:
        """Close the loop and everything that it opened; callbacks that wait are dropped.

        Idempotent. Raises RuntimeError if the loop is running.
        """
        if self.is_closed():
            return
        super().close()
        self._close_resolver()
        self._close_native()
        for child in tuple(self._children):
            child._stop_watching()

    # ---- transports ------------------------------------------------------------------------

    def _make_socket_transport(
        self, sock, protocol, waiter=None, *, extra=None, server=None, context=None
    ):
        if not isinstance(sock, _native.ClientSocket) and not _has_original(
            sock, "recv", "recv_into", "send", "sendmsg", "shutdown"
        ):
            options = {} if context is None else {"context": context}
            return super()._make_socket_transport(
                sock, protocol, waiter, extra=extra, server=server, **options
            )
        self._ensure_fd_no_transport(sock)
        return _native.make_stream_transport(
            self, sock, protocol, waiter, extra, server, context
        )

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        if (
            not _has_original(sock, "recvfrom", "send", "sendto")
            or sock.family not in _DATAGRAM_FAMILIES
        ):
            # Addresses of other families are for Python's own socket object to read.
            return super()._make_datagram_transport(sock, protocol, address, waiter, extra)
        self._ensure_fd_no_transport(sock)
        return _native.make_datagram_transport(self, sock, protocol, address, waiter, extra)

    def _make_read_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        return _native.make_read_pipe_transport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        return _native.make_write_pipe_transport(self, pipe, protocol, waiter, extra)

    # ---- connecting ------------------------------------------------------------------------

    @_declared_as(_AsyncioLoop.create_connection)
    async def create_connection(self, protocol_factory, host=None, port=None, **options):
        sock = None if options else self._connect_numbers(host, port)
        if sock is None:
            return await super().create_connection(protocol_factory, host, port, **options)
        return await self._make_connection(sock, protocol_factory)

    @_declared_as(_create_unix_connection)
    async def create_unix_connection(self, protocol_factory, path=None, **options):
        sock = None
        if path is not None and not options:
            path = os.fspath(path)
            sock = self._connect_path(path)
        if sock is None:
            return await super().create_unix_connection(protocol_factory, path, **options)
        return await self._make_connection(sock, protocol_factory)

    # ---- what few programs need: its code is imported when it is called -------------------------

    async def _sendfile_native(self, transp, file, offset, count):
        if type(transp) is not _native.StreamTransport:
            return await super()._sendfile_native(transp, file, offset, count)
        from ._sendfile import send_over_transport

        return await send_over_transport(self, transp, file, offset, count)

    async def _make_subprocess_transport(
        self, protocol, args, shell, stdin, stdout, stderr, bufsize, extra=None, **kwargs
    ):
        from ._subprocess import make_transport

        return await make_transport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, extra, **kwargs
        )

    # ---- serving ---------------------------------------------------------------------------

    @_declared_as(_AsyncioLoop.create_server)
    async def create_server(
        self, protocol_factory, host=None, port=None, *, start_serving=True, **options
    ):
        server = await super().create_server(
            protocol_factory, host, port, start_serving=False, **options
        )
        with _closed_unless_done(server):
            if start_serving:
                await server.start_serving()
        return server

    @_with_mode
    async def create_unix_server(
        self, protocol_factory, path=None, *, mode=None, start_serving=True, **options
    ):
        """Serve on a Unix socket, as asyncio's method of this Python does.

        `mode` (Python 3.16's) sets the permissions of the socket's file before the first client
        can connect. Raises ValueError if it is given without a path of the file system.
        """
        if mode is not None:
            if path is None or options.get("sock") is not None:
                raise ValueError("mode is only meaningful with path")
            path = os.fspath(path)
            if path[:1] in ("\0", b"\0"):
                raise ValueError("mode is not meaningful for an abstract socket")
        server = await super().create_unix_server(
            protocol_factory, path, start_serving=False, **options
        )
        with _closed_unless_done(server):
            if mode is not None:
                # Bound, but not listening: nobody gets in with the permissions of before.
                os.chmod(path, mode)
            if start_serving:
                await server.start_serving()
        return server

    def _start_serving(
        self,
        protocol_factory,
        sock,
        sslcontext=None,
        server=None,
        backlog=100,
        ssl_handshake_timeout=_SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout=_SSL_SHUTDOWN_TIMEOUT,
        context=None,
    ):
        if not _has_original(sock, "accept"):
            options = {} if context is None else {"context": context}
            super()._start_serving(
                protocol_factory,
                sock,
                sslcontext,
                server,
                backlog,
                ssl_handshake_timeout,
                ssl_shutdown_timeout,
                **options,
            )
            return
        if sslcontext is not None:
            protocol_factory = self._tls_protocol_factory(
                protocol_factory, sslcontext, ssl_handshake_timeout, ssl_shutdown_timeout
            )
        listener = _native.Listener(self, protocol_factory, sock, server, backlog, context)
        listener.start()

    def __del__(self, _warn=warnings.warn):
        # asyncio's, minus the loop of a parent process, which is not this process's to close.
        if self.is_closed() or self._is_inherited():
            return
        super().__del__(_warn)


_native.add_loop_methods(Loop)
_connect.learn_originals(Loop, _AsyncioLoop)
