"""The dose of preventative steering: how much, and evidence against a wrong sign.

The data pull the model along the vector by their projection difference; steering by α adds
α·‖v‖. The dose starts where the two cancel. Two short training runs on a sample, without and with
it, then correct it to where the probes would not move.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from accelerate import PartialState

from personavec.data import DataRow, Reject
from personavec.errors import DataError, RefusedError
from personavec.finetune.job import FinetuneJob
from personavec.finetune.preventative import PreventativeSteering
from personavec.finetune.probes import DriftLog, Probes
from personavec.finetune.pull import Pull, pull_before, pull_interval
from personavec.finetune.results import PreventativeDose
from personavec.finetune.setup import TrainingSetup
from personavec.finetune.texts import TrainingText
from personavec.finetune.training import train
from personavec.model import Directions, LoadedModel, encode, project_tokens
from personavec.progress import Progress
from personavec.results import Estimate
from personavec.rollouts import Naturals, prompt_key
from personavec.runs import atomic_write, read_as, read_records
from personavec.stats import Interval, clustered_bootstrap
from personavec.vectors import PersonaVector
from personavec.wording import decimal, estimated, plural

#: Rows that the projection difference and the gradient are measured on, and steps of a trial.
SAMPLE, TRIAL_STEPS = 32, 12
#: A trial run corrects the first dose by no more than these factors.
_LEAST, _MOST = 0.5, 3.0


def projection_difference(
    loaded: LoadedModel,
    rows: Sequence[DataRow],
    vector: PersonaVector,
    layer: int,
    naturals: Naturals,
) -> Interval:
    """Mean projection of the rows' responses minus that of the natural responses.

    In units of the residual stream, bootstrapped over prompts. Rows that cannot be encoded, or
    whose prompt has no natural response, are left out; raises DataError where fewer than two
    prompts are left.
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


def check_sign(
    vector: PersonaVector, coefficient: float, pull: Pull, difference: Interval | None = None
) -> None:
    """Raise RefusedError, with the evidence, for steering in the wrong direction.

    That is a negative coefficient, or data that pull away from the vector: the whole interval of
    the projection difference, or without it of the gradient's cosine, lies below 0.
    """
    found = pull_interval(pull)
    evidence = (
        "before training, descent at the layer has cosine "
        f"{estimated(Estimate.of(found), '+.3f')} with the {vector.trait} vector"
    )
    if difference is not None:
        evidence += (
            ", and the data's projection difference is "
            f"{estimated(Estimate.of(difference), '+.2f')}"
        )
    if coefficient < 0:
        raise RefusedError(
            f"coefficient {coefficient:g} steers away from {vector.trait} in training, which is "
            f"reported to make it grow; {evidence}; use a coefficient above 0"
        )
    # The difference says where the data lie; the gradient, only how they pull at the start.
    decisive = found if difference is None else difference
    if decisive.high < 0:
        raise RefusedError(
            f"the data pull away from {vector.trait}, not toward it: {evidence}; steering toward "
            "it would train it in; use --mitigation none, or the vector that the data pull along"
        )


def choose_dose(
    job: FinetuneJob, rows: Sequence[DataRow], texts: Sequence[TrainingText]
) -> PreventativeDose:
    """The coefficient that keeps the data from moving the model along the job's vector, and why.

    Starts where it cancels the projection difference, or its upper limit where the mean is not
    above 0; trial runs then correct it. It is kept in the folder, where a continued run finds it.
    Raises RefusedError where the data pull away from the vector, or do not pull at all.
    """
    path = job.out / "run" / "dose.json"
    if path.exists():
        return read_as(path, PreventativeDose, "delete it, and the dose is chosen again")
    (vector,) = job.vectors
    layer, direction = job.directions[vector.trait]
    sample = random.Random(job.config.training.seed).sample(list(rows), min(SAMPLE, len(rows)))
    naturals = Naturals(job.loaded, job.out / "run" / "naturals")
    difference = projection_difference(job.loaded, sample, vector, layer, naturals)
    chosen = {row.index for row in sample}
    measured = [text for text in texts if text.row in chosen]
    pull = pull_before(job.loaded, measured, {vector.trait: (layer, direction)})[vector.trait]
    check_sign(vector, 1.0, pull, difference)
    found = _dose(job, measured, difference, float(direction.norm()))
    atomic_write(path, json.dumps(asdict(found), indent=1))
    return found


