"""personavec evaluate"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache as keep_loaded
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Column, Table

from personavec.cli import options as shared
from personavec.cli.groups import EngineOptions, JudgeOptions, ModelOptions, OutputOptions
from personavec.data.terminal import show_reading
from personavec.errors import DataError, UsageError
from personavec.evaluate.config import ANSWERS, EvaluateConfig
from personavec.options import LayerOrAll, Numbers, options, panel
from personavec.results import dump
from personavec.terminal import console, log, print_json
from personavec.wording import estimated, plural

if TYPE_CHECKING:
    from personavec.evaluate import EvaluateResults, SteeredBy, Subject
    from personavec.judges import Judge
    from personavec.model import LoadedModel
    from personavec.rollouts import Expression, ExpressionDifference
    from personavec.traits import TraitSpec

STEERING = panel("Steering")


@options()
@dataclass(frozen=True)
class EvaluateInputs:
    """What is evaluated, steered by what, against what."""

    trait: tuple[str, ...]
    """A bundled trait or a spec file; repeatable."""
    vectors: tuple[str, ...] = ()
    """Steer with this vector; repeatable."""
    coefficient: Numbers | None = None
    """One for all vectors or one each, e.g. 2,-1."""
    layer: Annotated[LayerOrAll, STEERING] = None
    """A layer or 'all'; default: each vector's selected layer."""
    cap: Annotated[float | None, STEERING] = None
    """Cap the projection at this percentile of ordinary tokens, e.g. 99."""
    compare_to: str | None = None
    """Another model, or the same one for itself unsteered: paired differences."""
    cue: Annotated[Path | None, ANSWERS] = None
    """Training rows; their system prompts or opening turns are put before the questions."""

    def steered_by(self) -> tuple[SteeredBy, ...]:
        """The vectors with their coefficients. Raises UsageError."""
        from personavec.evaluate import SteeredBy
        from personavec.vectors import load_vector

        given = (self.coefficient, self.layer, self.cap)
        if not self.vectors:
            if any(each is not None for each in given):
                raise UsageError(
                    "--coefficient, --layer and --cap need --vectors, which name what to add"
                )
            return ()
        coefficients = self.coefficient or (() if self.cap is None else (0.0,))
        if not coefficients:
            raise UsageError(
                "--vectors needs --coefficient: how much of each vector to add, or --cap"
            )
        if len(coefficients) not in (1, len(self.vectors)):
            raise UsageError(
                f"--coefficient gives {len(coefficients)} numbers for {len(self.vectors)} "
                "--vectors; give one for all, or one each"
            )
        vectors = [load_vector(name) for name in self.vectors]
        shared.check_layer(self.layer, vectors)
        each = coefficients * len(vectors) if len(coefficients) == 1 else coefficients
        return tuple(
            SteeredBy(v, c, self.layer, self.cap) for v, c in zip(vectors, each, strict=True)
        )


