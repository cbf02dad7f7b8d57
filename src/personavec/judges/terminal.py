"""What people see of judges: scores, checks and agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from personavec.data.terminal import show_reading
from personavec.judges.results import (
    CheckResults,
    Figure,
    HalfResults,
    PairAgreement,
    ScoreResults,
)
from personavec.judges.thresholds import Threshold
from personavec.terminal import Ending, beginning, console, log_notes, print_table, show_ending
from personavec.wording import decimal, estimated, plural

#: Characters of a question or an answer.
_LONGEST = 160
_FIGURES = {
    "agreement": "same verdict at 50",
    "kappa": "Cohen's kappa",
    "auc": "AUC",
    "spearman": "Spearman",
    "preference": "same preference between two answers",
}


def show_scores(found: ScoreResults) -> None:
    """How many rows were scored, and what became of the others."""
    # The states below name the rows that could not be read.
    show_reading({name: replace(of, rejected={}) for name, of in found.data.items()})
    log_notes(found.notes)
    if found.kept:
        console.print(f"  {plural(found.kept, 'row')} with the scores of an earlier run")
    for state, n in found.states.items():
        if state != "scored":
            console.print(f"  {plural(n, 'row')}: {state}")
    said = ""
    if found.share_above_50 is not None:
        scored = f"{found.scored} of {plural(found.rows, 'row')} scored for {found.trait}"
        said = f"{scored}, {_shares_above(found)}"
    show_ending(Ending(conclusion=said, written=Path(found.out)))


def _shares_above(found: ScoreResults) -> str:
    shares = {50.0: found.share_above_50, found.threshold: found.share_above_threshold}
    return ", ".join(f"{share:.0%} above {above:.3g}" for above, share in shares.items())


def show_check(found: CheckResults, target: Path) -> None:
    """A table of halves, what was left out, and the answers on the wrong side."""
    figures = {"auc": "AUC", "agreement": "right at 50"}
    if found.threshold is not None:
        figures["agreement_at_threshold"] = "right at the threshold"
    rows = []
    for name, half in found.halves.items():
        scored = f"{half.states.get('scored', 0)} of {half.n}"
        rows.append((name, scored, *(_figure(getattr(half, figure)) for figure in figures)))
    print_table(("half", "scored", *(f"{shown} [95%]" for shown in figures.values())), rows)
    if found.threshold is not None:
        console.print(f"  threshold: {_threshold(found.threshold)}")
    for half in found.halves.values():
        _show_left_out(half)
    if found.in_examples:
        console.print(
            f"  {plural(found.in_examples, 'answer')} left out: the judge pairs' examples hold them"
        )
    side = "50" if found.threshold is None else "the threshold"
    console.print(f"{len(found.wrong)} on the wrong side of {side}:")
    _show_rows([vars(answer) for answer in found.wrong[:20]], ["shows", "trait_score"])
    log_notes(found.notes)
    show_ending(Ending(written=target))


def _threshold(found: Threshold) -> str:
    nats = "" if found.log_odds is None else f" (log-odds {decimal(found.log_odds, '.1f')})"
    fitted = plural(found.answers, "answer")
    return f"{found.trait_score:.3g}{nats}, fitted on {fitted} of the tune half"


def _show_left_out(half: HalfResults) -> None:
    """Answers without a score, and thoughts that were not judged."""
    for state, n in half.states.items():
        if state != "scored":
            console.print(f"  {plural(n, 'answer')}: {state}")
    if half.thoughts:
        held = plural(half.thoughts, "answer")
        console.print(f"  {held}: a thought was left out")


def show_pair(pair: PairAgreement) -> None:
    """A table of figures for two columns of scores, and rows on which they disagree."""
    a, b = pair.columns
    rows = [(shown, _figure(getattr(pair, name))) for name, shown in _FIGURES.items()]
    print_table(("figure", "value [95%]"), rows, title=f"{a} and {b}")
    console.print(f"{plural(pair.n, 'row')}; {pair.without_both_scores} without both scores")
    _show_rows(pair.disagreements[:5], [a, b])


def _figure(found: Figure) -> str:
    """An estimate with its interval, or the reason why it is undefined."""
    return estimated(found, ".3f", missing=f"none: {getattr(found, 'why', '')}")


def _show_rows(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Answers with some of their columns."""
    if not rows:
        return
    shown = []
    for row in rows:
        cells = [_cell(row.get(column)) for column in columns]
        texts = [beginning(row.get(name), _LONGEST) for name in ("question", "answer")]
        shown.append((*cells, *texts))
    print_table((*columns, "question", "answer"), shown)


def _cell(value: object) -> str:
    return decimal(value, ".1f") if isinstance(value, float) else str(value)
