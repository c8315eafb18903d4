"""`getaddrinfo` and `getnameinfo`: what needs no look-up needs no thread."""

import asyncio.base_events
import contextlib
import socket
import sys

from . import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._resolver import Resolver


def _getaddrinfo_of_python():
    """`socket.getaddrinfo`, unless somebody has replaced it before us."""
    found = socket.getaddrinfo
    code = getattr(found, "__code__", None)
    is_own = getattr(found, "__globals__", None) is vars(socket) and code.co_name == "getaddrinfo"
    return found if is_own else None


_getaddrinfo = _getaddrinfo_of_python()
_NUMBERS = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV

# By module once: it is the function in it that programs replace.
_base_events = asyncio.base_events

_INET, _INET6 = socket.AF_INET, socket.AF_INET6
_STREAM, _DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
# As numbers, which are cheaper to compare with, and what auditors are told.
_INET_NUMBER, _INET6_NUMBER = int(_INET), int(_INET6)
_STREAM_NUMBER, _DGRAM_NUMBER = int(_STREAM), int(_DGRAM)
_TCP, _UDP = int(socket.IPPROTO_TCP), int(socket.IPPROTO_UDP)


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


def _answer(host, port, family, type, proto, flags):
    """What `socket.getaddrinfo` returns for the commonest numbers, without asking it; else None."""
    if not (
        isinstance(family, int)
        and isinstance(type, int)
        and isinstance(proto, int)
        and isinstance(flags, int)
    ):
        return None
    if flags != 0:
        return None
    if type == _STREAM_NUMBER:
        kind, kind_number, protocol = _STREAM, _STREAM_NUMBER, _TCP
    elif type == _DGRAM_NUMBER:
        kind, kind_number, protocol = _DGRAM, _DGRAM_NUMBER, _UDP
    else:
        return None
    if proto != 0 and proto != protocol:
        return None
    address = _native.numeric_address(host, port)
    if address is None:
        return None
    if len(address) == 2:
        found, found_number = _INET, _INET_NUMBER
    else:
        found, found_number = _INET6, _INET6_NUMBER
    if family != 0 and family != found_number:
        return None
    asked_family = 0 if family == 0 else found_number
    asked_protocol = 0 if proto == 0 else protocol
    sys.audit("socket.getaddrinfo", host, port, asked_family, kind_number, asked_protocol)
    return [(found, kind, protocol, "", address)]


def _is_number(port):
    # The name of a service is looked up in a file.
    if isinstance(port, str):
        return port.isascii() and port.isdecimal()
    return port is None or isinstance(port, int)


class NameMethods:
    _resolver: "Resolver | None"  # made for the first name

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        """Return what `socket.getaddrinfo` returns, or raise what it raises.

        An address and a number are answered at once, anything else in a thread of the loop's own.
        """
        # By way of asyncio's module, where programs put a function of their own.
        function = _base_events.socket.getaddrinfo
        if self._debug:
            # asyncio's method measures the look-up, whatever it is.
            function = self._getaddrinfo_debug
        elif (
            function is _getaddrinfo
            and (answer := _answer(host, port, family, type, proto, flags)) is not None
        ):
            return answer
        elif (host is None or _is_address(host)) and _is_number(port):
            return function(host, port, family, type, proto, flags)
        return await self._look_up(function, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr, flags=0):
        """Return what `socket.getnameinfo` returns, or raise what it raises.

        Numbers alone (NI_NUMERICHOST | NI_NUMERICSERV) of an address are answered at once,
        anything else in a thread of the loop's own.
        """
        function = _base_events.socket.getnameinfo
        numbers_alone = isinstance(flags, int) and flags & _NUMBERS == _NUMBERS
        if numbers_alone and isinstance(sockaddr, tuple) and sockaddr and _is_address(sockaddr[0]):
            return function(sockaddr, flags)
        return await self._look_up(function, sockaddr, flags)

    def _look_up(self, function, *arguments):
        self._check_closed()
        if self._resolver is None or not self._resolver.is_here():
            from ._resolver import Resolver  # most loops are given addresses

            self._resolver = Resolver(self)
        return self._resolver.look_up(function, arguments)

    def _close_resolver(self):
        # The threads of a parent process are not here, but a lock of theirs may be.
        if self._resolver is not None and self._resolver.is_here():
            self._resolver.close()
        self._resolver = None
