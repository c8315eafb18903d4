"""Plots of a run, as SVG. Needs requirements-plots.txt, unlike everything else here."""

import re

import loops
import matplotlib
import report
from matplotlib.figure import Figure

# The same plot is the same file: ids that do not differ each time, no date, and text that stays text.
matplotlib.rcParams.update({"svg.hashsalt": "velodrome", "svg.fonttype": "none", "font.size": 9})
METADATA = {"Date": None, "Creator": None}

PALETTE = [*matplotlib.colormaps["tab10"].colors, *matplotlib.colormaps["Dark2"].colors]
COLOURS = dict(zip([*loops.NAMES, *loops.PEERS, *loops.VARIANTS], PALETTE, strict=False))

# Floors are no loops, and look different.
MARKERS = dict(zip(loops.FLOORS, "x+1", strict=True))
COLOURS.update(dict.fromkeys(loops.FLOORS, (0.0, 0.0, 0.0)))

WIDTH = 9  # inches


def draw(run, folder):
    """Draw what the run has data for; return the captions and the names of the files."""
    drawn = []
    for name, (caption, plot) in PLOTS.items():
        if figure := plot(run.rows, run.labels):
            file = f"{run.name}-{name}.svg"
            figure.savefig(folder / file, metadata=METADATA, bbox_inches="tight")
            drawn.append((caption, file))
    return drawn


# ---- rows -------------------------------------------------------------------------------------


def ratios(rows, labels):
    """A bar for the subject, with its range over the rounds, and a dot for each other loop."""
    subject, baseline = report.subject_and_baseline(labels)
    rows = [row for row in rows if row.ratio and row.cost != report.FAIRNESS and not point(row)]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 0.2 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [row.ratio.median - 1 for row in rows], left=1, color=colour(subject), label=subject)
    axes.hlines(places, [row.ratio.low for row in rows], [row.ratio.high for row in rows], color="black", lw=0.8)
    for label in labels:
        places, spreads = placed([report.ratio(row.measurements, row.cost, label, baseline) for row in rows])
        if places and label != subject:
            style = {"color": colour(label), "marker": marker(label)}
            axes.scatter([s.median for s in spreads], places, zorder=3, s=16, label=label, **style)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"cost / {baseline}'s cost; below 1 is cheaper\nred: another loop is cheaper than {subject}")
    name_rows(axes, rows)
    for name, row in zip(axes.get_yticklabels(), rows, strict=True):
        if report.is_behind(row):
            name.set(color="tab:red", weight="bold")
    explain(figure)
    return figure


def memory(rows, labels):
    rows = [row for row in rows if row.cost == "kib_per_connection" and any(row.spent.values())]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 0.25 * len(labels) + 1), layout="constrained")
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False).flat, rows, strict=True):
        medians = {label: row.spent[label].median for label in labels if row.spent.get(label)}
        bars = axes.barh(list(medians), list(medians.values()), color=[colour(label) for label in medians])
        axes.bar_label(bars, map(report.significant, medians.values()), padding=2)
        axes.margins(x=0.2)
        axes.invert_yaxis()
        axes.set_title(row.workload)
        axes.set_xlabel("KiB/connection")
    return figure


def latency(rows, labels):
    """A line from the median to the 99th percentile; of the usual loops, or a row would be an inch high."""
    labels = [label for label in labels if label.partition("#")[0] in loops.NAMES] or labels
    rows = [row for row in rows if row.cost == "cpu_us" and any(row.latency_p99_us.values()) and not point(row)]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, (0.1 * len(labels) + 0.1) * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    for label in labels:
        places, spreads = placed([row.latency_p99_us.get(label) for row in rows], label, labels)
        if not places:
            continue
        p50 = [row.latency_p50_us[label].median for row in rows if row.latency_p99_us.get(label)]
        p99 = [spread.median for spread in spreads]
        axes.hlines(places, p50, p99, color=colour(label), lw=1)
        axes.scatter(p50, places, s=14, color=colour(label), label=label)
        axes.scatter(p99, places, s=20, color=colour(label), marker="|")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("µs from request to answer: median (dot) to 99th percentile (bar)")
    name_rows(axes, rows)
    explain(figure)
    return figure


# ---- scaling ----------------------------------------------------------------------------------

PROCESSES = ("http-processes", "uvicorn-processes")

# What the number at the end of a row's name counts.
SIZES = {
    "tcp": "connections",
    "timers-cancel": "timers that wait",
    "timers-fire": "timers that wait",
    "tasks": "tasks",
    **dict.fromkeys(PROCESSES, "processes"),
}


def point(row):
    """The curve that a row is a point of, and where on it; None for other rows."""
    found = re.fullmatch(r"scaling-(.*)-(\d+)", row.workload)
    return (found[1], int(found[2])) if found else None


def curves(rows, labels):
    points = [(row, *found) for row in rows if (found := point(row)) and found[0] not in PROCESSES]
    return panels(points, labels, {"cpu_us": "CPU µs/op"})


def processes(rows, labels):
    points = [(row, *found) for row in rows if (found := point(row)) and found[0] in PROCESSES]
    return panels(points, labels, {"operations_per_second": "requests/s", "cpu_us": "CPU µs/request"})


