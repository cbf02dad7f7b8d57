"""The second of two stages: exact differences, from natural responses, for some of the rows.

Which rows, and what follows for all of them, is `two_stage.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personavec.screen import two_stage
from personavec.screen.cluster import cluster
from personavec.screen.job import Job
from personavec.screen.score import natural_projections, prepare
from personavec.screen.table import Scores


@dataclass(frozen=True, eq=False)
class Stage:
    """The second stage: which rows, and their exact differences [row, direction], NaN elsewhere."""

    chosen: two_stage.Chosen
    exact: np.ndarray


def second_stage(
    job: Job, scores: Scores, *, top_share: float, sample: int, seed: int
) -> Stage | None:
    """Score every trait's `top_share` of rows and `sample` random others; None for one stage."""
    if job.natural != "two-stage" or job.plan.kind == "pair":
        return None
    traits = len(job.probe.traits)
    cheap = scores.value[:, :traits].astype(np.float64)
    chosen = two_stage.choose(
        cheap,
        top=max(1, round(top_share * len(scores))),
        sample=sample,
        seed=seed,
    )
    places = np.sort(np.concatenate([chosen.top, chosen.sample]))
    exact = np.full(scores.value.shape, np.nan)
    with job.progress.bar("natural responses", len(places)) as bar:
        for number, dataset in enumerate(job.datasets):
            own = places[scores.dataset[places] == number]
            if job.workers is not None:
                # What the cluster has generated is only read below.
                filled = cluster().fill_naturals(
                    job.workers, dataset.source, scores.index[own], split=dataset.split
                )
                with job.progress.bar("generating on the cluster", len(own)) as generated:
                    for n in filled:
                        generated.advance(n)
            for group, raws in dataset.rows_at(scores.index[own], own, scores.content[number]):
                window = prepare(job.loaded, raws, job.plan)
                assert job.naturals is not None
                natural = natural_projections(window, job.probe, job.naturals)
                exact[group] = scores.projection[group] - natural
                bar.advance(len(raws))
    return Stage(chosen, exact)
