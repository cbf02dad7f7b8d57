"""Rows drawn with matplotlib: curves, values side by side, histograms, fields of colour.

Every function takes rows of `plots.py`, the width of the figure in inches and the names of the
columns to draw, and returns a figure without a title. An interval is drawn wherever a row has one.
Orange is toward the trait and blue away from it, and nothing else; series differ in shape too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from personavec.report.plots import Row, estimate_of
from personavec.terminal import shown
from personavec.wording import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from personavec.results import Estimate

#: After Okabe and Ito, who chose them for readers that tell some colours badly.
TOWARD, AWAY = "#d55e00", "#0072b2"
INK, GREEN, PURPLE, GOLD, GREY = "#222222", "#009e73", "#a6478c", "#b58900", "#7a8088"
COLOURS = (INK, GREEN, PURPLE, GOLD)
MARKERS = ("o", "s", "D", "^")
DASHES = ("-", "--", ":", "-.")

Colours: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class Plane:
    """What curves are drawn in: the columns of both axes, their titles, and the axis's span."""

    x: str
    y: str
    x_title: str
    y_title: str
    span: tuple[float, float] | None = None
    height: float = 2.0
    """In inches, without the legend."""
    colours: Colours = field(default_factory=dict)
    """By series, where a colour has a meaning."""
    zero: bool = False
    """Whether a line marks 0."""
    whole: bool = False
    """Whether x is counted in whole numbers."""
    from_zero: bool = False
    """Whether x begins at 0."""


def curves(rows: Sequence[Row], width: float, plane: Plane) -> Figure:
    """Values against a number, with their intervals.

    The rows' `kind` is `curve` for the points of a line, `line` for so many that they have no
    marks, `control` for single points, and `level` for what holds along the whole axis; rows of
    other kinds are not drawn. A point whose `coherent` is False is open; the stretch where
    `in_range` is True is shaded, and where `selected` is True there is a line.
    """
    figure, axes = _blank(width, plane.height, plane.x_title, plane.y_title)
    places = [_at(row, plane.x) for row in rows if row["kind"] in ("curve", "control")]
    _shade(axes, rows, plane.x)
    if plane.zero:
        axes.axhline(0, color=GREY, linewidth=0.6, linestyle=(0, (1, 2)))
    for index, (name, own) in enumerate(_series(rows, "level")):
        _level(axes, name, estimate_of(own[0], plane.y), index, plane.colours)
    _controls(axes, [row for row in rows if row["kind"] == "control"], plane, places)
    lines = _series(rows, "curve")
    apart = 0.006 * (max(places, default=1.0) - min(places, default=0.0))
    for index, (name, own) in enumerate(lines):
        _curve(axes, name, own, index, plane, apart * (2 * index - len(lines) + 1))
    _explain_open_marks(axes, rows)
    for _, own in _series(rows, "line"):
        along, height = ([_at(row, column) for row in own] for column in (plane.x, plane.y))
        axes.plot(along, height, color=INK, linewidth=0.8)
    axes.grid(axis="y")
    if plane.span:
        axes.set_ylim(plane.span)
    if plane.from_zero:
        axes.set_xlim(0, 1.06 * max(places, default=1.0))
    axes.xaxis.set_major_locator(_ticks(width, whole=plane.whole))
    _legend(figure, axes, width)
    return figure


