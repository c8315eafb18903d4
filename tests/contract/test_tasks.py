"""Tasks and futures that the loop makes."""

import asyncio
import contextvars
import gc
import subprocess
import sys

import pytest
from support import run_child, start_child, wait_until_idle

variable = contextvars.ContextVar("variable", default="default")

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12")
since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="new in 3.14")


async def value_of(value):
    return value


async def test_create_future_belongs_to_the_loop(loop):
    future = loop.create_future()
    assert isinstance(future, asyncio.Future)
    assert future.get_loop() is loop


async def test_create_task_makes_an_asyncio_task(loop):
    task = loop.create_task(value_of(1))
    assert type(task) is asyncio.Task
    assert task.get_loop() is loop
    assert await task == 1


def test_a_task_may_be_made_before_the_loop_runs(loop):
    task = loop.create_task(value_of("early"))
    assert loop.run_until_complete(task) == "early"


async def test_a_task_begins_in_the_next_tick(loop):
    begun = []

    async def begin():
        begun.append(1)

    task = loop.create_task(begin())
    assert begun == []
    await asyncio.sleep(0)
    assert begun == [1]
    await task


async def test_tasks_begin_in_the_order_of_creation(loop):
    begun = []

    async def begin(number):
        begun.append(number)

    await asyncio.gather(*(begin(number) for number in range(100)))
    assert begun == list(range(100))


async def test_sleep_zero_lets_the_others_go_first(loop):
    order = []

    async def stepper(name):
        for step in range(3):
            order.append((name, step))
            await asyncio.sleep(0)

    await asyncio.gather(stepper("a"), stepper("b"))
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]


async def test_done_callbacks_run_in_the_next_tick(loop):
    order = []
    future = loop.create_future()
    future.add_done_callback(lambda _: order.append("done"))
    future.set_result(None)
    order.append("set")
    await asyncio.sleep(0)
    assert order == ["set", "done"]


async def test_create_task_takes_a_name(loop):
    task = loop.create_task(value_of(1), name="worker")
    assert task.get_name() == "worker"
    await task


async def test_a_task_has_a_name_anyway(loop):
    task = loop.create_task(value_of(1))
    assert task.get_name().startswith("Task-")
    await task


def test_the_first_task_of_a_program_is_the_first(loop_name):
    code = """
    import asyncio
    loop = new_event_loop()
    print(loop.create_task(asyncio.sleep(0)).get_name())
    loop.run_until_complete(asyncio.sleep(0))
    """
    assert run_child(loop_name, code).stdout == "Task-1\n"


async def test_create_task_takes_a_context(loop):
    async def look_and_set():
        seen = variable.get()
        variable.set("from the task")
        return seen

    context = contextvars.copy_context()
    context.run(variable.set, "given")
    assert await loop.create_task(look_and_set(), context=context) == "given"
    assert context[variable] == "from the task"
    assert variable.get() == "default"


async def test_a_task_gets_a_copy_of_the_present_context(loop):
    async def look_and_set():
        seen = variable.get()
        variable.set("from the task")
        return seen

    variable.set("present")
    assert await loop.create_task(look_and_set()) == "present"
    assert variable.get() == "present"


async def test_the_steps_of_a_task_share_its_context(loop):
    async def stepper():
        variable.set("mine")
        await asyncio.sleep(0)
        first = variable.get()
        await asyncio.sleep(0.001)
        return first, variable.get()

    assert await loop.create_task(stepper()) == ("mine", "mine")


async def test_create_task_refuses_what_is_no_coroutine(loop):
    with pytest.raises(TypeError, match="a coroutine was expected"):
        loop.create_task(42)


async def test_unknown_keywords_are_refused(loop):
    coroutine = value_of(1)
    with pytest.raises(TypeError):
        loop.create_task(coroutine, nonsense=True)
    coroutine.close()


