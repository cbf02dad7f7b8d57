"""Extract a trait's persona vector, select its layer, and validate it by steering.

The method of the paper, in its order: rollouts under contrastive system prompts, a judge that
keeps those which show what they should, the difference of mean activations, layer selection by
steering, a dose-response curve with controls, a report.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from personavec import summaries, validation
from personavec.adoption import Adopted, adopt, fingerprints, read_rollouts
from personavec.baseline import neutral_means
from personavec.errors import SpecError, TooFewRolloutsError, UsageError
from personavec.estimators import estimate, mean_difference
from personavec.judges.base import Judge
from personavec.judges.contrast import ContrastJudge
from personavec.judges.readers import readers, spec_notes
from personavec.judges.rubric import judge_notes
from personavec.model.engine.base import SPANS, Engine, Sampling
from personavec.model.engine.hf import TransformersEngine
from personavec.model.loading import LoadedModel
from personavec.progress import Progress
from personavec.projection import mean_and_spread, random_directions
from personavec.report.extraction import write_extraction_report
from personavec.rollouts import (
    Rollout,
    Task,
    collect,
    elicitation_tasks,
    keep,
    load_activations,
    write_rollouts,
)
from personavec.runs import atomic_write, claim, lock
from personavec.traits import Origin, TraitSpec
from personavec.vectors import Estimator, PersonaVector
from personavec.wording import plural

#: Fewer kept rollouts than this on either side do not make a vector.
MIN_KEPT = 10


@dataclass(frozen=True)
class ExtractConfig:
    """Everything that decides an extraction's result, beside the model and the spec."""

    samples: int = 1
    """Responses per question, pair and polarity."""
    max_tokens: int = 64
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int = 0
    trait_threshold: float = 50
    """Trait score that positive rollouts must exceed and negative ones stay under."""
    coherence_floor: float = 50
    """Rollouts below this coherence are dropped."""
    layers: tuple[int, ...] | None = None
    """Candidate layers; default: eight, evenly over the middle of the network."""
    sweep_coefficients: tuple[float, ...] = (2.0, 4.0)
    sweep_questions: int = 8
    """Evaluation questions set aside for layer selection; validation uses the others."""
    coefficients: tuple[float, ...] = (-4, -3, -2, -1, 0, 1, 2, 3, 4)
    validation_samples: int = 2
    """Steered responses per validation question and coefficient, controls included."""
    random_directions: int = 5
    neutral_prompts: int = 48
    """Neutral prompts whose projections standardise later readings."""
    estimators: tuple[Estimator, ...] = ("mean",)
    """How the direction is estimated; the layer sweep picks where there are several."""
    include_thinking: bool = False
    """Take what a reasoning model thought into the response mean."""
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        if 0 not in self.coefficients:
            raise UsageError("the coefficients must include 0, the unsteered baseline")
        # A dose-response is read from left to right, whatever order they were given in.
        object.__setattr__(self, "coefficients", tuple(sorted({*self.coefficients})))
        object.__setattr__(self, "sweep_coefficients", tuple(sorted({*self.sweep_coefficients})))
        if self.sweep_questions < validation.MIN_QUESTIONS:
            raise UsageError(f"sweep_questions must be at least {validation.MIN_QUESTIONS}")
        if self.max_tokens < 1 or self.samples < 1 or self.batch_tokens < 1:
            raise UsageError("max_tokens, samples and batch_tokens must be at least 1")


