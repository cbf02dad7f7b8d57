"""What every row of the finetuning sets says before training, along every trait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from personavec.errors import DataError
from personavec.results import Estimate
from personavec.rollouts import iter_rollouts
from personavec.runs import Settings
from personavec.stats import auc_interval, clustered_bootstrap
from personavec.studies import Bench
from personavec.studies.replicate.row_scores import RowPredictors, RowScores, scored_rows
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.stages import sets
from personavec.studies.replicate.stages.sets import Dataset
from personavec.studies.replicate.study import Inputs, LeftOut, Study
from personavec.studies.replicate.work import QUESTION, Work, answered, judged, judging_pairs
from personavec.studies.validate_screen.baselines import Labelled, WordClassifier

_FIELDS = ("traits", "set_rows", "judged_rows", "answer_tokens", "judge_pairs", "seed")
#: Random directions at each trait's layer.
RANDOM = 5
#: What is read of a row before training. `tfidf` is a classifier of words.
PREDICTORS = ("projection_difference", "projection", "last_prompt", "judge", "length", "tfidf")
_BINS = 16
#: Fewer rows than this allow no interval.
_FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class SetReading:
    """Means over the rows of one level along one trait."""

    set: str
    level: str
    trait: str
    own: bool
    """Whether the set was made to show the trait."""
    rows: int
    projection_difference: Estimate
    """In units of the residual stream."""
    projection: Estimate
    last_prompt: Estimate
    judge: Estimate
    """Log-odds in nats."""
    length: Estimate
    """Tokens."""
    tfidf: Estimate
    """Distance from the plane of a classifier of words."""
    random: tuple[float, ...]
    """The projection difference along random directions."""


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How well one reading tells rows that show a trait from the right answers of its set."""

    trait: str
    level: str
    by: str
    """A predictor, or `random N`."""
    auc: Estimate
    """0.5 is no separation."""


@dataclass(frozen=True, kw_only=True)
class DifferenceBin:
    """Rows of one level with a projection difference within a bin, along the set's own trait."""

    trait: str
    level: str
    low_edge: float
    high_edge: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class RowsResult:
    format: int = 1
    stage: str = "rows"
    readings: tuple[SetReading, ...]
    separations: tuple[Separation, ...]
    bins: tuple[DifferenceBin, ...]
    left_out: tuple[LeftOut, ...]


def plan(inputs: Inputs) -> Work:
    config, work = inputs.config, Work()
    tokens = config.answer_tokens
    for name, level in sets.expected(inputs):
        rows = config.set_rows
        work += Work(read=rows * (QUESTION + tokens))
        # Sets of flaws ask the same at every level; those of traits are answered before.
        if name not in config.elicited and level == "normal":
            work += answered(rows, tokens)
        read = min(rows, config.judged_rows or rows)
        for trait in config.traits:
            pairs = judging_pairs(inputs.specs[trait], config.judge_pairs)
            work += judged(read, tokens, pairs)
    return work


def settings(inputs: Inputs) -> Settings:
    return inputs.settings(_FIELDS, inputs.config.traits)


def run(study: Study) -> RowsResult:
    scores = {dataset.name: scores_of(study, dataset) for dataset in sets.datasets(study)}
    words, left_out = _classifiers(study)
    found = [
        (dataset, trait, _values(dataset, scores[dataset.name], trait, words.get(trait)))
        for dataset in sets.datasets(study)
        for trait in _traits(study)
    ]
    own = {(d.level, t): values for d, t, values in found if d.trait == t}
    return RowsResult(
        readings=tuple(_reading(d, t, values, study.config.seed) for d, t, values in found),
        separations=tuple(one for t in _traits(study) for one in _separations(own, t)),
        bins=tuple(one for t in _traits(study) for one in _binned(own, t)),
        left_out=tuple(left_out),
    )


def _traits(study: Study) -> list[str]:
    return [trait for trait in study.config.traits if study.has_vector(trait)]


def scores_of(study: Study, dataset: Dataset) -> list[RowScores]:
    """Every row's scores, which are kept."""
    config, traits = study.config, _traits(study)
    bench = Bench(
        base=study.loaded,
        vectors=tuple(study.vector(trait) for trait in traits),
        questions={},
        tasks=(),
        sampling=study.sampling,
        progress=study.progress,
    )
    return scored_rows(
        bench,
        [study.spec(trait) for trait in traits],
        study.judge_of_tuned,
        study.naturals(config.answer_tokens),
        dataset.rows.rows,
        study.folder("rows") / dataset.name / "scores.jsonl",
        label=dataset.name,
        judged_rows=config.judged_rows,
        random=RANDOM,
    )


@dataclass(frozen=True, eq=False)
class _Values:
    """One trait's readings of the rows that could be scored, by predictor; NaN where missing."""

    by: Mapping[str, np.ndarray]
    prompts: tuple[str, ...]
    random: np.ndarray
    """[direction, row]."""


