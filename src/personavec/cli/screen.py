"""personavec screen"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.command import Command
from personavec.cli.options import console, log, print_json
from personavec.errors import UsageError
from personavec.wording import plural

_ADDRESS = re.compile(r"auto|local|[^/\s]+:[0-9]+")


class NaturalSide(StrEnum):
    generate = "generate"
    last_prompt = "last-prompt"
    none = "none"
    two_stage = "two-stage"


class Turns(StrEnum):
    all = "all"
    last = "last"


class Remedy(StrEnum):
    drop = "drop"
    swap = "swap"


class OutFormat(StrEnum):
    jsonl = "jsonl"
    parquet = "parquet"


class ScreenCommand(Command):
    """The command, whose `--ray` may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_ray_address(args))


def with_ray_address(args: list[str]) -> list[str]:
    """Put `auto` after a `--ray` that no address follows."""
    out: list[str] = []
    for place, argument in enumerate(args):
        out.append(argument)
        if argument == "--ray" and not _ADDRESS.fullmatch("".join(args[place + 1 : place + 2])):
            out.append("auto")
    return out


def command(
    data: Annotated[
        list[str],
        typer.Argument(help="JSONL, JSON, CSV or Parquet files, folders of them, or datasets."),
    ],
    vectors: options.ManyVectors = None,
    estimator: options.ScreenEstimator = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("out/screen"),
    natural: Annotated[
        NaturalSide, typer.Option(help="What stands for the model's own response.")
    ] = NaturalSide.last_prompt,
    natural_tokens: Annotated[
        int, typer.Option(min=1, help="Longest natural response, in tokens.")
    ] = 64,
    natural_samples: Annotated[
        int, typer.Option(min=1, help="Natural responses to a prompt; above 1 sampled, averaged.")
    ] = 1,
    natural_cache: options.NaturalCache = None,
    reference: Annotated[
        str | None, typer.Option(help="A clean dataset; its 95th percentile draws the line.")
    ] = None,
    percentile: Annotated[
        float | None, typer.Option(min=0, max=100, help="Another percentile of the reference.")
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Flag each trait's N highest.")] = None,
    bottom: Annotated[int | None, typer.Option(min=1, help="Flag each trait's N lowest.")] = None,
    cut: Annotated[
        list[str] | None,
        typer.Option(help="Flag above TRAIT>NUMBER[sigma|norm|projection]; repeat it."),
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Totals and ranks by this column; repeat it.")
    ] = None,
    trait: options.OwnTraits = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="Also score rows with a judge: contrast.")
    ] = None,
    turns: Annotated[Turns, typer.Option(help="Assistant turns that are scored.")] = Turns.all,
    explain: Annotated[
        bool, typer.Option("--explain", help="Name the spans that carry a flagged row's trait.")
    ] = False,
    remedy: Annotated[
        Remedy, typer.Option(help="For flagged preference pairs, in the clean file.")
    ] = Remedy.drop,
    subsets: Annotated[
        int, typer.Option(min=0, help="Rows of each trait's high, random and low subsets.")
    ] = 0,
    columns: options.Columns = None,
    split: options.Split = None,
    format: Annotated[OutFormat | None, typer.Option(help="Default: like the input.")] = None,
    max_rejects: Annotated[
        int | None, typer.Option(min=0, help="Stop at more unusable rows than this.")
    ] = None,
    top_share: Annotated[
        float, typer.Option(help="Two stages: share of rows that get the exact side.")
    ] = 0.1,
    sample: Annotated[
        int, typer.Option(min=0, help="Two stages: random other rows that get it too.")
    ] = 200,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Score on a Ray cluster: HOST:PORT, or without it, this machine's.",
        ),
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="Default: each selected one.")
    ] = None,
    model: options.Model = "smollm2",
    dtype: options.Dtype = None,
    device: options.Device = None,
    model_arg: options.ModelArgs = None,
    template_arg: options.TemplateArgs = None,
    engine: options.Engine = "transformers",
    engine_arg: options.EngineArgs = None,
    seed: options.Seed = 0,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens in a batch.")
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """How far datasets would push a model along each trait, and which rows do it.

    Example: `personavec screen chats.jsonl --vectors evil,sycophantic --reference clean.jsonl`

    Writes all rows with scores, the clean and the flagged ones, and a report. A killed run
    continues with the same command.
    """
    from personavec import screen
    from personavec.data import ColumnMap
    from personavec.screening.verdicts import Cut, Rule

    if percentile is not None and reference is None:
        raise UsageError("--percentile is of a --reference set; name one")
    config = screen.ScreenConfig(
        natural=natural.value,
        natural_tokens=natural_tokens,
        natural_samples=natural_samples,
        turns=turns.value,
        layer=layer,
        columns=ColumnMap.parse(columns),
        split=split,
        by=tuple(by or ()),
        rule=Rule(
            percentile=percentile,
            top=top,
            bottom=bottom,
            cuts=tuple(Cut.parse(text) for text in cut or ()),
        ),
        swap=remedy is Remedy.swap,
        subsets=subsets,
        explain=explain,
        format=format.value if format else None,
        top_share=top_share,
        sample=sample,
        seed=seed,
        batch_tokens=batch_tokens,
        max_rejects=max_rejects,
    )
    options.check_engine(engine, engine_arg)
    if judge not in (None, "contrast"):
        raise UsageError(f"--judge {judge}: use contrast")
    if trait and judge is None:
        raise UsageError("--trait gives --judge a trait's spec; name the judge")
    if ray is not None and engine != "transformers":
        raise UsageError("--ray scores with the transformers engine: leave out --engine")
    found = options.screening_vectors(vectors, estimator)
    options.check_layer(layer, found)
    specs = options.specs_of(found, trait) if judge else []
    loaded = options.load_model(model, dtype, device, model_arg, template_arg)
    judging = None
    if judge is not None:
        from personavec.judges.contrast import ContrastJudge

        judging = ContrastJudge(loaded)
    results = screen.run(
        loaded,
        found,
        data,
        out,
        config,
        reference=reference,
        naturals=natural_cache,
        judge=judging,
        specs=specs,
        ray=ray,
        engine=None if engine == "transformers" else options.engine(engine, engine_arg, loaded),
    )
    if as_json:
        print_json(screen.summarised(results))
        return
    _print(results)


