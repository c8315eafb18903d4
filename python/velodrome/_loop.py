"""The event loop class.

What runs per callback or per packet is in `_native.Loop`, which comes first. What runs per
connection or per loop is inherited from the loop class of the running Python, so that its
arguments, its checks and its messages are asyncio's own of that version. This file joins the two:
it replaces what in asyncio's class would reach for a selector.
"""

import asyncio
import asyncio.base_events
import asyncio.constants
import contextvars
import os
import signal
import socket
import sys
import types
import warnings

from ._native import Loop as _NativeLoop

# Not `from . import _native`: that waits for the package, which is being imported.
_native = sys.modules[_NativeLoop.__module__]

_SSL_HANDSHAKE_TIMEOUT = asyncio.constants.SSL_HANDSHAKE_TIMEOUT
_SSL_SHUTDOWN_TIMEOUT = asyncio.constants.SSL_SHUTDOWN_TIMEOUT


_DATAGRAM_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)

# The protocol then lives in the context in which its factory was called, without what that changes.
_CONTEXT_COMES_FIRST = sys.version_info >= (3, 15)

# By module once: it is the function in it that programs replace.
_base_events = asyncio.base_events
_check_ssl_socket = asyncio.base_events._check_ssl_socket

# By name once: a program may put another class in asyncio's place.
_AsyncioLoop = asyncio.SelectorEventLoop


async def _wait_for(future):
    """The task from which `_native` learns what tasks pass to `call_soon`."""
    await future


def _declared(ours):
    """Show what asyncio's method of this name takes, and its documentation.

    It is what `functools.wraps` does, in a third of the time.
    """
    method = getattr(_AsyncioLoop, ours.__name__)
    ours.__wrapped__ = method
    ours.__module__ = method.__module__
    ours.__qualname__ = method.__qualname__
    ours.__doc__ = method.__doc__
    return ours


def _has_original(sock, *methods):
    """Whether these methods are Python's own, so that the native ones do the same.

    What has others, or only looks like a socket, is called as asyncio calls it.
    """
    cls = type(sock)
    return cls is socket.socket or (
        issubclass(cls, socket.socket)
        and all(getattr(cls, name) is getattr(socket.socket, name) for name in methods)
    )


async def _start(server):
    """Start a server, or close it: its caller will not get it."""
    try:
        await server.start_serving()
    except BaseException:
        server.close()
        raise


# What `inspect` is shown of `create_unix_server`: what asyncio's takes, and `mode`.
if sys.version_info >= (3, 13):

    def _with_mode(
        self,
        protocol_factory,
        path=None,
        *,
        sock=None,
        backlog=100,
        ssl=None,
        ssl_handshake_timeout=None,
        ssl_shutdown_timeout=None,
        start_serving=True,
        cleanup_socket=True,
        mode=None,
    ): ...
else:

    def _with_mode(
        self,
        protocol_factory,
        path=None,
        *,
        sock=None,
        backlog=100,
        ssl=None,
        ssl_handshake_timeout=None,
        ssl_shutdown_timeout=None,
        start_serving=True,
        mode=None,
    ): ...


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


