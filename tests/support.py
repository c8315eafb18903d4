"""What every test directory shares: loops by name, child processes, a look into /proc, and at what is freed."""

import contextlib
import ctypes
import gc
import importlib
import os
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

TESTS = Path(__file__).parent

# Where a thread sleeps when its loop is idle, by system call number: epoll_wait, epoll_pwait and
# epoll_pwait2 of x86-64 and aarch64, and io_uring_enter.
_IDLE_SYSCALLS = {"232", "281", "441", "22", "426"}

_LIBC = ctypes.CDLL(None)
COUNTS_NATIVE_BYTES = hasattr(_LIBC, "mallinfo2")  # a recent glibc


def loop_factory(name):
    """Return the function that makes a loop of the kind called `name`."""
    if name == "asyncio":
        # Not asyncio.new_event_loop: that one follows whatever policy is installed.
        return importlib.import_module("asyncio").SelectorEventLoop
    return importlib.import_module(name).new_event_loop


def child_environment(**extra):
    """The environment of a child that can import this module and that no asyncio setting reaches."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONASYNCIODEBUG"}
    path = [str(TESTS), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path))  # a child may run elsewhere
    return environment | extra


def child_command(loop_name, code, *args, options=()):
    """The command that runs `code` with `new_event_loop` already defined in it."""
    prologue = f"from support import loop_factory\nnew_event_loop = loop_factory({loop_name!r})\n"
    return [sys.executable, *options, "-c", prologue + textwrap.dedent(code), *map(str, args)]


def run_child(loop_name, code, *args, options=(), env=None, stdin=None, status=0):
    """Run `code` in a child of its own and return it; it must end with `status`."""
    child = subprocess.run(
        child_command(loop_name, code, *args, options=options),
        env=child_environment(**(env or {})),
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == status, f"status {child.returncode}\n{child.stdout}\n{child.stderr}"
    return child


def start_child(loop_name, code, *args):
    """Start `code` in a child whose standard streams are pipes of text."""
    return subprocess.Popen(
        child_command(loop_name, code, *args, options=["-u"]),
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_idle(pid, thread_id=None):
    """Return once the thread sleeps in its poller; a dead process counts as idle."""
    syscall = Path(f"/proc/{pid}/task/{thread_id or pid}/syscall")
    while True:
        try:
            fields = syscall.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return
        if not fields or fields[0] in _IDLE_SYSCALLS:
            return
        time.sleep(0.001)


def open_fds(pid="self"):
    """What each open descriptor of the process refers to."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            pass  # the one that listdir itself used
    return found


def thread_count(pid="self"):
    return len(os.listdir(f"/proc/{pid}/task"))


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`, which is only numbers."""

    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


def native_bytes():
    """What was allocated with malloc and not freed, whatever the heap makes of it."""
    _LIBC.mallinfo2.restype = MallocInfo
    info = _LIBC.mallinfo2()
    return info.uordblks + info.hblkhd


def gone(*references):
    """Whether all are gone, at the latest when the garbage collector has looked."""
    if any(reference() is not None for reference in references):
        gc.collect()
    return all(reference() is None for reference in references)


@contextlib.contextmanager
def warning_texts():
    """Collects what is warned of, without the warnings themselves: they would keep their source alive."""
    texts = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: texts.append(str(message))
        yield texts
