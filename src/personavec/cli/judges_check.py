"""personavec judges check"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from personavec.cli import options as shared
from personavec.cli.groups import JudgeOptions, ModelOptions, OutputOptions
from personavec.cli.judges import figure, print_rows
from personavec.judges.config import CheckConfig
from personavec.options import options
from personavec.terminal import console, log, print_json
from personavec.wording import plural

if TYPE_CHECKING:
    from personavec.judges import CheckResults
    from personavec.judges.results import HalfResults


@options()
@dataclass(frozen=True)
class CheckedTrait:
    trait: str
    """A bundled trait, a spec file, or a name."""


def command(
    *,
    trait: CheckedTrait,
    config: CheckConfig = CheckConfig(),
    model: ModelOptions = ModelOptions(),
    judge: JudgeOptions = JudgeOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Test a judge on the spec's checks, answers whose verdict is known.

    Example: `personavec judges check --trait evil --half tune`

    Choose and tune with the tune half; look at the report half once, at the end. With both, a
    calibration is fitted on the tune half and tested on the report half. The judging model is
    --judge-model, else --model.
    """
    from personavec import results
    from personavec.judges import known_answers
    from personavec.runs import lock_file
    from personavec.traits import load_trait

    spec, _ = load_trait(trait.trait)
    judge.check(spec)
    answers = known_answers.answers(spec, config.half)
    if judge.dry_run:
        estimate = shared.estimate(judge, [(spec, answers)])
        shared.print_estimate(estimate, judge.api_price, output.as_json)
        return
    default = Path("checks") / f"{spec.name.replace(' ', '_')}-{judge.judge}.json"
    target = output.file(default)
    with lock_file(target):
        judging = judge.make(model.load, default_model=model.model)
        found = known_answers.run(judging, spec, config.half)
        results.write(target, found)
    if output.as_json:
        print_json({**results.dump(found), "out": str(target)})
    else:
        _print(found, target)


def _print(found: CheckResults, target: Path) -> None:
    table = Table("half", "scored", "AUC [95%]", "agreement at 50 [95%]")
    for name, half in found.halves.items():
        scored = f"{half.states.get('scored', 0)} of {half.n}"
        table.add_row(name, scored, figure(half.auc), figure(half.agreement))
    after = getattr(found.calibration, "after", None)
    if after is not None:
        table.add_row("report, calibrated", "", "as before", figure(after.agreement))
    console.print(table)
    for half in found.halves.values():
        _print_left_out(half)
    if found.in_examples:
        console.print(
            f"  {plural(found.in_examples, 'answer')} left out: "
            "the judge pairs' examples hold them",
            highlight=False,
        )
    console.print(f"{len(found.wrong)} on the wrong side of 50:", highlight=False)
    print_rows([vars(answer) for answer in found.wrong[:20]], ["shows", "trait_score"])
    for note in found.notes:
        log(f"note: {note}")
    console.print(f"written to {target}", highlight=False)


def _print_left_out(half: HalfResults) -> None:
    """Answers without a score, and thoughts that were not judged."""
    for state, n in half.states.items():
        if state != "scored":
            console.print(f"  {plural(n, 'answer')}: {state}", markup=False)
    if half.thoughts:
        held = plural(half.thoughts, "answer")
        console.print(f"  {held}: a thought was left out", markup=False)
