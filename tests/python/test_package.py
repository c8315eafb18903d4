"""What the package offers beside the loop itself."""

import asyncio
import inspect
import signal
import socket
import sys
import threading

import pytest
import velodrome
from support import run_child


async def running():
    return asyncio.get_running_loop()


def test_new_event_loop_makes_a_loop():
    loop = velodrome.new_event_loop()
    assert type(loop) is velodrome.Loop
    assert isinstance(loop, asyncio.AbstractEventLoop)
    loop.close()


def test_a_new_loop_is_nobodys_current_loop():
    def target():
        loop = velodrome.new_event_loop()
        with pytest.raises(RuntimeError):
            asyncio.get_event_loop()
        loop.close()
        done.append(True)

    done = []
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert done == [True]


def test_a_loop_has_no_dictionary_until_a_program_sets_something():
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)
        loop.set_task_factory(None)
        loop.add_signal_handler(signal.SIGUSR1, print)
        await loop.run_in_executor(None, int)
        await loop.getaddrinfo("localhost", 80)
        async for _ in numbers():
            break
        one, other = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=one)
        writer.close()
        other.close()
        loop.remove_signal_handler(signal.SIGUSR1)

    async def numbers():
        yield 1

    loop = velodrome.new_event_loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
        loop.set_debug(True)
        runner.run(asyncio.sleep(0))
    # For the interpreter to remember what a method's name means.
    assert vars(loop) == {}
    loop.anything = 1
    assert vars(loop) == {"anything": 1}


def test_run_runs_on_velodrome_and_closes_the_loop():
    loop = velodrome.run(running())
    assert type(loop) is velodrome.Loop
    assert loop.is_closed()


def test_run_raises_what_the_coroutine_raised():
    async def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        velodrome.run(fail())


@pytest.mark.parametrize("debug", [True, False])
def test_run_sets_debug(debug):
    async def get_debug():
        return asyncio.get_running_loop().get_debug()

    assert velodrome.run(get_debug(), debug=debug) is debug


def test_run_takes_another_factory():
    assert type(velodrome.run(running(), loop_factory=asyncio.SelectorEventLoop)) is asyncio.SelectorEventLoop


def test_run_inside_a_running_loop_is_an_error():
    async def nested():
        coroutine = running()
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            velodrome.run(coroutine)
        coroutine.close()

    velodrome.run(nested())


def test_run_wants_a_coroutine():
    with pytest.raises((TypeError, ValueError)):
        velodrome.run(42)


def test_the_version_is_a_version():
    assert velodrome.__version__.split(".")[0].isdigit()
    assert "__version__" in velodrome.__all__


def test_importing_velodrome_touches_no_policy():
    """Policies warn on the Pythons that deprecate them; only who asks for velodrome's shall see that."""
    code = """
        import asyncio, velodrome
        velodrome.new_event_loop().close()
        velodrome.run(asyncio.sleep(0))
        print("quiet")
    """
    assert run_child("velodrome", code, options=["-W", "error"]).stdout == "quiet\n"


def test_install_makes_velodromes_loops_the_default():
    code = """
        import asyncio, velodrome, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        velodrome.install()
        async def running():
            return asyncio.get_running_loop()
        print(type(asyncio.run(running())) is velodrome.Loop)
        loop = asyncio.new_event_loop()
        print(type(loop) is velodrome.Loop)
        loop.close()
        velodrome.uninstall()
        loop = asyncio.new_event_loop()
        print(type(loop) is velodrome.Loop)
        loop.close()
    """
    assert run_child("velodrome", code).stdout.split() == ["True", "True", "False"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="policies are deprecated since 3.14")
def test_install_warns_where_policies_are_deprecated():
    code = """
        import velodrome, warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            velodrome.install()
        print([(warning.category.__name__, warning.filename) for warning in caught])
        print(caught[0].message)
    """
    seen, message = run_child("velodrome", code).stdout.splitlines()
    assert seen == "[('DeprecationWarning', '<string>')]"
    # What is the matter, and what to write instead.
    assert "policies" in message and "3.16" in message
    assert "velodrome.run(main())" in message and "loop_factory=velodrome.new_event_loop" in message


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="policies are deprecated since 3.14")
def test_install_is_quiet_where_policies_are_not_deprecated():
    code = "import velodrome; velodrome.install(); velodrome.uninstall(); print('quiet')"
    assert run_child("velodrome", code, options=["-W", "error"]).stdout == "quiet\n"


