"""Each sample is counted once, where it belongs."""

import contextlib
import io
import sys
import unittest
from collections import Counter
from unittest import mock

import bench
import micro
import run
import shares
from cases import Measuring
from workloads import NetworkWorkload, echo

SAMPLES = """\
  100 ffffffff815ff8ad ([kernel.kallsyms])
  100 ffffffffc0112233 ([veth])
  100     7f4e2894e848 (/pythons/lib/libpython3.13.so.1.0)
  100     7f4e2894e849 (/pythons/lib/python3.13/lib-dynload/_asyncio.cpython-313-x86_64-linux-gnu.so)
  100     55d02894e849 (/usr/bin/python3.13)
  100     7f4e2894e84a (/some where/velodrome/_native.cpython-313-x86_64-linux-gnu.so)
  100     7f4e2894e84b (/usr/lib/x86_64-linux-gnu/libc.so.6)
  100     7fff2894e84b ([vdso])
  100     7f4e2894e84c (/site-packages/httptools/parser/parser.cpython-313-x86_64-linux-gnu.so)
  101 ffffffff815ff8ad ([kernel.kallsyms])
  101     7f4e2894e84b (/usr/bin/cat)
"""


class Samples(unittest.TestCase):
    def test_each_is_counted_where_its_code_is_and_those_of_children_are_not(self):
        expected = {"kernel": 2, "python": 3, "velodrome": 1, "others": 3}
        self.assertEqual(shares.parts_of(SAMPLES.splitlines()), expected)
        self.assertEqual(expected.keys(), shares.PARTS.keys())

    def test_nothing_is_measured_where_perf_is_missing(self):
        said = io.StringIO()
        with mock.patch.object(sys, "argv", ["shares.py"]), mock.patch("shutil.which", return_value=None):
            with contextlib.redirect_stderr(said), mock.patch.object(shares, "Sampling") as sampling:
                self.assertEqual(shares.main(), 0)
        sampling.assert_not_called()
        self.assertIn("perf is not on PATH", said.getvalue())

    def test_what_perf_says_is_the_reason_why_it_cannot_be_used(self):
        answer = mock.Mock(returncode=255, stderr="Error:\nAccess to it\nis limited.\nConsider more.\n\nAnd so on.\n")
        with mock.patch("shutil.which", return_value="perf"), mock.patch("subprocess.run", return_value=answer):
            self.assertRegex(shares.obstacle(), r"kernel: Access to it is limited\.")


@unittest.skipIf(shares.obstacle(), shares.obstacle())
class Sampled(Measuring):
    def setUp(self):
        plan = run.Plan(rounds=1, warm_up=0.1, window=0.5, micro=0.5)
        self.sampling = shares.Sampling(plan, 0, 0, self.bench.scratch)

    def parts(self, workload):
        self.assertNotIn("error", self.sampling.measure(workload, self.loop))
        with mock.patch.object(shares, "LEAST_SAMPLES", 1):
            return self.sampling.parts()

    def test_server_is_sampled(self):
        found = self.parts(NetworkWorkload("echo", "protocol", echo(64), 2))
        self.assertGreater(found["kernel"], 0)
        self.assertGreater(found["python"], 0)
        self.assertEqual(found["velodrome"], 0)  # it runs on asyncio's loop

    def test_micro_workload_is_sampled(self):
        self.assertGreater(self.parts(micro.WORKLOADS["getaddrinfo-numeric"])["python"], 0)

    def test_too_few_samples_are_no_answer(self):
        self.sampling.measure(micro.WORKLOADS["getaddrinfo-numeric"], self.loop)
        with mock.patch.object(shares, "parts_of", return_value=Counter(kernel=3)):
            with self.assertRaisesRegex(bench.Failed, "3 samples"):
                self.sampling.parts()

    def test_failed_measurement_stays_one(self):
        result = self.sampling.measure(
            NetworkWorkload("pong", "protocol", ("--request", "a", "--reply", "b"), 1), self.loop
        )
        self.assertIn("wrong bytes", result["error"])


if __name__ == "__main__":
    unittest.main()
