"""The page says what the measurements say, and nothing else."""

import contextlib
import importlib.util
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import callgrind
import goals
import instructions
import page
import shares
import workloads

LABELS = ["asyncio", "uvloop", "velodrome"]


def header(suite="rows"):
    return {
        "kind": "run",
        "suite": suite,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"processor": "Abacus 9", "cores": 2, "architecture": "x86_64", "kernel": "Linux 6.1"},
        "loops": {
            label: {"loop": f"{index}.0", "python": "3.13.0", "services": {}} for index, label in enumerate(LABELS)
        },
        "plan": {"rounds": 1, "warm_up": 0.1, "window": 0.5, "micro": 0.25},
        "server_core": 0,
        "load_core": 1,
    }


def measured(workload, cost, *values, labels=LABELS, number=0, **others):
    """One measurement of each loop, in one round."""
    common = {"kind": "measurement", "round": number, "workload": workload, "cost": cost}
    return [{**common, "loop": loop, cost: value, **others} for loop, value in zip(labels, values, strict=True)]


ECHO = {"operations_per_second": 1000.0, "latency_p50_us": 50.0, "latency_p99_us": 90.0, "foreign_share": 0.0}
TIMER = {"timers_per_second": 900.0, "timer_late_p50_us": 20.0, "timers_early": 0, "turn_p99_us": 60.0}

ROWS = [
    *measured("won", "cpu_us", 30, 20, 10, **ECHO),
    *measured("lost", "cpu_us", 30, 20, 25, **ECHO),
    *measured("tcp-idle-memory", "kib_per_connection", 3, 2, 1),
]
SCALING = [
    *(m for size in (1, 10, 100) for m in measured(f"scaling-timers-fire-{size}", "cpu_us", 3, 2, 1, **ECHO)),
    *(m for size in (1, 2) for m in measured(f"scaling-http-processes-{size}", "cpu_us", 3, 2, 1, **ECHO)),
]
FAIRNESS = measured("fairness-call-soon-chain", "timer_late_p99_us", 50, 50, 50, **ECHO, **TIMER)


class Pages(unittest.TestCase):
    def markdown(self, *runs):
        return page.page(runs, {run.name: [("a plot", f"{run.name}-plot.svg")] for run in runs})

    def test_machine_versions_and_date_are_those_of_the_run(self):
        text = self.markdown(page.Run("rows", header(), ROWS))
        for expected in ("Abacus 9", "2026-01-02", "velodrome 2.0 (Python 3.13.0)", "![a plot](rows-plot.svg)"):
            self.assertIn(expected, text)

    def test_loop_that_does_not_load_is_named_with_the_reason(self):
        text = self.markdown(page.Run("rows", header() | {"absent_loops": {"zloop": "no wheel"}}, ROWS))
        self.assertIn("- not measured, as it does not load: zloop (no wheel)", text)

    def test_losing_row_is_marked_and_named(self):
        text = self.markdown(page.Run("rows", header(), ROWS))
        self.assertIn("**LOSES to uvloop**", text)
        # Before the plots and all other tables.
        self.assertLess(text.index("| lost | uvloop | 20.0 µs/op | 25.0 µs/op | 1.25 |"), text.index("![a plot]"))
        self.assertIn("velodrome is behind the best of each row in 1 of 3.", text)

    def test_row_that_falls_short_is_named(self):
        short = [{**m, "timers_early": 3} if m["loop"] == "velodrome" else m for m in FAIRNESS]
        text = self.markdown(page.Run("fairness", header("fairness"), short))
        self.assertIn("in 1 of 1 rows: fairness-call-soon-chain.", text)

    def test_failed_cell_has_its_reason(self):
        failed = {"kind": "measurement", "round": 0, "workload": "won", "loop": "uvloop", "cost": "cpu_us"}
        text = self.markdown(page.Run("rows", header(), [*ROWS[:1], {**failed, "error": "it broke"}, ROWS[2]]))
        self.assertIn("- FAILED won on uvloop: it broke", text)
        self.assertIn("| failed |", text)

    def test_sections_have_one_order_and_a_name_where_there_are_several(self):
        runs = [
            page.Run("fair", header("fairness"), FAIRNESS),
            page.Run("new", header(), ROWS),
            page.Run("old", header(), ROWS),
        ]
        titles = [line for line in self.markdown(*runs).splitlines() if line.startswith("## ")]
        self.assertEqual(titles, ["## Each row: new", "## Each row: old", "## Fairness"])

    def test_file_of_another_kind_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "other.json")
            path.write_text('{"kind": "callgrind"}\n')
            with self.assertRaises(ValueError):
                page.read(path)


