"""What keeps a finetune from moving a trait: one choice of several, in one interface.

A mitigation acts in one of three places, and the trainer asks each of them: on the rows (`rows`),
inside the training forwards (`acting`), or on the loss (in `sft`). Which one is chosen, and how
much of it, is a `Mitigation`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from personavec.data import Message, Row
from personavec.errors import DataError, UsageError
from personavec.finetuning.training import Example, TrainingRows
from personavec.model.engine.base import Sampling
from personavec.model.loading import LoadedModel
from personavec.model.preventative import Ablation, PreventativeSteering, randomly_rotated
from personavec.model.projecting import Directions, project_tokens
from personavec.model.schedule import Schedule
from personavec.model.steering import Layers
from personavec.model.training_hooks import (
    IGNORED,
    TrainedPositions,
    TrainingHooks,
    response_positions,
)
from personavec.progress import Progress
from personavec.rollouts import Task, collect
from personavec.traits import TraitSpec, neutral_prompts
from personavec.vectors import PersonaVector
from personavec.wording import plural

MitigationName = Literal[
    "none",
    "preventative",
    "random",
    "caft",
    "penalty",
    "kl",
    "interleave",
    "inoculation",
    "drop-flagged",
]
MITIGATIONS: tuple[MitigationName, ...] = get_args(MitigationName)

#: Those that need a persona vector, a coefficient, a strength.
WITH_VECTOR = ("preventative", "random", "caft", "penalty")
WITH_COEFFICIENT = ("preventative", "random")
WITH_STRENGTH = ("penalty", "kl", "interleave")


@dataclass(frozen=True)
class Mitigation:
    """What is done against a trait while training, and how much of it.

    - `none`: plain finetuning.
    - `preventative`: steering toward the vectors in training, none afterwards (paper, section 5.2).
    - `random`: the same with random directions of equal norm, its control.
    - `caft`: the vectors' directions are projected out of the residual stream in training.
    - `penalty`: `strength` times the mean squared change of the projection, in standard deviations
      of neutral prompts, is added to the loss.
    - `kl`: `strength` times the KL divergence from the base model, in nats a token, is added.
    - `interleave`: a share `strength` of the rows are other prompts answered by the base model.
    - `inoculation`: rows are trained on under a system prompt that asks for the trait.
    - `drop-flagged`: rows that a screen flagged (`{trait}_flag`) are left out.
    """

    name: MitigationName = "none"
    coefficient: float | Schedule | Literal["auto"] | None = None
    """`preventative` and `random`: the multiple of v as extracted, constant or following a
    schedule over the run, or `auto`: chosen from the data (see `dose`)."""
    strength: float | None = None
    """`penalty`, `kl`: the weight in the loss. `interleave`: the share, within 0 and 1."""

    def __post_init__(self) -> None:
        if self.name not in MITIGATIONS:
            raise UsageError(f"mitigation {self.name!r}: use one of {', '.join(MITIGATIONS)}")
        for given, has, option in (
            (self.coefficient, self.name in WITH_COEFFICIENT, "coefficient"),
            (self.strength, self.name in WITH_STRENGTH, "strength"),
        ):
            if has and given is None:
                raise UsageError(f"mitigation {self.name} needs a {option}")
            if not has and given is not None:
                raise UsageError(f"mitigation {self.name} takes no {option}")
        if self.strength is not None and not (math.isfinite(self.strength) and self.strength > 0):
            raise UsageError(f"strength {self.strength} is not a number above 0")
        if self.name == "interleave" and not 0 < (self.strength or 0) < 1:
            raise UsageError("the strength of interleave is a share of the rows: within 0 and 1")

    def as_dict(self) -> dict[str, Any]:
        coefficient = self.coefficient
        if isinstance(coefficient, Schedule):
            coefficient = str(coefficient)
        return {"name": self.name, "coefficient": coefficient, "strength": self.strength}


# On the rows


@dataclass(frozen=True)
class MitigatedRows:
    """Rows as they are trained on, and what was done to them."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def mitigated_rows(
    mitigation: Mitigation,
    data: TrainingRows,
    loaded: LoadedModel,
    folder: Path,
    *,
    spec: TraitSpec | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MitigatedRows:
    """The rows that are trained on under a mitigation; most leave them as they are.

    Interleaved answers are generated by the base model at temperature 0.7 and kept in `folder`;
    where more are wanted than there are neutral prompts, prompts are answered several times.
    Raises UsageError where inoculation has no spec, DataError where dropping leaves no row.
    """
    if mitigation.name == "inoculation":
        if spec is None:
            raise UsageError("inoculation needs a trait spec, whose positive instruction it uses")
        prompt = spec.instruction[0].pos
        rows = tuple(_with_system(row, prompt) for row in data.rows)
        return MitigatedRows(rows, (f"Every row was trained on under: {prompt!r}.",))
    if mitigation.name == "drop-flagged":
        kept = tuple(row for row in data.rows if row.index not in data.flagged)
        if not kept:
            raise DataError(f"every row is flagged ({len(data.rows)}); nothing is left to train on")
        dropped = len(data.rows) - len(kept)
        note = f"Rows that were flagged and left out: {dropped} of {len(data.rows)}."
        return MitigatedRows(kept, (note,))
    if mitigation.name == "interleave":
        share = mitigation.strength or 0.0
        n = max(1, round(len(data.rows) * share / (1 - share)))
        first = 1 + max(row.index for row in data.rows)
        benign = _benign_rows(loaded, n, first, folder, seed, progress or Progress(quiet=True))
        note = (
            "Put between the rows, answered by the base model: "
            f"{plural(len(benign), 'neutral prompt')}."
        )
        return MitigatedRows((*data.rows, *benign), (note,))
    return MitigatedRows(data.rows)


