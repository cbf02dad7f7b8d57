"""A rollout: one response with its question, instruction, polarity, seed and scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from personavec.errors import DataError
from personavec.model import Action, EarlierTurns
from personavec.runs import Record, atomic_write, read_records, why_invalid
from personavec.traits import Polarity

#: What to do about a damaged file of records.
REMADE = "delete it to make its records again"


@dataclass(frozen=True, eq=False)
class Task:
    """One response to ask for: the question, what comes before it, and the steering.

    Tasks that share `noise` are sampled with the same noise (`engine.base.Request`).
    """

    id: str
    question: str
    system: str | None = None
    pair: int | None = None
    polarity: Polarity | None = None
    sample: int = 0
    earlier: EarlierTurns = ()
    steering: tuple[Action, ...] = ()
    noise: str = ""


@dataclass(frozen=True)
class Rollout:
    """One generated response with its question, instruction, polarity, seed and scores.

    `state` is `scored`, `refusal`, `unscored`, `empty`, `unfinished_thought` (generation ended
    within the thought) or `failed` (no answer came, or the numbers overflowed). Scores are None
    in states other than `scored`, never 0. `thinking` is what a reasoning model wrote before the
    response. `why_dropped` says why a rollout was not kept. `logprobs` are those of the first
    tokens of an unsteered response, in nats, that the contrast judge need not read again. `ended`
    says that it ended by itself, not at the length limit.
    """

    id: str
    question: str
    pair: int | None
    polarity: Polarity | None
    sample: int
    system: str | None
    response: str
    response_ids: tuple[int, ...]
    n_tokens: int
    seed: int
    state: str = "unscored"
    log_odds: float | None = None
    log_odds_per_token: tuple[float, ...] | None = None
    trait_score: float | None = None
    coherence: float | None = None
    judge: str | None = None
    kept: bool | None = None
    why_dropped: str | None = None
    thinking: str | None = None
    thinking_ids: tuple[int, ...] = ()
    earlier: EarlierTurns = ()
    logprobs: tuple[float, ...] = ()
    ended: bool = False

    def as_dict(self) -> Record:
        return dict(self.__dict__)


_ROLLOUT = TypeAdapter(Rollout)


def from_record(record: Record) -> Rollout:
    """A rollout from a line of JSON. Raises DataError for a record of anything else."""
    if record.get("state") == "unfinished":  # as older files have it
        record = {**record, "state": "unfinished_thought"}
    try:
        return _ROLLOUT.validate_python(record)
    except ValidationError as error:
        shown = str(record.get("id"))[:80]
        raise DataError(f"record {shown!r} is no rollout ({why_invalid(error)})") from error


def load_activations(
    folder: Path, ids: Sequence[str]
) -> Float[Tensor, "rollout span layer hidden"]:
    """Captured means of the given rollouts, in their order, from the files in `folder`.

    Raises DataError when one is missing or its file is damaged.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found |= load_file(path)
        except SafetensorError as error:
            raise DataError(f"{path} is damaged ({error}); use another --out") from error
    if not ids:
        raise DataError(f"no rollouts whose activations in {folder} could be read")
    missing = [i for i in ids if i not in found]
    if missing:
        raise DataError(
            f"no activations of rollout {missing[0]} in {folder}; use another --out to start anew"
        )
    shapes = {tuple(found[i].shape) for i in ids}
    if len(shapes) > 1 or any(len(shape) != 3 for shape in shapes):
        raise DataError(f"the activations in {folder} are damaged (odd shapes); use another --out")
    return torch.stack([found[i] for i in ids])


def write_rollouts(path: Path, rollouts: Sequence[Rollout]) -> None:
    """The final `rollouts.jsonl`, atomically."""
    lines = (json.dumps(r.as_dict(), ensure_ascii=False) + "\n" for r in rollouts)
    atomic_write(path, "".join(lines))


def iter_rollouts(path: Path) -> Iterator[Rollout]:
    """Rollouts from a `rollouts.jsonl`."""
    return (from_record(record) for record in read_records(path))
