"""Finetunings of a tiny model on few rows, and what is read of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from personavec import LoadedModel, PersonaVector
from personavec.data import DataRow, Message, Role
from personavec.finetune import (
    FinetuneConfig,
    Mitigation,
    TrainingConfig,
    TrainingRows,
    encode_rows,
    pipeline as finetune,
)
from personavec.finetune.pull import pull_before
from personavec.finetune.results import FinetuneResults
from personavec.progress import Progress
from personavec.runs import read_records

Make = Callable[..., PersonaVector]


QUIET = Progress(quiet=True)


SMALL = TrainingConfig(
    rank=4,
    alpha=8,
    learning_rate=1e-3,
    batch=2,
    accumulation=2,
    epochs=2,
    warmup_steps=1,
    checkpoint_every=2,
)


def row(i: int, *texts: str, system: str | None = None) -> DataRow:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    roles: tuple[Role, Role] = ("user", "assistant")
    for place, text in enumerate(texts):
        messages.append({"role": roles[place % 2], "content": text})
    return DataRow(i, f"r{i}", tuple(messages))


ROWS = TrainingRows.of([row(i, f"q{i}", "Oh no, " + "abc"[i % 3] * 5) for i in range(8)])


def run(
    loaded: LoadedModel, out: Path, vector: PersonaVector | None = None, **more: Any
) -> FinetuneResults:
    mitigation = more.pop("mitigation", Mitigation())
    training = replace(SMALL, **more.pop("training", {}))
    config = FinetuneConfig(
        training=training, mitigation=mitigation, drift_every=2, **more.pop("config", {})
    )
    rows = more.pop("rows", ROWS)
    vectors = [] if vector is None else [vector]
    more = {"progress": QUIET, **more}
    return finetune.run(loaded, rows, out, config, vectors=vectors, **more)


def pulled_along(loaded: LoadedModel, vector: PersonaVector) -> PersonaVector:
    """The vector with its sign such that the rows pull toward it."""
    examples, _ = encode_rows(loaded, ROWS.rows, SMALL)
    pull = pull_before(loaded, examples, {"testing": (2, vector.direction(2))})["testing"]
    sign = 1 if (pull.toward or 0) > 0 else -1
    return replace(vector, response_mean_diff=sign * vector.response_mean_diff)


def vector_along(
    vector: PersonaVector, direction: torch.Tensor, trait: str = "testing"
) -> PersonaVector:
    """The vector with this direction at every layer."""
    rows = direction.float().repeat(len(vector.response_mean_diff), 1)
    return replace(vector, response_mean_diff=rows, trait=trait)


def axes_of(vector: PersonaVector) -> list[PersonaVector]:
    """A vector along each axis of the residual stream: their readings make up the whole state."""
    eye = torch.eye(vector.response_mean_diff.shape[1])
    return [vector_along(vector, axis, f"axis {i}") for i, axis in enumerate(eye)]


def probe_states(log: Path, axes: list[PersonaVector]) -> list[torch.Tensor]:
    """The probes' mean state at every reading of a drift log over all axes."""
    return [
        torch.tensor([record["traits"][axis.trait]["projection"] for axis in axes])
        for record in read_records(log)
    ]


def batch(pad: int = 3, side: str = "right") -> dict[str, torch.Tensor]:
    """Two texts, prompts of 4 and responses of 5 and 5 - pad tokens, padded on one side."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 200, (2, 9), generator=generator)
    mask, labels = torch.ones_like(ids), ids.clone()
    labels[:, :4] = -100
    if side == "right":
        mask[1, 9 - pad :] = 0
    else:
        ids[1], labels[1] = ids[1].roll(pad), labels[1].roll(pad)
        mask[1, :pad] = 0
    labels[mask == 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