def command(
    *,
    inputs: EvaluateInputs,
    config: EvaluateConfig = EvaluateConfig(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    judge: JudgeOptions = JudgeOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Measure how strongly a model shows traits: as it is, finetuned, or steered.

    Example: `personavec evaluate --trait evil --vectors evil --coefficient 3 --compare-to smollm2`

    With --out a report is written, and a killed run continues with the same command. Unless
    --judge and --judge-model say otherwise, the model compared to or a base model judges.
    --dry-run counts every response as if it were as long as it may become.
    """
    from personavec.evaluate import Subject, read_cues, run
    from personavec.traits import load_trait

    specs = [load_trait(name)[0] for name in inputs.trait]
    for spec in specs:
        judge.check(spec)
    if judge.dry_run:
        _estimate(specs, inputs, config, judge, output)
        return
    folder = output.folder_or_temporary()
    steered_by = inputs.steered_by()
    cues = read_cues(inputs.cue) if inputs.cue else None
    load = keep_loaded(model.load)
    running = keep_loaded(lambda name: engine.start(load(name), config.batch_tokens))
    subject = Subject(load(model.model), steered_by, running(model.model))
    other = None
    if inputs.compare_to:
        other = Subject(load(inputs.compare_to), engine=running(inputs.compare_to))
    judging = _judge(judge, load, subject, other)
    with folder as out:
        results = run(subject, specs, out, config, compare_to=other, cues=cues, judge=judging)
    report = output.out / "report.html" if output.out else None
    for note in results.notes:
        log(f"note: {note}")
    if output.as_json:
        found = {key: of for key, of in dump(results).items() if key != "transcripts"}
        print_json({**found, "report": str(report) if report else None})
    else:
        _print(results, report)
    _check(results)


def _estimate(
    specs: list[TraitSpec],
    inputs: EvaluateInputs,
    config: EvaluateConfig,
    judge: JudgeOptions,
    output: OutputOptions,
) -> None:
    """Print what an endpoint would be asked."""
    from personavec.evaluate import questions_to_judge

    repeats = (2 if inputs.compare_to else 1) * (2 if inputs.cue else 1)
    asked = [questions_to_judge(spec, config, repeats=repeats) for spec in specs]
    coming = [shared.responses_to_come(questions, config.max_tokens) for questions in asked]
    expected = shared.estimate(judge, list(zip(specs, coming, strict=True)))
    shared.print_estimate(expected, judge.api_price, output.as_json)


def _judge(
    judge: JudgeOptions,
    load: Callable[[str], LoadedModel],
    subject: Subject,
    other: Subject | None,
) -> Judge | None:
    """The judge that the options name; None for the default one."""
    from personavec.evaluate import judging_model

    if judge.judge == "contrast" and not judge.judge_model:
        return None
    # A contrast judge on a model that is named reads texts, whoever wrote them.
    nearest = judging_model(subject, other) if judge.judge == "rubric" else None
    return judge.make(load, subject=nearest)


def _check(found: EvaluateResults) -> None:
    """Raise DataError for traits of which nothing was measured, alone or against another model."""
    missing = [
        f"none of {plural(of.of, 'answer')}{whose} could be scored for {name} "
        f"({', '.join(f'{n} {state}' for state, n in of.states.items())})"
        for whose, traits in _groups(found, "", " of the other model", " with cues")
        for name, of in traits.items()
        if not of.n
    ]
    if found.compare_to:
        missing += [
            f"no question has a score on both sides for {name}"
            for name, of in found.compare_to.differences.items()
            if not of.questions
        ]
    if missing:
        raise DataError("; ".join(missing))


def _groups(
    found: EvaluateResults, model: str, other: str, cues: str
) -> list[tuple[str, Mapping[str, Expression]]]:
    """Everyone's traits, with what each is called."""
    groups: list[tuple[str, Mapping[str, Expression]]] = [(model, found.traits)]
    if found.compare_to:
        groups.append((other, found.compare_to.traits))
    if found.cue:
        groups.append((f"{model}{cues}", found.cue.traits))
        if found.cue.compare_to:
            groups.append((f"{other}{cues}", found.cue.compare_to.traits))
    return groups


# For people


def _print(found: EvaluateResults, report: Path | None) -> None:
    from personavec.evaluate import described

    show_reading(found.data)
    console.print(f"model: {described(found)}", highlight=False, markup=False)
    if found.compare_to:
        console.print(f"other: {described(found.compare_to)}", highlight=False, markup=False)
    if cue := found.cue:
        console.print(
            f"cues: {plural(cue.system_prompts, 'distinct system prompt')} and "
            f"{plural(cue.opening_turns, 'distinct opening')} in "
            f"{plural(cue.rows, 'row')} ({cue.rejected} unusable), {cue.used} used",
            highlight=False,
        )
    _print_traits(found)
    if found.compare_to:
        _print_differences(found.compare_to.differences, "model minus other")
    if found.cue:
        _print_differences(found.cue.differences, "model with cues minus without")
        if both := found.cue.compare_to:
            _print_differences(both.differences, "model minus other, both with cues")
    if found.capability:
        _print_capability(found)
    where = f"; report: {report}" if report else "; --out FOLDER writes a report"
    console.print(f"{found.seconds:.0f} s{where}", highlight=False)


def _print_traits(found: EvaluateResults) -> None:
    table = Table(
        Column("trait", no_wrap=True),
        *("", "score", "above 50", "log-odds"),
        Column("coherence", no_wrap=True),
        *("refused", "n"),
    )
    for name in found.traits:
        for who, traits in _groups(found, "model", "other", ", cues"):
            of = traits[name]
            table.add_row(
                name,
                who,
                estimated(of.estimate("mean"), ".1f", two_lines=True),
                estimated(of.estimate("share_above_50"), ".0%", two_lines=True),
                estimated(of.estimate("log_odds"), ".1f", two_lines=True),
                estimated(of.estimate("coherence"), ".1f", two_lines=True),
                "–" if of.refusals is None else str(of.refusals),
                ", ".join([str(of.n), *(f"{n} {state}" for state, n in of.lost.items())]),
            )
    console.print(table)


def _print_differences(differences: Mapping[str, ExpressionDifference], title: str) -> None:
    table = Table(
        *("trait", "score", "log-odds", "questions", "for half the interval"),
        title=title,
        title_justify="left",
    )
    for name, of in differences.items():
        table.add_row(
            name,
            *(estimated(each, ".1f", two_lines=True) for each in (of.mean, of.log_odds)),
            str(of.questions),
            str(of.questions_for_half_width),
        )
    console.print(table)


def _print_capability(found: EvaluateResults) -> None:
    table = Table("task", "", "right", "chance", "items")
    groups = [("model", found.capability)]
    if found.compare_to:
        groups.append(("other", found.compare_to.capability))
    for task in found.capability:
        for who, scores in groups:
            of = scores[task]
            chance = "" if of.chance is None else f"{of.chance:.0%}"
            right = estimated(of.estimate, ".0%", two_lines=True)
            table.add_row(task, who, right, chance, str(of.n))
    console.print(table)
