"""Figures of stages: their data always, their drawings where matplotlib is there."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import pytest

from personavec.report.drawing import Plane
from personavec.report.plots import Plot, estimate_cells
from personavec.results import Estimate
from personavec.studies.replicate import figures
from personavec.studies.replicate.plots import StudyPlot, persistence, study_plots
from personavec.studies.replicate.points import scatter
from personavec.studies.replicate.stages.persistence import Lagged, PersistenceResult


def point(x: float, found: Estimate, series: str = "evil") -> dict[str, str | float | None]:
    return {"series": series, "x": x, **estimate_cells(found)}


#: One without an interval, one that its interval does not hold, and one that was not measured.
ROWS = [
    point(0.0, Estimate(1.0, 0.5, 1.5)),
    point(1.0, Estimate(2.0)),
    point(2.0, Estimate(3.0, 3.1, 3.5), "a <b> & $c$"),
    point(3.0, Estimate()),
]
PLOT = StudyPlot(
    4,
    "expression",
    "a scatter",
    Plot("scatter", ROWS, partial(scatter, plane=Plane("x", "value", "x", "y", zero=True))),
)


def test_a_figure_is_drawn_once_for_its_data(tmp_path: Path) -> None:
    figures.draw([PLOT], tmp_path)
    drawing = tmp_path / "expression" / "scatter.svg"
    with (tmp_path / "expression" / "scatter.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(ROWS)
    assert (tmp_path / "expression" / "scatter.png").read_bytes().startswith(b"\x89PNG")
    assert b"a &lt;b&gt; &amp; $c$" in drawing.read_bytes()
    drawing.write_bytes(b"kept")
    figures.draw([PLOT], tmp_path)
    assert figures.drawing_of(PLOT, tmp_path) == b"kept"


def test_without_matplotlib_the_data_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    figures.draw([PLOT], tmp_path)
    assert [path.name for path in (tmp_path / "expression").iterdir()] == ["scatter.csv"]
    assert figures.drawing_of(PLOT, tmp_path) is None


def test_a_stage_without_records_has_no_figures() -> None:
    lag = Lagged(
        trait="evil", direction="vector", lag=0, overall=Estimate(), within=Estimate(), n=0
    )
    assert (
        study_plots(
            {"persistence": PersistenceResult(lags=(), fading=(), dialogues=(), left_out=())}
        )
        == []
    )
    found = PersistenceResult(lags=(lag,), fading=(), dialogues=(), left_out=())
    assert [len(own.plot.rows) for own in persistence(found)] == [1, 0]
