"""os.fork: the child starts afresh, and the parent does not notice."""

import subprocess
import sys
import textwrap

import pytest
from support import child_environment, run_child

PROLOGUE = """
    import asyncio, os, signal, sys, warnings
    # 3.12 and later warn about a fork of a process with threads; there are none here.

    def in_child(function):
        sys.stdout.flush()  # or the child writes once more what waits in it
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                function()
                status = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status

    async def echo():
        async def serve(reader, writer):
            writer.write(await reader.readline())
            writer.close()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\\n")
        assert await reader.read() == b"hello\\n"
        writer.close()
        server.close()
        return "echoed"
"""


def run(loop_name, code):
    return run_child(loop_name, PROLOGUE + code, options=["-W", "error::RuntimeWarning"]).stdout.split()


def test_a_child_makes_and_runs_a_loop_of_its_own(loop_name):
    code = """
    def child():
        loop = new_event_loop()
        print("child", loop.run_until_complete(echo()))
        loop.close()

    loop = new_event_loop()
    print("parent", loop.run_until_complete(echo()))
    in_child(child)
    print("parent", loop.run_until_complete(echo()))
    loop.close()
    """
    assert run(loop_name, code) == ["parent", "echoed", "child", "echoed", "parent", "echoed"]


def test_a_child_of_a_running_loop_has_no_running_loop(loop_name):
    code = """
    def child():
        assert asyncio._get_running_loop() is None
        loop = new_event_loop()
        print("child", loop.run_until_complete(echo()))
        loop.close()

    async def main():
        in_child(child)
        return await echo()

    loop = new_event_loop()
    print("parent", loop.run_until_complete(main()))
    loop.close()
    """
    # 3.11 leaves the running loop of the parent set in the child.
    prefix = (
        "    if sys.version_info < (3, 12):\n"
        "        os.register_at_fork(after_in_child=lambda: asyncio._set_running_loop(None))\n"
    )
    assert run(loop_name, prefix + code) == ["child", "echoed", "parent", "echoed"]


def test_what_the_child_does_to_its_copy_leaves_the_parents_watching(loop_name):
    """The epoll descriptor is shared: a child that removes its readers must not remove the parent's."""
    code = """
    import socket
    one, other = socket.socketpair()
    loop = new_event_loop()
    received = loop.create_future()
    loop.add_reader(one, lambda: received.done() or received.set_result(one.recv(10)))
    loop.run_until_complete(asyncio.sleep(0))

    def child():
        new = new_event_loop()
        new.run_until_complete(asyncio.sleep(0))
        new.close()

    in_child(child)
    other.send(b"parent")
    print(loop.run_until_complete(received))
    loop.remove_reader(one)
    loop.close()
    """
    assert run(loop_name, code) == ["b'parent'"]


# `send_all()` writes, twice each time so that writes are joined, and once `fork_meanwhile()` is called after that.
WRITE_AND_FORK = """
    import socket, threading
    one, other = socket.socketpair()
    loop = new_event_loop()
    transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=one))

    def write():
        transport.write(b"a")
        transport.write(b"b")

    def fork(in_child):
        pid = os.fork()
        if pid == 0:
            in_child()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3

    def write_and_fork():
        write()
        fork_meanwhile()

    def send_all():
        for callback in write, write, write_and_fork, write:
            loop.call_soon(callback)
            loop.run_until_complete(asyncio.sleep(0))
        transport.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        print(other.recv(100))
"""


def test_what_a_callback_has_written_before_it_forks_is_sent_once(loop_name):
    """Also where the child leaves by an exception, through the loop."""
    code = """
    def fork_meanwhile():
        fork(lambda: sys.exit(3))

    send_all()
    """
    assert run(loop_name, WRITE_AND_FORK + code) == ["b'abababab'"]


@pytest.mark.parametrize("method", ["close", "abort", "get_write_buffer_size"])
def test_what_a_callback_has_written_when_another_thread_forks_is_sent_once(loop_name, method):
    """Also where the child calls the transport, which is its parent's."""
    code = f"""
    def in_child():
        transport.{method}()
        os._exit(3)

    def fork_meanwhile():
        thread = threading.Thread(target=fork, args=(in_child,))
        thread.start()
        thread.join()

    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
    send_all()
    """
    assert run(loop_name, WRITE_AND_FORK + code) == ["b'abababab'"]


