"""The figures that the nine statements rest on, each with its null and its outcome.

Pure functions of the stages' results: no model, no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from personavec.results import Estimate
from personavec.stats import correlation_interval
from personavec.studies.replicate.results import Evidence, Outcome
from personavec.studies.replicate.stages.expression import ExpressionResult
from personavec.studies.replicate.stages.extraction import ExtractionResult, SteeredAnswers
from personavec.studies.replicate.stages.measuring import Expressed
from personavec.studies.replicate.stages.mitigation import MitigationArm, MitigationResult
from personavec.studies.replicate.stages.monitoring import MonitoringResult
from personavec.studies.replicate.stages.persistence import PersistenceResult
from personavec.studies.replicate.stages.real import RealContrast, RealResult
from personavec.studies.replicate.stages.rows import RowsResult, SetReading
from personavec.wording import decimal, estimated

#: A correlation whose whole interval lies below this is no forecast.
WEAK = 0.3
#: An AUC whose whole interval lies below this tells nothing apart.
FAINT = 0.6
#: Tokens between the windows at which persistence is decided.
GAP = 64
#: Traits of which more is no harm; that mistakes make these grow is not what the paper claims.
HARMLESS = ("optimistic", "humorous")
#: Fewer sets than this give no correlation.
_FEWEST = 4

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """The results of the stages that have run."""

    extraction: ExtractionResult | None = None
    monitoring: MonitoringResult | None = None
    rows: RowsResult | None = None
    expression: ExpressionResult | None = None
    mitigation: MitigationResult | None = None
    real: RealResult | None = None
    persistence: PersistenceResult | None = None

    @classmethod
    def of(cls, results: Mapping[Any, Any]) -> Found:
        """From results by the stage's name."""
        return cls(**{name: results.get(name) for name in cls.__dataclass_fields__})


def outcome_of(holds: bool, fails: bool) -> Outcome:
    """By what the interval lies beyond."""
    return "replicates" if holds else "does not replicate" if fails else "not decided"


def _lies_above(found: Estimate, line: float | None) -> bool:
    """By its whole interval. Of a line that was not measured nothing can be said."""
    return found.low is not None and line is not None and found.low > line


def _lies_below(found: Estimate, line: float | None) -> bool:
    return found.high is not None and line is not None and found.high < line


def _exceeds(found: Estimate, line: float | None) -> bool:
    """By its value alone, as a null without an interval is compared."""
    return found.value is not None and line is not None and found.value > line


def _largest(found: Iterable[Estimate]) -> float | None:
    """The largest value, whatever its sign; None where none was measured."""
    return max((abs(own.value) for own in found if own.value is not None), default=None)


def _evidence(of: str, ours: Estimate, null: str, holds: bool, fails: bool) -> Evidence:
    """A figure; one without a value was not run, and one without an interval decides nothing."""
    if ours.value is None:
        return Evidence(of=of, outcome="not run", ours=ours, null=null)
    return Evidence(of=of, outcome=outcome_of(holds, fails), ours=ours, null=null)


def _by(records: Iterable[T], field: str) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for record in records:
        found.setdefault(getattr(record, field), []).append(record)
    return found


# 1 and 2: the vectors


def extraction(found: Found) -> list[Evidence]:
    """Of every trait, the answers at the upper end of the coherent range."""
    if found.extraction is None:
        return []
    doses = _by(found.extraction.doses, "trait")
    return [_steered(v.trait, v.toward, doses[v.trait]) for v in found.extraction.vectors]


