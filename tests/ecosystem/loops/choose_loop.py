"""Makes velodrome the loop of a Python process that knows nothing of it, and notes which loops the process makes.

A .pth file in a project's environment imports this at the start of every process, the children of tests included.
Without ECOSYSTEM_LOOP in the environment it does nothing. With it ("asyncio" or "velodrome") it waits for the import
of asyncio, so that a process that does without asyncio still does.
"""

import os
import sys


class AsyncioFinder:
    """Finds asyncio once, and calls a function as soon as it is imported."""

    def __init__(self, imported):
        self.imported = imported

    def find_spec(self, name, path=None, target=None):
        if name != "asyncio":
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_tell(module):
            execute(module)
            self.imported()

        spec.loader.exec_module = execute_and_tell
        return spec


def note_loops(path):
    """Appends a line to the file for each loop that is made: which of the two it is, and the name of its class.

    The file is not kept open: tests count descriptors.
    """
    import asyncio

    initialise = asyncio.BaseEventLoop.__init__

    def __init__(self, *args, **kwargs):
        initialise(self, *args, **kwargs)
        kind = "velodrome" if any(c.__module__ == "velodrome._loop" for c in type(self).__mro__) else "asyncio"
        line = f"{kind} {type(self).__module__}.{type(self).__qualname__}\n".encode()
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(file, line)
        os.close(file)

    asyncio.BaseEventLoop.__init__ = __init__


def replace_loop():
    """Makes velodrome the loop of every public way to get one; asyncio's base classes stay what they are."""
    import asyncio.unix_events

    import velodrome

    class Replacing(type(velodrome.Loop)):
        def __instancecheck__(cls, instance):
            return super().__instancecheck__(instance) or cls is SelectorEventLoop and type(instance) is velodrome.Loop

    class SelectorEventLoop(velodrome.Loop, metaclass=Replacing):
        """Can be called and subclassed as asyncio's class of this name. A selector is closed: velodrome has its own."""

        def __new__(cls, selector=None):
            # Exactly velodrome's class, where nobody has a class of his own: that is what users have.
            return velodrome.Loop() if cls is SelectorEventLoop else super().__new__(cls)

        def __init__(self, selector=None):
            super().__init__()
            if selector is not None:
                selector.close()

    SelectorEventLoop.__name__ = asyncio.SelectorEventLoop.__name__  # suites make ids of tests of it
    for module in (asyncio, asyncio.unix_events):
        for name in ("SelectorEventLoop", "EventLoop"):  # EventLoop since 3.13
            if hasattr(module, name):
                setattr(module, name, SelectorEventLoop)
    # new_event_loop(), Runner, run() and IsolatedAsyncioTestCase all end here, whatever policy a program derives.
    asyncio.unix_events._UnixDefaultEventLoopPolicy._loop_factory = velodrome.Loop


def asyncio_imported():
    note_loops(os.environ["ECOSYSTEM_LOOPS_MADE"])
    if os.environ["ECOSYSTEM_LOOP"] == "velodrome":
        replace_loop()


if "ECOSYSTEM_LOOP" in os.environ:
    sys.meta_path.insert(0, AsyncioFinder(asyncio_imported))
