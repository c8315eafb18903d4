"""From measurements to rows to tables. No measuring here, so that all of it can be tested."""

import statistics
from dataclasses import dataclass

import system_calls
from loops import is_floor

# What the tables compare: the field of a measurement, and how its unit is written.
UNITS = {"cpu_us": "µs/op", "kib_per_connection": "KiB/connection", "timer_late_p99_us": "µs late"}

COSTS = {"cpu_us": "CPU for an operation", "kib_per_connection": "Memory for a connection"}

# Of this, there are promises, and no order of loops: who fires timers too early is never late.
FAIRNESS = "timer_late_p99_us"

# Whatever else a loop does, it serves these at no less than this share of stock asyncio's rate.
RATES = {"operations_per_second": "echo", "timers_per_second": "timer"}
FAIR_SHARE = 0.5

BEST = "the best of each row"

# A measurement is called disturbed when others used more than this share of one of its cores meanwhile.
DISTURBED = 0.05


@dataclass(frozen=True)
class Spread:
    """A median and what lies around it, over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        values = list(values)
        return cls(statistics.median(values), min(values), max(values)) if values else None

    @property
    def percent(self):
        """Half the range, in percent of the median."""
        return (self.high - self.low) / 2 / self.median * 100 if self.median else 0.0


@dataclass(frozen=True)
class Row:
    workload: str
    cost: str  # what `spent` counts, a key of UNITS
    measurements: list  # those with a number
    spent: dict  # loop -> Spread, or None if there is no number; without those that do not have the workload
    throughput: dict  # likewise, in operations per second
    latency_p50_us: dict  # likewise; None where there is no peer that could tell
    latency_p99_us: dict
    system_calls: dict  # loop -> name -> how many for an operation; only those that were counted
    absent: set  # loops whose interpreter lacks what the workload needs
    ratio: Spread | None  # subject / baseline, each taken inside one round
    against: dict  # peer -> Spread of subject / peer, likewise; those without a number are left out
    errors: int
    verdict: str

    @property
    def best_peer(self):
        """The one that is cheapest beside the subject; None if there is none with a number."""
        return max(self.against, key=lambda peer: self.against[peer].median, default=None)

    @property
    def best(self):
        """The subject's ratio to the best peer."""
        return self.against.get(self.best_peer)


def subject_and_baseline(labels):
    """The loop whose ratio the table shows, and the one it is measured against (None if there is only one loop).

    A floor is neither, unless there is nothing else.
    """
    candidates = [label for label in labels if not is_floor(label)] or labels
    ours = [label for label in candidates if label.startswith("velodrome")]
    subject = ours[-1] if ours else candidates[-1]
    others = [label for label in candidates if label != subject] or [label for label in labels if label != subject]
    if not others:
        return subject, None
    return subject, "uvloop" if "uvloop" in others else others[0]


def peers(labels):
    """Whom the subject is compared with: no floor, and no other build of velodrome."""
    subject, _ = subject_and_baseline(labels)
    return [name for name in labels if name != subject and not is_floor(name) and not name.startswith("velodrome")]


def rows(measurements, labels):
    """One Row per workload, in order of first appearance. A failed measurement is an error, never a number."""
    by_workload = {}
    for measurement in measurements:
        by_workload.setdefault(measurement["workload"], []).append(measurement)
    return [row(workload, found, labels) for workload, found in by_workload.items()]


def row(workload, measurements, labels):
    failed = [measurement for measurement in measurements if "error" in measurement]
    absent = {m["loop"] for m in measurements if "not_installed" in m}
    good = [m for m in measurements if m not in failed and m["loop"] not in absent]
    measured = [label for label in labels if any(m["loop"] == label for m in measurements)]

    def spreads(field):
        return {label: spread(good, field, label) for label in measured}

    cost = measurements[0]["cost"]
    subject, baseline = subject_and_baseline(labels)
    errors = len(failed)
    against = ((peer, found) for peer in peers(labels) if (found := ratio(good, cost, subject, peer)))
    if cost == FAIRNESS:
        words = [shortfall(good, subject)]
    else:
        others = [label for label in labels if label != subject and not is_floor(label)]
        words = losses({other: ratio(good, cost, subject, other) for other in others})
    return Row(
        workload,
        cost,
        good,
        spreads(cost),
        spreads("operations_per_second"),
        spreads("latency_p50_us"),
        spreads("latency_p99_us"),
        {m["loop"]: m["system_calls"] for m in good if "system_calls" in m},
        absent,
        ratio(good, cost, subject, baseline),
        {} if cost == FAIRNESS else dict(against),
        errors,
        ", ".join(filter(None, [*words, f"{errors} FAILED" if errors else ""])),
    )