def forest(
    rows: Sequence[Row],
    width: float,
    x_title: str,
    *,
    reference: float | None = None,
    span: tuple[float, float] | None = None,
    colours: Colours | None = None,
) -> Figure:
    """Values with their intervals from top to bottom: of every `label`, a line for each `series`.

    `reference` is drawn as a line: no difference, or chance.
    """
    labels = list(dict.fromkeys(str(row["label"]) for row in rows))
    series = list(dict.fromkeys(str(row["series"]) for row in rows))
    pitch = 0.14 + 0.1 * len(series)
    figure, axes = _blank(width, 0.6 + pitch * len(labels), x_title, "")
    if reference is not None:
        axes.axvline(reference, color=GREY, linewidth=0.8, linestyle=":")
    step = 0.66 / max(len(series), 2)
    for index, name in enumerate(series):
        own = [row for row in rows if row["series"] == name and row["value"] is not None]
        at = [
            labels.index(str(row["label"])) + step * (index - (len(series) - 1) / 2) for row in own
        ]
        found = [estimate_of(row) for row in own]
        style = _style(name, index, colours or {})
        values = _values(found)
        axes.errorbar(values, at, xerr=_bars(found), linestyle="none", **style, **_CAPS)
        axes.plot([], [], linestyle="none", **style, label=clean(name))
    axes.set_yticks(range(len(labels)), [wrapped(label, width) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(_ticks(width))
    if span:
        axes.set_xlim(span)
    if len(series) > 1:
        _legend(figure, axes, width)
    return figure


def histogram(
    rows: Sequence[Row], width: float, y: str, titles: tuple[str, str], colours: Colours
) -> Figure:
    """Bins `from` one value `to` the next, the series laid over each other.

    A row of the `kind` `line` is a line at `from`. `titles` are those of x and y.
    """
    figure, axes = _blank(width, 1.9, *titles)
    for index, (name, own) in enumerate(_series(rows, "bin")):
        edges = [_at(row, "from") for row in own] + [_at(own[-1], "to")]
        heights = [_at(row, y) for row in own]
        colour = colours.get(name, COLOURS[index])
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(heights, edges, color=colour, linestyle=DASHES[index], label=clean(name))
    for name, own in _series(rows, "line"):
        axes.axvline(
            _at(own[0], "from"), color=INK, linewidth=0.8, linestyle=":", label=clean(name)
        )
    axes.set_ylim(bottom=0)
    _legend(figure, axes, width)
    return figure


def field_of_colour(rows: Sequence[Row], width: float) -> Figure:
    """Every `value` by `row` and `column`, with its interval below it in the cell."""
    lines = list(dict.fromkeys(str(row["row"]) for row in rows))
    columns = list(dict.fromkeys(str(row["column"]) for row in rows))
    reach = max([abs(float(row["value"])) for row in rows if row["value"] is not None] or [1.0])
    figure, axes = _blank(width, 0.7 + 0.34 * len(lines), "", "")
    for row in rows:
        found = estimate_of(row)
        if found.value is None:
            continue
        at = columns.index(str(row["column"])), lines.index(str(row["row"]))
        _cell(axes, at, found, reach or 1.0, small=min(5.5, 13 * width / (len(columns) + 2)))
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), map(clean, columns), rotation=35, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(lines)), [wrapped(line, width) for line in lines])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def clean(text: str) -> str:
    """A text of data as one line that an SVG can hold: control characters are written out."""
    return shown(" ".join(text.split()))


def wrapped(text: str, width: float) -> str:
    """A label of at most two lines in a figure of this width."""
    room = int(6 * width)
    found = textwrap.wrap(clean(text), room, break_long_words=True)
    if len(found) > 2:
        found = [found[0], f"{found[1][: room - 1]}…"]
    return "\n".join(found)


_CAPS: dict[str, Any] = {"elinewidth": 0.9, "capsize": 1.8, "capthick": 0.9}


