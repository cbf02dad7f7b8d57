"""What a model can still do: lm-evaluation-harness tasks, under the same steering.

The harness (extra `eval`) runs its transformers backend on the model in memory while steering is
on. It scores given texts, which hold no response of the model's own, so steering acts at every
position of a text (`positions="all"`). Steering the question too is the harder test. Padding has
no effect: the harness pads scored texts on the right, where no scored token attends to it, and
masks the padding of prompts that it generates from.

One task, `packaged`, ships with the package for machines without network: everyday questions with
four choices each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from personavec.errors import DataError, UsageError, missing_extra
from personavec.model import Action, LoadedModel, steering_forwards, token_logprobs
from personavec.stats import Interval, clustered_bootstrap

#: The name of the task that ships with the package.
PACKAGED = "packaged"
#: The first of these that a task has per item is reported, or else the task's first metric.
_METRICS = ("acc_norm", "acc", "exact_match")
#: Tokens of `batch_tokens` that one item takes: the harness computes logits at all positions.
_TOKENS_AN_ITEM = 2048


@dataclass(frozen=True)
class TaskScore:
    """How a model did on one task, item by item.

    `values` are the metric's values (0 or 1 for an accuracy) and `items` the items' names, both in
    the task's order. `chance` is what guessing reaches, where the task has choices.
    """

    task: str
    metric: str
    items: tuple[str, ...]
    values: tuple[float, ...]
    chance: float | None = None


@dataclass(frozen=True, eq=False)
class HarnessTask:
    """A task of the harness with its data loaded; a group's name stands for all of its tasks."""

    name: str
    tasks: tuple[Any, ...]
    index: Any


def load_tasks(names: Sequence[str], index: Any = None) -> list[HarnessTask]:
    """The harness tasks of these names, `packaged` among them, with their data.

    `index` is a `task_index()` made before. Raises UsageError for a name that the harness does
    not know, DataError for data that cannot be reached; either before any model has run.
    """
    index = index or task_index(packaged_alone=set(names) <= {PACKAGED})
    for name in names:
        if name != PACKAGED and name not in index.all_tasks:
            raise UsageError(
                f"unknown task '{name}': lm-evaluation-harness does not know it; "
                f"'lm-eval ls tasks' lists its names, and '{PACKAGED}' needs no data"
            )
    with _quiet():
        return [_load_task(index, name) for name in names]


