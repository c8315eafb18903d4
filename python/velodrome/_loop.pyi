"""The loop as a program sees it: asyncio's, but for the native methods and what is ours."""

import asyncio
import ssl as _ssl
import sys
from collections.abc import Callable
from os import PathLike
from socket import socket

from . import _native

class Loop(_native.Loop, asyncio.SelectorEventLoop):
    def __init__(self) -> None: ...
    if sys.version_info >= (3, 13):
        async def create_unix_server(
            self,
            protocol_factory: Callable[[], asyncio.BaseProtocol],
            path: str | PathLike[str] | None = None,
            *,
            mode: int | None = None,
            sock: socket | None = None,
            backlog: int = 100,
            ssl: _ssl.SSLContext | bool | None = None,
            ssl_handshake_timeout: float | None = None,
            ssl_shutdown_timeout: float | None = None,
            start_serving: bool = True,
            cleanup_socket: bool = True,
        ) -> asyncio.Server: ...
    else:
        async def create_unix_server(
            self,
            protocol_factory: Callable[[], asyncio.BaseProtocol],
            path: str | PathLike[str] | None = None,
            *,
            mode: int | None = None,
            sock: socket | None = None,
            backlog: int = 100,
            ssl: _ssl.SSLContext | bool | None = None,
            ssl_handshake_timeout: float | None = None,
            ssl_shutdown_timeout: float | None = None,
            start_serving: bool = True,
        ) -> asyncio.Server: ...
