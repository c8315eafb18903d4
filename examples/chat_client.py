"""Joins the room of chat_server.py: sends the lines of stdin, prints what is said.

    python examples/chat_client.py --port 8765 --name ada

Needs the package websockets. The end of stdin (Ctrl-D) leaves the room.
"""

import argparse
import asyncio
import contextlib
import sys

import velodrome
from websockets.asyncio.client import connect


async def lines_of_stdin():
    """The lines as they come, without a thread. stdin must be a pipe or a terminal, not a file."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    with contextlib.closing(transport):
        while line := await reader.readline():
            yield line.decode().rstrip("\n")


async def listen(connection):
    async for message in connection:
        print(message, flush=True)


async def speak(connection):
    async with contextlib.aclosing(lines_of_stdin()) as lines:
        async for line in lines:
            await connection.send(line)


async def chat(uri, name):
    async with connect(uri) as connection:
        await connection.send(name)
        listening = asyncio.create_task(listen(connection))
        speaking = asyncio.create_task(speak(connection))
        # Until the server ends the conversation, or we do.
        done, pending = await asyncio.wait([listening, speaking], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()  # raises what went wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()
    try:
        velodrome.run(chat(f"ws://{arguments.host}:{arguments.port}", arguments.name))
    except OSError as error:
        raise SystemExit(f"no connection: {error}") from None
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
