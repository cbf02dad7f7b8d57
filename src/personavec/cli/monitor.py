"""personavec monitor"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from personavec.cli.command import check_writable
from personavec.cli.groups import EngineOptions, ModelOptions, PrintOptions
from personavec.data.terminal import show_reading
from personavec.monitor.config import MonitorConfig
from personavec.options import Names, options
from personavec.terminal import console, log, print_json
from personavec.wording import estimated, plural

if TYPE_CHECKING:
    from personavec.monitor.results import FittedLimits, MonitorResults


@options()
@dataclass(frozen=True)
class MonitorInputs:
    vectors: Names = ()
    """Vectors' folders or bundled names; repeat it, or separate by commas. Default: all bundled
    ones."""
    out: Path = Path("out/monitor")
    """Folder to write."""
    fit_limits: Path | None = None
    """Take the log for ordinary: fit drift limits on it, and write them to this folder."""

    def __post_init__(self) -> None:
        check_writable("--out", self.out, is_file=False)
        if self.fit_limits is not None:
            check_writable("--fit-limits", self.fit_limits, is_file=False)


def command(
    data: str,
    /,
    *,
    inputs: MonitorInputs = MonitorInputs(),
    config: MonitorConfig = MonitorConfig(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    output: PrintOptions = PrintOptions(),
) -> None:
    """Read logged conversations along every trait, turn by turn, and raise drift alarms.

    Example: `personavec monitor log.jsonl --vectors evil,sycophantic --out out/monitor`

    Writes a reading for every assistant turn, and a report. A killed run continues with the same
    command.

    Parameters
    ----------
    data
        A JSONL, JSON, CSV or Parquet file of conversations, or a folder.
    """
    from personavec.monitor import run, summarised
    from personavec.vectors import bundled_vectors, load_vector

    vectors = [load_vector(name) for name in inputs.vectors or bundled_vectors()]
    loaded = model.load()
    results = run(
        loaded,
        vectors,
        data,
        inputs.out,
        config,
        fit_limits=inputs.fit_limits,
        engine=engine.start(loaded),
    )
    if output.as_json:
        print_json(summarised(results))
    else:
        _print(results)


def _print(results: MonitorResults) -> None:
    show_reading(results.data)
    for note in results.notes:
        log(f"note: {note}")
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
    console.print("σ: standard deviations of first answers to neutral prompts", highlight=False)
    if results.limits is not None:
        console.print(_fitted(results.limits), highlight=False, markup=False)
    console.print(
        f"{plural(results.turns, 'turn')} of {plural(results.conversations, 'conversation')}, "
        f"{plural(results.rejected, 'row')} rejected; written to {results.out}",
        highlight=False,
        markup=False,
    )


def _fitted(limits: FittedLimits) -> str:
    share = limits.any
    return (
        f"limits fitted on {limits.fitted_on} conversations; false alarms, any trait, on "
        f"{share.hits} of {share.of} others: {share.value:.2%} "
        f"[{share.low:.2%}, {share.high:.2%}]; written to {limits.folder}"
    )