def spread(measurements, field, label):
    """What one loop has of a field; not every measurement has every field."""
    return Spread.of(m[field] for m in measurements if m["loop"] == label and m.get(field) is not None)


def ratio(measurements, field, ours, theirs):
    """What one loop has of a field, divided by what another has; None for a loop and itself.

    Neighbours in time share the machine's mood, so a ratio never mixes two rounds.
    """
    found = {(m["round"], m["loop"]): m.get(field) for m in measurements}
    pairs = [(found.get((r, ours)), found.get((r, theirs))) for r in sorted({r for r, _ in found}) if ours != theirs]
    return Spread.of(one / other for one, other in pairs if one and other)


def losses(ratios):
    """Losing is said plainly, and against whom."""
    words = []
    for other, found in ratios.items():
        if found and found.median > 1:
            noise = " (within noise)" if found.low <= 1 else ""
            words.append(f"LOSES to {other}{noise}")
    return words


def shortfall(measurements, label):
    """Which of the promises of fairness a loop did not keep, in words."""
    words = []
    for field, whose in RATES.items():
        share = ratio(measurements, field, label, "asyncio")
        if share and share.median < FAIR_SHARE:
            words.append(f"{whose} below {FAIR_SHARE:g} of asyncio's rate")
    mine = [m for m in measurements if m["loop"] == label]
    turns = Spread.of(m[FAIRNESS] / m["turn_p99_us"] for m in mine if m.get("turn_p99_us"))
    if turns and turns.median > 1:
        words.append(f"timer late by {turns.median:.2f} turns")
    if early := sum(m["timers_early"] for m in mine):
        words.append(f"{early} timers early")
    return "SHORT: " + ", ".join(words) if words else ""


# ---- tables -----------------------------------------------------------------------------------


def summaries(rows, labels):
    """What should not be overlooked in the tables: who is ahead where, and by how much on the whole."""
    found = []
    if any(is_behind(row) for row in rows):
        found.append((*behind_table([row for row in rows if is_behind(row)], labels), "Rows that another loop leads"))
    if any(row.against for row in rows):
        found.append((*against_table(rows, labels), "On the whole"))
    return found


def is_behind(row):
    return row.best is not None and row.best.median > 1


def behind_table(rows, labels):
    """The rows that another loop leads, the worst first."""
    subject, _ = subject_and_baseline(labels)
    head = ["behind in", "leader", "leader's cost", f"{subject}'s cost", f"{subject}/leader", "[min..max]", ""]
    body = [
        [
            row.workload,
            row.best_peer,
            *(f"{significant(row.spent[label].median)} {UNITS[row.cost]}" for label in (row.best_peer, subject)),
            *ratio_cells(row.best),
            "within noise" if row.best.low <= 1 else "",
        ]
        for row in sorted(rows, key=lambda row: row.best.median, reverse=True)
    ]
    return head, body


def against_table(rows, labels):
    """How the subject stands to each peer, and to the best of each row."""
    subject, _ = subject_and_baseline(labels)
    head = [f"{subject} against", "rows", "behind in", "geometric mean, CPU", "geometric mean, memory"]
    body = []
    for peer in [*peers(labels), BEST]:
        found = [(row.cost, row.best if peer == BEST else row.against.get(peer)) for row in rows]
        ratios = [(cost, ratio.median) for cost, ratio in found if ratio]
        means = [mean_cell([median for of, median in ratios if of == cost]) for cost in COSTS]
        body.append([peer, str(len(ratios)), str(sum(median > 1 for _, median in ratios)), *means])
    return head, body


def tables(rows, labels):
    """All that have rows: one of costs for each unit, one of speeds, one of system calls and one of promises."""
    by_unit = {cost: [row for row in rows if row.cost == cost] for cost in COSTS}
    found = [(*cost_table(rows, labels), COSTS[cost]) for cost, rows in by_unit.items() if rows]
    if timed := by_unit["cpu_us"]:
        found.append((*throughput_table(timed, labels), "Operations per second"))
    if answered := [row for row in by_unit["cpu_us"] if any(row.latency_p99_us.values())]:
        found.append((*latency_table(answered, labels), "Latency in numbers"))
    if counted := [row for row in rows if row.system_calls]:
        found.append((*system_calls_table(counted, labels), "System calls for an operation"))
    if promised := [row for row in rows if row.cost == FAIRNESS]:
        found.append((*fairness_table(promised, labels), "Rates and lateness"))
    return found


