"""The nine statements of the paper: what they claim, and when they count as replicated.

Rules and lines were fixed before the first run, all but one; `docs/replication.md` lists them. Each
verdict is a pure function of the stages' results. A statement rests on several figures, mostly one
for each trait, and each is decided by itself:

- *replicates*: its 95% interval lies beyond the null, in the claimed direction;
- *does not replicate*: the interval leaves no room for an effect that counts;
- *not decided*: the interval is too wide to say either.

The statement takes the outcome that more than half of its figures have, and else is not decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from personavec.studies.replicate import deciding
from personavec.studies.replicate.deciding import Found
from personavec.studies.replicate.results import Evidence, Outcome, Statement
from personavec.wording import estimated, plural


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, and how it is decided."""

    title: str
    claim: str
    source: str
    rule: str
    unit: str
    """What our figures are, in words."""
    figures: Callable[[Found], list[Evidence]]
    papers: str | None = None
    """What the paper gives in the same unit, for Qwen2.5-7B-Instruct and Llama-3.1-8B-Instruct."""


CLAIMS = (
    Claim(
        "Extraction",
        "Steering with a trait's vector makes answers show the trait; the stronger, the more.",
        "section 3.2",
        "At the upper end of the coherent range the interval of the answers' log-odds lies above "
        "that of the unsteered answers and above every random direction's mean. It does not "
        "replicate where it lies below the unsteered mean or the strongest random direction's.",
        "log-odds at the upper end of the coherent range",
        deciding.extraction,
    ),
    Claim(
        "Monitoring",
        "The projection of the last prompt token foretells how strongly the answer will show the "
        "trait.",
        "section 3.3",
        "The interval of r over all conditions lies above 0. It does not replicate where it lies "
        f"below {deciding.WEAK:g}.",
        "r over system prompts and examples",
        deciding.monitoring,
        papers="0.75 to 0.83",
    ),
    Claim(
        "What finetuning does",
        "Finetuning on narrow mistakes, such as wrong maths, makes traits grow that nobody taught.",
        "section 4.1",
        "For a set of narrow flaws, the interval of at least one harmful trait's expression "
        "after training on flawed answers, minus that after right ones, lies above what a second "
        "seed of the right answers changes. It does not replicate where no trait's interval "
        "reaches that.",
        "largest growth of an untaught trait, flawed minus right answers",
        deciding.narrow_flaws,
    ),
    Claim(
        "Shift and expression",
        "How far finetuning shifts a model along a vector goes with how much more of the trait "
        "it shows.",
        "section 4.2",
        "The interval of r over finetunes lies above 0, and r is above that of the shift along "
        f"other traits. It does not replicate where the interval lies below {deciding.WEAK:g}.",
        "r of shift and change of expression over finetunes",
        deciding.shift_and_expression,
        papers="0.76 to 0.97",
    ),
    Claim(
        "Mitigation",
        "Steering toward a trait in training keeps it from growing, and costs less capability "
        "than steering against it afterwards.",
        "sections 5.1 and 5.2",
        "At some coefficient of preventative steering, expression lies below the plain finetune's "
        "with its whole interval and below the random direction's mean, while the data are learnt "
        "and capability is kept. It does not replicate where plain training raises the trait "
        "and no coefficient's interval lies below the plain finetune's.",
        "best preventative coefficient, minus the plain finetune",
        deciding.mitigation,
    ),
    Claim(
        "Forecast from the data",
        "The projection difference of a dataset foretells, before training, how training on it "
        "changes the trait.",
        "section 6.1",
        "The interval of r over datasets lies above 0, and r is above the mean of random "
        "directions. It does not replicate where the interval lies below "
        f"{deciding.WEAK:g}.",
        "r of projection difference and change of expression over datasets",
        deciding.forecast,
    ),
    Claim(
        "Rows",
        "Single rows that show a trait are told from others by their projection difference.",
        "section 6.2",
        "The interval of the AUC of strong rows against right answers lies above 0.5, and the AUC "
        "above every random direction's, whichever way that points. It does not replicate where "
        f"the interval lies below {deciding.FAINT:g}.",
        "AUC of rows that show the trait",
        deciding.rows,
    ),
    Claim(
        "Real conversations",
        "Of real conversations, those of high projection difference move the trait up, random "
        "ones less, those of low projection difference down; also after a judge's filter.",
        "section 6.3",
        "Expression is highest after the high part, then random, then low, and the interval of "
        "high minus low lies above 0. It does not replicate where that interval lies below what a "
        "second seed changes.",
        "expression after the high part minus that after the low part",
        deciding.real,
    ),
    Claim(
        "Why it works",
        "Personas persist over many tokens: what was expressed lately foretells what follows.",
        "discussion",
        f"Across a gap of {deciding.GAP} tokens, within system prompts and places in the answer, "
        "the interval of r lies above 0, and r above every random direction's and topic's. It does "
        f"not replicate where the interval lies below {deciding.WEAK:g}.",
        f"r of projection and expression {deciding.GAP} tokens later",
        deciding.persistence,
    ),
)


def decide(found: Found) -> tuple[Statement, ...]:
    """Every statement with its verdict, in the paper's order."""
    return tuple(_decided(number, claim, found) for number, claim in enumerate(CLAIMS, start=1))


def _decided(number: int, claim: Claim, found: Found) -> Statement:
    figures = claim.figures(found)
    outcome = majority([figure.outcome for figure in figures])
    return Statement(
        number=number,
        title=claim.title,
        claim=claim.claim,
        source=claim.source,
        papers=claim.papers,
        rule=claim.rule,
        outcome=outcome,
        ours=_words(claim, figures),
        evidence=tuple(figures),
    )


def majority(outcomes: Sequence[Outcome]) -> Outcome:
    """What more than half of the figures say; those that were not measured do not count."""
    known = [outcome for outcome in outcomes if outcome != "not run"]
    if not known:
        return "not run"
    for outcome in ("replicates", "does not replicate"):
        if 2 * known.count(outcome) > len(known):
            return outcome
    return "not decided"


def _words(claim: Claim, figures: Sequence[Evidence]) -> str:
    """Our figure, one after another."""
    known = [figure for figure in figures if figure.outcome != "not run"]
    if not known:
        return "not measured"
    held = sum(figure.outcome == "replicates" for figure in known)
    each = "; ".join(f"{figure.of} {estimated(figure.ours)}" for figure in known)
    return f"{held} of {plural(len(known), 'figure')} ({claim.unit}: {each})"


def rules_table() -> str:
    """The statements and their rules as `docs/replication.md` has them."""
    rows = [
        f"| {number} | {claim.title}: {claim.claim} | {claim.source} | {claim.rule} |"
        for number, claim in enumerate(CLAIMS, start=1)
    ]
    head = ["| | statement | paper | rule |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])
