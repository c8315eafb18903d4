"""Sends lines to an echo server over TLS and prints what comes back.

    echo hello | python examples/tls_echo_client.py --authority server.pem --port 8443

The server must show a certificate for the name given as --host, signed by the authority; without --authority, by one
that the system trusts. With --starttls the connection begins in the clear. With --certificate, the client shows one.
"""

import argparse
import asyncio
import ssl
import sys

import velodrome


def tls_context(authority, certificate, key):
    context = ssl.create_default_context(cafile=authority)
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


async def connect(host, port, context, starttls):
    """The streams of a connection that is encrypted, with a server that is who it says."""
    if not starttls:
        return await asyncio.open_connection(host, port, ssl=context)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"STARTTLS\n")
    if await reader.readline() != b"go ahead\n":
        raise SystemExit("the server does not want TLS")
    await writer.start_tls(context, server_hostname=host)
    return reader, writer


async def echo_lines(arguments):
    context = tls_context(arguments.authority, arguments.certificate, arguments.key)
    try:
        reader, writer = await connect(arguments.host, arguments.port, context, arguments.starttls)
    except ssl.SSLCertVerificationError as error:
        raise SystemExit(f"the server's certificate: {error.verify_message}") from None
    except OSError as error:
        raise SystemExit(f"no connection: {error}") from None
    print(*writer.get_extra_info("cipher")[:2], file=sys.stderr)
    for line in sys.stdin.buffer:
        writer.write(line)
        answer = await reader.readline()
        if answer != line:
            raise SystemExit(f"the server sent {answer!r} back")
        print(answer.decode(), end="")
    writer.close()
    await writer.wait_closed()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--authority", help="whom to trust, in a PEM file")
    parser.add_argument("--certificate", help="of the client, in a PEM file")
    parser.add_argument("--key", help="if it is not in the same file")
    parser.add_argument("--starttls", action="store_true")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, required=True)
    velodrome.run(echo_lines(parser.parse_args()))


if __name__ == "__main__":
    main()
