"""What each row is to cost, from goals.toml, beside what it costs in a run."""

import tomllib
from pathlib import Path

import report
from loops import is_floor

GOALS = tomllib.loads(Path(__file__).with_name("goals.toml").read_text())


def section(rows, labels, own_shares):
    """The Markdown; empty if the run can tell of no goal."""
    head, body = table(rows, labels, own_shares)
    if not body:
        return ""
    reached = sum(verdict.startswith("reached") for *_, verdict, _ in body)
    subject, _ = report.subject_and_baseline(labels)
    return f"{report.as_markdown(head, body, 'Goals')}\n\n{subject} reaches {reached} of {len(body)} goals."


def table(rows, labels, own_shares):
    """A line for each row that has a goal. Without uvloop nothing can be a share of its cost, and without velodrome
    there are no goals at all. `own_shares` says how much of a row is velodrome's own code, and what the rest is."""
    subject, _ = report.subject_and_baseline(labels)
    head = ["workload", "best peer before", "goal", subject, "[min..max]", "floor", "", "reason"]
    body = []
    if not subject.startswith("velodrome"):
        return head, body
    for row in rows:
        is_share = row.workload in GOALS["shares"]
        goal = GOALS["shares" if is_share else "costs"].get(row.workload)
        if not goal or (is_share and "uvloop" not in labels):
            continue
        unit = "" if is_share else f" {report.UNITS[row.cost]}"
        found = standing(row, subject, is_share)
        verdict = judge(found, goal["goal"])
        lowest = floor(row, labels, is_share)
        body.append(
            [
                row.workload,
                *(f"{report.significant(goal[key])}{unit}" for key in ("best_peer", "goal")),
                *spread_cells(found),
                "-" if lowest is None else report.significant(lowest),
                verdict,
                reason(row.workload, found, goal["goal"], lowest, own_shares) if verdict.startswith("MISSED") else "",
            ]
        )
    return head, body


def standing(row, label, is_share):
    """What a loop or a floor has, in the terms of the goal; None if there is no number."""
    return report.ratio(row.measurements, row.cost, label, "uvloop") if is_share else row.spent.get(label)


def reason(workload, found, goal, lowest, own_shares):
    """Why a goal is missed: as it is written down, or because most of the row is not velodrome's to make cheaper."""
    if workload in GOALS["reasons"]:
        return GOALS["reasons"][workload]
    if lowest is not None and lowest > goal:
        return "the floor is above it"
    if workload not in own_shares:
        return ""
    own, rest = own_shares[workload]
    left = found.median * (1 - own)
    return f"{rest}: {report.significant(left)} without its own" if left > goal else f"({rest})"


def judge(found, goal):
    if not found:
        return "no number"
    word = "reached" if found.median <= goal else "MISSED"
    return word + (" (within noise)" if found.low <= goal < found.high else "")


def spread_cells(found):
    if not found:
        return ["-", "-"]
    low, median, high = map(report.significant, (found.low, found.median, found.high))
    return [median, f"[{low}..{high}]"]


def floor(row, labels, is_share):
    """The cheapest server without Python: what is below it, no loop can reach."""
    found = [standing(row, label, is_share) for label in labels if is_floor(label)]
    return min((spread.median for spread in found if spread), default=None)
