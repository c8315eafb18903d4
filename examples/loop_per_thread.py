"""One loop per thread: each serves the connections that the system gives it, on one port.

    python examples/loop_per_thread.py --threads 2

Threads of one interpreter take turns, so this helps where handlers wait in C code that lets others run, or where a
library wants a loop in its thread. For more processors, use processes.
"""

import argparse
import asyncio
import collections
import socket
import threading

import velodrome


class Worker(threading.Thread):
    """A thread with a loop, and a server on it."""

    def __init__(self, port):
        super().__init__()
        # Sockets with SO_REUSEPORT share a port, and the system shares the connections out.
        self.listener = socket.create_server(("127.0.0.1", port), reuse_port=True)
        self.port = self.listener.getsockname()[1]
        self.loop = velodrome.new_event_loop()
        self.ended = asyncio.Event()

    def run(self):
        # The factory returns the loop made above: stop() needs it from the other thread.
        velodrome.run(self.serve(), loop_factory=lambda: self.loop)

    async def serve(self):
        async with await asyncio.start_server(self.answer, sock=self.listener):
            await self.ended.wait()

    async def answer(self, reader, writer):
        assert asyncio.get_running_loop() is self.loop  # no other thread runs this
        writer.write(self.name.encode())
        writer.close()
        await writer.wait_closed()

    def stop(self):
        self.loop.call_soon_threadsafe(self.ended.set)  # the only door from another thread
        self.join()


async def ask(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


async def ask_often(port, times):
    return collections.Counter([await ask(port) for _ in range(times)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    workers = [Worker(0)]
    workers += [Worker(workers[0].port) for _ in range(arguments.threads - 1)]
    for worker in workers:
        worker.start()
    answers = velodrome.run(ask_often(workers[0].port, 100))  # and this thread has a loop for a while
    for worker in workers:
        worker.stop()

    for worker in workers:
        print(f"{worker.name} answered {answers[worker.name]} of 100")


if __name__ == "__main__":
    main()
