"""What http_compare.py has measured: as numbers, in a sentence, and as a page.

The page is one file with no script in it, and asks for nothing that is elsewhere. It says what was measured whoever
is ahead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree

from http_plot import element, latency_plot, quantile

LOOPS = ["velodrome", "asyncio"]
NOTHING = "–"  # where there is no number


@dataclass(frozen=True)
class Measurement:
    """A load on one fresh service."""

    loop: str
    answers: int
    seconds: float
    cpu_seconds: float  # of the service
    latencies: list[float]  # in seconds and in order: from each request to its answer

    @property
    def rate(self):
        return ratio(self.answers, self.seconds)

    @property
    def cost_us(self):
        return ratio(self.cpu_seconds * 1e6, self.answers)

    def latency_ms(self, share):
        found = quantile(self.latencies, share)
        return None if found is None else found * 1e3


@dataclass(frozen=True)
class Metric:
    title: str
    value: Callable  # of a Measurement
    format: str
    higher_is_better: bool = False


def latency_metric(title, share):
    return Metric(title, lambda measurement: measurement.latency_ms(share), ",.3f")


RATE = Metric("requests per second", lambda measurement: measurement.rate, ",.0f", higher_is_better=True)
COST = Metric("server CPU per request, µs", lambda measurement: measurement.cost_us, ",.1f")
LATENCIES = [
    latency_metric("median latency, ms", 0.5),
    latency_metric("90 % answered within, ms", 0.9),
    latency_metric("99 % answered within, ms", 0.99),
    latency_metric("99.9 % answered within, ms", 0.999),
    latency_metric("longest latency, ms", 1.0),
]
METRICS = [RATE, COST, *LATENCIES]


class Comparison:
    """Measurements of both loops: `rounds` has each, `total` all of a loop together."""

    def __init__(self, measurements):
        self.rounds = {name: [one for one in measurements if one.loop == name] for name in LOOPS}
        self.total = {name: together(name, self.rounds[name]) for name in LOOPS}

    def values(self, metric):
        return [metric.value(self.total[name]) for name in LOOPS]

    def ratio(self, metric):
        return ratio(*self.values(metric))

    def winner(self, metric):
        """The loop that is better, "" if none is, or None if it cannot be told."""
        values = self.values(metric)
        if None in values:
            return None
        if values[0] == values[1] or (len(self.rounds[LOOPS[0]]) > 1 and self.rounds_overlap(metric)):
            return ""
        return LOOPS[(values[0] < values[1]) == metric.higher_is_better]

    def rounds_overlap(self, metric):
        found = [[metric.value(one) for one in self.rounds[name]] for name in LOOPS]
        if any(None in values for values in found):
            return True
        return max(map(min, found)) <= min(map(max, found))

    def verdict(self, metric):
        winner = self.winner(metric)
        if winner is None:
            return NOTHING
        return f"{winner} is better" if winner else "no clear difference"

    def sentence(self):
        rates, costs = (shown(self.ratio(metric), ".2f") for metric in (RATE, COST))
        return f"velodrome served {rates} times the requests for {costs} times the CPU each"


def together(name, measurements):
    return Measurement(
        name,
        sum(one.answers for one in measurements),
        sum(one.seconds for one in measurements),
        sum(one.cpu_seconds for one in measurements),
        sorted(latency for one in measurements for latency in one.latencies),
    )


def ratio(a, b):
    return a / b if a is not None and b else None


def shown(value, form):
    return NOTHING if value is None else format(value, form)


# ---- the page ---------------------------------------------------------------------------------

TITLE = "velodrome beside asyncio"

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2127; --soft: #57606a; --rule: #d5dae0;
        --velodrome: #0a62c4; --asyncio: #b34a00; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --ink: #e4e8ec; --soft: #a0a9b3; --rule: #363d45;
          --velodrome: #6cb4ff; --asyncio: #f2a25c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 44rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
       font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .5rem 0; }
.lead { font-size: 1.15rem; }
.soft { color: var(--soft); font-size: .9rem; }
.bars, .facts { display: grid; grid-template-columns: auto 1fr; gap: .3rem .8rem; margin: 0; }
.bars dd { display: flex; align-items: center; gap: .5rem; margin: 0; font-variant-numeric: tabular-nums; }
.bar { height: 1.1rem; min-width: 1px; border-radius: 0 3px 3px 0; }
.bar.velodrome { background: var(--velodrome); }
.bar.asyncio { background: var(--asyncio); }
figure { margin: 0; }
svg { display: block; width: 100%; max-width: 37.5rem; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); }
.grid { stroke: var(--rule); }
.curve { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
.curve.velodrome { stroke: var(--velodrome); }
.curve.asyncio { stroke: var(--asyncio); stroke-dasharray: 7 4; }
.curve.one { stroke-width: 1; opacity: .5; stroke-dasharray: none; }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .9rem; padding-bottom: .3rem; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--rule); }
th:first-child { text-align: left; font-weight: normal; padding-left: 0; }
td:last-child, thead th:last-child { padding-right: 0; }
td.velodrome { color: var(--velodrome); }
td.asyncio { color: var(--asyncio); }
@media (max-width: 30rem) {
  table { font-size: .82rem; }
  th, td { padding: .35rem .3rem; }
}
.facts dt { color: var(--soft); }
.facts dd { margin: 0; min-width: 0; }
"""