def test_a_child_may_go_on_with_the_loop_of_its_parent(loop_name):
    code = """
    import socket
    one, other = socket.socketpair()
    one.setblocking(False)
    loop = new_event_loop()
    received = []
    loop.add_reader(one, lambda: received.append(one.recv(10)))
    loop.run_until_complete(asyncio.sleep(0.001))

    async def wait():
        timer = loop.call_later(10, print, "nothing came")
        while not received:
            await asyncio.sleep(0.001)
        timer.cancel()
        return received.pop()

    def child():
        other.send(b"child")
        two, more = socket.socketpair()  # watched before the child runs the loop
        loop.add_reader(two, lambda: received.append(two.recv(10)))
        print(loop.run_until_complete(wait()))
        more.send(b"more")
        print(loop.run_until_complete(wait()))
        loop.remove_reader(two)
        print(loop.run_until_complete(echo()))
        loop.remove_reader(one)
        loop.close()

    in_child(child)
    other.send(b"parent")
    print(loop.run_until_complete(wait()))
    loop.remove_reader(one)
    loop.close()
    """
    # asyncio's child shares its parent's poller, and takes the reader out of it.
    expected = ["b'child'", "b'more'", "echoed", "b'parent'"]
    if loop_name == "asyncio":
        code = code.replace("loop.remove_reader(one)\n        loop.close()", "pass")
    assert run(loop_name, code) == expected


def test_a_child_looks_names_up_in_threads_of_its_own(loop_name):
    if loop_name == "asyncio":
        pytest.skip("the child waits for the executor's threads, which are its parent's")
    code = """
    loop = new_event_loop()

    def look_up():
        return bool(loop.run_until_complete(loop.getaddrinfo("localhost", 80)))

    def child():
        print("child", look_up())
        loop.close()

    print("parent", look_up())
    in_child(child)
    print("parent", look_up())
    loop.close()
    """
    assert run(loop_name, code) == ["parent", "True", "child", "True", "parent", "True"]


def test_a_child_gets_its_own_signals(loop_name):
    code = """
    def child():
        loop = new_event_loop()
        loop.add_signal_handler(signal.SIGUSR1, loop.stop)
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.run_forever()
        print("child")
        loop.close()

    loop = new_event_loop()
    received = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, lambda: received.set_result("parent"))
    loop.run_until_complete(asyncio.sleep(0))
    in_child(child)
    os.kill(os.getpid(), signal.SIGUSR1)
    print(loop.run_until_complete(received))
    loop.close()
    """
    assert run(loop_name, code) == ["child", "parent"]


def test_call_soon_threadsafe_still_wakes_the_parent(loop_name):
    code = """
    import threading
    from support import wait_until_idle

    loop = new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))

    def child():
        new = new_event_loop()
        new.call_soon_threadsafe(new.stop)
        new.run_forever()
        new.close()
        print("child")

    in_child(child)

    def wake():
        wait_until_idle(os.getpid(), threading.main_thread().native_id)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=wake)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    print("parent")
    loop.close()
    """
    assert run(loop_name, code) == ["child", "parent"]


def test_a_multiprocessing_child_runs_a_loop(loop_name):
    code = """
    import multiprocessing

    def child(queue):
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            queue.put(runner.run(echo()))

    async def main():
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        process.join()
        return queue.get()

    if sys.version_info < (3, 12): os.register_at_fork(after_in_child=lambda: asyncio._set_running_loop(None))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        print(runner.run(main()))
    """
    assert run(loop_name, code) == ["echoed"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_a_pool_run_loops_while_their_parent_runs_its_own(loop_name, tmp_path, method):
    # A file, because what is spawned imports the main module.
    script = tmp_path / "pool.py"
    script.write_text(
        textwrap.dedent(f"""
            import asyncio, concurrent.futures, multiprocessing, os
            from support import loop_factory

            new_event_loop = loop_factory({loop_name!r})

            async def double(number):
                await asyncio.sleep(0.001)
                return 2 * number, os.getpid()

            def work(number):
                asyncio._set_running_loop(None)  # up to 3.11 a forked child believes to run its parent's
                with asyncio.Runner(loop_factory=new_event_loop) as runner:
                    return runner.run(double(number))

            async def main():
                loop = asyncio.get_running_loop()
                context = multiprocessing.get_context({method!r})
                with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                    results = await asyncio.gather(*(loop.run_in_executor(pool, work, number) for number in range(8)))
                assert [doubled for doubled, _ in results] == [2 * number for number in range(8)]
                assert os.getpid() not in {{pid for _, pid in results}}
                print("done")

            if __name__ == "__main__":
                with asyncio.Runner(loop_factory=new_event_loop) as runner:
                    runner.run(main())
            """)
    )
    child = subprocess.run(
        [sys.executable, str(script)], env=child_environment(), capture_output=True, text=True, timeout=60
    )
    assert (child.stdout, child.returncode) == ("done\n", 0), child.stderr
