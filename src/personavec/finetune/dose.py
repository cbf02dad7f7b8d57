"""How much preventative steering: from the data, and evidence against a wrong sign.

The data pull the model along the vector by their projection difference; steering by α adds
α·‖v‖ there. The dose begins where the two cancel, and two short training runs on a subsample,
without and with it, correct it to where the probes would not move.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from personavec.data import DataRow, Reject
from personavec.errors import DataError, RefusedError
from personavec.finetune.config import TrainingConfig
from personavec.finetune.examples import Example, collate
from personavec.finetune.hooks import Pull, PullAlong, TrainedPositions, TrainingHooks
from personavec.finetune.preventative import PreventativeSteering
from personavec.finetune.probes import Drift, Probes
from personavec.finetune.setup import Setup
from personavec.finetune.training import train
from personavec.model import Directions, LoadedModel, encode, project_tokens
from personavec.rollouts import Naturals, prompt_key
from personavec.runs import atomic_write, read_as, read_records
from personavec.stats import Interval, clustered_bootstrap
from personavec.vectors import PersonaVector

#: Rows that the projection difference and the gradient are measured on, and steps of a trial.
SAMPLE, TRIAL_STEPS = 32, 12
#: A trial run corrects the first dose by no more than these factors.
_LEAST, _MOST = 0.5, 3.0


@dataclass(frozen=True)
class Dose:
    """The coefficient that was chosen, and why."""

    coefficient: float
    difference: float
    """Mean projection difference of the data along the vector, with its interval."""
    low: float
    high: float
    norm: float
    """‖v‖ at the layer."""
    start: float
    """Where α·‖v‖ cancels the difference."""
    change_without: float | None
    """What a trial run did to the probes without steering, in sigma; None without a trial."""
    change_with: float | None
    """… and with steering at `start`."""
    why: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def projection_difference(
    loaded: LoadedModel,
    rows: Sequence[DataRow],
    vector: PersonaVector,
    layer: int,
    naturals: Naturals,
) -> Interval:
    """Mean projection of the rows' responses minus that of the natural ones, in residual units.

    Bootstrapped over prompts. Rows that cannot be encoded, or whose prompt has no natural
    response, are left out; raises DataError when fewer than two are left.
    """
    unit = vector.direction(layer) / vector.direction(layer).norm()
    texts, spans, prompts = [], [], []
    for row in rows:
        encoded = encode(loaded.chat, row, context=loaded.context, last_turn=True)
        if isinstance(encoded, Reject):
            continue
        text = encoded.texts[-1]
        turn = text.turns[-1]
        texts.append(text.ids)
        spans.append((turn.start, turn.stop))
        prompts.append(tuple(text.ids[: turn.prompt_last + 1].tolist()))
    found = project_tokens(loaded.model, texts, Directions((layer,), unit[None]))
    means = naturals.means(prompts, [layer])
    values, clusters = [], []
    for tokens, (start, stop), prompt in zip(found, spans, prompts, strict=True):
        natural = means[prompt_key(prompt)]
        if natural is not None:
            own = float(tokens[start:stop, 0].double().mean())
            values.append(own - float(natural[0].float() @ unit))
            clusters.append(prompt_key(prompt))
    if len(set(clusters)) < 2:
        raise DataError(
            "the projection difference needs two prompts that the model answers; "
            "give the coefficient itself"
        )
    return clustered_bootstrap(np.asarray(values), clusters)


def pull_before(
    loaded: LoadedModel,
    examples: Sequence[Example],
    directions: Mapping[str, tuple[int, torch.Tensor]],
    *,
    batch: int = 4,
) -> dict[str, Pull]:
    """How the untrained model's loss on the examples pulls along directions (`PullAlong`).

    The gradient is taken at the layers alone, not of the weights.
    """
    pull = PullAlong(directions)

    def read(layer: int, hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        leaf = hidden if hidden.requires_grad else hidden.detach().requires_grad_()
        pull.act(layer, leaf, positions)
        return leaf

    model, hooks = loaded.model, TrainingHooks(pull.layers, read)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    hooks.attach(model)
    model.train()
    try:
        for start in range(0, len(examples), batch):
            inputs = collate([asdict(e) for e in examples[start : start + batch]])
            inputs = {name: value.to(loaded.device) for name, value in inputs.items()}
            model(**inputs, use_cache=False).loss.backward()
        hooks.check_fired()
    finally:
        hooks.detach()
        model.eval()
        for weight in trained:
            weight.requires_grad_(True)
    return pull.take()


def pull_interval(pull: Pull) -> Interval:
    """The mean cosine of the rows' descent with the direction, bootstrapped over the rows.

    Raises DataError where fewer than two rows have a gradient.
    """
    return clustered_bootstrap(np.asarray(pull.rows), list(range(len(pull.rows))))


def check_sign(
    vector: PersonaVector, coefficient: float, pull: Pull, difference: Interval | None = None
) -> None:
    """Raise RefusedError, with the evidence, for steering the wrong way.

    That is a negative coefficient, or data that pull away from the vector: the whole interval of
    the gradient's cosine with it, or of the projection difference, lies below 0.
    """
    found = pull_interval(pull)
    evidence = (
        f"before training, descent at the layer has cosine {found.value:+.3f} "
        f"({found.low:+.3f} to {found.high:+.3f}) with the {vector.trait} vector"
    )
    if difference is not None:
        evidence += (
            f", and the data's projection difference is {difference.value:+.2f} "
            f"({difference.low:+.2f} to {difference.high:+.2f})"
        )
    if coefficient < 0:
        raise RefusedError(
            f"coefficient {coefficient:g} steers away from {vector.trait} in training, which is "
            f"reported to make it grow; {evidence}; use a coefficient above 0"
        )
    # The difference says where the data lie, the gradient only how they pull at first.
    decisive = found if difference is None else difference
    if decisive.high < 0:
        raise RefusedError(
            f"the data pull away from {vector.trait}, not toward it: {evidence}; steering toward "
            "it would train it in; use --mitigation none, or the vector that the data pull along"
        )


def choose_dose(
    loaded: LoadedModel,
    rows: Sequence[DataRow],
    examples: Sequence[Example],
    vector: PersonaVector,
    folder: Path,
    config: TrainingConfig,
    *,
    layer: int,
    positions: TrainedPositions = "response",
) -> Dose:
    """The coefficient that keeps the data from moving the model along a vector, and why.

    Begins where it cancels the projection difference, or its upper limit where the mean is not
    above 0; trial runs then correct it. Kept in `folder`, where a continued run finds it. Raises
    RefusedError where the data pull the other way, or not at all.
    """
    path = folder / "dose.json"
    if path.exists():
        return read_as(path, Dose, "delete it, and the dose is chosen again")
    sample = random.Random(config.seed).sample(list(rows), min(SAMPLE, len(rows)))
    naturals = Naturals(loaded, folder / "naturals")
    difference = projection_difference(loaded, sample, vector, layer, naturals)
    chosen = {row.index for row in sample}
    measured = [example for example in examples if example.row in chosen]
    direction = vector.direction(layer)
    pull = pull_before(loaded, measured, {vector.trait: (layer, direction)})[vector.trait]
    check_sign(vector, 1.0, pull, difference)
    norm = float(direction.norm())
    # Where the mean is not above 0, what it may be still is, or the sign would have been refused.
    pulls = difference.value > 0
    start = (difference.value if pulls else difference.high) / norm
    if config.full:
        if not pulls:
            raise _nothing(vector, difference)
        why = "cancels the projection difference; full finetuning has no trial run"
        found = _dose(start, start, difference, norm, None, None, why)
    else:
        without, with_it = (
            _trial(loaded, measured, vector, layer, folder / f"trial-{n}", config, at, positions)
            for n, at in enumerate((None, start))
        )
        if not pulls and without <= 0:
            raise _nothing(vector, difference)
        cancels = f"cancels the {'mean' if pulls else 'upper limit of the'} projection difference"
        coefficient, why = _corrected(start, without, with_it, cancels)
        found = _dose(coefficient, start, difference, norm, without, with_it, why)
    atomic_write(path, json.dumps(found.as_dict(), indent=1))
    return found


def _dose(
    coefficient: float,
    start: float,
    difference: Interval,
    norm: float,
    without: float | None,
    with_it: float | None,
    why: str,
) -> Dose:
    low, high = difference.low, difference.high
    return Dose(
        round(coefficient, 3), difference.value, low, high, norm, start, without, with_it, why
    )


def _nothing(vector: PersonaVector, difference: Interval) -> RefusedError:
    return RefusedError(
        f"--dose auto: the data do not pull toward {vector.trait} (projection difference "
        f"{difference.value:+.2f}, {difference.low:+.2f} to {difference.high:+.2f}); there is "
        "nothing to prevent; use --mitigation none"
    )


def _corrected(start: float, without: float, with_it: float, cancels: str) -> tuple[float, str]:
    """Where a line through the two trial runs' changes crosses 0, within limits."""
    trial = f"the trial runs moved the probes by {without:+.2f} sigma without, {with_it:+.2f} with"
    if without <= 0 or with_it >= without:
        return start, f"{cancels}; not corrected, as {trial}"
    wanted = start * without / (without - with_it)
    limited = float(np.clip(wanted, _LEAST * start, _MOST * start))
    why = f"begun where it {cancels}, then corrected: {trial}"
    if limited != wanted:
        why += f"; {wanted:.2f} would follow, limited to {_LEAST:g} to {_MOST:g} times the start"
    return limited, why


def _trial(
    loaded: LoadedModel,
    examples: Sequence[Example],
    vector: PersonaVector,
    layer: int,
    folder: Path,
    config: TrainingConfig,
    coefficient: float | None,
    positions: TrainedPositions,
) -> float:
    """How far a short run moves the probes, in sigma."""
    short = replace(config, checkpoint_every=1 << 30, warmup_steps=1, report_to=())
    drift = Drift(Probes(loaded, [vector], layer=layer), folder / "drift.jsonl", every=TRIAL_STEPS)
    acting = (
        ()
        if coefficient is None
        else (PreventativeSteering(loaded.model, vector, coefficient, layer, positions=positions),)
    )
    train(
        loaded,
        examples,
        folder / "run",
        short,
        setup=Setup(acting=acting, drift=drift, max_steps=TRIAL_STEPS),
    )
    return float(read_records(folder / "drift.jsonl")[-1]["traits"][vector.trait]["change"])
