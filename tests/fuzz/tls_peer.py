"""The other end of a TLS connection for tls.py: one session or two over a socket, driven by hand."""

import contextlib
import ctypes
import random
import ssl
import sys

PATTERN = random.Random(0).randbytes(1_000_003)


class Found(Exception):
    """Something that must not be."""


def pattern(start, count):
    """What is sent at this place of the stream."""
    start %= len(PATTERN)
    data = PATTERN[start : start + count]
    while len(data) < count:
        data += PATTERN[: count - len(data)]
    return data


class Layer:
    """One TLS session of the peer."""

    def __init__(self, context, server_side):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_side, name)
        self.made = self.ended = False

    def handshake(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            if not self.made:
                self.ssl.do_handshake()
                self.made = True
        return self.made

    def close_notify(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.unwrap()

    def read(self):
        """All that is there; sets `ended` at the other side's close_notify."""
        chunks = []
        try:
            while chunk := self.ssl.read(1 << 18):
                chunks.append(chunk)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return b"".join(chunks)

    def update_key(self):
        """Change the key for sending, and ask for the same: the ssl module cannot."""
        if KEY_UPDATE is not None and self.ssl.version() == "TLSv1.3":
            pointer = ctypes.c_void_p.from_address(id(self.ssl._sslobj) + object.__basicsize__ + 8)
            KEY_UPDATE(pointer, 1)
            with contextlib.suppress(ssl.SSLWantReadError):
                self.ssl.do_handshake()


def key_update():
    if ssl.OPENSSL_VERSION.startswith("OpenSSL ") and hasattr(sys.modules["_ssl"], "__file__"):
        with contextlib.suppress(OSError, AttributeError):
            return ctypes.CDLL(sys.modules["_ssl"].__file__).SSL_key_update
    return None


KEY_UPDATE = key_update()


class Peer:
    """The other end, one layer or two over a non-blocking socket. Nothing happens but in its methods."""

    def __init__(self, sock):
        self.sock = sock
        self.layers = []
        self.unsent = bytearray()
        self.received = self.sent = 0
        self.clean = self.gone = self.said_bye = False

    def encrypt(self):
        """Move what the layers have to say to the wire's queue."""
        for upper, lower in zip(self.layers[::-1], self.layers[-2::-1], strict=False):
            if data := upper.outgoing.read():
                lower.ssl.write(data)
        self.unsent += self.layers[0].outgoing.read()

    def push(self, limit=None):
        """Send up to so many bytes of ciphertext."""
        self.encrypt()
        with contextlib.suppress(BlockingIOError):
            while self.unsent and not self.gone and limit != 0:
                count = self.sock.send(self.unsent[: min(limit or 1 << 18, 1 << 18)])
                del self.unsent[:count]
                limit = limit and limit - count

    def is_drained(self):
        self.encrypt()
        return not self.unsent

    def pull(self, limit=1 << 18):
        """Receive up to so many bytes of ciphertext, and decrypt what is complete."""
        try:
            data = b"" if self.gone else self.sock.recv(limit)
            if not data:
                self.gone = True
        except BlockingIOError:
            return
        for layer in self.layers:
            if data:
                layer.incoming.write(data)
            if not layer.handshake():
                return
            data = layer.read()
        if data != pattern(self.received, len(data)):
            raise Found(f"the peer got something else at {self.received}, {len(data)} bytes")
        self.received += len(data)
        self.clean = self.clean or self.layers[-1].ended

    def write(self, count):
        if count and not self.said_bye and not self.gone:
            self.layers[-1].ssl.write(pattern(self.sent, count))
            self.sent += count

    def bye(self, layers=1):
        """Say close_notify, the innermost layer first."""
        self.said_bye = True
        for layer in self.layers[: -layers - 1 : -1]:
            layer.close_notify()
            self.encrypt()