class Instructions(unittest.TestCase):
    RECORD = {"kind": "callgrind", "loop": "velodrome", "python": "3.13.0", "workload": "signals"}

    def record(self, date, total, own, **others):
        return {**self.RECORD, "date": date, "instructions_per_operation": total, "in_velodrome": own, **others}

    def test_last_count_is_shown_beside_the_one_before(self):
        counted = [self.record("2026-01-02T03:04:05", 2000, 500), self.record("2026-02-03T04:05:06", 1000.4, 250)]
        text = page.page([], {}, [*counted, self.record("2026-02-04", 9, 0, loop="uvloop")])
        self.assertIn("| signals | 3.13.0 | 2026-02-03 | 1,000 | 250 | 25% | 2,000 | 2026-01-02 |", text)
        self.assertNotIn("| 9 |", text)

    def test_costs_are_those_of_the_file_that_the_code_is_in(self):
        lines = """\
ob=(1) /lib/_native.so
fn=(1) poll
5 100
+1 7
cob=(2) /bin/python
cfn=(2)
calls=3 0
* 1000
ob=(2)
fn=(2) eval
-2 900
ob=(1)
fn=(1)
9 13
"""
        counted = callgrind.by_object(lines.splitlines())
        self.assertEqual(counted, {"/lib/_native.so": 120, "/bin/python": 900})


class Goals(unittest.TestCase):
    def lines(self, *measurements, labels=LABELS, own_shares=None):
        _, body = goals.table(page.report.rows(measurements, labels), labels, own_shares or {})
        return {name: cells for name, *cells in body}

    def test_each_goal_is_that_of_a_row_and_no_row_has_two(self):
        shares, costs, reasons = (goals.GOALS[kind].keys() for kind in ("shares", "costs", "reasons"))
        self.assertLessEqual(shares | costs, {workload.name for workload in workloads.ALL})
        self.assertEqual(shares & costs, set())
        self.assertLessEqual(reasons, shares | costs)

    def test_share_of_uvloop_is_reached_or_missed(self):
        reached = measured("pipes-1k", "cpu_us", 10, 100, 80)
        missed = measured("signals", "cpu_us", 10, 100, 61)
        lines = self.lines(*reached, *missed)
        self.assertEqual(lines["pipes-1k"], ["0.860", "0.800", "0.800", "[0.800..0.800]", "-", "reached", ""])
        self.assertEqual(lines["signals"], ["0.650", "0.600", "0.610", "[0.610..0.610]", "-", "MISSED", ""])
        text = goals.section(page.report.rows([*reached, *missed], LABELS), LABELS, {})
        self.assertIn("**MISSED**", text)
        self.assertIn("velodrome reaches 1 of 2 goals.", text)

    def test_reason_is_what_would_be_left_without_velodromes_code(self):
        missed = [*measured("signals", "cpu_us", 10, 100, 80), *measured("call-later-0", "cpu_us", 10, 100, 80)]
        counted = {"loop": "velodrome", "python": "3.13.0", "instructions_per_operation": 1000}
        own_shares = instructions.own_shares(
            [
                {**counted, "workload": "signals", "in_velodrome": 200},
                {**counted, "workload": "call-later-0", "in_velodrome": 600},
            ]
        )
        lines = self.lines(*missed, own_shares=own_shares)
        self.assertEqual(lines["signals"][-1], "80% of the instructions are not velodrome's: 0.640 without its own")
        self.assertEqual(lines["call-later-0"][-1], "(40% of the instructions are not velodrome's)")

    def test_floor_that_can_be_reached_is_no_reason_and_the_share_of_the_cpu_time_is(self):
        labels = [*LABELS, "epoll"]
        missed = measured("udp-1k-10", "cpu_us", 30, 10, 8, 6, labels=labels)
        sampled = {"loop": "velodrome", "python": "3.13.0", "workload": "udp-1k-10", "date": "2026-01-02T03:04:05"}
        sampled["shares"] = {"velodrome": 0.06, "kernel": 0.8, "python": 0.1, "others": 0.04}
        line = self.lines(*missed, labels=labels, own_shares=shares.own_shares([sampled]))["udp-1k-10"]
        reason = "94% of the CPU time is not velodrome's, 80% the kernel's, 10% CPython's: 0.752 without its own"
        self.assertEqual(line[-3:], ["0.600", "MISSED", reason])
        run = page.Run("rows", header(), measured("udp-1k-10", "cpu_us", 30, 10, 8))
        text = page.page([run], {"rows": []}, sampled=[sampled])
        self.assertIn(f"| {reason} |", text)
        self.assertIn("| udp-1k-10 | 3.13.0 | 2026-01-02 | 6.0% | 80.0% | 10.0% | 4.0% |", text)

    def test_cost_has_its_unit_and_needs_no_uvloop(self):
        labels = ["asyncio", "velodrome"]
        idle = measured("tcp-idle-memory", "kib_per_connection", 2, 0.75, labels=labels)
        lines = self.lines(*idle, *measured("signals", "cpu_us", 2, 1, labels=labels), labels=labels)
        self.assertEqual(lines.keys(), {"tcp-idle-memory"})
        self.assertEqual(lines["tcp-idle-memory"][1:3], ["0.800 KiB/connection", "0.750"])

    def test_rounds_that_disagree_are_named(self):
        rounds = [
            m
            for number, cost in enumerate((50, 70, 70))
            for m in measured("signals", "cpu_us", 1, 100, cost, number=number)
        ]
        self.assertEqual(self.lines(*rounds)["signals"][-2], "MISSED (within noise)")

    def test_missed_goal_has_its_reason_and_the_cheapest_floor(self):
        labels = [*LABELS, "epoll", "io-uring"]
        measurements = measured("tcp-protocol-1k-10", "cpu_us", 30, 10, 9, 8.5, 8, labels=labels)
        reasons = {"tcp-protocol-1k-10": "the kernel"}
        with mock.patch.dict(goals.GOALS, reasons=reasons):
            line = self.lines(*measurements, labels=labels)["tcp-protocol-1k-10"]
            reached = self.lines(*measured("tcp-protocol-1k-10", "cpu_us", 30, 10, 7))["tcp-protocol-1k-10"]
        self.assertEqual(line[-3:], ["0.800", "MISSED", "the kernel"])
        self.assertEqual(reached[-2:], ["reached", ""])

    def test_goal_below_the_floor_is_missed_for_that_reason(self):
        labels = [*LABELS, "epoll"]
        lines = self.lines(*measured("tcp-buffered-1k-10", "cpu_us", 30, 10, 9, 8, labels=labels), labels=labels)
        self.assertEqual(lines["tcp-buffered-1k-10"][-3:], ["0.800", "MISSED", "the floor is above it"])

    def test_row_without_a_number_is_not_dropped(self):
        failed = [{**m, "error": "it broke"} for m in measured("signals", "cpu_us", 1, 1, 1)]
        self.assertEqual(self.lines(*failed)["signals"][2:], ["-", "-", "-", "no number", ""])

    def test_other_loops_have_no_goals(self):
        labels = ["asyncio", "uvloop"]
        self.assertEqual(self.lines(*measured("signals", "cpu_us", 2, 1, labels=labels), labels=labels), {})

    def test_page_shows_them_before_the_plots(self):
        run = page.Run("rows", header(), measured("signals", "cpu_us", 30, 20, 10))
        text = page.page([run], {"rows": [("a plot", "a-plot.svg")]})
        self.assertLess(text.index("### Goals"), text.index("![a plot]"))


