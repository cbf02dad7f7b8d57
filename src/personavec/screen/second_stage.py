"""The second of two stages: exact differences, from natural responses, for some of the rows.

`two_stage.py` chooses the rows and computes the estimates for all rows. The prompts are stored with
the scores, so the data are not read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from personavec.screen import two_stage
from personavec.screen.cluster import cluster
from personavec.screen.job import ScreenJob
from personavec.screen.score import TurnPrompt, natural_values
from personavec.screen.table import Scores, read_turn_prompts

#: Rows whose natural responses are generated together.
_GROUP = 128


@dataclass(frozen=True, eq=False)
class SecondStage:
    """The rows that got an exact difference."""

    chosen: two_stage.Chosen
    exact: np.ndarray
    """Exact differences [row, direction]; NaN for the other rows."""

    @property
    def without_natural(self) -> np.ndarray:
        """Number of chosen rows without a natural response, by direction."""
        return np.isnan(self.exact[_places(self.chosen)]).sum(0)


def second_stage(
    job: ScreenJob, scores: Scores, *, top_share: float, sample: int, seed: int
) -> SecondStage | None:
    """Score the top share of each trait and `sample` other rows; None if there is one stage."""
    if not job.two_stage:
        return None
    cheap = scores.value[:, : len(job.probe.traits)].astype(np.float64)
    top = max(1, round(top_share * len(scores)))
    chosen = two_stage.choose(cheap, top=top, sample=sample, seed=seed)
    places = _places(chosen)
    exact = np.full(scores.value.shape, np.nan)
    with job.progress.bar("natural responses", len(places)) as bar:
        for number in range(len(job.datasets)):
            own = places[scores.dataset[places] == number]
            _generate_on_cluster(job, number, scores.index[own])
            for group, prompts in _groups(job, number, scores, own):
                assert job.naturals is not None
                natural = natural_values(prompts, job.probe, job.naturals)
                exact[group] = scores.projection[group] - natural
                bar.advance(len(group))
    return SecondStage(chosen, exact)


def _places(chosen: two_stage.Chosen) -> np.ndarray:
    return np.sort(np.concatenate([chosen.top, chosen.sample]))


def _groups(
    job: ScreenJob, number: int, scores: Scores, places: np.ndarray
) -> Iterator[tuple[np.ndarray, list[list[TurnPrompt]]]]:
    """Positions of one dataset's rows, and their prompts, in groups of `_GROUP` rows."""
    index = scores.index[places]
    place_of = dict(zip(index.tolist(), places.tolist(), strict=True))
    found = read_turn_prompts(job.datasets[number].folder, index)
    while group := list(islice(found, _GROUP)):
        yield np.array([place_of[row] for row, _ in group]), [prompts for _, prompts in group]


def _generate_on_cluster(job: ScreenJob, number: int, index: np.ndarray) -> None:
    """Generate and store the natural responses on the cluster, if there is one."""
    if job.workers is None:
        return
    dataset = job.datasets[number]
    filled = cluster().fill_naturals(job.workers, dataset.source, index, split=dataset.split)
    with job.progress.bar("generating on the cluster", len(index)) as bar:
        for n in filled:
            bar.advance(n)