def draw_lines(axes, found):
    """A line for each loop, and its range over the rounds."""
    for label, spreads in found.items():
        low, high = [s.low for s in spreads.values()], [s.high for s in spreads.values()]
        axes.fill_between(list(spreads), low, high, color=colour(label), alpha=0.2, lw=0)
        medians = [s.median for s in spreads.values()]
        axes.plot(list(spreads), medians, marker="o", ms=3, lw=1, color=colour(label), label=label)
    axes.set_xscale("log")


def draw_bars(axes, found):
    """The same where sizes are too few for a line."""
    labels = list(found)
    sizes = sorted({size for spreads in found.values() for size in spreads})
    for label, spreads in found.items():
        places, spreads = placed([spreads.get(size) for size in sizes], label, labels)
        axes.bar(places, [s.median for s in spreads], 0.8 / len(labels), color=colour(label), label=label)
        axes.vlines(places, [s.low for s in spreads], [s.high for s in spreads], color="black", lw=0.8)
    axes.set_xticks(range(len(sizes)), map(str, sizes))


def panels(points, labels, fields):
    """A panel for each curve and field."""
    found = {}
    for row, curve, size in points:
        for field in fields:
            found.setdefault((curve, field), {})[size] = row
    if not found:
        return None
    lines = (len(found) + 1) // 2
    figure = Figure(figsize=(WIDTH, 2.7 * lines + 0.5), layout="constrained")
    grid = list(figure.subplots(lines, 2, squeeze=False).flat)
    for axes, ((curve, field), rows) in zip(grid, found.items(), strict=False):
        draw_some = draw_bars if curve in PROCESSES else draw_lines
        draw_some(axes, {label: points for label in labels if (points := measured_at(rows, field, label))})
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(axis="y", lw=0.3)
        axes.set_axisbelow(True)
        axes.set_title(curve)
        axes.set_xlabel(SIZES.get(curve))
        axes.set_ylabel(fields[field])
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    explain(figure)
    return figure


def measured_at(rows, field, label):
    """Size -> Spread, where one loop has the field."""
    spreads = {size: report.spread(row.measurements, field, label) for size, row in rows.items()}
    return {size: spread for size, spread in spreads.items() if spread}


# ---- fairness ---------------------------------------------------------------------------------


def fairness(rows, labels):
    rows = [row for row in rows if row.cost == report.FAIRNESS]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, (0.12 * len(labels) + 0.15) * len(rows) + 1.2), layout="constrained")
    *shares, lateness = figure.subplots(1, 1 + len(report.RATES), sharey=True)
    height = 0.8 / len(labels)
    for label in labels:
        for axes, field in zip(shares, report.RATES, strict=True):
            found = [report.ratio(row.measurements, field, label, "asyncio") for row in rows]
            places, spreads = placed(found, label, labels)
            axes.barh(places, [s.median for s in spreads], height, color=colour(label))
        places, spreads = placed([row.spent.get(label) for row in rows], label, labels)
        lateness.scatter([s.median for s in spreads], places, s=16, color=colour(label), label=label)
        found = [report.spread(row.measurements, "turn_p99_us", label) for row in rows]
        places, spreads = placed(found, label, labels)
        ends = [place - height / 2 for place in places], [place + height / 2 for place in places]
        lateness.vlines([s.median for s in spreads], *ends, color="black")
    for axes, whose in zip(shares, report.RATES.values(), strict=True):
        axes.axvline(report.FAIR_SHARE, color="black", lw=0.8, ls=":")
        axes.set_xlabel(f"{whose} rate / asyncio's")
    lateness.set_xscale("log")
    lateness.xaxis.set_major_formatter("{x:,g}")
    lateness.set_xlabel("µs a timer is late, 99th percentile\n(line: the same of a turn)")
    name_rows(figure.axes[0], rows)
    explain(figure)
    return figure


# ---- what they share --------------------------------------------------------------------------


def placed(spreads, label=None, labels=(None,)):
    """The places of those rows that have a spread, and the spreads; those of several labels lie beside each other."""
    offset = (labels.index(label) - (len(labels) - 1) / 2) * 0.8 / len(labels)
    places = [place + offset for place, spread in enumerate(spreads) if spread]
    return places, [spread for spread in spreads if spread]


def marker(label):
    return MARKERS.get(label.partition("#")[0], "o")


def colour(label):
    """A loop's own; paler where it is measured once more."""
    return (*COLOURS[label.partition("#")[0]], 0.5 if "#" in label else 1)


def name_rows(axes, rows):
    axes.set_yticks(range(len(rows)), [row.workload for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for panel in axes.figure.axes:
        panel.grid(axis="x", lw=0.3)
        panel.set_axisbelow(True)


def explain(figure):
    """One legend for all panels."""
    found = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found.update(zip(labels, handles, strict=True))
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=6)


PLOTS = {
    "ratios": ("Cost of each row, relative", ratios),
    "memory": ("Memory per idle connection", memory),
    "latency": ("Latency, median and 99th percentile", latency),
    "curves": ("CPU per operation at each size", curves),
    "processes": ("HTTP requests with one process per core", processes),
    "fairness": ("What is left for an echo connection and a timer", fairness),
}
