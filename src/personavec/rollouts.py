"""Rollouts: generate responses, judge them, keep those that show what they should.

The long part of every verb. What the engine finishes together is the unit of resume: its
activations are written aside and renamed, then its records are appended and fsynced in one group.
Killed at any moment and run again, what was finished is read back and only the rest is generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from personavec.errors import DataError, UsageError
from personavec.judges.base import Answer, Judge, Score
from personavec.judges.endpoint import Endpoint, Reply, ask
from personavec.model.chat import Turns, chat
from personavec.model.engine.base import Engine, Generation, Request, Sampling
from personavec.model.engine.hf import TransformersEngine
from personavec.model.loading import LoadedModel
from personavec.model.steering import Action
from personavec.progress import Progress
from personavec.runs import append_records, atomic_write, read_records, why_invalid
from personavec.traits import POLARITIES, Polarity, TraitSpec


@dataclass(frozen=True, eq=False)
class Task:
    """One response to ask for: the question and what stands before it, the steering if any.

    Tasks that share `noise` are sampled with the same (`engine.base.Request`).
    """

    id: str
    question: str
    system: str | None = None
    pair: int | None = None
    polarity: Polarity | None = None
    sample: int = 0
    earlier: Turns = ()
    steering: tuple[Action, ...] = ()
    noise: str = ""


@dataclass(frozen=True)
class Rollout:
    """One generated response with its question, instruction, polarity, seed and scores.

    `state` is `scored`, `empty`, `unfinished_thought` (it ended there), `failed` (no answer came,
    or its numbers overflowed) or `unscored` under the contrast judge; scores of other states are
    None, never 0. `response` is the answer; `thinking`, where the model thought, is what came
    before it. `why_dropped` says why a rollout was not kept.
    """

    id: str
    question: str
    pair: int | None
    polarity: Polarity | None
    sample: int
    system: str | None
    response: str
    response_ids: tuple[int, ...]
    n_tokens: int
    seed: int
    state: str = "unscored"
    log_odds: float | None = None
    log_odds_per_token: tuple[float, ...] | None = None
    trait_score: float | None = None
    coherence: float | None = None
    judge: str | None = None
    kept: bool | None = None
    why_dropped: str | None = None
    thinking: str | None = None
    thinking_ids: tuple[int, ...] = ()
    earlier: Turns = ()

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


_ROLLOUT = TypeAdapter(Rollout)
_SCORE = TypeAdapter(Score)


def from_record(record: Mapping[str, Any]) -> Rollout:
    """A rollout from a line of JSON. Raises DataError for a record of anything else."""
    if record.get("state") == "unfinished":  # as older files have it
        record = {**record, "state": "unfinished_thought"}
    try:
        return _ROLLOUT.validate_python(record)
    except ValidationError as error:
        shown = str(record.get("id"))[:80]
        raise DataError(f"record {shown!r} is no rollout ({why_invalid(error)})") from error


def _generated(path: Path) -> dict[str, Rollout]:
    """What a run's folder keeps, by id. Raises DataError with the remedy for a damaged file."""
    try:
        return {rollout.id: rollout for rollout in iter_rollouts(path)}
    except DataError as error:
        raise DataError(f"{path} is damaged ({error}); {_ANEW}") from error


def _scores(path: Path) -> dict[str, Score]:
    """The scores that a run's folder keeps, by rollout. Raises DataError as `_generated` does."""
    try:
        return {str(r["id"]): _SCORE.validate_python(r) for r in read_records(path)}
    except (KeyError, ValidationError) as error:
        why = why_invalid(error) if isinstance(error, ValidationError) else f"no {error}"
        raise DataError(f"{path} is damaged ({why}); {_ANEW}") from error


_ANEW = "delete it to make its records again"


def elicitation_tasks(spec: TraitSpec, questions: Sequence[str], samples: int) -> list[Task]:
    """Every question under both sides of every pair, `samples` times."""
    return [
        Task(
            id=f"{polarity}-p{k}-q{number}-s{sample}",
            question=question,
            system=getattr(pair, polarity),
            pair=k,
            polarity=polarity,
            sample=sample,
            earlier=pair.turns(polarity),
        )
        for number, question in enumerate(questions)
        for k, pair in enumerate(spec.instruction)
        for polarity in POLARITIES
        for sample in range(samples)
    ]


