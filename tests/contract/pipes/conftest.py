"""Pipes of every kind to try transports on; all are closed at the end of a test."""

import os
import pty
import socket
import tty

import pytest


def tcp_sockets():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    return one, other


@pytest.fixture
def opened(tmp_path):
    """Opens the reading and the writing end of what `kind` names, as file objects; closes what is left."""
    files = []

    def open_both(kind):
        if kind == "pipe":
            fds = os.pipe()
        elif kind == "fifo":
            path = tmp_path / "fifo"
            os.mkfifo(path)
            read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            fds = read, os.open(path, os.O_WRONLY)
            os.set_blocking(read, True)
        elif kind == "terminal":
            fds = pty.openpty()
            tty.setraw(fds[1])
        else:
            both = tcp_sockets() if kind == "tcp" else socket.socketpair()
            fds = [sock.detach() for sock in both]
        both = os.fdopen(fds[0], "rb", 0), os.fdopen(fds[1], "wb", 0)
        files.extend(both)
        return both

    yield open_both
    for file in files:
        file.close()
