"""Terminal output of `monitor` and `calibrate`."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from personavec.data.terminal import show_reading
from personavec.monitor.results import FittedLimits, MonitorResults
from personavec.terminal import console, log_notes
from personavec.vectors import Calibration
from personavec.wording import estimated, plural

_FAMILIES = {"all": "all", "prompts": "eight system prompts", "examples": "0 to 20 examples"}


def show(results: MonitorResults) -> None:
    """Print how the log was read, a table of traits, fitted limits, and the output folder."""
    show_reading(results.data)
    log_notes(results.notes)
    table = Table("trait", "layer", "mean answer, σ [95%]", "highest", "alarms")
    for name, found in results.traits.items():
        table.add_row(
            name,
            str(found.layer),
            estimated(found.answers, "+.2f"),
            "–" if found.max is None else f"{found.max:+.2f}",
            str(found.alarms),
        )
    console.print(table)
    console.print("σ: standard deviations of first answers to neutral prompts")
    if results.limits is not None:
        console.print(_fitted(results.limits))
    console.print(
        f"{plural(results.turns, 'turn')} of {plural(results.conversations, 'conversation')}, "
        f"{plural(results.rejected, 'row')} rejected; written to {results.out}"
    )


def show_calibration(found: Calibration, folder: Path) -> None:
    """Print the correlations, the forecast and its interval; `folder` is the output folder."""
    results = found.results
    assert results is not None
    log_notes(results.notes)
    table = Table(
        "settings",
        "answers",
        "overall",
        "within condition",
        title=f"{found.trait}: correlation of the prompt's projection with the answer's expression",
        title_justify="left",
    )
    for name, own in results.correlations.items():
        overall, within = (
            estimated(each, missing="not measured") for each in (own.overall, own.within)
        )
        table.add_row(_FAMILIES[name], str(own.n), overall, within)
    console.print(table)
    unit = "nats" if found.unit == "log_odds" else "points"
    console.print(
        f"forecast: {found.intercept:+.2f} {found.slope:+.2f} × projection, "
        f"{found.below:+.2f} to {found.above:+.2f} {unit}; its interval held "
        f"{estimated(results.coverage, missing='not measured')} of held-out answers"
    )
    console.print(f"written to {folder}")


def _fitted(limits: FittedLimits) -> str:
    share = limits.any
    return (
        f"limits fitted on {limits.fitted_on} conversations; false alarms, any trait, on "
        f"{share.hits} of {share.of} others: {share.value:.2%} "
        f"[{share.low:.2%}, {share.high:.2%}]; written to {limits.folder}"
    )
