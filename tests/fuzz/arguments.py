"""What a fuzzer has to call with: sockets, files, values for each parameter by its name, and junk."""

import array
import asyncio
import contextvars
import decimal
import functools
import inspect
import os
import signal
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from odd import CLAIMS, BufferedBusy, Busy, Junk, Leaving, Liar, Odd, OddBaseException, OddExit

INTEGERS = [0, 1, -1, True, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**70, 10**400]
NUMBERS = [*INTEGERS, 0.0, -0.0, 0.001, -1e308, 1e308, float("nan"), float("inf"), float("-inf"), 1j]
NUMBERS += [decimal.Decimal("0.001"), decimal.Decimal("NaN")]
STRINGS = ["", "\0", "a\0b", "\ud800", "é" * 100, "x" * 100_000, b"", b"\0", b"\xff" * 300]
HOSTS = ["127.0.0.1", "::1", b"127.0.0.1", "a\0b", "\ud800", "x" * 100_000, 5, 1.5, ["127.0.0.1"], ["127.0.0.1", 5], ()]
PORTS = [0, -1, 65536, 2**70, "0", "-1", b"0", "\0", "\ud800", None, 0.0, True]
# The first three do no harm where nobody handles them.
SIGNALS = [signal.SIGWINCH, signal.SIGURG, signal.SIGCONT, signal.SIGKILL, 0, -1, 65, 2**70, "SIGUSR1", None, 1.0]
PROGRAMS = ["true", "/bin/true", b"true", "/nonexistent", "", "\0", "\ud800", 5, None, ["true"]]
KEYWORDS = ["context", "callback", "name", "loop", "sock", "flags", "junk", "\0", "\ud800", "__class__"]
STANDARD_STREAMS = [asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL, None, -9, 2**70, "x"]


@functools.cache
def methods_of(kind):
    """The public methods of a class, with their parameters."""
    names = [name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))]
    return {name: list(inspect.signature(getattr(kind, name)).parameters.values())[1:] for name in names}


