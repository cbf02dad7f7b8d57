"""Adopt existing rollouts in place of generating them.

Takes our `rollouts.jsonl`; the reference project's CSV, one file for each polarity; and
conversations in any format that the other verbs read, with a polarity in a column or the file's
name (`adopt_rows`). Activations are captured from the text in one pass. Scores in a file are used
as they are; rollouts without scores are judged.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save

from personavec.data import DataReading, RawColumns, ReadingCounts, read_rows, reason_kind
from personavec.errors import DataError
from personavec.extract.adopt_rows import AdoptedRow, Rejection, row_reader
from personavec.judges import Judge
from personavec.model import LoadedModel, capture_means, control_notes
from personavec.plain import json_text
from personavec.progress import Progress
from personavec.rollouts import Rollout, judged
from personavec.runs import atomic_write
from personavec.traits import TraitSpec
from personavec.wording import plural

#: Rollouts whose activations are written to disk together.
_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class RejectedRow:
    """A row that cannot be used, and why; a line of `rejected.jsonl`."""

    file: str
    row: int
    """Counted from 1."""
    why: str
    content: RawColumns


@dataclass(frozen=True, eq=False)
class AdoptedRollouts:
    """Rollouts from files, what was put before each response, and the rows that cannot be used."""

    paths: tuple[Path, ...]
    fingerprints: list[str]
    """Name and hash of every file, for the manifest."""
    rollouts: list[Rollout] = field(default_factory=list)
    prompt_ids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Token ids before the response, by rollout."""
    rejected: list[RejectedRow] = field(default_factory=list)
    counts: dict[str, ReadingCounts] = field(default_factory=dict)
    """How each file was read."""

    @property
    def note(self) -> str:
        """A sentence for the reader of the result."""
        names = ", ".join(path.name for path in self.paths)
        text = f"{plural(len(self.rollouts), 'rollout')} adopted from {names}, not generated"
        if not self.rejected:
            return f"{text}."
        reasons = Counter(row.why for row in self.rejected)
        listed = "; ".join(f"{n} of them: {why}" for why, n in reasons.most_common())
        return f"{text}; rejected: {plural(len(self.rejected), 'row')} ({listed})."

    def reading(self) -> dict[str, DataReading]:
        """How each file was read, for the results."""
        return {name: counts.record() for name, counts in self.counts.items()}

    def write_rejected(self, path: Path) -> None:
        """Write the rejected rows, each with its file, row number and reason."""
        if self.rejected:
            atomic_write(path, "".join(json_text(vars(row)) + "\n" for row in self.rejected))


def read_rollouts(loaded: LoadedModel, paths: Sequence[Path], spec: TraitSpec) -> AdoptedRollouts:
    """The rollouts in files, as rollouts of `loaded`.

    A row that cannot be used is in `rejected` with the reason. Raises DataError when a file lacks
    a column or says that another model wrote it, or when no row of a polarity is left.
    """
    found = AdoptedRollouts(tuple(paths), [_fingerprint(path) for path in paths])
    for number, path in enumerate(paths):
        rows = list(read_rows(path))
        read = row_reader(path, [row for _, row in rows], loaded, spec)
        counts = found.counts.setdefault(path.name, ReadingCounts())
        for row_number, row in rows:
            try:
                taken = read(row, f"f{number}-{row_number}")
                _check(taken.rollout, taken.prompt, loaded, spec, found)
            except Rejection as why:
                found.rejected.append(
                    RejectedRow(file=str(path), row=row_number, why=str(why), content=row)
                )
                counts.rejected[reason_kind(str(why))] += 1
                continue
            found.rollouts.append(taken.rollout)
            found.prompt_ids[taken.rollout.id] = taken.prompt
            _count(counts, taken, loaded)
    _require_both_polarities(found)
    return found


