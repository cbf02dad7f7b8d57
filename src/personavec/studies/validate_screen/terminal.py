"""What `validate-screen` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from personavec.data.terminal import show_reading
from personavec.results import Estimate
from personavec.studies.validate_screen.conclusion import conclusion
from personavec.studies.validate_screen.report import STYLES, statistics, verdict
from personavec.studies.validate_screen.results import StyleDetection, ValidateScreenResults
from personavec.terminal import Ending, Next, console, log, log_notes, print_table
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
        _show_methods(results, found, STYLES[style])
        _show_traits(results, found, STYLES[style])
    _show_order(results)
    console.print(
        f"{data.clean} clean rows of {data.name} to plant into, {data.training} to train "
        f"on, {data.rejected} that cannot be used"
    )


def ending(
    results: ValidateScreenResults, data: str, vectors: Sequence[str], model: Sequence[str]
) -> Ending:
    """The last lines; `data`, `vectors` and `model` are words of the command."""
    command = ("screen", data, "--vectors", ",".join(vectors or results.traits), *model)
    return Ending(
        conclusion=conclusion(results),
        written=Path(results.out) / "report.html",
        next=Next("screen the data themselves", command),
    )


def _show_methods(results: ValidateScreenResults, found: StyleDetection, title: str) -> None:
    shown = statistics(results.rates)
    rows = [
        (name, *(_estimate(found.methods[method].get(s)) for s in shown))
        for method, name in results.methods.items()
    ]
    mean = f"{title}: mean over {', '.join(found.traits)}"
    print_table(("method", *shown.values()), rows, title=mean)


def _show_traits(results: ValidateScreenResults, found: StyleDetection, title: str) -> None:
    traits = found.traits.values()
    rows = [
        (name, *(_estimate(t.methods[method]["auc"]) for t in traits))
        for method, name in results.methods.items()
    ]
    rows += [
        ("rows planted", *(str(t.planted) for t in traits)),
        ("clean", *(str(t.clean) for t in traits)),
        ("same prompts", *(str(t.clean_same_prompts) for t in traits)),
        ("left out", *(str(t.left_out) for t in traits)),
    ]
    print_table(("AUC", *found.traits), rows, title=f"{title}: every trait")


def _show_order(results: ValidateScreenResults) -> None:
    rows = []
    for trait, order in results.order.items():
        if order is None:
            rows.append((trait, *["not measured"] * 6))
            continue
        cells: list[Estimate] = [order.bands[name] for name in ("normal", "mild", "strong")]
        cells += [order.mild_minus_normal, order.strong_minus_mild]
        rows.append((trait, *map(_estimate, cells), verdict(order)))
    print_table(
        ("trait", "normal", "mild", "strong", "mild − normal", "strong − mild", "in order"),
        rows,
        title="mean exact difference (projection) of datasets whose strength is known",
    )


def _estimate(found: Estimate | None) -> str:
    """A value with its interval on the line below."""
    return estimated(found or Estimate(), ".2f", two_lines=True)
