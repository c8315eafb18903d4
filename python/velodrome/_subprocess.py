"""Child processes: the loop that starts one waits for it by its pidfd.

Nothing of it is shared between loops or threads, no signal is needed, and no child is waited for
but those that a loop has started itself.
"""

import asyncio
import asyncio.base_subprocess
import contextlib
import os
import signal as signals
import subprocess
import threading
from asyncio.log import logger

# What asyncio reports of a child whose status somebody else has taken.
_STATUS_UNKNOWN = 255


class SubprocessTransport(asyncio.base_subprocess.BaseSubprocessTransport):
    """A child process: asyncio's transport, with a way of its own to start, signal and wait."""

    _pidfd = -1

    def _start(self, args, shell, stdin, stdout, stderr, bufsize, **kwargs):
        self._proc = subprocess.Popen(
            args,
            shell=shell,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=False,
            bufsize=bufsize,
            **kwargs,
        )
        self._loop._children.add(self)
        try:
            self._watch()
        except BaseException:
            # Nobody could tell its end.
            self._stop_watching()
            with self._proc:
                self._proc.kill()
            raise

    # ---- its end ---------------------------------------------------------------------------

    def _watch(self):
        try:
            self._pidfd = os.pidfd_open(self._proc.pid)
            self._loop.add_reader(self._pidfd, self._child_exited)
        except ProcessLookupError:
            # It has ended, and as SIGCHLD is ignored nothing is left of it.
            self._loop.call_soon(self._child_exited)
        except (AttributeError, OSError):
            # No descriptor is to be had or watched, or this Python or the kernel does not know how:
            # a thread waits.
            self._close_pidfd()
            threading.Thread(
                target=_wait_in_thread,
                args=(self._loop, self._proc.pid, self._child_exited),
                name=f"velodrome-waitpid-{self._proc.pid}",
                daemon=True,
            ).start()

    def _stop_watching(self):
        """The child has ended, or its loop is closed."""
        self._loop._children.discard(self)
        self._close_pidfd()

    def _close_pidfd(self):
        if self._pidfd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _child_exited(self):
        self._stop_watching()
        process = self._proc
        with process._waitpid_lock:
            returncode = process.returncode
            if returncode is None:
                try:
                    _, status = os.waitpid(process.pid, 0)
                except ChildProcessError:
                    returncode = _STATUS_UNKNOWN
                    logger.warning(
                        "child process pid %d exit status already read: will report returncode %d",
                        process.pid,
                        returncode,
                    )
                else:
                    returncode = os.waitstatus_to_exitcode(status)
                process.returncode = returncode
        self._process_exited(returncode)

    # ---- signals ---------------------------------------------------------------------------

    def send_signal(self, signal):
        """Send a signal, unless the process has ended. Never reaches another one of its number."""
        self._check_proc()
        if self._returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0 and hasattr(signals, "pidfd_send_signal"):
                signals.pidfd_send_signal(self._pidfd, signal)
            else:
                self._proc.send_signal(signal)

    def terminate(self):
        """Send SIGTERM."""
        self.send_signal(signals.SIGTERM)

    def kill(self):
        """Send SIGKILL."""
        self.send_signal(signals.SIGKILL)

    # ---- pipes -----------------------------------------------------------------------------

    async def _connect_pipes(self, waiter):
        process = self._proc
        await super()._connect_pipes(waiter)
        if self._closed or self._pending_calls is not None:
            # Closed meanwhile, or one could not be connected: none is left behind.
            for protocol in self._pipes.values():
                if protocol is not None:
                    protocol.pipe.close()
            for number, pipe in enumerate((process.stdin, process.stdout, process.stderr)):
                if pipe is not None and self._pipes.get(number) is None:
                    pipe.close()

    def close(self):
        """Close the pipes, and kill the process if it runs. Its end is still waited for."""
        if self._loop is not None and self._loop.is_closed():
            # The pipes went with the loop.
            self._pipes.clear()
        super().close()


def _wait_in_thread(loop, pid, callback):
    # The child stays, so that its number is nobody else's before the loop has taken its status.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    # A loop that is closed wants to know of nothing.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


async def make_transport(
    loop, protocol, args, shell, stdin, stdout, stderr, bufsize, extra, **kwargs
):
    """`loop._make_subprocess_transport`."""
    waiter = loop.create_future()
    transport = SubprocessTransport(
        loop,
        protocol,
        args,
        shell,
        stdin,
        stdout,
        stderr,
        bufsize,
        waiter=waiter,
        extra=extra,
        **kwargs,
    )
    try:
        await waiter
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        transport.close()
        await asyncio.shield(transport._wait())
        raise
    return transport
