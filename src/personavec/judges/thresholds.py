"""The trait score above which a judge's answers show the trait.

A contrast judge compares two prompts, neither of which is neutral, so where its scores turn from
one verdict to the other differs between traits; 50 is not the place. `personavec judges check`
fits the place on the tune half of the known answers. The embedded model's, for the bundled traits,
are in `bundled/thresholds.json`, which `make bundle` writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from pydantic import TypeAdapter

from personavec.judges.base import Identity
from personavec.traits import BUNDLED, TraitSpec

#: Where nothing was fitted.
DEFAULT = 50.0
FORMAT = 1
#: What of a judging model decides its scores; its dtype hardly moves them.
_OF_A_MODEL = ("weights", "template_hash")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The trait score above which an answer shows the trait, fitted on known answers."""

    trait_score: float
    """0 to 100; an answer with a higher score shows the trait."""
    log_odds: float | None = None
    """The same in nats, for a judge that gives them."""
    answers: int
    """Answers that it was fitted on."""


@dataclass(frozen=True, kw_only=True)
class _Bundled:
    trait: str
    judge_pairs: str
    """Hash of the judge pairs, without which it does not apply."""
    judge: Identity
    threshold: Threshold


def bundled_threshold(spec: TraitSpec, judge: Identity) -> Threshold | None:
    """The threshold that comes with the package for this judge, its model and these judge pairs."""
    return next(
        (
            found.threshold
            for found in _bundled()
            if found.trait == spec.name
            and found.judge_pairs == spec.judge_hash
            and _what_decides(found.judge) == _what_decides(judge)
        ),
        None,
    )


def showing_above(spec: TraitSpec, judge: Identity) -> float:
    """The trait score above which an answer shows the trait: the bundled threshold, or 50."""
    found = bundled_threshold(spec, judge)
    return DEFAULT if found is None else found.trait_score


@cache
def _bundled() -> tuple[_Bundled, ...]:
    record = json.loads((BUNDLED / "thresholds.json").read_text("utf-8"))
    assert record["format"] == FORMAT
    return TypeAdapter(tuple[_Bundled, ...]).validate_python(record["thresholds"])


def _what_decides(judge: Identity) -> tuple[object, ...]:
    model = judge.get("model")
    if not isinstance(model, dict):
        return (judge.get("judge"), model)
    return (judge.get("judge"), *(model.get(name) for name in _OF_A_MODEL))
