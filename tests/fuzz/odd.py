"""Objects and protocols that nobody expects: they raise, talk nonsense, or come back into the loop."""

import asyncio
import contextvars
import socket


class Junk(Exception):
    """What odd objects raise."""


class OddExit(SystemExit):
    """Leaves the loop, as it should."""


class OddBaseException(BaseException):
    """Must not leave the loop."""


class Odd:
    """Answers whatever the interpreter asks: it raises, talks nonsense, or comes back into the loop."""

    ANSWERS = {
        "__index__": lambda odd: 1,
        "__int__": lambda odd: 1,
        "__float__": lambda odd: 0.5,
        "__hash__": lambda odd: 7,
        "__bool__": lambda odd: True,
        "__len__": lambda odd: 2,
        "__iter__": lambda odd: iter([b"odd", odd]),
        "__await__": lambda odd: iter([None]),
        "__fspath__": lambda odd: "odd.socket",
        "__repr__": lambda odd: "odd",
        "__str__": lambda odd: "odd",
        "__call__": lambda odd: None,
        "__buffer__": lambda odd: memoryview(bytearray(b"odd")),
        "__release_buffer__": lambda odd: None,
        "__enter__": lambda odd: odd,
        "__exit__": lambda odd: None,
        "__getitem__": lambda odd: b"odd",
        "fileno": lambda odd: odd._fuzzer.a_descriptor(),
    }
    for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
        ANSWERS[f"__{_name}__"] = lambda odd: True
    for _name in ("add", "sub", "mul", "floordiv", "and", "or"):
        ANSWERS[f"__{_name}__"] = ANSWERS[f"__r{_name}__"] = lambda odd: 1

    def __init__(self, fuzzer, mode):
        self._fuzzer = fuzzer
        self._mode = mode

    def _answer(self, name):
        if self._mode == "raise":
            raise Junk(name)
        if self._mode == "wrong":
            return object()
        if self._mode == "enter":
            self._fuzzer.step()
        return self.ANSWERS[name](self)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if self._mode == "raise":
            raise Junk(name)
        return Odd(self._fuzzer, self._mode)


def _odd_method(name):
    def method(self, *_args, **_kwargs):
        return self._answer(name)

    method.__name__ = name
    return method


for _name in Odd.ANSWERS:
    setattr(Odd, _name, _odd_method(_name))


class Liar(Odd):
    """Says that it is of another class."""

    def __init__(self, fuzzer, mode, claim):
        super().__init__(fuzzer, mode)
        self._claim = claim

    @property
    def __class__(self):
        return self._answer("fileno") if self._mode == "raise" else self._claim


class Leaving:
    """Comes back into the loop when it is freed, at once or when the garbage collector has found it."""

    def __init__(self, fuzzer):
        self._fuzzer = fuzzer
        self._itself = fuzzer.random.choice([self, None])

    def __del__(self):
        local = self._fuzzer.local
        before = local.in_finalizer
        local.in_finalizer = True
        try:
            self._fuzzer.step()
        finally:
            local.in_finalizer = before


class Busy(asyncio.Protocol, asyncio.DatagramProtocol):
    """Does something unexpected in each of its methods."""

    def __init__(self, fuzzer):
        self._fuzzer = fuzzer

    def connection_made(self, transport):
        self._fuzzer.keep(transport)
        self._fuzzer.step()

    def eof_received(self):
        self._fuzzer.step()
        return self._fuzzer.random.choice([True, False, None, Odd(self._fuzzer, "raise")])

    def _step(self, *_args):
        self._fuzzer.callback_step()

    data_received = datagram_received = error_received = connection_lost = _step
    pause_writing = resume_writing = _step


class BufferedBusy(Busy, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        fuzzer = self._fuzzer
        fuzzer.step()
        return fuzzer.random.choice([bytearray(100), memoryview(bytearray(5)), bytearray(), b"x", fuzzer.odd(), None])

    buffer_updated = Busy._step


CLAIMS = [asyncio.Handle, asyncio.Protocol, asyncio.BufferedProtocol, asyncio.Transport, socket.socket, int, str, bytes]
CLAIMS += [asyncio.Future, contextvars.Context, type(None), dict]
