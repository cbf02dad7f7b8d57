"""The figures of an extraction for a paper: rows from its results, and how they are drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

from personavec.extract.results import DoseResponse, ExtractResults, RandomDose, SteeredDose
from personavec.report.drawing import AWAY, TOWARD, Plane, curves, histogram
from personavec.report.plots import Plot, Row, estimate_cells
from personavec.results import Estimate
from personavec.traits import Polarity
from personavec.wording import signed

COEFFICIENT = "coefficient α (multiples of v)"
LOG_ODDS, COHERENCE = "log-odds (nats)", "coherence (0–100)"
_PROMPTS: dict[Polarity, str] = {"pos": "positive prompt alone", "neg": "negative prompt alone"}
_ROLLOUTS: dict[Polarity, str] = {"pos": "positive rollouts", "neg": "negative rollouts"}
_SIDES = {
    name: colour
    for names in (_PROMPTS, _ROLLOUTS)
    for name, colour in zip(names.values(), (TOWARD, AWAY), strict=True)
}


def paper_plots(results: ExtractResults) -> list[Plot]:
    """The charts of an extraction's report."""
    dose = partial(Plane, "coefficient", x_title=COEFFICIENT, colours=_SIDES)
    layer = partial(Plane, "layer", x_title="layer", whole=True)
    found: list[tuple[str, Sequence[Row], Plane]] = [
        ("dose-response", dose_rows(results), dose("log_odds", y_title=LOG_ODDS, height=2.2)),
        (
            "dose-coherence",
            coherence_rows(results),
            dose("coherence", y_title=COHERENCE, span=(0, 104)),
        ),
        ("layer-sweep", sweep_rows(results), layer("log_odds", y_title=LOG_ODDS)),
        (
            "layer-coherence",
            sweep_coherence_rows(results),
            layer("coherence", y_title=COHERENCE, span=(0, 104)),
        ),
        (
            "relative-norm",
            norm_rows(results),
            layer("relative_norm", y_title="‖v‖ / mean ‖h‖"),
        ),
    ]
    rollouts = partial(histogram, y="rollouts", titles=(LOG_ODDS, "rollouts"), colours=_SIDES)
    return [
        *(Plot(name, rows, partial(curves, plane=plane)) for name, rows, plane in found),
        Plot("rollout-log-odds", rollout_rows(results), rollouts),
    ]


def dose_rows(results: ExtractResults) -> list[Row]:
    """Log-odds by coefficient, of the vector, random directions, and without steering."""
    name = "log_odds"
    levels = [
        (_PROMPTS[polarity], results.prompted[polarity].estimate)
        for polarity in _PROMPTS
        if polarity in results.prompted
    ]
    unsteered = next((d for d in results.dose_response if d.coefficient == 0), None)
    if unsteered is not None:
        levels.append(("unsteered", Estimate(unsteered.log_odds)))
    return [
        *(_dose_row(results, d, name, d.log_odds_estimate) for d in _doses(results)),
        *(_level_row(series, name, level) for series, level in levels),
    ]


def coherence_rows(results: ExtractResults) -> list[Row]:
    """Coherence by coefficient, and the floor."""
    floor = results.coherence_floor
    return [
        *(_dose_row(results, d, "coherence", d.coherence_estimate) for d in _doses(results)),
        _level_row(f"coherence floor {floor:g}", "coherence", Estimate(floor)),
    ]


def sweep_rows(results: ExtractResults) -> list[Row]:
    """Log-odds by steered layer, for each estimator and coefficient."""
    return [_sweep_row(results, d, "log_odds", d.log_odds_estimate) for d in results.sweep]


def sweep_coherence_rows(results: ExtractResults) -> list[Row]:
    """Coherence by steered layer, and the floor."""
    floor = results.coherence_floor
    level = {
        **{"kind": "level", "series": f"coherence floor {floor:g}", "layer": None},
        **estimate_cells(Estimate(floor), "coherence"),
        **{"n": None, "selected": None},
    }
    return [
        *(_sweep_row(results, d, "coherence", d.coherence_estimate) for d in results.sweep),
        level,
    ]


def norm_rows(results: ExtractResults) -> list[Row]:
    """The vector's norm over the mean norm of the residual stream; one number, no interval."""
    return [
        {
            **{"kind": "curve", "series": "persona vector", "layer": layer},
            **estimate_cells(Estimate(size), "relative_norm"),
            "selected": layer == results.layer,
        }
        for layer, size in enumerate(results.relative_norm)
    ]


def rollout_rows(results: ExtractResults) -> list[Row]:
    """Counts of rollouts in bins of log-odds whose edges are multiples of the width."""
    every = [value for values in results.log_odds.values() for value in values]
    if not every:
        return []
    width = _round_width((max([*every, 0.0]) - min([*every, 0.0])) / 30)
    rows: list[Row] = []
    bins = range(int(min(every) // width), int(max(every) // width) + 1)
    for polarity, name in _ROLLOUTS.items():
        counts = Counter(int(value // width) for value in results.log_odds.get(polarity, ()))
        rows += [
            {
                **{"kind": "bin", "series": name},
                **{"from": place * width, "to": (place + 1) * width, "rollouts": counts[place]},
            }
            for place in bins
        ]
    return rows


def _doses(results: ExtractResults) -> list[DoseResponse | RandomDose]:
    return [*results.dose_response, *results.control]


def _dose_row(
    results: ExtractResults, dose: DoseResponse | RandomDose, name: str, found: Estimate
) -> Row:
    low, high = results.coherent_range
    random = isinstance(dose, RandomDose)
    return {
        "kind": "control" if random else "curve",
        "series": f"random direction {dose.direction}" if random else "persona vector",
        "coefficient": dose.coefficient,
        **estimate_cells(found, name),
        "n": dose.n,
        "coherent": dose.coherent,
        "in_range": not random and low <= dose.coefficient <= high,
    }


def _level_row(series: str, name: str, found: Estimate) -> Row:
    return {
        **{"kind": "level", "series": series, "coefficient": None},
        **estimate_cells(found, name),
        **{"n": None, "coherent": None, "in_range": None},
    }


def _sweep_row(results: ExtractResults, dose: SteeredDose, name: str, found: Estimate) -> Row:
    several = len({each.estimator for each in results.sweep}) > 1
    series = f"α = {signed(dose.coefficient)}"
    return {
        "kind": "curve",
        "series": f"{dose.estimator}, {series}" if several else series,
        "layer": dose.layer,
        **estimate_cells(found, name),
        "n": dose.n,
        "selected": dose.layer == results.layer,
    }


def _round_width(least: float) -> float:
    """The next width of at least this that is 1, 2 or 5 times a power of ten."""
    return next(
        step * 10.0**power
        for power in range(-6, 7)
        for step in (1, 2, 5)
        if step * 10.0**power >= least
    )