def _print(results: dict[str, Any]) -> None:
    options.print_reading(results["data"])
    for note in results["notes"]:
        log(f"note: {note}")
    table = Table("trait", "layer", "mean difference [95%]", "in σ", "line", "flagged")
    for name, record in results["traits"].items():
        table.add_row(
            name,
            str(record["layer"]),
            _estimate(record),
            _number(record["mean"], record["sigma"]),
            _number(record["threshold"]),
            "–" if record["flagged"] is None else str(record["flagged"]),
        )
    console.print(table)
    for column in next(iter(results["traits"].values()))["groups"]:
        _print_groups(column, results["traits"])
    flagged = results["flagged_any"]
    console.print(
        f"{plural(results['rows'], 'row')}, {results['rejected']} rejected"
        + ("" if flagged is None else f", {flagged} flagged")
        + f"; written to {results['out']}",
        highlight=False,
        markup=False,
    )


def _print_groups(column: str, traits: dict[str, Any]) -> None:
    """Every group's mean for every trait, in σ of neutral prompts."""
    table = Table(column, "rows", *traits, title="mean in σ of neutral prompts")
    found = {
        name: {row["group"]: row for row in record["groups"][column]}
        for name, record in traits.items()
    }
    for group, row in next(iter(found.values())).items():
        cells = [_number(found[name][group]["mean"], traits[name]["sigma"]) for name in traits]
        table.add_row(group, str(row["n"]), *cells)
    console.print(table)


def _estimate(record: dict[str, Any]) -> str:
    if record["low"] is None:
        return _number(record["mean"])
    return f"{record['mean']:+.3f} [{record['low']:+.3f}, {record['high']:+.3f}]"


def _number(value: float | None, unit: float = 1.0) -> str:
    return "–" if value is None or not unit else f"{value / unit:+.2f}"
