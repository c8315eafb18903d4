"""Runs the test suites of projects that use asyncio on stock asyncio and on velodrome, and compares.

    python tests/ecosystem/run.py [options] [PROJECT ...]

Without a PROJECT all of them run, and docs/ecosystem.md is written. What the suites are, and what is left out of them,
is in projects.toml; failures that are not velodrome's are explained in expected.toml.
"""

import argparse
import json
import platform
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict

import page
import prepare
from compare import Comparison
from projects import LOOPS, ROOT, WORK, read_expected, read_projects
from session import Session, Suite


def result_file(project, loop):
    return WORK / "results" / f"{project.name}-{loop}.json"


def run_suite(project, loop):
    """Runs the suite and keeps what came of it."""
    suite = Session(project, loop).run()
    file = result_file(project, loop)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(suite), indent=1))
    return suite


def last_run(project, loop):
    file = result_file(project, loop)
    suite = Suite(**json.loads(file.read_text())) if file.exists() else None
    if suite is None or suite.version != project.version:
        raise prepare.Unavailable(f"it has not run on {loop} yet")
    return suite


def run_project(project, options):
    """The comparison of the project's suite on both loops, or why there is none."""
    if project.unavailable:
        return Comparison(project, unavailable=project.unavailable)
    chosen = [] if options.saved else options.loop or LOOPS
    try:
        suites = {loop: (run_suite if loop in chosen else last_run)(project, loop) for loop in LOOPS}
    except prepare.Unavailable as reason:
        return Comparison(project, unavailable=str(reason))
    return Comparison(project, **suites)


def run_projects(projects, options, expected):
    comparisons = []
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = {pool.submit(run_project, project, options): project for project in projects}
        try:
            for future in as_completed(futures):
                try:
                    comparison = future.result()
                except Exception as error:  # one project must not take the others with it
                    comparison = Comparison(futures[future], broken=f"{type(error).__name__}: {error}")
                print(comparison.describe(expected), flush=True)
                comparisons.append(comparison)
        except BaseException:
            Session.interrupted.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(comparisons, key=lambda comparison: projects.index(comparison.project))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("projects", nargs="*", metavar="PROJECT")
    option("-j", "--jobs", type=int, default=2, help="projects at once (default: 2)")
    option("--loop", action="append", choices=LOOPS, help="run on this loop only; the other side is the last run's")
    option("--saved", action="store_true", help="run nothing: compare the last runs")
    option("--lock", action="store_true", help="write requirements/PROJECT.txt anew and run nothing")
    return parser.parse_args()


def main():
    options = parse_arguments()
    every = read_projects()
    if unknown := set(options.projects) - {project.name for project in every}:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(project.name for project in every)}")
    projects = [project for project in every if not options.projects or project.name in options.projects]
    if options.lock:
        for project in projects:
            if not project.unavailable:
                prepare.lock(project)
        return

    expected = read_expected()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    comparisons = run_projects(projects, options, expected)
    print(f"\n{page.table(comparisons)}\n{time.monotonic() - started:.0f} s")
    if not options.projects:
        version = f"CPython {platform.python_version()}"
        (ROOT / "docs" / "ecosystem.md").write_text(page.page(comparisons, expected, version))
        print("wrote docs/ecosystem.md")
    troubles = [f"{comparison.project.name}: {line}" for comparison in comparisons
                for line in comparison.troubles(expected)]
    for line in troubles:
        print(line)
    passed = sum(comparison.velodrome.count("passed") for comparison in comparisons if comparison.velodrome)
    print(f"{passed} passed, {len(troubles)} failed")
    sys.exit(bool(troubles) or not passed)


if __name__ == "__main__":
    main()
