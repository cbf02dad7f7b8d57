"""What is measured of one model: its last-prompt-token activations and its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from personavec.errors import DataError, UsageError
from personavec.evaluate.shift.config import ShiftConfig
from personavec.judges import Judge
from personavec.model import LoadedModel, capture_means, chat, tuned_model
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.rollouts import Rollout, Task, collect, judged, say_estimate, write_rollouts
from personavec.runs import atomic_write
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """One model's measurements, by trait."""

    states: Mapping[str, Tensor]
    """Last-prompt-token activations [question, hidden] at the trait's layer."""
    answers: Mapping[str, list[Rollout]]


def last_prompt_states(
    loaded: LoadedModel, questions: Sequence[str], layer: int, *, batch_tokens: int = 16384
) -> Float[Tensor, "question hidden"]:
    """The activation at the last token of every question's prompt, float32.

    Without a system prompt, at the output of one layer.
    """
    rows = [loaded.chat.prompt_ids(chat(question)) for question in questions]
    spans = [[(len(row) - 1, len(row))] for row in rows]
    found = capture_means(loaded.model, rows, spans, layers=[layer], batch_tokens=batch_tokens)
    return found[:, 0, 0]


def questions_of(spec: TraitSpec, config: ShiftConfig) -> tuple[str, ...]:
    """The evaluation questions that are asked."""
    return spec.last_questions(config.questions)


def layer_of(vector: PersonaVector, config: ShiftConfig) -> int:
    """The layer that a vector's shift is read at. Raises UsageError for one that is none."""
    layer = vector.layer if config.layer is None else config.layer
    last = vector.n_layers
    if not 1 <= layer <= last:
        raise UsageError(f"layer {layer} does not exist: the vector has layers 1 to {last}")
    return layer


def measure(
    base: LoadedModel,
    name: str | None,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    folder: Path,
    config: ShiftConfig,
    progress: Progress,
) -> MeasuredModel:
    """The base, or the finetune of it called `name`; what is in `folder` is read back."""
    with nullcontext(base) if name is None else tuned_model(base, name) as loaded:
        for vector in vectors:
            vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)
        states = _states(loaded, vectors, specs, folder / "last-prompt.safetensors", config)
        answers = _answers(loaded, specs, folder, config, progress)
    return MeasuredModel(states, answers)


def _captured(
    loaded: LoadedModel,
    asked: Mapping[str, Sequence[str]],
    layers: Mapping[str, int],
    batch_tokens: int,
) -> dict[str, Tensor]:
    return {
        trait: last_prompt_states(loaded, questions, layers[trait], batch_tokens=batch_tokens)
        for trait, questions in asked.items()
    }


def _states(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    path: Path,
    config: ShiftConfig,
) -> dict[str, Tensor]:
    """Last-prompt-token activations, kept at `path`. Raises DataError for a damaged file."""
    asked = {spec.name: questions_of(spec, config) for spec in specs}
    if not path.exists():
        layers = {vector.trait: layer_of(vector, config) for vector in vectors}
        atomic_write(path, save(_captured(loaded, asked, layers, config.batch_tokens)))
    try:
        states = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, and run again") from error
    wanted = {trait: (len(of), loaded.identity.hidden_size) for trait, of in asked.items()}
    if {trait: tuple(of.shape) for trait, of in states.items()} != wanted:
        raise DataError(f"{path} is damaged (activations of others); delete it, and run again")
    return states


def _answers(
    loaded: LoadedModel,
    specs: Sequence[TraitSpec],
    folder: Path,
    config: ShiftConfig,
    progress: Progress,
) -> dict[str, list[Rollout]]:
    """Answers to all traits' questions, by trait; they go through the model together."""
    tasks = _tasks(specs, config)
    write = _writer(loaded, folder, config, progress)
    found = write([task for each in tasks.values() for task in each])
    by_id = {rollout.id: rollout for rollout in found}
    return {trait: [by_id[task.id] for task in each] for trait, each in tasks.items()}


def _tasks(specs: Sequence[TraitSpec], config: ShiftConfig) -> dict[str, list[Task]]:
    """Every trait's questions, by trait."""
    return {
        spec.name: [
            Task(f"{spec.name}-q{number}-s{sample}", question, sample=sample)
            for number, question in enumerate(questions_of(spec, config))
            for sample in range(config.samples)
        ]
        for spec in specs
    }


def _writer(
    loaded: LoadedModel, folder: Path, config: ShiftConfig, progress: Progress
) -> Callable[[Sequence[Task]], list[Rollout]]:
    """Writes a model's answers into a folder."""
    return partial(
        collect,
        loaded,
        sampling=Sampling(config.max_tokens, config.temperature, seed=config.seed),
        folder=folder,
        batch_tokens=config.batch_tokens,
        label=Path(loaded.identity.name).name,
        progress=progress,
    )


def estimate(
    base: LoadedModel,
    specs: Sequence[TraitSpec],
    judge: Judge,
    folder: Path,
    models: int,
    config: ShiftConfig,
    progress: Progress,
) -> None:
    """Say how long the answers of so many models will take, by the base's first ones.

    Nothing is said where some of them are in the base's `folder` already.
    """
    if (folder / "generated.jsonl").exists():
        return
    spec, tasks = specs[0], _tasks(specs, config)
    write = _writer(base, folder, config, progress)
    own = partial(judged, judge, spec=spec, folder=folder / spec.name, progress=progress)
    to_come = models * sum(len(each) for each in tasks.values())
    say_estimate(
        tasks[spec.name],
        write,
        lambda some: own(rollouts=write(some), label="first answers"),
        to_write=to_come,
        to_judge=to_come,
        progress=progress,
    )


def judge_answers(
    models: Mapping[str, MeasuredModel],
    specs: Sequence[TraitSpec],
    judge: Judge,
    out: Path,
    progress: Progress,
) -> dict[str, MeasuredModel]:
    """The models with their answers judged, once no adapter is on the base any more."""
    scored: dict[str, dict[str, list[Rollout]]] = {arm: {} for arm in models}
    for spec in specs:
        for arm, found in models.items():
            scored[arm][spec.name] = judged(
                judge,
                found.answers[spec.name],
                spec,
                out / "run" / arm / spec.name,
                label=f"{spec.name}, {arm}",
                progress=progress,
            )
            write_rollouts(out / "rollouts" / f"{arm}-{spec.name}.jsonl", scored[arm][spec.name])
    return {arm: replace(found, answers=scored[arm]) for arm, found in models.items()}
