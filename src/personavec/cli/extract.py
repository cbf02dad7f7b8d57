"""personavec extract"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.options import console, numbers, print_json
from personavec.errors import UsageError
from personavec.wording import plural


def command(
    trait: options.Trait,
    description: options.Description = None,
    model: options.Model = "smollm2",
    out: options.Out = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Responses per question, pair and polarity.")
    ] = 1,
    max_tokens: options.MaxTokens = 64,
    temperature: options.Temperature = 0.7,
    layers: Annotated[
        str | None, typer.Option(help="Candidate layers, e.g. 10,14,18; default: eight.")
    ] = None,
    coefficients: Annotated[
        str | None, typer.Option(help="Dose-response coefficients, 0 included.")
    ] = None,
    rollouts: Annotated[
        list[Path] | None,
        typer.Option(
            "--rollouts",
            help="Adopt rollouts: a rollouts.jsonl, or a CSV for each polarity; repeatable.",
        ),
    ] = None,
    estimator: Annotated[
        str, typer.Option(help="mean, logistic, or both: the layer sweep then picks one.")
    ] = "mean",
    include_thinking: Annotated[
        bool, typer.Option("--include-thinking", help="Take thinking into the response mean.")
    ] = False,
    judge: options.Judge = "contrast",
    judge_model: options.JudgeModel = None,
    api_base: options.ApiBase = None,
    api_model: options.ApiModel = None,
    api_key_env: options.ApiKeyEnv = "OPENAI_API_KEY",
    api_concurrency: options.ApiConcurrency = 16,
    api_price: options.ApiPrice = None,
    cache: options.Cache = None,
    dry_run: options.DryRun = False,
    dtype: options.Dtype = None,
    device: options.Device = None,
    model_arg: options.ModelArgs = None,
    template_arg: options.TemplateArgs = None,
    engine: options.Engine = "transformers",
    engine_arg: options.EngineArgs = None,
    seed: options.Seed = 0,
    batch_tokens: options.BatchTokens = 16384,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Extract a trait's persona vector, validate it by steering, and write a report.

    Example: `personavec extract --trait optimistic --out vectors/optimistic`

    A killed run continues when the same command is given again. The subject judges its own
    responses, unsteered, unless --judge-model or --judge api says otherwise. --dry-run counts
    every response as if it were as long as it may become.
    """
    from personavec.extract import ExtractConfig, questions_to_judge, run, summary
    from personavec.traits import load_trait

    choice = options.JudgeChoice(
        judge, judge_model, api_base, api_model, api_key_env, api_concurrency, cache
    )
    options.check_engine(engine, engine_arg)
    spec, origin = load_trait(trait, description)
    if judge != "contrast":
        options.require_rubric(spec)
    defaults = ExtractConfig()
    config = ExtractConfig(
        samples=samples,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        layers=options.whole_numbers(layers, "--layers") if layers else None,
        coefficients=numbers(coefficients, "--coefficients")
        if coefficients
        else defaults.coefficients,
        estimators=_estimators(estimator),
        include_thinking=include_thinking,
        batch_tokens=batch_tokens,
    )
    if dry_run:
        if rollouts:
            raise UsageError("--dry-run counts responses that are to come: leave --rollouts out")
        coming = options.responses_to_come(questions_to_judge(spec, config), max_tokens)
        options.print_estimate(options.estimate(choice, [(spec, coming)]), api_price, as_json)
        return
    folder = out or Path("vectors") / spec.name.replace(" ", "_")
    load = partial(
        options.load_model,
        dtype=dtype,
        device=device,
        model_args=model_arg,
        template_args=template_arg,
    )
    loaded = load(model)
    judging = options.make_judge(choice, load, subject=loaded)
    results = run(
        loaded,
        spec,
        folder,
        config,
        origin=origin,
        judge=judging,
        rollouts=rollouts or (),
        engine=options.engine(engine, engine_arg, loaded, batch_tokens),
    )
    found = summary(results, folder)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _estimators(text: str) -> tuple[Literal["mean", "logistic"], ...]:
    match text:
        case "mean" | "logistic":
            return (text,)
        case "both":
            return ("mean", "logistic")
    raise UsageError(f"--estimator {text}: use mean, logistic or both")


def _print(found: dict[str, Any]) -> None:
    options.print_reading(found["data"])
    kept = found["kept"]
    console.print(
        f"\n{found['trait']} on {found['model']}: layer {found['layer']}, "
        f"estimator {found['estimator']}, kept "
        f"{kept['pos']} positive and {plural(kept['neg'], 'negative rollout')} of {kept['of']} each"
    )
    table = Table("coefficient", "log-odds (95% interval)", "coherence", "random directions")
    for dose in found["dose_response"]:
        others = [
            c["log_odds"] for c in found["control"] if c["coefficient"] == dose["coefficient"]
        ]
        low, high = found["coherent_range"]
        inside = low <= dose["coefficient"] <= high
        table.add_row(
            f"{dose['coefficient']:+g}",
            f"{_number(dose['log_odds'])} ({_number(dose['low'])} to {_number(dose['high'])})",
            _number(dose["coherence"]),
            f"{min(others):.1f} to {max(others):.1f}" if others else "",
            style=None if inside else "dim",
        )
    console.print(table)
    for check in found["checks"]:
        mark, style = ("passed", "green") if check["passed"] else ("FAILED", "red")
        console.print(f"{mark}  {check['name']}: {check['detail']}", style=style, highlight=False)
    for note in found["notes"]:
        console.print(f"note: {note}", highlight=False)
    console.print(f"{found['seconds']:.0f} s; report: {found['report']}", highlight=False)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"
