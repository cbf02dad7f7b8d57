"""The kit of charts: numbers in words, and the forest of values with their intervals."""

import pytest

from personavec.report import charts
from personavec.results import Estimate


def test_a_forest_draws_every_value_with_its_interval() -> None:
    """Labels from top to bottom; a missing value has no marker."""
    rows = [
        charts.Bar(label, series, Estimate(value, value - 1, value + 2))
        for label, series, value in (("a", "x", 1.0), ("a", "y", 2.0), ("b", "x", 3.0))
    ] + [charts.Bar("b", "y", Estimate())]
    figure = charts.forest(rows, "score", reference=0).to_dict()
    x, y = figure["data"]
    assert (x["x"], y["x"]) == ([1.0, 3.0], [2.0])
    assert x["y"][0] < y["y"][0] < x["y"][1]
    assert (x["error_x"]["array"], x["error_x"]["arrayminus"]) == ([2.0, 2.0], [1.0, 1.0])
    top, bottom = figure["layout"]["yaxis"]["range"]
    assert top > bottom
    assert [a["text"] for a in figure["layout"]["annotations"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "text"), [(1.5, "+1.5"), (-2.0, "−2"), (0.0, "0"), (-0.001, "0"), (30.0, "+30")]
)
def test_signed_numbers(value: float, text: str) -> None:
    assert charts.signed(value) == text


def test_an_interval_that_is_missing_has_no_bar_no_band_and_no_words() -> None:
    found = [Estimate(1.0, 0.5, 2.0), Estimate(2.0), Estimate()]
    bars = charts.error_bars(found)
    assert (bars["array"], bars["arrayminus"]) == ([1.0, None, None], [0.5, None, None])
    assert [charts.interval(each) for each in found] == [" [0.50, 2.00]", "", ""]
    figure = charts.blank("x", "y", 200)
    charts.add_band(figure, [0.0, 1.0, 2.0], found, charts.BLUE)
    charts.add_band(figure, [1.0], [Estimate(2.0)], charts.BLUE)
    [band] = figure.to_dict()["data"]
    assert (band["x"], band["y"]) == ([0.0, 0.0], [2.0, 0.5])