def cost_table(rows, labels):
    """The rows must share a unit."""
    subject, baseline = subject_and_baseline(labels)
    (unit,) = {UNITS[row.cost] for row in rows}
    head = ["workload", *(f"{label} {unit}" for label in labels)]
    if baseline:
        head += [f"{subject}/{baseline}", "[min..max]", "/best peer"]
    body = []
    for row in rows:
        cells = [row.workload, *(cost_cell(row, label) for label in labels)]
        if baseline:
            cells += [*ratio_cells(row.ratio), f"{row.best.median:.2f} {row.best_peer}" if row.best else "-"]
        body.append([*cells, row.verdict])
    return [*head, ""], body


def throughput_table(rows, labels):
    head = ["workload", *(f"{label} op/s" for label in labels)]
    return head, [[row.workload, *(throughput_cell(row, label) for label in labels)] for row in rows]


def latency_table(rows, labels):
    """Of the rows where a peer saw it."""
    head = ["workload", *(f"{label} p50/p99 µs" for label in labels)]
    return head, [[row.workload, *(latency_cell(row, label) for label in labels)] for row in rows]


def system_calls_table(rows, labels):
    """How many for an operation, and which they are for the subject."""
    subject, _ = subject_and_baseline(labels)
    head = ["workload", *(f"{label} calls/op" for label in labels), ""]
    body = [
        [
            row.workload,
            *(calls_cell(row, label) for label in labels),
            system_calls.described(row.system_calls.get(subject, {})),
        ]
        for row in rows
    ]
    return head, body


def fairness_table(rows, labels):
    """What an echo connection and a timer are given beside other things, a line for each loop."""
    rates = ["echo/s", "of asyncio's", "timer/s", "of asyncio's"]
    times = ["µs late p50", "p99", "µs turn p99", "early"]
    body = [
        [row.workload, label, *fairness_cells(row.measurements, label)]
        for row in rows
        for label in labels
        if label in row.spent
    ]
    return ["workload", "loop", *rates, *times, "others/s", ""], body


def fairness_cells(measurements, label):
    def cell(field):
        found = spread(measurements, field, label)
        return significant(found.median) if found else "-"

    def share_cell(field):
        found = ratio(measurements, field, label, "asyncio")
        return f"{found.median:.2f}" if found else "-"

    mine = [m for m in measurements if m["loop"] == label]
    return [
        *(text for field in RATES for text in (cell(field), share_cell(field))),
        *(cell(field) for field in ("timer_late_p50_us", "timer_late_p99_us", "turn_p99_us")),
        str(sum(m["timers_early"] for m in mine)) if mine else "-",
        cell("others_per_second"),
        shortfall(measurements, label) if mine else "FAILED",
    ]


def cost_cell(row, label):
    if label in row.absent:
        return "not installed"
    if label not in row.spent:
        return "-"
    spread = row.spent[label]
    return f"{significant(spread.median)} ±{spread.percent:.0f}%" if spread else "failed"


def calls_cell(row, label):
    calls = row.system_calls.get(label)
    return f"{system_calls.total(calls):.2f}" if calls else "-"


def throughput_cell(row, label):
    found = row.throughput.get(label)
    return f"{found.median:,.0f}" if found else "-"


def latency_cell(row, label):
    p50, p99 = row.latency_p50_us.get(label), row.latency_p99_us.get(label)
    return f"{p50.median:,.0f}/{p99.median:,.0f}" if p50 and p99 else "-"


def ratio_cells(ratio):
    return [f"{ratio.median:.2f}", f"[{ratio.low:.2f}..{ratio.high:.2f}]"] if ratio else ["-", "-"]


def mean_cell(ratios):
    return f"{statistics.geometric_mean(ratios):.2f}" if ratios else "-"


