"""examples/tls_echo_server.py and examples/tls_echo_client.py."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import child_environment

ROOT = Path(__file__).parents[2]


def run(command, folder, **options):
    options = {"env": child_environment(), "capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run(command, cwd=folder, **options)


@pytest.fixture
def echo_server(certificates):
    """Starts examples/tls_echo_server.py with options; returns its port. It must end in order."""
    servers = []

    def start(*options):
        command = [sys.executable, "examples/tls_echo_server.py", "--certificate", certificates.ecdsa, *options]
        server = subprocess.Popen(
            command, cwd=ROOT, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        servers.append(server)
        line = server.stdout.readline()
        assert line.startswith("listening on port"), server.communicate()
        return line.split()[-1]

    yield start
    for server in servers:
        server.send_signal(signal.SIGINT)
        output = server.communicate(timeout=60)
        assert (server.returncode, *output) == (0, "", "")


def echo_client(port, *options):
    command = [sys.executable, "examples/tls_echo_client.py", "--port", port, *options]
    return run(command, ROOT, input="several\nlines\n")


@pytest.mark.parametrize("options", [[], ["--starttls"]], ids=["TLS at once", "STARTTLS"])
def test_the_examples_echo(echo_server, certificates, options):
    done = echo_client(echo_server(*options), "--authority", certificates.authority, *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "several\nlines\n", "TLS_AES_256_GCM_SHA384 TLSv1.3\n")


def test_the_example_refuses_a_server_that_it_does_not_know(echo_server):
    done = echo_client(echo_server())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("the server's certificate: unable to get local issuer certificate")


def test_the_example_serves_clients_that_it_knows(echo_server, certificates):
    port = echo_server("--clients", certificates.authority)
    trusting = ["--authority", certificates.authority]
    assert echo_client(port, *trusting, "--certificate", certificates.client).stdout == "several\nlines\n"
    assert echo_client(port, *trusting).returncode == 1


def test_the_example_says_that_nobody_serves():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    done = echo_client(port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no connection: ")
    assert "Traceback" not in done.stderr
