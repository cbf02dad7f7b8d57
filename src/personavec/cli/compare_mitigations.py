"""personavec compare-mitigations"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.options import console, log, print_json


def command(
    data: Annotated[str, typer.Argument(help="Rows to finetune on: a file or a dataset.")],
    trait: options.Trait,
    vectors: Annotated[
        str | None, typer.Option("--vectors", help="The trait's vector; default: the bundled one.")
    ] = None,
    mitigation: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME or NAME:AMOUNT,…; repeatable. A mitigation of finetune, or steering, at "
            "inference. Default: preventative:1,2,4 random:4 steering:-1,-2,-4."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Training seeds, separated by commas.")] = "0,1,2",
    layer: options.Layers = None,
    positions: options.Positions = "response",
    held_out: Annotated[
        float, typer.Option(help="Share of the prompts that is not trained on.")
    ] = 0.2,
    questions: Annotated[
        int, typer.Option(min=2, help="The last N evaluation questions of the trait.")
    ] = 12,
    samples: Annotated[int, typer.Option(min=1, help="Answers per question and cell.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA adapters; alpha is twice it.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Its highest, after warmup.")] = 1e-3,
    epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Texts in one forward.")] = 2,
    accumulation: Annotated[int, typer.Option(min=1, help="Forwards to a step.")] = 8,
    cues: Annotated[bool, typer.Option(help="Also ask under the training data's own cues.")] = True,
    capability: Annotated[bool, typer.Option(help="Run the packaged task in every cell.")] = True,
    capability_items: Annotated[
        int | None, typer.Option(min=2, help="Only its first items.")
    ] = None,
    flags: Annotated[
        str | None, typer.Option(help="Columns of flagged rows, for drop-flagged, by commas.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="A column that parts the data; held-out loss is given for each part."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Other column names, e.g. prompt=q,response=a.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="A dataset's split.")] = None,
    judge: options.Judge = "contrast",
    judge_model: options.JudgeModel = None,
    api_base: options.ApiBase = None,
    api_model: options.ApiModel = None,
    api_key_env: options.ApiKeyEnv = "OPENAI_API_KEY",
    api_concurrency: options.ApiConcurrency = 16,
    cache: options.Cache = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path(
        "out/compare-mitigations"
    ),
    model: options.Model = "smollm2",
    dtype: options.Dtype = None,
    device: options.Device = None,
    seed: options.Seed = 0,
    batch_tokens: options.BatchTokens = 16384,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Finetune on the same rows under several mitigations, and compare what is left of all.

    Example: `personavec compare-mitigations sets/evil/strong.jsonl --trait evil
    --mitigation preventative:2,auto --mitigation steering:-2`

    Draws trait expression and capability against the coefficient. A killed run continues with the
    same command, and mitigations or seeds can be added to a finished one.
    """
    from personavec.data import ColumnMap
    from personavec.finetune import read_training_rows
    from personavec.studies.compare_mitigations import pipeline as study
    from personavec.traits import load_trait
    from personavec.vectors import load_vector

    spec, _ = load_trait(trait)
    choice = options.JudgeChoice(
        judge, judge_model, api_base, api_model, api_key_env, api_concurrency, cache
    )
    if judge != "contrast":
        options.require_rubric(spec)
    config = study.CompareConfig(
        arms=study.parse_arms(mitigation) if mitigation else study.DEFAULT_ARMS,
        seeds=options.whole_numbers(seeds, "--seeds"),
        training=replace(
            study.SMALL,
            rank=rank,
            alpha=2 * rank,
            learning_rate=learning_rate,
            epochs=epochs,
            batch=batch,
            accumulation=accumulation,
        ),
        layer=options.layers(layer),
        positions=options.positions_of_training(positions),
        held_out=held_out,
        questions=questions,
        samples=samples,
        max_tokens=max_tokens,
        cues=cues,
        capability=capability,
        capability_items=capability_items,
        flags=tuple(f.strip() for f in (flags or "").split(",") if f.strip()),
        seed=seed,
        batch_tokens=batch_tokens,
    )
    vector = load_vector(vectors or spec.name)
    options.check_layer(config.layer, [vector])
    rows = read_training_rows(
        data, columns=ColumnMap.parse(columns), split=split, flags=config.flags, by=by
    )

    def load(name: str) -> Any:
        return options.load_model(name, dtype, device)

    loaded = load(model)
    judging = None
    if judge != "contrast" or judge_model:
        judging = options.make_judge(choice, load, subject=loaded if judge == "rubric" else None)
    results = study.run(
        loaded,
        rows,
        vector,
        spec,
        out,
        config,
        judge=judging,
    )
    if as_json:
        print_json(study.summary(results))
    else:
        _print(results)


def _print(results: dict[str, Any]) -> None:
    from personavec.studies.compare_mitigations import expression

    options.print_reading(results["data"])
    for note in results["notes"]:
        log(f"note: {note}")
    table = Table(
        *("arm", "expression", "under cues", "capability", "perplexity", "held-out loss"),
        *("loss, of plain's", "within base", "learnt", "capable"),
    )
    for name, arm in results["arms"].items():
        table.add_row(
            name,
            _estimate(expression(arm)),
            _estimate(expression(arm, "expression_under_cues")),
            _estimate(arm["capability"], ".0%"),
            _estimate(arm["perplexity"]),
            _estimate(arm["held_out_loss"], ".2f"),
            _estimate(arm["loss_ratio"], ".2f"),
            *(
                "–" if arm[key] is None else ("yes" if arm[key] else "no")
                for key in ("within_base", "learnt", "capable")
            ),
        )
    console.print(table)
    console.print(
        f"{results['seconds']:.0f} s; report: {results['out']}/report.html", highlight=False
    )


def _estimate(found: dict[str, Any], form: str = ".1f") -> str:
    if found["value"] is None:
        return "–"
    return f"{found['value']:{form}}\n{found['low']:{form}} to {found['high']:{form}}"
