"""How velodrome watches child processes: what a contract with asyncio cannot say."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading

import pytest
from support import open_fds

FOREVER = [sys.executable, "-c", "import time; time.sleep(1000)"]


@pytest.fixture
def loop(new_loop):
    with contextlib.closing(new_loop()) as loop:
        yield loop


@pytest.fixture(params=["missing", errno.EMFILE, errno.ENOSYS, errno.EPERM])
def no_pidfd(request, monkeypatch):
    if request.param == "missing":  # built with headers of an older kernel
        monkeypatch.delattr(os, "pidfd_open")
        monkeypatch.delattr(signal, "pidfd_send_signal")
        return

    def refuse(pid, flags=0):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "pidfd_open", refuse)


def wait_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("velodrome-waitpid-")]


def test_a_child_has_a_pidfd_and_no_thread(loop):
    async def main():
        child = await asyncio.create_subprocess_exec(*FOREVER)
        try:
            assert "anon_inode:[pidfd]" in open_fds().values()
            assert wait_threads() == []
        finally:
            child.kill()
        return await child.wait()

    assert loop.run_until_complete(main()) == -signal.SIGKILL
    assert "anon_inode:[pidfd]" not in open_fds().values()


def test_without_a_pidfd_a_thread_waits(loop, no_pidfd):
    async def main():
        child = await asyncio.create_subprocess_exec(*FOREVER)
        (thread,) = wait_threads()
        child.send_signal(signal.SIGUSR1)
        returncode = await child.wait()
        thread.join()
        return returncode

    assert loop.run_until_complete(main()) == -signal.SIGUSR1
    assert wait_threads() == []


def test_a_loop_that_is_closed_does_not_hear_from_the_thread(loop, no_pidfd):
    async def main():
        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, *FOREVER, stdin=None, stdout=None, stderr=None
        )
        return transport

    transport = loop.run_until_complete(main())
    (thread,) = wait_threads()
    loop.close()
    transport.close()
    thread.join()
    assert transport.get_pid() > 0
    # The status is for whoever wants it.
    assert transport._proc.wait() == -signal.SIGKILL


def test_closing_a_loop_closes_the_pidfds_of_its_children(loop):
    async def main():
        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, *FOREVER, stdin=None, stdout=None, stderr=None
        )
        return transport

    transport = loop.run_until_complete(main())
    process = transport._proc
    assert "anon_inode:[pidfd]" in open_fds().values()
    loop.close()
    assert "anon_inode:[pidfd]" not in open_fds().values()
    transport.close()
    assert process.wait() == -signal.SIGKILL


def test_a_status_that_somebody_else_has_taken_is_the_one_they_have(loop):
    async def main():
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(7)")
        # Another thread may ask, by the object that get_extra_info("subprocess") gives.
        process = child._transport.get_extra_info("subprocess")
        assert isinstance(process, subprocess.Popen)
        assert process.wait() == 7
        return await child.wait()

    assert loop.run_until_complete(main()) == 7


def test_a_child_watcher_is_not_asked(loop, monkeypatch):
    if sys.version_info >= (3, 14):
        pytest.skip("child watchers were removed in 3.14")

    def fail(*args):
        raise AssertionError("asked")

    monkeypatch.setattr(asyncio.events, "get_child_watcher", fail)

    async def main():
        return await (await asyncio.create_subprocess_exec("/bin/true")).wait()

    assert loop.run_until_complete(main()) == 0


def test_a_thread_waits_for_a_child_that_the_poller_refuses(loop, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def main():
        before = open_fds()
        monkeypatch.setattr(loop, "add_reader", refuse)
        child = await asyncio.create_subprocess_exec(*FOREVER)
        assert len(wait_threads()) == 1
        assert open_fds() == before
        child.kill()
        assert await child.wait() == -signal.SIGKILL

    loop.run_until_complete(main())


def test_a_child_whose_end_nobody_can_tell_is_not_left_running(loop, no_pidfd, monkeypatch):
    made = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **options):
            made.append(self)
            super().__init__(*args, **options)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    async def main():
        before = open_fds()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        monkeypatch.setattr(subprocess, "Popen", Noted)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await asyncio.create_subprocess_exec(*FOREVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert loop._children == set()
        assert open_fds() == before

    loop.run_until_complete(main())
    assert [child.returncode for child in made] == [-signal.SIGKILL]
