"""`add_signal_handler` and its removal: asyncio's own, writing into the loop's pipe.

While a loop runs in the main thread, the interpreter's signal handler writes into a pipe of the
loop's in any case, so that Ctrl-C ends its sleep; `_native` restores the user's wake-up descriptor
afterwards.
"""

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

    def remove_signal_handler(self, sig):
        """Undo add_signal_handler. Returns whether there was a handler."""
        removed = super().remove_signal_handler(sig)
        if removed and not self._signal_handlers and self._runs_with_wakeup_fd():
            # asyncio's method has taken the descriptor away, which a running loop needs.
            signal.set_wakeup_fd(self._signal_fd())
        return removed

    def _has_signal_handlers(self):
        return bool(self._signal_handlers)
