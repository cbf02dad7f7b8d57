"""personavec judges check"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from personavec.cli.groups import ModelOptions, OutputOptions
from personavec.judges.config import CheckConfig, JudgeOptions
from personavec.options import options


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
    from personavec.judges.terminal import show_check
    from personavec.runs import lock_file
    from personavec.traits import load_trait

    spec, _ = load_trait(trait.trait)
    judge.check(spec)
    answers = known_answers.answers(spec, config.half)
    if judge.dry_run:
        judge.show_cost([(spec, answers)], as_json=output.as_json)
        return
    default = Path("checks") / f"{spec.name.replace(' ', '_')}-{judge.judge}.json"
    target = output.file(default)
    with lock_file(target):
        judging = judge.make(model.load, default_model=model.model)
        found = known_answers.run(judging, spec, config.half)
        results.write(target, found)
    record = {**results.dump(found), "out": str(target)}
    output.tell(record, lambda: show_check(found, target))