def test_the_policy_gives_each_thread_a_loop_of_its_own():
    code = """
        import asyncio, threading, velodrome, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(velodrome.EventLoopPolicy())
        seen = []
        def target():
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            seen.append(asyncio.get_event_loop() is loop and type(loop) is velodrome.Loop)
            loop.close()
        threads = [threading.Thread(target=target) for _ in range(3)]
        for thread in threads:
            thread.start()
            thread.join()
        print(seen)
    """
    assert run_child("velodrome", code).stdout == "[True, True, True]\n"


def test_a_subclass_may_override_what_runs_often():
    """The quick ways past the interpreter are for the loop's own methods; a subclass's sees every call."""
    calls = []

    class Counting(velodrome.Loop):
        def call_soon(self, callback, *args, context=None):
            calls.append(callback)
            return super().call_soon(callback, *args, context=context)

    loop = Counting()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert len(calls) >= 2


def test_timers_of_one_time_run_in_the_order_of_registration():
    loop = velodrome.new_event_loop()
    ran = []
    when = loop.time() + 0.001
    for number in range(500):
        loop.call_at(when, ran.append, number)
    loop.call_at(when, loop.stop)
    loop.run_forever()
    loop.close()
    assert ran == list(range(500))


def test_a_stop_in_another_thread_is_heard_before_the_first_sleep():
    loop = velodrome.new_event_loop()

    def stop(frame, event, argument):
        if event == "call":
            loop.stop()

    def run():
        # What is called in Python once the loop has nothing to do is called on its way to sleep.
        loop.call_soon(sys.setprofile, stop)
        loop.run_forever()
        sys.setprofile(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    loop.close()


PUBLIC_METHODS = [
    name
    for name, method in inspect.getmembers(asyncio.SelectorEventLoop, callable)
    if not name.startswith("_")
]


def parameters_of(method):
    """As a caller sees them: whether `self` could be a keyword is nobody's concern."""
    _, *parameters = inspect.signature(method).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]


@pytest.mark.parametrize("name", PUBLIC_METHODS)
def test_public_methods_have_asyncios_parameters(name):
    expected = parameters_of(getattr(asyncio.SelectorEventLoop, name))
    actual = parameters_of(getattr(velodrome.Loop, name))
    if name == "create_unix_server":
        mode = ("mode", inspect.Parameter.KEYWORD_ONLY, None)
        assert mode in actual
        actual.remove(mode)
        expected = [parameter for parameter in expected if parameter != mode]
    if name == "create_task" and sys.version_info < (3, 14):
        # The native method has one signature for all versions, the newest.
        assert [parameter[0] for parameter in actual] == ["coro", "kwargs"]
        return
    assert actual == expected


STREAM_BASES = (asyncio.selector_events._SelectorSocketTransport, asyncio.Transport)
DATAGRAM_BASES = (asyncio.selector_events._SelectorDatagramTransport, asyncio.DatagramTransport)
TRANSPORT_METHODS = [
    (native, base, name)
    for native, bases in [("StreamTransport", STREAM_BASES), ("DatagramTransport", DATAGRAM_BASES)]
    for base in bases
    for name in dir(base)
    if not name.startswith("_") and callable(getattr(base, name))
]


@pytest.mark.parametrize(("native", "base", "name"), TRANSPORT_METHODS)
def test_public_methods_of_transports_take_what_asyncios_take(native, base, name):
    """The same positions, names that work as keywords, and as many that may be left out."""
    expected = inspect.signature(getattr(base, name))
    actual = inspect.signature(getattr(getattr(velodrome._native, native), name))
    _, *wanted = expected.parameters.values()
    _, *given = actual.parameters.values()
    assert len(given) == len(wanted)
    for ours, theirs in zip(given, wanted, strict=True):
        assert (ours.default is ours.empty) == (theirs.default is theirs.empty), theirs
        # A name that starts with an underscore, or "/", says that only the position counts.
        assert ours.name.lstrip("_") == theirs.name or ours.kind is ours.POSITIONAL_ONLY, theirs


