"""Threads for blocking calls, and the name look-ups that use them."""

import asyncio
import concurrent.futures
import socket
import sys
import threading
import warnings

import pytest
from support import run_child


async def test_run_in_executor_runs_in_another_thread(loop):
    thread = await loop.run_in_executor(None, threading.get_ident)
    assert thread != threading.get_ident()


async def test_run_in_executor_passes_arguments_and_result(loop):
    assert await loop.run_in_executor(None, divmod, 7, 2) == (3, 1)


async def test_run_in_executor_passes_the_exception(loop):
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(None, divmod, 1, 0)


async def test_run_in_executor_uses_the_given_executor(loop):
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="given") as executor:
        name = await loop.run_in_executor(executor, lambda: threading.current_thread().name)
    assert name.startswith("given")


async def test_the_default_executor_is_made_when_needed_and_kept(loop):
    names = [await loop.run_in_executor(None, lambda: threading.current_thread().name) for _ in range(2)]
    assert all(name.startswith("asyncio_") for name in names)


async def test_set_default_executor_is_used(loop):
    executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine")
    loop.set_default_executor(executor)
    assert (await loop.run_in_executor(None, lambda: threading.current_thread().name)).startswith("mine")


@pytest.mark.parametrize("executor", [None, 1, "pool", object()])
def test_set_default_executor_wants_a_thread_pool(loop, executor):
    with pytest.raises(TypeError, match=r"^executor must be ThreadPoolExecutor instance$"):
        loop.set_default_executor(executor)


async def test_many_calls_all_come_back(loop):
    results = await asyncio.gather(*(loop.run_in_executor(None, int, str(number)) for number in range(200)))
    assert results == list(range(200))


async def test_a_waiting_call_can_be_cancelled(loop):
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        release = threading.Event()
        ran = []
        busy = loop.run_in_executor(executor, release.wait)
        waiting = loop.run_in_executor(executor, ran.append, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0)  # the executor hears of it from a callback
        release.set()
        await busy
    assert ran == []


async def test_to_thread_runs_in_the_context(loop):
    assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()


async def test_shutdown_default_executor_joins_the_threads(loop):
    before = threading.active_count()
    await asyncio.gather(*(loop.run_in_executor(None, threading.active_count) for _ in range(4)))
    await loop.shutdown_default_executor()
    assert threading.active_count() == before


async def test_shutdown_default_executor_without_one_is_harmless(loop):
    await loop.shutdown_default_executor()
    await loop.shutdown_default_executor()


async def test_after_the_shutdown_the_default_executor_refuses(loop):
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError, match=r"^Executor shutdown has been called$"):
        loop.run_in_executor(None, print)


async def test_after_the_shutdown_another_executor_still_runs(loop):
    await loop.shutdown_default_executor()
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        assert await loop.run_in_executor(executor, int, "5") == 5


@pytest.mark.skipif(sys.version_info < (3, 12), reason="shutdown_default_executor() takes a timeout since 3.12")
async def test_shutdown_default_executor_gives_up_after_its_timeout(loop):
    release = threading.Event()
    future = loop.run_in_executor(None, release.wait)
    await asyncio.sleep(0)
    # 3.12 waits for the thread itself, and so cannot give up before it has ended.
    if sys.version_info >= (3, 13):
        with pytest.warns(RuntimeWarning, match="The executor did not finishing joining its threads within 0.01"):
            await loop.shutdown_default_executor(0.01)
    release.set()
    await future
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await loop.shutdown_default_executor(60)


def test_close_ends_the_threads_of_the_default_executor(loop):
    threads = []
    loop.run_until_complete(loop.run_in_executor(None, lambda: threads.append(threading.current_thread())))
    loop.close()
    threads[0].join()


# --- names ----------------------------------------------------------------------------------------

NUMERIC = [
    ("127.0.0.1", 80, {}),
    ("127.0.0.1", "80", {"type": socket.SOCK_STREAM}),
    ("127.0.0.1", 0, {"type": socket.SOCK_STREAM, "family": socket.AF_INET}),
    ("::1", 443, {"type": socket.SOCK_STREAM}),
    ("::1", 443, {"type": socket.SOCK_DGRAM, "family": socket.AF_INET6}),
    (b"127.0.0.1", 80, {"type": socket.SOCK_STREAM}),
    ("127.0.0.1", None, {"type": socket.SOCK_STREAM}),
    (None, 80, {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}),
    (None, 80, {"type": socket.SOCK_STREAM}),
    ("127.0.0.1", 80, {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_TCP}),
    ("127.0.0.1", 80, {"flags": socket.AI_CANONNAME, "type": socket.SOCK_STREAM}),
    ("127.0.0.1", 80, {"flags": socket.AI_NUMERICHOST, "proto": socket.IPPROTO_UDP}),
    ("127.0.0.1", 65535, {"type": socket.SOCK_DGRAM}),
    ("127.0.0.1", 80, {"type": 1}),
    ("0.0.0.0", 80, {"type": socket.SOCK_STREAM, "family": 2, "proto": 6}),
    ("2001:DB8:0:0::1", 80, {"type": socket.SOCK_STREAM, "family": socket.AF_INET6}),
    ("::ffff:1.2.3.4", 80, {"type": socket.SOCK_STREAM}),
    ("::1.2.3.4", 80, {"type": socket.SOCK_STREAM}),
    ("fe80::1", 80, {"type": socket.SOCK_STREAM}),
    ("::", 80, {"type": socket.SOCK_DGRAM}),
    ("127.0.0.1", None, {"type": socket.SOCK_RAW}),
    ("127.0.0.01", 80, {"type": socket.SOCK_STREAM}),
    ("127.1", 80, {"type": socket.SOCK_STREAM}),
    ("localhost", 80, {"type": socket.SOCK_STREAM}),
]