def significant(value):
    """Three significant digits, without exponents."""
    for limit, digits in ((1, 3), (10, 2), (100, 1)):
        if value < limit:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def as_text(head, body, title=None):
    """Without the title. Numbers to the right; the names and the untitled column of verdicts to the left."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]

    def line(cells):
        first, *others = [
            cell.ljust(width) if index == 0 or not title else cell.rjust(width)
            for index, (cell, width, title) in enumerate(zip(cells, widths, head, strict=True))
        ]
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(head), *map(line, body)])


def as_markdown(head, body, title=None):
    rule = ["---", *["---:"] * (len(head) - 1)]

    def emphasised(cell):
        return f"**{cell}**" if any(word in cell for word in ("LOSES", "FAILED", "SHORT", "MISSED")) else cell

    def line(cells):
        return f"| {' | '.join(map(emphasised, cells))} |"

    heading = [f"### {title}", ""] if title else []
    return "\n".join([*heading, line(head), line(rule), *map(line, body)])


def conclusion(rows, labels):
    """The table in a sentence or two."""
    subject, baseline = subject_and_baseline(labels)
    failed = sum(row.errors for row in rows)
    sentences = []
    for cost, resource in (("cpu_us", "CPU"), ("kib_per_connection", "memory")):
        compared = [row for row in rows if row.ratio and row.cost == cost]
        if compared:
            lost = sum(row.ratio.median > 1 for row in compared)
            geometric = statistics.geometric_mean(row.ratio.median for row in compared)
            sentences.append(
                f"{subject} costs more {resource} than {baseline} in {lost} of {len(compared)} rows;"
                f" geometric mean of the ratios {geometric:.2f}."
            )
    if len(peers(labels)) > 1 and (best := [row.best.median for row in rows if row.best]):
        sentences.append(f"{subject} is behind {BEST} in {sum(median > 1 for median in best)} of {len(best)}.")
    if promised := [row for row in rows if row.cost == FAIRNESS]:
        short = [row.workload for row in promised if "SHORT" in row.verdict]
        names = f": {', '.join(short)}" if short else ""
        sentences.append(f"{subject} falls short of what is promised in {len(short)} of {len(promised)} rows{names}.")
    if failed:
        sentences.append(f"{failed} measurements FAILED.")
    return " ".join(sentences)


def description(header):
    versions = ", ".join(
        f"{label} {found['loop']}" + (f" (Python {found['python']})" if "python" in found else "")
        for label, found in header["loops"].items()
    )
    installed = [found["services"].items() for found in header["loops"].values()]
    services = {f"{name} {version}" for items in installed for name, version in items}
    plan, host = header["plan"], header["machine"]
    return [
        f"{header['date']}: {versions}",
        *(f"not measured, as it does not load: {name} ({why})" for name, why in header.get("absent_loops", {}).items()),
        f"services: {', '.join(sorted(services)) or 'not installed'}",
        f"{host['processor']}, {host['cores']} cores, {host['architecture']}, {host['kernel']};"
        f" server on core {header['server_core']}, load on core {header['load_core']}",
        f"{plan['rounds']} rounds of {plan['window']:g} s (micro {plan['micro']:g} s);"
        " µs of CPU per operation or KiB of memory per connection, median over the rounds ± half the range",
        *([f"system calls were not counted: {obstacle}"] if (obstacle := header.get("system_calls_obstacle")) else []),
    ]


def noise(measurements):
    shares = [m["foreign_share"] for m in measurements if "foreign_share" in m]
    disturbed = sum(share > DISTURBED for share in shares)
    return (
        f"{disturbed} of {len(shares)} measurements were disturbed:"
        f" others used more than {DISTURBED:.0%} of one of its cores meanwhile."
    )


def failures(measurements):
    """What has no number, and why."""
    texts = []
    for m in measurements:
        where = f"{m['workload']} on {m['loop']}"
        if "error" in m:
            texts.append(f"{where}: {m['error']}")
        if "system_calls_error" in m:
            texts.append(f"{where}, counting system calls: {m['system_calls_error']}")
    return list(dict.fromkeys(texts))


def markdown(header, rows, labels, measurements, inserted=()):
    """`inserted` comes between the summaries and the other tables."""
    parts = [
        "\n".join(f"- {line}" for line in description(header)),
        f"{conclusion(rows, labels)} {noise(measurements)}".strip(),
        *(as_markdown(*table) for table in summaries(rows, labels)),
        *inserted,
        *(as_markdown(*table) for table in tables(rows, labels)),
        "\n".join(f"- FAILED {failure}" for failure in failures(measurements)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
