"""Random histories of a TLS transport against a peer that is driven by hand; what was sent has to arrive.

    python tests/fuzz/tls.py --seed 3 [--histories 100] [--only 17] [--engine python] [--loop asyncio] [--verbose]

A history makes one connection (client or server; TCP, a Unix socket, TLS in TLS, or upgraded; TLS 1.2 or 1.3; either
kind of protocol), does random things on both ends, in the protocol's callbacks too, and ends it in one of several
ways. The peer sends its ciphertext cut anywhere, stalls, changes its keys, and ends as it likes. Then:

- what arrived is the beginning of what was sent; all of it, if nobody broke the connection;
- nothing waits for ever: whenever both ends only read, everything arrives;
- `connection_lost` comes once and soon, `eof_received` at most once, pause and resume alternate;
- the exception handler hears nothing but what the protocol raised;
- no descriptor and no object is left.

All choices follow from the seed and the number of the history, as far as the kernel's timing allows.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import random
import socket
import ssl
import sys
import tempfile
import time
import warnings
import weakref
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
from certificates import Certificates
from support import loop_factory
from tls_peer import Found, Layer, Peer, pattern

WIRES = ("unix", "tcp", "upgraded", "nested", "nested")
SIZES = (0, 1, 2, 100, 1000, 5000, 16384, 16385, 40_000, 100_000, 300_000, 1 << 20)
SIZE_WEIGHTS = (1, 4, 4, 6, 6, 6, 3, 3, 3, 2, 1, 1)
BUFFERS = (37, 1000, 16384, 70_000)
LIMITS = (None, 0, 1, 1000, 20_000, 70_000, 1 << 20)
# Nothing waits longer than that, on a machine that is busy with something else.
PATIENCE_S = 10
SHUTDOWN_TIMEOUT_S = 3


class Base:
    def __init__(self, history):
        self.history = history

    def connection_made(self, transport):
        self.history.called("connection_made")

    def connection_lost(self, exc):
        history = self.history
        history.called("connection_lost")
        history.lost.append(exc)

    def eof_received(self):
        self.history.called("eof_received")
        self.history.act("eof_received")

    def pause_writing(self):
        self.history.called("pause_writing")
        self.history.act("pause_writing")

    def resume_writing(self):
        self.history.called("resume_writing")
        self.history.act("resume_writing")


class Streaming(Base, asyncio.Protocol):
    def data_received(self, data):
        self.history.got(data)
        self.history.act("data_received")


class Buffered(Base, asyncio.BufferedProtocol):
    def __init__(self, history):
        super().__init__(history)
        self.buffer = bytearray(history.random.choice(BUFFERS))

    def get_buffer(self, sizehint):
        self.history.lends += 1
        try:
            self.history.act("get_buffer")
        finally:
            self.history.lends -= 1
        return memoryview(self.buffer)

    def buffer_updated(self, count):
        self.history.got(bytes(self.buffer[:count]))
        self.history.act("buffer_updated")


class Raised(Exception):
    """What the protocol raises now and then."""


class History:
    def __init__(self, loop, certificates, seed, number, outer_ends):
        self.loop, self.certificates = loop, certificates
        self.random = random.Random(f"{seed} {number}")
        self.outer_ends = outer_ends
        self.log = []
        self.transport = None
        self.written = self.certain = self.received = 0
        self.calls, self.lost, self.reports = [], [], []
        self.user_closed = self.user_aborted = self.peer_ended = self.raised = self.broken = False
        self.depth = self.lends = 0
        self.acts = self.random.choice([0, 0, 0.05, 0.3])
        self.raises = self.random.choice([0] * 9 + [0.02])
        self.may_end = self.random.random() < 0.3
        loop.set_exception_handler(lambda _, context: self.reports.append(context))

    def note(self, *words):
        self.log.append((self.loop.time() % 100, *words))

    # ---- what the protocol sees ----------------------------------------------------------------------

    def called(self, name):
        self.note("<-", name)
        if self.lost:
            self.problem(f"{name} after connection_lost")
        self.calls.append(name)

    def got(self, data):
        self.note("<-", len(data), "bytes")
        if self.lost:
            self.problem("data after connection_lost")
        if not data:
            self.problem("no data received")
        if bytes(data) != pattern(self.received, len(data)):
            self.problem(f"something else received at {self.received}, {len(data)} bytes")
        self.received += len(data)

    def problem(self, text):
        self.broken = True
        self.reports.append({"message": "FOUND", "exception": Found(text)})

    def act(self, where):
        """Perhaps something, in a callback."""
        if self.transport is None:
            return
        if self.random.random() < self.raises:
            self.note("raises in", where)
            self.raised = True
            raise Raised(where)
        if self.depth < 3 and self.random.random() < self.acts:
            self.depth += 1
            try:
                self.step(where)
            finally:
                self.depth -= 1

    # ---- what is done --------------------------------------------------------------------------------

    def size(self):
        return self.random.choices(SIZES, SIZE_WEIGHTS)[0]

    def write(self, count=None, lines=False):
        transport, count = self.transport, self.size() if count is None else count
        if self.user_closed:
            return
        data = pattern(self.written, count)
        self.written += count
        if not self.peer_ended and not self.lost and not self.raised:
            self.certain = self.written
        if lines:
            cuts = sorted(self.random.randrange(count + 1) for _ in range(self.random.randrange(4)))
            transport.writelines([data[a:b] for a, b in zip([0, *cuts], [*cuts, count], strict=True)])
        else:
            transport.write(self.random.choice([bytes, bytearray, memoryview])(data))

    def write_small(self):
        for _ in range(self.random.randrange(50)):
            self.write(self.random.randrange(200))

    def write_later(self):
        """By way of the method that CPython's own tests use."""
        count = self.random.choice([1, 300, 20_000])
        if not self.user_closed and not self.peer_ended and not self.lost:
            self.transport._test__append_write_backlog(pattern(self.written, count))
            self.written += count
            self.write(1)

    def resume(self):
        if not self.lost:
            self.transport.resume_reading()

    def pause(self):
        self.transport.pause_reading()
        self.loop.call_later(self.random.choice([0, 0, 0.001, 0.01]), self.resume)

    def limits(self):
        high, low = self.random.choice(LIMITS), None
        if high and self.random.random() < 0.3:
            low = self.random.randrange(high + 1)
        where = self.random.choice([self.transport.set_read_buffer_limits, self.transport.set_write_buffer_limits])
        where(high, low)

    def close(self):
        self.user_closed = True
        self.transport.close()

    def abort(self):
        self.user_closed = self.user_aborted = True
        self.transport.abort()

    def look(self):
        transport = self.transport
        for name in ("peercert", "ssl_object", "cipher", "socket", "nothing"):
            transport.get_extra_info(name)
        sizes = transport.get_write_buffer_size(), transport.get_read_buffer_size()
        return repr(transport), transport.is_closing(), transport.is_reading(), sizes

    def step(self, where="the program"):
        """Something that a program may do with its transport."""
        if self.lost:
            return
        steps = {
            "write": (8, self.write),
            "writelines": (3, lambda: self.write(lines=True)),
            "backlog": (0.3, self.write_later),
            "small writes": (2, self.write_small),
            "pause": (2, self.pause),
            "resume": (1, self.resume),
            "limits": (2, self.limits),
            # (In the middle of get_buffer: whose buffer would it be?)
            "set_protocol": (0 if self.lends else 1, lambda: self.transport.set_protocol(self.protocol())),
            "look": (1, self.look),
            "collect": (0.1, gc.collect),
            "close": (0.5 if self.may_end else 0, self.close),
            "abort": (0.2 if self.may_end else 0, self.abort),
        }
        name = self.random.choices(list(steps), [weight for weight, _ in steps.values()])[0]
        self.note(name, "in", where, f"({self.written})")
        steps[name][1]()

    def protocol(self):
        return self.random.choice([Streaming, Buffered])(self)

    def peer_step(self):
        peer = self.peer
        steps = {"write": 6, "push": 4, "push some": 6, "pull": 4, "pull some": 4, "key update": 1}
        name = self.random.choices(list(steps), list(steps.values()))[0]
        self.note("peer:", name, f"sent {peer.sent} received {peer.received} queue {len(peer.unsent)}")
        if name == "write":
            peer.write(self.size())
        elif name == "push":
            peer.push()
        elif name == "push some":
            peer.push(self.random.choice([1, 3, 5, 100, 5000, 20_000]))
        elif name == "pull":
            peer.pull()
        elif name == "pull some":
            peer.pull(self.random.choice([1, 5, 100, 5000, 20_000]))
        elif not peer.said_bye:
            peer.layers[-1].update_key()

    # ---- the connection ------------------------------------------------------------------------------

    def sockets(self, wire):
        if wire == "tcp":
            with socket.create_server(("127.0.0.1", 0)) as listener:
                ours = socket.create_connection(listener.getsockname())
                theirs, _ = listener.accept()
        else:
            ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
            if self.random.random() < 0.7:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        return ours, theirs

    async def connect(self):
        wire = self.random.choice(WIRES)
        server_side = self.random.random() < 0.5
        version = self.random.choice([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
        self.note(wire, "server" if server_side else "client", version.name, "acts", self.acts, "raises", self.raises)
        self.wire = wire
        contexts = [self.certificates.client_context(), self.certificates.server_context()]
        for context in contexts:
            context.maximum_version = version
        ours, theirs = contexts[server_side], contexts[not server_side]
        sock, peer_sock = self.sockets(wire)
        self.peer = peer = Peer(peer_sock)
        times = {"ssl_handshake_timeout": PATIENCE_S, "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT_S}
        name = {} if server_side else {"server_hostname": "localhost"}

        async def first(protocol, tls):
            options = {"ssl": ours, **times, **name} if tls else {}
            if server_side:
                return await self.loop.connect_accepted_socket(lambda: protocol, sock, **options)
            return await self.loop.create_connection(lambda: protocol, sock=sock, **options)

        async def make():
            protocol = self.protocol()
            tls = wire != "upgraded"
            if wire == "nested":
                peer.layers.append(Layer(theirs, not server_side))
            if tls and wire != "nested":
                peer.layers.append(Layer(theirs, not server_side))
            transport, _ = await first(protocol, tls)
            if wire in ("upgraded", "nested"):
                peer.layers.append(Layer(theirs, not server_side))
                transport = await self.loop.start_tls(
                    transport, protocol, ours, server_side=server_side, **times, **name
                )
            return transport

        making = self.loop.create_task(make())
        cut = self.random.randrange(4000) if self.random.random() < 0.05 else None
        until = time.monotonic() + PATIENCE_S
        # (When the last layer is made, our side may still wait for the end of the handshake.)
        while not (making.done() and all(layer.handshake() for layer in peer.layers)):
            if time.monotonic() > until:
                raise Found("the handshake does not end")
            await asyncio.sleep(0)
            if peer.layers:
                peer.pull()
                if all(layer.handshake() for layer in peer.layers[:-1]):
                    peer.layers[-1].handshake()
                if cut is not None:
                    peer.push(min(cut, 50))
                    cut -= 50
                    if cut <= 0:
                        peer_sock.close()
                        peer.gone = True
                        return await self.fail(making)
                else:
                    peer.push(self.random.choice([None, None, 1000, 7]))
        self.transport = making.result()
        self.calls.remove("connection_made")
        return True

    async def fail(self, making):
        """The peer has gone in the middle of the handshake, or just after."""
        self.note("handshake cut")
        done, _ = await asyncio.wait([making], timeout=PATIENCE_S)
        if not done:
            making.cancel()
            raise Found("nobody hears of a handshake that was cut")
        if making.exception() is None:
            making.result().abort()
        elif not isinstance(making.exception(), OSError):
            raise Found(f"a handshake that was cut: {making.exception()!r}")
        self.reports.clear()
        return False

    async def turns(self):
        for _ in range(self.random.choice([0, 1, 1, 2, 5])):
            await asyncio.sleep(0)

    async def until(self, done, what, peer_reads=True):
        """Both ends only read, until something has come about."""
        until = time.monotonic() + PATIENCE_S
        turns = 0
        while not done():
            if time.monotonic() > until:
                raise Found(f"stuck: {what}: {self.describe()}")
            with contextlib.suppress(ConnectionError):
                self.peer.push()
            if peer_reads:
                with contextlib.suppress(ConnectionError):
                    self.peer.pull()
            turns += 1
            await asyncio.sleep(0 if turns % 20 else 0.001)

    def describe(self):
        peer = self.peer
        return (
            f"{self.wire}, peer sent {peer.sent} (queue {len(peer.unsent)}), received here {self.received};"
            f" written {self.written}, certain {self.certain}, received there {peer.received};"
            f" {self.transport!r}, lost {self.lost}, closed {self.user_closed},"
            f" peer clean {peer.clean} gone {peer.gone}, calls {self.calls[-5:]}"
        )

    def is_settled(self):
        return (
            self.peer.is_drained()
            and self.received == self.peer.sent
            and self.peer.received == self.written
            and self.transport.get_write_buffer_size() == 0
            and (not self.calls or self.calls[-1] != "pause_writing")
        )

    def is_ended(self):
        return self.user_closed or self.raised or bool(self.lost)

    async def settle(self):
        await self.until(lambda: self.is_ended() or self.is_settled(), "settle")

    async def run(self):
        if not await self.connect():
            return
        for _ in range(self.random.choice([1, 5, 20, 60])):
            with contextlib.suppress(ConnectionError):
                if self.random.random() < 0.5:
                    self.step_safely()
                else:
                    self.peer_step()
            await self.turns()
            if self.is_ended():
                break
            if self.random.random() < 0.03:
                await self.settle()
        await self.end()
        self.check()

    def step_safely(self):
        with contextlib.suppress(Raised):  # of pause_writing & Co., called from within
            self.step()

    # ---- the end -------------------------------------------------------------------------------------

    async def end(self):
        peer = self.peer
        kinds = [self.end_by_us, self.end_by_peer, self.end_by_peer, self.end_by_abort, self.end_by_reset]
        if self.is_ended():
            self.note("ended already")
            await self.end_anyhow()
        else:
            kind = self.random.choice(kinds)
            self.note(kind.__name__)
            await kind()
        until = time.monotonic() + PATIENCE_S
        while not self.lost:
            if time.monotonic() > until:
                raise Found(f"connection_lost does not come: {self.describe()}")
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                peer.pull()
                if peer.clean and not peer.said_bye:
                    peer.bye(len(peer.layers))
                peer.push()
            await asyncio.sleep(0.0005)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while not peer.gone:  # what is in the socket still
                peer.pull()
                await asyncio.sleep(0)

    async def end_anyhow(self):
        """Something else has ended it, or is about to."""
        self.broken = True
        if not self.user_closed:
            self.close()

    async def end_by_us(self):
        """Everything has arrived; then a last write, and close."""
        self.may_end = False
        self.acts = 0
        await self.settle()
        if self.is_ended():
            return await self.end_anyhow()
        self.write()
        await self.turns()
        self.write()
        self.close()
        await self.until(lambda: self.peer.clean or self.lost or self.raised, "close")
        if not self.raised and self.peer.received != self.written:
            raise Found(f"not all has arrived after close: {self.describe()}")
        return None

    async def end_by_peer(self):
        """The peer says that no more will come, while there is something to write; then it reads."""
        peer = self.peer
        self.may_end = False
        notifies = self.random.choice([0, 1, 1, 2])
        self.note("close_notify", notifies)
        fin = notifies == 0 or self.random.random() < 0.5
        if self.wire == "nested" and not self.outer_ends:
            notifies, fin = 1, False
        self.write()
        peer.write(self.size())
        if self.random.random() < 0.3:
            self.pause()
        await self.turns()
        self.peer_ended = True
        peer.said_bye = True
        await self.until(lambda: self.is_ended() or peer.is_drained(), "last push", self.random.random() < 0.5)
        if self.is_ended():
            return await self.end_anyhow()
        if notifies:
            peer.bye(min(notifies, len(peer.layers)))
            await self.until(lambda: self.is_ended() or peer.is_drained(), "bye", self.random.random() < 0.5)
        if fin:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_WR)
        if self.random.random() < 0.3:
            await asyncio.sleep(self.random.choice([0.001, 0.02]))
        if self.random.random() < 0.2:
            self.write()  # may be refused
        if self.random.random() < 0.2:
            self.close()
        await self.until(lambda: self.lost or self.raised or peer.gone or peer.clean, "the peer's end")
        self.note("peer has come to the end:", self.describe())
        if not fin and not self.raised:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                peer.bye(len(peer.layers))
                peer.push()
        return None

    async def end_by_abort(self):
        self.broken = True
        if self.random.random() < 0.5:
            self.write()
        self.abort()

    async def end_by_reset(self):
        self.broken = True
        if self.wire == "tcp":
            self.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with contextlib.suppress(ConnectionError):
            self.peer.push(self.random.choice([1, 100, None]))
        self.peer.sock.close()
        self.peer.gone = True
        for _ in range(3):
            self.step_safely()
            await self.turns()
        if not self.lost:
            self.close()

    def check(self):
        peer = self.peer
        for context in self.reports:
            exc = context.get("exception")
            if not (self.raised and isinstance(exc, Raised)):
                raise Found(f"reported: {context['message']}: {exc!r}")
        if len(self.lost) != 1:
            raise Found(f"lost {len(self.lost)} times")
        if self.calls.count("eof_received") > 1:
            raise Found("eof_received twice")
        flow = [name for name in self.calls if name in ("pause_writing", "resume_writing")]
        if flow != ["pause_writing", "resume_writing"] * (len(flow) // 2) + ["pause_writing"] * (len(flow) % 2):
            raise Found(f"pause and resume do not alternate: {flow}")
        if peer.received > self.written or self.received > peer.sent:
            raise Found("more has come than was sent")
        if peer.clean and not self.user_aborted and not self.raised and peer.received < self.certain:
            raise Found(f"the peer has a clean end, but not all: {self.describe()}")
        # (Data that comes after `close` is an error of libssl's, and ends everything.)
        is_late = self.user_closed and "APPLICATION_DATA_AFTER_CLOSE_NOTIFY" in repr(self.lost[0])
        if self.broken or self.raised or is_late:
            return
        if peer.received < self.certain:
            raise Found(f"not all has come to the peer: {self.describe()}")
        if self.received < peer.sent and not self.user_closed:
            raise Found(f"not all has been received: {self.describe()}")
        if self.lost[0] is not None:
            raise Found(f"lost because of {self.lost[0]!r}: {self.describe()}")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


async def one(loop, certificates, *options):
    """A history. Returns what was found, what happened, and the references of what has to go."""
    history = History(loop, certificates, *options)
    found = None
    try:
        await history.run()
    except Found as exc:
        found = str(exc)
    except Exception as exc:
        found = f"the fuzzer itself: {type(exc).__name__}: {exc}"
    references = []
    if history.transport is not None:
        references = [weakref.ref(history.transport), weakref.ref(history)]
        history.transport.abort()
    if hasattr(history, "peer"):
        history.peer.sock.close()
    loop.set_exception_handler(None)
    await asyncio.sleep(0.02)  # the timers of pauses, and connection_lost
    return found, history.log, references


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--histories", type=int, default=100)
    parser.add_argument("--only", type=int, help="this history of the seed alone")
    parser.add_argument("--engine", default="libssl", choices=["libssl", "python"])
    parser.add_argument("--loop", default="velodrome")
    parser.add_argument("--outer-ends", action="store_true", help="TLS in TLS may end from below, which loses data")
    parser.add_argument("--verbose", action="store_true", help="tell the histories in which something was found")
    options = parser.parse_args()

    faulthandler.enable()
    warnings.simplefilter("ignore")
    os.environ["VELODROME_TLS"] = options.engine
    logging.disable(logging.CRITICAL)
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder))
        loop = loop_factory(options.loop)()
        loop.run_until_complete(one(loop, certificates, options.seed, "warm-up", False))
        for number in range(options.histories) if options.only is None else [options.only]:
            faulthandler.dump_traceback_later(6 * PATIENCE_S, exit=True)
            before = descriptors()
            found, log, references = loop.run_until_complete(
                one(loop, certificates, options.seed, number, options.outer_ends)
            )
            gc.collect()
            if found is None and any(reference() is not None for reference in references):
                found = f"objects are left: {[type(it()).__name__ for it in references if it() is not None]}"
            if found is None and descriptors() != before:
                found = f"{descriptors() - before} descriptors are left"
            faulthandler.cancel_dump_traceback_later()
            if found is not None:
                findings.append(found)
                print(f"history {number}: {found}", flush=True)
                for at, *words in log if options.verbose else ():
                    print(f"   {at:.4f}", *words, flush=True)
        loop.close()
    print(f"{options.histories if options.only is None else 1} histories, {len(findings)} findings")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
