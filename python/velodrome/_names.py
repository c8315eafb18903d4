"""`getaddrinfo` and `getnameinfo` of what `_native` has no answer for: names, and rarer numbers."""

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


async def getaddrinfo(loop, function, host, port, family, type, proto, flags):
    if loop._debug:
        # asyncio's method measures the look-up, whatever it is.
        function = loop._getaddrinfo_debug
    elif (host is None or _is_address(host)) and _is_number(port):
        return function(host, port, family, type, proto, flags)
    return await _look_up(loop, function, host, port, family, type, proto, flags)


async def getnameinfo(loop, function, sockaddr, flags):
    numbers_alone = isinstance(flags, int) and flags & _NUMBERS == _NUMBERS
    if numbers_alone and isinstance(sockaddr, tuple) and sockaddr and _is_address(sockaddr[0]):
        return function(sockaddr, flags)
    return await _look_up(loop, function, sockaddr, flags)


def _look_up(loop, function, *arguments):
    loop._check_closed()
    if loop._resolver is None or not loop._resolver.is_here():
        loop._resolver = Resolver(loop)
    return loop._resolver.look_up(function, arguments)
