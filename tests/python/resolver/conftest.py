"""A loop with look-ups that the test answers; no thread of them is left when it ends."""

import contextlib
import socket

import pytest

# So that its assertions tell as much as those of the tests.
pytest.register_assert_rewrite("look_ups")

from look_ups import Blocked, join_all, resolver_threads
from velodrome import _resolver


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    join_all(resolver_threads())


@pytest.fixture
def loop(new_loop, no_thread_is_left):
    reports = []
    with contextlib.closing(new_loop()) as loop:
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        yield loop
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
    assert not reports


@pytest.fixture
def blocked(monkeypatch, no_thread_is_left):
    blocked = Blocked()
    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    yield blocked
    blocked.released.set()


@pytest.fixture
def answer(monkeypatch):
    """Makes the function with which `socket.getaddrinfo` is replaced."""
    return lambda function: monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_: function(host))


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setattr(_resolver, "_MOST_THREADS", 1)