@unittest.skipUnless(importlib.util.find_spec("matplotlib"), "needs benches/requirements-plots.txt")
class Plots(unittest.TestCase):
    def make(self, folder):
        for suite, measurements in (("rows", ROWS), ("scaling", SCALING), ("fairness", FAIRNESS)):
            lines = [header(suite), *measurements, {"kind": "summary"}]
            Path(folder, f"{suite}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
        files = sorted(map(str, Path(folder).glob("*.json")))
        with mock.patch.object(sys, "argv", ["page.py", "--output", folder, *files]):
            with contextlib.redirect_stdout(io.StringIO()):
                page.main()
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}

    def test_every_plot_is_drawn_and_shown(self):
        with tempfile.TemporaryDirectory() as folder:
            made = self.make(folder)
        expected = {
            *(f"rows-{plot}.svg" for plot in ("ratios", "memory", "latency")),
            *(f"scaling-{plot}.svg" for plot in ("curves", "processes")),
            "fairness-fairness.svg",
        }
        self.assertEqual({name for name in made if name.endswith(".svg")}, expected)
        for name in expected:
            self.assertIn(f"({name})", made["README.md"].decode())

    def test_same_measurements_make_the_same_files(self):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            self.assertEqual(self.make(one), self.make(other))


class Arguments(unittest.TestCase):
    def test_a_file_that_is_not_there_is_named(self):
        complaint = io.StringIO()
        command = ["page.py", "not-there.json"]
        with mock.patch.object(sys, "argv", command), contextlib.redirect_stderr(complaint):
            self.assertRaisesRegex(SystemExit, "2", page.main)
        self.assertIn("no such file: not-there.json", complaint.getvalue())


if __name__ == "__main__":
    unittest.main()
