"""personavec judges score | check | compare"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.command import Command
from personavec.cli.options import console, print_json
from personavec.errors import DataError, UsageError
from personavec.wording import plural

app = typer.Typer(no_args_is_help=True, help="Judges: score answers, and test those who do.")
QuestionColumn = Annotated[str, typer.Option(help="Column of the question.")]


@app.command(cls=Command)
def score(
    file: Annotated[Path, typer.Argument(help="CSV, JSONL, JSON or Parquet rows.")],
    trait: options.Trait,
    description: options.Description = None,
    model: options.Model = "smollm2",
    question_column: QuestionColumn = "question",
    answer_column: Annotated[str, typer.Option(help="Column of the answer.")] = "answer",
    out: options.Out = None,
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
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Score answers; adds trait_score, coherence and, under the contrast judge, log_odds.

    Example: `personavec judges score answers.csv --trait sycophantic --out scored.jsonl`

    The judging model is --judge-model, else --model. Rows that cannot be scored are kept with a
    `state` that says why; those whose call failed are asked for again by the next run. A file that
    was mended keeps the scores of the rows that are the same.
    """
    from personavec.judging import file_answers, score_file
    from personavec.traits import load_trait

    choice = options.JudgeChoice(
        judge, judge_model, api_base, api_model, api_key_env, api_concurrency, cache
    )
    spec, _ = load_trait(trait, description)
    if judge != "contrast":
        options.require_rubric(spec)
    if dry_run:
        answers = file_answers(file, (question_column, answer_column))
        options.print_estimate(options.estimate(choice, [(spec, answers)]), api_price, as_json)
        return
    load = partial(
        options.load_model,
        dtype=dtype,
        device=device,
        model_args=model_arg,
        template_args=template_arg,
    )
    found = score_file(
        lambda: options.make_judge(choice, load, default_model=model),
        spec,
        file,
        out or file.with_suffix(".scored.jsonl"),
        question_column=question_column,
        answer_column=answer_column,
    )
    if as_json:
        print_json(found)
        _check_scored(found)
        return
    # The states below tell of rows that could not be read.
    options.print_reading({k: told | {"rejected": {}} for k, told in found["data"].items()})
    console.print(
        f"{found['scored']} of {plural(found['rows'], 'row')} scored for {spec.name}, "
        f"{found['share_above_50']:.0%} above 50; written to {found['out']}"
        if found["scored"]
        else f"written to {found['out']}",
        highlight=False,
    )
    for note in found["notes"]:
        options.log(f"note: {note}")
    if found["kept"]:
        console.print(f"  {plural(found['kept'], 'row')} with the scores of an earlier run")
    for state, n in found["states"].items():
        if state != "scored":
            console.print(f"  {plural(n, 'row')}: {state}", markup=False)
    _check_scored(found)


def _check_scored(found: dict[str, Any]) -> None:
    """Raise DataError where no row was scored."""
    if not found["scored"]:
        state, n = max(found["states"].items(), key=lambda item: item[1])
        rows = plural(found["rows"], "row")
        raise DataError(f"none of {rows} could be scored; {n} of them: {state}")


