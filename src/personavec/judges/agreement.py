"""Agreement of judges: columns of scores for the same answers, compared pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personavec.data import RawColumns, read_rows
from personavec.errors import DataError, UsageError
from personavec.judges.results import (
    Agreement,
    CompareResults,
    PairAgreement,
    estimate_or_reason,
)
from personavec.plain import plain
from personavec.stats import Interval, auc_interval, clustered_bootstrap

Floats = npt.NDArray[np.float64]
#: Rows of the largest differences that are kept.
_SHOWN = 10
#: Answers to one question that are compared with each other; more would make millions of pairs.
_PAIRED = 300


def compare_file(
    path: Path, columns: Sequence[str], *, question_column: str = "question", seed: int = 0
) -> CompareResults:
    """Agreement of every two score columns of a file, with the rows they disagree on most.

    A row counts if both columns hold a number from 0 to 100; the other rows are counted apart.
    Intervals are clustered by question if the file has the question column, else rows are taken
    as independent. Raises UsageError for fewer than two columns, DataError for a missing column
    or a score outside 0 to 100.
    """
    names = list(dict.fromkeys(columns))
    if len(names) < 2:
        raise UsageError(f"--columns {','.join(columns)}: name two columns of scores or more")
    rows = _rows(path, names)
    scores = {c: np.array([_score(row.get(c), c, n, path) for n, row in rows]) for c in names}
    asked = any(question_column in row for _, row in rows)
    clusters = [str(row.get(question_column)) if asked else n for n, row in rows]
    pairs = []
    for a, b in combinations(names, 2):
        both = np.flatnonzero(np.isfinite(scores[a] + scores[b]))
        if len(both) < 2:
            raise DataError(f"{path}: fewer than two rows have a score in both '{a}' and '{b}'")
        x, y = scores[a][both], scores[b][both]
        figures = agreement(x, y, [clusters[i] for i in both], same_question=asked, seed=seed)
        pairs.append(
            PairAgreement(
                **vars(figures),
                columns=[a, b],
                n=len(both),
                without_both_scores=len(rows) - len(both),
                disagreements=_largest(x - y, [rows[i] for i in both]),
            )
        )
    return CompareResults(
        file=str(path),
        rows=len(rows),
        clustered_by=question_column if asked else None,
        pairs=pairs,
    )


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, RawColumns]]:
    """The numbered rows of a file that has the columns."""
    rows = list(read_rows(path))
    if not rows:
        raise DataError(f"{path} holds no rows")
    if missing := [c for c in columns if not any(c in row for _, row in rows)]:
        there = ", ".join(map(str, rows[0][1]))
        raise DataError(f"{path} has no column '{missing[0]}' (found: {there}); see --columns")
    return rows


def _largest(differences: Floats, rows: Sequence[tuple[int, RawColumns]]) -> list[RawColumns]:
    """The rows with the largest differences of scores, without those that agree."""
    order = np.argsort(-np.abs(differences), kind="stable")[:_SHOWN]
    return [{**plain(rows[i][1]), "row": rows[i][0]} for i in order if differences[i] != 0]


def agreement(
    a: Floats,
    b: Floats,
    clusters: Sequence[Hashable],
    *,
    same_question: bool = True,
    seed: int = 0,
) -> Agreement:
    """Agreement of two judges' scores, both [answer] and from 0 to 100.

    Preferences compare answers of one cluster with each other; without `same_question`, pairs of
    answers are drawn at random.
    """
    shows = a > 50
    same = (shows == (b > 50)).astype(float)
    wins, of_question = _preferences(a, b, clusters, same_question=same_question, seed=seed)
    return Agreement(
        agreement=estimate_or_reason(lambda: clustered_bootstrap(same, clusters, seed=seed)),
        kappa=estimate_or_reason(lambda: _over_answers(_kappa, a, b, clusters, seed)),
        auc=estimate_or_reason(
            lambda: auc_interval(
                b[shows], b[~shows], _of(clusters, shows), _of(clusters, ~shows), seed=seed
            )
        ),
        spearman=estimate_or_reason(lambda: _over_answers(_spearman, a, b, clusters, seed)),
        preference=estimate_or_reason(lambda: clustered_bootstrap(wins, of_question, seed=seed)),
    )


def _over_answers(
    statistic: Callable[[Floats, Floats], float],
    a: Floats,
    b: Floats,
    clusters: Sequence[Hashable],
    seed: int,
) -> Interval:
    """A statistic of two columns with its interval. Raises DataError where it is undefined."""

    def of(chosen: Floats) -> float:
        index = chosen.astype(int)
        return statistic(a[index], b[index])

    if math.isnan(statistic(a, b)):
        raise DataError("undefined: one judge gives every answer the same verdict or score")
    return clustered_bootstrap(np.arange(len(a), dtype=float), clusters, of, seed=seed)


def _of(clusters: Sequence[Hashable], side: npt.NDArray[np.bool_]) -> list[Hashable]:
    return [cluster for cluster, there in zip(clusters, side, strict=True) if there]


def _score(value: Any, column: str, row: int, path: Path) -> float:
    """A cell's score; NaN if it holds no number. Raises DataError outside 0 to 100."""
    if isinstance(value, bool):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        return math.nan
    if not (math.isnan(number) or 0 <= number <= 100):
        raise DataError(
            f"{path}, row {row}: '{column}' holds {number:g}; scores go from 0 to 100: rescale "
            "the column, or leave the cell empty where there is no score"
        )
    return number


def _kappa(a: Floats, b: Floats) -> float:
    """(observed − chance) / (1 − chance) of the verdicts at 50; NaN if chance agreement is 1."""
    first, second = a > 50, b > 50
    chance = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    return float(((first == second).mean() - chance) / (1 - chance)) if chance < 1 else math.nan


def _spearman(a: Floats, b: Floats) -> float:
    from scipy.stats import rankdata

    ranks_a, ranks_b = rankdata(a), rankdata(b)
    if ranks_a.std() == 0 or ranks_b.std() == 0:
        return math.nan
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _preferences(
    a: Floats, b: Floats, clusters: Sequence[Hashable], *, same_question: bool, seed: int
) -> tuple[Floats, list[Hashable]]:
    """For every pair of answers that a ranks apart: 1 if b ranks them in the same order, 0.5 for a
    tie, else 0; and the pair's cluster."""
    if same_question:
        members: dict[Hashable, list[int]] = {}
        for i, cluster in enumerate(clusters):
            members.setdefault(cluster, []).append(i)
        pairs = [(i, j) for group in members.values() for i, j in combinations(group[:_PAIRED], 2)]
    else:
        # Disjoint pairs are independent of each other.
        order = np.random.default_rng(seed).permutation(len(a))
        pairs = list(zip(order[0::2].tolist(), order[1::2].tolist(), strict=False))
    apart = [(i, j) for i, j in pairs if a[i] != a[j]]
    wins = [0.5 + 0.5 * np.sign((a[i] - a[j]) * (b[i] - b[j])) for i, j in apart]
    return np.array(wins, float), [clusters[i] for i, _ in apart]
