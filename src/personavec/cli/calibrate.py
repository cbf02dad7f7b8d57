"""personavec calibrate"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.options import console, log, print_json
from personavec.errors import UsageError

if TYPE_CHECKING:
    from personavec.calibration import Calibration


def command(
    vectors: Annotated[
        str, typer.Option("--vectors", help="A vector's folder or a bundled name.")
    ] = "optimistic",
    trait: Annotated[
        str | None,
        typer.Option("--trait", help="Its spec: a bundled trait or a file. Default: its name."),
    ] = None,
    out: options.Out = None,
    fit_questions: Annotated[
        int, typer.Option(min=3, help="Extraction questions to fit the forecast on.")
    ] = 10,
    test_questions: Annotated[
        int, typer.Option(min=2, help="Evaluation questions to report it on.")
    ] = 12,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response, in tokens.")] = 64,
    judge: options.Judge = "contrast",
    judge_model: options.JudgeModel = None,
    api_base: options.ApiBase = None,
    api_model: options.ApiModel = None,
    api_key_env: options.ApiKeyEnv = "OPENAI_API_KEY",
    api_concurrency: options.ApiConcurrency = 16,
    cache: options.Cache = None,
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
    """How well a vector's projection forecasts the answer, kept beside the vector.

    Example: `personavec calibrate --vectors vectors/formal --trait formal.json`

    Answers come from the spec's eight monitoring prompts and from 0 to 20 earlier turns that show
    the trait. A killed run continues with the same command.
    """
    from personavec import calibrate
    from personavec.traits import load_trait
    from personavec.vectors import bundled_vectors, load_vector, vector_folder

    choice = options.JudgeChoice(
        judge, judge_model, api_base, api_model, api_key_env, api_concurrency, cache
    )
    vector = load_vector(vectors)
    spec, _ = load_trait(trait or vector.trait)
    if spec.name != vector.trait:
        raise UsageError(f"the vector is of '{vector.trait}', the spec of '{spec.name}'")
    if choice.judge != "contrast":
        options.require_rubric(spec)
    folder = vector_folder(vectors)
    if out is None and vectors in bundled_vectors():
        raise UsageError(f"'{vectors}' is a bundled vector: give --out a folder to write")
    loaded = options.load_model(model, dtype, device, model_arg, template_arg)
    if warning := vector.other_model_warning(*loaded.identity.lineage):
        log(f"warning: {warning}")
    found = calibrate.run(
        loaded,
        spec,
        vector,
        out or folder,
        calibrate.CalibrateConfig(
            fit_questions=fit_questions,
            test_questions=test_questions,
            max_tokens=max_tokens,
            seed=seed,
            batch_tokens=batch_tokens,
        ),
        judge=options.make_judge(choice, subject=loaded),
    )
    where = str(out or folder)
    if as_json:
        print_json({"trait": found.trait, "layer": found.layer, **_summary(found), "out": where})
        return
    _print(found)
    console.print(f"written to {where}", highlight=False, markup=False)


def _summary(found: Calibration) -> dict[str, Any]:
    kept = ("correlations", "coverage", "fitted_on", "tested_on", "unscored")
    return {
        "unit": found.unit,
        "slope": found.slope,
        "intercept": found.intercept,
        "interval": [found.below, found.above],
        "notes": found.results["notes"],
        **{name: found.results[name] for name in kept},
    }


def _print(found: Calibration) -> None:
    for note in found.results["notes"]:
        log(f"note: {note}")
    table = Table(
        "settings",
        "answers",
        "overall",
        "within condition",
        title=f"{found.trait}: correlation of the prompt's projection with the answer's expression",
        title_justify="left",
    )
    names = {"all": "all", "prompts": "eight system prompts", "examples": "0 to 20 examples"}
    for name, record in found.results["correlations"].items():
        table.add_row(
            names[name], str(record["n"]), _estimate(record["overall"]), _estimate(record["within"])
        )
    console.print(table)
    unit = "nats" if found.unit == "log_odds" else "points"
    console.print(
        f"forecast: {found.intercept:+.2f} {found.slope:+.2f} × projection, "
        f"{found.below:+.2f} to {found.above:+.2f} {unit}; its interval held "
        f"{_estimate(found.results['coverage'])} of held-out answers",
        highlight=False,
    )


def _estimate(record: dict[str, Any]) -> str:
    if record["value"] is None:
        return "not measured"
    return f"{record['value']:.2f} [{record['low']:.2f}, {record['high']:.2f}]"
