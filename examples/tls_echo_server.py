"""An echo server over TLS.

    python examples/tls_echo_server.py --certificate server.pem --key server.key --port 8443

With --starttls a connection begins in the clear, and becomes TLS after the line STARTTLS. With --clients FILE, only
clients are served that show a certificate of one of the authorities in the file.
"""

import argparse
import asyncio
import contextlib
import ssl

import velodrome


def tls_context(certificate, key, client_authorities):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_authorities)
    context.load_cert_chain(certificate, key)
    if client_authorities:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def echo(reader, writer):
    # A client may leave in the middle, with or without a word of TLS.
    with contextlib.closing(writer), contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()  # a client that does not read is not read from


async def echo_after_starttls(reader, writer, context):
    if await reader.readline() != b"STARTTLS\n":
        writer.close()
        return
    writer.write(b"go ahead\n")
    try:
        await writer.start_tls(context)
    except OSError:
        return  # no handshake: the connection is closed
    await echo(reader, writer)


async def serve(arguments):
    context = tls_context(arguments.certificate, arguments.key, arguments.clients)
    if arguments.starttls:
        server = await asyncio.start_server(
            lambda reader, writer: echo_after_starttls(reader, writer, context), arguments.host, arguments.port
        )
    else:
        server = await asyncio.start_server(echo, arguments.host, arguments.port, ssl=context)
    async with server:
        print("listening on port", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--certificate", required=True, help="and those that lead to its authority, in a PEM file")
    parser.add_argument("--key", help="if it is not in the same file")
    parser.add_argument("--clients", metavar="FILE", help="the authorities of clients, in a PEM file")
    parser.add_argument("--starttls", action="store_true")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        velodrome.run(serve(arguments))


if __name__ == "__main__":
    main()
