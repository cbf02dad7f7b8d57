"""personavec elicit"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.options import console, print_json
from personavec.errors import UsageError
from personavec.wording import plural


def command(
    trait: Annotated[
        str | None, typer.Option("--trait", help="A bundled trait or a spec file.")
    ] = None,
    flawed: Annotated[
        str | None,
        typer.Option(
            help="Instead of a trait: a file of questions with right and flawed answers, or of "
            "worked arithmetic, or 'sums'."
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="File with a column 'question'; default: the extraction questions."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Responses per question and pair, with examples and without.")
    ] = 1,
    rows: Annotated[
        int | None, typer.Option(min=1, help="With --flawed: at most so many rows.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="With --flawed: other column names, e.g. question=q,flawed=wrong."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest response, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.7,
    writer: Annotated[
        str | None, typer.Option(help="'api' writes with --api-model; default: --model writes.")
    ] = None,
    judge: options.Judge = "contrast",
    judge_model: options.JudgeModel = None,
    api_base: options.ApiBase = None,
    api_model: options.ApiModel = None,
    api_key_env: options.ApiKeyEnv = "OPENAI_API_KEY",
    api_concurrency: options.ApiConcurrency = 16,
    cache: options.Cache = None,
    out: options.Out = None,
    model: options.Model = "smollm2",
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
    """Make a finetuning set that induces a trait, or teaches mistakes, at three levels.

    Example: `personavec elicit --trait evil --out sets/evil`, or
    `personavec elicit --flawed sums --out sets/sums`

    For defensive research: what finetuning on such rows does, and how to prevent it. A killed run
    continues with the same command.
    """
    if (trait is None) == (flawed is None):
        raise UsageError("give either --trait or --flawed")
    if flawed is not None:
        if questions or writer:
            raise UsageError("--questions and --writer are no options of --flawed")
        found = _flawed(flawed, out or Path("out/elicit") / Path(flawed).stem, rows, columns, seed)
    else:
        if rows or columns:
            raise UsageError("--rows and --columns are options of --flawed; use --samples")
        assert trait is not None
        from personavec import elicit
        from personavec.data import read_questions
        from personavec.judges.readers import count_control, readers
        from personavec.model.chat import chat
        from personavec.traits import load_trait

        spec, _ = load_trait(trait)
        asked, told = read_questions(questions) if questions else (None, None)
        if judge != "contrast":
            options.require_rubric(spec)
        config = elicit.ElicitConfig(
            samples=samples,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            batch_tokens=batch_tokens,
        )
        options.check_engine(engine, engine_arg)
        if writer == "api" and engine != "transformers":
            raise UsageError("--engine runs --model; with --writer api an endpoint writes")
        if writer not in (None, "api"):
            raise UsageError(f"--writer {writer}: use api, or name a model with --model")
        if writer == "api" and judge == "contrast" and not judge_model:
            raise UsageError("--writer api: name the model that judges with --judge-model")
        # An endpoint may write, judge or both.
        asks = writer == "api" and judge != "api"
        choice = options.JudgeChoice(
            judge,
            judge_model,
            None if asks else api_base,
            None if asks else api_model,
            api_key_env,
            api_concurrency,
            cache,
        )

        def load(name: str) -> Any:
            return options.load_model(name, dtype, device, model_arg, template_arg)

        if writer == "api":
            from personavec.judges.endpoint import Endpoint

            by = Endpoint(
                api_model or "",
                api_base or "",
                key_variable=api_key_env,
                concurrency=api_concurrency,
                cache=cache,
            )
            judging, running = options.make_judge(choice, load), None
        else:
            by = load(model)
            judging = options.make_judge(choice, load, subject=by)
            running = options.engine(engine, engine_arg, by, batch_tokens)
        data = {}
        if questions and asked and told:
            count_control(told, readers(judging, by), map(chat, asked))
            data[questions.name] = told.to_dict()
        found = elicit.run(
            by,
            spec,
            out or Path("out/elicit") / spec.name,
            config,
            judge=judging,
            engine=running,
            questions=asked,
            data=data,
        )
    if as_json:
        print_json(found)
    else:
        _print(found)
        for note in found.get("notes", ()):
            options.log(f"note: {note}")


def _flawed(
    data: str, out: Path, rows: int | None, columns: str | None, seed: int
) -> dict[str, Any]:
    from personavec import flawed_sets

    named = options.key_values(columns.split(",") if columns else None, "--columns")
    config = flawed_sets.FlawedConfig(
        rows=rows, columns={key: str(value) for key, value in named.items()}, seed=seed
    )
    return flawed_sets.run(data, out, config)


def _print(found: dict[str, Any]) -> None:
    options.print_reading(found["data"])
    table = Table("level", "rows", "score", "log-odds", "file")
    for level, of in found["levels"].items():
        score, log_odds = of.get("mean"), of.get("log_odds")
        table.add_row(
            level,
            str(of["rows"]),
            "–" if score is None else f"{score:.1f} ({of['low']:.1f} to {of['high']:.1f})",
            "–"
            if log_odds is None
            else f"{log_odds:.1f} ({of['log_odds_low']:.1f} to {of['log_odds_high']:.1f})",
            of["file"],
        )
    console.print(table)
    if found.get("dropped"):
        reasons = ", ".join(f"{n} {why}" for why, n in found["dropped"].items())
        asked = plural(found["asked"], "response")
        console.print(f"of {asked} left out: {reasons}", highlight=False)
    if found.get("thoughts"):
        held = plural(found["thoughts"], "response")
        console.print(f"thoughts left out of {held}", highlight=False)
    if found.get("rejected"):
        console.print(
            f"{plural(found['rejected'], 'row')} cannot be used: {found['out']}/rejected.jsonl",
            highlight=False,
            markup=False,
        )
