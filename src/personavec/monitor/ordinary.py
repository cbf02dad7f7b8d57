"""Count in how many ordinary dialogues a guard or a drift alarm would act.

A guard's σ is that of first answers to neutral prompts, from which later turns of ordinary
conversations differ. Therefore the package has 109 ordinary dialogues of several turns. They are
read along the vectors in use, and those in which a guard or an alarm would act are counted. Nothing
is fitted on them.
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
#: Warn of a guard or an alarm that acts in a larger share of ordinary dialogues than this.
MOST = 0.01
_FORMAT = 1
#: Dialogues read between two advances of the bar.
_GROUP = 16


@dataclass(frozen=True)
class DialogueReadings:
    """The readings of the bundled dialogues along one vector, in units of the residual stream.

    Values are by dialogue and assistant turn: the projection of the last prompt token, and the mean
    over the reply. A dialogue that is too long or that the chat template refuses has no values.
    """

    prompt_last: tuple[tuple[float, ...], ...]
    response_mean: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class OrdinaryCheck:
    """The ordinary dialogues in which a guard or an alarm would have acted."""

    what: str
    """The guard or alarm."""
    dialogues: tuple[str, ...]
    """The ids of the dialogues."""
    of: int
    """Number of dialogues that could be read."""

    @property
    def too_many(self) -> bool:
        """Whether it acts in more than 1% of the dialogues, or none could be read."""
        return not self.of or len(self.dialogues) / self.of > MOST

    def __str__(self) -> str:
        if not self.of:
            return f"{self.what}: no ordinary dialogue could be read, so its effect is unknown"
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
    """A hash that identifies the dialogues."""
    data = (BUNDLED / "dialogues.jsonl").read_bytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def read(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    *,
    progress: Progress | None = None,
) -> dict[str, DialogueReadings]:
    """The readings of the dialogues along every vector, by trait.

    Bundled and cached readings are used. Missing ones are made in one pass over the dialogues, and
    cached.
    """
    found = {
        vector.trait: _bundled(loaded, vector) or _cached(loaded, vector) for vector in vectors
    }
    missing = [vector for vector in vectors if found[vector.trait] is None]
    if missing:
        new = read_uncached(loaded, missing, progress=progress)
        for vector in missing:
            found[vector.trait] = new[vector.trait]
            record = as_record(loaded, vector, new[vector.trait])
            # Without a writable cache, the next start reads the dialogues again.
            with contextlib.suppress(OSError):
                atomic_write(_cache_path(loaded, vector), json.dumps(record))
    return {trait: readings for trait, readings in found.items() if readings is not None}


def read_uncached(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    *,
    progress: Progress | None = None,
) -> dict[str, DialogueReadings]:
    """`read`, without bundled or cached readings."""
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
    return {
        trait: DialogueReadings(tuple(last[trait]), tuple(mean[trait])) for trait in reading.traits
    }


def survey(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    guards: Mapping[str, Condition],
) -> list[OrdinaryCheck]:
    """The dialogues in which every guard (by its text) and every vector's drift alarm acts."""
    if not vectors:
        return []
    by_trait = {vector.trait: vector for vector in vectors}
    readings = read(loaded, vectors)
    found = [
        check_guard(what, condition, by_trait[condition.trait], readings[condition.trait])
        for what, condition in guards.items()
    ]
    return [*found, *(check_alarm(vector, readings[vector.trait]) for vector in vectors)]


def check_guard(
    what: str, condition: Condition, vector: PersonaVector, readings: DialogueReadings
) -> OrdinaryCheck:
    """The dialogues in which a guard would have acted, before any reply."""
    acted = [
        any(condition.met({condition.trait: in_unit(vector, value, condition)}) for value in turns)
        for turns in readings.prompt_last
    ]
    return _checked(what, acted, readings)


def check_alarm(vector: PersonaVector, readings: DialogueReadings) -> OrdinaryCheck:
    """The dialogues in which the conversation's drift alarm would have been raised."""
    ordinary = vector.ordinary or Ordinary()
    mean, spread = vector.neutral_response_mean[vector.layer].tolist()
    raised = []
    for turns in readings.response_mean:
        chart = ordinary.chart()
        # A turn without a reading does not update the chart.
        values = [
            ordinary.standardise((value - mean) / spread, turn)
            for turn, value in enumerate(turns)
            if math.isfinite(value)
        ]
        raised.append(any([chart.update(value) is not None for value in values]))
    return _checked(f"drift alarm {vector.trait}", raised, readings)


def in_unit(vector: PersonaVector, value: float, condition: Condition) -> float:
    """The projection of a last prompt token in a condition's unit."""
    if condition.unit == "norm":
        return value / float(vector.residual_norm[vector.layer])
    mean, spread = vector.neutral_prompt_last[vector.layer].tolist()
    return (value - mean) / spread


def as_record(
    loaded: LoadedModel, vector: PersonaVector, readings: DialogueReadings
) -> dict[str, Any]:
    """Readings as JSON, with the dialogues, vector and model from which they come."""
    return {
        "format": _FORMAT,
        "dialogues": dialogues_hash(),
        "vector": vector.hash,
        "model": loaded.identity.as_dict(),
        "prompt_last": [list(turns) for turns in readings.prompt_last],
        "response_mean": [
            [None if math.isnan(value) else value for value in turns]
            for turns in readings.response_mean
        ],
    }


def _checked(what: str, acted: Sequence[bool], readings: DialogueReadings) -> OrdinaryCheck:
    names = [row.id for row, hit in zip(dialogues(), acted, strict=True) if hit]
    return OrdinaryCheck(what, tuple(names), sum(bool(turns) for turns in readings.prompt_last))


def _bundled(loaded: LoadedModel, vector: PersonaVector) -> DialogueReadings | None:
    """The bundled readings, for the embedded model in any precision (it hardly matters)."""
    path = Path(str(BUNDLED / "vectors")) / vector.trait / FILE
    return _stored(path, loaded, vector, except_for=("dtype", "weights"))


def _cached(loaded: LoadedModel, vector: PersonaVector) -> DialogueReadings | None:
    return _stored(_cache_path(loaded, vector), loaded, vector)


def _cache_path(loaded: LoadedModel, vector: PersonaVector) -> Path:
    about = [_FORMAT, dialogues_hash(), vector.hash, loaded.identity.as_dict()]
    key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
    return cache_folder() / "ordinary" / f"{key[:24]}.json"


def _stored(
    path: Path, loaded: LoadedModel, vector: PersonaVector, except_for: Sequence[str] = ()
) -> DialogueReadings | None:
    """The readings in a file; None if it is missing, damaged, or of another model or vector."""
    try:
        record = json.loads(path.read_text("utf-8"))
        there = {k: v for k, v in record["model"].items() if k not in except_for}
        here = json.loads(json.dumps(loaded.identity.as_dict(), default=str))
        wanted = (_FORMAT, dialogues_hash(), vector.hash)
        if (record["format"], record["dialogues"], record["vector"]) != wanted:
            return None
        if there != {k: v for k, v in here.items() if k not in except_for}:
            return None
        readings = DialogueReadings(
            tuple(tuple(map(float, turns)) for turns in record["prompt_last"]),
            tuple(
                tuple(math.nan if value is None else float(value) for value in turns)
                for turns in record["response_mean"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    n = len(dialogues())
    return readings if len(readings.prompt_last) == len(readings.response_mean) == n else None
