"""A benchmark that cannot notice a wrong answer measures nothing: `python -m unittest discover -s benches`."""

import argparse
import asyncio
import contextlib
import io
import os
import sys
import unittest
from unittest import mock

import loops
import micro
import report
import run
import servers
import workloads
from cases import Measuring
from micro import callbacks, descriptors, lifecycle, processes, threads, timers
from workloads import IdleWorkload, NetworkWorkload

LABELS = ["asyncio", "uvloop", "velodrome"]


def measured(round_number, loop, cpu_us, workload="echo"):
    return {
        "round": round_number,
        "workload": workload,
        "loop": loop,
        "cost": "cpu_us",
        "cpu_us": cpu_us,
        "operations_per_second": 1e6 / cpu_us,
    }


class Rows(unittest.TestCase):
    def test_ratio_is_taken_inside_each_round(self):
        # The machine was twice as slow in the second round; the loops' relation was the same.
        found = [measured(0, "uvloop", 10), measured(0, "velodrome", 5)]
        found += [measured(1, "uvloop", 20), measured(1, "velodrome", 10)]
        (row,) = report.rows(found, LABELS)
        self.assertEqual(row.ratio, report.Spread(0.5, 0.5, 0.5))
        self.assertEqual(row.verdict, "")

    def test_losing_row_is_marked_in_both_tables(self):
        found = [measured(0, "uvloop", 10), measured(0, "velodrome", 11), measured(0, "asyncio", 12)]
        table = report.cost_table(report.rows(found, LABELS), LABELS)
        self.assertIn("LOSES to uvloop", report.as_text(*table))
        self.assertIn("**LOSES to uvloop**", report.as_markdown(*table))
        self.assertNotIn("asyncio**", report.as_markdown(*table))

    def test_best_peer_is_who_is_cheapest_beside_velodrome(self):
        labels = ["asyncio", "uvloop", "blazio", "epoll", "velodrome", "velodrome#2"]
        costs = {"won": (40, 20, 16, 1, 2, 8), "lost": (40, 30, 60, 1, 2, 45), "won too": (40, 20, 80, 1, 2, 10)}
        found = [measured(0, *pair, workload=w) for w, row in costs.items() for pair in zip(labels, row, strict=True)]
        rows = report.rows(found, labels)
        self.assertEqual([row.best_peer for row in rows], ["blazio", "uvloop", "uvloop"])
        self.assertEqual([row.best.median for row in rows], [0.5, 1.5, 0.5])
        behind, against = report.summaries(rows, labels)
        self.assertEqual([cells[:2] for cells in behind[1]], [["lost", "uvloop"]])
        # Of 0.5, 1.5 and 0.5, and of 0.5, 0.75 and 0.125.
        means = {cells[0]: cells[1:4] for cells in against[1]}
        self.assertEqual(means[report.BEST], ["3", "1", "0.72"])
        self.assertEqual(means["blazio"], ["3", "0", "0.36"])
        self.assertEqual(means.keys(), {"asyncio", "uvloop", "blazio", report.BEST})
        self.assertIn("behind the best of each row in 1 of 3", report.conclusion(rows, labels))

    def test_worst_row_is_listed_first(self):
        found = [measured(0, "velodrome", cost, workload=f"at {cost}") for cost in (2, 4, 3)]
        found += [measured(0, "uvloop", 1, workload=f"at {cost}") for cost in (2, 4, 3)]
        (_, body, _), _ = report.summaries(report.rows(found, LABELS), LABELS)
        self.assertEqual([cells[0] for cells in body], ["at 4", "at 3", "at 2"])

    def test_loss_within_noise_is_still_a_loss(self):
        found = [measured(r, "uvloop", 10) for r in range(3)]
        found += [measured(0, "velodrome", 9), measured(1, "velodrome", 11), measured(2, "velodrome", 11)]
        (row,) = report.rows(found, LABELS)
        self.assertEqual(row.verdict, "LOSES to uvloop (within noise)")

    def test_failed_measurement_is_shown_and_has_no_part_in_the_ratio(self):
        failed = {"round": 0, "workload": "echo", "loop": "velodrome", "cost": "cpu_us", "error": "crash"}
        found = [measured(0, "uvloop", 10), failed]
        rows = report.rows(found, LABELS)
        self.assertIsNone(rows[0].ratio)
        text = report.as_text(*report.cost_table(rows, LABELS))
        self.assertIn("failed", text)
        self.assertIn("1 FAILED", text)
        self.assertIn("1 measurements FAILED", report.conclusion(rows, LABELS))

    def test_floor_is_shown_and_not_lost_to(self):
        labels = [*LABELS, "rustls"]
        found = [measured(0, loop, cpu_us) for loop, cpu_us in zip(labels, (12, 10, 9, 1), strict=True)]
        found += [measured(0, loop, 10, workload="none-for-rustls") for loop in LABELS]
        rows = report.rows(found, labels)
        self.assertEqual([row.verdict for row in rows], ["", ""])
        self.assertEqual(rows[0].ratio.median, 0.9)
        table = report.as_text(*report.cost_table(rows, labels))
        self.assertIn("1.00", table)
        self.assertNotIn("failed", table)
        report.throughput_table(rows, labels)
        self.assertEqual(report.subject_and_baseline(["velodrome", "rustls"]), ("velodrome", "rustls"))

    def test_workload_whose_packages_are_missing_is_shown_and_is_no_failure(self):
        missing = {"round": 0, "workload": "echo", "loop": "velodrome", "cost": "cpu_us", "not_installed": ["uvicorn"]}
        (row,) = report.rows([measured(0, "uvloop", 10), missing], LABELS)
        self.assertEqual((row.ratio, row.errors, row.verdict), (None, 0, ""))
        self.assertIn("not installed", report.as_text(*report.cost_table([row], LABELS)))

    def test_memory_has_a_table_of_its_own(self):
        found = [measured(0, loop, 10) for loop in LABELS]
        for loop, kib in zip(LABELS, (40, 20, 30), strict=True):
            found.append({"round": 0, "workload": "idle", "loop": loop, "cost": "kib_per_connection"})
            found[-1]["kib_per_connection"] = kib
        rows = report.rows(found, LABELS)
        cpu, memory, speed = (report.as_text(*table) for table in report.tables(rows, LABELS))
        self.assertIn("velodrome KiB/connection", memory)
        self.assertIn("1.50", memory)
        self.assertIn("LOSES to uvloop", memory)
        self.assertNotIn("idle", cpu + speed)
        self.assertIn("more memory than uvloop in 1 of 1", report.conclusion(rows, LABELS))

    def test_subject_is_velodrome_and_baseline_is_uvloop_where_present(self):
        self.assertEqual(report.subject_and_baseline(LABELS), ("velodrome", "uvloop"))
        self.assertEqual(report.subject_and_baseline(["velodrome", "uvloop"]), ("velodrome", "uvloop"))
        self.assertEqual(report.subject_and_baseline(["asyncio", "uvloop"]), ("uvloop", "asyncio"))
        self.assertEqual(report.subject_and_baseline(["velodrome", "velodrome#2"]), ("velodrome#2", "velodrome"))
        self.assertEqual(report.subject_and_baseline(["velodrome"]), ("velodrome", None))