class Arguments:
    """Makes them. Whoever inherits has the loop, the random generator, and the steps that odd objects take."""

    def __init__(self, random, loop):
        self.random = random
        self.loop = loop
        self.loops = [loop]
        self.kept = []  # handles, transports, servers, futures
        self.sockets = []
        self.files = []
        self.make_sockets()

    # ---- what it has ---------------------------------------------------------------------------------

    def make_sockets(self):
        unix = socket.socketpair()
        datagrams = socket.socketpair(type=socket.SOCK_DGRAM)
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        udp = socket.socket(type=socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        fresh = socket.socket()
        closed = socket.socket()
        closed.close()
        self.sockets = [*unix, *datagrams, listener, client, server, udp, fresh, closed]
        for sock in self.sockets[:-1]:
            sock.setblocking(False)
        self.addresses = [listener.getsockname(), udp.getsockname()]
        # A file is an iterable, too, and iterated over: it must not block.
        for descriptor, mode in zip(os.pipe2(os.O_NONBLOCK), ("rb", "wb"), strict=True):
            self.files.append(open(descriptor, mode, buffering=0))
        regular = open("regular", "w+b")
        regular.write(b"x" * 1000)
        closed_file = open("regular", "rb")
        closed_file.close()
        self.files += [regular, closed_file]

    def keep(self, thing):
        if issubclass(type(thing), Odd):
            return thing
        if not isinstance(thing, asyncio.Future):
            methods_of(type(thing))  # now, and not where the stack is nearly full
        self.kept.append(thing)
        if len(self.kept) > 60:
            del self.kept[self.random.randrange(60)]
        return thing

    def a_descriptor(self):
        # Not any small number: the loop's own descriptors are nobody's to give away.
        return self.random.choice(self.sockets).fileno()

    # ---- arguments -----------------------------------------------------------------------------------

    def odd(self):
        mode = self.random.choice(["raise", "wrong", "enter", "fine"])
        if self.random.random() < 0.2:
            return Liar(self, mode, self.random.choice(CLAIMS))
        return Odd(self, mode)

    def junk(self):
        """Anything."""
        choose = self.random.choice
        return choose(
            [
                lambda: None,
                lambda: choose(NUMBERS),
                lambda: choose(STRINGS),
                self.odd,
                self.odd,
                lambda: Leaving(self),
                lambda: choose(self.sockets),
                lambda: choose(self.files),
                lambda: choose(self.kept) if self.kept else self.loop,
                lambda: choose(self.loops),
                lambda: [self.junk()],
                lambda: (self.junk(), self.junk()),
                lambda: {"message": self.junk(), "exception": self.junk(), "handle": self.junk()},
                lambda: (number for number in self.generator()),
                lambda: choose([object, int, Odd, asyncio.Protocol, Junk, Junk(), OddBaseException()]),
            ]
        )()

    def generator(self):
        yield b"generated"
        self.step()
        yield bytearray(b"generated")

    def a_callback(self):
        def leave():
            raise OddExit(1)

        def fail():
            raise self.random.choice([Junk, OddBaseException])

        async def coroutine_function():
            pass

        ready = [self.callback_step] * 6 + [fail, len, functools.partial(self.callback_step), coroutine_function]
        return self.random.choice([*ready, leave] if self.random.random() < 0.1 else [*ready, self.odd(), None])

    def a_coroutine(self):
        async def short():
            self.step()
            await asyncio.sleep(0)
            self.step()
            return self.random.choice([None, self])

        async def endless():
            try:
                await asyncio.sleep(3600)
            finally:
                self.step()

        return self.random.choice([short, short, endless])()

    def a_protocol(self):
        return self.random.choice([Busy, Busy, BufferedBusy])(self)

    def task_factory(self, loop, coro, **keywords):
        self.step()
        return asyncio.Task(coro, loop=loop, **keywords)

    def a_port(self):
        return self.random.choice(self.addresses)[1]

    def a_path(self):
        return self.random.choice(["x.socket", b"x.socket", Path("x.socket"), "\0x", b"\0x"])

    def addresses_of_hosts(self):
        class Tuple(tuple):
            pass

        port = self.random.choice([self.a_port(), *PORTS])
        odd = [("::1", port, 2**21, 0), ("::1", port, -1, self.odd()), Tuple(("127.0.0.1", port)), (), ("127.0.0.1",)]
        odd += [("127.0.0.1", port, 1, 2, 3), ("\0", port), ("\ud800", port), (self.odd(), port), ["127.0.0.1", port]]
        odd += ["", "x" * 200, "\ud800", 5]
        return [*self.addresses * 2, ("::1", self.a_port(), 0, 0), self.a_path(), None], odd

    def bytes_or_not(self):
        released = memoryview(b"x")
        released.release()
        good = [b"x", b"", b"x" * 300_000, bytearray(b"x"), bytearray(300_000), memoryview(b"xyz")]
        return good, [memoryview(b"xyz")[::2], released, array.array("d", [1.0]), "x", None]

    def iterables_of_data(self):
        good = [[self.value_of("data"), self.value_of("data")], [], self.generator(), (b"x", b"y")]
        return good, [None, b"bytes", self.random.choice(self.files)]

    def awaitables(self):
        future = asyncio.Future(loop=self.random.choice(self.loops))
        done = self.a_coroutine()
        done.close()
        return [self.a_coroutine()], [future, done, self.generator(), None, 5]

    def some_keywords(self):
        keywords = {}
        for _ in range(self.random.randrange(1, 3)):
            name = self.random.choice(KEYWORDS)
            if self.random.random() < 0.2:
                methods = {"__eq__": Odd.__eq__, "__hash__": str.__hash__, "_answer": self.odd()._answer}
                name = type("Name", (str,), methods)(name)
            keywords[name] = self.junk()
        return keywords

    def tls_contexts(self):
        return [ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)], [None, True]

    # By the name of the parameter: what belongs there, and what does not. Anything odd may come in its place, too.
    VALUES = {
        "fd": lambda self: ([self.a_descriptor(), self.random.choice(self.sockets)], [*self.files, *INTEGERS]),
        "callback": lambda self: ([self.a_callback()], [None]),
        "func": lambda self: ([int, self.callback_step], [len, None]),
        "handler": lambda self: ([None, self.reported, self.callback_step], [5, "x"]),
        "factory": lambda self: ([None, self.task_factory], [self.callback_step, 5]),
        "context": lambda self: ([None, contextvars.copy_context()], [contextvars.Context, 5]),
        "delay": lambda self: ([0, 0.001], NUMBERS),
        "when": lambda self: ([0, self.loop.time()], NUMBERS),
        "protocol_factory": lambda self: ([self.a_protocol], [None, self.callback_step, lambda: None, self.odd]),
        "protocol": lambda self: ([self.a_protocol()], [None, asyncio.Protocol]),
        "sock": lambda self: (self.sockets, [None, *self.files, 5]),
        "host": lambda self: (["127.0.0.1"], HOSTS),
        "port": lambda self: ([self.a_port(), 0], PORTS),
        "local_addr": lambda self: ([None, ("127.0.0.1", 0)], [(self.odd(), 0), ("\0", 0), "x", 5]),
        "path": lambda self: ([self.a_path()], ["a\0b", "x" * 200, "", "/nonexistent/x", "\ud800", None]),
        "data": bytes_or_not,
        "list_of_data": iterables_of_data,
        "buf": lambda self: ([bytearray(10), memoryview(bytearray(3))], [bytearray(), b"x", None]),
        "n": lambda self: ([1, 100, 2**20], [0, -1, 2**63, 2**70, "1"]),
        "file": lambda self: (self.files[2:3], self.files),
        "pipe": lambda self: (self.files[:2], [*self.files, *self.sockets]),
        "sig": lambda self: (SIGNALS[:3], SIGNALS),
        "executor": lambda self: ([None, ThreadPoolExecutor(1)], [int]),
        "future": awaitables,
        "coro": awaitables,
        "transport": lambda self: (self.transports() or [None], [None, *self.sockets]),
        "sslcontext": tls_contexts,
        "ssl": lambda self: ([None], [False, *self.tls_contexts()[0], 5]),
        "program": lambda self: (PROGRAMS[:3], PROGRAMS),
        "cmd": lambda self: (["exit 3"], ["", "\0", "\ud800", None, 5]),
        "backlog": lambda self: ([100], [0, 1, -1, 2**31, 2**70]),
        "family": lambda self: ([0, socket.AF_INET], [socket.AF_UNIX, -1, 2**70]),
        "name": lambda self: (["socket", "sockname", "peername"], ["\ud800", [], 5]),
        "high": lambda self: ([None, 0, 100_000], NUMBERS),
        "low": lambda self: ([None, 0], NUMBERS),
        "enabled": lambda self: ([True, False, False], [None, 0.0]),
    }
    for _name in ("addr", "address", "remote_addr", "sockaddr"):
        VALUES[_name] = addresses_of_hosts
    for _name in ("stdin", "stdout", "stderr"):
        VALUES[_name] = lambda self: (STANDARD_STREAMS[:3], STANDARD_STREAMS)
    for _name in ("start_serving", "server_side", "fallback", "all_errors", "cleanup_socket"):
        VALUES[_name] = lambda self: ([True, False], [None, 5])
    for _name in ("timeout", "ssl_handshake_timeout", "ssl_shutdown_timeout", "happy_eyeballs_delay"):
        VALUES[_name] = lambda self: ([None, 0.01], [0, -1, float("nan")])
    VALUES |= {"bufsize": VALUES["n"], "nbytes": VALUES["n"]}

    def transports(self):
        return [thing for thing in self.kept if isinstance(thing, asyncio.BaseTransport)]

    def value_of(self, parameter):
        chance = self.random.random()
        if chance < 0.9 and parameter in self.VALUES:
            good, bad = self.VALUES[parameter](self)
            return self.random.choice(good if chance < 0.7 else [*bad, self.odd(), self.odd()])
        value = self.junk()
        if parameter in ("host", "local_addr") and (value is None or value == "" or value == b""):
            return "\0"  # not every interface of the machine
        return value

    def arguments(self, parameters):
        """Positional and keyword arguments for a method, more or less as it wants them."""
        args, keywords, by_name = [], {}, False
        for parameter in parameters:
            needed = parameter.default is parameter.empty or parameter.name == "host"
            if parameter.kind is parameter.VAR_POSITIONAL:
                args += [self.junk() for _ in range(self.random.choice([0, 0, 1, 2, 3, 5]))]
            elif parameter.kind is parameter.VAR_KEYWORD:
                continue
            elif parameter.kind is parameter.KEYWORD_ONLY or by_name:
                if needed or self.random.random() < 0.15:
                    keywords[parameter.name] = self.value_of(parameter.name)
            elif not needed and self.random.random() < 0.6:
                by_name = True  # the others by name, or not at all
            else:
                args.append(self.value_of(parameter.name))
        if self.random.random() < 0.03:
            args.append(self.junk())
        if self.random.random() < 0.05:
            keywords |= self.some_keywords()
        if args and self.random.random() < 0.03 and "host" not in [parameter.name for parameter in parameters]:
            args.pop()
        return args, keywords
