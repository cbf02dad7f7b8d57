"""The tables of docs/results.md on finetuning: mitigations, and what data say before training."""

from __future__ import annotations

from collections.abc import Sequence

from results_tables import Record, log_odds, pm, table

#: Numbers that a correlation of finetunes is shown for: what is said, and of what.
_SHOWN = (
    ("shift", "expression"),
    ("projection_difference", "shift"),
    ("projection_difference", "expression"),
    ("projection", "expression"),
    ("judge", "expression"),
    ("length", "expression"),
)


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

PREDICTION = """How it reads. The projection difference of the rows, known before training, predicts
expression after it better than raw projection, judge or length do, over own and other traits; the
judge's mean does as well within one trait, but not across traits, whose scales differ. The shift
along the vector follows expression within evil, optimistic and impolite, less so within apathetic
and across traits. Twelve finetunes of a small model, with rows that it wrote itself: intervals
resample datasets, and three levels of one trait are not independent.
"""

PARTS = """How it reads. For all three traits expression falls from the high part over the random
one to the low one; for optimistic, which the base shows already, high and random are within each
other's intervals. For evil and apathetic even the low part leaves more of the trait than the base
has. Of the rows that the judge does not flag, the high part of evil still raises the trait by two
nats, where the random part does not; for apathetic little is left that does, and for optimistic too
few rows are left to tell.
"""


def finetuning(
    compared: Sequence[Record], predicted: Record | None, parts: Sequence[Record]
) -> str:
    """All of the section; what was not run is named as not measured."""
    text = "## Finetuning\n\n`make finetuning` runs all of this section.\n"
    pages = [text, _mitigations(compared), MITIGATIONS if compared else ""]
    pages += [_prediction(predicted), PREDICTION if predicted else ""]
    pages += [_parts(parts), PARTS if parts else ""]
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


def _prediction(results: Record | None) -> str:
    text = (
        "### What data say before training\n\n"
        "`python scripts/predict.py`: Pearson's r over finetunes, with 95% intervals from "
        "resampling datasets. Before training: the rows' means of the projection difference, the "
        "raw projection, the judge's log-odds and the length. After it: the shift, and trait "
        "expression in log-odds beyond the base's. *Own*: the trait that a dataset was made to "
        "induce; *other*: all others.\n"
    )
    if results is None:
        return f"{text}\nNot measured.\n"
    by = {(c["over"], c["of"], c["with"]): c for c in results["correlations"]}
    groups = list(dict.fromkeys(c["over"] for c in results["correlations"]))
    rows = [
        [f"{of.replace('_', ' ')} with {what}", *(_r(by[group, of, what]) for group in groups)]
        for of, what in _SHOWN
    ]
    names = ", ".join(f"{d['name']} ({d['rows']})" for d in results["datasets"])
    head = [
        "r of",
        *(f"{group} traits" if group in ("own", "other") else group for group in groups),
    ]
    return f"{text}\n{table(head, rows)}\nFinetunes (rows): {names}.\n"


def _r(found: Record) -> str:
    if found["r"] is None:
        return "not measured"
    return f"{found['r']:.2f} ({found['low']:.2f} to {found['high']:.2f}), n {found['n']}"


def _parts(found: Sequence[Record]) -> str:
    text = (
        "### High, random and low part of a mixed set\n\n"
        "`python scripts/predict.py --parts MIXED.jsonl --trait TRAIT`: finetunes on the rows of "
        "highest, of random and of lowest projection difference, from all rows of the trait's "
        "three levels, and from those whose log-odds by the judge are below 0. Expression "
        "afterwards in log-odds.\n"
    )
    if not found:
        return f"{text}\nNot measured.\n"
    rows = [
        [
            results["trait"],
            each["rows"],
            each["part"],
            str(each["n"]),
            f"{each['projection_difference']:.2f}",
            log_odds(each["expression"]),
        ]
        for results in found
        for each in [*_base(results), *results["parts"]]
    ]
    head = ["trait", "of", "part", "rows", "projection difference", "expression"]
    notes = "".join(f"\n{each['trait']}: {note}\n" for each in found for note in each["notes"])
    return f"{text}\n{table(head, rows)}{notes}"


def _base(results: Record) -> list[Record]:
    nothing = {"rows": "–", "part": "base, not finetuned", "n": 0}
    return [{**nothing, "projection_difference": 0.0, "expression": results["base"]}]
