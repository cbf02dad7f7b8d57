"""Figures for a paper: what is written of a table, and what is drawn of it."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from personavec.report.drawing import Plane, curves, field_of_colour, forest, histogram
from personavec.report.plots import DOUBLE, SINGLE, Plot, Row, estimate_cells, file_name, save
from personavec.results import Estimate

FOUND = [Estimate(1.0, 0.5, 2.0), Estimate(2.0, 1.5, 2.5), Estimate(), Estimate(3.0)]


def rows(kind: str = "curve") -> list[Row]:
    return [
        {"kind": kind, "series": "s", "label": f"l{i}", "x": i, **estimate_cells(found)}
        for i, found in enumerate(FOUND)
    ]


def intervals(figure: Figure, axis: int) -> list[tuple[float, float]]:
    """Both ends of every error bar along an axis."""
    [bars] = [each for each in figure.axes[0].containers if hasattr(each, "has_yerr")]
    segments = [s for lines in bars[2] for s in lines.get_segments()]
    return [(float(np.min(s[:, axis])), float(np.max(s[:, axis]))) for s in segments]


def test_every_interval_is_drawn_and_nothing_that_is_missing() -> None:
    """A value without an interval has a bar of no length; none has a title."""
    plane = Plane("x", "value", "x", "y")
    for figure, axis in ((curves(rows(), SINGLE, plane), 1), (forest(rows(), SINGLE, "x"), 0)):
        assert intervals(figure, axis) == [(0.5, 2.0), (1.5, 2.5), (3.0, 3.0)]
        assert not figure.axes[0].get_title()
        assert not figure.get_suptitle()


def test_tables_are_written_in_full_and_files_named_after_the_figure(tmp_path: Path) -> None:
    """Two figures of one name get a number each, one without data is left out."""
    drawn = partial(forest, x_title="x")
    written = save(
        [Plot("a", rows(), drawn), Plot("a", rows(), drawn), Plot("b", [], drawn)], tmp_path
    )
    stems = ("a", "a-2")
    endings = (".csv", ".svg", ".png", "-double.svg", "-double.png")
    assert {path.name for path in written} == {stem + end for stem in stems for end in endings}
    with (tmp_path / "a.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["value"], row["low"], row["high"]) for row in read] == [
        ("1.0", "0.5", "2.0"), ("2.0", "1.5", "2.5"), ("", "", ""), ("3.0", "", "")
    ]  # fmt: skip


def test_names_of_traits_and_columns_make_names_of_files() -> None:
    assert file_name("groups", "../a b", "é") == "groups----a-b-é"


def test_a_field_has_a_cell_for_every_value_with_its_interval() -> None:
    cells: list[Row] = [
        {"row": r, "column": c, **estimate_cells(found)}
        for (r, c), found in zip(
            [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")], FOUND, strict=True
        )
    ]
    texts = [text.get_text() for text in field_of_colour(cells, DOUBLE).axes[0].texts]
    assert texts == ["+1", "+0.5 … +2", "+2", "+1.5 … +2.5", "+3"]


def test_bars_hold_the_counts() -> None:
    bins: Sequence[Row] = [
        {"kind": "bin", "series": "s", "from": i, "to": i + 1, "n": count}
        for i, count in enumerate((3, 0, 5))
    ]
    axes = histogram(bins, SINGLE, "n", ("x", "n"), {}).axes[0]
    values, edges, _ = axes.patches[0].get_data()  # type: ignore[attr-defined]
    assert (list(values), list(edges)) == ([3, 0, 5], [0, 1, 2, 3])
