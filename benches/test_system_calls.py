"""Calls are those of the window, each of them once: `python -m unittest discover -s benches`."""

import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import report
import system_calls
import workloads
from cases import Measuring
from workloads import NetworkWorkload

LOG = """\
7 100.000000 epoll_pwait(0x3, 0x7f, 0x400, 0) = 0x1
7 101.000000 recvfrom(0x4, 0x7f, 0x10, 0, 0, 0 <unfinished ...>
8 101.100000 futex(0x5, 0x80, 0, 0, 0, 0) = 0
7 101.200000 <... recvfrom resumed>)    = 0x10
7 101.300000 sendto(0x4, 0x7f, 0x10, 0, 0, 0) = 0x10
7 101.900000 recvfrom(0x4, 0x7f, 0x10, 0, 0, 0) = 0x10
7 102.000000 close(0x4)                 = 0
8 103.000000 +++ exited with 0 +++
7 103.100000 +++ killed by SIGKILL +++
"""


class Counting(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.log = Path(scratch.name, "strace.log")
        self.log.write_text(LOG)

    def test_calls_of_all_threads_in_the_window_count_once(self):
        found = system_calls.count(self.log, 100.5, 102.0)
        self.assertEqual(found, {"recvfrom": 2, "futex": 1, "sendto": 1})
        per_operation = system_calls.per_operation(found, 2)
        self.assertEqual(system_calls.total(per_operation), 2.0)
        self.assertEqual(next(iter(per_operation)), "recvfrom")

    def test_end_is_that_of_the_server(self):
        self.assertTrue(system_calls.wait_for_end(self.log, 7))
        with mock.patch.object(system_calls, "END_LIMIT", 0.05):
            self.assertFalse(system_calls.wait_for_end(self.log, 9))

    def test_what_hardly_ever_happens_is_not_described(self):
        self.assertEqual(system_calls.described({"recvfrom": 1.0, "brk": 0.004}), "recvfrom 1.00")


class Obstacles(unittest.TestCase):
    def obstacle(self, script=None):
        """With a strace of our own on PATH, or none."""
        with tempfile.TemporaryDirectory() as folder:
            if script:
                Path(folder, "strace").write_text(script)
                Path(folder, "strace").chmod(0o700)
            with mock.patch.dict(os.environ, PATH=folder):
                return system_calls.obstacle()

    def test_missing_strace_is_told_with_what_to_install(self):
        self.assertIn("apt-get install strace", self.obstacle())

    def test_strace_that_may_not_trace_is_told_in_its_own_words(self):
        self.assertIn("not permitted", self.obstacle("#!/bin/sh\necho ptrace: not permitted >&2\nexit 1\n"))

    def test_strace_that_works_is_no_obstacle(self):
        self.assertIsNone(self.obstacle("#!/bin/sh\n"))


class Tables(unittest.TestCase):
    def test_calls_have_a_table_and_one_that_was_not_counted_has_a_reason(self):
        found = [
            {"round": 0, "workload": "echo", "loop": loop, "cost": "cpu_us", "cpu_us": 1, "operations_per_second": 1}
            for loop in ("asyncio", "uvloop", "velodrome")
        ]
        found[0]["system_calls_error"] = "it broke"
        found[1]["system_calls"] = {"read": 1.0, "write": 2.0}
        found[2]["system_calls"] = {"recvfrom": 1.0, "sendto": 0.5}
        labels = ["asyncio", "uvloop", "velodrome"]
        head, (cells,), _ = report.tables(report.rows(found, labels), labels)[-1]
        self.assertEqual(cells, ["echo", "-", "3.00", "1.50", "recvfrom 1.00, sendto 0.50"])
        self.assertIn("velodrome calls/op", head)
        self.assertEqual(report.failures(found), ["echo on asyncio, counting system calls: it broke"])
        self.assertEqual(report.rows(found, labels)[0].errors, 0)


@unittest.skipIf(system_calls.obstacle(), system_calls.obstacle())
class Measurements(Measuring):
    window = 0.3

    def test_an_echo_is_received_once_and_sent_once(self):
        workload = NetworkWorkload("echo", "protocol", workloads.echo(64), 1)
        calls = self.bench.system_calls(workload, self.loop)["system_calls"]
        for name in ("recvfrom", "sendto"):
            self.assertAlmostEqual(calls[name], 1, delta=0.1)

    def test_server_that_cannot_start_has_no_calls(self):
        workload = NetworkWorkload("none", "no-such-server", ("--connect",), 1)
        self.assertIn("no-such-server", self.bench.system_calls(workload, self.loop)["system_calls_error"])


if __name__ == "__main__":
    unittest.main()
