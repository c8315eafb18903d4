"""Turn files that `run.py --json` wrote into a page of tables and plots. The same files make the same page.

Nothing is measured here, and no clock is looked at: date, machine and versions are those of the measurements.
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import goals
import instructions
import report
import shares

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"

INTRODUCTION = """\
# Benchmarks

`make bench-all` measures it all and makes this page, `make bench-page` makes it again from the same measurements; what
is measured, and how, says [benches/README.md](../../benches/README.md).

Each measurement is a fresh process on a core of its own, under load by a compiled generator that checks every byte.
Loops take turns inside a round, and ratios are taken inside a round; below 1 is cheaper. No row is left out.
"""

TITLES = {"rows": "Each row", "scaling": "Scaling", "fairness": "Fairness"}

INSTRUCTIONS = """\
## Instructions

Of the rows that do the same work in each run. What is not velodrome's own is the interpreter's, the C library's and the
workload's, which every loop has.
"""

SHARES = """\
## CPU time

Whose code it is spent in, on velodrome: of the network rows, and of those that do not do the same work in each run.
velodrome's own is its extension; its Python code, which runs once for a loop, a connection or a child process, counts
as CPython's.
"""

# What a reader of the numbers has to know.
NOTES = {
    "rows": """\
`import-and-first-loop` is measured where asyncio is imported already, so that its own loop costs next to nothing there.

A goal is a share of uvloop's cost, unless it names a unit; `best peer before` is what the best other loop had when the
goals were set, on CPython 3.13 beside uvloop 0.23. `floor` is the cheapest server without Python in this run: no loop
reaches a goal below it. A goal is out of reach, too, if even a loop without any code of its own would miss it: the
reason says what would be left.
""",
    "scaling": """\
Where two processes serve, each on a core of its own, the load generator has no core left and runs on the second's: on
two cores, load and servers share them. The plots show what the second process adds beside the load, and not what a
second core would.
""",
}


@dataclass(frozen=True)
class Run:
    name: str  # of its file, which begins the names of its plots
    header: dict
    measurements: list

    @property
    def labels(self):
        return list(self.header["loops"])

    @property
    def rows(self):
        return report.rows(self.measurements, self.labels)

    @property
    def suite(self):
        return self.header.get("suite", "rows")


def records(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def read(path):
    header, *others = records(path)
    if header.get("kind") != "run":
        raise ValueError(f"{path} does not begin with the header of a run")
    return Run(path.stem, header, [record for record in others if record["kind"] == "measurement"])


def page(runs, plots, counted=(), sampled=()):
    """The Markdown; `plots` has for each run's name its plots' titles and file names, `counted` is what callgrind.py
    has counted, `sampled` what shares.py has."""
    repeated = Counter(run.suite for run in runs)
    ordered = sorted(runs, key=lambda run: list(TITLES).index(run.suite))
    own_shares = shares.own_shares(sampled) | instructions.own_shares(counted)
    sections = [section(run, plots[run.name], repeated[run.suite] > 1, own_shares) for run in ordered]
    if counted:
        sections.append(f"{INSTRUCTIONS}\n{instructions.section(counted)}\n")
    if sampled:
        sections.append(f"{SHARES}\n{shares.section(sampled)}\n")
    return "\n".join([INTRODUCTION, *sections])


def section(run, plots, is_named, own_shares):
    title = TITLES[run.suite] + (f": {run.name}" if is_named else "")
    pictures = [f"### {caption}\n\n![{caption}]({file})" for caption, file in plots]
    inserted = filter(None, [goals.section(run.rows, run.labels, own_shares), *pictures])
    text = report.markdown(run.header, run.rows, run.labels, run.measurements, inserted)
    return "\n".join(filter(None, [f"## {title}\n", NOTES.get(run.suite), text]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="written by run.py, callgrind.py or shares.py"
    )
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FOLDER", help="default docs/benchmarks")
    options = parser.parse_args()
    if missing := [str(path) for path in options.files if not path.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    # A matplotlib is needed for nothing else in here.
    import plots

    histories = {"callgrind": [], "shares": []}
    runs = []
    for path in options.files:
        first, *others = records(path)
        if (kind := first.get("kind")) in histories:
            histories[kind] += [first, *others]
        else:
            runs.append(read(path))
    options.output.mkdir(parents=True, exist_ok=True)
    drawn = {run.name: plots.draw(run, options.output) for run in runs}
    (options.output / "README.md").write_text(page(runs, drawn, histories["callgrind"], histories["shares"]))
    print(options.output / "README.md")


if __name__ == "__main__":
    main()
