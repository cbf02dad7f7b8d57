"""Compute a screen's results from all scores: each trait's means, groups, controls and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from personavec.data import parts, reading_counts_in
from personavec.judges import chat_formats, judge_notes, spec_notes
from personavec.model.engine import TransformersEngine
from personavec.results import finite, versions
from personavec.screen import intervals, two_stage
from personavec.screen.config import ScreenConfig
from personavec.screen.controls import controls
from personavec.screen.flagging import rule_record
from personavec.screen.job import ScreenJob
from personavec.screen.ranked import Ranks, RowTexts, ranked_rows
from personavec.screen.results import (
    DatasetCounts,
    GroupMean,
    Mean,
    ReferenceMean,
    ScreenedTrait,
    ScreenEngines,
    ScreenResults,
    TwoStageMean,
    ValueHistogram,
    mean_fields,
)
from personavec.screen.second_stage import SecondStage
from personavec.screen.table import Scores
from personavec.screen.trait_scores import TraitScores, any_flagged
from personavec.stats import Interval
from personavec.vectors import other_model_notes

_BINS = 40


@dataclass(frozen=True, eq=False)
class Scored:
    """The input of the summary of a screen."""

    scores: Scores
    reference: Scores | None
    traits: Sequence[TraitScores]
    stage: SecondStage | None
    ranks: Sequence[Ranks]
    texts: Mapping[int, RowTexts]
    """The ranked rows' texts, by position in `scores`."""


def results_of(
    job: ScreenJob,
    found: Scored,
    config: ScreenConfig,
    *,
    files: dict[str, dict[str, str] | str | None],
    notes: Sequence[str],
    seconds: float,
    tokens_per_second: float | None,
) -> ScreenResults:
    """The results of a screen; `notes` come from scoring and from writing the files."""
    scores, reference = found.scores, found.reference
    return ScreenResults(
        model=job.loaded.identity,
        engine=_engines(job),
        kind=job.plan.kind,
        natural="rejected" if job.plan.kind == "pair" else job.natural,
        turns=job.plan.turns,
        rows=len(scores),
        rejected=sum(scores.rejects),
        datasets=tuple(
            DatasetCounts(name=dataset.name, rows=len(scores.of(i)), rejected=scores.rejects[i])
            for i, dataset in enumerate(job.datasets)
        ),
        reference=None
        if reference is None or job.reference is None
        else DatasetCounts(
            name=job.reference.name, rows=len(reference), rejected=sum(reference.rejects)
        ),
        data={d.name: reading_counts_in(parts.written(d.folder)).record() for d in job.inputs},
        judge=None if job.judge is None else job.judge.identity(),
        rule=rule_record(job.rule) if job.rule else None,
        flagged_any=int(any_flagged(found.traits).sum()) if job.rule else None,
        traits={trait: summarise_trait(job, found, i) for i, trait in enumerate(job.probe.traits)},
        notes=(*_notes(job), *notes),
        settings={**asdict(config), "rule": rule_record(config.rule)},
        versions=versions(),
        out=str(job.out),
        files=files,
        seconds=seconds,
        tokens_per_second=tokens_per_second,
    )


def summarise_trait(job: ScreenJob, found: Scored, trait: int) -> ScreenedTrait:
    """One trait's figures over all datasets of a run."""
    scores, reference, own = found.scores, found.reference, found.traits[trait]
    known, flags = np.isfinite(own.value), own.flags
    mean, staged = intervals.mean(own.value, scores.prompt), None
    if found.stage is not None:
        mean, staged = _two_stages(own, found.stage, len(scores))
    return ScreenedTrait(
        **mean_fields(mean),
        layer=job.probe.layer(trait),
        n=int(known.sum()),
        missing=int((~known).sum()),
        sigma=own.sigma,
        sd=float(own.value[known].std()) if known.any() else None,
        projection=Mean.of(intervals.mean(scores.projection[:, trait], scores.prompt)),
        threshold=finite(flags.threshold),
        threshold_low=finite(flags.low),
        threshold_high=finite(flags.high),
        flagged=flags.n_flagged,
        share_flagged=None
        if flags.threshold is None
        else Mean.of(intervals.share(flags.flagged[known], scores.prompt[known])),
        histogram=_histogram(own.value, own.reference),
        ranked=ranked_rows(own, job.probe.traits[trait], scores, found.ranks[trait], found.texts),
        groups=_all_groups(job, scores, own),
        reference=_reference_mean(reference, own),
        against_reference=_minus_reference(scores, reference, own),
        controls=controls(scores, reference, own, job.probe, comparable=job.side != "projection"),
        two_stage=staged,
        left_above=_left_above(job, found, own),
    )


