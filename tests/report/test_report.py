"""What the page of http_compare.py says, whatever was measured."""

import re
from html.parser import HTMLParser

import pytest
from http_plot import BOTTOM, LABEL_DROP, LEFT, RIGHT, STEPS, TOP, latency_plot, quantile
from http_report import COST, LATENCIES, METRICS, NOTHING, RATE, Comparison, Measurement, page
from made_up import MEASUREMENTS, measurement


class Reader(HTMLParser):
    """The rows of all tables, the text outside of <style>, and every element."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.elements, self.text, self.inside = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in ("td", "th"):
            self.rows[-1][-1] += data
        if self.inside != "style":
            self.text += data


def read(measurements, facts=None, how=()):
    return Reader(page(measurements, facts or {}, how))


def rows_of(measurements):
    """Of each metric what is said of it: both numbers, ratio, and who is better."""
    return {row[0]: row[1:] for row in read(measurements).rows if row[0] in [metric.title for metric in METRICS]}


def test_every_number_is_in_the_table():
    ahead = Measurement("velodrome", 4000, 2.0, 0.05, [0.001] * 3600 + [0.002] * 390 + [0.0031234] * 10)
    behind = Measurement("asyncio", 3000, 2.5, 0.3, [0.004] * 2999 + [1.5])
    assert rows_of([ahead, behind]) == {
        "requests per second": ["2,000", "1,200", "1.67", "velodrome"],
        "server CPU per request, µs": ["12.5", "100.0", "0.12", "velodrome"],
        "median latency, ms": ["1.000", "4.000", "0.25", "velodrome"],
        "90 % answered within, ms": ["1.000", "4.000", "0.25", "velodrome"],
        "99 % answered within, ms": ["2.000", "4.000", "0.50", "velodrome"],
        "99.9 % answered within, ms": ["3.123", "4.000", "0.78", "velodrome"],
        "longest latency, ms": ["3.123", "1,500.000", "0.00", "velodrome"],
    }


def test_rounds_are_taken_together_and_shown_each():
    rounds = [
        Measurement("velodrome", 100, 1.0, 0.001, [0.001] * 100),
        Measurement("velodrome", 500, 2.0, 0.002, [0.003] * 500),
        Measurement("asyncio", 90, 1.0, 0.009, [0.009] * 90),
        Measurement("asyncio", 80, 1.0, 0.008, [0.008] * 80),
    ]
    assert rows_of(rounds)["requests per second"][:2] == ["200", "85"]
    assert rows_of(rounds)["server CPU per request, µs"][:2] == ["5.0", "100.0"]
    assert rows_of(rounds)["median latency, ms"][:2] == ["3.000", "9.000"]
    assert read(rounds).rows[-4:] == [
        ["velodrome\u00a01", "100", "10.0", "1.000", "1.000"],
        ["velodrome\u00a02", "250", "4.0", "3.000", "3.000"],
        ["asyncio\u00a01", "90", "100.0", "9.000", "9.000"],
        ["asyncio\u00a02", "80", "100.0", "8.000", "8.000"],
    ]


def test_a_loss_is_called_one():
    seen = read(MEASUREMENTS["asyncio ahead"])
    assert {row[-1] for row in rows_of(MEASUREMENTS["asyncio ahead"]).values()} == {"asyncio"}
    assert "velodrome is better in 0, asyncio in 7 (requests per second; " in seen.text
    assert "velodrome served 0.48 times the requests for 2.47 times the CPU each" in seen.text
    assert "More is better. Here: asyncio is better." in seen.text


def test_equal_numbers_are_no_difference():
    rows = rows_of(MEASUREMENTS["equal, and one round"])
    assert {tuple(row[2:]) for row in rows.values()} == {("1.00", "unclear")}


def test_rounds_that_overlap_are_no_clear_difference():
    rates = [("velodrome", 300), ("asyncio", 200), ("velodrome", 100), ("asyncio", 101)]
    comparison = Comparison([measurement(loop, rate) for loop, rate in rates])
    assert comparison.winner(RATE) == ""
    assert comparison.verdict(RATE) == "no clear difference"


def test_rounds_that_only_just_do_not_overlap_are_a_difference():
    rates = [("velodrome", 300), ("asyncio", 100), ("velodrome", 102), ("asyncio", 101)]
    assert Comparison([measurement(loop, rate) for loop, rate in rates]).winner(RATE) == "velodrome"


def test_what_was_not_measured_has_no_number():
    rows = rows_of(MEASUREMENTS["nothing of one"])
    assert rows.pop(RATE.title) == ["0", "1,000", "0.00", "asyncio"]
    assert {(row[0], *row[2:]) for row in rows.values()} == {(NOTHING, NOTHING, NOTHING)}
    assert "There was no answer" in read(MEASUREMENTS["nothing"]).text


def test_no_division_by_zero():
    nothing = Measurement("velodrome", 0, 0.0, 0.0, [])
    assert [metric.value(nothing) for metric in METRICS] == [None] * len(METRICS)
    free = [Measurement(loop, 10, 1.0, 0.0, [0.0] * 10) for loop in ("velodrome", "asyncio")]
    assert Comparison(free).values(COST) == [0.0, 0.0]
    assert rows_of(free)[COST.title] == ["0.0", "0.0", NOTHING, "unclear"]


def test_where_and_how_it_was_measured_is_said_verbatim(measurements):
    hostile = "<script>alert(1)</script> & \"quotes' </style> \u00e9\u4e2d"
    seen = read(measurements, {"Processor": hostile, hostile: "name"}, [hostile])
    assert seen.text.count(hostile) == 3
    assert "script" not in [tag for tag, _ in seen.elements]


def test_the_page_names_nothing_elsewhere(measurements):
    text = page(measurements, {"Date": "today"}, ["By hand."])
    assert not re.search(r"https?:|url\(|@import", text)
    elements = Reader(text).elements
    assert not {tag for tag, _ in elements} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert not {name for _, attributes in elements for name in attributes} & {"src", "srcset", "href", "data", "onload"}


def test_tables_name_their_rows_and_columns(measurements):
    seen = read(measurements)
    assert {attributes.get("scope") for tag, attributes in seen.elements if tag == "th"} == {"row", "col"}
    assert seen.text.count("Both loops, all measurements together") == 1


def test_the_plot_is_named_and_described_with_the_numbers():
    measurements = MEASUREMENTS["velodrome ahead"]
    seen = read(measurements)
    (svg,) = (attributes for tag, attributes in seen.elements if tag == "svg")
    named = {attributes.get("id") for tag, attributes in seen.elements if tag in ("title", "desc")}
    assert svg["role"] == "img" and set(svg["aria-labelledby"].split()) <= named
    for metric in LATENCIES:
        for value in Comparison(measurements).values(metric):
            assert f"{metric.title}: {format(value, metric.format)}" in seen.text


@pytest.mark.parametrize(
    "share, expected", [(0, 1), (0.07, 7), (0.5, 50), (0.501, 51), (0.99, 99), (0.999, 100), (1, 100)]
)
def test_quantile_is_the_shortest_time_that_the_share_does_not_exceed(share, expected):
    assert quantile(list(range(1, 101)), share) == expected


def paths(drawing):
    return [
        [tuple(map(float, point.split(","))) for point in path.get("d")[1:].split(" L")]
        for path in drawing.iter("path")
    ]


def test_every_curve_stays_between_the_axes(measurements):
    curves = {name: [one.latencies for one in rounds] for name, rounds in Comparison(measurements).rounds.items()}
    drawn = paths(latency_plot(curves, ""))
    assert len(drawn) == sum(bool(times) for many in curves.values() for times in many)
    for points in drawn:
        assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in points)
        assert points == sorted(points, key=lambda point: (point[0], -point[1]))


def test_a_curve_is_where_the_axes_say():
    drawing = latency_plot({"velodrome": [[0.001] * 900 + [0.01] * 90 + [0.1] * 10]}, "")
    labels = {label.text: label for label in drawing.iter("text")}
    (points,) = paths(drawing)
    step = (RIGHT - LEFT) / STEPS
    for milliseconds, last in (
        ("1", float(labels["90 %"].get("x"))),
        ("10", float(labels["99 %"].get("x"))),
        ("100", RIGHT),
    ):
        height = float(labels[milliseconds].get("y")) - LABEL_DROP
        assert max(x for x, y in points if abs(y - height) < 0.01) == pytest.approx(last, abs=step)
