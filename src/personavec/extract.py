"""Extract a trait's persona vector, select its layer, and validate it by steering.

The method of the paper, in its order: rollouts under contrastive system prompts, a judge that
keeps those which show what they should, the difference of mean activations, layer selection by
steering, a dose-response curve with controls, a report.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from personavec import validation
from personavec.errors import TooFewRolloutsError, UsageError
from personavec.model.engine.base import SPANS, Sampling
from personavec.model.loading import LoadedModel
from personavec.progress import Progress
from personavec.projection import (
    agreement,
    largest_coordinate,
    mean_and_spread,
    mean_difference,
    projections,
    question_differences,
    random_directions,
    split_half_cosine,
)
from personavec.report.extraction import write_extraction_report
from personavec.rollouts import (
    Rollout,
    Task,
    collect,
    keep,
    load_activations,
    write_rollouts,
)
from personavec.runs import atomic_write, claim, lock
from personavec.stats import Interval, auc_interval, clustered_bootstrap
from personavec.traits import Origin, TraitSpec, neutral_prompts
from personavec.vectors import PersonaVector

#: Fewer kept rollouts than this on either side do not make a vector.
MIN_KEPT = 10
#: One coordinate holding more of the vector's squared norm than this is a massive activation.
MASSIVE_SHARE = 0.5


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
    coefficients: tuple[float, ...] = (-8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8)
    validation_samples: int = 1
    """Steered responses per validation question and coefficient."""
    random_directions: int = 5
    neutral_prompts: int = 48
    """Neutral prompts whose projections standardise later readings."""
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        if 0 not in self.coefficients:
            raise UsageError("the coefficients must include 0, the unsteered baseline")
        if self.max_tokens < 1 or self.samples < 1 or self.batch_tokens < 1:
            raise UsageError("max_tokens, samples and batch_tokens must be at least 1")


def run(
    loaded: LoadedModel,
    spec: TraitSpec,
    out: Path,
    config: ExtractConfig | None = None,
    *,
    origin: Origin = "file",
    judge_model: LoadedModel | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Extract and validate one persona vector; returns the results that the report draws.

    Writes the vector, `rollouts.jsonl`, `activations/`, `results.json` and `report.html` into
    `out`. A killed run is continued by calling again with the same settings.

    Raises SettingsMismatchError when `out` was begun with other settings, TooFewRolloutsError
    when fewer than 10 rollouts of a polarity survive the filter (the rollouts stay on disk).
    """
    config = config or ExtractConfig()
    progress = progress or Progress()
    layers = candidate_layers(loaded, config.layers)
    with lock(out):
        claim(out, _settings(loaded, spec, config, judge_model))
        return _run(loaded, spec, out, config, origin, judge_model, progress, layers)


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
    loaded: LoadedModel, spec: TraitSpec, config: ExtractConfig, judge: LoadedModel | None
) -> dict[str, Any]:
    return {
        "command": "extract",
        "trait": spec.name,
        "spec": spec.hash,
        "model": loaded.identity.as_dict(),
        "judge_model": judge.identity.as_dict() if judge else None,
        "config": asdict(config),
    }


