"""`add_signal_handler` and its removal.

While a loop runs in the main thread, the interpreter's own signal handler writes into a pipe of
the loop's, which ends its sleep; `_native` restores the user's wake-up descriptor afterwards.
"""

import asyncio.coroutines
import asyncio.events
import signal
import sys
import warnings


def _noop(signum, frame):
    """The Python-level handler: what matters is that the interpreter's own one is in place."""


class SignalMethods:
    def add_signal_handler(self, sig, callback, *args):
        """Call callback(*args) in the loop when the process gets the signal `sig`.

        Only from the main thread. Raises ValueError for what is no signal number, TypeError for a
        coroutine function, RuntimeError if the signal cannot be caught or this is not the main
        thread.
        """
        if asyncio.iscoroutine(callback) or _is_coroutine_function(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        try:
            # Also while the loop does not run: what arrives now is handled when it does.
            signal.set_wakeup_fd(self._signal_fd())
        except (ValueError, OSError) as exc:
            raise RuntimeError(str(exc)) from exc
        handle = asyncio.Handle(callback, args, self, None)
        self._signal_handlers[sig] = handle
        try:
            signal.signal(sig, _noop)
            # A system call of another thread must not fail because of it.
            signal.siginterrupt(sig, False)
        except OSError as exc:
            del self._signal_handlers[sig]
            self._release_wakeup_fd()
            if exc.errno == 22:  # EINVAL
                raise RuntimeError(f"sig {sig} cannot be caught") from exc
            raise

    def remove_signal_handler(self, sig):
        """Undo add_signal_handler. Returns whether there was a handler."""
        self._check_signal(sig)
        try:
            del self._signal_handlers[sig]
        except KeyError:
            return False
        default = signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
        try:
            signal.signal(sig, default)
        except OSError as exc:
            if exc.errno == 22:  # EINVAL
                raise RuntimeError(f"sig {sig} cannot be caught") from exc
            raise
        self._release_wakeup_fd()
        return True

    def _has_signal_handlers(self):
        return bool(self._signal_handlers)

    def _release_wakeup_fd(self):
        # While the loop runs, the descriptor is in place for its own sake.
        if not self._signal_handlers and not self.is_running():
            try:
                signal.set_wakeup_fd(-1)
            except (ValueError, OSError) as exc:
                asyncio.log.logger.info("set_wakeup_fd(-1) failed: %s", exc)

    def _remove_all_signal_handlers(self):
        if not self._signal_handlers:
            return
        if sys.is_finalizing():
            warnings.warn(
                f"Closing the loop {self!r} on interpreter shutdown stage, skipping signal "
                f"handlers removal",
                ResourceWarning,
                source=self,
            )
            self._signal_handlers.clear()
            return
        for sig in list(self._signal_handlers):
            self.remove_signal_handler(sig)


if sys.version_info >= (3, 14):
    from inspect import iscoroutinefunction as _is_coroutine_function
else:
    _is_coroutine_function = asyncio.coroutines.iscoroutinefunction
