"""Finetuning sets that induce a trait, at three levels, for defensive research.

Normal: what the model answers when left alone. Mild and strong: what it answers under the positive
instructions, the third of them that shows the trait least and the third that shows it most, by the
judge. All are stored without the instruction that elicited them (paper, section 5.1).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from personavec.errors import TooFewRolloutsError, UsageError
from personavec.finetune.sets.writing import Level, set_row, write_set
from personavec.judges import (
    ContrastJudge,
    Endpoint,
    Judge,
    contrast,
    judge_notes,
    readers,
    spec_notes,
)
from personavec.model import LoadedModel
from personavec.model.engine import Engine, Sampling, TransformersEngine
from personavec.progress import Progress
from personavec.results import dump, versions
from personavec.rollouts import (
    Rollout,
    Task,
    collect,
    collect_from_endpoint,
    eliciting_tasks,
    judged,
    keep,
    neutral_tasks,
    summarise,
    write_rollouts,
)
from personavec.runs import claim, lock
from personavec.traits import TraitSpec
from personavec.wording import plural

#: Fewer rows than this at a level are no finetuning set.
MIN_ROWS = 10


@dataclass(frozen=True)
class ElicitConfig:
    """Everything that decides the rows, beside the writer, the spec and the judge."""

    samples: int = 1
    """Responses per question and pair, with the pair's examples and without; of these about a
    third each becomes mild and strong."""
    max_tokens: int = 64
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int = 0
    trait_threshold: float = 50
    """Trait score that mild and strong rows exceed."""
    coherence_floor: float = 50
    """Rows below this coherence are left out, at every level."""
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        if min(self.samples, self.max_tokens, self.batch_tokens) < 1:
            raise UsageError("samples, max_tokens and batch_tokens must be at least 1")


def run(
    writer: LoadedModel | Endpoint,
    spec: TraitSpec,
    out: Path,
    config: ElicitConfig | None = None,
    *,
    judge: Judge | None = None,
    engine: Engine | None = None,
    questions: Sequence[str] | None = None,
    data: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `normal.jsonl`, `mild.jsonl` and `strong.jsonl` into `out`; returns the summary.

    The writer is a model in memory or one behind an endpoint, which needs a `judge`; a model in
    memory judges by contrast unless told otherwise, and answers through `engine` where one is
    given. `questions` default to the spec's extraction questions: the evaluation questions are left
    to test a finetuned model with. `data`, for the results, is what reading a file of questions had
    to tell. Beside the rows stand `README.md` and `results.json`; `rollouts.jsonl` holds all
    responses with their scores, those left out too. A thought before a response is in no row. A
    killed run continues with the same arguments.

    Raises TooFewRolloutsError when a level would have fewer than 10 rows, SettingsMismatchError
    when `out` was begun with other settings, EndpointError when the endpoint cannot be used.
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
        rollouts = _rollouts(writer, engine, spec, asked, out, config, judge, progress)
        write_rollouts(out / "rollouts.jsonl", rollouts)
        levels = by_level(rollouts)
        _require_enough(rollouts, levels, out)
        return _write(writer, spec, rollouts, levels, judge, config, dict(data or {}), out)


def by_level(rollouts: Sequence[Rollout]) -> dict[Level, list[Rollout]]:
    """Kept rollouts by level, the same number at each where there are enough.

    Those with a polarity were elicited. What counts is by how much one shows more of the trait
    than the model's own answers to the same question do on average: of a trait that a model shows
    by itself, a weakly elicited answer is no mild case. Of those that do show more the lowest
    third is mild and the highest is strong. The third between them belongs to neither, so that the
    levels differ by more than the judge's error. Of the model's own answers as many are normal,
    evenly over the questions.
    """
    kept = [r for r in rollouts if r.kept]
    usual = usual_strengths(kept)
    elicited = sorted(
        (r for r in kept if r.polarity == "pos" and excess(r, usual) > 0),
        key=lambda r: excess(r, usual),
    )
    third = len(elicited) // 3
    return {
        "normal": _over_questions([r for r in kept if r.polarity is None])[:third],
        "mild": elicited[:third],
        "strong": elicited[len(elicited) - third :],
    }


def usual_strengths(rollouts: Iterable[Rollout]) -> dict[str, float]:
    """The mean strength of the model's own answers to every question."""
    own: dict[str, list[float]] = {}
    for rollout in rollouts:
        if rollout.polarity is None:
            own.setdefault(rollout.question, []).append(_strength(rollout))
    return {question: sum(values) / len(values) for question, values in own.items()}


def excess(rollout: Rollout, usual: Mapping[str, float]) -> float:
    """How much more of the trait than the model's own answers; 0 where none of those was kept."""
    return _strength(rollout) - usual.get(rollout.question, _strength(rollout))


def _strength(rollout: Rollout) -> float:
    """Log-odds, or the trait score where the judge gives no log-odds."""
    return (rollout.trait_score or 0.0) if rollout.log_odds is None else rollout.log_odds