class MicroWorkloads(unittest.TestCase):
    def test_each_does_its_operations(self):
        for workload in micro.WORKLOADS.values():
            with self.subTest(workload.name), workload.on(asyncio.new_event_loop) as run:
                run(200)

    def test_readme_says_what_each_does(self):
        readme = (run.HERE / "README.md").read_text()
        for name in [*micro.WORKLOADS, workloads.FIRST_LOOP.name]:
            self.assertIn(f"`{name}`", readme)

    def test_lost_callback_is_noticed(self):
        class ForgetfulLoop(asyncio.SelectorEventLoop):
            calls = 0

            def call_soon(self, callback, *arguments, context=None):
                self.calls += 1
                if self.calls == 100:
                    callback, arguments = (lambda: None), ()
                return super().call_soon(callback, *arguments, context=context)

        for workload in (callbacks.call_soon_batch, callbacks.call_soon_3_arguments):
            with contextlib.closing(ForgetfulLoop()) as loop:
                with self.assertRaises(micro.MissingOperations):
                    workload.function(loop, 200)

    def test_reader_that_outlives_its_removal_is_noticed(self):
        class StubbornLoop(asyncio.SelectorEventLoop):
            def remove_reader(self, fd):
                return True

        failures = []
        with contextlib.closing(StubbornLoop()) as loop:
            loop.set_exception_handler(lambda loop, context: failures.append(context["exception"]))
            descriptors.add_and_remove_reader.function(loop, 1)
        self.assertIsInstance(failures[0], micro.MissingOperations)

    def test_wrong_answer_in_a_pipe_is_noticed(self):
        with mock.patch.object(descriptors.PipeEcho, "data_received", answer_backwards):
            with contextlib.closing(asyncio.new_event_loop()) as loop:
                with self.assertRaises(micro.MissingOperations):
                    descriptors.pipes_1k.function(loop, 1)

    def test_wrong_status_is_noticed(self):
        start = asyncio.create_subprocess_exec
        with mock.patch.object(asyncio, "create_subprocess_exec", lambda program: start("true")):
            with contextlib.closing(asyncio.new_event_loop()) as loop:
                with self.assertRaises(micro.MissingOperations):
                    processes.subprocess_wait.function(loop, 1)

    def test_wrong_address_is_noticed(self):
        class LostLoop(asyncio.SelectorEventLoop):
            async def getaddrinfo(self, host, *arguments, **options):
                return await super().getaddrinfo("127.0.0.2", *arguments, **options)

        with contextlib.closing(LostLoop()) as loop:
            with self.assertRaises(micro.MissingOperations):
                threads.getaddrinfo_numeric.function(loop, 1)

    def test_loop_that_stays_open_is_noticed(self):
        open_loop = mock.Mock(is_closed=lambda: False)
        with self.assertRaises(micro.MissingOperations):
            lifecycle.loop_create_and_close.function(lambda: open_loop, 1)

    def test_timer_that_outlives_its_cancellation_is_noticed(self):
        class StubbornLoop(asyncio.SelectorEventLoop):
            def call_later(self, delay, callback, *arguments, context=None):
                self.call_soon(callback, *arguments, context=context)
                return super().call_later(delay, callback, *arguments, context=context)

        failures = []
        with contextlib.closing(StubbornLoop()) as loop:
            loop.set_exception_handler(lambda loop, context: failures.append(context["exception"]))
            timers.call_later_cancel.function(loop, 200)
        self.assertIsInstance(failures[0], micro.MissingOperations)


