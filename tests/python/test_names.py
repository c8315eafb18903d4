"""Which look-ups of names need a thread."""

import contextlib
import socket
import subprocess
import sys
import threading

import pytest
from support import child_environment

NUMBERS = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


@pytest.fixture
def loop(new_loop):
    with contextlib.closing(new_loop()) as loop:
        yield loop
        loop.run_until_complete(loop.shutdown_default_executor())


@pytest.fixture
def asked_in(monkeypatch):
    """The threads that ask the system, in order."""
    threads = []

    def noting(function):
        def note(*arguments, **options):
            threads.append(threading.current_thread())
            return function(*arguments, **options)

        return note

    for name in ("getaddrinfo", "getnameinfo"):
        monkeypatch.setattr(socket, name, noting(getattr(socket, name)))
    return threads


ADDRESSES = ["127.0.0.1", "::1", b"127.0.0.1", None]


@pytest.mark.parametrize("port", [80, "80", 0])
@pytest.mark.parametrize("host", ADDRESSES)
def test_an_address_needs_no_thread(loop, asked_in, host, port):
    found = loop.run_until_complete(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    assert asked_in == [threading.main_thread()]
    assert found == socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


@pytest.mark.parametrize(
    ("host", "port"), [("localhost", 80), ("127.0.0.1", "http"), ("127.1", 80), ("::1%lo", 80), ("1.2.3.4\0", 80)]
)
def test_a_name_is_looked_up_in_a_thread(loop, asked_in, host, port):
    with contextlib.suppress(OSError, ValueError):
        loop.run_until_complete(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    assert len(asked_in) == 1
    assert threading.main_thread() not in asked_in


def test_debug_mode_measures_every_look_up_in_a_thread(loop, asked_in):
    loop.set_debug(True)
    loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80))
    assert len(asked_in) == 1
    assert threading.main_thread() not in asked_in


def test_numbers_of_an_address_need_no_thread(loop, asked_in):
    assert loop.run_until_complete(loop.getnameinfo(("127.0.0.1", 80), NUMBERS)) == ("127.0.0.1", "80")
    assert asked_in == [threading.main_thread()]


def test_the_name_of_an_address_is_looked_up_in_a_thread(loop, asked_in):
    loop.run_until_complete(loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST))
    assert len(asked_in) == 1
    assert threading.main_thread() not in asked_in


@pytest.mark.parametrize("arguments", [(80,), ((),), ((80,), NUMBERS), (("127.0.0.1", 80), "0")])
def test_nonsense_is_refused_as_the_socket_module_does(loop, arguments):
    with pytest.raises(TypeError) as expected:
        socket.getnameinfo(*arguments, *((0,) if len(arguments) == 1 else ()))
    with pytest.raises(TypeError) as caught:
        loop.run_until_complete(loop.getnameinfo(*arguments))
    assert caught.value.args == expected.value.args


def test_a_function_that_was_replaced_before_the_import_is_asked():
    program = """
import asyncio, functools, socket
original = socket.getaddrinfo

@functools.wraps(original)
def getaddrinfo(*arguments):
    print("asked")
    return original(*arguments)

socket.getaddrinfo = getaddrinfo

import velodrome

async def main():
    await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)

velodrome.run(main())
"""
    child = subprocess.run([sys.executable, "-c", program], env=child_environment(), capture_output=True, text=True)
    assert (child.stdout, child.stderr, child.returncode) == ("asked\n", "", 0)
