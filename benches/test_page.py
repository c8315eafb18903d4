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

import page

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


def measured(workload, cost, *values, **others):
    """One measurement of each loop."""
    return [
        {"kind": "measurement", "round": 0, "workload": workload, "loop": loop, "cost": cost, cost: value, **others}
        for loop, value in zip(LABELS, values, strict=True)
    ]


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


if __name__ == "__main__":
    unittest.main()
