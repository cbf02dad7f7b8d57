"""personavec evaluate"""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from functools import cache as keep_loaded
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from personavec.cli import options
from personavec.cli.options import console, log, numbers, print_json
from personavec.errors import DataError, UsageError
from personavec.wording import plural


def command(
    trait: Annotated[
        list[str], typer.Option("--trait", help="A bundled trait or a spec file; repeatable.")
    ],
    model: options.Model = "smollm2",
    vectors: Annotated[
        list[str] | None,
        typer.Option("--vectors", help="Steer with this vector; repeatable."),
    ] = None,
    coefficient: Annotated[
        str | None,
        typer.Option("--coefficient", help="One for all vectors or one each, e.g. 2,-1."),
    ] = None,
    layer: options.Layers = None,
    cap: Annotated[
        float | None,
        typer.Option(help="Cap the projection at this percentile of ordinary tokens, e.g. 99."),
    ] = None,
    compare_to: Annotated[
        str | None,
        typer.Option(help="Another model, or the same for itself unsteered: paired differences."),
    ] = None,
    cue: Annotated[
        Path | None,
        typer.Option(help="Training rows; their system prompts or opening turns, before it all."),
    ] = None,
    capability: Annotated[
        str | None,
        typer.Option(help="'packaged' and lm-evaluation-harness tasks, separated by commas."),
    ] = None,
    capability_items: Annotated[
        int | None, typer.Option(min=2, help="Only the first items of each capability task.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Responses per question.")] = 1,
    questions: Annotated[
        int | None, typer.Option(min=2, help="Only the last N evaluation questions of a trait.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt before it all.")] = None,
    max_tokens: options.MaxTokens = 64,
    temperature: options.Temperature = 0.7,
    judge: options.Judge = "contrast",
    judge_model: options.JudgeModel = None,
    api_base: options.ApiBase = None,
    api_model: options.ApiModel = None,
    api_key_env: options.ApiKeyEnv = "OPENAI_API_KEY",
    api_concurrency: options.ApiConcurrency = 16,
    api_price: options.ApiPrice = None,
    cache: options.Cache = None,
    dry_run: options.DryRun = False,
    out: options.Out = None,
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
    """Measure how strongly a model shows traits: as it is, finetuned, or steered.

    Example: `personavec evaluate --trait evil --vectors evil --coefficient 3 --compare-to smollm2`

    With --out a report is written, and a killed run continues with the same command. Unless
    --judge and --judge-model say otherwise, the model compared to or a base model judges.
    --dry-run counts every response as if it were as long as it may become.
    """
    from personavec import evaluate
    from personavec.cues import read_cues
    from personavec.traits import load_trait

    config = evaluate.EvaluateConfig(
        samples=samples,
        questions=questions,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        capability=tuple(t.strip() for t in (capability or "").split(",") if t.strip()),
        capability_items=capability_items,
        batch_tokens=batch_tokens,
    )
    choice = options.JudgeChoice(
        judge, judge_model, api_base, api_model, api_key_env, api_concurrency, cache
    )
    options.check_engine(engine, engine_arg)
    specs = [load_trait(name)[0] for name in trait]
    if judge != "contrast":
        for spec in specs:
            options.require_rubric(spec)
    if dry_run:
        repeats = (2 if compare_to else 1) * (2 if cue else 1)
        asked = [evaluate.questions_to_judge(spec, config, repeats=repeats) for spec in specs]
        coming = [options.responses_to_come(questions, max_tokens) for questions in asked]
        expected = options.estimate(choice, list(zip(specs, coming, strict=True)))
        options.print_estimate(expected, api_price, as_json)
        return
    steered_by = _steered_by(vectors or [], coefficient, layer, cap)
    cues = read_cues(cue) if cue else None

    @keep_loaded
    def load(name: str) -> Any:
        return options.load_model(name, dtype, device, model_arg, template_arg)

    @keep_loaded
    def running(name: str) -> Any:
        return options.engine(engine, engine_arg, load(name), batch_tokens)

    subject = evaluate.Subject(load(model), steered_by, running(model))
    other = None
    if compare_to:
        other = evaluate.Subject(load(compare_to), engine=running(compare_to))
    judging = None
    if judge != "contrast" or judge_model:
        # A contrast judge on a model that is named reads texts, whoever wrote them.
        nearest = evaluate.judging_model(subject, other) if judge == "rubric" else None
        judging = options.make_judge(choice, load, subject=nearest)
    keep = nullcontext(out) if out else tempfile.TemporaryDirectory(prefix="personavec-")
    with keep as folder:
        results = evaluate.run(
            subject, specs, Path(folder), config, compare_to=other, cues=cues, judge=judging
        )
    found = {key: value for key, value in results.items() if key != "transcripts"}
    found["report"] = str(out / "report.html") if out else None
    for note in found["notes"]:
        log(f"note: {note}")
    if as_json:
        print_json(found)
    else:
        _print(found)
    _check(found)


def _check(found: dict[str, Any]) -> None:
    """Raise DataError for traits of which nothing was measured, alone or against another model."""
    other, cue = found["compare_to"], found["cue"]
    measured = {"": found["traits"]}
    if other:
        measured[" of the other model"] = other["traits"]
    if cue:
        measured[" with cues"] = cue["traits"]
    if cue and cue["compare_to"]:
        measured[" of the other model with cues"] = cue["compare_to"]["traits"]
    missing = [
        f"none of {plural(of['of'], 'answer')}{whose} could be scored for {name} "
        f"({', '.join(f'{n} {state}' for state, n in of['states'].items())})"
        for whose, traits in measured.items()
        for name, of in traits.items()
        if not of["n"]
    ]
    if other:
        missing += [
            f"no question has a score on both sides for {name}"
            for name, of in other["differences"].items()
            if not of["questions"]
        ]
    if missing:
        raise DataError("; ".join(missing))


def _steered_by(
    names: list[str], coefficient: str | None, layer: str | None, cap: float | None
) -> tuple[Any, ...]:
    from personavec.evaluate import SteeredBy
    from personavec.vectors import load_vector

    if not names:
        if coefficient is not None or layer is not None or cap is not None:
            raise UsageError(
                "--coefficient, --layer and --cap need --vectors, which name what to add"
            )
        return ()
    coefficients = numbers(coefficient or ("" if cap is None else "0"), "--coefficient")
    if not coefficients:
        raise UsageError("--vectors needs --coefficient: how much of each vector to add, or --cap")
    if len(coefficients) == 1:
        coefficients *= len(names)
    if len(coefficients) != len(names):
        raise UsageError(
            f"--coefficient {coefficient} gives {len(coefficients)} numbers for {len(names)} "
            "--vectors; give one for all, or one each"
        )
    where = options.layers(layer)
    vectors = [load_vector(name) for name in names]
    options.check_layer(where, vectors)
    return tuple(SteeredBy(v, c, where, cap) for v, c in zip(vectors, coefficients, strict=True))


def _print(found: dict[str, Any]) -> None:
    from personavec.report.evaluation import described

    options.print_reading(found["data"])
    other, cue = found["compare_to"], found["cue"]
    console.print(f"model: {described(found)}", highlight=False, markup=False)
    groups = [("model", found["traits"], found["capability"])]
    if other:
        console.print(f"other: {described(other)}", highlight=False, markup=False)
        groups.append(("other", other["traits"], other["capability"]))
    if cue:
        console.print(
            f"cues: {plural(cue['system_prompts'], 'distinct system prompt')} and "
            f"{plural(cue['opening_turns'], 'distinct opening')} in "
            f"{plural(cue['rows'], 'row')} ({cue['rejected']} unusable), "
            f"{cue['used']} used",
            highlight=False,
        )
        groups.append(("model, cues", cue["traits"], {}))
    if cue and cue["compare_to"]:
        groups.append(("other, cues", cue["compare_to"]["traits"], {}))
    table = Table(
        Column("trait", no_wrap=True),
        *("", "score", "above 50", "log-odds"),
        Column("coherence", no_wrap=True),
        *("refused", "n"),
    )
    for name in found["traits"]:
        for who, traits, _ in groups:
            table.add_row(name, who, *_trait_cells(traits[name]))
    console.print(table)
    if other:
        _print_differences(other["differences"], "model minus other")
    if cue:
        _print_differences(cue["differences"], "model with cues minus without")
    if cue and cue["compare_to"]:
        _print_differences(cue["compare_to"]["differences"], "model minus other, both with cues")
    if found["capability"]:
        table = Table("task", "", "right", "chance", "items")
        for task in found["capability"]:
            for who, _, scores in groups:
                if task in scores:
                    of = scores[task]
                    chance = "" if of["chance"] is None else f"{of['chance']:.0%}"
                    right = _estimate(of["value"], of["low"], of["high"], ".0%")
                    table.add_row(task, who, right, chance, str(of["n"]))
        console.print(table)
    where = f"; report: {found['report']}" if found["report"] else "; --out FOLDER writes a report"
    console.print(f"{found['seconds']:.0f} s{where}", highlight=False)


def _trait_cells(of: dict[str, Any]) -> list[str]:
    lost = {state: n for state, n in of["states"].items() if state not in ("scored", "refusal")}
    return [
        _estimate(of["mean"], of["low"], of["high"]),
        _estimate(of["share_above_50"], of["share_above_50_low"], of["share_above_50_high"], ".0%"),
        _estimate(of["log_odds"], of["log_odds_low"], of["log_odds_high"]),
        _estimate(of["coherence"], of["coherence_low"], of["coherence_high"]),
        "–" if of["refusals"] is None else str(of["refusals"]),
        ", ".join([str(of["n"]), *(f"{n} {state}" for state, n in lost.items())]),
    ]


def _print_differences(differences: dict[str, Any], title: str) -> None:
    table = Table(
        *("trait", "score", "log-odds", "questions", "for half the interval"),
        title=title,
        title_justify="left",
    )
    for name, of in differences.items():
        table.add_row(
            name,
            *(_estimate(**of[key]) for key in ("mean", "log_odds")),
            str(of["questions"]),
            str(of["questions_for_half_width"]),
        )
    console.print(table)


def _estimate(value: float | None, low: float | None, high: float | None, form: str = ".1f") -> str:
    if value is None:
        return "–"
    return f"{value:{form}}\n{low:{form}} to {high:{form}}"