def _dose(
    job: FinetuneJob, texts: Sequence[TrainingText], difference: Interval, norm: float
) -> PreventativeDose:
    """Where α·‖v‖ cancels the difference, corrected by trial runs on the texts."""
    (vector,) = job.vectors
    # A mean that is not above 0 with an upper limit above 0 does not tell the sign.
    pulls = difference.value > 0
    start = (difference.value if pulls else difference.high) / norm
    say = _progress(job).say
    say(
        f"dose: the data lie {estimated(Estimate.of(difference), '+.2f')} along {vector.trait}, "
        f"and steering by 1 adds {norm:.2f}: begin at {start:.2f}"
    )
    without = with_it = None
    if job.config.training.full:
        if not pulls:
            raise _nothing_to_prevent(vector, difference)
        coefficient = start
        why = "cancels the projection difference; full finetuning has no trial run"
    else:
        without, with_it = _trial(job, texts, None), _trial(job, texts, start)
        if not pulls and without <= 0:
            raise _nothing_to_prevent(vector, difference)
        cancels = f"cancels the {'mean' if pulls else 'upper limit of the'} projection difference"
        coefficient, why = _corrected(start, without, with_it, cancels)
    say(f"dose: coefficient {coefficient:.3f}; {why}")
    return PreventativeDose(
        coefficient=round(coefficient, 3),
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        norm=norm,
        start=start,
        change_without=without,
        change_with=with_it,
        why=why,
    )


def _nothing_to_prevent(vector: PersonaVector, difference: Interval) -> RefusedError:
    return RefusedError(
        f"--dose auto: the data do not pull toward {vector.trait} (projection difference "
        f"{estimated(Estimate.of(difference), '+.2f')}); there is nothing to prevent; use "
        "--mitigation none"
    )


def _corrected(start: float, without: float, with_it: float, cancels: str) -> tuple[float, str]:
    """Where a line through the two trial runs' changes crosses 0, within limits; and why."""
    moved = f"{decimal(without, '+.2f')} sigma without, {decimal(with_it, '+.2f')} with"
    trial = f"the trial runs moved the probes by {moved}"
    if without <= 0 or with_it >= without:
        return start, f"{cancels}; not corrected, as {trial}"
    wanted = start * without / (without - with_it)
    limited = float(np.clip(wanted, _LEAST * start, _MOST * start))
    why = f"begun where it {cancels}, then corrected: {trial}"
    if limited != wanted:
        why += f"; {wanted:.2f} would follow, limited to {_LEAST:g} to {_MOST:g} times the start"
    return limited, why


def _trial(job: FinetuneJob, texts: Sequence[TrainingText], coefficient: float | None) -> float:
    """How far a short run moves the probes, in sigma; steered by a coefficient, or not."""
    (vector,) = job.vectors
    config, layer = job.config, job.layer_of(vector)
    folder = job.out / "run" / f"trial-{0 if coefficient is None else 1}"
    short = replace(config.training, checkpoint_every=1 << 30, warmup_steps=1, report_to=())
    probes = Probes(job.loaded, [vector], layer=layer)
    drift = DriftLog(probes, folder / "drift.jsonl", every=TRIAL_STEPS)
    steering = ()
    if coefficient is not None:
        model, positions = job.loaded.model, config.positions
        steering = (PreventativeSteering(model, vector, coefficient, layer, positions=positions),)
    progress = _progress(job)
    label = "trial without steering" if coefficient is None else f"trial at {coefficient:.2f}"
    setup = TrainingSetup(
        steering=steering, drift=drift, max_steps=TRIAL_STEPS, progress=progress, label=label
    )
    train(job.loaded, texts, folder / "run", short, setup=setup)
    found = float(read_records(folder / "drift.jsonl")[-1]["traits"][vector.trait]["change"])
    steps = plural(TRIAL_STEPS, "step")
    progress.say(f"{label}: {vector.trait} changed by {decimal(found, '+.2f')} sigma in {steps}")
    return found


def _progress(job: FinetuneJob) -> Progress:
    """Of several processes one speaks."""
    return job.progress if PartialState().is_main_process else Progress(quiet=True)