@pytest.mark.parametrize(("host", "port", "options"), NUMERIC)
async def test_getaddrinfo_answers_as_the_socket_module_does(loop, host, port, options):
    answers = await loop.getaddrinfo(host, port, **options)
    expected = socket.getaddrinfo(host, port, **options)
    assert answers == expected
    assert [list(map(type, answer)) for answer in answers] == [list(map(type, answer)) for answer in expected]


@pytest.mark.parametrize(
    ("host", "port", "options"),
    [
        ("127.0.0.1", 80, {"type": socket.SOCK_STREAM, "family": socket.AF_INET6}),
        ("::1", 80, {"type": socket.SOCK_STREAM, "family": socket.AF_INET}),
        ("127.0.0.1", 80, {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_UDP}),
        ("127.0.0.1", 80, {"family": socket.AF_INET6}),
        ("not an address", 80, {"flags": socket.AI_NUMERICHOST}),
        ("127.0.0.1", "no-such-service", {}),
        (None, None, {}),
        ("127.0.0.1", 80, {"proto": 12345}),
    ],
)
async def test_getaddrinfo_fails_as_the_socket_module_does(loop, host, port, options):
    with pytest.raises(socket.gaierror) as expected:
        socket.getaddrinfo(host, port, **options)
    with pytest.raises(socket.gaierror) as caught:
        await loop.getaddrinfo(host, port, **options)
    assert caught.value.args == expected.value.args


@pytest.mark.parametrize("port", [65536, -1, 1 << 80])
async def test_getaddrinfo_has_the_socket_modules_view_of_ports(loop, port):
    def outcome_of(call):
        try:
            return call()
        except (OSError, OverflowError) as error:
            return type(error), error.args

    expected = outcome_of(lambda: socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM))
    try:
        assert await loop.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM) == expected
    except (OSError, OverflowError) as error:
        assert (type(error), error.args) == expected


def test_getaddrinfo_can_be_audited(loop_name):
    """In a child: a hook stays for ever."""
    code = """
        import asyncio, socket, sys
        sys.addaudithook(lambda event, values: print(event, values) if event == "socket.getaddrinfo" else None)
        loop = new_event_loop()
        loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM))
        loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80, family=socket.AF_INET, type=1, proto=6))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    """
    one, other = run_child(loop_name, code).stdout.splitlines()
    assert one == "socket.getaddrinfo ('127.0.0.1', 80, 0, 1, 0)"
    assert other == "socket.getaddrinfo ('127.0.0.1', 80, 2, 1, 6)"


@pytest.mark.parametrize("options", [{}, {"family": socket.AF_INET, "type": socket.SOCK_STREAM}])
async def test_getaddrinfo_refuses_nonsense(loop, options):
    with pytest.raises(TypeError):
        await loop.getaddrinfo(1.5, 80, **options)


@pytest.mark.parametrize("nonsense", [None, 1.0, "1", b""])
@pytest.mark.parametrize("name", ["family", "type", "proto", "flags"])
async def test_getaddrinfo_takes_whole_numbers_only(loop, name, nonsense):
    options = {"type": socket.SOCK_STREAM, name: nonsense}
    with pytest.raises(TypeError) as expected:
        socket.getaddrinfo("127.0.0.1", 80, **options)
    with pytest.raises(TypeError) as caught:
        await loop.getaddrinfo("127.0.0.1", 80, **options)
    assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize("address", [("127.0.0.1", 80), ("::1", 80, 0, 0)])
async def test_getnameinfo_answers_as_the_socket_module_does(loop, address):
    for flags in (socket.NI_NUMERICHOST | socket.NI_NUMERICSERV, socket.NI_NUMERICHOST):
        assert await loop.getnameinfo(address, flags) == socket.getnameinfo(address, flags)


async def test_getnameinfo_fails_as_the_socket_module_does(loop):
    with pytest.raises(socket.gaierror):
        await loop.getnameinfo(("not an address", 80))


async def test_getaddrinfo_works_in_debug_mode(loop):
    loop.set_debug(True)
    assert await loop.getaddrinfo("127.0.0.1", 80) == socket.getaddrinfo("127.0.0.1", 80)
