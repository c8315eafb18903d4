"""Runs scripts on asyncio: see differential.rs. A script is a line, its programs are divided by `;`."""

import asyncio
import sys


class Script:
    def __init__(self, line):
        self.programs = [program.split() for program in line.split(";")]
        self.trace = []
        self.tasks = {}
        self.event, self.lock, self.queue = asyncio.Event(), asyncio.Lock(), asyncio.Queue(2)

    def spawn(self, number):
        if number not in self.tasks:
            self.tasks[number] = asyncio.get_running_loop().create_task(self.program(number))
            self.tasks[number].add_done_callback(lambda _: self.trace.append(f"{number}done"))

    async def program(self, number):
        try:
            for at, op in enumerate(self.programs[number]):
                self.trace.append(f"{number}.{at}")
                await self.step(number, at, op[0], int(op[1:] or 0))
        finally:
            self.trace.append(f"{number}over")

    async def step(self, number, at, op, argument):
        loop = asyncio.get_running_loop()
        match op:
            case "y":
                await asyncio.sleep(0)
            case "c":
                loop.call_soon(self.trace.append, f"{number}.{at}called")
            case "k":
                loop.call_soon(self.trace.append, "never").cancel()
            case "t":
                loop.call_later(0, self.trace.append, f"{number}.{at}timer")
            case "s":
                self.spawn(argument)
            case "x" if argument in self.tasks and argument != number:
                self.tasks[argument].cancel()
            case "e":
                await self.event.wait()
            case "E":
                self.event.set()
                self.event.clear()
            case "l":
                async with self.lock:
                    self.trace.append(f"{number}.{at}locked")
                    for _ in range(argument):
                        await asyncio.sleep(0)
            case "p":
                await self.queue.put(number)
            case "g":
                self.trace.append(f"{number}.{at}got{await self.queue.get()}")


async def main(line):
    script = Script(line)
    script.spawn(0)
    for _ in range(80):
        await asyncio.sleep(0)
    print(" ".join(script.trace))
    script.trace = []


for line in sys.stdin:
    asyncio.run(main(line.strip()))
