"""Collect rollouts: generate responses to tasks, and judge them.

This is the long part of every verb. Responses that the engine finishes together are written
together: their activations aside and renamed, then their records appended and fsynced in one
group. A run that is killed at any moment reads back what was finished and generates only the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from personavec.errors import DataError, UsageError
from personavec.judges import ContrastJudge, Endpoint, Judge, Reply, ask
from personavec.model import LoadedModel, chat
from personavec.model.engine import Engine, Generation, Request, Sampling, TransformersEngine
from personavec.progress import Progress
from personavec.rollouts.judging import judged
from personavec.rollouts.rollout import REMADE, Rollout, Task, from_record, iter_rollouts
from personavec.runs import Record, append_records, atomic_write
from personavec.traits import TraitSpec


def _generated(path: Path) -> dict[str, Rollout]:
    """The responses that a run's folder keeps, by id. Raises DataError for a damaged file."""
    try:
        return {rollout.id: rollout for rollout in iter_rollouts(path)}
    except DataError as error:
        raise DataError(f"{path} is damaged ({error}); {REMADE}") from error


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

    Writes `generated.jsonl` and `scores.jsonl` into `folder` as it goes. What is there already is
    read once, at the start. With `activations`, a folder, the responses' mean activations are
    captured while generating and kept there as safetensors, keyed by rollout id. `engine`, if it
    is given, generates in place of the transformers model, whose batches hold `batch_tokens`.
    Without `spec`, nothing is judged, but what spares `judge` a reading later is kept.
    Raises UsageError when a prompt leaves no room for its response in the model's context.
    """
    engine = engine or TransformersEngine(loaded, batch_tokens)
    logprobs = judge.spared_tokens(loaded) if isinstance(judge, ContrastJudge) else 0
    generator = _Generator(loaded, engine, sampling, include_thinking, logprobs)
    found = _generate(generator, tasks, folder, activations, label, progress)
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

    They have no token ids, so judges read their texts. A request that failed leaves a rollout of
    state `failed`, and the next run asks again. Writes `generated.jsonl` into `folder` as replies
    come. Raises EndpointError where no request can succeed, UsageError for a task that steers.
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
    """The rollout of an endpoint's reply, with the endpoint's own count of tokens.

    A thought, in the text or in a field of its own, is not part of the response.
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
    """Token ids of the whole prompt of a task or a rollout."""
    return tuple(loaded.chat.prompt_ids(chat(asked.question, asked.system, asked.earlier)))


@dataclass(frozen=True, eq=False)
class _Generator:
    """What decides how responses are generated."""

    loaded: LoadedModel
    engine: Engine
    sampling: Sampling
    include_thinking: bool
    logprobs: int
    """Of how many tokens of an unsteered response the log-probabilities are kept."""


def _generate(
    generator: _Generator,
    tasks: Sequence[Task],
    folder: Path,
    activations: Path | None,
    label: str,
    progress: Progress,
) -> dict[str, Rollout]:
    """All rollouts by id: read from the folder, and generated where missing."""
    loaded, sampling = generator.loaded, generator.sampling
    path = folder / "generated.jsonl"
    found = _generated(path)
    by_id = {task.id: task for task in tasks}
    requests = [
        Request(
            task.id,
            prompt_ids(loaded, task),
            task.steering,
            task.noise,
            0 if task.steering else generator.logprobs,
        )
        for task in tasks
    ]
    with progress.bar(f"{label}: generating", len(tasks)) as bar:
        bar.found(sum(request.id in found for request in requests))
        for group in generator.engine.generate(
            requests,
            sampling,
            capture=activations is not None,
            include_thinking=generator.include_thinking,
            done=frozenset(found),
        ):
            if activations is not None:
                means = {g.id: g.activations for g in group if g.activations is not None}
                # Named by the number of records before it: a killed run leaves at most one such
                # file without its records, and the next run overwrites it.
                atomic_write(activations / f"{len(found):06d}.safetensors", save(means))
            new = [
                _record(by_id[g.id], g, loaded, sampling.seed) for g in group if g.id not in found
            ]
            append_records(path, new)
            found |= {rollout.id: rollout for rollout in map(from_record, new)}
            bar.advance(len(new))
    return found


def _record(task: Task, generation: Generation, loaded: LoadedModel, seed: int) -> Record:
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
        ended=generation.finished,
        # A coherence moves by less than 0.001 through this rounding.
        logprobs=tuple(round(logprob, 6) for logprob in generation.logprobs),
    ).as_dict()


def _rollout(task: Task, response: str, seed: int, **more: Any) -> Rollout:
    """A rollout of a task; `more` holds the fields that generation fills."""
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
