"""personavec monitor"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.options import console, log, print_json
from personavec.wording import plural


class OutFormat(StrEnum):
    jsonl = "jsonl"
    parquet = "parquet"


def command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="LOG", help="A JSONL, JSON, CSV or Parquet file of conversations, or a folder."
        ),
    ],
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            "--vectors",
            help="Vectors' folders or bundled names; repeat it, or separate by commas. "
            "Default: all bundled ones.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("out/monitor"),
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Keep every response token's projection.")
    ] = False,
    extremes: Annotated[
        int, typer.Option(min=0, help="Turns of each trait that the report shows.")
    ] = 6,
    fit_limits: Annotated[
        Path | None,
        typer.Option(help="Take the log for ordinary: fit drift limits, write them here."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Other column names, e.g. messages=turns,id=key.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="A dataset's split.")] = None,
    format: Annotated[OutFormat, typer.Option(help="Of the readings.")] = OutFormat.jsonl,
    max_rejects: Annotated[
        int | None, typer.Option(min=0, help="Stop at more unusable rows than this.")
    ] = None,
    model: options.Model = "smollm2",
    dtype: options.Dtype = None,
    device: options.Device = None,
    model_arg: options.ModelArgs = None,
    template_arg: options.TemplateArgs = None,
    engine: options.Engine = "transformers",
    engine_arg: options.EngineArgs = None,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens in a batch.")
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Read logged conversations along every trait, turn by turn, and where they drift.

    Example: `personavec monitor log.jsonl --vectors evil,sycophantic --out out/monitor`

    Writes a reading for every assistant turn, and a report. A killed run continues with the same
    command.
    """
    from personavec import monitor
    from personavec.data import ColumnMap
    from personavec.vectors import bundled_vectors, load_vector

    options.check_engine(engine, engine_arg)
    config = monitor.MonitorConfig(
        columns=ColumnMap.parse(columns),
        split=split,
        tokens=tokens,
        extremes=extremes,
        format=format.value,
        batch_tokens=batch_tokens,
        max_rejects=max_rejects,
    )
    found = [load_vector(name) for name in options.names(vectors) or bundled_vectors()]
    loaded = options.load_model(model, dtype, device, model_arg, template_arg)
    results = monitor.run(
        loaded,
        found,
        data,
        out,
        config,
        fit_limits=fit_limits,
        engine=options.engine(engine, engine_arg, loaded),
    )
    if as_json:
        print_json(monitor.summarised(results))
        return
    _print(results)


def _print(results: dict[str, Any]) -> None:
    options.print_reading(results["data"])
    for note in results["notes"]:
        log(f"note: {note}")
    table = Table("trait", "layer", "mean answer, σ [95%]", "highest", "alarms")
    for name, record in results["traits"].items():
        table.add_row(
            name,
            str(record["layer"]),
            _estimate(record["mean"], record["low"], record["high"]),
            "–" if record["max"] is None else f"{record['max']:+.2f}",
            str(record["alarms"]),
        )
    console.print(table)
    console.print("σ: standard deviations of first answers to neutral prompts", highlight=False)
    if limits := results["limits"]:
        share = limits["any"]
        console.print(
            f"limits fitted on {limits['fitted_on']} conversations; false alarms, any trait, on "
            f"{share['hits']} of {share['of']} others: {share['value']:.2%} "
            f"[{share['low']:.2%}, {share['high']:.2%}]; written to {limits['folder']}",
            highlight=False,
            markup=False,
        )
    console.print(
        f"{plural(results['turns'], 'turn')} of "
        f"{plural(results['conversations'], 'conversation')}, "
        f"{plural(results['rejected'], 'row')} rejected; written to {results['out']}",
        highlight=False,
        markup=False,
    )


def _estimate(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:+.2f}" if low is None else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
