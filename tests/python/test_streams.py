"""When asyncio's streams are fed without a call, and when they are not."""

import textwrap

import pytest
from support import run_child

ECHO = """
import asyncio, sys

async def echo():
    async def serve(reader, writer):
        writer.write(await reader.readexactly(3))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"abc")
        assert await reader.read() == b"abc"
        writer.close()
        await writer.wait_closed()
"""


def test_they_are_in_every_python_that_is_tested(loop_name):
    code = """
        called = set()
        sys.setprofile(lambda frame, event, argument: called.add(frame.f_code.co_qualname))
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(echo())
        sys.setprofile(None)
        assert "StreamReader.readexactly" in called
        print(sorted(called & {"StreamReaderProtocol.data_received", "StreamReader.feed_data"}))
    """
    assert run_child(loop_name, ECHO + textwrap.dedent(code)).stdout == "[]\n"


@pytest.mark.parametrize("name", ["StreamReader.feed_data", "StreamReaderProtocol.data_received"])
def test_a_method_that_was_replaced_before_the_first_loop_is_called(loop_name, name):
    code = f"""
        import functools
        cls, method = asyncio.{name.split(".")[0]}, {name.split(".")[1]!r}
        original = getattr(cls, method)

        @functools.wraps(original)
        def replacement(self, data):
            print(data)
            original(self, data)

        setattr(cls, method, replacement)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(echo())
    """
    assert run_child(loop_name, ECHO + textwrap.dedent(code)).stdout == "b'abc'\n" * 2
