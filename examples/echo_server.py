"""An echo server: sends every byte back to who sent it.

    python examples/echo_server.py --port 8007
    nc localhost 8007

Ctrl-C ends it.
"""

import argparse
import asyncio
import contextlib

import velodrome


async def echo(reader, writer):
    """Serve one client; asyncio runs this as a task for each connection."""
    # A client may leave in the middle. Whatever happens, the connection is closed.
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):  # empty at the end
            writer.write(data)
            await writer.drain()  # a client that does not read is not read from


async def serve(host, port):
    server = await asyncio.start_server(echo, host, port)
    async with server:
        print("listening on port", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        velodrome.run(serve(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
