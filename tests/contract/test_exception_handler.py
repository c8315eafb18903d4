"""What happens to an exception that nobody can catch."""

import asyncio
import contextvars
import logging
import sys

import pytest

ERROR = ZeroDivisionError("the error")


def fail():
    raise ERROR


def run_failing(loop):
    loop.call_soon(fail)
    loop.stop()
    loop.run_forever()


def test_the_handler_gets_the_loop_and_the_context(loop):
    seen = []
    loop.set_exception_handler(lambda *args: seen.append(args))
    context = {"message": "my message", "extra": 1}
    loop.call_exception_handler(context)
    assert seen == [(loop, context)]
    assert seen[0][1] is context


def test_get_exception_handler_returns_what_was_set(loop):
    def handler(loop, context):
        pass

    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


def test_a_new_loop_has_no_handler(new_loop):
    loop = new_loop()
    assert loop.get_exception_handler() is None
    loop.close()


def test_a_handler_must_be_callable(loop):
    with pytest.raises(TypeError, match="A callable object or None is expected, got 'handler'"):
        loop.set_exception_handler("handler")


def test_without_a_handler_the_exception_is_logged(loop, caplog):
    loop.set_exception_handler(None)
    run_failing(loop)
    (record,) = caplog.records
    assert record.name == "asyncio"
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("Exception in callback fail()")
    assert "handle: <Handle fail()" in record.getMessage()
    assert record.exc_info[1] is ERROR


def test_the_default_handler_logs_every_key(loop, caplog):
    loop.default_exception_handler({"message": "my message", "exception": ERROR, "b": 2, "a": "one"})
    (record,) = caplog.records
    assert record.getMessage() == "my message\na: 'one'\nb: 2"
    assert record.exc_info[1] is ERROR


def test_the_default_handler_needs_no_message(loop, caplog):
    loop.default_exception_handler({})
    assert caplog.records[0].getMessage() == "Unhandled exception in event loop"


def test_a_handler_that_raises_is_logged_and_the_loop_goes_on(loop, caplog):
    broken = ValueError("in the handler")

    def handler(loop, context):
        raise broken

    ran = []
    loop.set_exception_handler(handler)
    loop.call_soon(fail)
    loop.call_soon(ran.append, "next")
    loop.stop()
    loop.run_forever()
    assert ran == ["next"]
    (record,) = caplog.records
    assert record.getMessage().startswith("Unhandled error in exception handler")
    assert record.exc_info[1] is broken


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_handler_leaves_the_loop(loop, exception):
    def handler(loop, context):
        raise exception

    loop.set_exception_handler(handler)
    loop.call_soon(fail)
    with pytest.raises(exception):
        loop.run_forever()


def test_an_overridden_default_handler_is_used(loop):
    seen = []
    loop.set_exception_handler(None)
    loop.default_exception_handler = seen.append
    run_failing(loop)
    assert [context["exception"] for context in seen] == [ERROR]


def test_an_overridden_call_exception_handler_is_used(loop):
    seen = []
    loop.call_exception_handler = seen.append
    run_failing(loop)
    assert [context["exception"] for context in seen] == [ERROR]


def test_a_subclass_may_override_call_exception_handler(loop):
    class Subclass(type(loop)):
        def call_exception_handler(self, context):
            seen.append(context["exception"])

    seen = []
    own = Subclass()
    run_failing(own)
    own.close()
    assert seen == [ERROR]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the handler runs in the handle's context since 3.12")
def test_the_handler_runs_in_the_context_of_the_handle(loop):
    variable = contextvars.ContextVar("variable", default="default")
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(variable.get()))
    token = variable.set("registered")
    loop.call_soon(fail)
    variable.reset(token)
    loop.stop()
    loop.run_forever()
    assert seen == ["registered"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the handler runs in the task's context since 3.12")
def test_the_handler_runs_in_the_context_of_the_task(loop):
    variable = contextvars.ContextVar("variable", default="default")
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(variable.get()))

    async def failing():
        variable.set("of the task")
        raise ERROR

    async def main():
        asyncio.create_task(failing())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert seen == ["of the task"]


def test_a_handler_may_stop_the_loop(loop):
    loop.set_exception_handler(lambda loop, context: loop.stop())
    loop.call_soon(fail)
    loop.run_forever()
