"""What a replication would take: tokens of every stage, time by a rate, a bill."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from personavec.model import LoadedModel, chat, token_logprobs
from personavec.model.engine import Engine, Request, Sampling, TransformersEngine
from personavec.studies.replicate.config import StageName
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.study import Inputs
from personavec.studies.replicate.work import TRAINING, Work
from personavec.traits import neutral_prompts

#: Answers that the rate is measured on, and their tokens.
_TRIED, _TOKENS = 8, 48


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Tokens a second."""

    generated: float
    read: float

    def seconds(self, work: Work) -> float:
        """How long it takes; a training token is read three times."""
        read = work.read + TRAINING * work.trained
        return work.generated / self.generated + read / self.read


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """What one stage would take."""

    name: StageName
    title: str
    generated: int
    read: int
    trained: int
    forwards: int
    seconds: float
    why_not: str | None
    """Why it would not be run."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the whole would take; `--dry-run --json` prints these fields."""

    format: int = 1
    command: str = "replicate"
    scale: str
    stages: tuple[PlannedStage, ...]
    rate: Rate
    forwards: int
    seconds: float
    price: float | None
    """In the currency of the price that was given."""


def planned(
    stages: Sequence[Stage[Any]], inputs: Inputs, rate: Rate, price_per_hour: float | None
) -> Plan:
    """The plan of these stages."""
    found = [_planned(stage, inputs, rate) for stage in stages]
    seconds = sum(own.seconds for own in found)
    return Plan(
        scale=inputs.config.scale,
        stages=tuple(found),
        rate=rate,
        forwards=sum(own.forwards for own in found),
        seconds=seconds,
        price=None if price_per_hour is None else price_per_hour * seconds / 3600,
    )


def _planned(stage: Stage[Any], inputs: Inputs, rate: Rate) -> PlannedStage:
    why_not = stage.missing(inputs)
    work = Work() if why_not else stage.plan(inputs)
    return PlannedStage(
        name=stage.name,
        title=stage.title,
        generated=work.generated,
        read=work.read,
        trained=work.trained,
        forwards=work.forwards,
        seconds=rate.seconds(work),
        why_not=why_not,
    )


def measured_rate(loaded: LoadedModel, engine: Engine | None = None) -> Rate:
    """Measured on a few hundred tokens: answers to neutral prompts, written and read again."""
    engine = engine or TransformersEngine(loaded)
    prompts = [tuple(loaded.chat.prompt_ids(chat(q))) for q in neutral_prompts()[:_TRIED]]
    requests = [Request(str(i), ids) for i, ids in enumerate(prompts)]
    list(engine.generate(requests[:1], Sampling(2, 0.0)))
    started = time.monotonic()
    answers = [g for group in engine.generate(requests, Sampling(_TOKENS)) for g in group]
    written = time.monotonic()
    pairs = [(prompts[int(g.id)], g.response_ids) for g in answers if g.response_ids]
    token_logprobs(loaded, pairs)
    read = time.monotonic()
    n_read = sum(len(prompt) + len(ids) for prompt, ids in pairs)
    n_written = sum(len(ids) for _, ids in pairs)
    return Rate(
        generated=max(n_written, 1) / max(written - started, 1e-6),
        read=max(n_read, 1) / max(read - written, 1e-6),
    )
