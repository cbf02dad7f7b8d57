"""The rows that a person should read: their texts, and the words in them that carry a trait.

The texts are taken while the files are written, so the data are not read for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from personavec.data import Message, RawRow
from personavec.model import Encoded
from personavec.results import finite
from personavec.runs import append_records, atomic_path
from personavec.screen.explain import explain
from personavec.screen.job import ScreenJob
from personavec.screen.results import Piece, RankedRow, RankedRows
from personavec.screen.score import prepare
from personavec.screen.table import Scores
from personavec.screen.trait_scores import TraitScores, any_flagged

#: Rows that are tokenised and explained together.
_GROUP = 64


@dataclass(frozen=True)
class Ranks:
    """Places, in the scores, of the rows that rank highest and lowest on one trait."""

    high: tuple[int, ...]
    low: tuple[int, ...]


def rank(own: TraitScores, n: int) -> Ranks:
    """The `n` highest rows and half as many of the lowest; missing values are left out."""
    return Ranks(_highest(own.ranking, n), _highest(-own.ranking, max(1, n // 2)))


def _highest(values: np.ndarray, n: int) -> tuple[int, ...]:
    known = np.flatnonzero(np.isfinite(values))
    return tuple(known[np.argsort(-values[known], kind="stable")[:n]].tolist())


@dataclass(frozen=True)
class RowTexts:
    """A row's texts, the same for all traits that it is ranked for."""

    dataset: str
    index: int
    id: str
    messages: tuple[Message, ...]
    rejected: str | None
    natural: str | None
    pieces: dict[str, tuple[Piece, ...]]
    """By trait, if the row was explained."""


class TextReader:
    """Takes rows as they are read; keeps the texts of ranked ones, explains these and flagged."""

    def __init__(
        self,
        job: ScreenJob,
        traits: Sequence[TraitScores],
        ranks: Sequence[Ranks],
        explained: Path | None,
    ):
        self._job, self._traits, self._explained = job, traits, explained
        self._ranked = {place for own in ranks for place in (*own.high, *own.low)}
        flagged = any_flagged(traits) if explained is not None else np.zeros(0, bool)
        self.places = self._ranked | set(np.flatnonzero(flagged).tolist())
        """The rows that are wanted, by place in the scores."""
        self.found: dict[int, RowTexts] = {}
        self._waiting: list[tuple[int, RawRow]] = []
        self._dataset, self._last = "", -1

    def add(self, dataset: str, place: int, raw: RawRow) -> None:
        """Take one row; of places that come again, as when files are written anew, the first."""
        if place not in self.places or place <= self._last:
            return
        if dataset != self._dataset:
            self.finish()
        self._dataset, self._last = dataset, place
        self._waiting.append((place, raw))
        if len(self._waiting) == _GROUP:
            self.finish()

    def finish(self) -> None:
        """Read the texts of the rows that wait."""
        waiting, self._waiting = self._waiting, []
        job = self._job
        rows = prepare(job.loaded, [raw for _, raw in waiting], job.plan).encoded
        pieces: list[dict[str, tuple[Piece, ...]]] = [{} for _ in rows]
        if self._explained is not None and rows:
            pieces = explain(
                job.loaded,
                rows,
                job.probe.traits,
                job.probe.directions,
                batch_tokens=job.plan.batch_tokens,
            )
            append_records(
                self._explained,
                [
                    _explained(row, self._dataset, own, self._traits, place)
                    for (place, _), row, own in zip(waiting, rows, pieces, strict=True)
                ],
            )
        for (place, _), row, own in zip(waiting, rows, pieces, strict=True):
            if place in self._ranked:
                self.found[place] = _texts(job, row, self._dataset, own)


@contextmanager
def reading_texts(
    job: ScreenJob, traits: Sequence[TraitScores], ranks: Sequence[Ranks], *, explained: bool
) -> Iterator[TextReader]:
    """A reader of ranked rows' texts. `explained`: it writes `explained.jsonl` too."""
    target = explanations(job)
    if not explained:
        target.unlink(missing_ok=True)
        reader = TextReader(job, traits, ranks, None)
        yield reader
        reader.finish()
        return
    with atomic_path(target) as aside:
        aside.touch()
        reader = TextReader(job, traits, ranks, aside)
        yield reader
        reader.finish()
    if not target.stat().st_size:
        target.unlink()


def explanations(job: ScreenJob) -> Path:
    """The file of explained rows."""
    return job.out / "explained.jsonl"


def ranked_rows(
    own: TraitScores, trait: str, scores: Scores, ranks: Ranks, texts: Mapping[int, RowTexts]
) -> RankedRows:
    """One trait's ranked rows with their texts and figures."""

    def record(place: int) -> RankedRow:
        return RankedRow(
            **_shared(texts[place]),
            pieces=texts[place].pieces.get(trait),
            value=finite(own.ranking[place]),
            difference=finite(own.value[place]),
            projection=finite(scores.projection[place, own.trait]),
            log_odds=finite(scores.judged[place, own.trait]),
            n_tokens=int(scores.n_tokens[place]),
            flagged=bool(own.flags.flagged[place]),
            groups={name: values[place] for name, values in scores.groups.items()},
        )

    return RankedRows(high=tuple(map(record, ranks.high)), low=tuple(map(record, ranks.low)))


def _shared(texts: RowTexts) -> dict[str, Any]:
    """The fields of a `RankedRow` that its texts give."""
    names = ("dataset", "index", "id", "messages", "rejected", "natural")
    return {name: getattr(texts, name) for name in names}


def _explained(
    row: Encoded,
    dataset: str,
    pieces: dict[str, tuple[Piece, ...]],
    traits: Sequence[TraitScores],
    place: int,
) -> dict[str, Any]:
    """The record of an explained row: its spans, for the traits that it is flagged for."""
    over = [own.flags.flagged[place] for own in traits]
    return {
        "dataset": dataset,
        "index": row.row.index,
        "id": row.row.id,
        "spans": {
            trait: [{"text": p.text, "projection": p.projection} for p in found if p.span]
            for (trait, found), flagged in zip(pieces.items(), over, strict=True)
            if flagged or not any(over)
        },
    }


def _texts(
    job: ScreenJob, row: Encoded, dataset: str, pieces: dict[str, tuple[Piece, ...]]
) -> RowTexts:
    text, turn = row.texts[-1], row.texts[-1].turns[-1]
    natural = None
    if job.naturals is not None:
        natural = job.naturals.response(text.ids[: turn.prompt_last + 1].tolist())
    return RowTexts(
        dataset=dataset,
        index=row.row.index,
        id=row.row.id,
        messages=row.row.messages,
        rejected=row.row.rejected[-1]["content"] if row.row.rejected else None,
        natural=natural.response if natural else None,
        pieces=pieces,
    )
