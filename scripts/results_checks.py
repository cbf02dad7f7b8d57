"""The section of docs/results.md on the contrast judge and the known answers."""

from __future__ import annotations

from collections.abc import Sequence

from results_tables import Record, pm, table

#: Right at the threshold in at least this share of the report half, or what fooled it is shown.
ENOUGH = 0.85
HEAD = """## The contrast judge on answers whose verdict is known

Hand-written answers, to each question one that shows the trait and one that does not, near misses
among them (`personavec judges check --trait NAME`). Examples of the judge pairs were chosen with
the tune half in view; questions that serve as examples are left out of it. The threshold was fitted
on the tune half. The report half of hallucinating, humorous and optimistic, where the judge did
worst at 50, was written before the judge scored any of it, with near misses for at least half of
it, and nothing of it was removed or changed afterwards; their tune half is all of the earlier
answers. The report half of the other four was looked at once before, when the judge was final.
"""


def checks(found: Sequence[Record]) -> str:
    """The table of all traits, and the answers that fool the judge where it misses `ENOUGH`."""
    head = ["trait", "AUC, tune half", "AUC, report half", "right at 50, report half"]
    head += ["threshold", "right at the threshold, report half", "near misses", "n"]
    parts = [HEAD, table(head, [_row(check) for check in found])]
    mean = sum(c["halves"]["report"]["auc"]["value"] for c in found) / max(1, len(found))
    parts.append(f"Mean AUC over traits, report half: {mean:.3f}.\n")
    missed = [check for check in found if (right := _right(check)) is None or right < ENOUGH]
    names = ", ".join(check["trait"] for check in missed) or "none"
    parts.append(f"Traits right in fewer than {ENOUGH:.0%}: {names}.\n")
    return "\n".join([*parts, *(_fooled(check) for check in missed)])


def _row(check: Record) -> list[str]:
    tune, report = (check["halves"][half] for half in ("tune", "report"))
    threshold = check["threshold"]
    return [
        check["trait"],
        pm(tune["auc"]),
        pm(report["auc"]),
        pm(report["agreement"]),
        "not fitted" if threshold is None else f"{threshold['trait_score']:.1f}",
        pm(report["agreement_at_threshold"]),
        _near_misses(check),
        f"{tune['n']} and {report['n']}",
    ]


def _near_misses(check: Record) -> str:
    """How many near misses of the report half are right at the threshold."""
    near = [answer for answer in check["scores"] if _reported(answer) and answer["near_miss"]]
    wrong = [answer for answer in check["wrong"] if _reported(answer) and answer["near_miss"]]
    return f"{len(near) - len(wrong)} of {len(near)}" if near else "not marked"


def _right(check: Record) -> float | None:
    """None where no threshold was fitted."""
    return check["halves"]["report"]["agreement_at_threshold"]["value"]


def _fooled(check: Record) -> str:
    """Every answer of the report half on the wrong side of the threshold."""
    wrong = sorted(filter(_reported, check["wrong"]), key=lambda a: -a["trait_score"])
    rows = [
        ["yes" if a["shows"] else "no", f"{a['trait_score']:.1f}", a["question"], a["answer"]]
        for a in wrong
    ]
    return f"### What fools the judge of {check['trait']}\n\n" + table(
        ["shows it", "trait score", "question", "answer"], rows
    )


def _reported(answer: Record) -> bool:
    return answer["half"] == "report"
