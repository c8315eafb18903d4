"""Who is to write counts must end as a program does: `python -m unittest discover -s benches`."""

import tempfile
import unittest
from unittest import mock

import bench
import run
import train
import workloads


class Ends(unittest.TestCase):
    def status_of_a_server(self, kind):
        """With what status a server of asyncio's ends, after the block that it serves."""
        (loop,) = run.parse_loops("asyncio")
        (workload,) = (workload for workload in workloads.NETWORK if workload.name == "tcp-protocol-1k-10")
        with tempfile.TemporaryDirectory() as scratch:
            training = kind(train.PLAN, 0, 0, scratch)
            with training.serving(loop.server_command(workload, scratch), 0) as (server, _):
                pass
        return server.returncode

    def test_a_server_in_training_ends_by_itself(self):
        self.assertEqual(self.status_of_a_server(train.Training), 0)

    def test_one_that_does_not_end_has_failed(self):
        # It is measured otherwise, and the benchmark kills it at once.
        with mock.patch.object(train, "END_LIMIT", 0), self.assertRaisesRegex(bench.Failed, "did not end within 0 s"):
            self.status_of_a_server(train.Training)


class Failures(unittest.TestCase):
    def status_after(self, result):
        with (
            mock.patch.object(bench, "build_loadgen"),
            mock.patch.object(run, "progress") as self.progress,
            mock.patch.object(train.Training, "measure", return_value=result),
            mock.patch.object(train.signal, "signal"),
        ):
            return train.main()

    def test_rows_that_all_ran_are_a_success(self):
        self.assertEqual(self.status_after({"cpu_us": 1.0}), 0)

    def test_a_row_that_failed_or_was_left_out_is_a_failure(self):
        self.assertEqual(self.status_after({"error": "crash"}), 1)
        self.assertIn("crash", self.progress.call_args.args[0])
        self.assertEqual(self.status_after({"not_installed": ["uvicorn"]}), 1)
        self.assertIn("uvicorn", self.progress.call_args.args[0])


if __name__ == "__main__":
    unittest.main()
