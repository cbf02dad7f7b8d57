"""A screen's results as people read them: the values of all traits in one unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from personavec.screen.results import (
    MatchedMean,
    Mean,
    RankedRow,
    RankedRows,
    ScreenControls,
    ScreenedTrait,
    ScreenResults,
)
from personavec.wording import signed

_T = TypeVar("_T")
_ENDS = ("mean", "low", "high")


@dataclass(frozen=True)
class Shown:
    """Results whose values are in `unit`, and what the values of single rows are."""

    results: ScreenResults
    unit: str
    """Of means and groups, and of lines where no judge had a say."""
    row_unit: str
    """Of what rows are ranked and flagged by."""
    zero: bool
    """Whether a row's value above 0 pushes toward the trait, and one below it away."""

    @property
    def value(self) -> str:
        """What a value is."""
        return "projection" if self.results.natural == "none" else "projection difference"

    def row_value(self, row: RankedRow) -> str:
        """A row's value with its sign and unit."""
        if row.value is None:
            return "not measured"
        return f"{signed(row.value)} {self.row_unit}".strip()

    def flagged_where(self, trait: ScreenedTrait) -> str:
        """Which values of a trait are flagged: "flagged: above +4 σ"."""
        if trait.threshold is None:
            return ""
        line, rule = f"{signed(trait.threshold)} {self.row_unit}".strip(), self.results.rule or {}
        if rule.get("top"):
            return f"flagged: {line} and above"
        if rule.get("bottom"):
            return f"flagged: {line} and below"
        return f"flagged: above {line}"


def shown(results: ScreenResults) -> Shown:
    """The results in σ of neutral prompts; in units of the projection where a trait has no σ.

    What projection and judge together rank by has no unit, and stays as it is.
    """
    judged = results.judge is not None
    zero = results.natural != "none" and not judged
    if not all(trait.sigma for trait in results.traits.values()):
        unit = "units of the projection"
        return Shown(results, unit, "" if judged else unit, zero)
    traits = {name: _in_sigma(trait, judged=judged) for name, trait in results.traits.items()}
    return Shown(replace(results, traits=traits), "σ", "" if judged else "σ", zero)


def _in_sigma(trait: ScreenedTrait, *, judged: bool) -> ScreenedTrait:
    by = trait.sigma

    def mean(found: Mean | None) -> Mean | None:
        return None if found is None else _divided(found, by, _ENDS)

    line = () if judged else ("threshold", "threshold_low", "threshold_high")
    edges = tuple(edge / by for edge in trait.histogram.edges)
    staged = trait.two_stage
    return replace(
        _divided(trait, by, (*_ENDS, "sd", "sigma", *line)),
        projection=_divided(trait.projection, by, _ENDS),
        histogram=replace(trait.histogram, edges=edges),
        ranked=RankedRows(
            high=_rows(trait.ranked.high, by, judged=judged),
            low=_rows(trait.ranked.low, by, judged=judged),
        ),
        groups={
            column: tuple(_divided(row, by, (*_ENDS, "mean_without")) for row in rows)
            for column, rows in trait.groups.items()
        },
        reference=None if trait.reference is None else _divided(trait.reference, by, _ENDS),
        against_reference=mean(trait.against_reference),
        controls=_controls(trait.controls, by),
        two_stage=None if staged is None else _divided(staged, by, ("cheap_mean",)),
    )


def _controls(controls: ScreenControls, by: float) -> ScreenControls:
    matched = getattr(controls.length, "matched", None)
    if not isinstance(matched, MatchedMean):
        return controls
    length = replace(controls.length, matched=_divided(matched, by, _ENDS))
    return replace(controls, length=length)


def _rows(rows: Iterable[RankedRow], by: float, *, judged: bool) -> tuple[RankedRow, ...]:
    names = ("difference", "projection") if judged else ("value", "difference", "projection")
    return tuple(
        replace(
            _divided(row, by, names),
            pieces=row.pieces and tuple(_divided(each, by, ("projection",)) for each in row.pieces),
        )
        for row in rows
    )


def _divided(record: _T, by: float, names: Iterable[str]) -> _T:
    """A copy of a record whose values of these names are divided; a missing one stays missing."""
    values = {name: getattr(record, name) for name in names}
    divided = {name: None if value is None else value / by for name, value in values.items()}
    return replace(record, **divided)  # type: ignore[type-var]
