"""What `replicate` prints for people."""

from __future__ import annotations

from collections.abc import Callable

from personavec.model import LoadedModel
from personavec.studies.replicate.config import ReplicateInputs
from personavec.studies.replicate.dry_run import Plan, Rate, measured_rate, planned
from personavec.studies.replicate.pipeline import Selection
from personavec.studies.replicate.report import headline
from personavec.studies.replicate.results import ReplicateResults
from personavec.studies.replicate.stages import STAGES
from personavec.studies.replicate.study import Inputs
from personavec.terminal import Ending, console, log_notes, print_table
from personavec.wording import estimated


def show(results: ReplicateResults) -> None:
    """What could not be done, and a table of the nine statements."""
    log_notes(results.not_done)
    rows = [
        (
            f"{each.number}. {each.title}",
            each.outcome,
            "\n".join(f"{own.of}: {estimated(own.ours)}" for own in each.evidence) or "–",
        )
        for each in results.statements
    ]
    print_table(("statement", "verdict", "our figures"), rows)


def ending(results: ReplicateResults) -> Ending:
    """The last lines."""
    return Ending(conclusion=headline(results.statements), written=results.out / "report.html")


def plan_of(inputs: Inputs, given: ReplicateInputs, load: Callable[[], LoadedModel]) -> Plan:
    """The plan of the stages that were chosen; the model is loaded where no rate is given."""
    if given.rate is None:
        rate = measured_rate(load())
    else:
        rate = Rate(generated=given.rate, read=given.rate)
    stages = [stage for stage in STAGES if Selection(given.only, given.skip).wants(stage.name)]
    return planned(stages, inputs, rate, given.price_per_hour)


def show_plan(plan: Plan) -> None:
    """A table by stage, and the whole."""
    rows = []
    for own in plan.stages:
        cells = (own.generated, own.read, own.trained)
        time = _time(own.seconds) if own.why_not is None else "not run"
        rows.append((own.title, *(f"{n:,}".replace(",", " ") for n in cells), time))
    print_table(("stage", "generated", "read", "trained", "time"), rows)
    for own in plan.stages:
        if own.why_not:
            console.print(f"{own.title}: not run: {own.why_not}")
    forwards = f"{plan.forwards / 1e6:.1f} million token-forwards"
    bill = "" if plan.price is None else f", a bill of {plan.price:.2f}"
    console.print(f"{plan.scale}: {forwards}, {_time(plan.seconds)}{bill}")
    console.print(
        f"at {plan.rate.read:.0f} tokens a second read and {plan.rate.generated:.0f} written; "
        "answers count at their longest, a training token counts three times"
    )


def _time(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
