"""`add_signal_handler` and its removal: asyncio's own, writing into the loop's pipe.

From the first sleep of a run in the main thread, the interpreter's signal handler writes into a
pipe of the loop's in any case, so that Ctrl-C ends a sleep; `_native` restores the user's wake-up
descriptor after the run.
"""

import contextlib
import signal


class _WakeupSocket:
    """What asyncio's methods take the wake-up descriptor from."""

    def __init__(self, loop):
        self._loop = loop

    def fileno(self):
        return self._loop._signal_fd()


class SignalMethods:
    @property
    def _csock(self):
        return _WakeupSocket(self)

    def add_signal_handler(self, sig, callback, *args):
        """Call callback(*args) when the signal arrives; only in the main thread.

        Raises ValueError for what is no signal, RuntimeError for one that cannot be caught, in
        another thread, and if the loop is closed.
        """
        self._take_wakeup_fd()
        try:
            super().add_signal_handler(sig, callback, *args)
        finally:
            self._keep_wakeup_fd()

    def remove_signal_handler(self, sig):
        """Undo add_signal_handler. Returns whether there was a handler."""
        removed = super().remove_signal_handler(sig)
        if removed:
            self._keep_wakeup_fd()
        return removed

    def _keep_wakeup_fd(self):
        """Without handlers, asyncio's methods take the descriptor away; a running loop needs it."""
        if not self._signal_handlers and self._runs_with_wakeup_fd():
            with contextlib.suppress(ValueError):  # in another thread: nothing was taken away
                signal.set_wakeup_fd(self._signal_fd())
