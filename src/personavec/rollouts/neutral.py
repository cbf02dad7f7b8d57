"""The model's answers to neutral prompts, the baseline that standardises later projections."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from personavec.errors import TooFewRolloutsError, UsageError
from personavec.model import LoadedModel
from personavec.model.engine import Engine, Sampling
from personavec.progress import Progress
from personavec.rollouts.collecting import collect
from personavec.rollouts.rollout import Task, load_activations
from personavec.traits import neutral_prompts


def neutral_means(
    loaded: LoadedModel,
    sampling: Sampling,
    folder: Path,
    *,
    n: int,
    batch_tokens: int = 16384,
    engine: Engine | None = None,
    progress: Progress,
) -> Float[Tensor, "prompt span layer hidden"]:
    """Mean activations over the engine's spans, one row for each of `n` neutral prompts.

    The prompts are answered without a system prompt; answers and means are kept in `folder`, so
    that a killed run continues. Prompts with an empty answer are left out. Raises
    TooFewRolloutsError when fewer than two are left, which have no spread; UsageError for more
    prompts than the package has.
    """
    if n > len(neutral_prompts()):
        raise UsageError(f"{n} neutral prompts: the package has {len(neutral_prompts())}")
    tasks = [
        Task(id=f"neutral-{i}", question=question)
        for i, question in enumerate(neutral_prompts()[:n])
    ]
    answers = collect(
        loaded,
        tasks,
        sampling,
        folder,
        activations=folder,
        batch_tokens=batch_tokens,
        engine=engine,
        label="neutral prompts",
        progress=progress,
    )
    answered = [answer.id for answer in answers if answer.n_tokens]
    if len(answered) < 2:
        raise TooFewRolloutsError(
            f"{loaded.identity.name} answered {len(answered)} of {len(tasks)} neutral prompts, two "
            f"are needed; see what it wrote in {folder / 'generated.jsonl'}"
        )
    return load_activations(folder, answered)
