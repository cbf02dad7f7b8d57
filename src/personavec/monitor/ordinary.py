"""How many ordinary dialogues a guard or a drift alarm would act on.

A guard's σ is that of first answers to neutral prompts, and later turns of ordinary conversations
differ from these. So 109 ordinary dialogues of several turns come with the package. They are read
along the vectors in use, and those that a guard or an alarm would act on are counted. Nothing is
ever fitted on them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from personavec.conditions import Condition
from personavec.data import DataRow, Reject
from personavec.model import LoadedModel, encode
from personavec.monitor.readings import gauge, read_encoded
from personavec.progress import Progress
from personavec.runs import atomic_write, cache_folder
from personavec.traits import BUNDLED
from personavec.vectors import Ordinary, PersonaVector

#: The file's name, beside a bundled vector.
FILE = "ordinary.json"
#: Warn of a guard or an alarm that acts on a larger share of ordinary dialogues than this.
MOST = 0.01
_FORMAT = 1
#: Dialogues read between two advances of the bar.
_GROUP = 16


@dataclass(frozen=True)
class Talk:
    """The bundled dialogues along one vector, in units of the residual stream.

    Values are by dialogue and then by assistant turn: the token before the reply, and the mean over
    the reply. A dialogue that is too long, or that the chat template refuses, has no values.
    """

    prompt_last: tuple[tuple[float, ...], ...]
    response_mean: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Stopped:
    """The ordinary dialogues that a guard or an alarm would have acted on."""

    what: str
    dialogues: tuple[str, ...]
    """Their ids."""
    of: int
    """Dialogues that could be read."""

    @property
    def too_many(self) -> bool:
        """More than one in a hundred, or none could be read."""
        return not self.of or len(self.dialogues) / self.of > MOST

    def __str__(self) -> str:
        if not self.of:
            return f"{self.what}: no ordinary dialogue could be read, so what it stops is unknown"
        hits = len(self.dialogues)
        return f"{self.what}: would have acted in {hits} of {self.of} ordinary dialogues"


@cache
def dialogues() -> tuple[DataRow, ...]:
    """The bundled dialogues; each ends with a reply."""
    lines = (BUNDLED / "dialogues.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return tuple(
        DataRow(index, record["id"], tuple(record["messages"]))
        for index, record in enumerate(records)
    )


@cache
def dialogues_hash() -> str:
    """Identifies the dialogues that readings are of."""
    data = (BUNDLED / "dialogues.jsonl").read_bytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def read(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    *,
    progress: Progress | None = None,
) -> dict[str, Talk]:
    """The dialogues along every vector, by trait.

    Readings that come with the package or are in the cache folder are used. Missing ones are made
    in one pass over the dialogues, and cached.
    """
    found = {
        vector.trait: _shipped(loaded, vector) or _cached(loaded, vector) for vector in vectors
    }
    missing = [vector for vector in vectors if found[vector.trait] is None]
    if missing:
        new = read_anew(loaded, missing, progress=progress)
        for vector in missing:
            found[vector.trait] = new[vector.trait]
            record = as_record(loaded, vector, new[vector.trait])
            # Where the cache cannot be written, the next start reads again.
            with contextlib.suppress(OSError):
                atomic_write(_cache_path(loaded, vector), json.dumps(record))
    return {trait: talk for trait, talk in found.items() if talk is not None}


def read_anew(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    *,
    progress: Progress | None = None,
) -> dict[str, Talk]:
    """As `read`, without the package's readings and the cache."""
    reading = gauge(vectors, loaded)
    rows = [encode(loaded.chat, row, context=loaded.context, thinking=True) for row in dialogues()]
    last: dict[str, list[tuple[float, ...]]] = {trait: [] for trait in reading.traits}
    mean: dict[str, list[tuple[float, ...]]] = {trait: [] for trait in reading.traits}
    with (progress or Progress()).bar("reading ordinary dialogues", len(rows)) as bar:
        for start in range(0, len(rows), _GROUP):
            group = rows[start : start + _GROUP]
            good = [row for row in group if not isinstance(row, Reject)]
            readings = iter(read_encoded(loaded, good, reading))
            for row in group:
                own = [] if isinstance(row, Reject) else next(readings)
                for trait in reading.traits:
                    turns = [each for each in own if each.trait == trait]
                    last[trait].append(tuple(round(t.prompt_last, 4) for t in turns))
                    mean[trait].append(
                        tuple(
                            math.nan if t.response_mean is None else round(t.response_mean, 4)
                            for t in turns
                        )
                    )
            bar.advance(len(group))
    return {trait: Talk(tuple(last[trait]), tuple(mean[trait])) for trait in reading.traits}