def _left_above(job: ScreenJob, found: Scored, own: TraitScores) -> int | None:
    """Raw projections have no 0 to lie above."""
    by_number = job.rule.top is not None or job.rule.bottom is not None
    if not by_number or job.side == "projection":
        return None
    return int((~any_flagged(found.traits) & (own.value > 0)).sum())


def _reference_mean(reference: Scores | None, own: TraitScores) -> ReferenceMean | None:
    if reference is None or own.reference is None:
        return None
    return ReferenceMean(
        **mean_fields(intervals.mean(own.reference, reference.prompt)),
        n=int(np.isfinite(own.reference).sum()),
    )


def _minus_reference(scores: Scores, reference: Scores | None, own: TraitScores) -> Mean | None:
    if reference is None or own.reference is None:
        return None
    found = intervals.mean_difference(own.value, scores.prompt, own.reference, reference.prompt)
    return Mean.of(found)


def _two_stages(
    own: TraitScores, stage: SecondStage, n: int
) -> tuple[Interval | None, TwoStageMean]:
    """The mean corrected by the exact differences, and the record of the two stages."""
    exact, threshold = stage.exact[:, own.trait], own.flags.threshold
    n_rest = int(np.isfinite(own.value).sum()) - len(stage.chosen.top)
    recall = None
    if threshold is not None:
        recall = two_stage.recall(own.ranking, stage.chosen, n_rest, threshold)
    record = TwoStageMean(
        cheap_mean=float(np.nanmean(own.value)),
        top=len(stage.chosen.top),
        sample=len(stage.chosen.sample),
        without_natural=int(stage.without_natural[own.trait]),
        recall=Mean.of(recall),
        of=n,
    )
    return two_stage.corrected_mean(own.value, exact, stage.chosen), record


def _all_groups(
    job: ScreenJob, scores: Scores, own: TraitScores
) -> dict[str, tuple[GroupMean, ...]]:
    """Groups by dataset, if there are several, and by every column of `--by`."""
    columns = dict(scores.groups)
    if len(job.datasets) > 1:
        names = np.array([dataset.name for dataset in job.datasets], dtype=object)
        columns = {"dataset": names[scores.dataset], **columns}
    return {column: _groups(labels, own, scores) for column, labels in columns.items()}


def _groups(labels: np.ndarray, own: TraitScores, scores: Scores) -> tuple[GroupMean, ...]:
    """Means, flags and ranks of the groups of one column, highest mean first."""
    known = np.isfinite(own.value)
    total, n_total = float(own.value[known].sum()), int(known.sum())
    numbers: dict[Any, int] = {}
    codes = np.array([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)
    found = []
    for label, code in numbers.items():
        mine = (codes == code) & known
        left = n_total - int(mine.sum())
        found.append(
            {
                **mean_fields(intervals.mean(own.value[mine], scores.prompt[mine])),
                "group": "(none)" if label is None else str(label),
                "n": int(mine.sum()),
                "flagged": None
                if own.flags.threshold is None
                else int(own.flags.flagged[mine].sum()),
                "mean_without": (total - float(own.value[mine].sum())) / left if left else None,
            }
        )
    found.sort(key=lambda row: -np.inf if row["mean"] is None else row["mean"], reverse=True)
    return tuple(GroupMean(**row, rank=rank) for rank, row in enumerate(found, start=1))


def _histogram(values: np.ndarray, reference: np.ndarray | None) -> ValueHistogram:
    """Histogram counts of data and reference in shared bins.

    The bins span the 0.1% to 99.9% quantiles; the outermost also count the values beyond.
    """
    known = values[np.isfinite(values)]
    other = np.zeros(0) if reference is None else reference[np.isfinite(reference)]
    both = np.concatenate([known, other])
    if not len(both):
        return ValueHistogram(edges=(), counts=(), reference=None)
    low, high = np.quantile(both, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)

    def counts(side: np.ndarray) -> tuple[int, ...]:
        return tuple(np.histogram(np.clip(side, edges[0], edges[-1]), edges)[0].tolist())

    return ValueHistogram(
        edges=tuple(edges.tolist()),
        counts=counts(known),
        reference=None if reference is None else counts(other),
    )


def _engines(job: ScreenJob) -> ScreenEngines:
    record = (job.engine or TransformersEngine(job.loaded)).describe()
    return ScreenEngines(generating=record, scoring=record)


def _notes(job: ScreenJob) -> list[str]:
    """Notes that do not depend on the rows."""
    found = list(job.loaded.chat.notes)
    if job.judge is not None:
        found += [*judge_notes(job.judge), *spec_notes(job.specs, chat_formats(job.judge))]
    found += other_model_notes(job.vectors, job.loaded.identity.lineage)
    return found
