"""As much of PostgreSQL as a client needs to connect over TLS and to ask for a constant.

It speaks the protocol's version 3: https://www.postgresql.org/docs/current/protocol-message-formats.html. Everybody may
come in. `SELECT 1` is answered, `SELECT $1::bytea` gives back what it was sent, and other statements succeed.
"""

import contextlib
import struct

SSL_REQUEST = 80877103
PROTOCOL_3 = 3 << 16
INT4, BYTEA = 23, 17  # object identifiers of types


def message(kind, body=b""):
    return kind + struct.pack("!i", 4 + len(body)) + body


PARAMETERS = {b"server_version": b"16.0", b"client_encoding": b"UTF8", b"integer_datetimes": b"on"}
WELCOME = b"".join(
    [
        message(b"R", struct.pack("!i", 0)),  # authenticated
        *(message(b"S", name + b"\0" + value + b"\0") for name, value in PARAMETERS.items()),
        message(b"K", struct.pack("!ii", 1, 1)),  # what a client may cancel a statement with
    ]
)
READY = message(b"Z", b"I")
PARSED, BOUND, CLOSED = message(b"1"), message(b"2"), message(b"3")
SELECTED, DONE = message(b"C", b"SELECT 1\0"), message(b"C", b"DO\0")


async def session(reader, writer, context):
    """Serve one connection; with an ssl.SSLContext, only over TLS."""
    with contextlib.closing(writer):
        if context:
            assert await read_startup(reader) == SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(context)
        assert await read_startup(reader) == PROTOCOL_3
        writer.write(WELCOME + READY)
        await answer_statements(reader, writer)


async def read_startup(reader):
    length, code = struct.unpack("!ii", await reader.readexactly(8))
    await reader.readexactly(length - 8)
    return code


async def answer_statements(reader, writer):
    statements = {}
    value = b""
    while True:
        kind, length = struct.unpack("!ci", await reader.readexactly(5))
        body = await reader.readexactly(length - 4)
        match kind:
            case b"P":  # Parse
                name, text, _ = body.split(b"\0", 2)
                statements[name] = text
                writer.write(PARSED)
            case b"D":  # Describe, of a statement
                is_echo = b"$1" in statements[body[1:-1]]
                parameters = struct.pack("!hi", 1, BYTEA) if is_echo else struct.pack("!h", 0)
                column_type, size = (BYTEA, -1) if is_echo else (INT4, 4)
                # One column: its name, table, number there, type, size, modifier, format.
                row = b"\0\1value\0" + struct.pack("!ihihih", 0, 0, column_type, size, -1, 0)
                writer.write(message(b"t", parameters) + message(b"T", row))
            case b"B":  # Bind
                value = bound_value(body)
                writer.write(BOUND)
            case b"E":  # Execute
                writer.write(message(b"D", struct.pack("!hi", 1, len(value)) + value) + SELECTED)
            case b"C":  # Close, of a statement
                writer.write(CLOSED)
            case b"Q":  # a statement at once
                writer.write(DONE + READY)
            case b"H":  # Flush
                pass
            case b"S":  # Sync
                writer.write(READY)
                await writer.drain()
            case b"X":  # Terminate
                return
            case _:
                raise AssertionError(f"a message of an unknown kind: {kind}")


def bound_value(body):
    """The one parameter of a Bind message, or the 1 of `SELECT 1`."""
    _portal, _statement, rest = body.split(b"\0", 2)
    (formats,) = struct.unpack_from("!h", rest)
    (values,) = struct.unpack_from("!h", rest, 2 + 2 * formats)
    if not values:
        return struct.pack("!i", 1)
    start = 2 + 2 * formats + 2 + 4
    (length,) = struct.unpack_from("!i", rest, start - 4)
    return rest[start : start + length]
