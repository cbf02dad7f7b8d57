"""Figures for a paper, saved as SVG and PNG with their data as CSV.

A plot is a table of rows and a function that draws them. A verb's `plots.py` makes the rows from
its typed results; `drawing.py` draws rows with matplotlib, which is imported when a plot is saved.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from personavec.extras import check_extras
from personavec.results import Estimate
from personavec.runs import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

Cell: TypeAlias = str | int | float | bool | None
#: One value that a figure draws, by column: whose it is, where it lies, its interval.
Row: TypeAlias = Mapping[str, Cell]

#: Widths of a figure in inches: one column of a paper, and both.
SINGLE, DOUBLE = 3.35, 6.9
#: What the names of files of either width end with.
WIDTHS = {"": SINGLE, "-double": DOUBLE}
DPI = 300

_STYLE: Any = {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    # Text stays text, so that an editor can change it and a reader can search it.
    "svg.fonttype": "none",
    # The same data give the same file.
    "svg.hashsalt": "personavec",
    # A name from data may hold a dollar sign.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Plot:
    """A figure that can be saved."""

    name: str
    """What its files are called, such as `dose-response`."""
    rows: Sequence[Row]
    """All that is drawn; every row has the same columns."""
    draw: Callable[[Sequence[Row], float], Figure]
    """Draws rows as a matplotlib figure of a width in inches."""


def estimate_cells(found: Estimate, name: str = "value") -> dict[str, float | None]:
    """An estimate and its 95% interval as the cells `name`, `low` and `high` of a row."""
    return {name: found.value, "low": found.low, "high": found.high}


def estimate_of(row: Row, name: str = "value") -> Estimate:
    """The estimate in the cells that `estimate_cells` wrote."""
    value, low, high = (row[key] for key in (name, "low", "high"))
    return Estimate(*(None if each is None else float(each) for each in (value, low, high)))


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV under a line of column names; a missing value is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def check_drawable() -> None:
    """Raise PersonavecError, with the remedy, where matplotlib is not installed."""
    check_extras("figures")


def save(plots: Iterable[Plot], folder: Path) -> list[Path]:
    """Save each plot with any rows: `NAME.csv`, and SVG and PNG in both widths; returns the paths.

    `NAME.svg` fits one column of a paper, `NAME-double.svg` both. Raises PersonavecError without
    matplotlib, StorageError.
    """
    check_drawable()
    written, names = [], set[str]()
    for plot in plots:
        if not plot.rows:
            continue
        name = _unused(plot.name, names)
        files: dict[str, str | bytes] = {f"{name}.csv": as_csv(plot.rows)}
        for suffix, width in WIDTHS.items():
            for kind, drawing in drawn(plot, width).items():
                files[f"{name}{suffix}.{kind}"] = drawing
        for file, content in files.items():
            atomic_write(folder / file, content)
            written.append(folder / file)
    return written


def file_name(*parts: str) -> str:
    """Parts of a plot's name, joined; whatever is neither a letter nor a digit becomes a dash."""
    return "-".join("".join(c if c.isalnum() else "-" for c in part)[:60] for part in parts)


def _unused(name: str, used: set[str]) -> str:
    """The name, or with a number where another figure has it."""
    found = next(n for i in range(1, 10**6) if (n := name if i == 1 else f"{name}-{i}") not in used)
    used.add(found)
    return found


def drawn(plot: Plot, width: float = SINGLE) -> dict[str, bytes]:
    """The plot as `svg` and `png`, `width` inches wide."""
    with styled():
        figure = plot.draw(plot.rows, width)
        found = {}
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
            found[kind] = buffer.getvalue()
    return found


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's settings within this context: fonts, lines and texts of a paper's figure."""
    from matplotlib import rc_context

    with rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks: the SVG holds it as text all the same.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield
