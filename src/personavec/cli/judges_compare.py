"""personavec judges compare"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from personavec.cli.groups import PrintOptions
from personavec.cli.judges import figure, print_rows
from personavec.judges.config import CompareConfig
from personavec.terminal import console, print_json
from personavec.wording import plural

if TYPE_CHECKING:
    from personavec.judges import PairAgreement

_FIGURES = {
    "agreement": "same verdict at 50",
    "kappa": "Cohen's kappa",
    "auc": "AUC",
    "spearman": "Spearman",
    "preference": "same preference between two answers",
}


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

    found = compare_file(
        file, config.columns, question_column=config.question_column, seed=config.seed
    )
    if output.as_json:
        print_json(results.dump(found))
        return
    for pair in found.pairs:
        _print(pair)


def _print(pair: PairAgreement) -> None:
    a, b = pair.columns
    table = Table("figure", "value [95%]", title=f"{a} and {b}", title_justify="left")
    for name, shown in _FIGURES.items():
        table.add_row(shown, figure(getattr(pair, name)))
    console.print(table)
    console.print(
        f"{plural(pair.n, 'row')}; {pair.without_both_scores} without both scores",
        highlight=False,
    )
    print_rows(pair.disagreements[:5], [a, b])
