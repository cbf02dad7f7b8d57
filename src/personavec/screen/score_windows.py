"""Score a dataset window by window, here or on a cluster, each window into a part of its own.

A window whose part fits the data is not scored again.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pyarrow as pa

from personavec.data import RawRow, in_windows, parts, stretches
from personavec.errors import DataError
from personavec.screen.cluster import cluster
from personavec.screen.datasets import ScreenDataset
from personavec.screen.job import ScreenJob
from personavec.screen.kept import Known, Settled, kept_scores, settle
from personavec.screen.score import Prepared, prepare, score_prepared
from personavec.screen.table import part_table
from personavec.wording import plural


class Clock:
    """Measures the seconds of the run and the speed of scoring."""

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


def score_dataset(
    job: ScreenJob,
    dataset: ScreenDataset,
    clock: Clock,
    *,
    total: int,
    content: Sequence[str],
    max_rejects: int | None,
) -> list[str]:
    """Score what has no scores yet; tokenising runs ahead in a thread. Returns notes.

    The dataset has `total` rows; `content` are their hashes, if there are scores to compare them
    with. A cluster finds both itself.

    Raises DataError for more bad rows than `max_rejects`, SettingsMismatchError if there are
    scores, but none of this dataset's rows.
    """
    if job.workers is not None:
        content = cluster().content(dataset.source, split=dataset.split, folder=dataset.folder)
    prompts = job.keeps_prompts(dataset)
    settled = settle(dataset.folder, content, dataset.name, with_prompts=prompts)
    known = Known(dataset.folder, with_prompts=prompts)
    try:
        rejects = settled.rejects
        _check_rejects(job, dataset, rejects, max_rejects)
        if job.workers is not None:
            scored = _on_ray(job, dataset, clock, settled.done)
        else:
            scored = _here(job, dataset, clock, settled.done, known, total)
        with closing(scored) as counts:
            for n in counts:
                rejects += n
                _check_rejects(job, dataset, rejects, max_rejects)
    finally:
        parts.gather_rejects([each.folder for each in job.inputs], job.rejects)
    known.forget()
    return _resume_notes(dataset, settled, on_cluster=job.workers is not None)


def _here(
    job: ScreenJob,
    dataset: ScreenDataset,
    clock: Clock,
    done: frozenset[int],
    known: Known,
    total: int,
) -> Generator[int, None, None]:
    """Score the windows that are not done; yields each one's number of bad rows."""
    n_windows = -(-total // parts.WINDOW)

    def prepared() -> Iterator[tuple[int, list[RawRow], Prepared]]:
        if len(done) == n_windows:
            return
        for number, raws in enumerate(in_windows(dataset.rows(), parts.WINDOW)):
            if number not in done:
                fresh = [raw for raw in raws if raw not in known]
                yield number, raws, prepare(job.loaded, fresh, job.plan)

    with job.progress.bar(f"scoring {dataset.name}", total) as bar:
        bar.found(min(total, len(done) * parts.WINDOW))
        for number, raws, fresh in parts.ahead(prepared()):
            table = _scored_table(job, dataset, clock, fresh) if fresh.raws else None
            table = known.complete(raws, table, job.plan.columns)
            yield parts.write_window(dataset.folder, number, raws, table, dataset.name)
            bar.advance(len(raws))


def _scored_table(
    job: ScreenJob, dataset: ScreenDataset, clock: Clock, fresh: Prepared
) -> pa.Table:
    """The scores of a window's new rows."""
    start = time.monotonic()
    columns = score_prepared(
        job.loaded,
        fresh,
        job.probe,
        job.plan,
        naturals=job.naturals if job.is_exact(dataset) else None,
        judge=job.judge,
        specs=job.specs,
        engine=job.engine,
    )
    clock.scored(int(columns.sequence_tokens.sum()), time.monotonic() - start)
    return part_table(columns, fresh, with_prompts=job.keeps_prompts(dataset))


def _on_ray(
    job: ScreenJob, dataset: ScreenDataset, clock: Clock, done: frozenset[int]
) -> Generator[int, None, None]:
    """The same on a cluster, whose workers finish windows in any order."""
    on_ray = cluster()
    work = replace(job.workers, keeps_prompts=job.keeps_prompts(dataset))
    if not job.is_exact(dataset):
        work = replace(work, natural_folder=None)
    todo, total = stretches(dataset.source, split=dataset.split, size=parts.WINDOW, done=done)
    left = sum(min(s.size, total - n * s.size) for s in todo for n in s.numbers)
    with job.progress.bar(f"scoring {dataset.name}", total) as bar:
        bar.found(total - left)
        since = time.monotonic()
        for scored in on_ray.score_stretches(work, todo, dataset.folder, dataset.name):
            now = time.monotonic()
            clock.scored(scored.tokens, now - since)
            since = now
            bar.advance(scored.rows)
            yield scored.rejects


def _resume_notes(dataset: ScreenDataset, settled: Settled, *, on_cluster: bool) -> list[str]:
    """Notes on the scores that an earlier run left behind."""
    notes = []
    if kept := kept_scores(dataset.folder):
        notes.append(
            f"{dataset.name} has changed since its screen was begun: {kept[0]} of its {kept[1]} "
            "rows are the same and kept their scores, the others were scored."
        )
    # Workers finish windows in any order, and a kill may leave out any.
    again = settled.damaged + (0 if on_cluster else settled.missing)
    if again:
        notes.append(
            f"{dataset.name}: missing or damaged parts of its scores were made again ({again})."
        )
    return notes


def _check_rejects(
    job: ScreenJob, dataset: ScreenDataset, rejects: int, max_rejects: int | None
) -> None:
    if max_rejects is not None and rejects > max_rejects:
        raise DataError(
            f"{plural(rejects, 'row')} of {dataset.name} cannot be used, more than --max-rejects "
            f"{max_rejects}; {job.rejects} says why; mend them, or allow more"
        )
