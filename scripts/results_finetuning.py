"""The tables of docs/results.md on finetuning: mitigations on the same rows."""

from __future__ import annotations

from collections.abc import Sequence

from results_tables import Record, log_odds, pm, table

MITIGATIONS = """How it reads. Preventative steering has the shape that the paper describes:
expression falls with the coefficient while capability stays and perplexity on neutral text rises
about as under plain finetuning, or less; a random direction of equal norm does next to nothing. For
optimistic every coefficient tried brings expression to the base's interval or below. For evil and
apathetic the largest takes it most of the way and not all: at 4 the base is NOT reached, and for
apathetic the held-out loss then ends more than 10% above the plain finetune's. Steering the plain
finetune at inference to the same level costs far more perplexity and held-out loss and, at -4,
capability. `--dose auto` chooses too little: it aims at probes that do not move, and where they do
not, expression is still above the base's; on optimistic its start, the projection difference, is
near zero though training moves the trait. Held-out loss tells little of what was learnt, as these
rows teach hardly more than the trait: the base itself is 8 to 18% above the plain finetune.
Steering all positions, or all layers, brings evil to the base's interval, at a held-out loss that
ends more than 10% above the plain finetune's ([LOG.md](LOG.md)). Where the same rows teach worked
sums as well, the sums are learnt and evil stays in the base's interval (LOG.md, two seeds): what
the loss over all rows pays is the trait itself. Apathetic was not run with 1 and with `auto`.
"""

REPLICATED = """What data say before training, and what training on them then changes:
`personavec replicate`, statements 3 to 8 of [replication.md](replication.md).
"""


def finetuning(compared: Sequence[Record]) -> str:
    """All of the section; what was not run is named as not measured."""
    text = "## Finetuning\n\n`make finetuning` runs all of this section.\n"
    pages = [text, _mitigations(compared), *([MITIGATIONS] if compared else []), REPLICATED]
    return "\n".join(pages)


def _mitigations(compared: Sequence[Record]) -> str:
    text = (
        "### Mitigations on the same rows\n\n"
        "`personavec compare-mitigations sets/TRAIT/strong.jsonl --trait TRAIT`: rows that "
        "`personavec elicit` made, LoRA of rank 16, learning rate 1e-3, 3 epochs. Expression is in "
        "log-odds of the answers to held-out questions, plainly and behind the training data's own "
        "cues. *Within base*: at or below the upper limit of the base's interval. *Learnt*: "
        "held-out loss at most 10% above the plain finetune's. *Capable*: the packaged task at "
        "most one standard error below the plain finetune. Intervals are 95%, over questions, "
        "items or texts, all seeds together; `random` is preventative steering along a random "
        "direction of equal norm, `steering` the plain finetune steered at inference.\n"
    )
    if not compared:
        return f"{text}\nNot measured.\n"
    return "\n".join([text, *map(_compared, compared)])


def _compared(results: Record) -> str:
    head = ["arm", "expression", "by seed", "under cues", "capability", "perplexity, of base's"]
    head += ["held-out loss, of plain's", "shift, sigma", "within base", "learnt", "capable"]
    rows = []
    for name, arm in results["arms"].items():
        shown = arm["expression"]
        rows.append(
            [
                name,
                log_odds(shown),
                ", ".join("–" if v is None else f"{v:.1f}" for v in arm["by_seed"]),
                log_odds(arm["expression_under_cues"]),
                pm(arm["capability"]),
                pm(arm["perplexity_ratio"]),
                pm(arm["loss_ratio"]),
                pm(arm["shift"]),
                *(_verdict(arm[key]) for key in ("within_base", "learnt", "capable")),
            ]
        )
    return (
        f"**{results['trait']['name']}**, {results['rows']['trained_on']} rows to train on, "
        f"{results['rows']['held_out']} held out, {len(results['seeds'])} seeds.\n\n"
        f"{table(head, rows)}"
        f"{_dose(results)}"
    )


def _dose(results: Record) -> str:
    """What `--dose auto` chose, if it was among the arms."""
    found = results["arms"].get("preventative auto")
    if found is None:
        return ""
    chosen = ", ".join(f"{c:.2f}" for c in found["coefficients"])
    why = (found["dose"] or {}).get("why", "")
    return f"\n`--dose auto` chose {chosen}, a seed each; of the first: {why}.\n"


def _verdict(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "NO"
