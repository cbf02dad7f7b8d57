"""What a projection means: the forecast of trait expression, and the range of ordinary tokens.

`calibrate` measures both and keeps them beside the vector, in `calibration.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from personavec.errors import DataError, UsageError
from personavec.plain import parse_json
from personavec.results import Estimate, dump
from personavec.runs import Settings, why_invalid
from personavec.stats import Interval

#: The file's name, in the vector's folder.
FILE = "calibration.json"
FORMAT = 1
#: Share of new answers that a forecast's interval should contain.
COVERAGE = 0.9
#: Percentiles of ordinary tokens' projections that are kept.
PERCENTILES = (0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5)


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Pearson's r of the prompt's projection with the answer's expression, on test questions."""

    overall: Estimate
    within: Estimate
    """Within conditions, so that differences between prompts do not count."""
    n: int
    """Answers."""


@dataclass(frozen=True, kw_only=True)
class ConditionMeans:
    """The test answers under one system prompt, or after one number of examples."""

    condition: str
    n: int
    projection: float
    """Mean projection of the last prompt token, in units of the residual stream."""
    expression: float
    """Mean expression, in the calibration's unit."""
    low: float | None = None
    """Ends of its interval over questions; None in files of earlier versions."""
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerCounts:
    answers: int
    questions: int


@dataclass(frozen=True, kw_only=True)
class CalibrationResults:
    """How well the forecast does, and what it was measured on and with."""

    correlations: dict[str, Correlation]
    """Over `all` conditions, over `prompts` alone, and over `examples` alone."""
    coverage: Estimate
    """Share of test answers within the forecast's interval, 0 to 1."""
    conditions: tuple[ConditionMeans, ...]
    fitted_on: AnswerCounts
    tested_on: AnswerCounts
    unscored: int
    """Answers without a score, which were left out."""
    notes: tuple[str, ...]
    judge: Settings
    model: Settings
    spec: str
    """Hash of the trait spec."""
    settings: Settings
    versions: dict[str, str]


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True)
class Calibration:
    """A vector's calibration at one layer.

    The forecast is linear in the last prompt token's projection, which is in units of the residual
    stream. Its interval is between the 5th and the 95th percentile of leave-one-question-out
    residuals.
    """

    trait: str
    vector: str
    """`PersonaVector.hash` of the vector that it belongs to."""
    layer: int
    unit: Literal["log_odds", "score"]
    """What is forecast: the contrast judge's log-odds in nats, or a rubric judge's 0 to 100."""
    slope: float
    intercept: float
    below: float
    """Added to the forecast, this is the lower end of its interval."""
    above: float
    """Added to the forecast, this is the upper end."""
    tokens: tuple[float, ...]
    """Projections at `PERCENTILES` of the model's own response tokens on neutral prompts."""
    results: CalibrationResults | None = None
    """What was measured of the forecast; None where that is not known."""

    def forecast(self, prompt_last: float) -> Interval:
        """Expected expression of the answer that follows, with its 90% prediction interval.

        In `unit`; scores stay within 0 and 100.
        """
        middle = self.intercept + self.slope * prompt_last
        values = (middle, middle + self.below, middle + self.above)
        if self.unit == "score":
            values = tuple(min(100.0, max(0.0, value)) for value in values)
        return Interval(*values)

    def ceiling(self, percentile: float) -> float:
        """This percentile of ordinary response tokens' projections.

        Interpolated between the percentiles that are kept. Raises UsageError beyond them.
        """
        if not PERCENTILES[0] <= percentile <= PERCENTILES[-1]:
            raise UsageError(
                f"percentile {percentile:g}: use {PERCENTILES[0]:g} to {PERCENTILES[-1]:g}, "
                "the range that was measured"
            )
        return float(np.interp(percentile, PERCENTILES, self.tokens))

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": FORMAT, **dump(self)}, ensure_ascii=False, indent=1) + "\n"


def from_json(text: str | bytes, where: str) -> Calibration:
    """From the file's text. Raises DataError that names `where` when it is damaged."""
    try:
        record = parse_json(text)
        if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
            raise ValueError(f"no calibration of format {FORMAT}")
        found = _SCHEMA.validate_python(record)
        if len(found.tokens) != len(PERCENTILES) or list(found.tokens) != sorted(found.tokens):
            raise ValueError(f"tokens: {len(PERCENTILES)} rising percentiles are needed")
        if found.below > found.above:
            raise ValueError("below: the interval's lower end is above its upper one")
    except ValueError as error:
        why = why_invalid(error) if isinstance(error, ValidationError) else error
        raise DataError(
            f"{where} is damaged ({why}); delete it, and calibrate the vector again"
        ) from error
    return found


_SCHEMA = TypeAdapter(Calibration)
