"""What a projection means: the forecast of trait expression, and where ordinary tokens lie.

`calibrate` measures it and keeps it beside the vector, in `calibration.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from personavec.errors import DataError, UsageError
from personavec.plain import parse_json
from personavec.runs import why_invalid
from personavec.stats import Interval

#: The file's name, in the vector's folder.
FILE = "calibration.json"
FORMAT = 1
#: Share of new answers that a forecast's interval is meant to hold.
COVERAGE = 0.9
#: Percentiles of ordinary tokens' projections that are kept.
PERCENTILES = (0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5)


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True)
class Calibration:
    """A vector's calibration at one layer.

    The forecast is a line in the last prompt token's projection (in units of the residual
    stream), with the 5th and 95th percentile of what it missed by on questions left out of it.
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
    """Added to the forecast: the lower end of its interval …"""
    above: float
    """… and the upper one."""
    tokens: tuple[float, ...]
    """Projections at `PERCENTILES` of the model's own response tokens on neutral prompts."""
    results: Mapping[str, Any]
    """Correlations, coverage, counts and where all of it came from, for people."""

    def forecast(self, prompt_last: float) -> Interval:
        """Expected expression of the answer that follows, with its prediction interval.

        In `unit`; scores stay within 0 and 100.
        """
        middle = self.intercept + self.slope * prompt_last
        values = (middle, middle + self.below, middle + self.above)
        if self.unit == "score":
            values = tuple(min(100.0, max(0.0, value)) for value in values)
        return Interval(*values)

    def ceiling(self, percentile: float) -> float:
        """The projection that this percentage of ordinary response tokens stays under.

        Interpolated between the percentiles that are kept; raises UsageError beyond them.
        """
        if not PERCENTILES[0] <= percentile <= PERCENTILES[-1]:
            raise UsageError(
                f"percentile {percentile:g}: use {PERCENTILES[0]:g} to {PERCENTILES[-1]:g}, "
                "between which ordinary tokens were measured"
            )
        return float(np.interp(percentile, PERCENTILES, self.tokens))

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=1) + "\n"


def from_json(text: str | bytes, where: str) -> Calibration:
    """From the file's text. Raises DataError that names `where` when it is damaged."""
    try:
        record = parse_json(text)
        if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
            raise ValueError(f"no calibration of format {FORMAT}")
        found = _SCHEMA.validate_python(record)
        if len(found.tokens) != len(PERCENTILES) or list(found.tokens) != sorted(found.tokens):
            raise ValueError(f"tokens: {len(PERCENTILES)} percentiles that rise are needed")
        if found.below > found.above:
            raise ValueError("below: the interval's lower end is above its upper one")
    except ValueError as error:
        why = why_invalid(error) if isinstance(error, ValidationError) else error
        raise DataError(
            f"{where} is damaged ({why}); delete it, and calibrate the vector again"
        ) from error
    return found


_SCHEMA = TypeAdapter(Calibration)
