"""What `python -m velodrome --info` prints: a line for each thing, `name: value`.

For people and for reports of bugs. The names and their order stay; a value may become more exact.
"""

import errno
import os
import platform
import sys

import velodrome

from . import _native, _tls


def lines():
    for name, value in _facts():
        yield f"{name}: {value}"


def _facts():
    system = os.uname()
    yield "velodrome", velodrome.__version__
    yield "extension", _native.__file__
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield "python", f"{python}, {sys.executable}"
    yield "system", f"{system.sysname} {system.release} {system.machine}, {_c_library()}"
    yield "backend", "epoll"
    yield "tls", _tls_engine()
    yield "kernel", ", ".join(f"{name} {_yes(there)}" for name, there in _kernel_features())


def _yes(there):
    return "unknown" if there is None else "yes" if there else "no"


def _c_library():
    return " ".join(platform.libc_ver()).strip() or "unknown C library"


def _tls_engine():
    if _tls.ssl is None:
        return "none, this Python has no ssl module"
    if not _tls._USE_LIBSSL:
        return f"ssl module, by VELODROME_TLS=python; {_tls.ssl.OPENSSL_VERSION}"
    native = _native.tls_engine() == "libssl"
    how = "libssl, called directly" if native else "ssl module"
    return f"{how}; {_tls.ssl.OPENSSL_VERSION}"


def _kernel_features():
    """What velodrome asks of the kernel, and whether it is there: a sandbox may refuse some."""
    import select

    yield "epoll", _opens(getattr(select, "epoll", None))
    yield "eventfd", _opens(getattr(os, "eventfd", None), 0)
    # Without it a thread waits for each child process.
    yield "pidfd", _opens(getattr(os, "pidfd_open", None), os.getpid())
    yield "recvmmsg", _knows("recvmmsg")
    yield "sendmmsg", _knows("sendmmsg")


def _opens(opener, *args):
    if opener is None:
        return False
    try:
        opened = opener(*args)
    except OSError:
        return False
    if isinstance(opened, int):
        os.close(opened)
    else:
        opened.close()
    return True


def _knows(call):
    """Whether the kernel has this system call for messages: it then finds other faults."""
    try:
        import ctypes

        function = getattr(ctypes.CDLL(None, use_errno=True), call)
    except (ImportError, AttributeError, OSError):
        return None
    function(-1, None, 0, 0, None)
    return ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM)