class Loop(_NativeLoop, _AsyncioLoop):
    """An asyncio event loop."""

    __slots__ = _ATTRIBUTES

    def __init__(self):
        self._children = set()  # of `SubprocessTransport`
        self._resolver = None  # made for the first name
        _AsyncioLoop.__init__(self, self._registry_view())

    def close(self):
        """Close the loop and everything that it opened; callbacks that wait are dropped.

        Idempotent. Raises RuntimeError if the loop is running.
        """
        if self.is_closed():
            return
        super().close()
        # The threads of a parent process are not here, but a lock of theirs may be.
        if self._resolver is not None and self._resolver.is_here():
            self._resolver.close()
        self._resolver = None
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
        return _native.make_stream_transport(self, sock, protocol, waiter, extra, server, context)

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        if (
            not _has_original(sock, "recvfrom", "send", "sendto")
            or sock.family not in _DATAGRAM_FAMILIES
        ):
            # Addresses of other families are for Python's own socket object to read.
            return super()._make_datagram_transport(sock, protocol, address, waiter, extra)
        self._ensure_fd_no_transport(sock)
        return _native.make_datagram_transport(self, sock, protocol, address, waiter, extra)

    # ---- connecting ------------------------------------------------------------------------

    @_declared
    async def create_connection(self, protocol_factory, host=None, port=None, **options):
        sock = None if options else self._connect_numbers(host, port)
        if sock is None:
            return await super().create_connection(protocol_factory, host, port, **options)
        return await self._make_connection(sock, protocol_factory)

    @_declared
    async def create_unix_connection(self, protocol_factory, path=None, **options):
        sock = None
        if path is not None and not options:
            path = os.fspath(path)
            sock = self._connect_path(path)
        if sock is None:
            return await super().create_unix_connection(protocol_factory, path, **options)
        return await self._make_connection(sock, protocol_factory)

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

    # ---- `sock_*`: argument checks here, the system calls in `_native` --------------------------

    # Each of the four has the whole of it: a coroutine within it, or a call to find that the
    # socket is a plain one, would be a tenth of what an exchange of 1 KiB costs.

    def _check_sock(self, sock):
        _check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def sock_recv(self, sock, n):
        """Receive at most n bytes from a non-blocking socket.

        Returns bytes, empty at end-of-file. Raises TypeError for a TLS socket, in debug mode
        ValueError for a blocking one, and what `sock.recv` raises.
        """
        if type(sock) is not socket.socket or self._debug:
            self._check_sock(sock)
        result = self._try_sock_recv(sock, n)
        if type(result) is bytes:
            return result
        if result is NotImplemented:
            return await super().sock_recv(sock, n)
        try:
            return await result
        except BaseException:
            # Cancelled, or the coroutine is closed: the operation must not go on.
            self._sock_forget(sock, result)
            raise

    async def sock_recv_into(self, sock, buf):
        """Receive into a writable buffer and return the number of bytes."""
        if type(sock) is not socket.socket or self._debug:
            self._check_sock(sock)
        result = self._try_sock_recv_into(sock, buf)
        if type(result) is int:
            return result
        if result is NotImplemented:
            return await super().sock_recv_into(sock, buf)
        try:
            return await result
        except BaseException:
            # Cancelled, or the coroutine is closed: the operation must not go on.
            self._sock_forget(sock, result)
            raise

    async def sock_sendall(self, sock, data):
        """Send all of a bytes-like object; returns None when the socket has taken it."""
        if type(sock) is not socket.socket or self._debug:
            self._check_sock(sock)
        result = self._try_sock_sendall(sock, data)
        if result is None:
            return
        if result is NotImplemented:
            return await super().sock_sendall(sock, data)
        try:
            return await result
        except BaseException:
            # Cancelled, or the coroutine is closed: the operation must not go on.
            self._sock_forget(sock, result)
            raise

    async def sock_connect(self, sock, address):
        """Connect a non-blocking socket to an address, whose host is looked up if it is a name."""
        result = self._try_sock_connect(sock, address)
        if result is None:
            return
        if result is NotImplemented:
            return await super().sock_connect(sock, address)
        try:
            await result
        except BaseException:
            # Cancelled, or the coroutine is closed: the operation must not go on.
            self._sock_forget(sock, result)
            raise
        finally:
            # Its exception refers to this frame.
            result = None

    # ---- signals ---------------------------------------------------------------------------
    #
    # From the first sleep of a run in the main thread, the interpreter's signal handler writes into
    # a pipe of the loop's in any case, so that Ctrl-C ends a sleep; `_native` restores the user's
    # wake-up descriptor after the run. asyncio's own methods write into that pipe, too.

    @property
    def _csock(self):
        """What asyncio's methods take the wake-up descriptor from."""
        return types.SimpleNamespace(fileno=self._signal_fd)

    def add_signal_handler(self, sig, callback, *args):
        """Call callback(*args) when the signal arrives; only in the main thread.

        Raises ValueError for what is no signal, RuntimeError for one that cannot be caught, in
        another thread, and if the loop is closed.
        """
        self._take_wakeup_fd()
        try:
            super().add_signal_handler(sig, callback, *args)
        finally:
            self._keep_wakeup_fd()

    def remove_signal_handler(self, sig):
        """Undo add_signal_handler. Returns whether there was a handler."""
        removed = super().remove_signal_handler(sig)
        if removed:
            self._keep_wakeup_fd()
        return removed

    def _keep_wakeup_fd(self):
        """Without handlers, asyncio's methods take the descriptor away; a running loop needs it."""
        if not self._signal_handlers and self._runs_with_wakeup_fd():
            try:
                signal.set_wakeup_fd(self._signal_fd())
            except ValueError:
                pass  # in another thread: nothing was taken away

    # ---- names: what needs no look-up needs no thread ------------------------------------------

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        """Return what `socket.getaddrinfo` returns, or raise what it raises.

        An address and a number are answered at once, anything else in a thread of the loop's own.
        """
        # By way of asyncio's module, where programs put a function of their own.
        function = _base_events.socket.getaddrinfo
        if not self._debug:
            answer = _native.numeric_getaddrinfo(function, host, port, family, type, proto, flags)
            if answer is not None:
                return answer
        from ._names import getaddrinfo

        return await getaddrinfo(self, function, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr, flags=0):
        """Return what `socket.getnameinfo` returns, or raise what it raises.

        Numbers alone (NI_NUMERICHOST | NI_NUMERICSERV) of an address are answered at once,
        anything else in a thread of the loop's own.
        """
        from ._names import getnameinfo

        return await getnameinfo(self, _base_events.socket.getnameinfo, sockaddr, flags)

    # ---- what few programs need: its code is imported when it is called -------------------------

    def _make_ssl_transport(self, rawsock, protocol, sslcontext, *arguments, **options):
        from ._tls import make_ssl_transport

        return make_ssl_transport(self, rawsock, protocol, sslcontext, *arguments, **options)

    async def start_tls(
        self,
        transport,
        protocol,
        sslcontext,
        *,
        server_side=False,
        server_hostname=None,
        ssl_handshake_timeout=None,
        ssl_shutdown_timeout=None,
    ):
        """Upgrade a connection to TLS; return its new transport, which is to replace the old one.

        `protocol` is told of no new connection. What a `StreamReader` has received already belongs
        to the handshake of a server. Time-outs are in seconds. Raises TypeError for anything but
        an `ssl.SSLContext` and a transport that can be upgraded; the errors of the handshake close
        the connection.
        """
        from ._tls import start_tls

        return await start_tls(
            self,
            transport,
            protocol,
            sslcontext,
            server_side,
            server_hostname,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )

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

    @_declared
    async def create_server(
        self, protocol_factory, host=None, port=None, *, start_serving=True, **options
    ):
        server = await super().create_server(
            protocol_factory, host, port, start_serving=False, **options
        )
        if start_serving:
            await _start(server)
        return server

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
        if mode is not None:
            try:
                # Bound, but not listening: nobody gets in with the permissions of before.
                os.chmod(path, mode)
            except BaseException:
                server.close()
                raise
        if start_serving:
            await _start(server)
        return server

    create_unix_server.__wrapped__ = _with_mode

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
            from ._tls import server_transport_factory

            protocol_factory = server_transport_factory(
                self, protocol_factory, sslcontext, ssl_handshake_timeout, ssl_shutdown_timeout
            )
        listener = _native.Listener(self, protocol_factory, sock, server, backlog, context)
        listener.start()

    def __del__(self, _warn=warnings.warn):
        # asyncio's, minus the loop of a parent process, which is not this process's to close.
        if self.is_closed() or self._is_inherited():
            return
        super().__del__(_warn)


_native.add_loop_methods(Loop)
_native.learn_originals(Loop, _AsyncioLoop)
