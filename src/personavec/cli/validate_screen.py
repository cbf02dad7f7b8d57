"""personavec validate-screen"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.options import console, log, numbers, print_json


def command(
    data: Annotated[
        str, typer.Argument(help="Clean rows: a JSONL, JSON, CSV or Parquet file, or a dataset.")
    ],
    vectors: options.ManyVectors = None,
    estimator: options.ScreenEstimator = None,
    trait: options.OwnTraits = None,
    rates: Annotated[
        str, typer.Option(help="Shares of planted rows, separated by commas.")
    ] = "0.01,0.05,0.2",
    clean: Annotated[int, typer.Option(min=1, help="Rows drawn from DATA to plant into.")] = 300,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest response; longer ones of DATA are cut there.")
    ] = 64,
    natural_samples: Annotated[
        int,
        typer.Option(min=1, help="Above 1: also measure the difference to so many sampled ones."),
    ] = 4,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path(
        "out/validate-screen"
    ),
    natural_cache: options.NaturalCache = None,
    columns: options.Columns = None,
    split: options.Split = None,
    model: options.Model = "smollm2",
    dtype: options.Dtype = None,
    device: options.Device = None,
    model_arg: options.ModelArgs = None,
    template_arg: options.TemplateArgs = None,
    seed: options.Seed = 0,
    batch_tokens: options.BatchTokens = 16384,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Plant rows that show a trait into clean ones, and see which methods find them.

    Example: `personavec validate-screen chats.jsonl --vectors evil,sycophantic --clean 100`

    Prints precision, recall, AUC and average precision of every method, for rows that the model
    wrote and for rows that people wrote. A killed run continues with the same command.
    """
    from personavec.data import ColumnMap
    from personavec.studies.validate_screen import pipeline as validate_screen

    found = options.screening_vectors(vectors, estimator)
    specs = options.specs_of(found, trait)
    config = validate_screen.ValidateScreenConfig(
        rates=numbers(rates, "--rates"),
        clean_rows=clean,
        max_tokens=max_tokens,
        natural_samples=natural_samples,
        columns=ColumnMap.parse(columns),
        split=split,
        seed=seed,
        batch_tokens=batch_tokens,
    )
    results = validate_screen.run(
        options.load_model(model, dtype, device, model_arg, template_arg),
        found,
        specs,
        data,
        out,
        config,
        naturals=natural_cache,
    )
    if as_json:
        print_json(validate_screen.summary(results))
    else:
        show(results)


def show(results: dict[str, Any]) -> None:
    """Print the tables of saved or fresh results."""
    from personavec.studies.validate_screen import STYLES

    data = results["data"]
    options.print_reading({data["name"]: data["told"]})
    for note in results["notes"]:
        log(f"note: {note}")
    for name, why in results["not_measured"].items():
        log(f"warning: {name} was not measured: {why}")
    for style, found in results["styles"].items():
        if found is None:
            log(f"note: no {STYLES[style]}")
            continue
        console.print(_methods(results, found, STYLES[style]))
        console.print(_traits(results, found, STYLES[style]))
    console.print(_order(results))
    console.print(
        f"{data['clean']} clean rows of {data['name']} to plant into, {data['training']} to train "
        f"on, {data['rejected']} that cannot be used; report: {results['out']}/report.html",
        highlight=False,
        markup=False,
    )


def _methods(results: dict[str, Any], found: dict[str, Any], title: str) -> Table:
    rates = results["rates"]
    table = Table(
        "method",
        "AUC",
        "AUC, same prompts",
        *(f"precision = recall, {100 * rate:g}%" for rate in rates),
        *(f"average precision, {100 * rate:g}%" for rate in rates),
        title=f"{title}: mean over {', '.join(found['traits'])}",
        title_justify="left",
    )
    statistics = [
        "auc",
        "auc_same_prompts",
        *(f"precision@{rate:g}" for rate in rates),
        *(f"average_precision@{rate:g}" for rate in rates),
    ]
    for method, name in results["methods"].items():
        table.add_row(name, *(_estimate(found["methods"][method].get(s)) for s in statistics))
    return table


def _traits(results: dict[str, Any], found: dict[str, Any], title: str) -> Table:
    traits = found["traits"]
    table = Table("AUC", *traits, title=f"{title}: every trait", title_justify="left")
    for method, name in results["methods"].items():
        table.add_row(name, *(_estimate(t["methods"][method]["auc"]) for t in traits.values()))
    table.add_section()
    table.add_row("planted", *(str(t["planted"]) for t in traits.values()))
    table.add_row("clean", *(str(t["clean"]) for t in traits.values()))
    table.add_row("same prompts", *(str(t["clean_same_prompts"]) for t in traits.values()))
    table.add_row("left out", *(str(t["left_out"]) for t in traits.values()))
    return table


def _order(results: dict[str, Any]) -> Table:
    from personavec.studies.validate_screen import verdict

    table = Table(
        *("trait", "normal", "mild", "strong", "mild − normal", "strong − mild", "in order"),
        title="mean exact difference of datasets whose strength is known",
        title_justify="left",
    )
    for trait, order in results["order"].items():
        if order is None:
            table.add_row(trait, *["not measured"] * 6)
            continue
        cells = [order["bands"][name] for name in ("normal", "mild", "strong")]
        cells += [order["mild_minus_normal"], order["strong_minus_mild"]]
        table.add_row(trait, *map(_estimate, cells), verdict(order))
    return table


def _estimate(found: dict[str, Any] | None) -> str:
    """A value with its interval on the line below."""
    if found is None or found["value"] is None:
        return "–"
    return f"{found['value']:.2f}\n{found['low']:.2f}–{found['high']:.2f}"
