"""A starved timer, an early one and a situation that never took place must not look like fairness."""

import asyncio
import contextlib
import io
import json
import time
import unittest
from unittest import mock

import fairness
import micro
import report
from cases import Measuring

LABELS = ["asyncio", "velodrome"]


def measured(loop, **changes):
    return {
        "round": 0,
        "workload": "chain",
        "loop": loop,
        "cost": report.FAIRNESS,
        "operations_per_second": 1000.0,
        "timers_per_second": 900.0,
        "timer_late_p50_us": 20.0,
        "timer_late_p99_us": 50.0,
        "timers_early": 0,
        **changes,
    }


class Promises(unittest.TestCase):
    def verdict(self, **changes):
        (row,) = report.rows([measured("asyncio"), measured("velodrome", **changes)], LABELS)
        return row.verdict

    def test_kept_promises_are_not_mentioned(self):
        self.assertEqual(self.verdict(operations_per_second=501.0, turn_p99_us=51.0), "")

    def test_less_than_half_of_asyncios_rate_is_short(self):
        self.assertIn("SHORT: echo below", self.verdict(operations_per_second=499.0))
        self.assertIn("SHORT: timer below", self.verdict(timers_per_second=449.0))

    def test_timer_later_than_a_turn_is_short(self):
        self.assertIn("late by 2.00 turns", self.verdict(turn_p99_us=25.0))

    def test_early_timer_is_short(self):
        self.assertIn("3 timers early", self.verdict(timers_early=3))

    def test_table_has_a_line_for_each_loop_and_marks_what_is_short(self):
        failed = {"round": 0, "workload": "other", "loop": "asyncio", "cost": report.FAIRNESS, "error": "crash"}
        rows = report.rows([measured("asyncio"), measured("velodrome", timers_early=3), failed], LABELS)
        (table,) = report.tables(rows, LABELS)
        self.assertIn("**SHORT: 3 timers early**", report.as_markdown(*table))
        lines = [(workload, loop) for workload, loop, *_ in table[1]]
        self.assertEqual(lines, [("chain", "asyncio"), ("chain", "velodrome"), ("other", "asyncio")])
        self.assertEqual(table[1][-1][-1], "FAILED")


class Timers(unittest.TestCase):
    def watch(self, loop, situation, **options):
        watch = fairness.Watch(loop, fairness.Situation("a situation", situation, **options), warm_up=0)
        watch.connected()
        return watch

    def told(self, watch):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            watch.disconnected()
            watch.disconnected()  # others follow, and have nothing to add
        return json.loads(output.getvalue())

    def test_early_timer_is_counted(self):
        class HastyLoop(asyncio.SelectorEventLoop):
            def call_later(self, delay, callback, *arguments, context=None):
                return self.call_soon(callback, *arguments, context=context)

        with contextlib.closing(HastyLoop()) as loop:
            watch = self.watch(loop, fairness.nothing_else)
            loop.call_soon(loop.stop)
            loop.run_forever()
            told = self.told(watch)
        self.assertGreater(told["timers_early"], 0)
        self.assertLess(told["timer_late_p50_us"], 0)

    def test_timer_that_never_fires_is_late(self):
        watch = self.watch(mock.Mock(), fairness.nothing_else)
        time.sleep(2 * fairness.PERIOD_NS / 1e9)
        self.assertGreater(self.told(watch)["timer_late_p99_us"], 0)

    def test_turns_are_watched_where_they_are_long(self):
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            watch = self.watch(loop, fairness.nothing_else, watches_turns=True)
            loop.run_until_complete(asyncio.wait_for(self.until(lambda: watch.seen.turns_ns), 10))
            self.assertIn("turn_p99_us", self.told(watch))

    async def until(self, happened):
        while not happened():
            await asyncio.sleep(0)

    def test_situation_that_does_not_take_place_is_noticed(self):
        watch = self.watch(mock.Mock(), fairness.call_soon_chain, counts_others=True)
        with self.assertRaises(micro.MissingOperations):
            watch.disconnected()

    def test_quantile_is_a_value_that_occurred(self):
        values = list(range(100, 0, -1))
        self.assertEqual([fairness.quantile(values, fraction) for fraction in (0.5, 0.99, 1)], [50, 99, 100])
        self.assertEqual(fairness.quantile([7], 0.5), 7)


class Measurements(Measuring):
    def test_each_situation_is_measured(self):
        for situation in fairness.SITUATIONS.values():
            with self.subTest(situation.name):
                result = self.bench.measure(situation, self.loop)
                self.assertNotIn("error", result)
                self.assertGreater(result["operations"], 0)
                self.assertEqual(result["timers_early"], 0)


if __name__ == "__main__":
    unittest.main()
