"""What `compare-mitigations` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from personavec.data.terminal import show_reading
from personavec.results import Estimate
from personavec.studies.compare_mitigations.conclusion import conclusion, works
from personavec.studies.compare_mitigations.report import expression
from personavec.studies.compare_mitigations.results import CompareResults
from personavec.terminal import Ending, Next, log_notes, print_table
from personavec.wording import estimated, with_minus


def show(results: CompareResults) -> None:
    """How the rows were read, and a table of arms."""
    show_reading(results.data)
    log_notes(results.notes)
    rows = [
        (
            with_minus(name),
            *(
                "–" if verdict is None else ("yes" if verdict else "no")
                for verdict in (arm.within_base, arm.learnt, arm.capable)
            ),
            _estimate(expression(arm)),
            _estimate(expression(arm, under_cues=True)),
            _estimate(arm.capability, ".0%"),
            _estimate(arm.perplexity),
            _estimate(arm.held_out_loss, ".2f"),
            _estimate(arm.loss_ratio, ".2f"),
        )
        for name, arm in results.arms.items()
    ]
    headers = (
        *("arm", "within base", "learnt", "capable", "expression", "under cues", "capability"),
        *("perplexity", "held-out loss", "loss, of plain's"),
    )
    print_table(headers, rows)


def ending(results: CompareResults, data: str, vector: str, model: Sequence[str]) -> Ending:
    """The last lines; `data`, `vector` and `model` are words of the command."""
    return Ending(
        conclusion=conclusion(results),
        written=Path(results.out) / "report.html",
        next=_next(results, data, vector, model),
    )


def _next(results: CompareResults, data: str, vector: str, model: Sequence[str]) -> Next | None:
    """A finetune as the first arm was trained that works."""
    trained = ("preventative", "caft")
    good = [arm for arm in results.arms.values() if works(arm) and arm.mitigation in trained]
    if not good:
        return None
    how = ["--mitigation", good[0].mitigation, "--vectors", vector]
    if good[0].amount is not None:
        how += ["--dose" if good[0].amount == "auto" else "--coefficient", f"{good[0].amount}"]
    return Next("finetune on all rows with what works", ("finetune", data, *how, *model))


def _estimate(found: Estimate, form: str = ".1f") -> str:
    return estimated(found, form, two_lines=True)
