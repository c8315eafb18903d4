"""Child processes: how they are started, what goes through their pipes, and how their end is told."""

import asyncio
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from support import open_fds, run_child

PIPE = asyncio.subprocess.PIPE
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


@pytest.fixture(autouse=True)
def child_watcher(loop):
    """asyncio before 3.14 waits for children through a watcher; before 3.12 it belongs to the current loop."""
    if sys.version_info < (3, 12):
        asyncio.set_event_loop(loop)
        yield
        asyncio.get_event_loop_policy()._watcher = None
        asyncio.set_event_loop(None)
    else:
        yield


async def run(*args, **options):
    return await asyncio.create_subprocess_exec(sys.executable, "-c", *args, **options)


async def output_of(*args, **options):
    """What a child writes, once it has ended well."""
    child = await run(*args, stdout=PIPE, **options)
    output, _ = await child.communicate()
    assert child.returncode == 0
    return output.decode().strip()


READY = "import sys, time; print('ready', flush=True); "
FOREVER = READY + "time.sleep(1000)"


async def run_until_ready(code=FOREVER, **options):
    child = await run(code, stdout=PIPE, **options)
    assert await child.stdout.readline() == b"ready\n"
    return child


def is_gone(pid):
    """Whether the system knows nothing of the child any more, not even as a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


class Events(asyncio.SubprocessProtocol):
    def __init__(self):
        self.calls = []
        self.data = {1: b"", 2: b""}
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")

    def pipe_data_received(self, fd, data):
        self.data[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.calls.append(f"pipe {fd} lost")

    def process_exited(self):
        self.calls.append("exited")

    def connection_lost(self, exc):
        self.calls.append("lost")
        self.lost.set_result(exc)


# --- input, output, status ------------------------------------------------------------------------


async def test_a_child_gets_input_and_gives_output(loop):
    child = await run(
        "import sys; print(sys.stdin.read().upper()); print('error', file=sys.stderr)",
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert await child.communicate(b"input") == (b"INPUT\n", b"error\n")
    assert child.returncode == 0


async def test_much_goes_both_ways_at_once(loop):
    payload = bytes(range(256)) * 8192
    child = await run(
        "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)", stdin=PIPE, stdout=PIPE
    )
    output, errors = await child.communicate(payload)
    assert output == payload
    assert errors is None


async def test_errors_can_join_the_output(loop):
    code = "import sys; print('out', flush=True); print('error', file=sys.stderr)"
    assert await output_of(code, stderr=asyncio.subprocess.STDOUT) == "out\nerror"


async def test_output_can_go_nowhere(loop):
    child = await run("print('out')", stdout=asyncio.subprocess.DEVNULL)
    assert child.stdout is None
    assert await child.wait() == 0


@pytest.mark.differs("before 3.12 asyncio gives its child a socket", when=sys.version_info < (3, 12))
async def test_the_standard_streams_are_pipes(loop):
    code = "import os, stat; print(*(stat.S_ISFIFO(os.fstat(number).st_mode) for number in range(3)))"
    child = await run(code, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert (await child.communicate())[0] == b"True True True\n"


async def test_input_for_a_child_that_has_closed_it_is_no_error(loop):
    child = await run("import os; os.close(0); print('closed', flush=True)", stdin=PIPE, stdout=PIPE)
    assert await child.stdout.readline() == b"closed\n"
    await child.communicate(b"x" * 1_000_000)
    assert child.returncode == 0


async def test_the_writer_learns_that_the_reader_is_gone(loop):
    hold, release = os.pipe()
    with open(hold, "rb"), open(release, "wb"):
        code = f"import os; os.close(0); os.write(1, b'closed'); os.read({hold}, 1)"
        transport, protocol = await loop.subprocess_exec(
            Events, sys.executable, "-c", code, stdin=PIPE, stdout=PIPE, stderr=None, pass_fds=[hold]
        )
        while "pipe 0 lost" not in protocol.calls:
            await asyncio.sleep(0.001)
        assert "exited" not in protocol.calls
        os.write(release, b"x")
    await protocol.lost
    transport.close()


async def test_a_child_that_fails_tells_its_status(loop):
    child = await run("raise SystemExit(7)")
    assert await child.wait() == 7
    assert child.returncode == 7
    assert await child.wait() == 7


async def test_several_wait_for_one_child(loop):
    child = await run("raise SystemExit(7)")
    assert await asyncio.gather(*(child.wait() for _ in range(5))) == [7] * 5


async def test_several_children_at_once(loop):
    children = [await run(f"raise SystemExit({number})") for number in range(5)]
    assert await asyncio.gather(*(child.wait() for child in children)) == [0, 1, 2, 3, 4]


async def test_the_protocol_hears_of_everything_in_order(loop):
    code = "import sys; print('out'); print('error', file=sys.stderr)"
    transport, protocol = await loop.subprocess_exec(Events, sys.executable, "-c", code, stdin=None)
    assert isinstance(transport, asyncio.SubprocessTransport)
    assert await protocol.lost is None
    assert protocol.data == {1: b"out\n", 2: b"error\n"}
    assert protocol.calls[0] == "made"
    assert sorted(protocol.calls[1:-1]) == ["exited", "pipe 1 lost", "pipe 2 lost"]
    assert protocol.calls[-1] == "lost"
    assert transport.get_returncode() == 0
    transport.close()


async def test_a_shell_runs(loop):
    child = await asyncio.create_subprocess_shell("echo shell && exit 3", stdout=PIPE)
    assert (await child.communicate())[0] == b"shell\n"
    assert child.returncode == 3


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "number"), [("kill", signal.SIGKILL), ("terminate", signal.SIGTERM), ("send_signal", signal.SIGINT)]
)
async def test_a_signal_ends_a_child(loop, method, number):
    child = await run_until_ready(READY + "import signal; signal.signal(2, signal.SIG_DFL); time.sleep(1000)")
    if method == "send_signal":
        child.send_signal(signal.SIGUSR1)
        number = signal.SIGUSR1
    else:
        getattr(child, method)()
    assert await child.wait() == -number


async def test_a_signal_for_a_child_that_has_ended_reaches_nobody(loop):
    child = await run("")
    await child.wait()
    for method in (child.terminate, child.kill):
        # Once its transport is gone, too, asyncio says that there is no such process.
        with contextlib.suppress(ProcessLookupError):
            method()
    assert child.returncode == 0


@pytest.mark.differs("before 3.13 asyncio may take the status from its own watcher", when=sys.version_info < (3, 13))
async def test_a_signal_for_a_child_whose_end_is_not_yet_known_is_no_error(loop):
    child = await run_until_ready(READY)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.send_signal(signal.SIGTERM)
    child.kill()
    assert await child.wait() == 0


async def test_what_is_no_signal_is_refused(loop):
    child = await run_until_ready()
    with pytest.raises(TypeError):
        child.send_signal("TERM")
    with pytest.raises((OSError, ValueError)):
        child.send_signal(100_000)
    child.kill()
    await child.wait()


# --- what a child is given ------------------------------------------------------------------------


async def test_directory_and_environment(loop, tmp_path):
    code = "import os; print(os.getcwd(), os.environ['NAME'])"
    environment = {**os.environ, "NAME": "value"}
    assert await output_of(code, cwd=tmp_path, env=environment) == f"{os.path.realpath(tmp_path)} value"


async def test_umask(loop):
    assert await output_of("import os; print(oct(os.umask(0)))", umask=0o27) == "0o27"


async def test_a_session_and_a_process_group_of_its_own(loop):
    code = "import os; print(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())"
    assert await output_of(code, start_new_session=True) == "True True"
    assert await output_of(code, process_group=0) == "False True"


async def test_a_function_before_the_program(loop):
    expected = min(os.nice(0) + 3, 19)
    assert await output_of("import os; print(os.nice(0))", preexec_fn=lambda: os.nice(3)) == str(expected)


@AS_ROOT
async def test_another_user_and_its_groups(loop):
    # Not the interpreter: the other user may not be allowed to read it.
    child = await asyncio.create_subprocess_exec(
        "/usr/bin/id", stdout=PIPE, user=65534, group=65534, extra_groups=[65533]
    )
    output = (await child.communicate())[0].decode()
    assert "uid=65534" in output
    assert "gid=65534" in output
    assert "65533" in output


async def test_size_of_pipes(loop):
    code = "import fcntl; print(fcntl.fcntl(1, fcntl.F_GETPIPE_SZ))"
    assert await output_of(code, pipesize=2 * 65536) == str(2 * 65536)


async def test_a_child_inherits_the_descriptors_it_is_to_have_and_no_other(loop):
    read, write = os.pipe()
    code = "import os; print(sorted(int(number) for number in os.listdir('/proc/self/fd')))"
    with open(read, "rb"), open(write, "wb"):
        os.set_inheritable(read, True)
        os.set_inheritable(write, True)
        given = json.loads(await output_of(code, pass_fds=[write]))
        # 3 is the directory being listed.
        assert given == [0, 1, 2, 3, write]
        given = json.loads(await output_of(code, close_fds=False))
        assert {read, write} <= set(given)


async def test_no_descriptor_of_the_loop_is_inherited(loop):
    code = "import os; os.system('ls -l /proc/$PPID/fd')"
    inherited = await output_of(code, close_fds=False)
    assert not any(kind in inherited for kind in ("eventpoll", "eventfd", "pidfd", "signalfd")), inherited


@pytest.mark.parametrize("argument", ["a\0b", b"a\0b"])
async def test_an_embedded_nul_is_refused(loop, argument):
    with pytest.raises(ValueError, match="null"):
        await asyncio.create_subprocess_exec("/bin/true", argument)


async def test_a_program_that_does_not_exist_is_an_error(loop):
    before = open_fds()
    with pytest.raises(FileNotFoundError):
        await asyncio.create_subprocess_exec("/no/such/program", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    gc.collect()
    assert open_fds() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"universal_newlines": True}, "universal_newlines must be False"),
        ({"bufsize": 1}, "bufsize must be 0"),
        ({"text": True}, "text must be False"),
        ({"encoding": "utf-8"}, "encoding must be None"),
        ({"errors": "strict"}, "errors must be None"),
    ],
)
async def test_options_for_text_are_refused(loop, options, message):
    with pytest.raises(ValueError, match=message):
        await asyncio.create_subprocess_exec("/bin/true", **options)


# --- the end of children --------------------------------------------------------------------------


async def test_nothing_is_left_of_a_child(loop):
    await asyncio.sleep(0.001)  # now the loop has its own
    before = open_fds()
    child = await run("", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    await child.communicate()
    assert is_gone(child.pid)
    await asyncio.sleep(0)
    assert open_fds() == before


async def test_a_child_of_somebody_else_is_not_waited_for(loop):
    others = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"])
    os.waitid(os.P_PID, others.pid, os.WEXITED | os.WNOWAIT)
    assert await (await run("")).wait() == 0
    assert others.wait() == 5


async def test_a_child_is_closed_with_its_transport(loop):
    transport, protocol = await loop.subprocess_exec(Events, sys.executable, "-c", FOREVER)
    pid = transport.get_pid()
    transport.close()
    assert transport.is_closing()
    await protocol.lost
    assert transport.get_returncode() == -signal.SIGKILL
    assert is_gone(pid)


@pytest.mark.parametrize("turns", range(12))
async def test_a_spawn_that_is_cancelled_leaves_nothing_behind(loop, turns):
    await asyncio.sleep(0.001)  # now the loop has its own
    before = open_fds()
    task = loop.create_task(run(FOREVER, stdin=PIPE, stdout=PIPE, stderr=PIPE))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        child = await task
    except asyncio.CancelledError:
        pass
    else:
        child.kill()
        await child.communicate()
    del task
    for _ in range(200):
        if open_fds() == before:
            break
        await asyncio.sleep(0.01)
    assert open_fds() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.differs("before 3.12 only a loop with a child watcher can wait", when=sys.version_info < (3, 12))
def test_loops_in_several_threads_have_children_at_once(loop, new_loop):
    results = {}

    def work(number):
        own = new_loop()

        async def main():
            child = await run(f"raise SystemExit({number})")
            return await child.wait()

        try:
            results[number] = own.run_until_complete(main())
        finally:
            own.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: number for number in range(5)}


@pytest.mark.differs("asyncio fails if the child is gone before it looks at it")
def test_the_end_of_a_child_is_told_when_signals_of_children_are_ignored(loop_name):
    code = """
        import asyncio, logging, signal
        logging.disable()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

        async def main():
            child = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 3")
            print(await child.wait())

        asyncio.Runner(loop_factory=new_event_loop).run(main())
    """
    # The system has thrown the status away.
    assert run_child(loop_name, code).stdout == "255\n"
