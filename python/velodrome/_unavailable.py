"""Why velodrome cannot be imported, in a sentence that helps. Imported only then."""

import importlib.util
import os
import sys
import sysconfig
import types

_NATIVE = "velodrome._native"
_FOLDER = os.path.dirname(os.path.abspath(__file__))


def explain(error: ImportError | AttributeError) -> None:
    """Raise what says more than `error`, if it is about the extension module; else return."""
    if _is_missing():
        raise ImportError(_missing(), name=_NATIVE) from error
    native = sys.modules.get(_NATIVE)
    if native is None:
        spec = importlib.util.find_spec(_NATIVE)
        if spec is not None and getattr(error, "path", None) == spec.origin:
            raise ImportError(_does_not_load(error), name=_NATIVE, path=spec.origin) from error
    elif getattr(error, "obj", None) is native or getattr(error, "name", None) == _NATIVE:
        raise ImportError(_does_not_fit(native, error), name=_NATIVE) from error


def _is_missing() -> bool:
    return _NATIVE not in sys.modules and importlib.util.find_spec(_NATIVE) is None


def _reinstall(*options: str) -> str:
    python = sys.executable or "python"
    return " ".join([python, "-m pip install --force-reinstall", *options, "velodrome"])


def _missing() -> str:
    wanted = sysconfig.get_config_var("SOABI")
    built = sorted(
        name.split(".")[1]
        for name in os.listdir(_FOLDER)
        if name.startswith("_native.") and name.endswith(".so")
    )
    if built:
        return (
            f"velodrome in {_FOLDER} has no extension module for this Python ({wanted}), only for "
            f"{', '.join(built)}; install it with this Python: {_reinstall()}"
        )
    return (
        f"velodrome in {_FOLDER} has no extension module, as in a source tree that nobody has "
        "built; build it (make build, or python -m pip install .), or run Python elsewhere"
    )


def _does_not_load(error: Exception) -> str:
    return (
        f"velodrome's extension module does not load on this machine ({error}); "
        f"build it from source here, with Rust: {_reinstall('--no-binary velodrome')}"
    )


def _does_not_fit(native: types.ModuleType, error: Exception) -> str:
    return (
        f"velodrome's extension module {native.__file__} is from another version than the Python "
        f"files beside it ({error}); install both anew: {_reinstall()}"
    )
