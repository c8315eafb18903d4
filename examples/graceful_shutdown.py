"""A server that ends in order: SIGTERM (or Ctrl-C) lets it finish what it has begun.

    python examples/graceful_shutdown.py --port 8008 --grace 10

It answers each line after a second. When it is told to end it takes no new connections, finishes the answers that are
under way, and closes; what takes longer than the grace is cancelled.
"""

import argparse
import asyncio
import contextlib
import signal

import velodrome


class Service:
    def __init__(self, delay):
        self.delay = delay
        self.ending = asyncio.Event()
        self.clients = set()  # the tasks that serve them

    async def serve_client(self, reader, writer):
        task = asyncio.current_task()
        self.clients.add(task)
        try:
            # Cancelled is what it is when the grace is over; this is the end of the task, so nobody needs to know.
            with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.CancelledError):
                while not self.ending.is_set() and (line := await self.next_line(reader)):
                    await asyncio.sleep(self.delay)  # stands for work
                    writer.write(line.upper())
                    await writer.drain()
        finally:
            self.clients.discard(task)

    async def next_line(self, reader):
        """The next line; nothing at the end of the connection, or when the service is to end first."""
        reading = asyncio.create_task(reader.readline())
        ending = asyncio.create_task(self.ending.wait())
        try:
            await asyncio.wait([reading, ending], return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else b""
        finally:
            for task in (reading, ending):
                task.cancel()

    async def run(self, host, port, grace):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ending.set)  # a callback of the loop: it may do anything

        server = await asyncio.start_server(self.serve_client, host, port)
        print("listening on port", server.sockets[0].getsockname()[1], flush=True)
        await self.ending.wait()

        server.close()  # no new connections
        print("ending; clients:", len(self.clients), flush=True)
        finished, late = await asyncio.wait(self.clients, timeout=grace) if self.clients else ((), ())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        print(f"finished: {len(finished)}, cancelled: {len(late)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--grace", type=float, default=10, help="seconds")
    parser.add_argument("--delay", type=float, default=1, help="of an answer, in seconds")
    arguments = parser.parse_args()

    async def run():
        await Service(arguments.delay).run(arguments.host, arguments.port, arguments.grace)

    velodrome.run(run())


if __name__ == "__main__":
    main()
