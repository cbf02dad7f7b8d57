"""Answers in windows of tokens: the projection of each, and how strongly it shows the trait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from personavec.model import Directions, project_tokens
from personavec.rollouts import Rollout, judged
from personavec.studies.replicate.study import Study

#: Tokens of a window.
WINDOW = 32


def unit(directions: Sequence[Float[Tensor, " hidden"]], layer: int) -> Directions:
    """Directions at one layer, made of unit length."""
    stacked = torch.stack(list(directions)).float()
    return Directions((layer,) * len(stacked), stacked / stacked.norm(dim=-1, keepdim=True))


def projected(
    study: Study,
    prompts: Mapping[str, tuple[int, ...]],
    responses: Mapping[str, tuple[int, ...]],
    directions: Directions,
) -> dict[str, np.ndarray]:
    """By response: mean projections [window, direction] of its whole windows."""
    texts = [np.array([*prompts[id], *ids], np.int32) for id, ids in responses.items()]
    values = project_tokens(study.loaded.model, texts, directions)
    found = {}
    for (id, ids), own in zip(responses.items(), values, strict=True):
        n = len(ids) // WINDOW
        start = len(prompts[id])
        tokens = own[start : start + n * WINDOW].double().numpy()
        found[id] = tokens.reshape(n, WINDOW, -1).mean(1)
    return found


def shown(
    study: Study,
    trait: str,
    questions: Mapping[str, str],
    responses: Mapping[str, tuple[int, ...]],
    folder: Path,
) -> dict[str, np.ndarray]:
    """By response: the log-odds [window] of each whole window, judged by itself; NaN if unscored.

    Each is judged as an answer to the response's question; what came before it is not shown.
    """
    pieces = {
        f"{id}/w{k}": ids[k * WINDOW : (k + 1) * WINDOW]
        for id, ids in responses.items()
        for k in range(len(ids) // WINDOW)
    }
    texts = [
        _as_answer(study, id, questions[id.rpartition("/")[0]], own) for id, own in pieces.items()
    ]
    scores = judged(
        study.judge_of_tuned,
        texts,
        study.spec(trait),
        folder,
        label=f"{trait}, windows",
        progress=study.progress,
    )
    found: dict[str, list[float]] = {id: [] for id in responses}
    for score in scores:
        value = score.trait_score if score.log_odds is None else score.log_odds
        found[score.id.rpartition("/")[0]].append(np.nan if value is None else value)
    return {id: np.array(values) for id, values in found.items()}


def _as_answer(study: Study, id: str, question: str, ids: tuple[int, ...]) -> Rollout:
    empty = Rollout(
        id=id,
        question=question,
        pair=None,
        polarity=None,
        sample=0,
        system=None,
        response="",
        response_ids=ids,
        n_tokens=len(ids),
        seed=study.config.seed,
    )
    return replace(empty, response=study.loaded.chat.decode(ids))