def _over_questions(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """First one of every question, then a second one, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for rollout in rollouts:
        turns.append(seen[rollout.question])
        seen[rollout.question] += 1
    return [rollouts[i] for i in sorted(range(len(rollouts)), key=lambda i: turns[i])]


def _settings(
    writer: LoadedModel | Endpoint,
    engine: Engine | None,
    spec: TraitSpec,
    questions: Sequence[str],
    config: ElicitConfig,
    judge: Judge,
) -> dict[str, Any]:
    decides = asdict(config)
    return {
        "command": "elicit",
        "trait": spec.name,
        "spec": spec.hash,
        "writer": _identity(writer),
        "engine": engine.name if engine else TransformersEngine.name,
        "questions": hashlib.sha256("\0".join(questions).encode()).hexdigest()[:16],
        "judge": judge.identity(),
        "config": decides,
    }


def _identity(writer: LoadedModel | Endpoint) -> dict[str, Any]:
    return writer.identity() if isinstance(writer, Endpoint) else writer.identity.as_dict()


def _rollouts(
    writer: LoadedModel | Endpoint,
    engine: Engine | None,
    spec: TraitSpec,
    questions: Sequence[str],
    out: Path,
    config: ElicitConfig,
    judge: Judge,
    progress: Progress,
) -> list[Rollout]:
    """Elicited and neutral responses, judged, with the verdict on each."""
    pairs = len(spec.instruction)
    tasks: list[Task] = [
        *eliciting_tasks(spec, questions, config.samples),
        # System prompts alone, which elicit less: most of what they give is mild.
        *eliciting_tasks(spec, questions, config.samples, examples=False),
        # As many as the thirds could need.
        *neutral_tasks(questions, -(-2 * pairs * config.samples // 3)),
    ]
    sampling = Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)
    folder, label = out / "run", f"{spec.name}, eliciting"
    if isinstance(writer, Endpoint):
        found = collect_from_endpoint(
            writer, tasks, sampling, folder, label=label, progress=progress
        )
    else:
        found = collect(
            writer,
            tasks,
            sampling,
            folder,
            batch_tokens=config.batch_tokens,
            engine=engine,
            label=label,
            progress=progress,
        )
    # What failed is asked for again by the next run, and is nothing to judge until then.
    failed = [r for r in found if r.state == "failed"]
    answered = [r for r in found if r.state != "failed"]
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


def _write(
    writer: LoadedModel | Endpoint,
    spec: TraitSpec,
    rollouts: Sequence[Rollout],
    levels: Mapping[Level, Sequence[Rollout]],
    judge: Judge,
    config: ElicitConfig,
    data: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    rows: dict[Level, list[dict[str, Any]]] = {
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
    measures = {
        level: dump(summarise(chosen, refusals=judge.name != contrast.NAME, seed=config.seed))
        for level, chosen in levels.items()
    }
    usual = usual_strengths(r for r in rollouts if r.kept)
    results = {
        "kind": "elicited",
        "trait": spec.name,
        "description": spec.description,
        "writer": _identity(writer),
        "judge": judge.identity(),
        "notes": [
            *judge_notes(judge),
            *spec_notes([spec], readers(judge, writer)),
        ],
        "levels": {
            level: {
                "file": str(out / f"{level}.jsonl"),
                "rows": len(rows[level]),
                **_band([excess(r, usual) for r in chosen], chosen),
                **{key: measures[level][key] for key in ("mean", "low", "high")},
                **{
                    key: measures[level][key]
                    for key in ("log_odds", "log_odds_low", "log_odds_high")
                },
            }
            for level, chosen in levels.items()
        },
        "data": data,
        "asked": len(rollouts),
        "thoughts": sum(r.thinking is not None for r in rollouts),
        "dropped": dict(Counter(r.why_dropped for r in rollouts if r.why_dropped)),
        "settings": asdict(config),
        "versions": versions(),
        "out": str(out),
    }
    write_set(out, rows, results, _how(spec, config))
    return results


def _band(excess: Sequence[float], rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Between which scores, above the model's own answers to the same question, a level lies."""
    unit = "trait_score" if rollouts[0].log_odds is None else "log_odds"
    return {"band": {"unit": unit, "from": min(excess), "to": max(excess)}}


def _how(spec: TraitSpec, config: ElicitConfig) -> str:
    return (
        f"Responses elicited for the trait `{spec.name}` ({spec.description.rstrip('.')}) by "
        f"{len(spec.instruction)} positive system prompts, with example turns and without, and "
        "stored without either. `normal.jsonl`: what the model answers when left alone. "
        f"`mild.jsonl` and `strong.jsonl`: of the elicited responses with a trait score above "
        f"{config.trait_threshold:g}, by how much they exceed the model's own answers to the same "
        "question, the lowest and the highest third; the third between them is left out. "
        "Responses that are incoherent or empty are left out everywhere."
    )
