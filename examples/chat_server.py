"""A chat room over WebSocket: what one says, all others hear.

    python examples/chat_server.py --port 8765
    python examples/chat_client.py --port 8765 --name ada

Needs the package websockets. Ctrl-C ends it, and tells the clients.
"""

import argparse
import asyncio
import signal

import velodrome
from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosed


class Room:
    def __init__(self):
        self.members = set()

    async def join(self, connection):
        """Serve one client: its first message is its name, each other one is for all."""
        try:
            name = await connection.recv()
        except ConnectionClosed:
            return
        self.members.add(connection)
        try:
            self.say(f"* {name} is here")
            async for message in connection:
                self.say(f"{name}: {message}")
        finally:
            self.members.discard(connection)
            self.say(f"* {name} has left")

    def say(self, message):
        # Waits for nobody: who does not read falls behind, and is closed when it misses the pings.
        broadcast(self.members, message)


async def run_room(host, port):
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)

    # A message has an end: 4 KiB are enough for a line of chat, and a client that sends more is closed.
    async with serve(Room().join, host, port, max_size=4096) as server:
        print("listening on port", server.sockets[0].getsockname()[1], flush=True)
        await ended.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    arguments = parser.parse_args()
    velodrome.run(run_room(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
