"""UDP: a server that sends datagrams back, and a client that asks again when an answer is lost.

    python examples/udp_echo.py serve --port 9007
    python examples/udp_echo.py ask --port 9007 hello

UDP promises nothing: a datagram may be lost, come twice, or come late. So the client numbers what it asks.
"""

import argparse
import asyncio
import contextlib
import itertools

import velodrome


class EchoServer(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


class Client(asyncio.DatagramProtocol):
    """Questions and their answers, by number."""

    def __init__(self):
        self.waiting = {}
        self.numbers = itertools.count()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        number, _, answer = data.partition(b" ")
        future = self.waiting.get(number)
        if future is not None and not future.done():  # else it comes late, or twice
            future.set_result(answer)

    def error_received(self, error):
        # Such as ConnectionRefusedError: nobody listens there. For all questions, since it does not say for which.
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(error)

    async def ask(self, question, *, tries=4, seconds=0.5):
        number = str(next(self.numbers)).encode()
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            for _ in range(tries):
                self.transport.sendto(number + b" " + question)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        return await asyncio.shield(future)  # which outlives the try
                seconds *= 2  # a network that is busy is not helped by haste
            raise TimeoutError(f"asked {tries} times")
        finally:
            del self.waiting[number]


async def serve(host, port):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(EchoServer, local_addr=(host, port))
    with contextlib.closing(transport):
        print("listening on port", transport.get_extra_info("sockname")[1], flush=True)
        await loop.create_future()  # until it is cancelled, by Ctrl-C


async def ask(host, port, questions):
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_datagram_endpoint(Client, remote_addr=(host, port))
    with contextlib.closing(transport):
        try:
            for answer in await asyncio.gather(*[client.ask(question.encode()) for question in questions]):
                print(answer.decode())
        except OSError as error:
            raise SystemExit(f"no answer: {error}") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("serve")
    command.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    command = commands.add_parser("ask")
    command.add_argument("--port", type=int, required=True)
    command.add_argument("questions", nargs="+")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        if arguments.command == "serve":
            velodrome.run(serve(arguments.host, arguments.port))
        else:
            velodrome.run(ask(arguments.host, arguments.port, arguments.questions))


if __name__ == "__main__":
    main()
