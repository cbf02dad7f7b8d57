"""personavec judges compare"""

from __future__ import annotations

from pathlib import Path

from personavec.cli.groups import PrintOptions
from personavec.judges.config import CompareConfig
from personavec.terminal import print_json


def command(
    file: Path,
    /,
    *,
    config: CompareConfig,
    output: PrintOptions = PrintOptions(),
) -> None:
    """Measure how well two judges, or a judge and people, agree on the same answers.

    Example: `personavec judges compare scored.csv --columns human,trait_score`

    AUC takes the verdicts of the first column at 50 as the truth.

    Parameters
    ----------
    file
        CSV, JSONL, JSON or Parquet rows.
    """
    from personavec import results
    from personavec.judges import compare_file
    from personavec.judges.terminal import show_pair

    found = compare_file(
        file, config.columns, question_column=config.question_column, seed=config.seed
    )
    if output.as_json:
        print_json(results.dump(found))
        return
    for pair in found.pairs:
        show_pair(pair)
