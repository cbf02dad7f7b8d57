"""Controls of a trait's figures: is it only length, or would any direction do?"""

from __future__ import annotations

import numpy as np

from personavec.results import Estimate
from personavec.screen import intervals
from personavec.screen.results import (
    DirectionEffect,
    FlaggedByLength,
    LengthControl,
    MatchedMean,
    NotMeasured,
    RandomControl,
    ScreenControls,
    mean_fields,
)
from personavec.screen.score import Probe
from personavec.screen.table import Scores
from personavec.screen.trait_scores import TraitScores
from personavec.stats import Interval

_STRATA = 10
_FIFTHS = 5
_LEAST_ROWS = 10


def controls(
    scores: Scores,
    reference: Scores | None,
    own: TraitScores,
    probe: Probe,
    *,
    comparable: bool,
) -> ScreenControls:
    """Both controls. `comparable`: values are differences, so 0 means like the natural side."""
    return ScreenControls(
        length=_length(scores, reference, own),
        random=_random(scores, reference, own, probe, comparable=comparable),
    )


def _length(
    scores: Scores, reference: Scores | None, own: TraitScores
) -> LengthControl | NotMeasured:
    """Correlation with the length, flags by length, and the mean at equal lengths."""
    known = np.isfinite(own.value)
    value, length, prompts = own.value[known], scores.n_tokens[known], scores.prompt[known]
    if len(value) < _LEAST_ROWS or len(set(length.tolist())) < 2:
        return NotMeasured(why="too few rows, or all of one length")
    flags = None
    if own.flags.threshold is not None:
        flags = _flags_by_length(own.flags.flagged[known], length, prompts)
    matched = None
    if reference is not None and own.reference is not None:
        matched = matched_mean(scores, reference, own)
    return LengthControl(
        spearman=Estimate.of(intervals.rank_correlation(value, length, prompts)),
        flags_by_length=flags,
        matched=matched,
    )


def _flags_by_length(
    flagged: np.ndarray, length: np.ndarray, prompts: np.ndarray
) -> tuple[FlaggedByLength, ...]:
    """The share of flagged rows in each fifth of the lengths."""
    edges = np.quantile(length, np.linspace(0, 1, _FIFTHS + 1))
    fifth = np.clip(np.searchsorted(edges, length, side="left") - 1, 0, _FIFTHS - 1)
    found: list[FlaggedByLength] = []
    for mine in (fifth == i for i in range(_FIFTHS)):
        if mine.any():
            share = Estimate.of(intervals.share(flagged[mine], prompts[mine]))
            found.append(
                {
                    "from": int(length[mine].min()),
                    "to": int(length[mine].max()),
                    "n": int(mine.sum()),
                    "mean": share.value,
                    "low": share.low,
                    "high": share.high,
                }
            )
    return tuple(found)


def matched_mean(scores: Scores, reference: Scores, own: TraitScores) -> MatchedMean | NotMeasured:
    """Mean of the rows minus that of reference rows of like length (post-stratified).

    Strata are tenths of the rows' lengths; each counts with its share of the rows. Rows of
    lengths that the reference lacks are left out and counted. The interval is clustered by
    prompt: one prompt may have rows in several strata.
    """
    assert own.reference is not None
    mine, theirs = np.isfinite(own.value), np.isfinite(own.reference)
    lengths, others = scores.n_tokens[mine], reference.n_tokens[theirs]
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _STRATA + 1)[1:-1]))
    a, b = np.searchsorted(edges, lengths), np.searchsorted(edges, others)
    strata = len(edges) + 1
    counts = (np.bincount(a, minlength=strata), np.bincount(b, minlength=strata))
    matched = (counts[0] > 1) & (counts[1] > 1)
    used = int(counts[0][matched].sum())
    if not used:
        return NotMeasured(why="the reference has no rows of these lengths")
    share = np.where(matched, counts[0] / used, 0.0)
    sides = (
        _stratified(own.value[mine], a, scores.prompt[mine], share),
        _stratified(own.reference[theirs], b, reference.prompt[theirs], share),
    )
    mean = sides[0][0] - sides[1][0]
    reach = 1.959964 * float(np.hypot(sides[0][1], sides[1][1]))
    return MatchedMean(
        **mean_fields(Interval(mean, mean - reach, mean + reach)),
        n=used,
        without_match=int(len(lengths) - used),
    )


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


def _random(
    scores: Scores,
    reference: Scores | None,
    own: TraitScores,
    probe: Probe,
    *,
    comparable: bool,
) -> RandomControl | NotMeasured:
    """The trait's effect beside those of random directions at its layer."""
    if reference is None and not comparable:
        return NotMeasured(why="raw projections have no zero: compare with --reference")

    def effect(direction: int) -> DirectionEffect:
        other = None if reference is None else reference.value[:, direction]
        return _effect(scores.value[:, direction], other)

    return RandomControl(
        trait=effect(own.trait), directions=tuple(map(effect, probe.controls[own.trait]))
    )


def _effect(values: np.ndarray, reference: np.ndarray | None) -> DirectionEffect:
    known = values[np.isfinite(values)].astype(np.float64)
    base = np.zeros(1) if reference is None else reference[np.isfinite(reference)]
    if len(known) < 2 or known.std() == 0 or not len(base):
        return DirectionEffect(effect=None, share_over=None)
    over = None if reference is None else float((known > np.quantile(base, 0.95)).mean())
    return DirectionEffect(
        effect=float((known.mean() - base.mean()) / known.std()), share_over=over
    )