def _run(
    loaded: LoadedModel,
    spec: TraitSpec,
    out: Path,
    config: ExtractConfig,
    origin: Origin,
    judge_model: LoadedModel | None,
    progress: Progress,
    layers: list[int],
) -> dict[str, Any]:
    clock = _Clock()
    sampling = Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)

    def gather(tasks: Sequence[Task], label: str, *, capture: bool = False, judged: bool = True):
        found = collect(
            loaded,
            tasks,
            sampling,
            out / "run" / label.replace(" ", "-"),
            spec=spec if judged else None,
            judge_model=judge_model,
            capture=capture,
            batch_tokens=config.batch_tokens,
            label=label,
            progress=progress,
        )
        clock.lap(label)
        return found

    # Rollouts under contrastive system prompts, judged and filtered.
    rollouts = keep(
        gather(
            elicitation_tasks(spec, spec.questions.extraction, config.samples),
            "extraction",
            capture=True,
        ),
        trait_threshold=config.trait_threshold,
        coherence_floor=config.coherence_floor,
    )
    write_rollouts(out / "rollouts.jsonl", rollouts)
    pos = [r for r in rollouts if r.polarity == "pos" and r.kept]
    neg = [r for r in rollouts if r.polarity == "neg" and r.kept]
    _require_enough(rollouts, pos, neg, out)

    # Persona vector: difference of mean activations, at every layer and for three spans.
    folder = out / "run" / "extraction"
    pos_means = load_activations(folder, [r.id for r in pos])
    neg_means = load_activations(folder, [r.id for r in neg])
    by_span = {
        span: mean_difference(pos_means[:, i], neg_means[:, i]) for i, span in enumerate(SPANS)
    }
    vectors = by_span["response_mean"]

    # Layer selection on evaluation questions set aside for it.
    evaluation = spec.questions.evaluation
    aside = min(config.sweep_questions, len(evaluation) // 2)
    sweep_questions, test_questions = evaluation[:aside], evaluation[aside:]
    sweep = validation.sweep_layers(
        vectors, layers, config.sweep_coefficients, sweep_questions, gather, seed=config.seed
    )
    layer = validation.select_layer(sweep)

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
        seed=config.seed,
    )
    prompted = gather(elicitation_tasks(spec, test_questions, 1), "system prompts", capture=True)
    held_out = load_activations(
        out / "run" / "system-prompts", [r.id for r in prompted if r.n_tokens]
    )
    neutral = gather(
        [
            Task(id=f"neutral-{i}", question=q)
            for i, q in enumerate(neutral_prompts()[: config.neutral_prompts])
        ],
        "neutral prompts",
        capture=True,
        judged=False,
    )
    neutral_means = load_activations(
        out / "run" / "neutral-prompts", [r.id for r in neutral if r.n_tokens]
    )
    residual = residual_norms(pos_means[:, 0], neg_means[:, 0])

    verdict = validation.verdict(doses, control, ends)
    half_pos, half_neg = pos_means[:, 0, layer], neg_means[:, 0, layer]
    pos_q, neg_q = [r.question for r in pos], [r.question for r in neg]
    questions, differences = question_differences(half_pos, half_neg, pos_q, neg_q)
    coordinate, share = largest_coordinate(direction)
    unsteered = next(d for d in doses if d.coefficient == 0)
    results: dict[str, Any] = {
        "trait": {"name": spec.name, "description": spec.description, "origin": origin},
        "spec": {
            "hash": spec.hash,
            "pairs": len(spec.instruction),
            "judge_pairs": len(spec.judge_instruction),
            "extraction_questions": len(spec.questions.extraction),
            "evaluation_questions": len(evaluation),
        },
        "model": loaded.identity.as_dict(),
        "judge_model": judge_model.identity.as_dict() if judge_model else None,
        "settings": asdict(config),
        "versions": versions(),
        "notes": _notes(loaded, spec, origin),
        "rollouts": {
            polarity: {
                "of": sum(r.polarity == polarity for r in rollouts),
                "kept": sum(bool(r.polarity == polarity and r.kept) for r in rollouts),
                "dropped": dict(
                    Counter(
                        r.why_dropped for r in rollouts if r.polarity == polarity and r.why_dropped
                    )
                ),
            }
            for polarity in ("pos", "neg")
        },
        "log_odds": {
            polarity: [
                r.log_odds for r in rollouts if r.polarity == polarity and r.log_odds is not None
            ]
            for polarity in ("pos", "neg")
        },
        "mean_log_odds": {
            "pos": _mean_log_odds([r for r in rollouts if r.polarity == "pos"], config.seed),
            "neg": _mean_log_odds([r for r in rollouts if r.polarity == "neg"], config.seed),
            "unsteered": _interval(unsteered.log_odds),
        },
        "coherence_dropped_share": {
            polarity: _incoherent_share([r for r in rollouts if r.polarity == polarity], config)
            for polarity in ("pos", "neg")
        },
        "sweep": [dose.as_dict() for dose in sweep],
        "layer": layer,
        "coherence_floor": validation.COHERENCE_FLOOR,
        "dose_response": [
            {
                **dose.as_dict(),
                "relative_dose": abs(dose.coefficient) * float(direction.norm() / residual[layer]),
            }
            for dose in doses
        ],
        "control": control,
        "prompted": {
            polarity: _mean_log_odds([r for r in prompted if r.polarity == polarity], config.seed)
            for polarity in ("pos", "neg")
        },
        "coherent_range": list(ends),
        "wrong_way": _wrong_way(by_dose, ends, config.seed),
        "split_half_cosine": _interval(
            split_half_cosine(half_pos, half_neg, pos_q, neg_q, seed=config.seed)
        ),
        "question_agreement": _interval(
            clustered_bootstrap(agreement(differences), questions, seed=config.seed)
            if len(questions) > 1
            else None
        ),
        "separability_auc": _interval(
            _separability(held_out[:, 0, layer], direction, prompted, config.seed)
        ),
        "relative_norm": (vectors.norm(dim=-1) / residual).tolist(),
        "massive": {
            "layer": layer,
            "coordinate": coordinate,
            "share": share,
            "warning": share > MASSIVE_SHARE,
        },
        "transcripts": _transcripts(by_dose, ends, prompted, test_questions),
        "verdict": verdict,
    }
    results["seconds"] = clock.seconds()
    results = _without_nan(results)

    PersonaVector(
        response_mean_diff=vectors,
        prompt_mean_diff=by_span["prompt_mean"],
        prompt_last_diff=by_span["prompt_last"],
        residual_norm=residual,
        neutral_response_mean=mean_and_spread(neutral_means[:, 0], vectors),
        neutral_prompt_last=mean_and_spread(neutral_means[:, 2], vectors),
        trait=spec.name,
        layer=layer,
        meta=_vector_meta(results),
    ).save(out)
    atomic_write(out / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
    write_extraction_report(results, out / "report.html")
    return results


def elicitation_tasks(spec: TraitSpec, questions: Sequence[str], samples: int) -> list[Task]:
    """Every question under both sides of every pair, `samples` times."""
    return [
        Task(
            id=f"{polarity}-p{k}-q{number}-s{sample}",
            question=question,
            system=getattr(pair, polarity),
            pair=k,
            polarity=polarity,
            sample=sample,
        )
        for number, question in enumerate(questions)
        for k, pair in enumerate(spec.instruction)
        for polarity in ("pos", "neg")
        for sample in range(samples)
    ]


def residual_norms(
    pos: Float[Tensor, "pos layer hidden"], neg: Float[Tensor, "neg layer hidden"]
) -> Float[Tensor, " layer"]:
    """Mean norm of the response-mean activations at every layer."""
    return torch.cat([pos, neg]).norm(dim=-1).mean(0)


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: metadata.version(name) for name in ("personavec", "torch", "transformers")}


