"""personavec extract"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from personavec.cli import options as shared
from personavec.cli.groups import (
    EngineOptions,
    JudgeOptions,
    ModelOptions,
    OutputOptions,
    TraitOptions,
)
from personavec.data.terminal import show_reading
from personavec.errors import UsageError
from personavec.extract.config import ROLLOUTS, ExtractConfig
from personavec.options import options
from personavec.results import dump
from personavec.terminal import console, print_json
from personavec.wording import plural

if TYPE_CHECKING:
    from personavec.extract import ExtractSummary


@options(ROLLOUTS)
@dataclass(frozen=True)
class ExtractInputs:
    rollouts: tuple[Path, ...] = ()
    """Adopt rollouts: a rollouts.jsonl, or a CSV for each polarity; repeatable."""


def command(
    *,
    trait: TraitOptions,
    config: ExtractConfig = ExtractConfig(),
    inputs: ExtractInputs = ExtractInputs(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    judge: JudgeOptions = JudgeOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Extract a trait's persona vector, validate it by steering, and write a report.

    Example: `personavec extract --trait optimistic --out vectors/optimistic`

    A killed run continues when the same command is given again. The subject judges its own
    responses, unsteered, unless --judge-model or --judge api says otherwise. --dry-run counts
    every response as if it were as long as it may become.
    """
    from personavec.extract import questions_to_judge, run, summary

    spec, origin = trait.load()
    judge.check(spec)
    if judge.dry_run:
        if inputs.rollouts:
            raise UsageError("--dry-run counts responses that are to come: leave --rollouts out")
        coming = shared.responses_to_come(questions_to_judge(spec, config), config.max_tokens)
        estimate = shared.estimate(judge, [(spec, coming)])
        shared.print_estimate(estimate, judge.api_price, output.as_json)
        return
    folder = output.folder(Path("vectors") / spec.name.replace(" ", "_"))
    loaded = model.load()
    results = run(
        loaded,
        spec,
        folder,
        config,
        origin=origin,
        judge=judge.make(model.load, subject=loaded),
        rollouts=inputs.rollouts,
        engine=engine.start(loaded, config.batch_tokens),
    )
    found = summary(results, folder)
    if output.as_json:
        print_json(dump(found))
    else:
        _print(found)


def _print(found: ExtractSummary) -> None:
    show_reading(found.data)
    kept = found.kept
    console.print(
        f"\n{found.trait} on {found.model}: layer {found.layer}, estimator {found.estimator}, kept "
        f"{kept.pos} positive and {plural(kept.neg, 'negative rollout')} of {kept.of} each"
    )
    console.print(_dose_table(found))
    for check in found.checks:
        mark, style = ("passed", "green") if check.passed else ("FAILED", "red")
        console.print(f"{mark}  {check.name}: {check.detail}", style=style, highlight=False)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(f"{found.seconds:.0f} s; report: {found.report}", highlight=False)


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
