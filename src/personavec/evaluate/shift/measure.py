"""What is measured of one model: its last-prompt-token activations and its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
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
from personavec.rollouts import Rollout, Task, collect, judged, write_rollouts
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
    tasks = {
        spec.name: [
            Task(f"{spec.name}-q{number}-s{sample}", question, sample=sample)
            for number, question in enumerate(questions_of(spec, config))
            for sample in range(config.samples)
        ]
        for spec in specs
    }
    found = collect(
        loaded,
        [task for each in tasks.values() for task in each],
        Sampling(config.max_tokens, config.temperature, seed=config.seed),
        folder,
        batch_tokens=config.batch_tokens,
        label=Path(loaded.identity.name).name,
        progress=progress,
    )
    by_id = {rollout.id: rollout for rollout in found}
    return {trait: [by_id[task.id] for task in each] for trait, each in tasks.items()}


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
