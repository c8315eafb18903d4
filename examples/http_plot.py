"""Draws latencies as inline SVG for http_report.py: which share of the requests took how long.

Both axes are logarithmic. The one of the shares is so towards 100 %, where requests are few and long.
"""

import math
from xml.etree import ElementTree

WIDTH, HEIGHT = 480, 330  # units of the drawing, which is as wide as its page allows
LEFT, RIGHT, TOP, BOTTOM = 56, 450, 52, 282  # where the axes are
LABEL_DROP = 4  # from the middle of a digit to the line that it stands on

STEPS = 240  # points of a curve
SHORTEST_SECONDS = 1e-6  # what is shorter is drawn here: a logarithm has no zero
MOST_DECADES_WITH_STEPS = 3
SHARES = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]


def element(tag, *content, **attributes):
    """An element with text and elements in it; ElementTree escapes what is in it when it is written."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    made = ElementTree.Element(tag, {names[name]: str(value) for name, value in attributes.items()})
    for part in content:
        if not isinstance(part, str):
            made.append(part)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + part
        else:
            made.text = (made.text or "") + part
    return made


def quantile(ordered, share):
    """The shortest of these times that this share of them does not exceed; None if there are none."""
    rank = math.ceil(round(share * len(ordered), 6))  # rounded: 0.07 * 100 is more than 7
    return ordered[max(rank, 1) - 1] if ordered else None


def latency_plot(curves, description):
    """The drawing of {name: [ordered seconds of each measurement, and of all together last]}."""
    curves = {name: [times for times in many if times] for name, many in curves.items()}
    every = [times for many in curves.values() for times in many]
    bottom, top = time_range(every)
    farthest = max([1.0, *map(end_of, every)])

    def x(nines):
        return LEFT + (RIGHT - LEFT) * nines / farthest

    def y(seconds):
        return BOTTOM - (BOTTOM - TOP) * math.log(max(seconds, bottom) / bottom) / math.log(top / bottom)

    parts = [element("title", "Latency of requests", id="plot-title"), element("desc", description, id="plot-desc")]
    for seconds in time_ticks(bottom, top):
        parts.append(line("grid", LEFT, y(seconds), RIGHT, y(seconds)))
        parts.append(text(LEFT - 6, y(seconds) + LABEL_DROP, f"{seconds * 1e3:g}", "end"))
    for share in SHARES:
        if (nines := -math.log10(1 - share)) <= farthest:
            parts.append(line("grid", x(nines), TOP, x(nines), BOTTOM))
            parts.append(text(x(nines), BOTTOM + 17, f"{share * 100:.6g} %", "middle"))
    parts.append(text(LEFT, TOP - 10, "ms from request to answer", "start"))
    parts.append(text((LEFT + RIGHT) / 2, HEIGHT - 10, "share of requests answered within that time", "middle"))

    for place, (name, many) in enumerate(curves.items()):
        parts.append(line(f"curve {name}", LEFT + 120 * place, 14, LEFT + 120 * place + 26, 14))
        parts.append(text(LEFT + 120 * place + 32, 18, name, "start"))
        for times in many:
            kind = "all" if times is many[-1] else "one"
            points = [f"{x(nines):.2f},{y(seconds):.2f}" for nines, seconds in curve(times)]
            parts.append(element("path", class_=f"curve {kind} {name}", d="M" + " L".join(points)))
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_labelledby="plot-title plot-desc")


def curve(times):
    """Points (-log10(1 - share), seconds) of a curve, up to where its longest time is."""
    steps = (end_of(times) * step / STEPS for step in range(STEPS + 1))
    return [(nines, quantile(times, 1 - 10**-nines)) for nines in steps]


def end_of(times):
    return math.log10(len(times) + 1)


def time_range(every):
    """Round numbers of seconds around all times, never the same one twice."""
    shortest = max(min((times[0] for times in every), default=1e-3), SHORTEST_SECONDS)
    longest = max(max((times[-1] for times in every), default=1e-2), shortest)
    decades = range(math.floor(math.log10(shortest)) - 1, math.ceil(math.log10(longest)) + 2)
    steps = round_numbers(decades)
    return max(s for s in steps if s <= shortest), min(s for s in steps if s > longest)


def time_ticks(bottom, top):
    decades = range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)
    digits = (1, 2, 5) if top / bottom <= 10**MOST_DECADES_WITH_STEPS else (1,)
    return [s for s in round_numbers(decades, digits) if bottom <= s <= top]


def round_numbers(decades, digits=(1, 2, 5)):
    return [float(f"{digit}e{decade}") for decade in decades for digit in digits]


def line(kind, x1, y1, x2, y2):
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", class_=kind, **{name: f"{value:.2f}" for name, value in ends.items()})


def text(x, y, content, anchor):
    return element("text", content, x=f"{x:.2f}", y=f"{y:.2f}", text_anchor=anchor)
