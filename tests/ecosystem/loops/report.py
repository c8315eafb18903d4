"""A pytest plugin: writes what happens to each test into a file, at once, and runs the tests that a file names.

So whoever reads the file knows which test was running when the process hangs or dies.
"""

import json
import os
from pathlib import Path

import pytest

# Of the outcomes of a test's setup, call and teardown the worst counts.
SEVERITY = ["passed", "skipped", "failed", "error"]


def pytest_addoption(parser):
    group = parser.getgroup("ecosystem")
    group.addoption("--report-to", metavar="FILE", required=True, help="append a JSON object for each event")
    group.addoption("--only", metavar="FILE", help="run these tests, a JSON list of their ids")
    group.addoption("--leave-out", metavar="FILE", help="do not run these tests, a JSON list of their ids")


def pytest_configure(config):
    config.pluginmanager.register(Reporter(config.getoption("report_to")))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if only := config.getoption("only"):
        chosen = set(json.loads(Path(only).read_text()))
        items[:] = [item for item in items if item.nodeid in chosen]
    if leave_out := config.getoption("leave_out"):
        refused = set(json.loads(Path(leave_out).read_text()))
        items[:] = [item for item in items if item.nodeid not in refused]


class Reporter:
    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self.pid = os.getpid()
        self.outcome, self.details = "passed", []

    def send(self, **event):
        if os.getpid() == self.pid:  # a test may fork, and its child come back here
            os.write(self.file, json.dumps(event).encode() + b"\n")

    def pytest_runtest_logstart(self, nodeid):
        self.outcome, self.details = "passed", []
        self.send(event="start", test=nodeid)

    def pytest_runtest_logreport(self, report):
        outcome = report.outcome
        if report.failed and report.when != "call":
            outcome = "error"
        self.outcome = max(self.outcome, outcome, key=SEVERITY.index)
        if report.failed:
            self.details.append(report.longreprtext)

    def pytest_runtest_logfinish(self, nodeid):
        self.send(event="end", test=nodeid, outcome=self.outcome, details="\n".join(self.details))

    def pytest_collectreport(self, report):
        if report.failed:
            self.send(event="end", test=report.nodeid, outcome="error", details=report.longreprtext)

    def pytest_sessionfinish(self, exitstatus):
        self.send(event="finished", status=int(exitstatus))
