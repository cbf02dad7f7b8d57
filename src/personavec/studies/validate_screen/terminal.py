"""What `validate-screen` prints for people."""

from __future__ import annotations

from rich.table import Table

from personavec.data.terminal import show_reading
from personavec.results import Estimate
from personavec.studies.validate_screen.report import STYLES, statistics, verdict
from personavec.studies.validate_screen.results import StyleDetection, ValidateScreenResults
from personavec.terminal import console, log, log_notes
from personavec.wording import estimated


def show(results: ValidateScreenResults) -> None:
    """How the data were read, and tables of methods, of traits and of graded datasets."""
    data = results.data
    show_reading({data.name: data.told})
    log_notes(results.notes)
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
        f"on, {data.rejected} that cannot be used; report: {results.out}/report.html"
    )


def _methods(results: ValidateScreenResults, found: StyleDetection, title: str) -> Table:
    shown = statistics(results.rates)
    table = Table(
        *("method", *shown.values()),
        title=f"{title}: mean over {', '.join(found.traits)}",
        title_justify="left",
    )
    for method, name in results.methods.items():
        table.add_row(name, *(_estimate(found.methods[method].get(s)) for s in shown))
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
