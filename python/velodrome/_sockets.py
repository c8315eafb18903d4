"""The coroutines over `sock_*`: argument checks here, the system calls in `_native`."""

import asyncio.base_events
import socket

_check_ssl_socket = asyncio.base_events._check_ssl_socket  # type: ignore[attr-defined]


class SockMethods:
    # Each of the three has the whole of it: a coroutine within it, or a call to find that the
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