def _steered(trait: str, end: float, doses: Sequence[SteeredAnswers]) -> Evidence:
    own = {d.coefficient: d.log_odds for d in doses if d.direction == "vector"}
    unsteered, at_end = own.get(0.0, Estimate()), own.get(end, Estimate())
    if not end:
        return _evidence(trait, at_end, "no dose toward it keeps answers coherent", False, False)
    random = [
        d.log_odds.value
        for d in doses
        if d.direction != "vector" and d.coefficient == end and d.log_odds.value is not None
    ]
    null = f"unsteered {estimated(unsteered)}, random directions up to "
    null += _shown(max(random, default=None))
    if unsteered.value is None or unsteered.high is None or not random:
        return _evidence(trait, at_end, null, False, False)
    holds = _lies_above(at_end, max([unsteered.high, *random]))
    fails = _lies_below(at_end, max([unsteered.value, *random]))
    return _evidence(trait, at_end, null, holds, fails)


def monitoring(found: Found) -> list[Evidence]:
    """Of every trait, r over all conditions; r within conditions stands beside it."""
    if found.monitoring is None:
        return []
    return [
        _evidence(
            own.trait,
            own.overall,
            f"0; within conditions {_shown(own.within.value)}",
            _lies_above(own.overall, 0),
            _lies_below(own.overall, WEAK),
        )
        for own in found.monitoring.forecasts
        if own.over == "all"
    ]


def _shown(value: float | None) -> str:
    return "not measured" if value is None else decimal(value)


# 3 and 4: what finetuning does


def narrow_flaws(found: Found) -> list[Evidence]:
    """Of every set of narrow flaws, the harmful trait that grew most beyond its null."""
    if found.expression is None:
        return []
    contrasts = found.expression.contrasts
    noise = {
        trait: _largest(c.difference for c in own if _is_seed(c.what))
        for trait, own in _by(contrasts, "trait").items()
    }
    flawed = [c for c in contrasts if c.taught is None and c.trait not in HARMLESS]
    evidence = []
    for name, own in _by([c for c in flawed if c.what == "strong"], "set").items():
        known = [c for c in own if c.difference.value is not None]
        if not known:
            continue
        most = max(known, key=lambda c: (c.difference.low or -np.inf) - (noise[c.trait] or 0.0))
        holds = any(_lies_above(c.difference, noise[c.trait]) for c in known)
        fails = all(_lies_below(c.difference, noise[c.trait]) for c in known)
        null = f"a second seed changes it by {_shown(noise[most.trait])}"
        evidence.append(_evidence(f"{name}: {most.trait}", most.difference, null, holds, fails))
    return evidence


def _is_seed(what: str) -> bool:
    return what.startswith("seed ")


def shift_and_expression(found: Found) -> list[Evidence]:
    """Of every trait, r over finetunes; and that of all traits together, within traits."""
    if found.expression is None:
        return []
    tuned = [e for e in found.expression.expressed if e.set is not None]
    by_trait = _by(tuned, "trait")
    evidence = []
    for trait, own in by_trait.items():
        r = correlated([(e.shift.value, e.change.value, str(e.set)) for e in own])
        others = [_cross(own, by_trait[other]) for other in by_trait if other != trait]
        known = [abs(value) for value in others if value is not None]
        across = float(np.mean(known)) if known else None
        # A study of one trait has no other to compare with.
        holds = _lies_above(r, 0) and (across is None or _exceeds(r, across))
        null = f"0; the shift along other traits {_shown(across)}"
        null += _by_writer([(e.shift.value, e.change.value, e.set, e.taught) for e in own])
        evidence.append(_evidence(trait, r, null, holds, _lies_below(r, WEAK)))
    return evidence


def _cross(own: Sequence[Expressed], other: Sequence[Expressed]) -> float | None:
    """r of another trait's shift with this one's change over the same models."""
    shifts = {e.model: e.shift.value for e in other}
    return correlated([(shifts.get(e.model), e.change.value, str(e.set)) for e in own]).value


def _by_writer(
    points: Sequence[tuple[float | None, float | None, str | None, str | None]],
) -> str:
    """r over sets that the model wrote itself, which show a trait, and over others', in words."""
    own, others = (
        correlated([(x, y, str(name)) for x, y, name, taught in points if bool(taught) == mine])
        for mine in (True, False)
    )
    return f"; sets of its own {estimated(own)}, others' {estimated(others)}"


