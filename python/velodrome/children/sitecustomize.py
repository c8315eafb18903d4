"""What `python -m velodrome --children` has each Python below it import first, by PYTHONPATH.

With VELODROME=1 in the environment it makes velodrome's loops asyncio's default as soon as asyncio
is imported; a process that never imports it pays nothing. A Python that has no velodrome, or one of
another version, is left as it is. The `sitecustomize` that would have been found without this one
is imported, too.
"""

import importlib
import os
import sys


class _AsyncioFinder:
    """Finds asyncio once, and lets velodrome.auto follow its import."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "asyncio":
            return None
        import importlib.util

        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_follow(module):
                execute(module)
                _make_default()

            spec.loader.exec_module = execute_and_follow
        return spec


def _make_default():
    try:
        import velodrome.auto  # noqa: F401
    except ImportError:
        pass  # another environment's Python


def _import_hidden():
    """Import the `sitecustomize` behind this one, with the path as it would be without it."""
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    own = sys.modules.pop(__name__)
    try:
        importlib.import_module("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules[__name__] = own


if os.environ.get("VELODROME") == "1":
    if "asyncio" in sys.modules:
        _make_default()
    else:
        sys.meta_path.insert(0, _AsyncioFinder)
_import_hidden()