@since_3_14
async def test_eager_start_runs_up_to_the_first_wait(loop):
    order = []

    async def eager():
        order.append("begun")
        await asyncio.sleep(0)
        order.append("ended")

    task = loop.create_task(eager(), eager_start=True)
    assert order == ["begun"]
    await task
    assert order == ["begun", "ended"]


@since_3_14
async def test_eager_start_of_what_never_waits_is_done_at_once(loop):
    task = loop.create_task(value_of(7), eager_start=True)
    assert task.done()
    assert task.result() == 7


@since_3_14
async def test_eager_start_needs_no_running_loop_if_it_is_false(loop):
    task = loop.create_task(value_of(7), eager_start=False)
    assert not task.done()
    assert await task == 7


# --- task factories -------------------------------------------------------------------------------


async def test_the_task_factory_makes_the_tasks(loop):
    made = []

    def factory(loop, coro, **keywords):
        made.append((loop, keywords))
        return asyncio.Task(coro, loop=loop, **keywords)

    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    assert await loop.create_task(value_of(1)) == 1
    assert await asyncio.create_task(value_of(2)) == 2
    assert len(made) == 2
    assert all(who is loop for who, _ in made)


async def test_the_task_factory_gets_the_context(loop):
    contexts = []

    def factory(loop, coro, **keywords):
        contexts.append(keywords.get("context"))
        return asyncio.Task(coro, loop=loop, **keywords)

    loop.set_task_factory(factory)
    context = contextvars.copy_context()
    await loop.create_task(value_of(1), context=context)
    assert contexts == [context]


async def test_a_factory_of_old_gets_no_keywords(loop):
    loop.set_task_factory(lambda loop, coro: asyncio.Task(coro, loop=loop))
    assert await loop.create_task(value_of(1)) == 1


async def test_the_name_reaches_a_task_of_the_factory(loop):
    loop.set_task_factory(lambda loop, coro, **keywords: asyncio.Task(coro, loop=loop, **keywords))
    task = loop.create_task(value_of(1), name="worker")
    assert task.get_name() == "worker"
    await task


async def test_the_factory_may_make_another_class(loop):
    class MyTask(asyncio.Task):
        pass

    loop.set_task_factory(lambda loop, coro, **keywords: MyTask(coro, loop=loop, **keywords))
    task = loop.create_task(value_of(1))
    assert type(task) is MyTask
    assert await task == 1


async def test_none_restores_the_default_factory(loop):
    loop.set_task_factory(lambda *args, **keywords: None)
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None
    assert type(task := loop.create_task(value_of(1))) is asyncio.Task
    await task


def test_the_default_has_no_factory(loop):
    assert loop.get_task_factory() is None


def test_a_factory_must_be_callable(loop):
    with pytest.raises(TypeError, match=r"^task factory must be a callable or None$"):
        loop.set_task_factory(1)


async def test_a_pure_python_task_runs(loop):
    loop.set_task_factory(lambda loop, coro, **keywords: asyncio.tasks._PyTask(coro, loop=loop, **keywords))

    async def worker():
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return "pure"

    assert await loop.create_task(worker()) == "pure"


@since_3_12
async def test_the_eager_task_factory_starts_eagerly(loop):
    loop.set_task_factory(asyncio.eager_task_factory)
    order = []

    async def eager():
        order.append("begun")
        await asyncio.sleep(0)
        order.append("ended")

    task = asyncio.create_task(eager())
    assert order == ["begun"]
    await task
    assert asyncio.create_task(value_of(3)).result() == 3


@since_3_12
async def test_an_eager_task_is_the_current_one_while_it_starts(loop):
    loop.set_task_factory(asyncio.eager_task_factory)
    me = asyncio.current_task()

    async def current():
        return asyncio.current_task()

    task = asyncio.create_task(current())
    assert task.result() is task
    assert asyncio.current_task() is me


# --- introspection --------------------------------------------------------------------------------


async def test_current_task_is_the_one_that_runs(loop):
    async def current():
        return asyncio.current_task()

    task = loop.create_task(current())
    assert await task is task
    assert asyncio.current_task() is not task


