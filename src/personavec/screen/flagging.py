"""Where a trait's line is drawn, and which rows are over it.

Plain numbers in and out: knows nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personavec.errors import DataError, UsageError
from personavec.runs import Settings
from personavec.screen.config import FlagRule
from personavec.stats import quantile_interval

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TraitFlags:
    """One trait's line and the rows over it."""

    flagged: BoolArray
    """[row]"""
    threshold: float | None
    """In units of the values; None where no line was drawn."""
    low: float | None = None
    """The 95% interval of a threshold that was estimated from a reference set."""
    high: float | None = None

    @property
    def n_flagged(self) -> int | None:
        """How many rows are flagged; None where no line was drawn."""
        return None if self.threshold is None else int(self.flagged.sum())


def flag_trait(
    rule: FlagRule,
    trait: str,
    values: FloatArray,
    reference: FloatArray | None,
    scale: Mapping[str, float],
    reference_prompts: npt.NDArray[np.int64] | None = None,
) -> TraitFlags:
    """Flag one trait's rows by their values; a missing value (NaN) is never flagged.

    `scale` holds the size of every unit of a cut in units of the projection. `reference_prompts`
    are the prompts of the reference's rows, by which the line's interval is clustered. Raises
    DataError if there is a rule, but no value to apply it to, or none in the reference set.
    """
    if rule and not np.isfinite(values).any():
        raise DataError(
            f"no row has a value for '{trait}', so none can be flagged; see the rejects and, in "
            "the rows, what they lack"
        )
    if rule.percentile is not None:
        return _over_reference(rule.percentile, trait, values, reference, reference_prompts)
    if rule.top is not None or rule.bottom is not None:
        return _outermost(values, int(rule.top or rule.bottom or 0), highest=rule.top is not None)
    cut = next((cut for cut in rule.cuts if cut.trait == trait), None)
    if cut is None:
        return TraitFlags(np.zeros(len(values), bool), None)
    if not scale[cut.unit] > 0:
        raise DataError(
            f"--cut {trait}>{cut.number:g}{cut.unit}: the vector has no {cut.unit} to measure in; "
            "extract it again, or cut in units of the projection"
        )
    threshold = cut.number * scale[cut.unit]
    return TraitFlags(np.isfinite(values) & (values > threshold), threshold)


def _over_reference(
    percentile: float,
    trait: str,
    values: FloatArray,
    reference: FloatArray | None,
    prompts: npt.NDArray[np.int64] | None,
) -> TraitFlags:
    if reference is None or not np.isfinite(reference).any():
        raise DataError(f"the reference set has no value for '{trait}'")
    known = np.isfinite(reference)
    own = None if prompts is None else prompts[known]
    line = quantile_interval(reference[known], percentile / 100, own)
    over = np.isfinite(values) & (values > line.value)
    return TraitFlags(over, line.value, line.low, line.high)


def _outermost(values: FloatArray, n: int, *, highest: bool) -> TraitFlags:
    """The `n` highest or lowest values; the line is the last of them."""
    known = np.isfinite(values)
    k = min(n, int(known.sum()))
    order = np.argsort(np.where(known, -values if highest else values, np.inf), kind="stable")
    flagged = np.zeros(len(values), bool)
    flagged[order[:k]] = True
    return TraitFlags(flagged, float(values[order[k - 1]]) if k else None)


def combined(
    differences: FloatArray,
    judged: FloatArray,
    reference: tuple[FloatArray, FloatArray] | None = None,
) -> FloatArray:
    """Projection and judge as one value: the mean of the two, each standardised.

    Each is standardised by the mean and standard deviation of the reference set, or of the rows
    themselves if there is none. A row that lacks one of the two has no value.
    """
    base = reference or (differences, judged)
    parts = [_standardised(v, b) for v, b in zip((differences, judged), base, strict=True)]
    return (parts[0] + parts[1]) / 2


def _standardised(values: FloatArray, base: FloatArray) -> FloatArray:
    known = base[np.isfinite(base)]
    if len(known) < 2 or known.std() == 0:
        raise DataError("scores that do not vary cannot be combined with others")
    return (values - known.mean()) / known.std(ddof=1)


def check_cuts(rule: FlagRule, traits: Sequence[str]) -> None:
    """Raise UsageError for a cut of a trait that no vector is given for."""
    for cut in rule.cuts:
        if cut.trait not in traits:
            raise UsageError(f"--cut {cut.trait}>…: the traits are {', '.join(traits)}")


def rule_record(rule: FlagRule) -> Settings:
    """The rule for manifest and results."""
    return {
        "percentile": rule.percentile,
        "top": rule.top,
        "bottom": rule.bottom,
        "cuts": [cut.__dict__ for cut in rule.cuts],
    }
