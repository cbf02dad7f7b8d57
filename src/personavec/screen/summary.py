"""What the scores say of a dataset: means against references, groups, and controls.

Numbers in, a record of numbers out, which the report draws and `--json` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from personavec.errors import DataError
from personavec.screen.score import Probe
from personavec.screen.table import Scores
from personavec.screen.trait_scores import TraitScores
from personavec.stats import (
    Interval,
    cluster_mean,
    clustered_share,
    mean_difference_interval,
    rank_correlation_interval,
)

_BINS = 40
_LENGTH_STRATA = 10
_LENGTH_FIFTHS = 5


def summarise(
    scores: Scores,
    reference: Scores | None,
    own: TraitScores,
    probe: Probe,
    names: Sequence[str],
    *,
    ranked: int,
    comparable: bool,
) -> dict[str, Any]:
    """The record of one trait over all datasets of a run.

    `names` are the datasets'. `comparable` says that a value is a difference, so that 0 means
    like the natural side.
    """
    known = np.isfinite(own.value)
    record: dict[str, Any] = {
        "layer": probe.layer(own.trait),
        "n": int(known.sum()),
        "missing": int((~known).sum()),
        "sigma": own.sigma,
        **interval(_mean(own.value, scores.prompt)),
        "sd": float(own.value[known].std()) if known.any() else None,
        "projection": interval(_mean(scores.projection[:, own.trait], scores.prompt)),
        "threshold": own.verdict.threshold,
        "threshold_low": own.verdict.low,
        "threshold_high": own.verdict.high,
        "flagged": int(own.verdict.flagged.sum()) if own.verdict.threshold is not None else None,
        "share_flagged": interval(_share(own.verdict.flagged[known], scores.prompt[known]))
        if own.verdict.threshold is not None
        else None,
        "histogram": _histogram(own.value, own.reference),
        "ranked": {
            "high": _ranks(own.ranking, ranked),
            "low": _ranks(-own.ranking, max(1, ranked // 2)),
        },
        "groups": {},
    }
    if reference is not None and own.reference is not None:
        record["reference"] = {
            "n": int(np.isfinite(own.reference).sum()),
            **interval(_mean(own.reference, reference.prompt)),
        }
        record["against_reference"] = interval(
            _difference(own.value, scores.prompt, own.reference, reference.prompt)
        )
    if len(names) > 1:
        labels = np.array([names[d] for d in scores.dataset], dtype=object)
        record["groups"]["dataset"] = _groups(labels, own, scores)
    for column, labels in scores.groups.items():
        record["groups"][column] = _groups(labels, own, scores)
    record["controls"] = {
        "length": _length_control(scores, reference, own),
        "random": _random_control(scores, reference, own, probe, comparable=comparable),
    }
    return record


def _groups(labels: np.ndarray, own: TraitScores, scores: Scores) -> list[dict[str, Any]]:
    """Means, flags and ranks by a column, highest mean first.

    `mean_without` is the mean of all other rows: what dropping the whole group would do.
    """
    known = np.isfinite(own.value)
    total, n_total = float(own.value[known].sum()), int(known.sum())
    rows = []
    numbers: dict[Any, int] = {}
    codes = np.array([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)
    for label, code in numbers.items():
        mine = (codes == code) & known
        n = int(mine.sum())
        left = n_total - n
        inside = float(own.value[mine].sum())
        rows.append(
            {
                "group": "(none)" if label is None else str(label),
                "n": n,
                **interval(_mean(own.value[mine], scores.prompt[mine])),
                "flagged": int(own.verdict.flagged[mine].sum())
                if own.verdict.threshold is not None
                else None,
                "mean_without": (total - inside) / left if left else None,
            }
        )
    rows.sort(key=lambda row: -np.inf if row["mean"] is None else row["mean"], reverse=True)
    return [{**row, "rank": rank} for rank, row in enumerate(rows, start=1)]


def _length_control(scores: Scores, reference: Scores | None, own: TraitScores) -> dict[str, Any]:
    """Is it only length? Correlation, flags by length, and the means at equal lengths."""
    known = np.isfinite(own.value)
    value, length, prompts = own.value[known], scores.n_tokens[known], scores.prompt[known]
    if len(value) < 10 or len(set(length.tolist())) < 2:
        return {"why": "too few rows, or all of one length"}
    found: dict[str, Any] = {"spearman": _correlation(value, length, prompts)}
    if own.verdict.threshold is not None:
        flagged = own.verdict.flagged[known]
        edges = np.quantile(length, np.linspace(0, 1, _LENGTH_FIFTHS + 1))
        fifth = np.clip(np.searchsorted(edges, length, side="left") - 1, 0, _LENGTH_FIFTHS - 1)
        found["flags_by_length"] = [
            {
                "from": int(length[fifth == i].min()),
                "to": int(length[fifth == i].max()),
                "n": int((fifth == i).sum()),
                **interval(_share(flagged[fifth == i], prompts[fifth == i])),
            }
            for i in range(_LENGTH_FIFTHS)
            if (fifth == i).any()
        ]
    if reference is not None and own.reference is not None:
        found["matched"] = _matched(scores, reference, own)
    return found


def _matched(scores: Scores, reference: Scores, own: TraitScores) -> dict[str, Any]:
    """Mean of the rows minus that of reference rows of like length (post-stratified).

    Strata are tenths of the rows' lengths; each counts with its share of the rows. Rows of
    lengths that the reference lacks are left out, and counted. The interval is over prompts, of
    which one may have rows in several strata.
    """
    assert own.reference is not None
    mine, theirs = np.isfinite(own.value), np.isfinite(own.reference)
    lengths, others = scores.n_tokens[mine], reference.n_tokens[theirs]
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _LENGTH_STRATA + 1)[1:-1]))
    a, b = np.searchsorted(edges, lengths), np.searchsorted(edges, others)
    strata = len(edges) + 1
    counts = (np.bincount(a, minlength=strata), np.bincount(b, minlength=strata))
    matched = (counts[0] > 1) & (counts[1] > 1)
    used = int(counts[0][matched].sum())
    if not used:
        return {"why": "the reference has no rows of these lengths"}
    share = np.where(matched, counts[0] / used, 0.0)
    sides = (
        _stratified(own.value[mine], a, scores.prompt[mine], share),
        _stratified(own.reference[theirs], b, reference.prompt[theirs], share),
    )
    mean = sides[0][0] - sides[1][0]
    reach = 1.959964 * float(np.hypot(sides[0][1], sides[1][1]))
    return {
        **interval(Interval(mean, mean - reach, mean + reach)),
        "n": used,
        "without_match": int(len(lengths) - used),
    }


def _stratified(
    values: np.ndarray, stratum: np.ndarray, prompts: np.ndarray, share: np.ndarray
) -> tuple[float, float]:
    """The mean of strata by their shares, and its cluster-robust error; NaN for one prompt."""
    n = np.maximum(np.bincount(stratum, minlength=len(share)), 1)
    means = np.bincount(stratum, values, minlength=len(share)) / n
    residuals = (values - means[stratum]) * (share / n)[stratum]
    _, codes = np.unique(prompts[share[stratum] > 0], return_inverse=True)
    by_prompt = np.bincount(codes, residuals[share[stratum] > 0])
    k = len(by_prompt)
    error = float(np.sqrt(k / (k - 1) * np.square(by_prompt).sum())) if k > 1 else np.nan
    return float((means * share).sum()), error


def _random_control(
    scores: Scores,
    reference: Scores | None,
    own: TraitScores,
    probe: Probe,
    *,
    comparable: bool,
) -> dict[str, Any]:
    """The same figures for random directions at the trait's layer.

    `effect` is the mean, against the reference or else against the natural side, in standard
    deviations of the rows; `share_over` the share of rows over the reference's 95th percentile.
    """
    if reference is None and not comparable:
        return {"why": "raw projections have no zero: compare with --reference"}
    own_values = _effect(
        scores.value[:, own.trait], None if reference is None else reference.value[:, own.trait]
    )
    return {
        "trait": own_values,
        "directions": [
            _effect(scores.value[:, i], None if reference is None else reference.value[:, i])
            for i in probe.controls[own.trait]
        ],
    }


def _effect(values: np.ndarray, reference: np.ndarray | None) -> dict[str, float | None]:
    known = values[np.isfinite(values)].astype(np.float64)
    base = np.zeros(1) if reference is None else reference[np.isfinite(reference)]
    if len(known) < 2 or known.std() == 0 or not len(base):
        return {"effect": None, "share_over": None}
    over = None if reference is None else float((known > np.quantile(base, 0.95)).mean())
    return {"effect": float((known.mean() - base.mean()) / known.std()), "share_over": over}


def _correlation(value: np.ndarray, length: np.ndarray, prompts: np.ndarray) -> dict[str, Any]:
    """Spearman's rank correlation, with its interval over prompts."""
    found = _attempt(lambda: rank_correlation_interval(value, length, prompts))
    if found is None or not np.isfinite(found.value):
        return {"value": None, "low": None, "high": None}
    return {"value": found.value, "low": found.low, "high": found.high}


