"""What asyncio.set_event_loop() is for, on whichever loop runs this file.

    python -m velodrome examples/set_event_loop.py     on velodrome
    python examples/set_event_loop.py                  on stock asyncio

The first two examples are ordinary asyncio programs that know nothing of velodrome. The rest
checks, one line each, what is said about set_event_loop(): it prints what held, and ends with
a traceback at the first thing that does not.
"""

# ---- example 1: a loop for the main thread -----------------------------------------------------

import asyncio

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(asyncio.sleep(1))
loop.close()

# ---- example 2: a loop for another thread ------------------------------------------------------

import threading
import asyncio

def run():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(asyncio.sleep(1))
    loop.close()

thread = threading.Thread(target=run)
thread.start()
thread.join()

# ---- what the two rely on, checked -------------------------------------------------------------

import concurrent.futures
import subprocess
import sys
import warnings
from unittest import mock

ON_VELODROME = "velodrome" in sys.modules


def main():
    print(f"examples 1 and 2 ran on {full_name(type(loop))}, Python {sys.version.split()[0]}\n")
    loops_are_the_expected_ones()
    new_event_loop_sets_nothing()
    get_event_loop_needs_a_loop_in_a_thread()
    get_event_loop_needs_a_loop_after_set_event_loop_none()
    get_event_loop_in_a_fresh_main_thread()
    each_thread_has_a_loop_of_its_own()
    running_loop_comes_first()
    run_makes_sets_and_closes_a_loop()
    task_factory_makes_the_tasks()
    policy_makes_the_loops()


def held(promise, seen=""):
    print(f"ok  {promise}" + (f": {seen}" if seen else ""))


