"""What `extract` and `import` print for people."""

from __future__ import annotations

from rich.table import Table

from personavec.data.terminal import show_reading
from personavec.extract.import_reference import ImportResult
from personavec.extract.results import ExtractSummary
from personavec.terminal import console
from personavec.vectors import Verdict
from personavec.wording import plural

_STYLES: dict[Verdict, str] = {"passed": "green", "failed": "red", "not decided": "yellow"}


def show(found: ExtractSummary) -> None:
    """The dose-response, the checks and the notes of an extraction."""
    show_reading(found.data)
    kept = found.kept
    console.print(
        f"\n{found.trait} on {found.model}: layer {found.layer}, estimator {found.estimator}, kept "
        f"{kept.pos} positive and {plural(kept.neg, 'negative rollout')} of {kept.of} each"
    )
    console.print(_dose_table(found))
    for check in found.checks:
        console.print(
            f"{check.verdict}  {check.name}: {check.detail}", style=_STYLES[check.verdict]
        )
    console.print(f"verdict: {found.words}", style=_STYLES[found.verdict])
    for note in found.notes:
        console.print(f"note: {note}")
    console.print(f"{found.seconds:.0f} s; report: {found.report}")


def show_import(found: ImportResult) -> None:
    """What was imported, and what to know of it."""
    console.print(f"{found.trait} on {found.model}, layer {found.layer}, written to {found.vector}")
    for note in found.notes:
        console.print(f"note: {note}")


def _dose_table(found: ExtractSummary) -> Table:
    table = Table("coefficient", "log-odds (95% interval)", "coherence", "random directions")
    low, high = found.coherent_range
    for dose in found.dose_response:
        c = dose.coefficient
        others = [
            other.log_odds_interval.value for other in found.control if other.coefficient == c
        ]
        table.add_row(
            f"{c:+g}",
            f"{_number(dose.log_odds)} ({_number(dose.low)} to {_number(dose.high)})",
            _number(dose.coherence),
            f"{min(others):.1f} to {max(others):.1f}" if others else "",
            style=None if low <= c <= high else "dim",
        )
    return table


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"
