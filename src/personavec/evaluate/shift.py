"""What a finetune did to a model's traits: the finetuning shift, and the expression beside it.

The shift of a trait is the change of the last prompt token's activation between base and tuned
model, averaged over the evaluation questions and projected onto the persona vector (paper, section
5.2). Any finetuning moves a model, so a benign finetune can be measured beside it and subtracted,
and random directions say how far the model moved along nothing in particular.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from personavec.conditions import Condition, Unit
from personavec.errors import DataError, UsageError
from personavec.judges import ContrastJudge, Judge, contrast, judge_notes, readers, spec_notes
from personavec.model import LoadedModel, capture_means, chat, check_tuned, tuned_model, weights_of
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.results import dump, versions
from personavec.rollouts import Rollout, Task, collect, judged, paired, summarise, write_rollouts
from personavec.runs import atomic_write, claim, lock
from personavec.stats import clustered_bootstrap
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector, projections, random_directions
from personavec.wording import plural


@dataclass(frozen=True)
class ShiftConfig:
    """Everything that decides the figures, beside the models, the vectors and the specs."""

    layer: int | None = None
    """Where shifts are read; default: each vector's selected layer."""
    questions: int | None = None
    """Evaluation questions per trait, the last ones; default: all."""
    samples: int = 1
    """Answers per question and model, for trait expression."""
    max_tokens: int = 64
    temperature: float = 0.7
    seed: int = 0
    random_directions: int = 20
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        if min(self.samples, self.max_tokens, self.random_directions, self.batch_tokens) < 1:
            raise UsageError(
                "samples, max_tokens, random_directions and batch_tokens must be at least 1"
            )
        if self.questions is not None and self.questions < 2:
            raise UsageError("an interval needs at least 2 questions")


@dataclass(frozen=True, eq=False)
class _Arm:
    """One model's last prompt tokens [question, hidden] and its answers, by trait."""

    states: Mapping[str, Tensor]
    answers: Mapping[str, list[Rollout]]


