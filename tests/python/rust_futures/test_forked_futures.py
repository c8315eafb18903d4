"""os.fork while Rust futures wait: the parent does not notice, and the child starts afresh or goes on."""

import asyncio
import gc
import os
import socket
import sys
import traceback
import weakref

import pytest
import velodrome
from support import gone

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def in_child(function):
    """Call it in a forked child, which ends without a word of the test's own end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio._set_running_loop(None)  # up to 3.11 a forked child believes to run its parent's
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def listening():
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    return listener, f"{host}:{port}"


class Waiting:
    """A loop in whose futures Rust waits for a socket, a timer and another future."""

    def __init__(self, make_loop, probes):
        self.loop = make_loop()
        self.listener, self.address = listening()
        self.probes = probes
        self.loop.run_until_complete(self.begin())
        self.peer = self.listener.accept()[0]

    async def begin(self):
        inner = asyncio.get_running_loop().create_future()
        self.resolve = inner.set_result
        self.futures = [
            self.probes.exchange_on_any_loop(self.address, b"x"),
            self.probes.sleep_on_any_loop(0.05),
            self.probes.awaits(inner, True),
        ]
        await asyncio.sleep(0.01)

    def end(self, answer=b"y"):
        async def all_of_them():
            return await asyncio.wait_for(asyncio.gather(*self.futures), 10)

        self.resolve("resolved")
        if answer:
            self.peer.sendall(answer)
            self.peer.shutdown(socket.SHUT_WR)
        assert self.loop.run_until_complete(all_of_them()) == [answer, 0.05, "resolved"]
        self.peer.close()
        self.listener.close()


def use_another_loop(make_loop, probes):
    Waiting(make_loop, probes).end()


def test_a_child_makes_a_loop_of_its_own(any_loop, probes):
    waiting = Waiting(any_loop, probes)
    in_child(lambda: use_another_loop(any_loop, probes))
    waiting.end()
    waiting.loop.close()


def test_a_child_forked_off_by_a_callback_makes_a_loop_of_its_own(any_loop, probes):
    waiting = Waiting(any_loop, probes)

    async def fork():
        in_child(lambda: use_another_loop(any_loop, probes))

    waiting.loop.run_until_complete(fork())
    waiting.end()
    waiting.loop.close()


@pytest.mark.parametrize("any_loop", ["velodrome", "asyncio"], indirect=True)  # uvloop keeps its loop there
def test_a_child_that_frees_its_parents_loop_takes_nothing_from_the_parent(any_loop, probes):
    held = [Waiting(any_loop, probes)]

    def child():
        loop, dropped = weakref.ref(held[0].loop), probes.dropped()
        held.clear()
        gc.collect()
        assert gone(loop)
        assert probes.dropped() == dropped + 1
        use_another_loop(any_loop, probes)

    in_child(child)
    held[0].end()
    held[0].loop.close()


def test_a_child_may_go_on_with_its_parents_loop(probes):
    waiting = Waiting(velodrome.new_event_loop, probes)
    in_child(waiting.end)
    # The socket is one, as with asyncio: the child has read the answer, and the end is left.
    waiting.end(answer=b"")
    waiting.loop.close()


def test_a_child_may_close_its_parents_loop(probes):
    waiting = Waiting(velodrome.new_event_loop, probes)

    def child():
        dropped = probes.dropped()
        waiting.loop.close()
        assert probes.dropped() == dropped + 1
        use_another_loop(velodrome.new_event_loop, probes)

    in_child(child)
    waiting.end()
    waiting.loop.close()
