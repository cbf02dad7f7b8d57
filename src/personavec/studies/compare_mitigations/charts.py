"""What the report on mitigations draws: a measure against the dose of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from personavec.report import charts as kit
from personavec.report.charts import Axis, Chart, Mark, Series
from personavec.results import Estimate
from personavec.wording import decimal

#: A measure by the size of the coefficient.
ByDose: TypeAlias = Sequence[tuple[float, Estimate]]


def arms_by_dose(
    lines: Sequence[tuple[str, ByDose]],
    levels: Sequence[tuple[str, Estimate]],
    y_title: str,
) -> Chart:
    """A measure against the size of the coefficient, a line for each way to steer.

    Lines stand a little apart sideways, so that intervals at one coefficient can be told apart.
    `levels` are horizontal lines with their intervals: the base model, the plain finetune.
    """
    span = (0.0, max((dose for _, found in lines for dose, _ in found), default=1.0))
    apart, middle = 0.012 * span[1], (len(lines) - 1) / 2
    marks: list[Mark] = [
        _line(index, name, found, apart * (index - middle))
        for index, (name, found) in enumerate(lines)
    ]
    looks = ((kit.GREY, "2 3"), (kit.BROWN, "8 3 2 3"))
    for (name, found), (colour, dash) in zip(levels, looks, strict=False):
        marks += kit.level(name, found, colour, dash)
    return Chart(
        x=Axis(title="|coefficient| (multiples of v)", span=kit.padded(span)),
        y=Axis(title=y_title),
        height=340,
        marks=tuple(marks),
    )


def _line(index: int, name: str, by_dose: ByDose, aside: float) -> Series:
    """A way to steer, by coefficient, so far to the side."""
    return Series(
        name=name,
        points=kit.points(
            [dose + aside for dose, _ in by_dose],
            [each for _, each in by_dose],
            lambda i: f" at {decimal(by_dose[i][0], 'g')}, {name}",
        ),
        style=kit.style(index),
        whiskers=True,
    )
