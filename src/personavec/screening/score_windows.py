"""Score datasets window by window, here or on a cluster, each window into a part of its own.

What has a part is not scored again: a killed run goes on with the first window that lacks one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from personavec.errors import DataError
from personavec.runs import atomic_write
from personavec.screening import parts
from personavec.screening.cluster import cluster
from personavec.screening.datasets import Dataset
from personavec.screening.job import Job
from personavec.screening.score import Prepared, prepare, score
from personavec.screening.stretches import stretches, windows


class Clock:
    """Seconds in all, and how fast tokens were scored."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._tokens, self._scoring = 0, 0.0

    def scored(self, tokens: int, seconds: float) -> None:
        """Count tokens that went through the model in so many seconds."""
        self._tokens += tokens
        self._scoring += seconds

    def seconds(self) -> float:
        """Since the clock was made."""
        return round(time.monotonic() - self._start, 1)

    @property
    def tokens_per_second(self) -> float | None:
        """None where a continued run found everything scored."""
        return round(self._tokens / self._scoring, 1) if self._scoring else None


def score_dataset(job: Job, dataset: Dataset, clock: Clock, *, max_rejects: int | None) -> None:
    """Score what has no scores yet, window by window; tokenising runs ahead in a thread.

    Raises DataError for more bad rows than `max_rejects`.
    """
    if job.workers is not None:
        _score_on_ray(job, dataset, clock, max_rejects)
        return
    done = len(parts.parts(dataset.folder))
    rejects = parts.forget_rejects(job.rejects, dataset.name, done * parts.WINDOW)
    complete = dataset.folder / "complete"
    if complete.exists():
        return
    exact = _is_exact(job, dataset)

    def prepared() -> Iterator[tuple[int, Prepared]]:
        for number, raws in enumerate(windows(dataset.rows(), parts.WINDOW)):
            if number >= done:
                yield number, prepare(job.loaded, raws, job.plan)

    total = _total(dataset)
    with job.progress.bar(f"scoring {dataset.name}", total) as bar:
        bar.advance(min(total, done * parts.WINDOW))
        for number, window in parts.ahead(prepared()):
            start = time.monotonic()
            columns = score(
                job.loaded,
                window,
                job.probe,
                job.plan,
                naturals=job.naturals if exact else None,
                judge=job.judge,
                specs=job.specs,
                engine=job.scoring.engine if job.scoring else None,
            )
            clock.scored(int(columns.sequence_tokens.sum()), time.monotonic() - start)
            rejects += parts.keep_rejects(
                job.rejects, window.raws, columns.id, columns.reason, dataset.name
            )
            parts.write_part(parts.part(dataset.folder, number), parts.to_table(columns))
            bar.advance(len(columns))
            _check_rejects(job, dataset, rejects, max_rejects)
    atomic_write(complete, "")


def _score_on_ray(job: Job, dataset: Dataset, clock: Clock, max_rejects: int | None) -> None:
    """The same on a cluster, whose workers finish windows in any order."""
    complete = dataset.folder / "complete"
    if complete.exists():
        return
    on_ray = cluster()
    work = job.workers if _is_exact(job, dataset) else replace(job.workers, natural_folder=None)
    done, rejects = on_ray.finished(dataset.folder)
    todo, total = stretches(dataset.source, split=dataset.split, size=parts.WINDOW, done=done)
    left = sum(min(s.size, total - n * s.size) for s in todo for n in s.numbers)
    try:
        with job.progress.bar(f"scoring {dataset.name}", total) as bar:
            bar.advance(total - left)
            since = time.monotonic()
            for scored in on_ray.score_stretches(work, todo, dataset.folder, dataset.name):
                now = time.monotonic()
                clock.scored(scored.tokens, now - since)
                since = now
                bar.advance(scored.rows)
                rejects += scored.rejects
                _check_rejects(job, dataset, rejects, max_rejects)
    finally:
        on_ray.gather_rejects(dataset.folder, dataset.name, job.rejects)
    atomic_write(complete, "")


def _is_exact(job: Job, dataset: Dataset) -> bool:
    """Is every row held against its natural response, and not against its prompt?

    In two stages, the line that exact differences are held against needs exact ones too.
    """
    two = job.natural == "two-stage"
    return job.natural == "generate" or (two and dataset is job.reference)


def _check_rejects(job: Job, dataset: Dataset, rejects: int, max_rejects: int | None) -> None:
    if max_rejects is not None and rejects > max_rejects:
        raise DataError(
            f"{rejects} rows of {dataset.name} cannot be used, more than --max-rejects "
            f"{max_rejects}; {job.rejects} says why; mend them, or allow more"
        )


def _total(dataset: Dataset) -> int:
    """Rows to come, for the progress bar; counted by reading, which costs little beside scoring."""
    return sum(1 for _ in dataset.rows())
