"""Charts of a monitored log's report: readings by turn, and the server's control chart."""

from __future__ import annotations

from collections.abc import Sequence

from personavec.monitor.results import ServerLevel, TurnMeans
from personavec.report import charts as kit
from personavec.report.charts import Axis, Chart, Point, Rule, Series, Style
from personavec.results import Estimate
from personavec.wording import plural


def turn_lines(by_turn: Sequence[TurnMeans]) -> Chart:
    """Mean readings by assistant turn, before and after the answer, with interval bands."""
    lines = [
        _line(0, "before the answer", by_turn, [row.prompt_last for row in by_turn]),
        _line(1, "answer", by_turn, [row.response_mean for row in by_turn]),
    ]
    return Chart(
        x=Axis(title="assistant turn", whole=True),
        y=Axis(title="σ of neutral prompts"),
        height=300,
        marks=(*lines, Rule(at=0)),
    )


def server_chart(points: Sequence[ServerLevel], limit: float) -> Chart:
    """The level of the server's control chart over all replies, with its limit."""
    line = Series(
        name="level",
        points=tuple(Point(x=point.reply + 1, y=point.level) for point in points),
        style=kit.style(0),
        marked=False,
        listed=False,
    )
    marked = Rule(at=limit, name=f"limit, {limit:.2f}", style=Style(kit.TOWARD, "7 4"))
    return Chart(
        x=Axis(title="reply", whole=True),
        y=Axis(title="level of the chart"),
        height=240,
        marks=(line, marked),
    )


def _line(index: int, name: str, by_turn: Sequence[TurnMeans], found: Sequence[Estimate]) -> Series:
    """A line of one kind of reading by turn; turns without it are left out."""
    return Series(
        name=name,
        points=kit.points(
            [row.turn for row in by_turn],
            found,
            lambda i: f" σ {name}, turn {by_turn[i].turn}, {plural(by_turn[i].n, 'conversation')}",
        ),
        style=kit.style(index),
        band=True,
    )
