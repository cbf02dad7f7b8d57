"""personavec shift"""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.options import console, log, print_json
from personavec.errors import DataError

#: What the command exits with when a condition was met.
CONDITION_MET = 3


def command(
    base: Annotated[str, typer.Argument(help="The model before finetuning.")],
    tuned: Annotated[
        str, typer.Argument(help="The model after it: a folder, an adapter's folder, an id.")
    ],
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            "--vectors",
            help="Vectors' folders or bundled names; repeat it, or separate by commas. "
            "Default: all bundled ones.",
        ),
    ] = None,
    trait: options.OwnTraits = None,
    control: Annotated[
        str | None, typer.Option(help="A benign finetune of BASE, whose shift is subtracted.")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 3 if met: TRAIT>NUMBER[sigma|norm|log_odds|score]; repeatable."
        ),
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="Default: each vector's selected layer.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers per question and model.")] = 1,
    questions: Annotated[
        int | None, typer.Option(min=2, help="Only the last N evaluation questions of a trait.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    judge: options.Judge = "contrast",
    judge_model: options.JudgeModel = None,
    api_base: options.ApiBase = None,
    api_model: options.ApiModel = None,
    api_key_env: options.ApiKeyEnv = "OPENAI_API_KEY",
    api_concurrency: options.ApiConcurrency = 16,
    cache: options.Cache = None,
    out: options.Out = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    seed: options.Seed = 0,
    batch_tokens: options.BatchTokens = 16384,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure how far a finetune moved a model along each trait, and what it shows of it.

    Example: `personavec shift smollm2 out/finetune/model --vectors evil --fail-if 'evil>3sigma'`

    An adapter is applied to BASE, not loaded with a base of its own. Conditions in sigma and norm
    read the shift, those in log_odds and score the tuned model's answers. Exit code 3: one is met;
    1: one could not be measured.
    """
    from personavec.conditions import parse_condition
    from personavec.evaluate import shift
    from personavec.vectors import bundled_vectors, load_vector

    found = [load_vector(name) for name in options.names(vectors) or bundled_vectors()]
    options.check_layer(layer, found)
    conditions = [
        parse_condition(text, traits=[v.trait for v in found], units=shift.units(judge))
        for text in fail_if or ()
    ]
    specs = options.specs_of(found, trait)
    choice = options.JudgeChoice(
        judge, judge_model, api_base, api_model, api_key_env, api_concurrency, cache
    )
    if judge != "contrast":
        for spec in specs:
            options.require_rubric(spec)
    config = shift.ShiftConfig(
        layer=layer,
        questions=questions,
        samples=samples,
        max_tokens=max_tokens,
        seed=seed,
        batch_tokens=batch_tokens,
    )

    def load(name: str) -> Any:
        return options.load_model(name, dtype, device)

    loaded = load(base)
    judging = None
    if judge != "contrast" or judge_model:
        judging = options.make_judge(choice, load, subject=loaded if judge == "rubric" else None)
    keep = nullcontext(out) if out else tempfile.TemporaryDirectory(prefix="personavec-")
    with keep as folder:
        results = shift.run(
            loaded,
            tuned,
            found,
            specs,
            Path(folder),
            config,
            control=control,
            fail_if=conditions,
            judge=judging,
        )
    for note in results["notes"]:
        log(f"note: {note}")
    if as_json:
        print_json(results)
    else:
        _print(results)
    for met in results["met"]:
        log(f"condition met: {met['reason']}")
    if results["met"]:
        for why in results["unmeasured"]:
            log(f"warning: {why}")
        raise typer.Exit(CONDITION_MET)
    if results["unmeasured"]:
        raise DataError("; ".join(results["unmeasured"]))


def _print(results: dict[str, Any]) -> None:
    control = results["control"] is not None
    table = Table(
        *("trait", "layer", "shift, sigma", "shift", "random, largest"),
        *(("beyond control, sigma",) if control else ()),
        *("log-odds, base", "tuned", "tuned minus base"),
    )
    for name, of in results["traits"].items():
        base, tuned = of["expression_base"], of["expression_tuned"]
        beyond = of.get("beyond_control", {})
        key = "log_odds" if base["log_odds"] is not None else "mean"
        prefix = "log_odds_" if key == "log_odds" else ""
        table.add_row(
            name,
            str(of["layer"]),
            _estimate(of["sigma"], of["sigma_low"], of["sigma_high"]),
            _estimate(of["shift"], of["low"], of["high"]),
            f"{of['random_largest']:.2f}",
            *(
                (_estimate(beyond["sigma"], beyond["sigma_low"], beyond["sigma_high"]),)
                if control
                else ()
            ),
            *(
                _estimate(shown[key], shown[f"{prefix}low"], shown[f"{prefix}high"])
                for shown in (base, tuned)
            ),
            _estimate(**of["expression_difference"][key]),
        )
    console.print(table)


def _estimate(value: float | None, low: float | None, high: float | None) -> str:
    return "–" if value is None else f"{value:.2f}\n{low:.2f} to {high:.2f}"