def eliciting_tasks(
    spec: TraitSpec, questions: Sequence[str], samples: int = 1, *, examples: bool = True
) -> list[Task]:
    """Every question under the positive side of every pair, `samples` times.

    The pair's examples stand as earlier turns; without them the system prompt alone elicits, which
    is weaker. Tasks with and without have ids of their own, so that both can be in one run.
    """
    return [
        Task(
            id=f"{'elicited' if examples else 'prompted'}-p{k}-q{number}"
            + (f"-s{sample}" if sample else ""),
            question=question,
            system=pair.pos,
            pair=k,
            polarity="pos",
            sample=sample,
            earlier=pair.turns("pos") if examples else (),
        )
        for number, question in enumerate(questions)
        for k, pair in enumerate(spec.instruction)
        for sample in range(samples)
    ]


def neutral_tasks(questions: Sequence[str], samples: int) -> list[Task]:
    """Every question as it is, `samples` times: what the model answers when left alone.

    Sampled, since the greedy answer is the natural response, which a screen subtracts.
    """
    return [
        Task(id=f"neutral-q{number}-s{sample}", question=question, sample=sample)
        for number, question in enumerate(questions)
        for sample in range(samples)
    ]


def collect(
    loaded: LoadedModel,
    tasks: Sequence[Task],
    sampling: Sampling,
    folder: Path,
    *,
    spec: TraitSpec | None = None,
    judge: Judge | None = None,
    activations: Path | None = None,
    include_thinking: bool = False,
    batch_tokens: int = 16384,
    engine: Engine | None = None,
    label: str = "rollouts",
    progress: Progress,
) -> list[Rollout]:
    """Rollouts of all tasks in their order: generated, and judged for `spec` if there is a judge.

    Writes `generated.jsonl` and `scores.jsonl` into `folder` as it goes, and reads back what is
    there. With `activations`, a folder, the responses' mean activations are captured while
    generating and kept there as safetensors, keyed by rollout id. `engine`, if it is given,
    generates in place of the transformers model, which plans batches of `batch_tokens`. Raises
    UsageError when a prompt leaves no room for its response in the model's context.
    """
    engine = engine or TransformersEngine(loaded, batch_tokens)
    generator = _Generator(loaded, engine, sampling, include_thinking)
    _generate(generator, tasks, folder, activations, label, progress)
    found = _generated(folder / "generated.jsonl")
    rollouts = [found[task.id] for task in tasks]
    if spec is None or judge is None:
        return rollouts
    return judged(judge, rollouts, spec, folder, label=label, progress=progress)


def collect_from_endpoint(
    endpoint: Endpoint,
    tasks: Sequence[Task],
    sampling: Sampling,
    folder: Path,
    *,
    label: str = "rollouts",
    progress: Progress,
) -> list[Rollout]:
    """Rollouts of all tasks in their order, written by a model behind an endpoint.

    They have no token ids: judges read their texts. A request that failed leaves a rollout of
    state `failed`, and the next run asks again. Writes `generated.jsonl` into `folder` as replies
    come. Raises EndpointError for what concerns all requests, UsageError for a task that steers.
    """
    if any(task.steering for task in tasks):
        raise UsageError("a model behind an endpoint cannot be steered")
    path = folder / "generated.jsonl"
    done = _generated(path)
    left = [task for task in tasks if task.id not in done]
    requests = [
        {
            "messages": chat(task.question, task.system, task.earlier),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # A seed of its own, so that samples of one prompt are different requests.
            "seed": sampling.seed + 1000 * task.sample,
        }
        for task in left
    ]

    def keep_reply(number: int, reply: Reply) -> None:
        if reply.completion is not None:
            record = _written(left[number], reply, sampling.seed)
            append_records(path, [record.as_dict()])

    ask(endpoint, requests, label=f"{label}: asking", progress=progress, on_reply=keep_reply)
    found = _generated(path)
    return [
        found.get(task.id) or _rollout(task, "", sampling.seed, n_tokens=0, state="failed")
        for task in tasks
    ]