def _values(
    dataset: Dataset, scores: Sequence[RowScores], trait: str, words: WordClassifier | None
) -> _Values:
    kept = [
        (row, own.traits[trait])
        for row, own in zip(dataset.rows.rows, scores, strict=True)
        if own.reason is None
    ]
    responses = [row.messages[-1]["content"] for row, _ in kept]
    by = {
        name: np.array([_number(getattr(own, name)) for _, own in kept])
        for name in PREDICTORS
        if name != "tfidf"
    }
    missing = np.full(len(kept), np.nan)
    by["tfidf"] = missing if words is None or not responses else words.score(responses)
    return _Values(
        by,
        tuple(str(row.messages[:-1]) for row, _ in kept),
        np.array([_randoms(own) for _, own in kept]).reshape(len(kept), RANDOM).T,
    )


def _randoms(own: RowPredictors) -> list[float]:
    return [_number(value) for value in own.random]


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _reading(dataset: Dataset, trait: str, values: _Values, seed: int) -> SetReading:
    return SetReading(
        set=dataset.set,
        level=dataset.level,
        trait=trait,
        own=dataset.trait == trait,
        rows=len(values.prompts),
        random=tuple(float(np.nanmean(own)) for own in values.random if not np.isnan(own).all()),
        **{name: _mean(own, values.prompts, seed) for name, own in values.by.items()},
    )


def _mean(values: np.ndarray, prompts: Sequence[str], seed: int) -> Estimate:
    """The mean with its interval over prompts."""
    known = [(v, p) for v, p in zip(values, prompts, strict=True) if not np.isnan(v)]
    if len({p for _, p in known}) < _FEWEST:
        return Estimate()
    return Estimate.of(clustered_bootstrap([v for v, _ in known], [p for _, p in known], seed=seed))


def _separations(own: Mapping[tuple[str, str], _Values], trait: str) -> list[Separation]:
    """Of the mild and the strong rows from the normal ones."""
    normal = own.get(("normal", trait))
    found: list[Separation] = []
    for level in ("mild", "strong"):
        shown = own.get((level, trait))
        if normal is None or shown is None:
            continue
        pairs = {name: (shown.by[name], normal.by[name]) for name in PREDICTORS}
        pairs |= {
            f"random {i}": (a, b)
            for i, (a, b) in enumerate(zip(shown.random, normal.random, strict=True))
        }
        found += [
            Separation(trait=trait, level=level, by=by, auc=_auc(*pair, shown, normal))
            for by, pair in pairs.items()
        ]
    return found


def _auc(pos: np.ndarray, neg: np.ndarray, shown: _Values, normal: _Values) -> Estimate:
    above, below = ~np.isnan(pos), ~np.isnan(neg)
    asked, also = (
        [p for p, known in zip(own.prompts, where, strict=True) if known]
        for own, where in ((shown, above), (normal, below))
    )
    if not (above.any() and below.any()) or len({*asked, *also}) < _FEWEST:
        return Estimate()
    return Estimate.of(auc_interval(pos[above], neg[below], asked, also))


def _binned(own: Mapping[tuple[str, str], _Values], trait: str) -> list[DifferenceBin]:
    """The levels' projection differences along their own trait, in bins that they share."""
    values = {level: v.by["projection_difference"] for (level, of), v in own.items() if of == trait}
    known = {level: v[~np.isnan(v)] for level, v in values.items()}
    together = np.concatenate([*known.values(), np.array([])])
    if not len(together):
        return []
    edges = np.histogram_bin_edges(together, bins=_BINS)
    return [
        DifferenceBin(
            trait=trait,
            level=level,
            low_edge=float(edges[i]),
            high_edge=float(edges[i + 1]),
            rows=int(n),
        )
        for level, v in known.items()
        for i, n in enumerate(np.histogram(v, bins=edges)[0])
    ]


def _classifiers(study: Study) -> tuple[dict[str, WordClassifier], list[LeftOut]]:
    """Classifiers of words, learnt from the rollouts that made the vectors, where there are any."""
    found: dict[str, WordClassifier] = {}
    left_out: list[LeftOut] = []
    for trait in _traits(study):
        try:
            found[trait] = WordClassifier(_labelled(study, trait), study.config.seed)
        except (ValueError, DataError) as error:
            left_out.append(LeftOut(what=f"words of {trait}", why=str(error)))
    return found, left_out


def _labelled(study: Study, trait: str) -> Labelled:
    """The kept rollouts of both polarities. Raises DataError where they are not there."""
    path = study.folder("extraction") / trait / "rollouts.jsonl"
    kept = [r for r in iter_rollouts(path) if r.kept and r.response]
    if len({r.polarity for r in kept}) < 2:
        raise DataError("the rollouts of its extraction are not kept")
    return Labelled(
        responses=tuple(r.response for r in kept),
        planted=tuple(r.polarity == "pos" for r in kept),
        questions=tuple(r.question for r in kept),
        n_tokens=tuple(r.n_tokens for r in kept),
    )


STAGE = Stage(
    "rows",
    "screening rows",
    ("extraction", "sets"),
    RowsResult,
    plan,
    settings,
    run,
)
