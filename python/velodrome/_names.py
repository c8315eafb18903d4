"""`getaddrinfo` and `getnameinfo`: what needs no look-up needs no thread."""

import asyncio.base_events
import contextlib
import socket

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
    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        """Return what `socket.getaddrinfo` returns, or raise what it raises.

        An address and a number are answered at once, anything else in a thread of the executor.
        """
        # In debug mode asyncio's method measures the look-up, whatever it is.
        if self._debug or not ((host is None or _is_address(host)) and _is_number(port)):
            return await super().getaddrinfo(
                host, port, family=family, type=type, proto=proto, flags=flags
            )
        # By way of asyncio's module, where programs put a function of their own.
        return asyncio.base_events.socket.getaddrinfo(host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr, flags=0):
        """Return what `socket.getnameinfo` returns, or raise what it raises.

        Numbers alone (NI_NUMERICHOST | NI_NUMERICSERV) of an address are answered at once,
        anything else in a thread of the executor.
        """
        numbers_alone = isinstance(flags, int) and flags & _NUMBERS == _NUMBERS
        if numbers_alone and isinstance(sockaddr, tuple) and sockaddr and _is_address(sockaddr[0]):
            return asyncio.base_events.socket.getnameinfo(sockaddr, flags)
        return await super().getnameinfo(sockaddr, flags)
