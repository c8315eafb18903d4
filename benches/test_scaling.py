"""A curve whose points do not do what they say is no curve."""

import asyncio
import contextlib
import unittest
from unittest import mock

import micro
import scaling
import servers
import workloads
from cases import Measuring
from workloads import NetworkWorkload


class SizedWorkloads(unittest.TestCase):
    def test_each_does_its_operations(self):
        for workload in scaling.WORKLOADS.values():
            if workload.size <= 100:
                with self.subTest(workload.name), contextlib.closing(asyncio.new_event_loop()) as loop:
                    self.assertGreaterEqual(scaling.measure(loop, workload, 0)["operations"], workload.least)

    def test_task_that_is_passed_over_is_noticed(self):
        sleep, slow = asyncio.sleep, []

        async def unfair_sleep(delay):
            await sleep(delay)
            slow.append(asyncio.current_task())
            if slow[0] is slow[-1]:
                await sleep(delay)

        with mock.patch("asyncio.sleep", unfair_sleep), contextlib.closing(asyncio.new_event_loop()) as loop:
            with self.assertRaisesRegex(micro.MissingOperations, "turns"):
                scaling.measure(loop, scaling.WORKLOADS["scaling-tasks-100"], 0)

    def test_loop_that_does_nothing_is_noticed(self):
        class LazyLoop(asyncio.SelectorEventLoop):
            def run_forever(self):
                pass

        with contextlib.closing(LazyLoop()) as loop:
            with self.assertRaisesRegex(micro.MissingOperations, "nothing"):
                scaling.measure(loop, scaling.WORKLOADS["scaling-timers-fire-1"], 0)


class Processes(Measuring):
    # On one core with each other and the load: long enough for all of them to have a turn.
    window = 0.3

    def test_two_share_a_port(self):
        pairs = [workload for workload in workloads.SCALING if getattr(workload, "processes", 1) == 2]
        self.assertEqual(len(pairs), 2)
        for workload in pairs:
            with self.subTest(workload.name):
                result = self.bench.measure(workload, self.loop)
                if "not_installed" in result:
                    self.skipTest(f"{', '.join(result['not_installed'])} is not installed")
                self.assertNotIn("error", result)
                self.assertGreater(result["operations"], 0)

    def test_one_without_work_fails_the_measurement(self):
        exchange = workloads.http(servers.HTTP_REPLY)
        workload = NetworkWorkload("alone", "http-shared", exchange, connections=1, processes=2)
        self.assertIn("next to nothing", self.bench.measure(workload, self.loop)["error"])


if __name__ == "__main__":
    unittest.main()