def _written(task: Task, reply: Reply, seed: int) -> Rollout:
    """What an endpoint wrote; how many tokens it had is the endpoint's own count.

    A thought in the text, or in a field of its own, is no part of the response.
    """
    tokens = ((reply.completion or {}).get("usage") or {}).get("completion_tokens") or 0
    state = "unscored" if reply.text else "empty"
    return _rollout(
        task,
        reply.text,
        seed,
        n_tokens=tokens,
        state="unfinished_thought" if reply.is_all_thought else state,
        thinking=reply.thought,
    )


def prompt_ids(loaded: LoadedModel, asked: Task | Rollout) -> tuple[int, ...]:
    """Token ids of everything that stands before a response."""
    return tuple(loaded.chat.prompt_ids(chat(asked.question, asked.system, asked.earlier)))


@dataclass(frozen=True, eq=False)
class _Generator:
    """What decides how responses are generated."""

    loaded: LoadedModel
    engine: Engine
    sampling: Sampling
    include_thinking: bool


def _generate(
    generator: _Generator,
    tasks: Sequence[Task],
    folder: Path,
    activations: Path | None,
    label: str,
    progress: Progress,
) -> None:
    loaded, sampling = generator.loaded, generator.sampling
    path = folder / "generated.jsonl"
    done = set(_generated(path))
    by_id = {task.id: task for task in tasks}
    requests = [
        Request(task.id, prompt_ids(loaded, task), task.steering, task.noise) for task in tasks
    ]
    with progress.bar(f"{label}: generating", len(tasks)) as bar:
        bar.advance(sum(request.id in done for request in requests))
        for group in generator.engine.generate(
            requests,
            sampling,
            capture=activations is not None,
            include_thinking=generator.include_thinking,
            done=frozenset(done),
        ):
            if activations is not None:
                means = {g.id: g.activations for g in group if g.activations is not None}
                # By the number of records before it: a killed run leaves at most one such file
                # without its records, and the next run writes that file anew.
                atomic_write(activations / f"{len(done):06d}.safetensors", save(means))
            new = [g for g in group if g.id not in done]
            append_records(path, [_record(by_id[g.id], g, loaded, sampling.seed) for g in new])
            done |= {g.id for g in new}
            bar.advance(len(new))


def _record(task: Task, generation: Generation, loaded: LoadedModel, seed: int) -> dict[str, Any]:
    state = "unscored" if generation.response_ids else "empty"
    if generation.failed:
        state = "failed"
    return _rollout(
        task,
        loaded.chat.decode(generation.response_ids),
        seed,
        response_ids=generation.response_ids,
        n_tokens=len(generation.response_ids),
        state="unfinished_thought" if generation.unfinished_thought else state,
        thinking=loaded.chat.decode_marked(generation.thinking_ids) or None,
        thinking_ids=generation.thinking_ids,
    ).as_dict()


def _rollout(task: Task, response: str, seed: int, **more: Any) -> Rollout:
    """A response with what it was asked for."""
    return Rollout(
        id=task.id,
        question=task.question,
        pair=task.pair,
        polarity=task.polarity,
        sample=task.sample,
        system=task.system,
        response=response,
        seed=seed,
        earlier=task.earlier,
        **{"response_ids": (), **more},
    )


def judged(
    judge: Judge,
    rollouts: Sequence[Rollout],
    spec: TraitSpec,
    folder: Path,
    *,
    label: str,
    progress: Progress,
) -> list[Rollout]:
    """The rollouts with their scores for `spec`; those in the folder's `scores.jsonl` stand."""
    _judge(judge, rollouts, spec, folder, label, progress)
    scores = _scores(folder / "scores.jsonl")
    return [_with_score(rollout, scores[rollout.id], judge.name) for rollout in rollouts]