def answer_backwards(echo, data):
    echo.answering.write(data[::-1])


class Measurements(Measuring):
    @staticmethod
    def workload(name):
        (found,) = (workload for workload in workloads.ALL if workload.name == name)
        return found

    def test_every_server_answers_rightly(self):
        networked = [w for w in (*workloads.NETWORK, *workloads.SCALING) if isinstance(w, NetworkWorkload)]
        one_each = {workload.server: workload for workload in reversed(networked)}
        self.assertEqual(one_each.keys(), servers.SERVERS.keys())
        for workload in one_each.values():
            with self.subTest(workload.name):
                result = self.bench.measure(workload, self.loop)
                if "not_installed" in result:
                    self.skipTest(f"{', '.join(result['not_installed'])} is not installed")
                self.assertNotIn("error", result)
                self.assertGreater(result["cpu_us"], 0)
                self.assertGreater(result["operations"], 0)

    def test_floor_answers_rightly(self):
        # So large that an answer has to wait for room.
        large = NetworkWorkload("large", "protocol", workloads.echo(3_000_000), 2)
        others = [self.workload("tls-handshake-resumed"), large]
        for floor in run.parse_loops(",".join(loops.FLOORS)):
            served = {workload.server: workload for workload in workloads.NETWORK if floor.takes(workload)}
            self.assertEqual(served.keys(), loops.FLOORS[floor.name].keys())
            for workload in [*served.values(), *filter(floor.takes, others)]:
                with self.subTest(workload.name, floor=floor.name):
                    result = self.bench.measure(workload, floor)
                    if "io_uring" in result.get("error", ""):
                        self.skipTest(result["error"])
                    self.assertNotIn("error", result)

    def test_workload_whose_packages_are_missing_is_not_measured(self):
        workload = NetworkWorkload("none", "protocol", workloads.echo(64), 1, packages=("no-such-package",))
        with contextlib.redirect_stderr(io.StringIO()) as progress:
            (measurement,) = run.all_rounds(self.bench, [workload], [self.loop], 1)
        self.assertEqual(measurement["not_installed"], ["no-such-package"])
        self.assertIn("asyncio not installed", progress.getvalue())

    def test_micro_workload_is_measured(self):
        result = self.bench.measure(micro.WORKLOADS["call-soon-batch"], self.loop)
        self.assertGreater(result["cpu_us"], 0)

    def test_first_loop_is_measured(self):
        result = self.bench.measure(workloads.FIRST_LOOP, self.loop)
        self.assertGreater(result["cpu_us"], 0)

    def test_wrong_answer_fails_the_measurement(self):
        exchange = ("--request", servers.HTTP_REQUEST, "--reply", servers.HTTP_REPLY.replace(b"Hello", b"Jello"))
        result = self.bench.measure(NetworkWorkload("jello", "http", exchange, 1), self.loop)
        self.assertIn("wrong bytes", result["error"])

    def test_wrong_download_fails_the_measurement(self):
        size, variety = servers.DOWNLOAD
        workload = NetworkWorkload("less", "send", workloads.download(size, variety - 1), 1)
        # The other is what asyncio says if it goes on sending to a load generator that has given up.
        self.assertRegex(self.bench.measure(workload, self.loop)["error"], "wrong bytes|raised exception")

    def test_wrong_answer_over_tls_fails_the_measurement(self):
        exchange = ("--request", "ping", "--reply", "pong")  # the server is an echo
        result = self.bench.measure(NetworkWorkload("pong", "tls-protocol", exchange, 1), self.loop)
        self.assertIn("wrong bytes", result["error"])

    def test_resumed_handshakes_are_measured(self):
        result = self.bench.measure(self.workload("tls-handshake-resumed"), self.loop)
        self.assertNotIn("error", result)

    def test_memory_of_idle_connections_is_measured(self):
        # Over TLS, because plain connections may fit into memory that the server has already.
        workload = IdleWorkload("idle", "tls-protocol", workloads.echo(64), 30)
        result = self.bench.measure(workload, self.loop)
        self.assertGreater(result["kib_per_connection"], 0)

    def test_connection_that_does_not_stay_fails_the_measurement(self):
        workload = IdleWorkload("idle", "accept-close", workloads.echo(64), 1)
        # A reset if the close was quicker than the message.
        self.assertRegex(self.bench.measure(workload, self.loop)["error"], "closed the connection|reset by peer")

    def test_more_connections_than_descriptors_fail_the_measurement(self):
        workload = NetworkWorkload("crowd", "protocol", workloads.echo(1), 10**9)
        self.assertIn("descriptors", self.bench.measure(workload, self.loop)["error"])

    def test_server_that_cannot_start_fails_the_measurement(self):
        result = self.bench.measure(NetworkWorkload("none", "no-such-server", ("--connect",), 1), self.loop)
        self.assertIn("no-such-server", result["error"])

    def test_server_that_complains_fails_the_measurement(self):
        # A request that the server's parser does not expect: it answers nothing and the exception is logged.
        workload = NetworkWorkload("garbage", "http", ("--request", "garbage\r\n\r\n", "--reply", "x"), 1)
        self.assertIn("ValueError", self.bench.measure(workload, self.loop)["error"])


