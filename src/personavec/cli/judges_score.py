"""personavec judges score"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from personavec.cli.groups import ModelOptions, OutputOptions, TraitOptions
from personavec.errors import DataError
from personavec.judges.config import JudgeOptions, ScoreConfig
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
    from personavec.judges.terminal import show_scores

    spec, _ = trait.load()
    judge.check(spec)
    if judge.dry_run:
        answers = file_answers(file, (config.question_column, config.answer_column))
        judge.show_cost([(spec, answers)], as_json=output.as_json)
        return
    found = score_file(
        lambda: judge.make(model.load, default_model=model.model),
        spec,
        file,
        output.file(file.with_suffix(".scored.jsonl")),
        question_column=config.question_column,
        answer_column=config.answer_column,
    )
    output.tell(results.dump(found), lambda: show_scores(found))
    _check_scored(found)


def _check_scored(found: ScoreResults) -> None:
    """Raise DataError if no row was scored."""
    if not found.scored:
        state, n = max(found.states.items(), key=lambda item: item[1])
        rows = plural(found.rows, "row")
        raise DataError(f"none of {rows} could be scored; {n} of them: {state}")