@app.command(cls=Command)
def check(
    trait: options.Trait,
    half: Annotated[
        str | None, typer.Option(help="tune or report: one half of the checks; default: both.")
    ] = None,
    model: options.Model = "smollm2",
    out: options.Out = None,
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
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """How well a judge tells apart the spec's checks, answers whose verdict is known.

    Example: `personavec judges check --trait evil --half tune`

    Choose and tune with the tune half; look at the report half once, at the end. With both, a
    calibration is fitted on the tune half and reported on the other.
    """
    from personavec import checking
    from personavec.runs import atomic_write, lock_file
    from personavec.traits import load_trait

    if half not in (None, *checking.HALVES):
        raise UsageError(f"--half {half}: use tune or report")
    choice = options.JudgeChoice(
        judge, judge_model, api_base, api_model, api_key_env, api_concurrency, cache
    )
    spec, _ = load_trait(trait)
    if judge != "contrast":
        options.require_rubric(spec)
    answers = checking.answers(spec, half)
    if dry_run:
        options.print_estimate(options.estimate(choice, [(spec, answers)]), api_price, as_json)
        return
    load = partial(
        options.load_model,
        dtype=dtype,
        device=device,
        model_args=model_arg,
        template_args=template_arg,
    )
    target = out or Path("checks") / f"{spec.name.replace(' ', '_')}-{judge}.json"
    with lock_file(target):
        judging = options.make_judge(choice, load, default_model=model)
        found = checking.run(judging, spec, half)
        atomic_write(target, json.dumps(found, ensure_ascii=False, indent=1))
    if as_json:
        print_json({**found, "out": str(target)})
        return
    _print_check(found)
    for note in found["notes"]:
        options.log(f"note: {note}")
    console.print(f"written to {target}", highlight=False)


@app.command(cls=Command)
def compare(
    file: Annotated[Path, typer.Argument(help="CSV, JSONL, JSON or Parquet rows.")],
    columns: Annotated[str, typer.Option(help="Columns of scores, e.g. judge_a,judge_b.")],
    question_column: QuestionColumn = "question",
    seed: options.Seed = 0,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Do two judges, or a judge and people, agree on the same answers?

    Example: `personavec judges compare scored.csv --columns human,trait_score`

    AUC takes the verdicts of the first column at 50 as the truth.
    """
    from personavec.agreement import compare_file

    names = [name.strip() for name in columns.split(",") if name.strip()]
    found = compare_file(file, names, question_column=question_column, seed=seed)
    if as_json:
        print_json(found)
        return
    for pair in found["pairs"]:
        a, b = pair["columns"]
        table = Table("figure", "value (95% interval)", title=f"{a} and {b}", title_justify="left")
        for name in ("agreement", "kappa", "auc", "spearman", "preference"):
            table.add_row(_FIGURES[name], _shown(pair[name]))
        console.print(table)
        console.print(
            f"{plural(pair['n'], 'row')}; {pair['without_both_scores']} without both scores",
            highlight=False,
        )
        _print_rows(pair["disagreements"][:5], [a, b])


_FIGURES = {
    "agreement": "same verdict at 50",
    "kappa": "Cohen's kappa",
    "auc": "AUC",
    "spearman": "Spearman",
    "preference": "same preference between two answers",
}


def _print_check(found: dict[str, Any]) -> None:
    table = Table("half", "scored", "AUC (95% interval)", "agreement at 50 (95% interval)")
    for name, half in found["halves"].items():
        scored = f"{half['states'].get('scored', 0)} of {half['n']}"
        table.add_row(name, scored, _shown(half["auc"]), _shown(half["agreement"]))
    calibration = found["calibration"]
    if calibration and "after" in calibration:
        table.add_row(
            "report, calibrated", "", "as before", _shown(calibration["after"]["agreement"])
        )
    console.print(table)
    for half in found["halves"].values():
        for state, n in half["states"].items():
            if state != "scored":
                console.print(f"  {plural(n, 'answer')}: {state}", markup=False)
        if half["thoughts"]:
            held = plural(half["thoughts"], "answer")
            console.print(f"  {held}: a thought was left out", markup=False)
    if found["in_examples"]:
        console.print(
            f"  {plural(found['in_examples'], 'answer')} left out: "
            "the judge pairs' examples hold them",
            highlight=False,
        )
    console.print(f"{len(found['wrong'])} on the wrong side of 50:", highlight=False)
    _print_rows(found["wrong"][:20], ["shows", "trait_score"])


def _print_rows(rows: list[dict[str, Any]], columns: list[str]) -> None:
    if not rows:
        return
    table = Table(*columns, "question", "answer")
    for row in rows:
        cells = [f"{v:.1f}" if isinstance(v := row.get(c), float) else str(v) for c in columns]
        table.add_row(*cells, _cut(row.get("question")), _cut(row.get("answer")))
    console.print(table, markup=False)


def _cut(text: Any, length: int = 160) -> str:
    text = "" if text is None else str(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _shown(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return f"none: {figure['why']}"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
