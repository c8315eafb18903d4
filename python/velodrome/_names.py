"""`getaddrinfo` and `getnameinfo`: what needs no look-up needs no thread."""

import asyncio.base_events
import contextlib
import socket

from ._resolver import Resolver

_NUMBERS = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


def _is_address(host):
    """Whether it is an IP address in its usual form, without a scope: those name an interface."""
    if isinstance(host, bytes):
        host = host.decode("latin-1")
    if not isinstance(host, str):
        return False
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return True
    return False


def _is_number(port):
    # The name of a service is looked up in a file.
    if isinstance(port, str):
        return port.isascii() and port.isdecimal()
    return port is None or isinstance(port, int)


class NameMethods:
    _resolver = None

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        """Return what `socket.getaddrinfo` returns, or raise what it raises.

        An address and a number are answered at once, anything else in a thread of the loop's own.
        """
        # By way of asyncio's module, where programs put a function of their own.
        function = asyncio.base_events.socket.getaddrinfo
        if self._debug:
            # asyncio's method measures the look-up, whatever it is.
            function = self._getaddrinfo_debug
        elif (host is None or _is_address(host)) and _is_number(port):
            return function(host, port, family, type, proto, flags)
        return await self._look_up(function, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr, flags=0):
        """Return what `socket.getnameinfo` returns, or raise what it raises.

        Numbers alone (NI_NUMERICHOST | NI_NUMERICSERV) of an address are answered at once,
        anything else in a thread of the loop's own.
        """
        function = asyncio.base_events.socket.getnameinfo
        numbers_alone = isinstance(flags, int) and flags & _NUMBERS == _NUMBERS
        if numbers_alone and isinstance(sockaddr, tuple) and sockaddr and _is_address(sockaddr[0]):
            return function(sockaddr, flags)
        return await self._look_up(function, sockaddr, flags)

    def _look_up(self, function, *arguments):
        self._check_closed()
        if self._resolver is None:
            self._resolver = Resolver(self)
        return self._resolver.look_up(function, arguments)

    def _close_resolver(self):
        # The threads of a parent process are not here, but a lock of theirs may be.
        if self._resolver is not None and not self._is_inherited():
            self._resolver.close()
        self._resolver = None
