"""What `shift` prints for people."""

from __future__ import annotations

from pathlib import Path

from personavec.evaluate.shift.conclusion import conclusion
from personavec.evaluate.shift.config import ShiftInputs
from personavec.evaluate.shift.results import ShiftResults
from personavec.terminal import Ending, Next, print_table
from personavec.traits import bundled_traits
from personavec.wording import decimal, estimated


def show(results: ShiftResults) -> None:
    """Every trait's shift, and its expression before and after."""
    control = results.control is not None
    rows = []
    for trait, of in results.traits.items():
        beyond = [of.beyond_control.in_sigma] if of.beyond_control else []
        rows.append(
            (
                trait,
                str(of.layer),
                *(estimated(each, two_lines=True) for each in (of.in_sigma, of.projected)),
                decimal(of.random_largest),
                *(estimated(each, two_lines=True) for each in (*beyond, *of.expressed)),
            )
        )
    scored = any(of.expression_base.log_odds is None for of in results.traits.values())
    headers = (
        *("trait", "layer", "shift, σ", "shift, projection", "largest of random, projection"),
        *(("beyond control, σ",) if control else ()),
        *(f"{'score' if scored else 'log-odds, nats'}: base", "tuned", "tuned minus base"),
    )
    print_table(headers, rows)


def ending(results: ShiftResults, inputs: ShiftInputs, out: Path | None, base: str) -> Ending:
    """The last lines; `out` is the folder that was named, `base` the model before finetuning."""
    known = [*inputs.trait, *(name for name in results.traits if name in bundled_traits())]
    asked = [word for each in known for word in ("--trait", each)]
    compared = ("evaluate", *asked, "--model", results.tuned, "--compare-to", base)
    return Ending(
        conclusion=conclusion(results),
        written=out / "report.html" if out else None,
        next=Next("measure the traits in more answers, and what is still known", compared),
    )