def _blank(width: float, height: float, x_title: str, y_title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.set_xlabel(clean(x_title))
    axes.set_ylabel(clean(y_title))
    return figure, axes


def _ticks(width: float, *, whole: bool = False) -> MaxNLocator:
    """As many ticks as have room for their numbers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=min(9, int(1.8 * width)), steps=[1, 2, 5, 10], integer=whole)


def _series(rows: Sequence[Row], kind: str) -> list[tuple[str, list[Row]]]:
    """The rows of a kind, by series, as they come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["kind"] == kind:
            found.setdefault(str(row["series"]), []).append(row)
    return list(found.items())


def _style(name: str, index: int, colours: Colours) -> dict[str, Any]:
    place = index % len(COLOURS)
    return {"color": colours.get(name, COLOURS[place]), "marker": MARKERS[place]}


def _curve(
    axes: Axes, name: str, own: Sequence[Row], index: int, plane: Plane, shift: float
) -> None:
    """A series with bars of its intervals, `shift` aside so that those of others can be seen."""
    known = [row for row in own if row[plane.y] is not None]
    known.sort(key=lambda row: _at(row, plane.x))
    found = [estimate_of(row, plane.y) for row in known]
    at = [_at(row, plane.x) + shift for row in known]
    style = _style(name, index, plane.colours)
    axes.errorbar(
        at,
        _values(found),
        yerr=_bars(found),
        linestyle=DASHES[index % len(DASHES)],
        markersize=0,
        label="_",
        color=style["color"],
        **_CAPS,
    )
    for x, each, row in zip(at, found, known, strict=True):
        open_ = row.get("coherent") is False
        axes.plot(
            x, each.value or 0.0, **style, markerfacecolor="white" if open_ else style["color"]
        )
    axes.plot([], [], linestyle=DASHES[index % len(DASHES)], **style, label=clean(name))


def _explain_open_marks(axes: Axes, rows: Sequence[Row]) -> None:
    if any(row.get("coherent") is False and row["kind"] == "curve" for row in rows):
        axes.plot([], [], "o", color=INK, markerfacecolor="white", label="not coherent")


def _controls(axes: Axes, rows: Sequence[Row], plane: Plane, places: Sequence[float]) -> None:
    """Single points, a little apart sideways, so that their intervals can be told apart."""
    known = [row for row in rows if row[plane.y] is not None]
    if not known:
        return
    names = list(dict.fromkeys(str(row["series"]) for row in known))
    step = 0.014 * (max(places) - min(places) or 1.0)
    found = [estimate_of(row, plane.y) for row in known]
    axes.errorbar(
        [
            _at(row, plane.x) + step * (names.index(str(row["series"])) - (len(names) - 1) / 2)
            for row in known
        ],
        _values(found),
        yerr=_bars(found),
        linestyle="none",
        marker="x",
        markersize=3,
        color=GREY,
        elinewidth=0.6,
        label="random directions",
    )


def _level(axes: Axes, name: str, found: Estimate, index: int, colours: Colours) -> None:
    """What holds along the whole axis, with its interval as a band."""
    if found.value is None:
        return
    colour = colours.get(name, GREY)
    dash = (DASHES[2], DASHES[1], DASHES[3])[index % 3]
    axes.axhline(found.value, color=colour, linewidth=0.9, linestyle=dash, label=clean(name))
    if found.low is not None and found.high is not None:
        axes.axhspan(found.low, found.high, color=colour, alpha=0.1, linewidth=0)


def _shade(axes: Axes, rows: Sequence[Row], x: str) -> None:
    inside = [_at(row, x) for row in rows if row.get("in_range")]
    if inside:
        axes.axvspan(
            min(inside), max(inside), color=GREY, alpha=0.13, linewidth=0, label="coherent range"
        )
    chosen = {_at(row, x) for row in rows if row.get("selected")}
    for place in chosen:
        axes.axvline(
            place, color=GREY, linewidth=0.8, linestyle="--", label=f"layer {place:g}, selected"
        )


def _cell(axes: Axes, at: tuple[int, int], found: Estimate, reach: float, *, small: float) -> None:
    """One value, with its interval in letters of size `small`."""
    from matplotlib.patches import Rectangle

    value = found.value or 0.0
    colour = TOWARD if value > 0 else AWAY
    box = (at[0] - 0.48, at[1] - 0.46)
    alpha = 0.05 + 0.55 * abs(value) / reach
    axes.add_patch(Rectangle(box, 0.96, 0.92, color=colour, alpha=alpha, linewidth=0))
    axes.text(at[0], at[1] - 0.12, signed(value), ha="center", va="center", fontsize=6)
    if found.low is not None and found.high is not None:
        interval = f"{signed(found.low)} … {signed(found.high)}"
        axes.text(at[0], at[1] + 0.24, interval, ha="center", va="center", fontsize=small)


def _at(row: Row, column: str) -> float:
    """A number of the row; 0 stands for a missing one, which callers have left out."""
    return float(row[column] or 0)


def _values(found: Sequence[Estimate]) -> list[float]:
    return [each.value or 0.0 for each in found]


def _bars(found: Sequence[Estimate]) -> list[list[float]] | None:
    """Distances to the lower and upper ends; 0 where an end is missing."""
    if all(each.low is None or each.high is None for each in found):
        return None
    below = [0.0 if e.low is None else max((e.value or 0.0) - e.low, 0.0) for e in found]
    above = [0.0 if e.high is None else max(e.high - (e.value or 0.0), 0.0) for e in found]
    return [below, above]


def _legend(figure: Figure, axes: Axes, width: float) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    fits = max(1, int(width / (0.42 + 0.055 * max(map(len, labels)))))
    figure.set_figheight(figure.get_figheight() + 0.15 * -(-len(labels) // fits))
    figure.legend(handles, labels, loc="outside upper left", ncols=fits, handlelength=2.2)