def _histogram(values: np.ndarray, reference: np.ndarray | None) -> dict[str, Any]:
    """Counts in bins that both share; the outermost hold what lies beyond the 0.1% ends."""
    known = values[np.isfinite(values)]
    other = np.zeros(0) if reference is None else reference[np.isfinite(reference)]
    both = np.concatenate([known, other])
    if not len(both):
        return {"edges": [], "counts": [], "reference": None}
    low, high = np.quantile(both, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    return {
        "edges": edges.tolist(),
        "counts": np.histogram(np.clip(known, edges[0], edges[-1]), edges)[0].tolist(),
        "reference": None
        if reference is None
        else np.histogram(np.clip(other, edges[0], edges[-1]), edges)[0].tolist(),
    }


def _ranks(values: np.ndarray, n: int) -> list[int]:
    """Places of the `n` highest values; missing ones are never among them."""
    known = np.flatnonzero(np.isfinite(values))
    return known[np.argsort(-values[known], kind="stable")[:n]].tolist()


def _mean(values: np.ndarray, prompts: np.ndarray) -> Interval | None:
    known = np.isfinite(values)
    found = _attempt(lambda: cluster_mean(values[known], prompts[known]))
    if found is None and known.any():  # one prompt: a mean, and nothing to say of its spread
        return Interval(float(values[known].mean()), np.nan, np.nan)
    return found


def _difference(
    values: np.ndarray, prompts: np.ndarray, reference: np.ndarray, reference_prompts: np.ndarray
) -> Interval | None:
    mine, theirs = np.isfinite(values), np.isfinite(reference)
    return _attempt(
        lambda: mean_difference_interval(
            values[mine], prompts[mine], reference[theirs], reference_prompts[theirs]
        )
    )


def _share(flags: np.ndarray, prompts: np.ndarray) -> Interval | None:
    return _attempt(lambda: clustered_share(flags, prompts))


def _attempt(call: Callable[[], Interval]) -> Interval | None:
    """None where too few values are left for an interval."""
    try:
        return call()
    except DataError:
        return None


def interval(found: Interval | None) -> dict[str, float | None]:
    """An estimate as a record; null where it is missing."""
    if found is None:
        return {"mean": None, "low": None, "high": None}
    ends = {"low": found.low, "high": found.high}
    return {"mean": found.value, **{k: v if np.isfinite(v) else None for k, v in ends.items()}}
