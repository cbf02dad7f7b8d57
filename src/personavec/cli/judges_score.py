"""personavec judges score"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from personavec.cli import options as shared
from personavec.cli.groups import JudgeOptions, ModelOptions, OutputOptions, TraitOptions
from personavec.data.terminal import show_reading
from personavec.errors import DataError
from personavec.judges.config import ScoreConfig
from personavec.terminal import console, log, print_json
from personavec.wording import plural

if TYPE_CHECKING:
    from personavec.judges import ScoreResults


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

    The judging model is --judge-model, else --model. Rows that cannot be scored keep their place,
    and their `state` gives the reason. Run the command again to repeat calls that failed, or to
    score rows that were changed; the other rows keep their scores.

    Parameters
    ----------
    file
        CSV, JSONL, JSON or Parquet rows.
    """
    from personavec import results
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
        print_json(results.dump(found))
    else:
        _print(found)
    _check_scored(found)


def _print(found: ScoreResults) -> None:
    # The states below name the rows that could not be read.
    show_reading({name: replace(of, rejected={}) for name, of in found.data.items()})
    console.print(
        f"{found.scored} of {plural(found.rows, 'row')} scored for {found.trait}, "
        f"{found.share_above_50:.0%} above 50; written to {found.out}"
        if found.share_above_50 is not None
        else f"written to {found.out}",
        highlight=False,
    )
    for note in found.notes:
        log(f"note: {note}")
    if found.kept:
        console.print(f"  {plural(found.kept, 'row')} with the scores of an earlier run")
    for state, n in found.states.items():
        if state != "scored":
            console.print(f"  {plural(n, 'row')}: {state}", markup=False)


def _check_scored(found: ScoreResults) -> None:
    """Raise DataError if no row was scored."""
    if not found.scored:
        state, n = max(found.states.items(), key=lambda item: item[1])
        rows = plural(found.rows, "row")
        raise DataError(f"none of {rows} could be scored; {n} of them: {state}")