async def test_there_is_no_current_task_in_a_callback(loop):
    seen = loop.create_future()
    loop.call_soon(lambda: seen.set_result(asyncio.current_task()))
    assert await seen is None


async def test_all_tasks_are_those_that_are_not_done(loop):
    me = asyncio.current_task()
    tasks = {loop.create_task(value_of(number)) for number in range(5)}
    assert asyncio.all_tasks() == tasks | {me}
    await asyncio.gather(*tasks)
    assert asyncio.all_tasks() == {me}


def test_all_tasks_of_a_loop_are_its_own(loop, new_loop):
    other = new_loop()
    try:
        mine, theirs = loop.create_task(value_of(1)), other.create_task(value_of(2))
        assert asyncio.all_tasks(loop) == {mine}
        assert asyncio.all_tasks(other) == {theirs}
        loop.run_until_complete(mine)
        other.run_until_complete(theirs)
    finally:
        other.close()


@since_3_14
def test_the_tasks_of_another_process_can_be_listed(loop_name):
    """As docs/debugging.md has it."""
    code = """
        import asyncio
        async def waiter():
            await asyncio.Event().wait()
        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(waiter(), name="the first waiter")
                group.create_task(waiter(), name="the second waiter")
                await asyncio.sleep(0)
                print("ready")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    """
    with start_child(loop_name, code) as child:
        assert child.stdout.readline() == "ready\n"
        wait_until_idle(child.pid)
        command = [sys.executable, "-m", "asyncio", "ps", str(child.pid)]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60)
        child.kill()
    if "ermission" in listed.stderr:
        pytest.skip("this system lets no process read another's memory")
    assert listed.returncode == 0, listed.stderr
    assert "the first waiter" in listed.stdout
    assert "the second waiter" in listed.stdout


# --- cancellation and errors ----------------------------------------------------------------------


async def test_cancel_reaches_the_await(loop):
    async def worker():
        try:
            await loop.create_future()
        except asyncio.CancelledError as exc:
            return exc.args

    task = loop.create_task(worker())
    await asyncio.sleep(0)
    task.cancel("why")
    assert await task == ("why",)


async def test_a_task_cancelled_before_it_begins_never_runs(loop):
    ran = []

    async def worker():
        ran.append(1)

    task = loop.create_task(worker())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran == []


async def test_a_task_group_cancels_the_others(loop):
    cancelled = []

    async def waiter():
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def fail():
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(waiter())
            group.create_task(waiter())
            group.create_task(fail())
    assert [type(exc) for exc in caught.value.exceptions] == [ZeroDivisionError]
    assert cancelled == [1, 1]


async def fail():
    raise ZeroDivisionError("nobody looked")


async def test_an_exception_never_retrieved_is_reported(loop, reports):
    task = loop.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    representation = repr(task)
    del task
    gc.collect()
    context = reports.take()
    assert context["message"] == "Task exception was never retrieved"
    assert isinstance(context["exception"], ZeroDivisionError)
    assert repr(context["future"]) == representation


async def test_an_exception_of_a_future_never_retrieved_is_reported(loop, reports):
    loop.create_future().set_exception(ZeroDivisionError())
    gc.collect()
    context = reports.take()
    assert context["message"] == "Future exception was never retrieved"
    assert isinstance(context["exception"], ZeroDivisionError)


async def test_a_pending_task_that_nobody_holds_is_reported(loop, reports):
    async def waiter():
        await asyncio.Future()

    task = loop.create_task(waiter())
    await asyncio.sleep(0)
    del task
    gc.collect()
    context = reports.take()
    assert context["message"] == "Task was destroyed but it is pending!"
    assert isinstance(context["task"], asyncio.Task)


def test_a_step_that_raises_system_exit_leaves_the_loop_and_ends_the_task(loop):
    async def leave():
        raise SystemExit(3)

    task = loop.create_task(leave())
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert task.done()
    assert isinstance(task.exception(), SystemExit)


