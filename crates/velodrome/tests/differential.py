"""Runs scripts on asyncio: see differential.rs. A script is a line, its programs are divided by `;`.

The clock is turned by hand: to the next timer, when the loop would sleep.
"""

import asyncio
import itertools
import math
import selectors
import socket
import sys

UNIT = 64  # seconds: room for what each program does at a time of its own


class Selector(selectors.EpollSelector):
    loop = None

    def select(self, timeout=None):
        events = super().select(0)
        if not events and timeout:
            self.loop.now = math.floor(self.loop.time() + timeout)
        return events


class Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.now, self.looks = 0, itertools.count(1)
        selector = Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self):
        # No two times are the same, since timers of one time have no order in asyncio.
        return self.now + next(self.looks) * 1e-7


class Failed(Exception):
    pass


class Script:
    def __init__(self, line, loop):
        self.loop = loop
        self.programs = [program.split() for program in line.split(";")]
        self.trace = []
        self.tasks = {}
        self.not_to_cancel = set()
        self.is_over = False
        self.event, self.lock, self.queue = asyncio.Event(), asyncio.Lock(), asyncio.Queue(2)
        self.semaphore, self.condition = asyncio.Semaphore(2), asyncio.Condition()
        self.streams, self.watched = [self.pairs() for _ in self.programs], [self.pairs() for _ in self.programs]
        self.readers = set()

    def pairs(self):
        pair = socket.socketpair()
        for end in pair:
            end.setblocking(False)
        return pair

    def note(self, what):
        self.trace.append(what)

    def until(self, units, ticks=0):
        """How long it is to a time of so many units from now; of the next unit, at least."""
        return (self.loop.now // UNIT + 1 + units) * UNIT + ticks - self.loop.now

    def end(self):
        self.is_over = True
        self.loop.stop()

    def spawn(self, number):
        if number not in self.tasks:
            self.tasks[number] = self.loop.create_task(self.program(number))
            self.tasks[number].add_done_callback(lambda _: self.note(f"{number}done"))

    async def program(self, number):
        try:
            for at, op in enumerate(self.programs[number]):
                self.note(f"{number}.{at}")
                await self.step(number, at, op[0], int(op[1:] or 0))
        finally:
            self.note(f"{number}over")

    async def child(self, name, yields, sleeps, fails):
        try:
            self.note(f"{name}begins")
            for _ in range(yields):
                await asyncio.sleep(0)
            if sleeps:
                await asyncio.sleep(self.until(0))
            if fails:
                raise Failed
            return name
        finally:
            self.note(f"{name}over")

    def children(self, name, argument, fails):
        return [
            self.child(f"{name}c{place}", place + argument, argument >= 3, fails and place == argument % 2)
            for place in range(1 + argument % 3)
        ]

    async def wait_for_tasks(self, name, op, argument):
        try:
            match op:
                case "a":
                    await self.loop.create_task(self.child(name + "a", argument, argument >= 3, False))
                    self.note(f"{name}awaited")
                case "G":
                    names = await asyncio.gather(*self.children(name, argument, argument == 5))
                    self.note(f"{name}gathered{','.join(names)}")
                case "T":
                    async with asyncio.TaskGroup() as group:
                        for child in self.children(name, argument, argument % 3 == 2):
                            group.create_task(child)
                        await asyncio.sleep(0)
                        self.note(f"{name}body")
                        if argument % 2:
                            await asyncio.sleep(self.until(1))
                            self.note(f"{name}bodyslept")
                    self.note(f"{name}grouped")
        except (Failed, ExceptionGroup):
            self.note(f"{name}failed")

    def write(self, number):
        for place in number, (number + 1) % len(self.programs):
            for _, end in self.streams[place], self.watched[place]:
                end.send(b"x")

    def toggle_reader(self, number):
        end, _ = self.watched[number]
        if number in self.readers:
            self.readers.remove(number)
            self.loop.remove_reader(end)
        else:
            self.readers.add(number)
            self.loop.add_reader(end, lambda: self.note(f"{number}readable{len(end.recv(16))}"))

    async def step(self, number, at, op, argument):
        loop = self.loop
        match op:
            case "y":
                await asyncio.sleep(0)
            case "c":
                loop.call_soon(self.note, f"{number}.{at}called")
            case "k":
                loop.call_soon(self.note, "never").cancel()
            case "t":
                loop.call_later(0, self.note, f"{number}.{at}timer")
            case "D":
                loop.call_later(self.until(argument), self.note, f"{number}.{at}later")
            case "K":
                loop.call_later(self.until(argument), self.note, "never").cancel()
            case "d":
                await asyncio.sleep(self.until(argument))
            case "o":
                try:
                    async with asyncio.timeout(self.until(argument // 2, 32 + number)):
                        if argument % 2:
                            await asyncio.sleep(self.until(1))
                        else:
                            await self.event.wait()
                    self.note(f"{number}.{at}intime")
                except TimeoutError:
                    self.note(f"{number}.{at}late")
            case "a" | "G" | "T":
                self.not_to_cancel.add(number)
                await self.wait_for_tasks(f"{number}.{at}", op, argument)
                self.not_to_cancel.discard(number)
            case "S":
                loop.stop()
            case "w":
                loop.call_later(self.until(0, 16 + number), self.write, argument)
            case "R":
                loop.call_later(self.until(0, 48 + number), self.toggle_reader, number)
            case "r":
                received = await loop.sock_recv(self.streams[number][0], 16)
                self.note(f"{number}.{at}read{len(received)}")
            case "s":
                self.spawn(argument)
            case "x" if argument in self.tasks and argument != number:
                if argument not in self.not_to_cancel:
                    self.tasks[argument].cancel()
            case "e":
                await self.event.wait()
            case "E":
                self.event.set()
                self.event.clear()
            case "l":
                async with self.lock:
                    self.note(f"{number}.{at}locked")
                    for _ in range(argument):
                        await asyncio.sleep(0)
            case "C":
                self.not_to_cancel.add(number)
                async with self.condition:
                    self.note(f"{number}.{at}waits")
                    await self.condition.wait()
                    self.note(f"{number}.{at}notified")
                    self.not_to_cancel.discard(number)
            case "N":
                async with self.condition:
                    self.condition.notify(argument)
            case "m":
                async with self.semaphore:
                    self.note(f"{number}.{at}permitted")
                    for _ in range(argument):
                        await asyncio.sleep(0)
            case "p":
                await self.queue.put(number)
            case "g":
                self.note(f"{number}.{at}got{await self.queue.get()}")


def run(line):
    loop = Loop()
    script = Script(line, loop)
    loop.call_soon(script.spawn, 0)
    loop.call_later(1000 * UNIT, script.end)
    while not script.is_over:
        loop.run_forever()
        script.note("stopped")
    print(" ".join(script.trace))
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.wait(tasks) if tasks else asyncio.sleep(0))
    loop.close()
    for end in itertools.chain(*script.streams, *script.watched):
        end.close()


for line in sys.stdin:
    run(line.strip())