def survey(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    guards: Mapping[str, Condition],
) -> list[Stopped]:
    """For every guard, by its text, and every vector's drift alarm: the dialogues it acts on."""
    if not vectors:
        return []
    by_trait = {vector.trait: vector for vector in vectors}
    talks = read(loaded, vectors)
    found = [
        stopped_by(what, condition, by_trait[condition.trait], talks[condition.trait])
        for what, condition in guards.items()
    ]
    return [*found, *(alarmed(vector, talks[vector.trait]) for vector in vectors)]


def stopped_by(what: str, condition: Condition, vector: PersonaVector, talk: Talk) -> Stopped:
    """The dialogues that a guard would have acted on, before any of their replies."""
    acted = [
        any(condition.met({condition.trait: in_unit(vector, value, condition)}) for value in turns)
        for turns in talk.prompt_last
    ]
    return _stopped(what, acted, talk)


def alarmed(vector: PersonaVector, talk: Talk) -> Stopped:
    """The dialogues in which the conversation's drift alarm would have been raised."""
    ordinary = vector.ordinary or Ordinary()
    mean, spread = vector.neutral_response_mean[vector.layer].tolist()
    raised = []
    for turns in talk.response_mean:
        chart = ordinary.chart()
        # A turn without a reading leaves the chart as it is.
        values = [
            ordinary.standardise((value - mean) / spread, turn)
            for turn, value in enumerate(turns)
            if math.isfinite(value)
        ]
        raised.append(any([chart.update(value) is not None for value in values]))
    return _stopped(f"drift alarm {vector.trait}", raised, talk)


def in_unit(vector: PersonaVector, value: float, condition: Condition) -> float:
    """The projection of a last prompt token in a condition's unit."""
    if condition.unit == "norm":
        return value / float(vector.residual_norm[vector.layer])
    mean, spread = vector.neutral_prompt_last[vector.layer].tolist()
    return (value - mean) / spread


def as_record(loaded: LoadedModel, vector: PersonaVector, talk: Talk) -> dict[str, Any]:
    """Readings for JSON, with the dialogues, vector and model that they are of."""
    return {
        "format": _FORMAT,
        "dialogues": dialogues_hash(),
        "vector": vector.hash,
        "model": loaded.identity.as_dict(),
        "prompt_last": [list(turns) for turns in talk.prompt_last],
        "response_mean": [
            [None if math.isnan(value) else value for value in turns]
            for turns in talk.response_mean
        ],
    }


def _stopped(what: str, acted: Sequence[bool], talk: Talk) -> Stopped:
    names = [row.id for row, hit in zip(dialogues(), acted, strict=True) if hit]
    return Stopped(what, tuple(names), sum(bool(turns) for turns in talk.prompt_last))


def _shipped(loaded: LoadedModel, vector: PersonaVector) -> Talk | None:
    """The readings that come with the package: of the embedded model, in any precision.

    Precision hardly changes a reading.
    """
    path = Path(str(BUNDLED / "vectors")) / vector.trait / FILE
    return _taken(path, loaded, vector, apart_from=("dtype", "weights"))


def _cached(loaded: LoadedModel, vector: PersonaVector) -> Talk | None:
    return _taken(_cache_path(loaded, vector), loaded, vector)


def _cache_path(loaded: LoadedModel, vector: PersonaVector) -> Path:
    about = [_FORMAT, dialogues_hash(), vector.hash, loaded.identity.as_dict()]
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
    return cache_folder() / "ordinary" / f"{key[:24]}.json"


def _taken(
    path: Path, loaded: LoadedModel, vector: PersonaVector, apart_from: Sequence[str] = ()
) -> Talk | None:
    """A file's readings; None where they are of something else, missing or damaged."""
    try:
        record = json.loads(path.read_text("utf-8"))
        there = {k: v for k, v in record["model"].items() if k not in apart_from}
        here = json.loads(json.dumps(loaded.identity.as_dict(), default=str))
        wanted = (_FORMAT, dialogues_hash(), vector.hash)
        if (record["format"], record["dialogues"], record["vector"]) != wanted:
            return None
        if there != {k: v for k, v in here.items() if k not in apart_from}:
            return None
        talk = Talk(
            tuple(tuple(map(float, turns)) for turns in record["prompt_last"]),
            tuple(
                tuple(math.nan if value is None else float(value) for value in turns)
                for turns in record["response_mean"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    n = len(dialogues())
    return talk if len(talk.prompt_last) == len(talk.response_mean) == n else None
