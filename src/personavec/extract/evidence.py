"""What an extraction's rollouts say, as figures with 95% intervals clustered by question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from personavec.extract.extraction import Extraction, KeptRollouts, PromptedRollouts
from personavec.extract.results import (
    ExtractedTrait,
    ExtractResults,
    MassiveActivation,
    MeanLogOdds,
    RolloutCounts,
    SpecSizes,
    SteeredAnswer,
    SteeredDose,
    Transcript,
    WrongWay,
)
from personavec.extract.steered import mean_log_odds
from personavec.extract.validation import Validation, wrong_way
from personavec.extract.verdict import Reliability, verdict
from personavec.judges import COHERENCE_FLOOR
from personavec.results import Estimate, finite, versions
from personavec.rollouts import Rollout
from personavec.stats import auc_interval, clustered_bootstrap
from personavec.traits import POLARITIES, Polarity
from personavec.vectors import (
    PersonaVector,
    agreement,
    largest_coordinate,
    projections,
    question_differences,
    split_half_cosine,
)

#: One coordinate holding more of the vector's squared norm than this is a massive activation.
MASSIVE_SHARE = 0.5
#: Evaluation questions whose responses the report shows.
_TRANSCRIPTS = 6


def results_of(
    extraction: Extraction,
    rollouts: Sequence[Rollout],
    kept: KeptRollouts,
    sweep: Sequence[SteeredDose],
    vector: PersonaVector,
    validation: Validation,
) -> ExtractResults:
    """The results of an extraction whose stages are done."""
    config, adopted, seed = extraction.config, extraction.adopted, extraction.config.seed
    spec, origin = extraction.spec, extraction.origin
    by_polarity = _by_polarity(rollouts)
    mean = {p: MeanLogOdds.of(mean_log_odds(group, seed)) for p, group in by_polarity.items()}
    prompted = _by_polarity(validation.prompted.rollouts)
    unsteered = MeanLogOdds.of(mean_log_odds(validation.by_dose[0], seed))
    reliability = Reliability(
        split_half=_split_half_cosine(vector, kept, seed),
        held_out=_separability(vector, validation.prompted, seed),
        rollouts=len(rollouts),
    )
    return ExtractResults(
        trait=ExtractedTrait(name=spec.name, description=spec.description, origin=origin),
        spec=SpecSizes.of(spec, extraction.spec_hash),
        model=extraction.loaded.identity,
        engine=extraction.engine.describe(),
        judge=extraction.judge.identity(),
        settings=replace(config, samples=extraction.samples),
        versions=versions(),
        notes=extraction.notes(validation.added),
        rejected=len(adopted.rejected) if adopted else 0,
        data=adopted.reading() if adopted else {},
        rollouts={p: _counts(group) for p, group in by_polarity.items()},
        log_odds={
            p: tuple(r.log_odds for r in group if r.log_odds is not None)
            for p, group in by_polarity.items()
        },
        mean_log_odds={"pos": mean["pos"], "neg": mean["neg"], "unsteered": unsteered},
        coherence_dropped_share={
            p: _incoherent_share(group, config.trait_threshold, config.coherence_floor)
            for p, group in by_polarity.items()
        },
        sweep=tuple(sweep),
        layer=vector.layer,
        estimator=vector.estimator,
        coherence_floor=COHERENCE_FLOOR,
        dose_response=validation.doses,
        control=validation.control,
        prompted={p: MeanLogOdds.of(mean_log_odds(group, seed)) for p, group in prompted.items()},
        coherent_range=validation.ends,
        wrong_way=_wrong_way(validation, seed),
        split_half_cosine=reliability.split_half,
        question_agreement=_question_agreement(vector, kept, seed),
        separability_auc=reliability.held_out,
        relative_norm=_relative_norm(vector),
        massive=_massive_activation(vector),
        transcripts=_transcripts(validation),
        verdict=verdict(validation.doses, validation.control, validation.ends, reliability),
        seconds=extraction.clock.seconds(),
    )


def _by_polarity(rollouts: Sequence[Rollout]) -> dict[Polarity, list[Rollout]]:
    return {p: [r for r in rollouts if r.polarity == p] for p in POLARITIES}


def _counts(rollouts: Sequence[Rollout]) -> RolloutCounts:
    return RolloutCounts(
        of=len(rollouts),
        kept=sum(bool(r.kept) for r in rollouts),
        dropped=dict(Counter(r.why_dropped for r in rollouts if r.why_dropped)),
    )


def _incoherent_share(rollouts: Sequence[Rollout], threshold: float, floor: float) -> float | None:
    """The share of rollouts on the right side of the trait that coherence alone drops."""
    right = [
        r
        for r in rollouts
        if r.trait_score is not None and (r.trait_score > threshold) == (r.polarity == "pos")
    ]
    if not right:
        return None
    return sum((r.coherence or 0) < floor for r in right) / len(right)


def _wrong_way(validation: Validation, seed: int) -> WrongWay | None:
    """From the unsteered answers to those at the upper end of the coherent range."""
    end = validation.ends[1]
    if end <= 0:
        return None
    interval = wrong_way(validation.by_dose[0], validation.by_dose[end], seed)
    if interval is None:
        return None
    found = Estimate.of(interval)
    return WrongWay(share=found.value, low=found.low, high=found.high, coefficients=(0, end))


def _split_half_cosine(vector: PersonaVector, kept: KeptRollouts, seed: int) -> Estimate:
    pos, neg = kept.pos_means[:, 0, vector.layer], kept.neg_means[:, 0, vector.layer]
    # Estimators other than the mean fit a model for each half.
    splits = 200 if vector.estimator == "mean" else 25
    return Estimate.of(
        split_half_cosine(
            pos, neg, *kept.questions, estimator=vector.estimator, n=splits, seed=seed
        )
    )


def _question_agreement(vector: PersonaVector, kept: KeptRollouts, seed: int) -> Estimate | None:
    """Mean cosine of a question's difference with the mean of the other questions'.

    None for other estimators than the mean: one question's rollouts are too few for them.
    """
    if vector.estimator != "mean":
        return None
    pos, neg = kept.pos_means[:, 0, vector.layer], kept.neg_means[:, 0, vector.layer]
    questions, differences = question_differences(pos, neg, *kept.questions)
    if len(questions) < 2:
        return None
    return Estimate.of(clustered_bootstrap(agreement(differences), questions, seed=seed))


def _separability(vector: PersonaVector, prompted: PromptedRollouts, seed: int) -> Estimate:
    """AUC of projections of evaluation-question rollouts, positive against negative prompts."""
    means = prompted.response_means[:, vector.layer]
    values = projections(means, vector.direction()).tolist()
    rows = list(zip(values, prompted.answered, strict=True))
    pos, neg = (
        [(value, r.question) for value, r in rows if r.polarity == polarity]
        for polarity in POLARITIES
    )
    return Estimate.of(
        auc_interval(
            [value for value, _ in pos],
            [value for value, _ in neg],
            [question for _, question in pos],
            [question for _, question in neg],
            seed=seed,
        )
    )


def _relative_norm(vector: PersonaVector) -> tuple[float | None, ...]:
    sizes = vector.directions.norm(dim=-1) / vector.residual_norm
    return tuple(finite(size) for size in sizes.tolist())


def _massive_activation(vector: PersonaVector) -> MassiveActivation:
    """Whether one coordinate dominates the difference of means, and the vector in use."""
    coordinate, share = largest_coordinate(vector.response_mean_diff[vector.layer])
    _, share_in_use = largest_coordinate(vector.direction())
    return MassiveActivation(
        layer=vector.layer,
        coordinate=coordinate,
        share=finite(share),
        warning=share > MASSIVE_SHARE,
        share_in_use=finite(share_in_use),
    )


def _transcripts(validation: Validation) -> tuple[Transcript, ...]:
    """The first questions' answers at both ends and unsteered, and under system prompts."""
    shown = sorted({validation.ends[0], 0.0, validation.ends[1]})
    return tuple(
        Transcript(
            question=question,
            answers=tuple(
                SteeredAnswer(
                    coefficient=c,
                    response=r.response,
                    log_odds=r.log_odds,
                    coherence=r.coherence,
                )
                for c in shown
                for r in validation.by_dose[c]
                if r.question == question and r.sample == 0
            ),
            prompted={p: _prompted(validation.prompted, question, p) for p in POLARITIES},
        )
        for question in validation.questions[:_TRANSCRIPTS]
    )


def _prompted(prompted: PromptedRollouts, question: str, polarity: Polarity) -> str:
    """The first response to a question under a polarity's prompts."""
    found = (r for r in prompted.rollouts if r.question == question and r.polarity == polarity)
    return next((r.response for r in found), "")
