"""Verdicts: which value of a row counts, where the line is drawn, and which rows are over it.

Plain numbers in and out: knows nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from personavec.errors import DataError, UsageError
from personavec.screen.config import Rule
from personavec.stats import quantile_interval

Side = Literal["projection", "minus_prompt", "minus_natural", "pair"]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Verdict:
    """One trait's line and the rows over it."""

    flagged: BoolArray
    threshold: float | None
    low: float | None = None
    """The interval of a threshold that was estimated from a reference set."""
    high: float | None = None


def judge_trait(
    rule: Rule,
    trait: str,
    values: FloatArray,
    reference: FloatArray | None,
    scale: Mapping[str, float],
    reference_prompts: npt.NDArray[np.int64] | None = None,
) -> Verdict:
    """One trait's verdict on its values; a missing value (NaN) is never flagged.

    `scale` holds the size of every unit in units of the projection; `reference_prompts`, of the
    reference's rows, widen the interval of the line. Raises DataError where there
    is a rule and nothing to apply it to: no value, or none in the reference set.
    """
    known = np.isfinite(values)
    if rule and not known.any():
        raise DataError(
            f"no row has a value for '{trait}', so none can be flagged; see the rejects and, in "
            "the rows, what they lack"
        )
    if rule.percentile is not None:
        if reference is None or not np.isfinite(reference).any():
            raise DataError(f"the reference set has no value for '{trait}'")
        there = np.isfinite(reference)
        prompts = None if reference_prompts is None else reference_prompts[there]
        found = quantile_interval(reference[there], rule.percentile / 100, prompts)
        return Verdict(known & (values > found.value), found.value, found.low, found.high)
    if rule.top is not None or rule.bottom is not None:
        sign = 1 if rule.top is not None else -1
        k = min(int(rule.top or rule.bottom or 0), int(known.sum()))
        flagged = np.zeros(len(values), bool)
        order = np.argsort(np.where(known, -sign * values, np.inf), kind="stable")
        flagged[order[:k]] = True
        return Verdict(flagged, float(values[order[k - 1]]) if k else None)
    cut = next((cut for cut in rule.cuts if cut.trait == trait), None)
    if cut is None:
        return Verdict(np.zeros(len(values), bool), None)
    if not scale[cut.unit] > 0:
        raise DataError(
            f"--cut {trait}>{cut.number:g}{cut.unit}: the vector has no {cut.unit} to measure in; "
            "extract it again, or cut in units of the projection"
        )
    threshold = cut.number * scale[cut.unit]
    return Verdict(known & (values > threshold), threshold)


def combined(
    differences: FloatArray,
    judged: FloatArray,
    reference: tuple[FloatArray, FloatArray] | None = None,
) -> FloatArray:
    """Projection and judge as one value: the mean of the two, each standardised.

    Each is measured in standard deviations from the mean of the reference set, or of the rows
    themselves where there is none. A row that misses one of the two has no value.
    """
    base = reference or (differences, judged)
    parts = [_standardised(v, b) for v, b in zip((differences, judged), base, strict=True)]
    return (parts[0] + parts[1]) / 2


def _standardised(values: FloatArray, base: FloatArray) -> FloatArray:
    known = base[np.isfinite(base)]
    if len(known) < 2 or known.std() == 0:
        raise DataError("scores that do not vary cannot be combined with others")
    return (values - known.mean()) / known.std(ddof=1)


def check_cuts(rule: Rule, traits: Sequence[str]) -> None:
    """Raise UsageError for a cut of a trait that is not screened for."""
    for cut in rule.cuts:
        if cut.trait not in traits:
            raise UsageError(f"--cut {cut.trait}>…: the traits are {', '.join(traits)}")


def describe(rule: Rule) -> dict[str, Any]:
    """The rule as a record."""
    return {
        "percentile": rule.percentile,
        "top": rule.top,
        "bottom": rule.bottom,
        "cuts": [cut.__dict__ for cut in rule.cuts],
    }