def summary(results: dict[str, Any], out: Path) -> dict[str, Any]:
    """The keys that `extract --json` promises."""
    return {
        "trait": results["trait"]["name"],
        "model": results["model"]["name"],
        "vector": str(out),
        "layer": results["layer"],
        "kept": {
            "pos": results["rollouts"]["pos"]["kept"],
            "neg": results["rollouts"]["neg"]["kept"],
            "of": results["rollouts"]["pos"]["of"],
        },
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
    raise TooFewRolloutsError(
        f"only {len(pos)} positive and {len(neg)} negative rollouts of {len(rollouts) // 2} each "
        f"are left, {MIN_KEPT} of each are needed ({why}); raise --samples, or make the pairs or "
        f"the description plainer; the rollouts are kept in {out / 'rollouts.jsonl'}"
    )


def _notes(loaded: LoadedModel, spec: TraitSpec, origin: Origin) -> list[str]:
    notes = list(loaded.chat.notes)
    if origin == "template":
        notes.append(
            "The trait spec was built from templates and a bundled question bank, from the "
            "trait's name and description alone; nobody has reviewed it."
        )
    if not spec.judge_instruction:
        notes.append(
            "The spec has no judge pairs: each rollout was judged with the eliciting pairs it was "
            "not generated under."
        )
    return notes


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return asdict(interval) if interval is not None else None


def _mean_log_odds(rollouts: Sequence[Rollout], seed: int) -> dict[str, float]:
    found = validation.mean_log_odds(rollouts, seed)
    return {"log_odds": found.value, "low": found.low, "high": found.high}


def _incoherent_share(rollouts: Sequence[Rollout], config: ExtractConfig) -> float | None:
    """The share of rollouts on the right side of the trait that coherence alone drops."""
    right = [
        r
        for r in rollouts
        if r.trait_score is not None
        and (r.trait_score > config.trait_threshold) == (r.polarity == "pos")
    ]
    if not right:
        return None
    return sum((r.coherence or 0) < config.coherence_floor for r in right) / len(right)


def _wrong_way(
    by_dose: dict[float, list[Rollout]], ends: tuple[float, float], seed: int
) -> dict[str, Any] | None:
    found = validation.wrong_way(by_dose[0], by_dose[ends[1]], seed) if ends[1] > 0 else None
    if found is None:
        return None
    return {
        "share": found.value,
        "low": found.low,
        "high": found.high,
        "coefficients": [0, ends[1]],
    }


def _separability(
    activations: Float[Tensor, "row hidden"],
    direction: Float[Tensor, " hidden"],
    rollouts: Sequence[Rollout],
    seed: int,
) -> Interval:
    """AUC of projections of evaluation-question rollouts, positive against negative prompts."""
    answered = [r for r in rollouts if r.n_tokens]
    values = projections(activations, direction).tolist()
    pos = [(v, r.question) for v, r in zip(values, answered, strict=True) if r.polarity == "pos"]
    neg = [(v, r.question) for v, r in zip(values, answered, strict=True) if r.polarity == "neg"]
    return auc_interval(
        [v for v, _ in pos],
        [v for v, _ in neg],
        [q for _, q in pos],
        [q for _, q in neg],
        seed=seed,
    )


def _transcripts(
    by_dose: dict[float, list[Rollout]],
    ends: tuple[float, float],
    prompted: Sequence[Rollout],
    questions: Sequence[str],
    n: int = 6,
) -> list[dict[str, Any]]:
    """The first questions' answers at both ends and unsteered, and under system prompts."""
    shown = sorted({ends[0], 0.0, ends[1]})
    found = []
    for question in questions[:n]:
        answers = [
            {
                "coefficient": c,
                "response": r.response,
                "log_odds": r.log_odds,
                "coherence": r.coherence,
            }
            for c in shown
            for r in by_dose[c]
            if r.question == question and r.sample == 0
        ]
        by_prompt = {
            polarity: next(
                (r.response for r in prompted if r.question == question and r.polarity == polarity),
                "",
            )
            for polarity in ("pos", "neg")
        }
        found.append({"question": question, "answers": answers, "prompted": by_prompt})
    return found


def _vector_meta(results: dict[str, Any]) -> dict[str, Any]:
    kept = {polarity: results["rollouts"][polarity]["kept"] for polarity in ("pos", "neg")}
    return {
        "description": results["trait"]["description"],
        "model": results["model"],
        "spec_hash": results["spec"]["hash"],
        "engine": "hf",
        "seed": results["settings"]["seed"],
        "settings": results["settings"],
        "versions": results["versions"],
        "kept": kept,
        "coherent_range": results["coherent_range"],
        "dose_response": results["dose_response"],
        "separability_auc": results["separability_auc"],
        "split_half_cosine": results["split_half_cosine"],
        "passed": results["verdict"]["passed"],
    }


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