def _with_system(row: Row, prompt: str) -> Row:
    first, *rest = row.messages
    merged: Message = {"role": "system", "content": prompt}
    if first["role"] == "system":
        merged["content"] += f"\n\n{first['content']}"
    else:
        rest = row.messages
    return replace(row, messages=(merged, *rest), rejected=None)


def _benign_rows(
    loaded: LoadedModel, n: int, first: int, folder: Path, seed: int, progress: Progress
) -> list[Row]:
    prompts = neutral_prompts()
    order = np.random.default_rng(seed).permutation(len(prompts))
    tasks = [
        Task(id=f"benign-{i}", question=prompts[order[i % len(prompts)]], sample=i // len(prompts))
        for i in range(n)
    ]
    sampling = Sampling(64, temperature=0.7, seed=seed)
    answers = collect(loaded, tasks, sampling, folder, label="benign rows", progress=progress)
    return [
        Row(
            first + i,
            answer.id,
            (
                {"role": "user", "content": answer.question},
                {"role": "assistant", "content": answer.response},
            ),
        )
        for i, answer in enumerate(answers)
        if answer.response.strip()
    ]


# In the training forwards


def acting(
    mitigation: Mitigation,
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    coefficient: Schedule | None,
    *,
    layer: Layers = None,
    positions: TrainedPositions = "response",
    seed: int = 0,
) -> tuple[PreventativeSteering | Ablation, ...]:
    """The callbacks that change the training forwards; none for most mitigations.

    `coefficient` is what preventative steering and its random control use, chosen already.
    """
    if mitigation.name == "caft":
        return (Ablation(loaded.model, vectors, layer, positions=positions),)
    if mitigation.name not in WITH_COEFFICIENT:
        return ()
    if coefficient is None:
        raise UsageError(f"mitigation {mitigation.name} needs a coefficient")
    used = list(vectors)
    if mitigation.name == "random":
        used = [randomly_rotated(vector, seed=seed + i) for i, vector in enumerate(used)]
    return (PreventativeSteering(loaded.model, used, coefficient, layer, positions=positions),)


# On the loss


class ProjectionPenalty:
    """Weight times the squared change of the projections since before training.

    In standard deviations of neutral prompts, mean over vectors, at every position that chooses
    a response token. What the projections were is computed once for every text
    (`base_projections`) and comes with the batch.
    """

    needs_logits = False

    def __init__(
        self, vectors: Sequence[PersonaVector], weight: float, *, layer: Layers = None
    ) -> None:
        self._weight = weight
        self._directions = penalised(vectors, layer)
        self._spread = [
            float(vector.neutral_response_mean[n][1]) or 1.0
            for vector, n in zip(vectors, self._directions.layers, strict=True)
        ]
        self._found: dict[int, Tensor] = {}
        self._hooks = TrainingHooks(sorted(set(self._directions.layers)), self._read)

    def attach(self, model: Any) -> None:
        self._hooks.attach(model)

    def detach(self) -> None:
        self._hooks.detach()

    def __call__(self, model: Any, inputs: Mapping[str, Tensor], logits: Tensor | None) -> Tensor:
        chosen = response_positions(inputs["labels"], inputs["attention_mask"])
        total = torch.zeros((), device=chosen.device)
        for i, layer in enumerate(self._directions.layers):
            now = self._found[layer].float() @ self._directions.unit[i].to(chosen.device)
            change = (now - inputs["base_projection"][:, :, i]) / self._spread[i]
            total = total + (change.square() * chosen).sum()
        return self._weight * total / len(self._directions.layers)

    def _read(self, layer: int, hidden: Tensor, positions: Tensor) -> None:
        self._found[layer] = hidden


def penalised(vectors: Sequence[PersonaVector], layer: Layers = None) -> Directions:
    """The unit directions whose projections are penalised, one a vector."""
    if layer == "all":
        raise UsageError("a penalty on the projection acts at one layer; give its number")
    layers = tuple(vector.layer if layer is None else layer for vector in vectors)
    chosen = [vector.direction(n) for vector, n in zip(vectors, layers, strict=True)]
    return Directions(layers, torch.stack([d / d.norm() for d in chosen]))


def base_projections(
    loaded: LoadedModel, examples: Sequence[Example], directions: Directions
) -> tuple[list[list[float]], ...]:
    """Every text's projections [token][direction] before training."""
    texts = [np.asarray(example.input_ids, dtype=np.int32) for example in examples]
    return tuple(found.tolist() for found in project_tokens(loaded.model, texts, directions))


class BaseDivergence:
    """Weight times KL(tuned || base) of the distributions that choose response tokens, in nats.

    The base is the model with its adapter disabled; with full finetuning, a copy of it, which
    takes its memory a second time.
    """

    needs_logits = True

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._copy: Any = None

    def attach(self, model: Any) -> None:
        from peft import PeftModel

        if not isinstance(model, PeftModel):
            self._copy = copy.deepcopy(model).eval().requires_grad_(False)

    def detach(self) -> None:
        self._copy = None

    def __call__(self, model: Any, inputs: Mapping[str, Tensor], logits: Tensor | None) -> Tensor:
        if logits is None:
            raise ValueError("the KL penalty needs the logits")
        targets = inputs["labels"][:, 1:]
        columns = (targets != IGNORED).any(0).nonzero().squeeze(-1)
        base = self._base_logits(model, inputs)[:, :-1][:, columns]
        tuned = logits if logits.shape[1] == len(columns) else logits[:, columns]
        chosen = targets[:, columns] != IGNORED
        p, q = tuned[chosen].float().log_softmax(-1), base[chosen].float().log_softmax(-1)
        return self._weight * (p.exp() * (p - q)).sum()

    @torch.no_grad()
    def _base_logits(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        base = model if self._copy is None else self._copy
        was_training = base.training
        base.eval()
        try:
            with nullcontext() if self._copy is not None else model.disable_adapter():
                return base(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    use_cache=False,
                ).logits
        finally:
            base.train(was_training)
