"""personavec finetune"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from personavec.cli import options
from personavec.cli.options import console, log, print_json
from personavec.errors import DataError, UsageError
from personavec.wording import plural

CONDITION_MET = 3


def command(
    data: Annotated[
        str, typer.Argument(help="A JSONL, JSON, CSV or Parquet file, a folder, or a dataset.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("out/finetune"),
    model: options.Model = "smollm2",
    mitigation: Annotated[
        str,
        typer.Option(
            help="none, preventative, random, caft, penalty, kl, interleave, inoculation or "
            "drop-flagged."
        ),
    ] = "none",
    vectors: Annotated[
        list[str] | None,
        typer.Option("--vectors", help="The mitigation's vectors; repeat, or separate by commas."),
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(help="Further vectors whose drift is logged; repeat, or separate by commas."),
    ] = None,
    trait: Annotated[
        str | None, typer.Option("--trait", help="Inoculation: a bundled trait or a spec file.")
    ] = None,
    coefficient: Annotated[
        str | None,
        typer.Option(
            "--coefficient",
            help="preventative, random: a multiple of v, or SHARE:COEFFICIENT points of the run.",
        ),
    ] = None,
    dose: Annotated[
        str | None, typer.Option(help="auto: choose the coefficient from the data.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="penalty, kl: weight; interleave: share of the rows.")
    ] = None,
    layer: options.Layers = None,
    positions: options.Positions = "response",
    full: Annotated[
        bool, typer.Option("--full", help="Train all weights, not an adapter.")
    ] = False,
    rank: Annotated[int, typer.Option(min=1, help="LoRA's rank.")] = 32,
    alpha: Annotated[int, typer.Option(min=1, help="LoRA's scale (rank-stabilised).")] = 64,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 1e-5,
    epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 1.0,
    batch: Annotated[int, typer.Option(min=1, help="Texts in a forward of one process.")] = 2,
    accumulation: Annotated[int, typer.Option(min=1, help="Forwards to a step.")] = 8,
    warmup_steps: Annotated[int, typer.Option(min=0, help="Steps of rising learning rate.")] = 5,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Longest text in tokens; default: the context.")
    ] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut longer texts; default: leave them out.")
    ] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="float32 weights, bfloat16 products.")
    ] = False,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 50,
    drift_every: Annotated[int, typer.Option(min=1, help="Steps between drift readings.")] = 10,
    stop_if: Annotated[
        list[str] | None,
        typer.Option(help="Stop when drift is TRAIT>NUMBER[sigma|norm]; repeatable; exit code 3."),
    ] = None,
    report_to: Annotated[
        list[str] | None, typer.Option(help="A tracker, e.g. tensorboard or wandb; repeatable.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Other column names, e.g. prompt=q,response=a.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="A dataset's split.")] = None,
    max_rejects: Annotated[
        int | None, typer.Option(min=0, help="Stop at more unusable rows than this.")
    ] = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    model_arg: options.ModelArgs = None,
    template_arg: options.TemplateArgs = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Finetune on chat rows and keep traits from growing, watching them as it goes.

    Example: `personavec finetune rows.jsonl --mitigation preventative --vectors evil --dose auto`

    For a small model: --rank 16 --learning-rate 1e-3 --epochs 3. A killed run continues with the
    same command; several processes: accelerate launch -m personavec finetune …
    """
    from personavec import finetune
    from personavec.conditions import parse_condition
    from personavec.data import ColumnMap
    from personavec.finetuning.drift import UNITS
    from personavec.finetuning.mitigations import Mitigation
    from personavec.finetuning.training import TrainingConfig, read_training_rows
    from personavec.traits import load_trait
    from personavec.vectors import load_vector

    if dose is not None and (dose != "auto" or coefficient is not None):
        raise UsageError("--dose takes auto alone; give a number with --coefficient, not both")
    used = [load_vector(name) for name in options.names(vectors)]
    watched = [load_vector(name) for name in options.names(watch)]
    traits = {vector.trait for vector in (*used, *watched)}
    chosen = Mitigation(
        mitigation,  # type: ignore[arg-type]
        coefficient="auto" if dose else _course(coefficient),
        strength=strength,
    )
    config = finetune.FinetuneConfig(
        training=TrainingConfig(
            full=full,
            rank=rank,
            alpha=alpha,
            learning_rate=learning_rate,
            epochs=epochs,
            batch=batch,
            accumulation=accumulation,
            warmup_steps=warmup_steps,
            max_length=max_length,
            truncate=truncate,
            gradient_checkpointing=gradient_checkpointing,
            mixed_precision=mixed_precision,
            checkpoint_every=checkpoint_every,
            seed=seed,
            report_to=tuple(report_to or ()),
        ),
        mitigation=chosen,
        layer=options.layers(layer),
        positions=options.positions_of_training(positions),
        drift_every=drift_every,
        stop_if=tuple(
            parse_condition(text, traits=traits, units=UNITS)  # type: ignore[arg-type]
            for text in stop_if or ()
        ),
    )
    options.check_layer(config.layer, [*used, *watched])
    spec = load_trait(trait)[0] if trait else None
    finetune.check_inputs(chosen, used, spec)
    finetune.check_trackers(config.training.report_to)
    flags = [f"{v.trait}_flag" for v in used] if mitigation == "drop-flagged" else []
    if mitigation == "drop-flagged" and not flags:
        raise UsageError("--mitigation drop-flagged needs --vectors: whose flags count")
    rows = read_training_rows(data, columns=ColumnMap.parse(columns), split=split, flags=flags)
    if max_rejects is not None and len(rows.rejects) > max_rejects:
        first = rows.rejects[0]
        raise DataError(
            f"{plural(len(rows.rejects), 'row')} cannot be used, more than "
            f"--max-rejects {max_rejects}; the first, row {first.id}: {first.reason}"
        )
    loaded = options.load_model(
        model, dtype or ("float32" if full else None), device, model_arg, template_arg
    )
    results = finetune.run(
        loaded,
        rows,
        out,
        config,
        vectors=used,
        watch=watched,
        spec=spec,
    )
    if finetune.is_main_process():
        _print(results, as_json)
    if results["stopped"]:
        raise typer.Exit(CONDITION_MET)


def _course(text: str | None) -> Any:
    from personavec.model.schedule import Schedule

    if text is None:
        return None
    course = Schedule.parse(text)
    return course.at(0) if course.is_constant else course


def _print(results: dict[str, Any], as_json: bool) -> None:
    options.print_reading(results["data"])
    for note in results["notes"]:
        log(f"note: {note}")
    if results["stopped"]:
        log(f"stopped at step {results['steps']}: {results['stopped']}")
    if as_json:
        print_json(results)
        return
    amount = "" if results["coefficient"] is None else f" at {results['coefficient']}"
    console.print(
        f"{plural(results['rows'], 'row')} ({results['rejected']} rejected), "
        f"{plural(results['steps'], 'step')}, "
        f"mitigation {results['mitigation']}{amount}, loss {results['loss']:.3f} (mean over the "
        f"last tenth of the steps), {results['seconds']:.0f} s\n"
        f"model: {results['model'] or 'none was kept'}; drift: {results['drift']}",
        highlight=False,
        markup=False,
    )
