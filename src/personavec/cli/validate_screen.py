"""personavec validate-screen"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from personavec.cli import options as shared
from personavec.cli.command import check_writable
from personavec.cli.groups import ModelOptions, OutputOptions, VectorsOptions
from personavec.data.terminal import show_reading
from personavec.options import GENERAL, MAIN, options
from personavec.results import Estimate
from personavec.studies.validate_screen.config import DATA, PLANTING, ValidateScreenConfig
from personavec.terminal import console, log, print_json
from personavec.wording import estimated

if TYPE_CHECKING:
    from personavec.studies.validate_screen.results import StyleDetection, ValidateScreenResults


@options(PLANTING)
@dataclass(frozen=True)
class ValidateScreenInputs:
    trait: tuple[str, ...] = ()
    """Spec file of a vector's trait that is not bundled; repeatable."""
    natural_cache: Annotated[Path | None, DATA] = None
    """Folder that keeps natural responses between runs."""

    def __post_init__(self) -> None:
        if self.natural_cache is not None:
            check_writable("--natural-cache", self.natural_cache, is_file=False)


@options(GENERAL)
@dataclass(frozen=True)
class ValidateScreenOutput(OutputOptions):
    out: Annotated[Path, MAIN] = Path("out/validate-screen")
    """Folder to write."""


def command(
    data: Annotated[str, Parameter(required=True)],
    /,
    *,
    vectors: VectorsOptions = VectorsOptions(),
    config: ValidateScreenConfig = ValidateScreenConfig(),
    inputs: ValidateScreenInputs = ValidateScreenInputs(),
    model: ModelOptions = ModelOptions(),
    output: ValidateScreenOutput = ValidateScreenOutput(),
) -> None:
    """Plant rows that show a trait into clean ones, and see which methods find them.

    Example: `personavec validate-screen chats.jsonl --vectors evil,sycophantic --clean 100`

    Prints precision, recall, AUC and average precision of every method, for rows that the model
    wrote and for rows that people wrote. A killed run continues with the same command.

    Parameters
    ----------
    data
        Clean rows: a JSONL, JSON, CSV or Parquet file, or a dataset.
    """
    from personavec.studies.validate_screen import run, summary

    out = output.folder(output.out)
    found = vectors.load()
    specs = shared.specs_of(found, inputs.trait)
    results = run(model.load(), found, specs, data, out, config, naturals=inputs.natural_cache)
    if output.as_json:
        print_json(summary(results))
    else:
        show(results)


def show(results: ValidateScreenResults) -> None:
    """Print the tables of saved or fresh results."""
    from personavec.studies.validate_screen import STYLES

    data = results.data
    show_reading({data.name: data.told})
    for note in results.notes:
        log(f"note: {note}")
    for name, why in results.not_measured.items():
        log(f"warning: {name} was not measured: {why}")
    for style, found in results.styles.items():
        if found is None:
            log(f"note: no {STYLES[style]}")
            continue
        console.print(_methods(results, found, STYLES[style]))
        console.print(_traits(results, found, STYLES[style]))
    console.print(_order(results))
    console.print(
        f"{data.clean} clean rows of {data.name} to plant into, {data.training} to train "
        f"on, {data.rejected} that cannot be used; report: {results.out}/report.html",
        highlight=False,
        markup=False,
    )


def _methods(results: ValidateScreenResults, found: StyleDetection, title: str) -> Table:
    rates = results.rates
    table = Table(
        "method",
        "AUC",
        "AUC, same prompts",
        *(f"precision = recall, {100 * rate:g}%" for rate in rates),
        *(f"average precision, {100 * rate:g}%" for rate in rates),
        title=f"{title}: mean over {', '.join(found.traits)}",
        title_justify="left",
    )
    statistics = [
        "auc",
        "auc_same_prompts",
        *(f"precision@{rate:g}" for rate in rates),
        *(f"average_precision@{rate:g}" for rate in rates),
    ]
    for method, name in results.methods.items():
        table.add_row(name, *(_estimate(found.methods[method].get(s)) for s in statistics))
    return table


def _traits(results: ValidateScreenResults, found: StyleDetection, title: str) -> Table:
    traits = found.traits
    table = Table("AUC", *traits, title=f"{title}: every trait", title_justify="left")
    for method, name in results.methods.items():
        table.add_row(name, *(_estimate(t.methods[method]["auc"]) for t in traits.values()))
    table.add_section()
    table.add_row("planted", *(str(t.planted) for t in traits.values()))
    table.add_row("clean", *(str(t.clean) for t in traits.values()))
    table.add_row("same prompts", *(str(t.clean_same_prompts) for t in traits.values()))
    table.add_row("left out", *(str(t.left_out) for t in traits.values()))
    return table


def _order(results: ValidateScreenResults) -> Table:
    from personavec.studies.validate_screen import verdict

    table = Table(
        *("trait", "normal", "mild", "strong", "mild − normal", "strong − mild", "in order"),
        title="mean exact difference of datasets whose strength is known",
        title_justify="left",
    )
    for trait, order in results.order.items():
        if order is None:
            table.add_row(trait, *["not measured"] * 6)
            continue
        cells: list[Estimate] = [order.bands[name] for name in ("normal", "mild", "strong")]
        cells += [order.mild_minus_normal, order.strong_minus_mild]
        table.add_row(trait, *map(_estimate, cells), verdict(order))
    return table


def _estimate(found: Estimate | None) -> str:
    """A value with its interval on the line below."""
    return estimated(found or Estimate(), ".2f", two_lines=True)