async def test_an_awaited_bad_yield_is_an_error_of_the_task(loop):
    class Bad:
        def __await__(self):
            yield 42

    async def worker():
        await Bad()

    with pytest.raises(RuntimeError, match="Task got bad yield: 42"):
        await loop.create_task(worker())


async def test_awaiting_a_future_of_another_loop_is_an_error(loop, new_loop):
    other = new_loop()
    try:

        async def worker():
            await other.create_future()

        with pytest.raises(RuntimeError, match="attached to a different loop"):
            await loop.create_task(worker())
    finally:
        other.close()


async def test_a_subclass_of_future_can_be_awaited(loop):
    class MyFuture(asyncio.Future):
        pass

    future = MyFuture(loop=loop)
    loop.call_soon(future.set_result, 1)
    assert await future == 1


async def test_a_pure_python_future_can_be_awaited(loop):
    future = asyncio.futures._PyFuture(loop=loop)
    loop.call_soon(future.set_result, 1)
    assert await future == 1


async def test_a_deep_chain_of_tasks_unwinds(loop):
    async def link(depth):
        return depth if depth == 0 else await asyncio.create_task(link(depth - 1)) + 1

    assert await link(300) == 300


async def test_ten_thousand_tasks_end(loop):
    assert sum(await asyncio.gather(*(value_of(1) for _ in range(10_000)))) == 10_000


async def test_locks_queues_and_events_work_together(loop):
    queue = asyncio.Queue(maxsize=2)
    lock = asyncio.Lock()
    seen = []

    async def producer():
        for number in range(50):
            await queue.put(number)
        await queue.put(None)

    async def consumer():
        while (number := await queue.get()) is not None:
            async with lock:
                seen.append(number)

    await asyncio.gather(producer(), consumer())
    assert seen == list(range(50))


# --- what `call_soon` returns to those who see it -------------------------------------------------


class ForeignFuture:
    """Something awaitable that is none of asyncio's; it schedules its waiter itself."""

    _asyncio_future_blocking = False

    def __init__(self, loop):
        self._loop = loop
        self.handles = []

    def get_loop(self):
        return self._loop

    def add_done_callback(self, callback, *, context=None):
        self.handles.append(self._loop.call_soon(callback, self, context=context))

    def result(self):
        return "result"

    cancelled = exception = lambda self: None

    def __await__(self):
        self._asyncio_future_blocking = True
        yield self
        return self.result()


async def test_a_foreign_future_gets_a_handle_for_its_waiter(loop):
    future = ForeignFuture(loop)
    assert await future == "result"
    (handle,) = future.handles
    assert isinstance(handle, asyncio.Handle)


async def test_a_call_soon_put_on_the_class_sees_handles(loop, monkeypatch):
    original, handles = type(loop).call_soon, []

    def call_soon(self, callback, *args, **keywords):
        handles.append(original(self, callback, *args, **keywords))
        return handles[-1]

    monkeypatch.setattr(type(loop), "call_soon", call_soon)
    await asyncio.sleep(0)
    await loop.create_task(asyncio.sleep(0))
    monkeypatch.undo()
    count = len(handles)
    await asyncio.sleep(0)
    assert count >= 3
    assert len(handles) == count
    assert all(isinstance(handle, asyncio.Handle) for handle in handles)


async def test_a_call_soon_put_on_the_loop_sees_handles(loop):
    original, handles = loop.call_soon, []

    def call_soon(callback, *args, **keywords):
        handles.append(original(callback, *args, **keywords))
        return handles[-1]

    loop.call_soon = call_soon
    await asyncio.sleep(0)
    await loop.create_task(asyncio.sleep(0))
    del loop.call_soon
    count = len(handles)
    await asyncio.sleep(0)
    assert count >= 3
    assert len(handles) == count
    assert all(isinstance(handle, asyncio.Handle) for handle in handles)