def test_server_is_asyncios():
    """There is nothing to compare: a server of velodrome is asyncio's own."""

    async def main():
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        async with server:
            return type(server)

    assert velodrome.run(main()) is asyncio.Server


def test_a_task_that_works_in_another_way_is_served():
    code = """
    import asyncio
    from velodrome import _loop
    async def refuse(future):
        raise RuntimeError("awaits nothing")
    _loop._wait_for = refuse
    loop = new_event_loop()
    async def main():
        await asyncio.sleep(0)
        return await loop.create_task(asyncio.sleep(0, "result"))
    print(loop.run_until_complete(main()))
    loop.close()
    """
    child = run_child("velodrome", code)
    assert (child.stdout, child.stderr) == ("result\n", "")


def test_without_policies_there_is_nothing_of_them():
    code = """
    import sys
    sys.version_info = (3, 16, 0, "final", 0)
    import velodrome
    from velodrome import *
    print(sorted(velodrome.__all__), [hasattr(velodrome, name) for name in ("install", "EventLoopPolicy")])
    try:
        velodrome.install
    except AttributeError as error:
        print(error)
    """
    public, message = run_child("asyncio", code).stdout.splitlines()
    assert public == "['Loop', '__version__', 'new_event_loop', 'run'] [False, False]"
    # Who has called it up to then is told what to call now.
    assert "has no attribute 'install'" in message and "loop_factory=velodrome.new_event_loop" in message


def test_the_first_loop_needs_no_module_that_asyncio_does_not():
    code = """
    import asyncio, sys
    before = set(sys.modules)
    import velodrome
    velodrome.new_event_loop().close()
    print(*(name for name in set(sys.modules) - before if not name.startswith("velodrome")))
    """
    assert run_child("asyncio", code).stdout.split() == []


@pytest.mark.parametrize("running", [True, False])
def test_the_first_loop_of_a_process_disturbs_no_task_of_another(running):
    code = """
    import asyncio, sys, threading
    import velodrome

    made = []

    def make():
        started = []
        threading.Thread.start = lambda self, start=threading.Thread.start: (started.append(self), start(self))
        made.append(velodrome.new_event_loop())
        return len(started)

    async def main():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        threads = make()
        assert asyncio.get_running_loop() is loop and asyncio.current_task() is task
        assert asyncio.all_tasks() == {task}
        await asyncio.sleep(0.001)
        return threads

    if sys.argv[1] == "True":
        threads = asyncio.run(main())
    else:
        threads = make()
        assert asyncio._get_running_loop() is None
    print(threads, made[0].run_until_complete(asyncio.sleep(0, "ran")))
    made[0].close()
    """
    # What tasks pass to `call_soon` is learnt by the first run, when there is no other loop's task.
    assert run_child("asyncio", code, running).stdout.split() == ["0", "ran"]


def test_nothing_is_loaded_that_only_a_panic_needs():
    look = """with open("/proc/self/maps") as maps: print("libgcc_s" in maps.read())"""
    if run_child("asyncio", look).stdout == "True\n":
        pytest.skip("the interpreter needs it itself, as that of 3.15")
    assert run_child("velodrome", "new_event_loop().close()\n" + look).stdout == "False\n"


def test_loops_of_a_package_that_left_the_modules_work():
    run_child(
        "velodrome",
        """
        import asyncio, sys
        from unittest import mock

        with mock.patch.dict(sys.modules):
            import velodrome
            loop = velodrome.new_event_loop()

        for name in [name for name in sys.modules if name.partition(".")[0] == "velodrome"]:
            del sys.modules[name]

        async def main():
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            server.close()

        loop.run_until_complete(main())
        loop.close()
        """,
    )


def test_a_class_of_connections_may_be_patched_before_it_is_made():
    run_child(
        "velodrome",
        """
        from unittest import mock
        from velodrome import _native

        with mock.patch.object(_native, "StreamTransport"):
            pass
        """,
    )