class LoopNames(unittest.TestCase):
    def test_repeated_loop_gets_a_label_of_its_own(self):
        found = run.parse_loops("uvloop,velodrome@/other/python,velodrome")
        self.assertEqual([loop.label for loop in found], ["uvloop", "velodrome", "velodrome#2"])
        self.assertEqual([loop.python for loop in found], [sys.executable, "/other/python", sys.executable])

    def test_loop_with_settings_is_its_package_under_another_name(self):
        plain, with_settings = run.parse_loops("asyncio,asyncio-malloc@/other/python")
        self.assertEqual([plain.label, with_settings.label], ["asyncio", "asyncio-malloc"])
        self.assertEqual((with_settings.name, with_settings.python), ("asyncio", "/other/python"))
        self.assertIn("MALLOC_TRIM_THRESHOLD_=100000000", with_settings.command("servers.py"))
        self.assertEqual(plain.settings, [])

    def test_peer_is_known_by_its_name(self):
        (found,) = run.parse_loops("blazio@/peers/python")
        self.assertEqual((found.label, found.python), ("blazio", "/peers/python"))

    def test_all_are_those_that_work_and_the_others_have_a_reason(self):
        obstacle = property(lambda loop: None if loop.name in loops.NAMES else "it broke")
        core = min(os.sched_getaffinity(0))
        with mock.patch.object(sys, "argv", ["run.py", "--loops", "all", "--cores", f"{core},{core}"]):
            with mock.patch.object(run.LoopUnderTest, "obstacle", obstacle):
                options = run.parse_arguments()
        self.assertEqual(options.absent, dict.fromkeys(loops.PEERS, "it broke"))
        labels = [loop.label for loop in options.loops]
        self.assertEqual(labels, ["asyncio", "asyncio-malloc", "uvloop", "velodrome", *loops.FLOORS])

    def test_unknown_loop_is_refused(self):
        with self.assertRaises(argparse.ArgumentTypeError):
            run.parse_loops("asyncio,trio")

    def test_floor_has_no_interpreter_and_few_workloads(self):
        for floor in run.parse_loops(",".join(loops.FLOORS)):
            self.assertFalse(any(floor.takes(workload) for workload in micro.WORKLOADS.values()))
        with self.assertRaises(argparse.ArgumentTypeError):
            run.parse_loops("rustls@/some/python")


if __name__ == "__main__":
    unittest.main()