def run(
    base: LoadedModel,
    tuned: str,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    out: Path,
    config: ShiftConfig | None = None,
    *,
    control: str | None = None,
    fail_if: Sequence[Condition] = (),
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Shift and expression for every vector; `specs` has its trait's spec in the same order.

    `tuned` and `control` are names of models; an adapter of `base` is applied to it, not loaded
    with a base of its own. The base judges by contrast unless a judge is given. Writes
    `results.json` and `rollouts/` into `out`; a killed run continues with the same arguments.
    `results["met"]` holds the conditions of `fail_if` that were met, `results["unmeasured"]` why
    others could not be told.

    Raises UsageError for a condition in a unit that the judge does not give, VectorMismatchError,
    ModelError for a model that cannot be loaded or is of another shape, SettingsMismatchError when
    `out` was begun with other settings.
    """
    config = config or ShiftConfig()
    progress = progress or Progress()
    if not vectors or [v.trait for v in vectors] != [s.name for s in specs]:
        raise UsageError("a shift needs vectors, and each one's trait spec in the same order")
    if len({s.name for s in specs}) < len(specs):
        raise UsageError("two of the vectors are of the same trait; give each trait once")
    for vector in vectors:
        vector.check_fits(base.identity.n_layers, base.identity.hidden_size)
    judge = judge or ContrastJudge(base)
    check_conditions(fail_if, [v.trait for v in vectors], judge.name)
    for vector in vectors:
        if not vector.neutral_prompt_last[layer_of(vector, config), 1] > 0:
            raise DataError(
                f"vector '{vector.trait}' has no spread over neutral prompts, so no shift can be "
                "standardised by it; extract it again with more neutral prompts"
            )
    models = {"base": None, "tuned": tuned, **({"control": control} if control else {})}
    for name in filter(None, models.values()):
        check_tuned(name)
    started = time.monotonic()
    with lock(out):
        claim(out, _settings(base, models, vectors, specs, config, judge))
        arms = {
            arm: _measure(base, name, vectors, specs, out / "run" / arm, config, progress)
            for arm, name in models.items()
        }
        arms = _judged(arms, specs, judge, out, progress)
        traits = {v.trait: _trait(arms, v, config, judge) for v in vectors}
        results = {
            "base": base.identity.as_dict(),
            "tuned": tuned,
            "control": control,
            "judge": judge.identity(),
            "traits": traits,
            "met": [found for each in fail_if if (found := verdict(each, traits))],
            "unmeasured": [why for each in fail_if if (why := unmeasured(each, traits))],
            "conditions": [str(each) for each in fail_if],
            "notes": [
                *_notes(base, vectors, specs, config),
                *judge_notes(judge),
                *spec_notes(specs, readers(judge, base)),
            ],
            "settings": asdict(config),
            "versions": versions(),
            "seconds": round(time.monotonic() - started, 1),
        }
        atomic_write(out / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
    return results


# What is measured of one model


def last_prompt_states(
    loaded: LoadedModel, questions: Sequence[str], layer: int, *, batch_tokens: int = 16384
) -> Float[Tensor, "question hidden"]:
    """The activation at the last token of every question's prompt, float32.

    Without a system prompt, at the output of one layer.
    """
    rows = [loaded.chat.prompt_ids(chat(question)) for question in questions]
    spans = [[(len(row) - 1, len(row))] for row in rows]
    found = capture_means(loaded.model, rows, spans, layers=[layer], batch_tokens=batch_tokens)
    return found[:, 0, 0]


def asked(spec: TraitSpec, config: ShiftConfig) -> tuple[str, ...]:
    """The evaluation questions that are put."""
    return spec.last_questions(config.questions)


def layer_of(vector: PersonaVector, config: ShiftConfig) -> int:
    """Where a vector's shift is read. Raises UsageError for a layer that is none."""
    layer = vector.layer if config.layer is None else config.layer
    last = vector.n_layers
    if not 1 <= layer <= last:
        raise UsageError(f"layer {layer} does not exist: the vector has layers 1 to {last}")
    return layer


def _measure(
    base: LoadedModel,
    name: str | None,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    folder: Path,
    config: ShiftConfig,
    progress: Progress,
) -> _Arm:
    """A model's states and answers; what a finished run of it left in `folder` is read back."""
    sampling = Sampling(config.max_tokens, config.temperature, seed=config.seed)
    tasks = {
        spec.name: [
            Task(f"{spec.name}-q{number}-s{sample}", question, sample=sample)
            for number, question in enumerate(asked(spec, config))
            for sample in range(config.samples)
        ]
        for spec in specs
    }
    path = folder / "last-prompt.safetensors"
    with nullcontext(base) if name is None else tuned_model(base, name) as loaded:
        identity = loaded.identity
        for vector in vectors:
            vector.check_fits(identity.n_layers, identity.hidden_size)
        if not path.exists():
            found = {
                spec.name: last_prompt_states(
                    loaded,
                    asked(spec, config),
                    layer_of(vector, config),
                    batch_tokens=config.batch_tokens,
                )
                for vector, spec in zip(vectors, specs, strict=True)
            }
            atomic_write(path, save(found))
        answers = collect(
            loaded,
            [task for each in tasks.values() for task in each],
            sampling,
            folder,
            batch_tokens=config.batch_tokens,
            label=Path(identity.name).name,
            progress=progress,
        )
    by_id = {rollout.id: rollout for rollout in answers}
    try:
        states = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, and run again") from error
    wanted = {spec.name: (len(asked(spec, config)), identity.hidden_size) for spec in specs}
    if {name: tuple(of.shape) for name, of in states.items()} != wanted:
        raise DataError(f"{path} is damaged (activations of others); delete it, and run again")
    return _Arm(
        states,
        {trait: [by_id[task.id] for task in each] for trait, each in tasks.items()},
    )


def _judged(
    arms: Mapping[str, _Arm],
    specs: Sequence[TraitSpec],
    judge: Judge,
    out: Path,
    progress: Progress,
) -> dict[str, _Arm]:
    """The arms with their answers judged, when every adapter is off the base again."""
    scored: dict[str, dict[str, list[Rollout]]] = {arm: {} for arm in arms}
    for spec in specs:
        for arm, found in arms.items():
            scored[arm][spec.name] = judged(
                judge,
                found.answers[spec.name],
                spec,
                out / "run" / arm / spec.name,
                label=f"{spec.name}, {arm}",
                progress=progress,
            )
            write_rollouts(out / "rollouts" / f"{arm}-{spec.name}.jsonl", scored[arm][spec.name])
    return {arm: _Arm(found.states, scored[arm]) for arm, found in arms.items()}


# What it says


def shift_figures(
    change: Float[Tensor, "question hidden"],
    questions: Sequence[str],
    vector: PersonaVector,
    layer: int,
    *,
    random: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """The shift along a vector, from the change of activations at every question.

    `shift`, with `low` and `high`, in units of the residual stream; `sigma` the same in standard
    deviations of neutral prompts' last tokens, `norm` in mean residual norms of the layer.
    `random_largest` is the largest shift, in either direction, along `random` random directions,
    and `cosine` the share of the whole mean change that points along the vector.
    """
    direction = vector.direction(layer)
    interval = clustered_bootstrap(
        projections(change, direction).tolist(), list(questions), seed=seed
    )
    bounds = {"": interval.value, "_low": interval.low, "_high": interval.high}
    spread, norm = float(vector.neutral_prompt_last[layer, 1]), float(vector.residual_norm[layer])
    mean = change.mean(0)
    others = random_directions(direction, random, seed=seed)
    along = (others / others.norm(dim=-1, keepdim=True)) @ mean
    size = float(mean.norm())
    return {
        "layer": layer,
        "shift": interval.value,
        "low": interval.low,
        "high": interval.high,
        **{f"sigma{end}": value / spread for end, value in bounds.items()},
        **{f"norm{end}": value / norm for end, value in bounds.items()},
        "random_largest": float(along.abs().max()),
        "cosine": interval.value / size if size else None,
        "questions": len(set(questions)),
    }


def _trait(
    arms: Mapping[str, _Arm], vector: PersonaVector, config: ShiftConfig, judge: Judge
) -> dict[str, Any]:
    trait, layer = vector.trait, layer_of(vector, config)
    states = {arm: found.states[trait] for arm, found in arms.items()}
    answers = {arm: found.answers[trait] for arm, found in arms.items()}
    questions = list(dict.fromkeys(r.question for r in answers["base"]))

    def figures(change: Tensor) -> dict[str, Any]:
        return shift_figures(
            change, questions, vector, layer, random=config.random_directions, seed=config.seed
        )

    expression = {
        f"expression_{arm}": dump(
            summarise(found, refusals=judge.name != contrast.NAME, seed=config.seed)
        )
        for arm, found in answers.items()
    }
    found = {
        **figures(states["tuned"] - states["base"]),
        **expression,
        "expression_difference": dump(paired(answers["tuned"], answers["base"], config.seed)),
    }
    if "control" in states:
        found |= {
            "control": figures(states["control"] - states["base"]),
            "beyond_control": figures(states["tuned"] - states["control"]),
            "expression_beyond_control": dump(
                paired(answers["tuned"], answers["control"], config.seed)
            ),
        }
    return found


def reading(
    found: Mapping[str, Any], unit: Unit
) -> tuple[float | None, float | None, float | None]:
    """A trait's value, low and high in a condition's unit.

    `sigma` and `norm` read the shift, beyond the control's where there is one; `log_odds` and
    `score` read the tuned model's expression.
    """
    if unit in ("sigma", "norm"):
        moved = found.get("beyond_control", found)
        return moved[unit], moved[f"{unit}_low"], moved[f"{unit}_high"]
    shown = found["expression_tuned"]
    if unit == "score":
        return shown["mean"], shown["low"], shown["high"]
    return shown["log_odds"], shown["log_odds_low"], shown["log_odds_high"]


def units(judge: str) -> tuple[Unit, ...]:
    """Those that a condition on a shift can be in under a judge of that name."""
    shown: tuple[Unit, ...] = ("log_odds", "score") if judge == contrast.NAME else ("score",)
    return ("sigma", "norm", *shown)


def check_conditions(conditions: Sequence[Condition], traits: Sequence[str], judge: str) -> None:
    """Raise UsageError for a condition that nothing in a shift could tell."""
    for condition in conditions:
        if condition.trait not in traits:
            raise UsageError(f"condition {condition}: the traits are {', '.join(traits)}")
        if condition.unit not in units(judge):
            raise UsageError(
                f"condition {condition}: under the judge '{judge}' the unit must be one of "
                f"{', '.join(units(judge))}"
            )


def unmeasured(condition: Condition, traits: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why a condition could not be told, if so."""
    found = traits[condition.trait]
    value, *_ = reading(found, condition.unit)
    if value is not None and condition.measured({condition.trait: value}):
        return None
    shown = found["expression_tuned"]
    states = ", ".join(f"{n} {state}" for state, n in shown["states"].items())
    return (
        f"{condition} could not be measured: of {plural(shown['of'], 'answer')} after finetuning "
        f"{shown['n']} were scored ({states}), and an estimate needs those of two questions"
    )


def verdict(condition: Condition, traits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The condition with its reading and a readable reason, if it is met."""
    found = traits[condition.trait]
    value, low, high = reading(found, condition.unit)
    if value is None or not condition.met({condition.trait: value}):
        return None
    what = {
        "sigma": "the shift",
        "norm": "the shift",
        "log_odds": "expression after finetuning",
        "score": "expression after finetuning",
    }[condition.unit]
    if "beyond_control" in found and condition.unit in ("sigma", "norm"):
        what += " beyond the control's"
    side = "above" if condition.side == ">" else "below"
    return {
        "condition": str(condition),
        "value": value,
        "low": low,
        "high": high,
        "reason": f"{condition.trait}: {what} is {value:.2f} {condition.unit} ({low:.2f} to "
        f"{high:.2f}), {side} {condition.threshold:g}",
    }


def _settings(
    base: LoadedModel,
    models: Mapping[str, str | None],
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    config: ShiftConfig,
    judge: Judge,
) -> dict[str, Any]:
    """What a continued run must share. Conditions read what was measured, so they may change."""
    return {
        "command": "shift",
        "base": base.identity.as_dict(),
        "models": {
            arm: {"name": name, "weights": weights_of(name)} for arm, name in models.items() if name
        },
        "vectors": {v.trait: v.identity for v in vectors},
        "layers": {v.trait: layer_of(v, config) for v in vectors},
        "specs": {spec.name: spec.hash for spec in specs},
        "judge": judge.identity(),
        "config": asdict(config),
    }


def _notes(
    base: LoadedModel,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    config: ShiftConfig,
) -> list[str]:
    identity = base.identity
    warnings = [v.other_model_warning(*identity.lineage) for v in vectors]
    notes = [*base.chat.notes, *(f"{w[0].upper()}{w[1:]}." for w in warnings if w)]
    if min(len(asked(spec, config)) for spec in specs) < 10:
        notes.append("Intervals from fewer than ten questions are too narrow.")
    return list(dict.fromkeys(notes))