def task_index(*, packaged_alone: bool = False) -> Any:
    """The harness's index of its tasks, which takes seconds; an empty one for the packaged task.

    Raises PersonavecError with the install command where the harness is missing.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise missing_extra("eval") from None
    with _quiet():
        return TaskManager(include_defaults=not packaged_alone)


def _load_task(index: Any, name: str) -> HarnessTask:
    source = _packaged_config() if name == PACKAGED else name
    try:
        found = index.load([source])
    # A data set's loader fails in many ways: no network, a missing file, a missing package.
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the data of task '{name}' cannot be reached ({first_line}); "
            f"'{PACKAGED}' is a task that needs no network"
        ) from error
    return HarnessTask(name, tuple(found["tasks"].values()), index)


def _packaged_config() -> dict[str, Any]:
    file = resources.files("personavec") / "bundled" / "capability.json"
    return {
        "task": f"personavec_{PACKAGED}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }


def run_task(
    loaded: LoadedModel,
    task: HarnessTask,
    *,
    steering: Sequence[Action] = (),
    max_items: int | None = None,
    batch_tokens: int = 16384,
    quiet: bool = False,
) -> TaskScore:
    """Run one task, or all tasks of a group, with the steering at every position.

    `max_items` takes only the first items of each task. Few-shot examples and prompts are the
    task's own. Raises DataError where the task has no number an item.
    """
    from lm_eval import evaluator
    from lm_eval.models import huggingface

    # Typed as anything: the harness's decorators hide its signatures.
    harness: Any = evaluator
    backend: Any = huggingface
    everywhere = [replace(s, positions="all") for s in steering]
    with _quiet(), steering_forwards(loaded.model, everywhere):
        model = backend.HFLM(
            pretrained=loaded.model,
            # The harness sets a padding token on the tokenizer that it gets.
            tokenizer=deepcopy(loaded.tokenizer),
            batch_size=max(1, batch_tokens // _TOKENS_AN_ITEM),
        )
        if quiet:  # without the harness's own progress bar
            model.loglikelihood = partial(model.loglikelihood, disable_tqdm=True)
        results = harness.simple_evaluate(
            model,
            tasks=list(task.tasks),
            task_manager=task.index,
            limit=max_items,
            bootstrap_iters=0,
            # Only the choice of few-shot examples is random, and the harness seeds it.
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    if results is None:
        raise DataError(f"task '{task.name}' gave no results in this process; use one process")
    return _score(task, results["samples"])


def _score(task: HarnessTask, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> TaskScore:
    """All items of a task, or of a group's tasks; the first of several answer filters counts."""
    choices = {t.task_name: t.OUTPUT_TYPE == "multiple_choice" for t in task.tasks}
    items: dict[str, float] = {}
    chances: list[float] = []
    metric = None
    for name, found in samples.items():
        for sample in found:
            key = f"{name}/{sample['doc_id']}"
            if key in items:
                continue
            metric = metric or _metric(sample)
            value = sample.get(metric) if metric else None
            if not isinstance(value, (int, float, np.number)):
                raise DataError(
                    f"task '{task.name}' gives no number for each item "
                    f"({', '.join(sample['metrics'])}); choose a task with an accuracy"
                )
            items[key] = float(value)
            if choices.get(name):
                chances.append(1 / len(sample["arguments"]))
    if metric is None:
        raise DataError(f"task '{task.name}' holds no items")
    # Stored in the order of their number, whatever order they ran in.
    return TaskScore(
        task.name,
        metric,
        tuple(items),
        tuple(items.values()),
        float(np.mean(chances)) if len(chances) == len(items) else None,
    )


def _metric(sample: Mapping[str, Any]) -> str | None:
    found = [m for m in sample["metrics"] if isinstance(sample.get(m), (int, float, np.number))]
    return next((m for m in _METRICS if m in found), found[0] if found else None)


def interval(score: TaskScore, seed: int = 0) -> Interval | None:
    """The mean over items with its 95% interval, resampling items; None for a single item."""
    if len(score.items) < 2:
        return None
    return clustered_bootstrap(list(score.values), score.items, seed=seed)


def difference(score: TaskScore, other: TaskScore, seed: int = 0) -> Interval | None:
    """Paired difference of two models over the items that both answered."""
    theirs = dict(zip(other.items, other.values, strict=True))
    pairs = [
        (value - theirs[item], item)
        for item, value in zip(score.items, score.values, strict=True)
        if item in theirs
    ]
    if len(pairs) < 2:
        return None
    return clustered_bootstrap([d for d, _ in pairs], [item for _, item in pairs], seed=seed)


def surprise(loaded: LoadedModel, texts: Sequence[str]) -> list[Float[Tensor, " token"]]:
    """Negative log-likelihoods of every text's tokens, in nats.

    Texts are encoded without a chat template. A text's first token has no context and is not
    scored.
    """
    ids = [tuple(loaded.chat.response_ids(text))[: loaded.context] for text in texts]
    return [-values for values in token_logprobs(loaded, [(text[:1], text[1:]) for text in ids])]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the harness and the hub would say in every run.

    The harness also asks git for a commit, which complains outside a repository, and several
    programs for their versions; neither is read here.
    """
    from lm_eval import evaluator

    harness: Any = evaluator
    asked = {name: getattr(harness, name) for name in ("get_git_commit_hash", "add_env_info")}
    for name in asked:
        setattr(harness, name, lambda *_: None)
    loggers = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        for name, function in asked.items():
            setattr(harness, name, function)
