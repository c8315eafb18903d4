"""What callgrind.py counted, for the page: velodrome's own history, and how much of each operation is its own code."""

import report


def latest(records):
    """For each workload the last record of velodrome, and the one before it, if there is one of the same Python."""
    found = {}
    for record in records:
        if record["loop"] == "velodrome":
            found.setdefault((record["workload"], record["python"]), []).append(record)
    return [(histories[-1], histories[-2] if len(histories) > 1 else None) for histories in found.values()]


def own_shares(records):
    """How much of a workload's instructions is velodrome's own code, and what to say of the others."""
    found = {}
    for record, _ in latest(records):
        own = record["in_velodrome"] / record["instructions_per_operation"]
        found[record["workload"]] = own, f"{1 - own:.0%} of the instructions are not velodrome's"
    return found


def section(records):
    head = ["workload", "Python", "date", "instructions/op", "of them velodrome's", "share", "before", "date before"]
    body = []
    for record, before in latest(records):
        total, own = record["instructions_per_operation"], record["in_velodrome"]
        earlier = [f"{before['instructions_per_operation']:,.0f}", before["date"][:10]] if before else ["-", "-"]
        body.append(
            [
                record["workload"],
                record["python"],
                record["date"][:10],
                f"{total:,.0f}",
                f"{own:,.0f}",
                f"{own / total:.0%}",
                *earlier,
            ]
        )
    return report.as_markdown(head, body, "Counted by valgrind")