def run(
    loaded: LoadedModel,
    spec: TraitSpec,
    out: Path,
    config: ExtractConfig | None = None,
    *,
    origin: Origin = "file",
    judge: Judge | None = None,
    rollouts: Sequence[Path] = (),
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Extract and validate one persona vector; returns the results that the report draws.

    Writes the vector, `rollouts.jsonl`, `activations/`, `results.json` and `report.html` into
    `out`. A killed run is continued by calling again with the same settings. `rollouts` are files
    of existing ones to adopt in place of generating (`adoption.py`). `engine` generates, if it is
    given, in place of the transformers model.

    Raises SettingsMismatchError when `out` was begun with other settings, TooFewRolloutsError
    when fewer than 10 rollouts of a polarity survive the filter (the rollouts stay on disk).
    """
    config = config or ExtractConfig()
    judge = judge or ContrastJudge(loaded, wrote_answers=True)
    progress = progress or Progress()
    layers = candidate_layers(loaded, config.layers)
    split_questions(spec, config)
    engine = engine or TransformersEngine(loaded, config.batch_tokens)
    settings = _settings(loaded, spec, config, judge, engine)
    adopted = None
    if rollouts:
        settings["rollouts"] = fingerprints(rollouts)
        adopted = read_rollouts(loaded, rollouts, spec)
    notes = [adopted.note(rollouts)] if adopted else []
    with lock(out):
        claim(out, settings)
        return _run(
            loaded, spec, out, config, origin, judge, engine, progress, layers, adopted, notes
        )


def questions_to_judge(spec: TraitSpec, config: ExtractConfig) -> list[str]:
    """The question of every rollout that is generated for the judge, in order.

    Steered responses are not among them: the contrast judge measures those.
    """
    tasks = elicitation_tasks(spec, spec.questions.extraction, config.samples)
    return [task.question for task in tasks]


def split_questions(
    spec: TraitSpec, config: ExtractConfig
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Evaluation questions to select the layer by, and those that test the vector.

    Raises SpecError where either would be too few for an interval.
    """
    questions = spec.questions.evaluation
    least = validation.MIN_QUESTIONS
    if len(questions) < 2 * least:
        raise SpecError(
            f"trait '{spec.name}' has {len(questions)} evaluation questions; an extraction needs "
            f"{2 * least}, {least} to select the layer by and {least} to test the vector with"
        )
    aside = min(config.sweep_questions, len(questions) // 2)
    return questions[:aside], questions[aside:]


def candidate_layers(loaded: LoadedModel, layers: Sequence[int] | None) -> list[int]:
    """The layers to sweep: those given, or about eight over the middle of the network."""
    n = loaded.identity.n_layers
    if layers:
        if bad := [layer for layer in layers if not 1 <= layer <= n]:
            raise UsageError(f"layer {bad[0]} does not exist: {loaded.identity.name} has 1 to {n}")
        return sorted(set(layers))
    return sorted({max(1, round(n * share)) for share in _LAYER_SHARES})


_LAYER_SHARES = (0.25, 0.33, 0.4, 0.47, 0.53, 0.6, 0.67, 0.75)


def _settings(
    loaded: LoadedModel, spec: TraitSpec, config: ExtractConfig, judge: Judge, engine: Engine
) -> dict[str, Any]:
    return {
        "command": "extract",
        "trait": spec.name,
        "spec": spec.hash,
        "model": loaded.identity.as_dict(),
        "judge": judge.identity(),
        "engine": engine.name,
        "config": asdict(config),
    }


def _run(
    loaded: LoadedModel,
    spec: TraitSpec,
    out: Path,
    config: ExtractConfig,
    origin: Origin,
    judge: Judge,
    engine: Engine,
    progress: Progress,
    layers: list[int],
    adopted: Adopted | None,
    notes: list[str],
) -> dict[str, Any]:
    clock = _Clock()
    sampling = Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)

    # Steering is measured in log-odds, which the contrast judge alone gives.
    measuring = judge
    if not isinstance(judge, ContrastJudge):
        measuring = ContrastJudge(loaded, wrote_answers=True)
        notes = [
            *notes,
            f"The rollouts were kept by the {judge.name} judge; steering was measured in log-odds "
            "by the contrast judge.",
        ]

    def gather(
        tasks: Sequence[Task],
        label: str,
        *,
        judge: Judge = measuring,
        activations: Path | None = None,
    ) -> list[Rollout]:
        found = collect(
            loaded,
            tasks,
            sampling,
            out / "run" / label.replace(" ", "-"),
            spec=spec,
            judge=judge,
            activations=activations,
            include_thinking=config.include_thinking,
            engine=engine,
            label=label,
            progress=progress,
        )
        clock.lap(label)
        return found

    def take(adopted: Adopted) -> list[Rollout]:
        adopted.write_rejected(out / "rejected.jsonl")
        found = adopt(
            loaded,
            adopted,
            spec,
            out / "run" / "extraction",
            judge=judge,
            activations=out / "activations",
            include_thinking=config.include_thinking,
            label="extraction",
            progress=progress,
        )
        clock.lap("extraction")
        return found

    # Rollouts under contrastive system prompts, judged and filtered.
    rollouts = keep(
        gather(
            elicitation_tasks(spec, spec.questions.extraction, config.samples),
            "extraction",
            judge=judge,
            activations=out / "activations",
        )
        if adopted is None
        else take(adopted),
        trait_threshold=config.trait_threshold,
        coherence_floor=config.coherence_floor,
    )
    write_rollouts(out / "rollouts.jsonl", rollouts)
    pos = [r for r in rollouts if r.polarity == "pos" and r.kept]
    neg = [r for r in rollouts if r.polarity == "neg" and r.kept]
    _require_enough(rollouts, pos, neg, out)

    # Persona vector: difference of mean activations, at every layer and for three spans.
    pos_means = load_activations(out / "activations", [r.id for r in pos])
    neg_means = load_activations(out / "activations", [r.id for r in neg])
    by_span = {
        span: mean_difference(pos_means[:, i], neg_means[:, i]) for i, span in enumerate(SPANS)
    }
    by_estimator: dict[Estimator, Tensor] = {
        name: estimate(name, pos_means[:, 0], neg_means[:, 0]) for name in config.estimators
    }
    # Kept beside the vector in use: it tells rows apart better than the mean difference does.
    logistic = by_estimator.get("logistic")
    if logistic is None:
        logistic = estimate("logistic", pos_means[:, 0], neg_means[:, 0])

    # Layer selection on evaluation questions set aside for it.
    sweep_questions, test_questions = split_questions(spec, config)
    sweep = validation.sweep_layers(
        by_estimator, layers, config.sweep_coefficients, sweep_questions, gather, seed=config.seed
    )
    selected = validation.select(sweep)
    layer, vectors = selected.layer, by_estimator[selected.estimator]

    # Validation on the other evaluation questions, with controls.
    direction = vectors[layer]
    doses, by_dose = validation.dose_response(
        direction,
        layer,
        config.coefficients,
        test_questions,
        gather,
        samples=config.validation_samples,
        seed=config.seed,
    )
    ends = validation.coherent_range(doses)
    control = validation.random_controls(
        random_directions(direction, config.random_directions, seed=config.seed),
        layer,
        [end for end in ends if end],
        test_questions,
        gather,
        samples=config.validation_samples,
        seed=config.seed,
    )
    prompted = gather(
        elicitation_tasks(spec, test_questions, 1),
        "system prompts",
        activations=out / "run" / "system-prompts",
    )

    # The neutral baseline against which later readings are standardised.
    neutral = neutral_means(
        loaded,
        sampling,
        out / "run" / "neutral-prompts",
        n=config.neutral_prompts,
        engine=engine,
        progress=progress,
    )
    clock.lap("neutral prompts")

    residual = residual_norms(pos_means[:, 0], neg_means[:, 0])
    held_out = [r for r in prompted if r.n_tokens]
    evidence = summaries.Evidence(
        rollouts=rollouts,
        pos_means=pos_means[:, 0, layer],
        neg_means=neg_means[:, 0, layer],
        vectors=vectors,
        mean_diff=by_span["response_mean"],
        estimator=selected.estimator,
        residual_norm=residual,
        layer=layer,
        sweep=sweep,
        doses=doses,
        by_dose=by_dose,
        ends=ends,
        control=control,
        prompted=prompted,
        held_out=held_out,
        held_out_means=load_activations(out / "run" / "system-prompts", [r.id for r in held_out])[
            :, 0, layer
        ],
        test_questions=test_questions,
    )
    results = summaries.without_nan(
        {
            "trait": {"name": spec.name, "description": spec.description, "origin": origin},
            "spec": summaries.describe_spec(spec),
            "model": loaded.identity.as_dict(),
            "engine": engine.describe(),
            "judge": judge.identity(),
            "settings": asdict(config),
            "versions": summaries.versions(),
            "notes": [
                *notes,
                *judge_notes(judge),
                *summaries.notes(loaded, spec, origin),
                *spec_notes([spec], readers(judge, loaded)),
            ],
            "rejected": len(adopted.rejected) if adopted else 0,
            "data": {name: told.to_dict() for name, told in adopted.told.items()}
            if adopted
            else {},
            **summaries.summarise(
                evidence, config.trait_threshold, config.coherence_floor, config.seed
            ),
            "seconds": clock.seconds(),
        }
    )
    PersonaVector(
        response_mean_diff=by_span["response_mean"],
        prompt_mean_diff=by_span["prompt_mean"],
        prompt_last_diff=by_span["prompt_last"],
        residual_norm=residual,
        neutral_response_mean=mean_and_spread(neutral[:, 0], vectors),
        neutral_prompt_last=mean_and_spread(neutral[:, 2], vectors),
        trait=spec.name,
        layer=layer,
        meta=summaries.vector_meta(results),
        response_logistic=logistic,
        logistic_neutral=torch.stack(
            [mean_and_spread(neutral[:, span], logistic) for span in (0, 2)]
        ),
        estimator=selected.estimator,
    ).save(out)
    atomic_write(out / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
    write_extraction_report(results, out / "report.html")
    return results


def residual_norms(
    pos: Float[Tensor, "pos layer hidden"], neg: Float[Tensor, "neg layer hidden"]
) -> Float[Tensor, " layer"]:
    """Mean norm of the response-mean activations at every layer."""
    return torch.cat([pos, neg]).norm(dim=-1).mean(0)


def summary(results: dict[str, Any], out: Path) -> dict[str, Any]:
    """The keys that `extract --json` promises."""
    return {
        "trait": results["trait"]["name"],
        "model": results["model"]["name"],
        "vector": str(out),
        "layer": results["layer"],
        "estimator": results["estimator"],
        "kept": {
            "pos": results["rollouts"]["pos"]["kept"],
            "neg": results["rollouts"]["neg"]["kept"],
            "of": results["rollouts"]["pos"]["of"],
        },
        "rejected": results["rejected"],
        "data": results["data"],
        "log_odds": results["mean_log_odds"],
        "dose_response": results["dose_response"],
        "control": results["control"],
        "coherent_range": results["coherent_range"],
        "wrong_way": results["wrong_way"],
        "separability_auc": results["separability_auc"],
        "split_half_cosine": results["split_half_cosine"],
        "passed": results["verdict"]["passed"],
        "checks": results["verdict"]["checks"],
        "notes": results["notes"],
        "report": str(out / "report.html"),
        "seconds": round(sum(results["seconds"].values()), 1),
    }


class _Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._laps: dict[str, float] = {}

    def lap(self, label: str) -> None:
        now = time.monotonic()
        self._laps[label] = self._laps.get(label, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        self.lap("summaries")
        return {label: round(seconds, 2) for label, seconds in self._laps.items()}


def _require_enough(
    rollouts: Sequence[Rollout], pos: Sequence[Rollout], neg: Sequence[Rollout], out: Path
) -> None:
    if min(len(pos), len(neg)) >= MIN_KEPT:
        return
    reasons = Counter(
        f"{r.polarity}: {r.why_dropped}" for r in rollouts if r.why_dropped is not None
    )
    why = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
    positive = sum(r.polarity == "pos" for r in rollouts)
    negative = len(rollouts) - positive
    of = f"{positive} each" if positive == negative else f"{positive} and {negative}"
    unfinished = any(r.state == "unfinished_thought" for r in rollouts)
    remedy = "--max-tokens" if unfinished else "--samples"
    raise TooFewRolloutsError(
        f"only {len(pos)} positive and {plural(len(neg), 'negative rollout')} of {of} are left, "
        f"{MIN_KEPT} of each are needed ({why}); raise {remedy}, or make the pairs or the "
        f"description plainer; the rollouts are kept in {out / 'rollouts.jsonl'}"
    )
