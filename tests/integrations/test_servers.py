"""Servers, as docs/servers.md starts them: each is asked for the loop that it serves on."""

import asyncio
import sys

import aiohttp
import pytest
import velodrome
from doc_lines import SERVERS

UVICORN = SERVERS.command("uvicorn app:app")

COMMANDS = {
    "uvicorn": f"{UVICORN} --port {{port}}",
    "uvicorn, several processes": f"{UVICORN} --port {{port}} --workers 2",
    "uvicorn, reloading": f"{UVICORN} --port {{port}} --reload",
    "uvicorn, FastAPI": f"{UVICORN.replace('app:app', 'fast_app:app')} --port {{port}}",
    "gunicorn": SERVERS.command("velodrome.gunicorn.Worker") + " -b 127.0.0.1:{port}",
    "gunicorn, its own worker": SERVERS.command("gunicorn -k asgi") + " -b 127.0.0.1:{port}",
    "gunicorn, aiohttp's worker": SERVERS.command("aiohttp.GunicornWebWorker") + " -b 127.0.0.1:{port}",
    "hypercorn": SERVERS.command("hypercorn app:app") + " -b 127.0.0.1:{port}",
    "granian": SERVERS.command("granian") + " --port {port}",
    "django, uvicorn": SERVERS.command("uvicorn project") + " --port {port}",
    "django, daphne": SERVERS.command("daphne project") + " -p {port}",
    "django, development": SERVERS.command("manage.py runserver") + " 127.0.0.1:{port}",
}

PROGRAMS = {
    "uvicorn": SERVERS.program("uvicorn.run("),
    "hypercorn": SERVERS.program("hypercorn.asyncio"),
    "aiohttp": SERVERS.program("web.run_app("),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_server_runs_on_velodrome(answers, name):
    assert answers(COMMANDS[name])["loop"] == "velodrome"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_serves_on_velodrome(answers, folder, port, name):
    (folder / "program.py").write_text(PROGRAMS[name].replace("8000", str(port)))
    assert answers("python program.py")["loop"] == "velodrome"


def test_without_its_line_a_server_runs_on_asyncio(answers):
    """What the others are told apart from."""
    command = UVICORN.partition(" --loop")[0]
    assert answers(f"{command} --port {{port}}")["loop"] == "asyncio.unix_events._UnixSelectorEventLoop"


async def talk(port):
    """Three clients of a group; each hears what each of them says."""
    async with aiohttp.ClientSession() as session:
        sockets = [await session.ws_connect(f"http://127.0.0.1:{port}/all") for _ in range(3)]
        for number, socket in enumerate(sockets):
            await socket.send_json([number] * 1000)
            heard = await asyncio.gather(*(each.receive_json() for each in sockets))
            assert [each["body"] for each in heard] == [[number] * 1000] * 3
            assert {each["loop"] for each in heard} == {"velodrome"}
        for socket in sockets:
            await socket.close()
        return len(sockets)


@pytest.mark.parametrize("name", ["django, uvicorn", "django, daphne", "django, development"])
def test_channels_delivers_to_a_group(answers, port, name):
    assert answers(COMMANDS[name])["loop"] == "velodrome"
    assert velodrome.run(talk(port)) == 3


# --- asyncio itself, and anyio -------------------------------------------------------------------

CLASS = "<class 'velodrome._loop.Loop'>"
RUNNER = SERVERS.program("velodrome.run(")
RUN = SERVERS.program("asyncio.run(main(), loop_factory")
ANYIO = SERVERS.program("anyio.run(")


@pytest.fixture
def lines(run, folder):
    """Runs a program; the lines it printed."""

    def lines(program):
        (folder / "program.py").write_text(program)
        return run("python program.py").splitlines()

    return lines


def test_a_runner_takes_the_function_that_makes_loops(lines):
    assert lines(RUNNER) == [CLASS] * 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run has no loop_factory")
def test_asyncio_run_takes_the_function_that_makes_loops(lines):
    assert lines(RUN) == [CLASS]


def test_anyio_takes_the_function_that_makes_loops(lines):
    assert lines(ANYIO) == [CLASS]
