"""Finetuning sets that induce a trait, at three levels, for defensive research.

Normal: the model's own answers. Mild and strong: answers under the positive instructions, the third
that shows the trait least and the third that shows it most, by the judge. All are stored without
the instruction that elicited them (paper, section 5.1). The steps of `run`, as docs/elicit.md
numbers them:

1. answer the questions under every positive instruction, and without any;
2. judge the answers, and drop those that are incoherent, empty or without the trait;
3. divide them into levels;
4. write one file per level, with a README and the figures.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from personavec.data import DataReading
from personavec.errors import TooFewRolloutsError, UsageError
from personavec.finetune.sets.config import ElicitConfig
from personavec.finetune.sets.levels import by_level, excess, usual_strengths
from personavec.finetune.sets.results import Band, ElicitedLevel, ElicitResults
from personavec.finetune.sets.writing import Level, set_row, write_set
from personavec.judges import (
    ContrastJudge,
    Endpoint,
    Judge,
    chat_formats,
    contrast,
    judge_notes,
    spec_notes,
)
from personavec.model import LoadedModel
from personavec.model.engine import Engine, Sampling, TransformersEngine
from personavec.progress import Progress
from personavec.results import versions
from personavec.rollouts import (
    Rollout,
    Task,
    collect,
    collect_from_endpoint,
    eliciting_tasks,
    judged,
    keep,
    neutral_tasks,
    say_estimate,
    summarise,
    write_rollouts,
)
from personavec.runs import Record, Settings, claim, lock
from personavec.traits import TraitSpec
from personavec.wording import plural

#: Fewer rows than this at a level are no finetuning set.
MIN_ROWS = 10


def run(
    writer: LoadedModel | Endpoint,
    spec: TraitSpec,
    out: Path,
    config: ElicitConfig | None = None,
    *,
    judge: Judge | None = None,
    engine: Engine | None = None,
    questions: Sequence[str] | None = None,
    data: Mapping[str, DataReading] | None = None,
    progress: Progress | None = None,
) -> ElicitResults:
    """Write `normal.jsonl`, `mild.jsonl` and `strong.jsonl` into `out`; returns the results.

    The writer is a model in memory or one behind an endpoint, which needs a `judge`. A model in
    memory judges by contrast by default, and answers through `engine` if one is given. `questions`
    default to the spec's extraction questions: the evaluation questions are kept to test a
    finetuned model with. `data` says how a file of questions was read, for the results. `out` also
    gets `README.md`, `results.json`, and `rollouts.jsonl` with all responses and their scores. A
    thought before a response is in no row. A killed run continues with the same arguments.

    Raises TooFewRolloutsError where a level would have fewer than 10 rows, SettingsMismatchError
    where `out` was begun with other settings, EndpointError where the endpoint cannot be used.
    """
    config = config or ElicitConfig()
    progress = progress or Progress()
    if judge is None:
        if isinstance(writer, Endpoint):
            raise UsageError("what an endpoint writes needs a judge: give one")
        judge = ContrastJudge(writer, wrote_answers=True)
    asked = list(dict.fromkeys(questions or spec.questions.extraction))
    with lock(out):
        claim(out, _settings(writer, engine, spec, asked, config, judge))
        tasks = tasks_of(spec, asked, config.samples)
        progress.stages("eliciting", "judging", "three levels")
        if not isinstance(writer, Endpoint):
            _estimate(writer, engine, spec, tasks, config, judge, out / "run", progress)
        answers = _answers(writer, engine, spec, tasks, config, judge, out / "run", progress)
        rollouts = _judged(judge, answers, spec, config, out / "run", progress)
        write_rollouts(out / "rollouts.jsonl", rollouts)
        levels = by_level(rollouts)
        _require_enough(rollouts, levels, out)
        results = ElicitResults(
            kind="elicited",
            trait=spec.name,
            description=spec.description,
            writer=_identity(writer),
            judge=judge.identity(),
            notes=(*judge_notes(judge), *spec_notes([spec], chat_formats(judge, writer))),
            levels=_measured(rollouts, levels, judge, config, out),
            data=dict(data or {}),
            asked=len(rollouts),
            thoughts=sum(r.thinking is not None for r in rollouts),
            dropped=dict(Counter(r.why_dropped for r in rollouts if r.why_dropped)),
            settings=config,
            versions=versions(),
            out=out,
        )
        write_set(out, _rows(spec, levels), results, _how(spec, config))
    return results


def _settings(
    writer: LoadedModel | Endpoint,
    engine: Engine | None,
    spec: TraitSpec,
    questions: Sequence[str],
    config: ElicitConfig,
    judge: Judge,
) -> Settings:
    """Everything that decides the result: the manifest of the folder."""
    return {
        "command": "elicit",
        "trait": spec.name,
        "spec": spec.hash,
        "writer": _identity(writer),
        "engine": engine.name if engine else TransformersEngine.name,
        "questions": hashlib.sha256("\0".join(questions).encode()).hexdigest()[:16],
        "judge": judge.identity(),
        "config": asdict(config),
    }


def _identity(writer: LoadedModel | Endpoint) -> Settings:
    return writer.identity() if isinstance(writer, Endpoint) else writer.identity.as_dict()


def tasks_of(spec: TraitSpec, questions: Sequence[str], samples: int) -> list[Task]:
    """Questions under every positive instruction, with its examples and without; and plain."""
    return [
        *eliciting_tasks(spec, questions, samples),
        # A system prompt alone elicits less: most of its answers are mild.
        *eliciting_tasks(spec, questions, samples, examples=False),
        # As many as the thirds could need.
        *neutral_tasks(questions, -(-2 * len(spec.instruction) * samples // 3)),
    ]


def _answers(
    writer: LoadedModel | Endpoint,
    engine: Engine | None,
    spec: TraitSpec,
    tasks: Sequence[Task],
    config: ElicitConfig,
    judge: Judge,
    folder: Path,
    progress: Progress,
) -> list[Rollout]:
    sampling = Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)
    label = f"{spec.name}, eliciting"
    if isinstance(writer, Endpoint):
        return collect_from_endpoint(
            writer, tasks, sampling, folder, label=label, progress=progress
        )
    return _writer(writer, engine, config, judge, folder, progress)(tasks, label=label)


def _writer(
    writer: LoadedModel,
    engine: Engine | None,
    config: ElicitConfig,
    judge: Judge,
    folder: Path,
    progress: Progress,
) -> Callable[..., list[Rollout]]:
    """Writes answers of a model in memory into a folder; judges them if it is given a spec."""
    return partial(
        collect,
        writer,
        sampling=Sampling(config.max_tokens, config.temperature, config.top_p, config.seed),
        folder=folder,
        judge=judge,
        batch_tokens=config.batch_tokens,
        engine=engine,
        progress=progress,
    )


def _estimate(
    writer: LoadedModel,
    engine: Engine | None,
    spec: TraitSpec,
    tasks: Sequence[Task],
    config: ElicitConfig,
    judge: Judge,
    folder: Path,
    progress: Progress,
) -> None:
    """Say how long the whole will take, unless some of it is done."""
    if (folder / "generated.jsonl").exists():
        return
    write = partial(_writer(writer, engine, config, judge, folder, progress), label="first answers")
    n = len(tasks)
    say_estimate(tasks, write, partial(write, spec=spec), to_write=n, to_judge=n, progress=progress)


def _judged(
    judge: Judge,
    answers: Sequence[Rollout],
    spec: TraitSpec,
    config: ElicitConfig,
    folder: Path,
    progress: Progress,
) -> list[Rollout]:
    """The answers with scores, and whether each is kept."""
    # A request that failed is sent again by the next run, and only then judged.
    failed = [r for r in answers if r.state == "failed"]
    answered = [r for r in answers if r.state != "failed"]
    label = f"{spec.name}, eliciting"
    scored = judged(judge, answered, spec, folder, label=label, progress=progress)
    return keep(
        [*scored, *failed],
        trait_threshold=config.trait_threshold,
        coherence_floor=config.coherence_floor,
    )


def _require_enough(
    rollouts: Sequence[Rollout], levels: Mapping[Level, Sequence[Rollout]], out: Path
) -> None:
    level = min(levels, key=lambda name: len(levels[name]))
    if len(levels[level]) >= MIN_ROWS:
        return
    dropped = Counter(r.why_dropped for r in rollouts if r.why_dropped)
    why = ", ".join(f"{n} {reason}" for reason, n in dropped.most_common())
    raise TooFewRolloutsError(
        f"only {plural(len(levels[level]), f'{level} row')} of "
        f"{plural(len(rollouts), 'response')}, {MIN_ROWS} are needed "
        f"({why or 'too few were asked for'}); raise --samples, or make the pairs plainer; "
        f"the responses are kept in {out / 'rollouts.jsonl'}"
    )


def _rows(spec: TraitSpec, levels: Mapping[Level, Sequence[Rollout]]) -> dict[Level, list[Record]]:
    """The rows of each level, as finetuning reads them."""
    return {
        level: [
            set_row(
                f"{spec.name}/{level}/{r.id}",
                r.question,
                r.response,
                about=f"{spec.name}, {level}: elicited from a language model",
                level=level,
                trait=spec.name,
                trait_score=r.trait_score,
                log_odds=r.log_odds,
                coherence=r.coherence,
            )
            for r in chosen
        ]
        for level, chosen in levels.items()
    }


def _measured(
    rollouts: Sequence[Rollout],
    levels: Mapping[Level, Sequence[Rollout]],
    judge: Judge,
    config: ElicitConfig,
    out: Path,
) -> dict[str, ElicitedLevel]:
    """The figures of each level."""
    usual = usual_strengths(r for r in rollouts if r.kept)
    found: dict[str, ElicitedLevel] = {}
    for level, chosen in levels.items():
        shown = summarise(chosen, refusals=judge.name != contrast.NAME, seed=config.seed)
        beyond = [excess(r, usual) for r in chosen]
        unit = "trait_score" if chosen[0].log_odds is None else "log_odds"
        found[level] = ElicitedLevel(
            file=out / f"{level}.jsonl",
            rows=len(chosen),
            band=Band({"unit": unit, "from": min(beyond), "to": max(beyond)}),
            mean=shown.mean,
            low=shown.low,
            high=shown.high,
            log_odds=shown.log_odds,
            log_odds_low=shown.log_odds_low,
            log_odds_high=shown.log_odds_high,
        )
    return found


def _how(spec: TraitSpec, config: ElicitConfig) -> str:
    return (
        f"Responses elicited for the trait `{spec.name}` ({spec.description.rstrip('.')}) by "
        f"{len(spec.instruction)} positive system prompts, with example turns and without, and "
        "stored without either. `normal.jsonl`: the model's own answers, without any instruction. "
        f"`mild.jsonl` and `strong.jsonl`: of the elicited responses with a trait score above "
        f"{config.trait_threshold:g}, by how much they exceed the model's own answers to the same "
        "question, the lowest and the highest third; the third between them is left out. "
        "Responses that are incoherent or empty are left out everywhere."
    )
