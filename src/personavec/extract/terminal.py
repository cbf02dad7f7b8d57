"""What `extract` and `import` print for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from personavec.data.terminal import show_reading
from personavec.extract.conclusion import conclusion
from personavec.extract.import_reference import ImportResult
from personavec.extract.results import ExtractSummary
from personavec.terminal import Ending, Next, console, print_table, show_ending
from personavec.vectors import Verdict
from personavec.wording import decimal, plural, with_minus

_STYLES: dict[Verdict, str] = {"passed": "green", "failed": "red", "not decided": "yellow"}


def show(found: ExtractSummary) -> None:
    """The dose-response, the checks and the notes of an extraction."""
    show_reading(found.data)
    kept = found.kept
    console.print(
        f"\n{found.trait} on {found.model}: layer {found.layer}, estimator {found.estimator}, kept "
        f"{kept.pos} positive and {plural(kept.neg, 'negative rollout')} of {kept.of} each"
    )
    _show_doses(found)
    rows = [(check.verdict, f"{check.said}: {with_minus(check.detail)}") for check in found.checks]
    print_table(("verdict", "check"), rows, styles=[_STYLES[c.verdict] for c in found.checks])
    for note in found.notes:
        console.print(f"note: {note}")


def ending(found: ExtractSummary, model: Sequence[str]) -> Ending:
    """The last lines of an extraction; `model` are the words that name the model."""
    return Ending(
        conclusion=conclusion(found.checks),
        written=found.report,
        next=_steer(found.vector, model),
    )


def _steer(vector: Path, model: Sequence[str]) -> Next:
    command = ("steer", "How was your day?", "--vectors", str(vector), *model)
    return Next("see what it does", command)


def show_import(found: ImportResult, model: Sequence[str]) -> None:
    """What was imported, what to know of it, and how to try it."""
    console.print(f"{found.trait} on {found.model}, layer {found.layer}")
    for note in found.notes:
        console.print(f"note: {note}")
    show_ending(Ending(written=found.vector, next=_steer(found.vector, model)))


def _show_doses(found: ExtractSummary) -> None:
    rows, styles = [], []
    low, high = found.coherent_range
    for dose in found.dose_response:
        c = dose.coefficient
        others = [
            other.log_odds_interval.value for other in found.control if other.coefficient == c
        ]
        coherent = low <= c <= high
        rows.append(
            (
                decimal(c, "+g") if c else "0",
                f"{_number(dose.log_odds)} ({_number(dose.low)} to {_number(dose.high)})",
                _number(dose.coherence) + ("" if coherent else ", too low"),
                f"{_number(min(others))} to {_number(max(others))}" if others else "",
            )
        )
        styles.append("" if coherent else "dim")
    headers = ("coefficient", "log-odds (95% interval)", "coherence", "random directions")
    print_table(headers, rows, styles=styles)


def _number(value: float | None) -> str:
    return "not measured" if value is None else decimal(value, ".1f")
