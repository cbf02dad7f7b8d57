"""Save the figures of a stage beside its tables, as SVG and PNG with their data as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from personavec.report.plots import as_csv, drawn
from personavec.runs import atomic_write
from personavec.studies.replicate.plots import StudyPlot

#: What is said where matplotlib is missing.
NOT_DRAWN = "figures: not drawn, since matplotlib is missing (pip install 'personavec[figures]')"


def can_draw() -> bool:
    return find_spec("matplotlib") is not None


def draw(plots: Sequence[StudyPlot], out: Path) -> None:
    """Draw figures whose data are new; without matplotlib their data alone are written."""
    for own in plots:
        path = out / own.stage / own.plot.name
        data = as_csv(own.plot.rows)
        table, drawing = path.with_name(f"{path.name}.csv"), path.with_name(f"{path.name}.svg")
        if table.is_file() and table.read_text("utf-8") == data and drawing.is_file():
            continue
        for kind, content in drawn(own.plot, own.width).items() if can_draw() else ():
            atomic_write(path.with_name(f"{path.name}.{kind}"), content)
        atomic_write(table, data)


def drawing_of(plot: StudyPlot, out: Path) -> bytes | None:
    """The SVG of a figure, where it was drawn."""
    path = out / plot.stage / f"{plot.plot.name}.svg"
    return path.read_bytes() if path.is_file() else None
