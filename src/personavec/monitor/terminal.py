"""Terminal output of `monitor` and `calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from personavec.data.terminal import show_reading
from personavec.monitor.conclusion import conclusion
from personavec.monitor.results import FittedLimits, MonitorResults
from personavec.terminal import Ending, Next, console, log_notes, print_table, show_ending
from personavec.vectors import Calibration
from personavec.wording import decimal, estimated, plural

_FAMILIES = {"all": "all", "prompts": "eight system prompts", "examples": "0 to 20 examples"}


def show(results: MonitorResults) -> None:
    """Print how the log was read, a table of traits, fitted limits, and how much was read."""
    show_reading(results.data)
    log_notes(results.notes)
    rows = [
        (
            name,
            str(found.layer),
            estimated(found.answers, "+.2f"),
            "–" if found.max is None else decimal(found.max, "+.2f"),
            str(found.alarms),
        )
        for name, found in results.traits.items()
    ]
    print_table(("trait", "layer", "mean answer, σ [95%]", "highest, σ", "alarms"), rows)
    console.print("σ: standard deviations of first answers to neutral prompts")
    if results.limits is not None:
        console.print(_fitted(results.limits))
    console.print(
        f"{plural(results.turns, 'turn')} of {plural(results.conversations, 'conversation')}, "
        f"{plural(results.rejected, 'row')} rejected"
    )


def ending(results: MonitorResults, vectors: Sequence[str], model: Sequence[str]) -> Ending:
    """The last lines; `vectors` and `model` are words of the command that read the log."""
    command = ("serve", "--vectors", ",".join(vectors or results.traits), *model)
    return Ending(
        conclusion=conclusion(results),
        written=Path(results.out) / "report.html",
        next=Next("raise such alarms while a model is served", command),
    )


def show_calibration(found: Calibration, folder: Path, model: Sequence[str] | None) -> None:
    """Print the correlations, the forecast and its interval.

    `folder` is where it was written; `model` the words that name the model, None where the vector
    lies in another folder.
    """
    results = found.results
    assert results is not None
    log_notes(results.notes)
    rows = []
    for name, own in results.correlations.items():
        overall, within = (
            estimated(each, missing="not measured") for each in (own.overall, own.within)
        )
        rows.append((_FAMILIES[name], str(own.n), overall, within))
    title = f"{found.trait}: correlation of the prompt's projection with the answer's expression"
    print_table(("settings", "answers", "overall", "within condition"), rows, title=title)
    figures = (found.intercept, found.slope, found.below, found.above)
    intercept, slope, below, above = (decimal(each, "+.2f") for each in figures)
    unit = "nats" if found.unit == "log_odds" else "points"
    console.print(
        f"forecast: {intercept} {slope} × projection, {below} to {above} {unit}; its interval held "
        f"{estimated(results.coverage, missing='not measured')} of held-out answers"
    )
    command = ("serve", "--vectors", str(folder), *(model or ()))
    served = Next("see the forecast beside each reply", command)
    show_ending(
        Ending(
            conclusion=_said_calibration(found),
            written=folder,
            next=None if model is None else served,
        )
    )


def _said_calibration(found: Calibration) -> str:
    """Whether the prompt forecasts the answer, over all conditions and within one."""
    assert found.results is not None
    own = found.results.correlations["all"]
    if own.overall.low is None or own.overall.low <= 0:
        shown = estimated(own.overall, missing="not measured")
        return (
            f"The prompt's projection is not shown to forecast how {found.trait} the answer is "
            f"(correlation {shown})."
        )
    within = "within one condition no correlation is shown"
    if own.within.low is not None and own.within.low > 0:
        within = f"within one condition it is {estimated(own.within)}"
    return (
        f"The prompt's projection forecasts how {found.trait} the answer is: correlation "
        f"{estimated(own.overall)} over all conditions; {within}."
    )


def _fitted(limits: FittedLimits) -> str:
    share = limits.any
    return (
        f"limits fitted on {limits.fitted_on} conversations; false alarms, any trait, on "
        f"{share.hits} of {share.of} others: {share.value:.2%} "
        f"[{share.low:.2%}, {share.high:.2%}]; the limits are in {limits.folder}"
    )
