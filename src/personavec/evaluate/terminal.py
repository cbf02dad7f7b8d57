"""What `evaluate` prints for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from personavec.data.terminal import show_reading
from personavec.evaluate.conclusion import conclusion
from personavec.evaluate.config import EvaluateInputs
from personavec.evaluate.report import described
from personavec.evaluate.results import CueResults, EvaluateResults
from personavec.rollouts import ExpressionDifference
from personavec.terminal import Ending, Next, console, print_table
from personavec.vectors import bundled_vectors
from personavec.wording import estimated, plural


def show(found: EvaluateResults) -> None:
    """Traits, differences and capability."""
    show_reading(found.data)
    console.print(f"model: {described(found)}")
    if found.compare_to:
        console.print(f"other: {described(found.compare_to)}")
    if found.cue:
        _show_cues(found.cue)
    _show_traits(found)
    if found.compare_to:
        _show_differences(found.compare_to.differences, "model minus other")
    if cue := found.cue:
        _show_differences(cue.differences, "model with cues minus without")
        if both := cue.compare_to:
            _show_differences(both.differences, "model minus other, both with cues")
    if found.capability:
        _show_capability(found)


def ending(
    found: EvaluateResults, inputs: EvaluateInputs, report: Path | None, model: Sequence[str]
) -> Ending:
    """The last lines; `report` is kept where a folder was named, `model` are the model's words."""
    return Ending(conclusion=conclusion(found), written=report, next=_next(inputs, report, model))


def _next(inputs: EvaluateInputs, report: Path | None, model: Sequence[str]) -> Next:
    trait = inputs.trait[0]
    if report is None:
        asked = [word for each in inputs.trait for word in ("--trait", each)]
        kept = ("--out", "out/evaluate", *model)
        return Next("keep the answers and a report", ("evaluate", *asked, *kept))
    if inputs.vectors:
        named = ("--vectors", inputs.vectors[0], *model)
        return Next("read steered answers", ("steer", "How was your day?", *named))
    if trait in bundled_vectors() and not model:
        steered = ("--vectors", trait, "--coefficient=-1", "--compare-to", "smollm2")
        to = "see what steering away from the trait changes"
        out = ("--out", f"{report.parent}-steered")
        return Next(to, ("evaluate", "--trait", trait, *steered, *out))
    return Next("make a vector of the trait", ("extract", "--trait", trait, *model))


def _show_cues(cue: CueResults) -> None:
    console.print(
        f"cues: {plural(cue.system_prompts, 'distinct system prompt')} and "
        f"{plural(cue.opening_turns, 'distinct opening')} in "
        f"{plural(cue.rows, 'row')} ({cue.rejected} unusable), {cue.used} used"
    )


def _show_traits(found: EvaluateResults) -> None:
    rows = []
    for name in found.traits:
        for who, traits in found.measured_for("model", "other", ", cues"):
            of = traits[name]
            rows.append(
                (
                    name,
                    who,
                    estimated(of.estimate("mean"), ".1f", two_lines=True),
                    estimated(of.estimate("share_above_50"), ".0%", two_lines=True),
                    estimated(of.estimate("log_odds"), ".1f", two_lines=True),
                    estimated(of.estimate("coherence"), ".1f", two_lines=True),
                    "–" if of.refusals is None else str(of.refusals),
                    ", ".join([str(of.n), *(f"{n} {state}" for state, n in of.lost.items())]),
                )
            )
    headers = ("trait", "of", "score", "above 50", "log-odds, nats", "coherence", "refused", "n")
    print_table(headers, rows)


def _show_differences(differences: Mapping[str, ExpressionDifference], title: str) -> None:
    rows = [
        (
            name,
            *(estimated(each, ".1f", two_lines=True) for each in (of.mean, of.log_odds)),
            str(of.questions),
            str(of.questions_for_half_width),
        )
        for name, of in differences.items()
    ]
    headers = ("trait", "score", "log-odds", "questions", "for half the interval")
    print_table(headers, rows, title=title)


def _show_capability(found: EvaluateResults) -> None:
    rows = []
    groups = [("model", found.capability)]
    if found.compare_to:
        groups.append(("other", found.compare_to.capability))
    for task in found.capability:
        for who, scores in groups:
            of = scores[task]
            chance = "–" if of.chance is None else f"{of.chance:.0%}"
            right = estimated(of.estimate, ".0%", two_lines=True)
            rows.append((task, who, right, chance, str(of.n)))
    print_table(("task", "of", "right", "chance", "items"), rows)
