"""The table of counts, and docs/ecosystem.md."""

import datetime

from session import OUTCOMES

HEAD = """\
# The suites of asyncio's users

The tests of projects that people use with asyncio, as their releases bring them, run on stock asyncio and then on
velodrome, on one machine: {version}, {date}. Written by `make test-ecosystem`; how the suites are run is in
[tests/ecosystem](../tests/ecosystem/README.md).

{table}

A test that failed ran once more; it counts as failed if it failed twice. Errors are failures in what a test's fixtures
do. Loops made says how many loops of the kind under test were made while the suite ran, its child processes included.
"""

COLUMNS = [
    *("Project", "Version", "asyncio: passed", "failed", "errors", "skipped"),
    *("velodrome: passed", "failed", "errors", "skipped", "fails only on velodrome", "loops made"),
]


def row(comparison):
    project = comparison.project
    if not comparison.velodrome:
        return [project.name, project.version] + ["–"] * (len(COLUMNS) - 2)
    counts = [
        str(suite.count(outcome))
        for suite in (comparison.asyncio, comparison.velodrome)
        for outcome in OUTCOMES
    ]
    loops = f"{comparison.asyncio.loops('asyncio')}, {comparison.velodrome.loops('velodrome')}"
    return [project.name, project.version, *counts, str(len(comparison.only_on_velodrome())), loops]


def table(comparisons):
    lines = [COLUMNS, ["---", "---"] + ["---:"] * (len(COLUMNS) - 2), *map(row, comparisons)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tests_by_reason(explained):
    reasons = {}
    for test, why in explained.items():
        reasons.setdefault(why, []).append(test)
    return reasons


def only_on_velodrome(comparisons, expected):
    lines = []
    for comparison in comparisons:
        explained = comparison.explained(expected)
        for why, tests in tests_by_reason(explained).items():
            lines += [f"- {comparison.project.name}: {why}", *(f"  - `{test}`" for test in tests)]
        unexplained = [test for test in comparison.only_on_velodrome() if test not in explained]
        if unexplained:
            lines += [f"- {comparison.project.name}: **not explained**", *(f"  - `{test}`" for test in unexplained)]
    return lines or ["None."]


def notes(comparisons):
    for comparison in comparisons:
        project = comparison.project
        if missing := comparison.unavailable or comparison.broken:
            yield f"- {project.name} did not run: {missing.splitlines()[-1]}"
        if project.note:
            yield f"- {project.name}: {project.note}"
        for entry in project.left_out:
            yield f"- {project.name}, left out on both loops: {entry.why}"


def flaky(comparisons):
    for comparison in comparisons:
        for suite in filter(None, (comparison.asyncio, comparison.velodrome)):
            yield from (f"- {suite.project}, on {suite.loop}: `{test}`" for test in suite.passed_again)


def section(title, lines):
    return "\n".join(["", f"## {title}", "", *(list(lines) or ["None."]), ""])


def page(comparisons, expected, version):
    head = HEAD.format(version=version, date=datetime.date.today(), table=table(comparisons))
    only_on_asyncio = (
        f"- {comparison.project.name}: `{test}`" for comparison in comparisons for test in comparison.only_on_asyncio()
    )
    return (
        head
        + section("What fails only on velodrome, and why", only_on_velodrome(comparisons, expected))
        + section("What fails only on asyncio", only_on_asyncio)
        + section("What failed once and then passed", flaky(comparisons))
        + section("What did not run", notes(comparisons))
    )
