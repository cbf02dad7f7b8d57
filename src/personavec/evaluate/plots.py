"""The figures of an evaluation for a paper: rows from its results, and how they are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from personavec.evaluate.report import described
from personavec.evaluate.results import EvaluateResults
from personavec.report.drawing import forest
from personavec.report.plots import Plot, Row, estimate_cells
from personavec.rollouts import ExpressionDifference, Measure

SCORE, LOG_ODDS = "trait score (0–100)", "log-odds (nats)"
_MEASURES: dict[str, tuple[Measure, str, tuple[float, float] | None]] = {
    "trait-scores": ("mean", SCORE, (-2.0, 102.0)),
    "log-odds": ("log_odds", LOG_ODDS, None),
    "coherence": ("coherence", "coherence (0–100)", (-2.0, 102.0)),
}


def paper_plots(results: EvaluateResults) -> list[Plot]:
    """The charts of an evaluation's report."""
    found = [
        Plot(name, expression_rows(results, measure), partial(forest, x_title=unit, span=span))
        for name, (measure, unit, span) in _MEASURES.items()
    ]
    score, rows = difference_rows(results)
    unit = f"difference in {SCORE if score else LOG_ODDS}"
    found.append(Plot("differences", rows, partial(forest, x_title=unit, reference=0)))
    right = capability_rows(results)
    chances = {of.chance for of in results.capability.values()}
    chance = next(iter(chances)) if len(chances) == 1 else None
    drawn = partial(
        forest, x_title="share of items answered right", reference=chance, span=(0, 1.02)
    )
    return [*found, Plot("capability", right, drawn)]


def expression_rows(results: EvaluateResults, measure: Measure) -> list[Row]:
    """A measure of every trait, for everyone who answered; none where nothing has it."""
    names = _names(results)
    rows: list[Row] = [
        {
            **{"label": trait, "series": who},
            **estimate_cells(traits[trait].estimate(measure)),
            **{"n": traits[trait].n, "questions": traits[trait].questions},
        }
        for trait in results.traits
        for who, traits in results.measured_for(*names)
    ]
    return rows if any(row["value"] is not None for row in rows) else []


def difference_rows(results: EvaluateResults) -> tuple[bool, list[Row]]:
    """Paired differences by trait, in log-odds; whether in scores, where no log-odds were given."""
    pairs = list(_differences(results))
    score = all(of.log_odds.value is None for *_, of in pairs)
    rows: list[Row] = [
        {
            **{"label": trait, "series": series},
            **estimate_cells(of.mean if score else of.log_odds),
            "questions": of.questions,
        }
        for series, trait, of in pairs
    ]
    return score, rows


def capability_rows(results: EvaluateResults) -> list[Row]:
    """The share of right answers by task, with what guessing reaches."""
    model, other, _ = _names(results)
    groups = [(model, results.capability)]
    if results.compare_to:
        groups.append((other, results.compare_to.capability))
    return [
        {
            **{"label": task, "series": who},
            **estimate_cells(of.estimate),
            **{"chance": of.chance, "n": of.n},
        }
        for task in results.capability
        for who, tasks in groups
        if (of := tasks.get(task)) is not None
    ]


def _differences(
    results: EvaluateResults,
) -> Iterable[tuple[str, str, ExpressionDifference]]:
    """What was subtracted from what, the trait, and the difference."""
    model, other, cues = _names(results)
    compared: list[tuple[str, Mapping[str, ExpressionDifference]]] = []
    if results.compare_to:
        compared.append((f"{model} minus {other}", results.compare_to.differences))
    if cue := results.cue:
        compared.append((f"{model}: with cues minus without", cue.differences))
        if cue.compare_to:
            compared.append((f"{model} minus {other}{cues}", cue.compare_to.differences))
    return [(series, trait, of) for series, found in compared for trait, of in found.items()]


def _names(results: EvaluateResults) -> tuple[str, str, str]:
    """What the model and the other are called, and what is added under cues."""
    model = described(results)
    other = described(results.compare_to) if results.compare_to else "other"
    return model, other if other != model else f"{other} (other)", ", cues"
