"""The programs in examples/, as a person runs them. Those of TLS are in test_tls_examples.py."""

import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import child_environment

ROOT = Path(__file__).parents[2]

# What http_compare.py is made of.
PARTS = {"http_service.py", "http_report.py", "http_plot.py"}

# The compiled part of multidict, which aiohttp builds on, crashes in a debug build of Python.
ENVIRONMENT = {"MULTIDICT_NO_EXTENSIONS": "1"} if hasattr(sys, "gettotalrefcount") else {}


def start(name, *options):
    """Start an example. It complains on stderr of what is left open or unawaited, and of what is deprecated."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", f"examples/{name}", *map(str, options)],
        cwd=ROOT,
        env=child_environment(**ENVIRONMENT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(program, text=None, status=0):
    """What the program prints until it ends; it must not complain."""
    output, errors = program.communicate(text, timeout=60)
    assert (program.returncode, errors) == (status, ""), output
    return output


def run(name, *options, text=None):
    return end_of(start(name, *options), text)


@contextlib.contextmanager
def served(name, *options, ended_by=signal.SIGINT):
    """Start a server; gives its process, with its port. It must end in order when it gets the signal.

    With None, who asks for it sends that signal.
    """
    server = start(name, *options)
    try:
        line = server.stdout.readline()
        assert line.startswith("listening on port"), server.communicate()
        server.port = int(line.split()[-1])
        yield server
        if ended_by is not None:
            server.send_signal(ended_by)
        assert end_of(server) == ""
    finally:
        if server.returncode is None:
            server.kill()
            server.communicate()


def test_the_echo_server_echoes_and_survives_its_clients():
    with served("echo_server.py") as server:
        rude = socket.create_connection(("localhost", server.port))
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        rude.send(b"hello")
        rude.close()  # by a reset
        with socket.create_connection(("localhost", server.port)) as client, client.makefile("rb") as answers:
            client.sendall(b"one\ntwo\n")
            assert [answers.readline(), answers.readline()] == [b"one\n", b"two\n"]
            client.shutdown(socket.SHUT_WR)
            assert answers.read() == b""


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_members_of_the_chat_hear_each_other(ended_by):
    with served("chat_server.py", ended_by=None) as server:
        ada = start("chat_client.py", "--port", server.port, "--name", "ada")
        assert ada.stdout.readline() == "* ada is here\n"
        bob = start("chat_client.py", "--port", server.port, "--name", "bob")
        assert bob.stdout.readline() == "* bob is here\n"
        assert ada.stdout.readline() == "* bob is here\n"
        ada.stdin.write("hello\n")
        ada.stdin.flush()
        assert [ada.stdout.readline(), bob.stdout.readline()] == ["ada: hello\n"] * 2
        # ada leaves at the end of her stdin, bob when the server ends.
        assert end_of(ada) == ""
        assert bob.stdout.readline() == "* ada has left\n"
        server.send_signal(ended_by)
        assert end_of(bob) == ""


def test_the_chat_says_that_nobody_serves():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = start("chat_client.py", "--port", port, "--name", "ada")
    _, errors = client.communicate("", timeout=60)
    assert (client.returncode, errors[:15]) == (1, "no connection: ")
    assert "Traceback" not in errors


def test_the_crawler_finds_each_page_once():
    pages = run("crawler.py").splitlines()
    found = [(line.split()[0], line.rpartition("/")[2]) for line in pages]
    assert sorted(found) == sorted([("200", str(number)) for number in range(1, 16)] + [("404", "missing")])


def test_the_crawler_keeps_to_its_limits():
    assert len(run("crawler.py", "--pages", 5, "--at-once", 1).splitlines()) == 5


def test_the_crawler_reports_a_server_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    output = run("crawler.py", f"http://127.0.0.1:{port}/")
    assert output == f"ClientConnectorError http://127.0.0.1:{port}/\n"


def test_the_crawler_gives_up_a_page_that_does_not_come():
    with socket.create_server(("127.0.0.1", 0)) as listener:  # which nobody serves
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert run("crawler.py", address, "--seconds", 0.1) == f"TimeoutError {address}\n"


def test_the_background_loop_serves_and_ends():
    assert run("background_loop.py").splitlines() == [
        "one: 49",
        "several: 0 1 4 9 16",
        "too slow: cancelled",
        "threads left: 1",
    ]


def test_the_threads_share_the_connections():
    lines = [line.split() for line in run("loop_per_thread.py", "--threads", 3).splitlines()]
    assert len(lines) == 3
    assert sum(int(line[2]) for line in lines) == 100


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_what_is_under_way_is_finished_at_shutdown(ended_by):
    with served("graceful_shutdown.py", "--delay", 0.2, ended_by=None) as server:
        idle = socket.create_connection(("localhost", server.port))
        with socket.create_connection(("localhost", server.port)) as busy, busy.makefile("rb") as answers, idle:
            busy.sendall(b"first\n")
            assert answers.readline() == b"FIRST\n"
            busy.sendall(b"second\nthird\n")
            server.send_signal(ended_by)
            assert server.stdout.readline().startswith("ending; clients: ")
            assert idle.recv(1) == b""
            # One of the lines may have been begun when the signal came; no other is, and none is cut off.
            assert answers.read() in (b"", b"SECOND\n")
            assert server.stdout.readline().endswith("cancelled: 0\n")


def test_what_takes_too_long_is_cancelled_at_shutdown():
    with served("graceful_shutdown.py", "--delay", 3600, "--grace", 0.1, ended_by=None) as server:
        with socket.create_connection(("localhost", server.port)) as client:
            client.sendall(b"slow\n")
            # Once a second client is seen to be served, the first one's line has been read.
            with socket.create_connection(("localhost", server.port)) as other:
                other.shutdown(socket.SHUT_WR)
                assert other.recv(1) == b""
            server.send_signal(signal.SIGTERM)
            assert server.stdout.readline() == "ending; clients: 1\n"
            assert client.recv(1) == b""
        assert server.stdout.readline() == "finished: 0, cancelled: 1\n"


def test_the_pipeline_counts_words():
    text = "the cat and the dog and the bird\n"
    assert run("subprocess_pipeline.py", "--most", 2, text=text) == "3 the\n2 and\n"


def test_the_pipeline_takes_much_data_and_a_reader_that_has_enough(tmp_path):
    text = tmp_path / "text"
    text.write_text(" ".join(chr(97 + n % 26) * (n % 97 + 1) for n in range(100_000)))
    assert len(run("subprocess_pipeline.py", text, "--most", 1).splitlines()) == 1


def test_datagrams_come_back():
    with served("udp_echo.py", "serve") as server:
        assert run("udp_echo.py", "ask", "--port", server.port, "one", "two words") == "one\ntwo words\n"


def test_the_client_asks_again():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.settimeout(60)
        server.bind(("127.0.0.1", 0))
        client = start("udp_echo.py", "ask", "--port", server.getsockname()[1], "hello")
        lost, address = server.recvfrom(100)
        again, address = server.recvfrom(100)
        assert lost == again == b"0 hello"
        server.sendto(b"7 to somebody else", address)
        server.sendto(again, address)
        server.sendto(again, address)
        assert end_of(client) == "hello\n"


def test_the_client_says_that_nobody_answers():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = start("udp_echo.py", "ask", "--port", port, "hello", "again")
    _, errors = client.communicate(timeout=60)
    assert (client.returncode, errors) == (1, "no answer: [Errno 111] Connection refused\n")


def test_every_example_is_run_by_a_test():
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    tests += (ROOT / "tools/test-python.sh").read_text()
    examples = {path.name for path in (ROOT / "examples").glob("*.py")} - PARTS
    assert {name for name in examples if name not in tests} == set()


def test_every_example_is_on_the_page():
    page = (ROOT / "docs/examples.md").read_text()
    examples = {path.name for path in (ROOT / "examples").iterdir()} - {"requirements.txt", "__pycache__"}
    assert {name for name in examples if f"[{name}](../examples/{name})" not in page} == set()
