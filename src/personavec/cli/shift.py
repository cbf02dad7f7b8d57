"""personavec shift"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from personavec.cli.groups import OutputOptions, ReportOptions
from personavec.errors import DataError
from personavec.evaluate.shift.config import ShiftConfig, ShiftInputs
from personavec.judges.config import PlainJudgeOptions
from personavec.report.config import FigureOptions
from personavec.terminal import log, log_notes

if TYPE_CHECKING:
    from personavec.evaluate.shift import ShiftResults

#: Exit code when a condition was met.
CONDITION_MET = 3


def command(
    base: str,
    tuned: str,
    /,
    *,
    inputs: ShiftInputs = ShiftInputs(),
    config: ShiftConfig = ShiftConfig(),
    judge: PlainJudgeOptions = PlainJudgeOptions(),
    output: OutputOptions = OutputOptions(),
    report: ReportOptions = ReportOptions(),
    figures: FigureOptions = FigureOptions(),
) -> None:
    """Measure how far a finetune moved a model along each trait, in activations and answers.

    Example: `personavec shift smollm2 out/finetune/model --vectors evil --fail-if 'evil>3sigma'`

    An adapter is applied to BASE, not loaded with a base of its own. Conditions in sigma and norm
    read the shift, those in log_odds and score the tuned model's answers. Exit code 3: one is met;
    1: one could not be measured.

    Parameters
    ----------
    base
        The model before finetuning.
    tuned
        The model after it: a folder, an adapter's folder, an id.
    """
    from personavec.evaluate.shift import paper_plots, parse_conditions, run
    from personavec.evaluate.shift.terminal import ending, show
    from personavec.vectors import bundled_vectors, check_layer, load_vector, specs_of

    folder = output.folder_or_temporary()
    vectors = [load_vector(name) for name in inputs.vectors or bundled_vectors()]
    check_layer(config.layer, vectors)
    conditions = parse_conditions(inputs.fail_if, [v.trait for v in vectors], judge.judge)
    specs = specs_of(vectors, inputs.trait)
    for spec in specs:
        judge.check(spec)
    loaded = inputs.load(base)
    judging = judge.make_unless_default(inputs.load, lambda: loaded)
    with folder as out:
        results = run(
            loaded,
            tuned,
            vectors,
            specs,
            out,
            config,
            control=inputs.control,
            fail_if=conditions,
            judge=judging,
        )
    figures.save(paper_plots, results)
    log_notes(results.notes)
    end = ending(results, inputs, output.out, base)
    report.end(output, results.summary(), lambda: show(results), end)
    _check(results)


def _check(results: ShiftResults) -> None:
    """Exit with 3 where a condition is met. Raises DataError where one could not be measured."""
    for met in results.met:
        log(f"condition met: {met.reason}")
    if results.met:
        for why in results.unmeasured:
            log(f"warning: {why}")
        sys.exit(CONDITION_MET)
    if results.unmeasured:
        raise DataError("; ".join(results.unmeasured))
