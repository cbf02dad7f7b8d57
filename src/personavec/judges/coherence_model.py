"""A small logistic model of whether a response is sound, from what a model reads of it.

`bundled/coherence.json` holds its coefficients; `scripts/fit_coherence.py` fits them. Numbers are
standardised by those of the reading model's neutral responses, so that the coefficients carry over
to models that nobody fitted them on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from personavec.errors import DataError
from personavec.judges.coherence_features import (
    NAMES,
    Reading,
    Typical,
    features,
    typical,
)
from personavec.traits import BUNDLED

FILE = "coherence.json"
FORMAT = 1
#: A number whose neutral spread is smaller is not blown up by it.
_LEAST_SPREAD = 0.01
#: Standardised numbers are bent towards this bound, so that none decides alone.
_BOUND = 20.0
#: In nats beyond what sound answers have, whatever is neutral.
_AS_IT_IS = "unended"


@dataclass(frozen=True)
class Norms:
    """A model's neutral responses: usual token log-probabilities, and mean and spread by number."""

    usual: Typical
    mean: Mapping[str, float]
    spread: Mapping[str, float]

    def standardised(self, reading: Reading) -> dict[str, float]:
        """The reading's numbers in neutral standard deviations, at most `_BOUND` from 0."""
        found = features(reading, self.usual)
        return {
            name: value
            if name == _AS_IT_IS
            else _BOUND * math.tanh((value - self.mean[name]) / self.spread[name] / _BOUND)
            for name, value in found.items()
        }


def norms(neutral: Sequence[Reading]) -> Norms:
    """The norms of a model from its readings of its own neutral responses, at least two."""
    usual = typical(neutral)
    found = [features(reading, usual) for reading in neutral]
    columns = {name: np.array([each[name] for each in found]) for name in found[0]}
    return Norms(
        usual,
        {name: float(values.mean()) for name, values in columns.items()},
        {name: max(_LEAST_SPREAD, float(values.std())) for name, values in columns.items()},
    )


@dataclass(frozen=True)
class CoherenceModel:
    """Weights by number, and what is added to their sum."""

    weights: Mapping[str, float]
    intercept: float

    @property
    def version(self) -> str:
        """Identifies the coefficients by content."""
        text = json.dumps([dict(self.weights), self.intercept])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def coherence(self, reading: Reading, of_model: Norms) -> float:
        """0 to 100; 50 is as likely sound as broken among answers that are as often either."""
        found = of_model.standardised(reading)
        total = sum(weight * found[name] for name, weight in self.weights.items())
        return 50 * (1 + math.tanh((total + self.intercept) / 2))


def coherence_model(record: Mapping[str, Any]) -> CoherenceModel:
    """The model of a record such as `bundled/coherence.json`. Raises DataError."""
    if record.get("format") != FORMAT or not set(record.get("weights", {})) <= set(NAMES):
        raise DataError(
            f"{FILE} is not of format {FORMAT} or names numbers that this version does not have; "
            "fit it again with scripts/fit_coherence.py"
        )
    return CoherenceModel(record["weights"], record["intercept"])


@cache
def bundled_model() -> CoherenceModel:
    """The bundled coefficients."""
    return coherence_model(json.loads((BUNDLED / FILE).read_text("utf-8")))
