"""What a browser makes of the page: on a phone and on a desk, light and dark."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from http_report import LOOPS, METRICS, page
from made_up import MEASUREMENTS
from PIL import Image

COMPARE = Path(__file__).resolve().parents[2] / "examples" / "http_compare.py"

WIDTHS = [400, 1200]  # a phone, and a desk
SCHEMES = ["light", "dark"]
# --paper, --velodrome and --asyncio of the page's style.
COLOURS = {
    "light": [(0xFF, 0xFF, 0xFF), (0x0A, 0x62, 0xC4), (0xB3, 0x4A, 0x00)],
    "dark": [(0x14, 0x18, 0x1D), (0x6C, 0xB4, 0xFF), (0xF2, 0xA2, 0x5C)],
}
READABLE_CONTRAST = 4.5  # WCAG's for text
SMALLEST_TEXT = 9.5  # pixels

FACTS = {"Processor": "An/unbreakable/name" * 9, "Python": "CPython 3.14.0", "Date": "2026-01-02"}

EXPRESSIONS = {
    "width": "document.documentElement.scrollWidth",
    "height": "document.documentElement.scrollHeight",
    "curves": """[...document.querySelectorAll("svg path.curve")].map(path => {
        const box = path.getBBox(), stroke = getComputedStyle(path).stroke;
        return {length: path.getTotalLength(), width: box.width, height: box.height, stroke};
    })""",
    # Pairs of texts in the drawing that lie on each other, and texts that leave it.
    "crowded": """(() => {
        const edge = document.querySelector("svg")?.getBoundingClientRect();
        const texts = [...document.querySelectorAll("svg text")].map(
            text => [text.textContent, text.getBoundingClientRect()]);
        const on = (a, b) => a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom;
        return texts.flatMap(([name, box], place) => [
            ...texts.slice(place + 1).filter(([, other]) => on(box, other)).map(([other]) => [name, other]),
            ...(box.left < edge.left || box.right > edge.right || box.bottom > edge.bottom ? [[name]] : []),
        ]);
    })()""",
    "smallest_text": """Math.min(...[...document.querySelectorAll("p, td, th, dt, dd, caption, svg text")].map(
        text => parseFloat(getComputedStyle(text).fontSize) * (text.getScreenCTM?.().a ?? 1)))""",
    "bars": """[...document.querySelectorAll(".bar")].map(bar => bar.getBoundingClientRect().width)""",
    "colours": """[...document.querySelectorAll("p, td, th, dt, dd, caption, figcaption, svg text")].map(text => {
        const style = getComputedStyle(text);
        return text instanceof SVGElement ? style.fill : style.color;
    })""",
    "paper": "getComputedStyle(document.body).backgroundColor",
    # What is cut off, but for tables, which scroll.
    "cut": """[...document.querySelectorAll("body *")].filter(element => !element.closest(".scroll, svg")
        && element.getBoundingClientRect().right > innerWidth + 0.5).map(element => element.outerHTML)""",
}


def rgb(text):
    return [int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(",")]


def luminance(colour):
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def colours_of(screenshot):
    """{colour: how many pixels}"""
    picture = Image.open(io.BytesIO(screenshot)).convert("RGB")
    return {colour: count for count, colour in picture.getcolors(picture.width * picture.height)}


@pytest.fixture
def look(browser, tmp_path):
    """Writes a page to a file and looks at that; returns the Look and the file's address."""

    def look(text, width=WIDTHS[0], scheme="light", expressions=EXPRESSIONS):
        file = tmp_path / "report.html"
        file.write_text(text, encoding="utf-8")
        phone = width == WIDTHS[0]
        return browser.look(file.as_uri(), width, phone, scheme == "dark", expressions), file.as_uri()

    return look


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_is_readable_and_asks_for_nothing(look, measurements, width):
    seen, address = look(page(measurements, FACTS, ["By hand."]), width)
    assert seen.complaints == []
    assert seen.requests == [address]
    assert seen.values["width"] == width
    assert seen.values["cut"] == []
    assert seen.values["crowded"] == []
    assert seen.values["smallest_text"] >= SMALLEST_TEXT


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_both_loops_are_painted_and_text_stands_out(look, width, scheme):
    seen, _ = look(page(MEASUREMENTS["velodrome ahead"], FACTS, []), width, scheme)
    picture = Image.open(io.BytesIO(seen.screenshot))
    assert picture.size == (width, seen.values["height"])
    painted = colours_of(seen.screenshot)
    assert len(painted) > 100  # edges of letters and curves
    paper, *loops = COLOURS[scheme]
    assert painted[paper] > picture.width * picture.height / 2
    assert min(painted.get(loop, 0) for loop in loops) > 1000
    assert tuple(rgb(seen.values["paper"])) == paper
    assert min(contrast(rgb(colour), paper) for colour in seen.values["colours"]) >= READABLE_CONTRAST


