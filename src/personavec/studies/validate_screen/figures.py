"""From rows with scores to figures: detection by every method, and the order of datasets.

A scored row holds its kind, its prompt, and its scores by trait; no models are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from personavec.results import Estimate
from personavec.stats import resampled
from personavec.studies.validate_screen import detection
from personavec.studies.validate_screen.baselines import Baselines
from personavec.studies.validate_screen.planting import PLANTED, SAME_PROMPTS, Style
from personavec.studies.validate_screen.results import (
    Band,
    DatasetOrder,
    Figures,
    StyleDetection,
    TraitDetection,
)

#: A row as it is kept: `id`, `kind`, `question`, `response`, `prompt`, `reason`, `scores`.
ScoredRow = Mapping[str, Any]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
#: A statistic of all rows, then of each resample.
Estimates = FloatArray

#: Fewer planted rows than this are not measured.
MIN_PLANTED = 10
_RESAMPLES = 1000


def method_names(natural_samples: int) -> dict[str, str]:
    """What is compared, in the order of tables: the key, and what it is called."""
    names = {
        "random": "random",
        "length": "response length",
        "tfidf": "TF-IDF and linear classifier",
        "judge": "contrast judge",
        "random_directions": "random directions, exact difference",
        "none": "raw projection",
        "last_prompt": "difference to last prompt token",
        "generate": "exact difference",
        "averaged": f"exact difference, {natural_samples} natural responses",
        "combined": "judge and exact difference",
    }
    if natural_samples == 1:
        del names["averaged"]
    return names


def usable(record: ScoredRow, trait: str) -> bool:
    """Whether a row has a score by every method."""
    if record["reason"] is not None:
        return False
    values = record["scores"][trait].values()
    return None not in [
        v for value in values for v in (value if isinstance(value, list) else [value])
    ]


def detection_figures(
    style: Style,
    clean: Sequence[ScoredRow],
    own: Mapping[str, Sequence[ScoredRow]],
    baselines: Mapping[str, Baselines],
    rates: Sequence[float],
    seed: int = 0,
) -> StyleDetection | None:
    """Figures of one style for every trait, and their means over traits; None without such rows.

    `clean` are the data's rows, `own` each trait's planted rows and the clean ones of the same
    prompts. Intervals are of resampled prompts; all traits share the resamples, because they
    share the data's rows. A row without a score by some method is left out for all, and counted.
    """
    planted_kind, same_kind = PLANTED[style], SAME_PROMPTS[style]
    tests: dict[str, list[ScoredRow]] = {}
    left_out: dict[str, int] = {}
    for trait, rows in own.items():
        every = [*(r for r in rows if r["kind"] in (planted_kind, same_kind)), *clean]
        records = [record for record in every if usable(record, trait)]
        if sum(record["kind"] == planted_kind for record in records) >= MIN_PLANTED:
            tests[trait], left_out[trait] = records, len(every) - len(records)
    if not tests:
        return None
    weights = _weights([record for records in tests.values() for record in records], seed)
    starts = np.cumsum([0, *map(len, tests.values())])
    found: dict[str, dict[str, dict[str, Estimates]]] = {}
    traits: dict[str, TraitDetection] = {}
    for (trait, records), start in zip(tests.items(), starts, strict=False):
        planted = np.array([record["kind"] == planted_kind for record in records])
        same = np.array([record["kind"] != "data" for record in records])
        own_weights = weights[:, start : start + len(records)]
        found[trait] = {
            method: _estimates(scores, planted, same, own_weights, rates)
            for method, scores in method_scores(records, trait, baselines[trait], seed).items()
        }
        traits[trait] = TraitDetection(
            planted=int(planted.sum()),
            clean=int((~planted).sum()),
            clean_same_prompts=int((same & ~planted).sum()),
            left_out=left_out[trait],
            methods={method: _intervals(found[trait][method]) for method in found[trait]},
        )
    methods = found[next(iter(found))]
    return StyleDetection(
        methods={method: _intervals(_averaged(found, method)) for method in methods},
        traits=traits,
    )


def method_scores(
    records: Sequence[ScoredRow], trait: str, baselines: Baselines, seed: int
) -> dict[str, list[FloatArray]]:
    """Every method's scores of the rows, by the keys of `method_names`; several for the random
    directions."""

    def column(name: str) -> FloatArray:
        return np.array([record["scores"][trait][name] for record in records], np.float64)

    exact = {
        name: column(name)
        for name in ("generate", "averaged")
        if all(name in record["scores"][trait] for record in records)
    }
    steadiest, judged = list(exact.values())[-1], column("judge")
    return {
        "random": [np.random.default_rng(seed).random(len(records))],
        "length": [baselines.length_sign * column("length")],
        "tfidf": [baselines.classifier.score([record["response"] for record in records])],
        "judge": [judged],
        "random_directions": list(column("random_directions").T),
        "none": [column("none")],
        "last_prompt": [column("last_prompt")],
        **{name: [values] for name, values in exact.items()},
        # Each in its own standard deviations, which sees no label.
        "combined": [(_standardised(judged) + _standardised(steadiest)) / 2],
    }


def _standardised(values: FloatArray) -> FloatArray:
    return (values - values.mean()) / values.std()


def order_figures(records: Sequence[ScoredRow], trait: str, seed: int = 0) -> DatasetOrder | None:
    """Mean exact differences of three datasets whose strength the judge knows.

    Normal: what the model answers when left alone, unfiltered. Mild and strong: the lowest and the
    highest third of the elicited rows by how far the judge's log-odds exceed those of the model's
    own answers to the same question; those between are left out, so that the datasets differ by
    more than the judge's error. None where one of them is empty.
    """
    known = [record for record in records if usable(record, trait)]
    own: dict[str, list[float]] = {}
    for record in known:
        if record["kind"] == "neutral":
            own.setdefault(record["question"], []).append(record["scores"][trait]["judge"])

    def exceeding(record: ScoredRow) -> float:
        return record["scores"][trait]["judge"] - float(np.mean(own[record["question"]]))

    elicited = sorted(
        (r for r in known if r["kind"] == "elicited" and r["question"] in own), key=exceeding
    )
    third = len(elicited) // 3
    bands = {
        "normal": [record for record in known if record["kind"] == "neutral"],
        "mild": elicited[:third],
        "strong": elicited[len(elicited) - third :],
    }
    if not all(bands.values()):
        return None
    rows = [record for band in bands.values() for record in band]
    weights = _weights(rows, seed)
    values = np.array([record["scores"][trait]["generate"] for record in rows])
    names = np.repeat(list(bands), [len(band) for band in bands.values()])
    means = {name: _weighted_mean(values, weights * (names == name)) for name in bands}
    first = _ends(means["mild"] - means["normal"])
    second = _ends(means["strong"] - means["mild"])
    return DatasetOrder(
        ordered=first[0] > 0 and second[0] > 0,
        beyond_chance=first[1] > 0 and second[1] > 0,
        log_odds_between_bands=(exceeding(bands["mild"][-1]), exceeding(bands["strong"][0])),
        bands={name: Band(**asdict(_interval(means[name])), n=len(bands[name])) for name in bands},
        mild_minus_normal=_interval(means["mild"] - means["normal"]),
        strong_minus_mild=_interval(means["strong"] - means["mild"]),
    )


def _weights(records: Sequence[ScoredRow], seed: int) -> detection.Weights:
    """How often each row counts: once in the first line, then in resamples of prompts."""
    weights = resampled([record["prompt"] for record in records], _RESAMPLES, seed)
    return np.vstack([np.ones(len(records), np.int64), weights])


def _estimates(
    scores: Sequence[FloatArray],
    planted: BoolArray,
    same_prompts: BoolArray,
    weights: detection.Weights,
    rates: Sequence[float],
) -> dict[str, Estimates]:
    """Every statistic by name, averaged over `scores` where there are several."""
    curves = [detection.curve(values, planted, weights) for values in scores]
    found = {"auc": [detection.auc(curve) for curve in curves]}
    if (same_prompts & ~planted).any():
        found["auc_same_prompts"] = [
            detection.auc(
                detection.curve(
                    values[same_prompts], planted[same_prompts], weights[:, same_prompts]
                )
            )
            for values in scores
        ]
    for rate in rates:
        removal = [detection.precision(curve, rate) for curve in curves]
        found[f"precision@{rate:g}"] = found[f"recall@{rate:g}"] = removal
        found[f"average_precision@{rate:g}"] = [
            detection.average_precision(curve, rate) for curve in curves
        ]
    return {name: np.mean(values, axis=0) for name, values in found.items()}


def _averaged(
    found: Mapping[str, Mapping[str, dict[str, Estimates]]], method: str
) -> dict[str, Estimates]:
    """The mean over traits of the statistics that every trait has."""
    own = [by_method[method] for by_method in found.values()]
    shared = [name for name in own[0] if all(name in estimates for estimates in own)]
    return {name: np.mean([estimates[name] for estimates in own], axis=0) for name in shared}


def _intervals(estimates: Mapping[str, Estimates]) -> Figures:
    return {name: _interval(values) for name, values in estimates.items()}


def _interval(values: Estimates) -> Estimate:
    """The value of all rows with the central 95% of the resamples that have one."""
    return Estimate(*(end if np.isfinite(end) else None for end in _ends(values)))


def _ends(values: Estimates) -> tuple[float, float, float]:
    """The value and the ends of its interval; NaN where there is none."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def _weighted_mean(values: FloatArray, weights: detection.Weights) -> Estimates:
    """The mean in every resample; NaN in one that drew none of the rows."""
    totals = weights.sum(1).astype(np.float64)
    return np.divide(weights @ values, totals, out=np.full(len(totals), np.nan), where=totals > 0)