def _judge(
    judge: Judge,
    rollouts: Sequence[Rollout],
    spec: TraitSpec,
    folder: Path,
    label: str,
    progress: Progress,
) -> None:
    path = folder / "scores.jsonl"
    # A call that failed is no score: the next run asks again.
    done = {id for id, score in _scores(path).items() if score.state != "failed"}
    # Responses to one question share the judge's prompts, so they are judged together.
    todo = sorted((r for r in rollouts if r.id not in done), key=lambda r: r.question)
    with progress.bar(f"{label}: judging", len(rollouts)) as bar:
        bar.advance(len(rollouts) - len(todo))
        for start in range(0, len(todo), judge.group):
            group = todo[start : start + judge.group]
            answers = [
                Answer(
                    question=r.question,
                    response=r.response,
                    system=r.system,
                    pair=r.pair,
                    response_ids=r.response_ids,
                    thinking_ids=r.thinking_ids,
                    earlier=r.earlier,
                    thought=r.thinking,
                )
                for r in group
            ]
            scores = judge.score(spec, answers)
            append_records(
                path, [{"id": r.id, **s.__dict__} for r, s in zip(group, scores, strict=True)]
            )
            bar.advance(len(group))


def _with_score(rollout: Rollout, score: Score, judge: str) -> Rollout:
    if rollout.state in _STATES:  # what the generation ended as says more than that it is empty
        return rollout
    return replace(
        rollout,
        state=score.state,
        judge=judge,
        log_odds=score.log_odds,
        log_odds_per_token=score.log_odds_per_token,
        trait_score=score.trait_score,
        coherence=score.coherence,
    )


def keep(
    rollouts: Sequence[Rollout], *, trait_threshold: float = 50, coherence_floor: float = 50
) -> list[Rollout]:
    """Rollouts with `kept` and `why_dropped` filled in.

    A positive rollout at or below the trait threshold is dropped, a negative one at or above it,
    and an incoherent, empty or unscored one on either side (paper, section 2.2).
    """
    return [_verdict(r, trait_threshold, coherence_floor) for r in rollouts]


_STATES = {
    "empty": "empty response",
    "unfinished_thought": "unfinished thought",
    "failed": "request failed",
}


def _verdict(rollout: Rollout, threshold: float, floor: float) -> Rollout:
    why = None
    if rollout.trait_score is None:
        why = _STATES.get(rollout.state, rollout.state)
    elif rollout.coherence is None:
        why = "coherence unscored"
    elif rollout.coherence < floor:
        why = "incoherent"
    elif rollout.polarity == "pos" and rollout.trait_score <= threshold:
        why = "does not show the trait"
    elif rollout.polarity == "neg" and rollout.trait_score >= threshold:
        why = "shows the trait"
    return replace(rollout, kept=why is None, why_dropped=why)


def load_activations(
    folder: Path, ids: Sequence[str]
) -> Float[Tensor, "rollout span layer hidden"]:
    """Captured means of the given rollouts, in their order, from the files in `folder`.

    Raises DataError when one is missing or its file is damaged.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found |= load_file(path)
        except SafetensorError as error:
            raise DataError(f"{path} is damaged ({error}); use another --out") from error
    if not ids:
        raise DataError(f"no rollouts whose activations in {folder} could be read")
    missing = [i for i in ids if i not in found]
    if missing:
        raise DataError(
            f"no activations of rollout {missing[0]} in {folder}; use another --out to start anew"
        )
    shapes = {tuple(found[i].shape) for i in ids}
    if len(shapes) > 1 or any(len(shape) != 3 for shape in shapes):
        raise DataError(f"the activations in {folder} are damaged (odd shapes); use another --out")
    return torch.stack([found[i] for i in ids])


def write_rollouts(path: Path, rollouts: Sequence[Rollout]) -> None:
    """The final `rollouts.jsonl`, atomically."""
    lines = (json.dumps(r.as_dict(), ensure_ascii=False) + "\n" for r in rollouts)
    atomic_write(path, "".join(lines))


def iter_rollouts(path: Path) -> Iterator[Rollout]:
    """Rollouts from a `rollouts.jsonl`."""
    return (from_record(record) for record in read_records(path))
