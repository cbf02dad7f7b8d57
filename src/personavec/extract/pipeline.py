"""Extract a trait's persona vector, select its layer, and validate it by steering.

`run` is the method of the paper, in the order of `docs/extract.md`: rollouts under contrastive
system prompts, a judge that keeps those which show what they should, the difference of mean
activations, layer selection by steering, a dose-response curve with controls, a neutral baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from personavec.errors import SpecError, UsageError
from personavec.extract.adopt import read_rollouts
from personavec.extract.config import MIN_QUESTIONS, ExtractConfig
from personavec.extract.evidence import results_of
from personavec.extract.extraction import Extraction, KeptRollouts, keep_contrasting
from personavec.extract.growing import check_can_grow, continued, grown, samples_for
from personavec.extract.report import write_extraction_report
from personavec.extract.results import ExtractResults, SteeredDose
from personavec.extract.validation import select, sweep_layers, validate
from personavec.judges import ContrastJudge, Judge
from personavec.model import LoadedModel
from personavec.model.engine import SPANS, Engine, TransformersEngine
from personavec.progress import Progress
from personavec.results import write
from personavec.rollouts import elicitation_tasks
from personavec.runs import claim, lock
from personavec.traits import Origin, TraitSpec
from personavec.vectors import (
    Estimator,
    PersonaVector,
    estimate,
    mean_and_spread,
    mean_difference,
)

_RESPONSE, _PROMPT_MEAN, _PROMPT_LAST = range(len(SPANS))
#: As the labels of progress name them.
_STAGES = ("extraction", "layer sweep", "dose-response", "random directions")
_LAST_STAGES = ("system prompts", "neutral prompts", "report")
#: Candidate layers, as shares of the network's depth.
_LAYER_SHARES = (0.25, 0.33, 0.4, 0.47, 0.53, 0.6, 0.67, 0.75)


def run(
    loaded: LoadedModel,
    spec: TraitSpec,
    out: Path,
    config: ExtractConfig | None = None,
    *,
    origin: Origin = "file",
    judge: Judge | None = None,
    rollouts: Sequence[Path] = (),
    more: int | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> ExtractResults:
    """Extract and validate one persona vector.

    Writes the vector, `rollouts.jsonl`, `activations/`, `results.json` and `report.html` into
    `out`. A killed run continues when it is called again with the same settings. `rollouts` are
    files of existing rollouts to adopt in place of generating. `more` adds at least so many
    rollouts to a run in `out` that has finished with the same settings. `engine` generates in place
    of the transformers model.

    Raises SettingsMismatchError when `out` was begun with other settings, TooFewRolloutsError
    when fewer than 10 rollouts of a polarity survive the filter (the rollouts stay on disk).
    """
    config = config or ExtractConfig()
    layers = candidate_layers(loaded, config)
    selecting, testing = split_questions(spec, config)  # Raises SpecError for too few.
    extraction = Extraction(
        loaded=loaded,
        spec=used_part(spec, config),
        spec_hash=spec.hash,
        selecting=selecting,
        testing=testing,
        n_candidates=len(layers),
        origin=origin,
        out=out,
        config=config,
        judge=judge or ContrastJudge(loaded, wrote_answers=True),
        engine=engine or TransformersEngine(loaded, config.batch_tokens),
        adopted=read_rollouts(loaded, rollouts, spec) if rollouts else None,
        progress=progress or Progress(),
    )
    if more:
        check_can_grow(extraction)
    added = "added answers" if config.end_samples else ""
    extraction.progress.stages(*_STAGES, added, *_LAST_STAGES)
    with lock(out):
        extraction = continued(extraction)
        claim(out, extraction.settings())
        if more:
            extraction = grown(extraction, more)
        return _extract(extraction, layers)


def _extract(extraction: Extraction, layers: Sequence[int]) -> ExtractResults:
    """The method, step by step as in `docs/extract.md`."""
    spec, config, out = extraction.spec, extraction.config, extraction.out

    # 1. Rollouts and 2. Judging: answers under contrastive system prompts, with scores.
    answers = extraction.elicit()

    # 3. Filter: keep the rollouts that show what their prompt asked for.
    answers, kept = keep_contrasting(answers, out, config)

    # 4. Vector: at every layer, from the mean activations of both sides over the response.
    pos, neg = kept.pos_means[:, _RESPONSE], kept.neg_means[:, _RESPONSE]
    directions = {name: estimate(name, pos, neg) for name in config.estimators}

    # 5. Layer: selected by steering on evaluation questions set aside for it.
    sweep = sweep_layers(
        directions,
        layers,
        config.sweep_coefficients,
        extraction.selecting,
        extraction.collect_steered,
        seed=config.seed,
    )
    selected = select(sweep)

    # 6. Validation: a dose-response curve on the other evaluation questions, with controls.
    validation = validate(
        extraction,
        directions[selected.estimator],
        selected.layer,
        kept.residual_norms(),
        extraction.testing,
    )

    # 7. Baseline: projections of answers to neutral prompts standardise later readings.
    neutral = extraction.neutral_means()

    vector = _persona_vector(spec, selected, directions, kept, neutral)
    results = results_of(extraction, answers, kept, sweep, vector, validation)
    replace(vector, meta=results.vector_meta()).save(out)
    write(out / "results.json", results)
    write_extraction_report(results, out / "report.html")
    return results


def _persona_vector(
    spec: TraitSpec,
    selected: SteeredDose,
    directions: Mapping[Estimator, Float[Tensor, "layer hidden"]],
    kept: KeptRollouts,
    neutral: Float[Tensor, "prompt span layer hidden"],
) -> PersonaVector:
    """The vector in use at the selected layer, with its prompt variants and its baseline.

    The logistic direction is always kept beside it: it tells rows apart better.
    """
    pos, neg = kept.pos_means, kept.neg_means
    spans = [mean_difference(pos[:, span], neg[:, span]) for span in range(len(SPANS))]
    others = {name: found for name, found in directions.items() if name != "mean"}
    if "logistic" not in others:
        others["logistic"] = estimate("logistic", pos[:, _RESPONSE], neg[:, _RESPONSE])
    in_use = directions[selected.estimator]
    return PersonaVector(
        response_mean_diff=spans[_RESPONSE],
        prompt_mean_diff=spans[_PROMPT_MEAN],
        prompt_last_diff=spans[_PROMPT_LAST],
        residual_norm=kept.residual_norms(),
        neutral_response_mean=mean_and_spread(neutral[:, _RESPONSE], in_use),
        neutral_prompt_last=mean_and_spread(neutral[:, _PROMPT_LAST], in_use),
        trait=spec.name,
        layer=selected.layer,
        estimated=others,
        estimated_neutral={
            name: torch.stack(
                [mean_and_spread(neutral[:, span], found) for span in (_RESPONSE, _PROMPT_LAST)]
            )
            for name, found in others.items()
        },
        estimator=selected.estimator,
    )


def questions_to_judge(
    spec: TraitSpec, config: ExtractConfig, more: int | None = None
) -> list[str]:
    """The question of every rollout that is generated for the judge, in order.

    With `more`, only of those that are added to a finished run; see `run`. Steered responses are
    not among them: the contrast judge measures those.
    """
    used = used_part(spec, config)
    samples = samples_for(used, more) if more else config.samples
    tasks = elicitation_tasks(used, used.questions.extraction, samples)
    return [task.question for task in tasks]


def split_questions(
    spec: TraitSpec, config: ExtractConfig
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Evaluation questions that select the layer, and those that test the vector.

    Raises SpecError where either would be too few for an interval.
    """
    questions = spec.questions.evaluation
    if len(questions) < 2 * MIN_QUESTIONS:
        raise SpecError(
            f"trait '{spec.name}' has {len(questions)} evaluation questions; an extraction needs "
            f"{2 * MIN_QUESTIONS}, {MIN_QUESTIONS} to select the layer by and {MIN_QUESTIONS} to "
            "test the vector with"
        )
    aside = min(config.sweep_questions, len(questions) // 2)
    testing, n = questions[aside:], config.validation_questions
    return questions[:aside], testing if n is None else testing[-n:]


def used_part(spec: TraitSpec, config: ExtractConfig) -> TraitSpec:
    """The pairs and questions of the spec that the extraction uses. Raises SpecError."""
    selecting, testing = split_questions(spec, config)
    return spec.at_most(
        pairs=config.pairs,
        judge_pairs=config.judge_pairs,
        extraction=config.questions,
        evaluation=(*selecting, *testing),
    )


def candidate_layers(loaded: LoadedModel, config: ExtractConfig) -> list[int]:
    """The layers to sweep: those given, or about `candidates` over the middle of the network."""
    n, layers = loaded.identity.n_layers, config.layers
    if layers:
        if bad := [layer for layer in layers if not 1 <= layer <= n]:
            raise UsageError(f"layer {bad[0]} does not exist: {loaded.identity.name} has 1 to {n}")
        return sorted(set(layers))
    step = len(_LAYER_SHARES) / config.candidates
    shares = [_LAYER_SHARES[round((i + 1) * step) - 1] for i in range(config.candidates)]
    return sorted({max(1, round(n * share)) for share in shares})