def _fingerprint(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def _count(counts: ReadingCounts, taken: AdoptedRow, loaded: LoadedModel) -> None:
    counts.readers[taken.reader] += 1
    counts.ignored.update(taken.ignored)
    counts.notes.update(taken.notes)
    counts.notes.update(control_notes([loaded.chat], taken.texts))


def _require_both_polarities(found: AdoptedRollouts) -> None:
    missing = {"pos", "neg"} - {rollout.polarity for rollout in found.rollouts}
    if missing:
        reasons = Counter(row.why for row in found.rejected).most_common(2)
        why = ", ".join(f"{plural(n, 'row')}: {reason}" for reason, n in reasons)
        raise DataError(
            f"{', '.join(map(str, found.paths))}: no usable rollout of polarity "
            f"{' or '.join(sorted(missing))} ({why or 'no such row'}); give one file for each, or "
            "one that holds both, written by this model"
        )


def adopt(
    loaded: LoadedModel,
    adopted: AdoptedRollouts,
    spec: TraitSpec,
    folder: Path,
    *,
    judge: Judge,
    activations: Path,
    include_thinking: bool = False,
    label: str = "rollouts",
    progress: Progress,
) -> list[Rollout]:
    """Capture the activations of adopted rollouts, and judge those without scores.

    Writes the same files as `rollouts.collect`, and continues like it.
    """
    _capture(loaded, adopted, activations, include_thinking, label, progress)
    unscored = [r for r in adopted.rollouts if r.judge is None and r.state == "unscored"]
    if not unscored:
        return adopted.rollouts
    scored = judged(judge, unscored, spec, folder, label=label, progress=progress)
    by_id = {rollout.id: rollout for rollout in scored}
    return [by_id.get(rollout.id, rollout) for rollout in adopted.rollouts]


def _capture(
    loaded: LoadedModel,
    adopted: AdoptedRollouts,
    folder: Path,
    include_thinking: bool,
    label: str,
    progress: Progress,
) -> None:
    texts = [rollout for rollout in adopted.rollouts if rollout.response_ids]
    with progress.bar(f"{label}: capturing", len(texts)) as bar:
        for start in range(0, len(texts), _GROUP):
            group = texts[start : start + _GROUP]
            path = folder / f"{start // _GROUP:04d}.safetensors"
            if not path.exists():
                prompts = [adopted.prompt_ids[rollout.id] for rollout in group]
                rows = [
                    [*prompt, *rollout.thinking_ids, *rollout.response_ids]
                    for prompt, rollout in zip(prompts, group, strict=True)
                ]
                spans = [
                    _spans(len(prompt), rollout, include_thinking)
                    for prompt, rollout in zip(prompts, group, strict=True)
                ]
                means = capture_means(loaded.model, rows, spans)
                by_id = {r.id: m.clone() for r, m in zip(group, means, strict=True)}
                atomic_write(path, save(by_id))
            bar.advance(len(group))


def _spans(prompt: int, rollout: Rollout, include_thinking: bool) -> list[tuple[int, int]]:
    """First and end positions of the engine's SPANS, in their order; `prompt` is its length."""
    answer = prompt + len(rollout.thinking_ids)
    end = answer + len(rollout.response_ids)
    return [(prompt if include_thinking else answer, end), (0, prompt), (prompt - 1, prompt)]


def _check(
    rollout: Rollout,
    prompt: tuple[int, ...],
    loaded: LoadedModel,
    spec: TraitSpec,
    found: AdoptedRollouts,
) -> None:
    """Refuse what would spoil an extraction, whatever file it comes from."""
    if rollout.polarity not in ("pos", "neg"):
        raise Rejection("neither its columns nor the file's name say pos or neg")
    if rollout.id in found.prompt_ids:
        raise Rejection("its id occurs twice")
    if rollout.question in spec.questions.evaluation:
        raise Rejection("its question is one of the evaluation questions")
    if len(prompt) + len(rollout.thinking_ids) + rollout.n_tokens > loaded.context:
        raise Rejection("longer than the model's context")