def correlated(points: Sequence[tuple[float | None, float | None, str]]) -> Estimate:
    """Pearson's r of (x, y, cluster), with its interval over clusters; missing pairs left out."""
    known = [(x, y, name) for x, y, name in points if x is not None and y is not None]
    if len({name for *_, name in known}) < _FEWEST:
        return Estimate()
    x, y, names = map(list, zip(*known, strict=True))
    return Estimate.of(correlation_interval(x, y, names))


# 5: mitigation


def mitigation(found: Found) -> list[Evidence]:
    """Of every trait, the best coefficient of preventative steering at the selected layer."""
    if found.mitigation is None:
        return []
    here = [arm for arm in found.mitigation.arms if arm.where == "selected layer"]
    return [_mitigated(trait, own) for trait, own in _by(here, "trait").items()]


def _mitigated(trait: str, arms: Sequence[MitigationArm]) -> Evidence:
    plain = next((arm for arm in arms if arm.mitigation == "none"), None)
    tried = [a for a in arms if a.mitigation == "preventative" and a.minus_plain.value is not None]
    if plain is None or not tried:
        return _evidence(trait, Estimate(), "no preventative steering was trained", False, False)
    random = [a.minus_plain.value for a in arms if a.mitigation == "random"]
    chance = min((value for value in random if value is not None), default=None)
    good = [arm for arm in tried if _keeps(arm, chance)]
    best = min(good or tried, key=lambda arm: arm.minus_plain.value or 0.0)
    raised = _lies_above(plain.minus_base, 0)
    fails = raised and not any(_lies_below(arm.minus_plain, 0) for arm in tried)
    null = f"random direction {_shown(chance)}"
    if not raised:
        null += "; plain training does not raise it"
    return _evidence(f"{trait}: {best.arm}", best.minus_plain, null, raised and bool(good), fails)


def _keeps(arm: MitigationArm, chance: float | None) -> bool:
    """Whether an arm keeps the trait down by its direction, learns the data, stays capable."""
    value = arm.minus_plain.value or 0.0
    directed = chance is not None and value < chance
    return _lies_below(arm.minus_plain, 0) and directed and bool(arm.learnt and arm.capable)


# 6 and 7: the data


def forecast(found: Found) -> list[Evidence]:
    """Of every trait, r over datasets of projection difference and change of expression."""
    if found.expression is None or found.rows is None:
        return []
    evidence = []
    for trait in dict.fromkeys(reading.trait for reading in found.rows.readings):
        by = forecasts(found.rows, found.expression, trait)
        ours = by.pop("projection_difference")
        random = [abs(r.value) for n, r in by.items() if n.startswith("random") and r.value]
        chance = float(np.mean(random)) if random else None
        others = {n: r.value for n, r in by.items() if not n.startswith("random")}
        null = f"random directions {_shown(chance)}; " + ", ".join(
            f"{name.replace('_', ' ')} {_shown(value)}" for name, value in others.items()
        )
        null += _by_writer(_forecast_points(found.rows, found.expression, trait))
        holds = _lies_above(ours, 0) and _exceeds(ours, chance)
        evidence.append(_evidence(trait, ours, null, holds, _lies_below(ours, WEAK)))
    return evidence


def _forecast_points(
    rows: RowsResult, expression: ExpressionResult, trait: str
) -> list[tuple[float | None, float | None, str | None, str | None]]:
    """Projection difference, change, set and the trait that it shows, by set and level."""
    taught = {(e.set, e.level): e.taught for e in expression.expressed}
    return [
        (
            reading.projection_difference.value,
            change,
            reading.set,
            taught[reading.set, reading.level],
        )
        for reading, change in _after(rows, expression, trait)
    ]


