"""Do two judges agree? Columns of scores for the same answers, compared pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personavec.data import read_rows
from personavec.errors import DataError, UsageError
from personavec.plain import plain
from personavec.stats import Interval, auc_interval, clustered_bootstrap

Floats = npt.NDArray[np.float64]
_SHOWN = 10
#: Answers to one question that are compared with each other; more make pairs by the million.
_PAIRED = 300


def compare_file(
    path: Path, columns: Sequence[str], *, question_column: str = "question", seed: int = 0
) -> dict[str, Any]:
    """Agreement of every two score columns of a file, and the rows they disagree on most.

    A row counts where both columns hold a number from 0 to 100; other rows are counted, whatever
    their answer says. Intervals resample questions where the question column is there, else rows.
    Raises UsageError for fewer than two columns, DataError for a missing column or a score
    outside 0 to 100.
    """
    if len(dict.fromkeys(columns)) < 2:
        raise UsageError(f"--columns {','.join(columns)}: name two columns of scores or more")
    rows = list(read_rows(path))
    if not rows:
        raise DataError(f"{path} holds no rows")
    if missing := [c for c in columns if not any(c in row for _, row in rows)]:
        there = ", ".join(map(str, rows[0][1]))
        raise DataError(f"{path} has no column '{missing[0]}' (found: {there}); see --columns")
    scores = {c: [_score(row.get(c), c, n, path) for n, row in rows] for c in columns}
    asked = any(question_column in row for _, row in rows)
    clusters = [str(row.get(question_column)) if asked else n for n, row in rows]
    pairs = []
    for a, b in combinations(dict.fromkeys(columns), 2):
        both = [
            i
            for i, (x, y) in enumerate(zip(scores[a], scores[b], strict=True))
            if x is not None and y is not None
        ]
        if len(both) < 2:
            raise DataError(f"{path}: fewer than two rows have a score in both '{a}' and '{b}'")
        x = np.array([scores[a][i] for i in both], float)
        y = np.array([scores[b][i] for i in both], float)
        pairs.append(
            {
                "columns": [a, b],
                "n": len(both),
                "without_both_scores": len(rows) - len(both),
                **agreement(x, y, [clusters[i] for i in both], same_question=asked, seed=seed),
                "disagreements": [
                    {**plain(rows[both[i]][1]), "row": rows[both[i]][0]}
                    for i in np.argsort(-abs(x - y), kind="stable")[:_SHOWN]
                    if x[i] != y[i]
                ],
            }
        )
    return {
        "file": str(path),
        "rows": len(rows),
        "clustered_by": question_column if asked else None,
        "pairs": pairs,
    }


def agreement(
    a: Floats,
    b: Floats,
    clusters: Sequence[Hashable],
    *,
    same_question: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Five figures of agreement between two judges' scores, each with its interval.

    `agreement` and `kappa` (Cohen's) are of the verdicts at 50; `auc` is how well b's scores tell
    apart what a calls present and absent; `spearman` compares ranks. `preference` is the share of
    pairs of answers to one question (with `same_question`; else of pairs drawn at random) that a
    ranks apart and b ranks alike, a tie of b counting one half.
    """
    rows = np.arange(len(a), dtype=float)
    shows = a > 50

    def over_rows(statistic: Callable[[Floats, Floats], float]) -> Interval:
        def of(chosen: Floats) -> float:
            index = chosen.astype(int)
            return statistic(a[index], b[index])

        if math.isnan(statistic(a, b)):
            raise DataError("undefined: one judge gives every answer the same verdict or score")
        return clustered_bootstrap(rows, clusters, of, seed=seed)

    def of_side(side: npt.NDArray[np.bool_]) -> list[Hashable]:
        return [cluster for cluster, there in zip(clusters, side, strict=True) if there]

    wins, of_question = _preferences(a, b, clusters, same_question=same_question, seed=seed)
    same = (shows == (b > 50)).astype(float)
    return {
        "agreement": _figure(lambda: clustered_bootstrap(same, clusters, seed=seed)),
        "kappa": _figure(lambda: over_rows(_kappa)),
        "auc": _figure(
            lambda: auc_interval(b[shows], b[~shows], of_side(shows), of_side(~shows), seed=seed)
        ),
        "spearman": _figure(lambda: over_rows(_spearman)),
        "preference": _figure(lambda: clustered_bootstrap(wins, of_question, seed=seed)),
    }


def _figure(compute: Callable[[], Interval]) -> dict[str, Any]:
    """A figure with its interval, or why there is none."""
    try:
        return asdict(compute())
    except DataError as error:
        return {"value": None, "low": None, "high": None, "why": str(error)}


def _score(value: Any, column: str, row: int, path: Path) -> float | None:
    """A cell's score; None where it holds none. Raises DataError outside 0 to 100."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        return None
    if math.isnan(number):
        return None
    if not 0 <= number <= 100:
        raise DataError(
            f"{path}, row {row}: '{column}' holds {number:g}; scores go from 0 to 100: rescale "
            "the column, or leave the cell empty where there is no score"
        )
    return number


def _kappa(a: Floats, b: Floats) -> float:
    """(observed − chance) / (1 − chance) of the verdicts at 50; NaN where chance is certain."""
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
    """For every pair of answers that a ranks apart, whether b ranks them alike; its cluster."""
    if same_question:
        members: dict[Hashable, list[int]] = {}
        for i, cluster in enumerate(clusters):
            members.setdefault(cluster, []).append(i)
        pairs = [(i, j) for group in members.values() for i, j in combinations(group[:_PAIRED], 2)]
    else:
        # Disjoint, so that the pairs are independent of each other.
        order = np.random.default_rng(seed).permutation(len(a))
        pairs = list(zip(order[0::2].tolist(), order[1::2].tolist(), strict=False))
    apart = [(i, j) for i, j in pairs if a[i] != a[j]]
    wins = [0.5 + 0.5 * np.sign((a[i] - a[j]) * (b[i] - b[j])) for i, j in apart]
    return np.array(wins, float), [clusters[i] for i, _ in apart]