def full_name(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


def in_a_thread(function):
    """Call `function` in a new thread and return what it returns, or raise what it raises."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def error_of_get_event_loop():
    try:
        found = asyncio.get_event_loop()
    except RuntimeError as error:
        return str(error)
    raise AssertionError(f"get_event_loop() should raise RuntimeError, but returned {found!r}")


def loops_are_the_expected_ones():
    if ON_VELODROME:
        import velodrome

        assert isinstance(loop, velodrome.Loop), loop
        assert isinstance(in_a_thread(new_and_closed_loop), velodrome.Loop)
    else:
        assert isinstance(loop, asyncio.SelectorEventLoop), loop
    assert loop.is_closed()
    held("new_event_loop() makes a loop of this kind in every thread", full_name(type(loop)))


def new_and_closed_loop():
    loop = asyncio.new_event_loop()
    loop.close()
    return loop


def new_event_loop_sets_nothing():
    def made_but_not_set():
        new_and_closed_loop()
        return error_of_get_event_loop()

    in_a_thread(made_but_not_set)
    held("new_event_loop() alone makes nothing current")


def get_event_loop_needs_a_loop_in_a_thread():
    held("get_event_loop() in a thread without a loop raises", in_a_thread(error_of_get_event_loop))


def get_event_loop_needs_a_loop_after_set_event_loop_none():
    asyncio.set_event_loop(None)
    held("get_event_loop() after set_event_loop(None) raises", error_of_get_event_loop())


def get_event_loop_in_a_fresh_main_thread():
    """Only in the main thread, and only up to 3.13, a first get_event_loop() makes a loop."""
    program = (
        "import asyncio\n"
        "try: loop = asyncio.get_event_loop()\n"
        "except RuntimeError: print('raises RuntimeError')\n"
        "else: print('makes', type(loop).__module__); loop.close()\n"
    )
    run_as = ["-m", "velodrome"] if ON_VELODROME else []
    command = [sys.executable, "-W", "ignore::DeprecationWarning", *run_as, "-c", program]
    seen = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if sys.version_info >= (3, 14):
        assert seen == "raises RuntimeError", seen
        held("get_event_loop() in a main thread that set nothing", f"{seen}, as of 3.14")
    else:
        assert seen == f"makes {type(loop).__module__}", seen
        held("get_event_loop() in a main thread that set nothing", f"{seen}, until 3.13")


def each_thread_has_a_loop_of_its_own():
    both_set = threading.Barrier(2, timeout=10)

    def set_and_get():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        both_set.wait()  # the other thread has set its own by now, and must not have replaced ours
        assert asyncio.get_event_loop() is loop
        assert loop.run_until_complete(running_loop()) is loop
        asyncio.set_event_loop(None)
        loop.close()
        return loop

    async def running_loop():
        return asyncio.get_running_loop()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = [pool.submit(set_and_get) for _ in range(2)]
    assert first.result() is not second.result()
    error_of_get_event_loop()  # nor has the main thread got one of them
    held("each of two threads runs the loop it set, and sees no other")


def running_loop_comes_first():
    running, current = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def seen():
        return asyncio.get_event_loop()

    asyncio.set_event_loop(current)
    assert running.run_until_complete(seen()) is running
    assert asyncio.get_event_loop() is current
    asyncio.set_event_loop(None)
    running.close()
    current.close()
    held("get_event_loop() in a coroutine is the running loop, whatever was set")


def run_makes_sets_and_closes_a_loop():
    steps = []

    def make():
        loop = real_new_event_loop()
        steps.append("new_event_loop()")
        return loop

    def set_current(loop):
        steps.append("set_event_loop(None)" if loop is None else "set_event_loop(loop)")
        real_set_event_loop(loop)

    async def program():
        steps.append("program")
        return asyncio.get_running_loop()

    real_new_event_loop = asyncio.events.new_event_loop
    real_set_event_loop = asyncio.events.set_event_loop
    with (
        mock.patch.object(asyncio.events, "new_event_loop", make),
        mock.patch.object(asyncio.events, "set_event_loop", set_current),
    ):
        used = asyncio.run(program())

    assert type(used) is type(loop), used
    assert used.is_closed()
    expected = ["new_event_loop()", "set_event_loop(loop)", "program", "set_event_loop(None)"]
    assert steps == expected, steps
    held("asyncio.run()", ", ".join(steps) + ", close()")


def task_factory_makes_the_tasks():
    made = []

    def factory(loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        made.append(task)
        return task

    async def program():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        task = asyncio.create_task(asyncio.sleep(0, "slept"), name="nap")
        assert made == [task] and task.get_name() == "nap"
        assert await task == "slept"
        loop.set_task_factory(None)
        assert loop.get_task_factory() is None
        await asyncio.create_task(asyncio.sleep(0))
        assert made == [task]

    asyncio.run(program())
    held("loop.set_task_factory() decides who makes tasks, until it is None again")

    if sys.version_info >= (3, 12):
        asyncio.run(eager_program())
        held("asyncio.eager_task_factory runs a task up to its first wait at once")


async def eager_program():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    steps = []

    async def child():
        steps.append("child")

    task = asyncio.create_task(child())
    steps.append("after create_task")
    assert task.done() and steps == ["child", "after create_task"], steps


def policy_makes_the_loops():
    if sys.version_info >= (3, 16):
        held("event loop policies are gone from this Python")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # since 3.14
        if ON_VELODROME:
            from velodrome import EventLoopPolicy as Base
        else:
            Base = asyncio.DefaultEventLoopPolicy

        class Policy(Base):
            made = 0

            def new_event_loop(self):
                self.made += 1
                return super().new_event_loop()

        before = asyncio.get_event_loop_policy()
        policy = Policy()
        asyncio.set_event_loop_policy(policy)
        try:
            assert asyncio.get_event_loop_policy() is policy
            made = new_and_closed_loop()
            asyncio.run(asyncio.sleep(0))
        finally:
            asyncio.set_event_loop_policy(before)
    assert type(made) is type(loop), made
    assert policy.made == 2, policy.made
    held("set_event_loop_policy() decides what new_event_loop() and run() make", full_name(Base))


main()