@pytest.mark.parametrize("name, expected", [("velodrome ahead", 6), ("equal, and one round", 2), ("nothing of one", 1)])
def test_there_is_a_curve_for_each_measurement_and_for_all_of_a_loop(look, name, expected):
    seen, _ = look(page(MEASUREMENTS[name], FACTS, []))
    curves = seen.values["curves"]
    assert len(curves) == expected
    assert min(curve["width"] for curve in curves) > 200
    assert min(curve["height"] for curve in curves) > 50
    assert len({curve["stroke"] for curve in curves}) == min(expected, 2)


def test_bars_are_as_long_as_the_numbers(look):
    seen, _ = look(page(MEASUREMENTS["asyncio ahead"], FACTS, []), WIDTHS[1])
    rate_of_velodrome, rate_of_asyncio, cost_of_velodrome, cost_of_asyncio = seen.values["bars"]
    assert rate_of_velodrome / rate_of_asyncio == pytest.approx(2900 / 6100, abs=0.01)
    cpu, other_cpu = 1500 * 120 + 1400 * 125, 3000 * 50 + 3100 * 49
    assert cost_of_asyncio / cost_of_velodrome == pytest.approx((other_cpu / 6100) / (cpu / 2900), abs=0.01)


def test_a_measured_page_has_the_numbers_of_the_terminal(look, tmp_path):
    file = tmp_path / "folder" / "measured.html"
    command = [sys.executable, COMPARE, "--seconds", "1", "--rounds", "1", "--report", file]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    rows = """[...document.querySelectorAll("tbody tr")].map(row => [...row.cells].map(cell => cell.textContent))"""
    text = file.read_text(encoding="utf-8")
    seen, address = look(text, expressions=EXPRESSIONS | {"rows": rows, "text": "document.body.textContent"})
    assert (seen.complaints, seen.requests, seen.values["width"]) == ([], [address], WIDTHS[0])
    assert len(seen.values["curves"]) == len(LOOPS)
    for title, *numbers in seen.values["rows"][:2]:
        (line,) = (line for line in printed.splitlines() if line.startswith(title))
        assert line.split()[-2:] == numbers[:2]
    assert [row[0] for row in seen.values["rows"][: len(METRICS)]] == [metric.title for metric in METRICS]
    assert not any("–" in cell for row in seen.values["rows"] for cell in row)
    (sentence,) = (line for line in printed.splitlines() if line.startswith("On this machine, "))
    assert sentence.partition(" (")[0] in seen.values["text"]


BROKEN = """<!doctype html><html><body style="margin: 0">
<div style="width: 1500px">wide</div><img src="missing.png"><svg><text y="20">one</text><text y="20">two</text></svg>
<script>console.error("said"); thrown()</script></body></html>"""


def test_what_is_wrong_with_a_page_is_seen(look):
    seen, address = look(BROKEN, WIDTHS[1])
    assert seen.requests == [address, address.replace("report.html", "missing.png")]
    assert "said" in seen.complaints
    assert len(seen.complaints) == 3  # and of the exception, and of the picture
    assert seen.values["width"] == 1500
    assert len(seen.values["cut"]) == 1
    assert seen.values["crowded"] == [["one", "two"]]


def test_an_empty_page_is_seen_to_be_blank(look):
    seen, _ = look("<!doctype html><html><body></body></html>", expressions={})
    assert len(colours_of(seen.screenshot)) == 1
