"""Choose the engine that scores rows faster, by timing each on rows of the data.

It depends on the model and the data: transformers stops at the deepest layer needed and computes a
shared prefix once; vLLM does neither, but its forward pass may be faster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from personavec.errors import DataError
from personavec.model import Directions, TokenIds
from personavec.model.engine import Engine
from personavec.runs import atomic_write, read_as
from personavec.screen.results import ScoringEngine


@dataclass(frozen=True, eq=False)
class EngineChoice:
    """The chosen engine, and the measured speed of each engine."""

    engine: Engine
    tokens_per_second: dict[str, float]
    texts: int

    def note(self) -> str:
        """A sentence for the report."""
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in self.tokens_per_second.items())
        return (
            f"Rows were scored by the {self.engine.name} engine, the faster one on {self.texts} "
            f"texts of the data (tokens a second: {rates})."
        )

    def describe(self) -> ScoringEngine:
        """The engine's description with the measured speeds."""
        return {
            **self.engine.describe(),
            "measured": {"tokens_per_second": self.tokens_per_second, "texts": self.texts},
        }


@dataclass(frozen=True)
class _Measured:
    engine: str
    tokens_per_second: dict[str, float]
    texts: int


def faster(
    engines: Sequence[Engine],
    texts: Sequence[TokenIds],
    directions: Directions,
    kept: Path,
    *,
    batch_tokens: int | None = None,
) -> EngineChoice:
    """Choose the engine that projects `texts` faster; each first runs a few texts to warm up.

    The choice is stored in the file `kept`, so that a resumed run uses the same engine. Raises
    DataError if that file is damaged or names an engine that is not in `engines`.
    """
    by_name = {engine.name: engine for engine in engines}
    if kept.exists():
        again = "delete it, and the engines are timed again"
        found = read_as(kept, _Measured, again)
        if found.engine not in by_name:
            raise DataError(f"{kept} names no engine of this run; {again}")
        return EngineChoice(by_name[found.engine], found.tokens_per_second, found.texts)
    tokens = sum(map(len, texts))
    rates: dict[str, float] = {}
    for engine in engines:
        engine.project(texts[:4], directions, batch_tokens=batch_tokens)
        start = time.perf_counter()
        engine.project(texts, directions, batch_tokens=batch_tokens)
        rates[engine.name] = round(tokens / (time.perf_counter() - start), 1)
    best = max(engines, key=lambda engine: rates[engine.name])
    choice = {"engine": best.name, "tokens_per_second": rates, "texts": len(texts)}
    atomic_write(kept, json.dumps(choice))
    return EngineChoice(best, rates, len(texts))