def page(measurements, facts, how):
    """The text of the page; `facts` are names and values, `how` are paragraphs: where and how it was measured."""
    comparison = Comparison(measurements)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        element("title", TITLE),
        element("style", STYLE),
    )
    body = element(
        "body",
        element(
            "main",
            element("h1", TITLE),
            element("p", f"On this machine, {comparison.sentence()}.", class_="lead"),
            element("p", count_of_winners(comparison)),
            *bars(comparison, RATE, "Requests per second"),
            *bars(comparison, COST, "Server CPU per request, µs"),
            *latency_section(comparison),
            element("h2", "The numbers"),
            table_of_all(comparison),
            element("p", "Ratio: velodrome’s number divided by asyncio’s. Unclear: see below.", class_="soft"),
            element("h2", "How it was measured"),
            definitions(facts),
            *(element("p", paragraph) for paragraph in how),
            table_of_rounds(comparison),
        ),
    )
    root = element("html", head, body, lang="en")
    ElementTree.indent(root, "")
    return "<!doctype html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"


def count_of_winners(comparison):
    winners = [comparison.winner(metric) for metric in METRICS]
    behind = [metric.title for metric in METRICS if comparison.winner(metric) == "asyncio"]
    ahead = winners.count("velodrome")
    unclear = len(winners) - ahead - len(behind)
    said = f"Of the {len(METRICS)} numbers below, velodrome is better in {ahead}, asyncio in {len(behind)}"
    said += f" ({'; '.join(behind)})" if behind else ""
    return f"{said}, and neither clearly in {unclear}."


def bars(comparison, metric, title):
    values = comparison.values(metric)
    longest = max((value for value in values if value is not None), default=0)
    parts = []
    for name, value in zip(LOOPS, values, strict=True):
        length = f"width: calc((100% - 7rem) * {ratio(value, longest) or 0:.4f})"
        parts.append(element("dt", name))
        parts.append(element("dd", element("span", class_=f"bar {name}", style=length), shown(value, metric.format)))
    better = "More" if metric.higher_is_better else "Less"
    return [
        element("h2", title),
        element("dl", *parts, class_="bars"),
        element("p", f"{better} is better. Here: {comparison.verdict(metric)}.", class_="soft"),
    ]


def latency_section(comparison):
    parts = [element("h2", "How long an answer took")]
    if not any(comparison.total[name].latencies for name in LOOPS):
        return [*parts, element("p", "There was no answer, so there is nothing to draw.")]
    curves, description = {}, []
    legend = "Lower is better. The table below has the same in numbers."
    for name in LOOPS:
        total, rounds = comparison.total[name], comparison.rounds[name]
        curves[name] = [total.latencies]
        if len(rounds) > 1:
            curves[name] = [one.latencies for one in rounds] + curves[name]
            legend = "Thick: all measurements together; thin: each of them. Lower is better; the table has the numbers."
        numbers = (f"{metric.title}: {shown(metric.value(total), metric.format)}" for metric in LATENCIES)
        description.append(f"{name}: {'; '.join(numbers)}.")
    return [
        *parts,
        element(
            "figure",
            latency_plot(curves, " ".join(description)),
            element("figcaption", legend, class_="soft"),
        ),
    ]


def table_of_all(comparison):
    rows = []
    for metric in METRICS:
        values = [shown(value, metric.format) for value in comparison.values(metric)]
        numbers = [*values, shown(comparison.ratio(metric), ".2f")]
        winner = comparison.winner(metric)
        verdict = element("td", winner or ("unclear" if winner == "" else NOTHING), class_=winner or "none")
        rows.append(row(metric.title, *(element("td", number) for number in numbers), verdict))
    return table("Both loops, all measurements together", ["", *LOOPS, "ratio", "better"], rows)


def table_of_rounds(comparison):
    metrics = {"requests/s": RATE, "CPU, µs": COST, "median, ms": LATENCIES[0], "99 %, ms": LATENCIES[2]}
    rows = [
        row(
            f"{name}\u00a0{number}",
            *(element("td", shown(metric.value(one), metric.format)) for metric in metrics.values()),
        )
        for name in LOOPS
        for number, one in enumerate(comparison.rounds[name], 1)
    ]
    return table("Each measurement by itself", ["", *metrics], rows)


def row(title, *cells):
    return element("tr", element("th", title, scope="row"), *cells)


def table(caption, heads, rows):
    """A table that scrolls by itself, also by the keyboard, where the page is too narrow for it."""
    titles = (element("th", head, scope="col") if head else element("td") for head in heads)
    made = element(
        "table", element("caption", caption), element("thead", element("tr", *titles)), element("tbody", *rows)
    )
    return element("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)


def definitions(facts):
    parts = ((element("dt", name), element("dd", value)) for name, value in facts.items())
    return element("dl", *(part for pair in parts for part in pair), class_="facts")
