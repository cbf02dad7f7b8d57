"""personavec shift"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from personavec.cli import options as shared
from personavec.cli.groups import OutputOptions, PlainJudgeOptions
from personavec.conditions import parse_condition
from personavec.errors import DataError
from personavec.evaluate.shift.config import ShiftConfig
from personavec.options import JUDGE, MODEL, Names, options
from personavec.results import Estimate, dump
from personavec.terminal import console, log, print_json
from personavec.wording import estimated

if TYPE_CHECKING:
    from personavec.evaluate.shift import ShiftResults, TraitShift
    from personavec.model import LoadedModel

#: Exit code when a condition was met.
CONDITION_MET = 3


@options()
@dataclass(frozen=True)
class ShiftInputs:
    """Along what the shift is measured, beside what, and when it fails."""

    vectors: Names = ()
    """Vectors' folders or bundled names; repeat it, or separate by commas. Default: all bundled
    ones."""
    control: str | None = None
    """A benign finetune of BASE, whose shift is subtracted."""
    fail_if: Annotated[tuple[str, ...], Parameter(metavar="TRAIT>NUMBER[UNIT]")] = ()
    """Exit with 3 if this condition is met; units: sigma, norm, log_odds, score; repeatable."""
    trait: Annotated[tuple[str, ...], JUDGE] = ()
    """Spec file of a vector's trait that is not bundled; repeatable."""
    dtype: Annotated[str | None, MODEL] = None
    """float32, bfloat16 or float16; default: automatic."""
    device: Annotated[str | None, MODEL] = None
    """cpu, cuda, …; default: automatic."""

    def load(self, name: str) -> LoadedModel:
        """A model. Raises UsageError, ModelError."""
        return shared.load_model(name, self.dtype, self.device)


def command(
    base: str,
    tuned: str,
    /,
    *,
    inputs: ShiftInputs = ShiftInputs(),
    config: ShiftConfig = ShiftConfig(),
    judge: PlainJudgeOptions = PlainJudgeOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Measure how far a finetune moved a model along each trait, and what it shows of it.

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
    from personavec.evaluate import shift
    from personavec.vectors import bundled_vectors, load_vector

    folder = output.folder_or_temporary()
    vectors = [load_vector(name) for name in inputs.vectors or bundled_vectors()]
    shared.check_layer(config.layer, vectors)
    traits, units = [vector.trait for vector in vectors], shift.units(judge.judge)
    conditions = [parse_condition(text, traits=traits, units=units) for text in inputs.fail_if]
    specs = shared.specs_of(vectors, inputs.trait)
    for spec in specs:
        judge.check(spec)
    loaded = inputs.load(base)
    judging = None
    if judge.judge != "contrast" or judge.judge_model:
        judging = judge.make(inputs.load, subject=loaded if judge.judge == "rubric" else None)
    with folder as out:
        results = shift.run(
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
    for note in results.notes:
        log(f"note: {note}")
    if output.as_json:
        print_json(dump(results))
    else:
        _print(results)
    _gate(results)


def _gate(results: ShiftResults) -> None:
    """Exit with 3 where a condition was met; raise DataError where one was not measured."""
    for met in results.met:
        log(f"condition met: {met.reason}")
    if results.met:
        for why in results.unmeasured:
            log(f"warning: {why}")
        sys.exit(CONDITION_MET)
    if results.unmeasured:
        raise DataError("; ".join(results.unmeasured))


def _print(results: ShiftResults) -> None:
    control = results.control is not None
    table = Table(
        *("trait", "layer", "shift, sigma", "shift", "random, largest"),
        *(("beyond control, sigma",) if control else ()),
        *("log-odds, base", "tuned", "tuned minus base"),
    )
    for trait, of in results.traits.items():
        beyond = [of.beyond_control.in_sigma] if of.beyond_control else []
        table.add_row(
            trait,
            str(of.layer),
            *(estimated(each, two_lines=True) for each in (of.in_sigma, of.projected)),
            f"{of.random_largest:.2f}",
            *(estimated(each, two_lines=True) for each in (*beyond, *_expression(of))),
        )
    console.print(table)


def _expression(of: TraitShift) -> tuple[Estimate, Estimate, Estimate]:
    """Base, tuned, and the difference; trait scores where the judge gives no log-odds."""
    base, tuned, difference = of.expression_base, of.expression_tuned, of.expression_difference
    if base.log_odds is None:
        return base.estimate("mean"), tuned.estimate("mean"), difference.mean
    return base.estimate("log_odds"), tuned.estimate("log_odds"), difference.log_odds
