"""The kit of charts: numbers in words, values with their intervals, and how they are drawn."""

import re
from xml.etree import ElementTree

import pytest

from personavec.report import charts, svg
from personavec.report.charts import Area, Axis, Chart, Label, Point, Rule, Series, Style
from personavec.results import Estimate

ROWS = [
    charts.Bar(label, series, Estimate(value, value - 1, value + 2))
    for label, series, value in (("a", "x", 1.0), ("a", "y", -2.0), ("b", "x", 3.0))
] + [charts.Bar("b", "y", Estimate())]


def test_a_forest_draws_every_value_with_its_interval() -> None:
    """Labels from top to bottom; a missing value has no marker."""
    chart = charts.forest(ROWS, "score", reference=0, by_side=True)
    x, y = (mark for mark in chart.marks if isinstance(mark, Series))
    assert [[(p.x, p.low, p.high) for p in each.points] for each in (x, y)] == [
        [(1.0, 0.0, 3.0), (3.0, 2.0, 5.0)],
        [(-2.0, -3.0, 0.0)],
    ]
    assert [p.colour for p in (*x.points, *y.points)] == [charts.TOWARD] * 2 + [charts.AWAY]
    assert x.points[0].y < y.points[0].y < x.points[1].y
    assert chart.y.span is not None
    assert chart.y.span[0] > chart.y.span[1]
    assert [mark.text for mark in chart.marks if isinstance(mark, Label)] == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "text"), [(1.5, "+1.5"), (-2.0, "−2"), (0.0, "0"), (-0.001, "0"), (30.0, "+30")]
)
def test_signed_numbers(value: float, text: str) -> None:
    assert charts.signed(value) == text


def test_an_interval_that_is_missing_has_no_bounds_and_no_words() -> None:
    found = [Estimate(1.0, 0.5, 2.0), Estimate(2.0), Estimate()]
    points = charts.points([0.0, 1.0, 2.0], found)
    assert [(p.x, p.y, p.low, p.high) for p in points] == [(0, 1, 0.5, 2), (1, 2, None, None)]
    assert [point.said for point in points] == ["1.00 [0.50, 2.00]", "2.00"]
    assert [charts.interval(each) for each in found] == [" [0.50, 2.00]", "", ""]


def drawn(*marks: charts.Mark, width: int = 400) -> ElementTree.Element:
    chart = Chart(x=Axis(title="x", span=(0, 10)), y=Axis(span=(0, 1)), height=200, marks=marks)
    return ElementTree.fromstring(svg.draw(chart, "A & <b>", width, "wide"))


def test_points_are_drawn_where_they_lie() -> None:
    """The further along, the further right; the higher, the nearer to the top."""
    points = tuple(Point(x=x, y=y) for x, y in ((0, 0), (5, 0.5), (10, 1)))
    picture = drawn(Series(name="s", points=points, style=Style("#123456")))
    circles = [c for c in picture.iter("circle") if c.get("cy") != "10.0"]
    places = [(float(c.get("cx") or 0), float(c.get("cy") or 0)) for c in circles]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert 0 < x0 < x2 < 400
    assert y0 > y2 > 0


def test_what_a_picture_says_is_text() -> None:
    point = Point(x=1, y=1, said="<script>alert(1)</script>")
    series = Series(name="<img src=x>", points=(point,), style=Style("#123456"))
    picture = drawn(series, Label(y=0.5, text="R&D <i>"))
    assert picture.get("aria-label") == "A & <b>"
    assert {element.tag for element in picture.iter()} <= {
        *("svg", "g", "path", "circle", "text", "title"),
    }
    texts = "".join(picture.itertext())
    for said in ("<script>alert(1)</script>", "<img src=x>", "R&D <i>"):
        assert said in texts


@pytest.mark.parametrize("width", [340, 680])
def test_a_legend_stays_within_its_picture(width: int) -> None:
    """A narrow picture has more lines of it, and is the higher for it."""
    rules = [Rule(at=0.5, name=f"a rule of the name {i}") for i in range(6)]
    picture = drawn(*rules, Area(low=2, high=3, upright=True, name="range"), width=width)
    named = [each for each in picture.iter("text") if each.get("class") == "name"]
    assert len(named) == 7
    assert all(float(t.get("x") or 0) + 6.6 * len(t.text or "") <= width for t in named)
    height = float((picture.get("viewBox") or "").split()[-1])
    assert height == 200 + 20 * len({each.get("y") for each in named})


def test_axes_have_round_numbers_within_their_ends() -> None:
    marks = [text.text for text in drawn().iter("text") if text.get("class") == "tick"]
    assert marks[:3] == ["0", "2", "4"]
    assert marks[-1] == "1.0"
    assert not re.search(r"\d{4}", " ".join(map(str, marks)))
