"""Turns the logs of conformance.sh into docs/conformance.md. `python tools/conformance.py LOGS`"""

import re
import sys
import tomllib
from pathlib import Path

HEAD = """\
# Conformance

CPython's own `test.test_asyncio`, as each Python brings it, run on that Python's stock loop and on velodrome, one after
the other on one machine. Written by `make conformance`; how the suite is run, and what is replaced, is in
[tests/cpython](../tests/cpython/README.md).

The last two columns are the tests with TLS in them (`test_ssl`, `test_sslproto`, `test_sendfile`, `test_streams`) once
more, with Python's `ssl` module in the place of libssl (`VELODROME_TLS=python`).

| Python | stock asyncio: passed | failed | velodrome: passed | failed | left out | `ssl` module: passed | failed |
|---|---:|---:|---:|---:|---|---:|---:|
"""

MIDDLE = """

Left out are the tests that run once for each of CPython's selectors (velodrome is tested in the place of one of them),
and these:

| Tests | Pythons | Reason | Why |
|---|---|---|---|
"""


def counts(log):
    """The version of a log, and what it counted."""
    text = log.read_text()
    version = re.search(r"^test_asyncio of CPython (\S+)( \(debug build\))?", text)
    passed, failed, _ = re.search(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", text, re.MULTILINE).groups()
    excluded = re.search(r"excluded: (.*)$", text, re.MULTILINE).group(1)
    return version.group(1) + (version.group(2) or ""), int(passed), int(failed), excluded


def order(version):
    number, _, build = version.partition(" ")
    return [int(part) for part in re.findall(r"\d+", number)[:3]], build


def main():
    logs = Path(sys.argv[1])
    rows = []
    for log in logs.glob("*.velodrome"):
        version, passed, failed, excluded = counts(log)
        _, stock_passed, stock_failed, _ = counts(log.with_suffix(".asyncio"))
        _, module_passed, module_failed, _ = counts(log.with_suffix(".module"))
        cells = (version, stock_passed, stock_failed, passed, failed, excluded, module_passed, module_failed)
        rows.append((version, f"| {' | '.join(map(str, cells))} |"))
    lines = [row for _, row in sorted(rows, key=lambda row: order(row[0]))]
    print(HEAD + "\n".join(lines) + MIDDLE, end="")
    listed = Path(__file__).parent.parent / "tests/cpython/excluded.toml"
    for exclusion in tomllib.loads(listed.read_text())["excluded"]:
        if exclusion["reason"] == "duplicate":
            continue
        tests = ", ".join(f"`{test}`" for test in exclusion["tests"])
        since, until = exclusion.get("since"), exclusion.get("until")
        pythons = " ".join(filter(None, [since and f"from {since}", until and f"to {until}"])) or "all"
        if since and since == until:
            pythons = since
        print(f"| {tests} | {pythons} | {exclusion['reason']} | {exclusion['why']} |")


if __name__ == "__main__":
    main()
