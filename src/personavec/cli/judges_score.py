"""personavec judges score"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personavec.cli import options as shared
from personavec.cli.groups import JudgeOptions, ModelOptions, OutputOptions, TraitOptions
from personavec.cli.options import console, print_json
from personavec.errors import DataError
from personavec.options import options
from personavec.wording import plural


@options()
@dataclass(frozen=True)
class ScoreConfig:
    """Where a file holds what."""

    question_column: str = "question"
    """Column of the question."""
    answer_column: str = "answer"
    """Column of the answer."""


def command(
    file: Path,
    /,
    *,
    trait: TraitOptions,
    config: ScoreConfig = ScoreConfig(),
    model: ModelOptions = ModelOptions(),
    judge: JudgeOptions = JudgeOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Score answers; adds trait_score, coherence and, under the contrast judge, log_odds.

    Example: `personavec judges score answers.csv --trait sycophantic --out scored.jsonl`

    The judging model is --judge-model, else --model. Rows that cannot be scored are kept with a
    `state` that says why; those whose call failed are asked for again by the next run. A file that
    was mended keeps the scores of the rows that are the same.

    Parameters
    ----------
    file
        CSV, JSONL, JSON or Parquet rows.
    """
    from personavec.judges import file_answers, score_file

    spec, _ = trait.load()
    judge.check(spec)
    if judge.dry_run:
        answers = file_answers(file, (config.question_column, config.answer_column))
        shared.print_estimate(
            shared.estimate(judge, [(spec, answers)]), judge.api_price, output.as_json
        )
        return
    found = score_file(
        lambda: judge.make(model.load, default_model=model.model),
        spec,
        file,
        output.file(file.with_suffix(".scored.jsonl")),
        question_column=config.question_column,
        answer_column=config.answer_column,
    )
    if output.as_json:
        print_json(found)
    else:
        _print(found, spec.name)
    _check_scored(found)


def _print(found: dict[str, Any], trait: str) -> None:
    # The states below tell of rows that could not be read.
    shared.print_reading({k: told | {"rejected": {}} for k, told in found["data"].items()})
    console.print(
        f"{found['scored']} of {plural(found['rows'], 'row')} scored for {trait}, "
        f"{found['share_above_50']:.0%} above 50; written to {found['out']}"
        if found["scored"]
        else f"written to {found['out']}",
        highlight=False,
    )
    for note in found["notes"]:
        shared.log(f"note: {note}")
    if found["kept"]:
        console.print(f"  {plural(found['kept'], 'row')} with the scores of an earlier run")
    for state, n in found["states"].items():
        if state != "scored":
            console.print(f"  {plural(n, 'row')}: {state}", markup=False)


def _check_scored(found: dict[str, Any]) -> None:
    """Raise DataError where no row was scored."""
    if not found["scored"]:
        state, n = max(found["states"].items(), key=lambda item: item[1])
        rows = plural(found["rows"], "row")
        raise DataError(f"none of {rows} could be scored; {n} of them: {state}")