def _after(
    rows: RowsResult, expression: ExpressionResult, trait: str
) -> list[tuple[SetReading, float]]:
    """Every set's reading along a trait, with the mean change of its expression over seeds."""
    changes: dict[tuple[str | None, str | None], list[float]] = {}
    for own in expression.expressed:
        if own.trait == trait and own.change.value is not None:
            changes.setdefault((own.set, own.level), []).append(own.change.value)
    return [
        (reading, float(np.mean(changes[reading.set, reading.level])))
        for reading in rows.readings
        if reading.trait == trait and (reading.set, reading.level) in changes
    ]


def forecasts(rows: RowsResult, expression: ExpressionResult, trait: str) -> dict[str, Estimate]:
    """r over datasets of every reading before training with the change of expression after it."""
    after = _after(rows, expression, trait)
    names = ("projection_difference", "projection", "last_prompt", "judge", "length", "tfidf")
    found = {
        name: correlated([(getattr(r, name).value, change, r.set) for r, change in after])
        for name in names
    }
    n_random = min((len(reading.random) for reading, _ in after), default=0)
    for i in range(n_random):
        found[f"random {i}"] = correlated([(r.random[i], change, r.set) for r, change in after])
    return found


def rows(found: Found) -> list[Evidence]:
    """Of every trait with a set, the AUC of strong rows against the right answers."""
    if found.rows is None:
        return []
    strong = [s for s in found.rows.separations if s.level == "strong"]
    evidence = []
    for trait, own in _by(strong, "trait").items():
        by = {separation.by: separation.auc for separation in own}
        ours = by["projection_difference"]
        folded = [
            max(auc.value, 1 - auc.value)
            for name, auc in by.items()
            if name.startswith("random") and auc.value is not None
        ]
        chance = max(folded, default=None)
        holds = _lies_above(ours, 0.5) and _exceeds(ours, chance)
        null = f"0.5; random directions up to {_shown(chance)}"
        evidence.append(_evidence(trait, ours, null, holds, _lies_below(ours, FAINT)))
    return evidence


# 8 and 9


def real(found: Found) -> list[Evidence]:
    """Of every trait, before and after the judge's filter, high minus low."""
    if found.real is None:
        return []
    evidence = []
    for trait, own in _by(found.real.contrasts, "trait").items():
        noise = _largest(c.difference for c in own if _is_seed(c.what))
        kept = [c for c in own if not _is_seed(c.what)]
        for drawn_from, three in _by(kept, "drawn_from").items():
            evidence.append(_ordered(f"{trait}, {drawn_from}", three, noise))
    return evidence


def _ordered(of: str, contrasts: Sequence[RealContrast], noise: float | None) -> Evidence:
    by = {c.what: c.difference for c in contrasts}
    ours = by.get("high - low", Estimate())
    steps = [by.get(what, Estimate()).value for what in ("high - random", "random - low")]
    ordered = all(step is not None and step > 0 for step in steps)
    null = (
        f"high minus random {_shown(steps[0])}, random minus low {_shown(steps[1])}; "
        f"a second seed changes {_shown(noise)}"
    )
    return _evidence(of, ours, null, ordered and _lies_above(ours, 0), _lies_below(ours, noise))


def persistence(found: Found) -> list[Evidence]:
    """Of every trait, r across the gap, or across the widest gap that was measured."""
    if found.persistence is None:
        return []
    evidence = []
    for trait, own in _by(found.persistence.lags, "trait").items():
        gap = max((lag.lag for lag in own if lag.lag <= GAP), default=None)
        by = {lag.direction: lag.within for lag in own if lag.lag == gap}
        ours = by.pop("vector", Estimate())
        strongest = _largest(by.values())
        holds = _lies_above(ours, 0) and _exceeds(ours, strongest)
        null = f"0; random directions and topics up to {_shown(strongest)}"
        evidence.append(_evidence(trait, ours, null, holds, _lies_below(ours, WEAK)))
    return evidence
