"""Adopt rollouts that exist already in place of generating them.

Takes our `rollouts.jsonl`; the reference project's CSV, one file a polarity, with the columns
question, prompt (templated text), answer, question_id, coherence, and one named as the trait; and
conversations in any format that the other verbs read, with a polarity in a column or the file's
name. Activations are captured from the text in one pass; scores in a file stand, others are judged.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from personavec.data import (
    THOUGHT,
    DataRow,
    Message,
    RawRow,
    ReadingCounts,
    Reject,
    parse_row,
    read_rows,
    reason_kind,
    split_thought,
)
from personavec.errors import DataError
from personavec.judges import Judge, last_answer
from personavec.model import EarlierTurns, LoadedModel, capture_means, chat, control_notes
from personavec.plain import json_text, parse_json
from personavec.progress import Progress
from personavec.rollouts import Rollout, from_record, judged, prompt_ids
from personavec.runs import atomic_write
from personavec.traits import POLARITIES, Polarity, TraitSpec
from personavec.wording import plural

#: Rollouts whose activations are written to disk together.
_GROUP = 64
_POLARITY = re.compile(r"(?:^|_)(pos|neg)(?=_|$)")
_MARKER = "personavec-system-marker"


@dataclass(frozen=True, eq=False)
class Adopted:
    """Rollouts from files, what was put before each response, and the rows that cannot be used."""

    rollouts: list[Rollout]
    prompt_ids: dict[str, tuple[int, ...]]
    rejected: list[dict[str, Any]]
    told: dict[str, ReadingCounts] = field(default_factory=dict)
    """What reading has to tell, by file."""

    def note(self, paths: Sequence[Path]) -> str:
        """A sentence for the reader of the result."""
        names = ", ".join(path.name for path in paths)
        text = f"The {len(self.rollouts)} rollouts were adopted from {names}, not generated"
        if not self.rejected:
            return f"{text}."
        reasons = Counter(row["why"] for row in self.rejected)
        listed = "; ".join(f"{n} of them: {why}" for why, n in reasons.most_common())
        return f"{text}; rejected: {plural(len(self.rejected), 'row')} ({listed})."

    def write_rejected(self, path: Path) -> None:
        """Keep the rejected rows aside, each with its file, row number and reason."""
        if self.rejected:
            lines = (json_text(row) + "\n" for row in self.rejected)
            atomic_write(path, "".join(lines))


def fingerprints(paths: Sequence[Path]) -> list[str]:
    """Name and hash of every file, for the settings of a run. Raises DataError."""
    found = []
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        found.append(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}")
    return found


def read_rollouts(loaded: LoadedModel, paths: Sequence[Path], spec: TraitSpec) -> Adopted:
    """The rollouts in files, as rollouts of `loaded`.

    A row that cannot be used stands among `rejected` with the reason. Raises DataError when a
    file lacks a column or says that another model wrote it, or when no row of a polarity is left.
    """
    found = Adopted([], {}, [])
    for number, path in enumerate(paths):
        rows = list(read_rows(path))
        read = _reader(path, [row for _, row in rows], loaded, spec)
        told = found.told.setdefault(path.name, ReadingCounts())
        for row_number, row in rows:
            try:
                taken = read(row, f"f{number}-{row_number}")
                _check(taken.rollout, taken.prompt, loaded, spec, found)
            except _Rejection as why:
                found.rejected.append(
                    {"file": str(path), "row": row_number, "why": str(why), "content": row}
                )
                told.rejected[reason_kind(str(why))] += 1
                continue
            found.rollouts.append(taken.rollout)
            found.prompt_ids[taken.rollout.id] = taken.prompt
            told.readers[taken.reader] += 1
            told.ignored.update(taken.ignored)
            told.notes.update(taken.notes)
            told.notes.update(control_notes([loaded.chat], taken.texts))
    missing = {"pos", "neg"} - {rollout.polarity for rollout in found.rollouts}
    if missing:
        reasons = Counter(row["why"] for row in found.rejected).most_common(2)
        why = ", ".join(f"{plural(n, 'row')}: {reason}" for reason, n in reasons)
        raise DataError(
            f"{', '.join(map(str, paths))}: no usable rollout of polarity "
            f"{' or '.join(sorted(missing))} ({why or 'no such row'}); give one file for each, or "
            "one that holds both, written by this model"
        )
    return found


def adopt(
    loaded: LoadedModel,
    adopted: Adopted,
    spec: TraitSpec,
    folder: Path,
    *,
    judge: Judge,
    activations: Path,
    include_thinking: bool = False,
    label: str = "rollouts",
    progress: Progress,
) -> list[Rollout]:
    """Capture the activations of adopted rollouts and judge those that came without scores.

    Writes as `rollouts.collect` does, and continues like it.
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
    adopted: Adopted,
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
                rows, spans = [], []
                for rollout in group:
                    prompt = adopted.prompt_ids[rollout.id]
                    rows.append([*prompt, *rollout.thinking_ids, *rollout.response_ids])
                    answer = len(prompt) + len(rollout.thinking_ids)
                    begins = len(prompt) if include_thinking else answer
                    # In the order of the engine's SPANS.
                    spans.append(
                        [(begins, len(rows[-1])), (0, len(prompt)), (len(prompt) - 1, len(prompt))]
                    )
                means = capture_means(loaded.model, rows, spans)
                by_id = {r.id: m.clone() for r, m in zip(group, means, strict=True)}
                atomic_write(path, save(by_id))
            bar.advance(len(group))


# Rows


class _Rejection(Exception):
    """Why a row cannot be used."""


@dataclass(frozen=True)
class _Taken:
    """A row as a rollout, and what reading it has to tell."""

    rollout: Rollout
    prompt: tuple[int, ...]
    reader: str
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def texts(self) -> list[Message]:
        """What of it is read as text; a prompt of the reference project is templated already."""
        own, templated = self.rollout, self.reader == _REFERENCE_READER
        asked = [] if templated else chat(own.question, own.system, own.earlier)
        reply: Message = {"role": "assistant", "content": (own.thinking or "") + own.response}
        return [*asked, reply]


def _reader(
    path: Path, rows: Sequence[Mapping[str, Any]], loaded: LoadedModel, spec: TraitSpec
) -> Callable[[Mapping[str, Any], str], _Taken]:
    """The function that reads this file's rows; its columns are checked here."""
    columns = set().union(*rows) if rows else set()
    match = _POLARITY.search(path.stem)
    side = match[1] if match else None
    if {"response", "polarity"} <= columns:
        _same_model(path, loaded)
        _require(path, columns, "question")
        return lambda row, _: _ours(row, loaded)
    trait = next((c for c in sorted(columns) if _plain(c) == _plain(spec.name)), None)
    is_reference = "question_id" in columns or {"question", "prompt", "answer"} <= columns
    raws = (_raw(path, number, row) for number, row in enumerate(rows, start=1))
    is_conversation = any(isinstance(parse_row(raw, kind="row"), DataRow) for raw in raws)
    if is_reference or not is_conversation:
        needed = ("question", "polarity") if "response" in columns else _REFERENCE
        _require(path, columns, *needed)
    if (trait is None) != ("coherence" not in columns):
        _require(path, columns, trait or spec.name, "coherence")
    if is_reference:
        return lambda row, key: _reference(row, key, side, trait, loaded)
    return lambda row, key: _conversation(_raw(path, 0, row), key, side, trait, loaded)


_REFERENCE = ("question", "prompt", "answer")
_REFERENCE_READER = "reference project"


def _raw(path: Path, number: int, row: Mapping[str, Any]) -> RawRow:
    return RawRow(number, path.name, number, dict(row), error=row.get("_error"))


def _require(path: Path, columns: set[str], *names: str) -> None:
    if missing := [name for name in names if name not in columns]:
        raise DataError(
            f"{path} has no column '{missing[0]}' (found: {', '.join(sorted(columns)) or 'none'}); "
            "give a rollouts.jsonl of personavec, or a CSV with the columns question, prompt, "
            "answer, question_id and, with scores, coherence and the trait's name"
        )


def _plain(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")


def _same_model(path: Path, loaded: LoadedModel) -> None:
    """Refuse rollouts whose run, by the manifest beside them, was another model's."""
    manifest = path.parent / "manifest.json"
    if not manifest.is_file():
        return
    try:
        writer = parse_json(manifest.read_bytes())["model"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if writer != loaded.identity.name:
        raise DataError(
            f"{path} holds rollouts of {writer}, not of {loaded.identity.name}: a vector is made "
            f"from what its own model writes; use --model {writer}, or generate them anew"
        )


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise _Rejection(row.get("_error") or f"no text in '{name}'")
    return value


def _ours(row: Mapping[str, Any], loaded: LoadedModel) -> _Taken:
    """A line of our rollouts.jsonl; ids, where it has them, are read as they are."""
    _text(row, "question")
    response = row.get("response")
    if not isinstance(response, str):
        raise _Rejection(row.get("_error") or "no text in 'response'")
    kept = {name: value for name, value in row.items() if name in _FIELDS}
    notes: tuple[str, ...] = ()
    if "response_ids" not in row:
        said = _answered(response, loaded)
        # What the row says of itself stands, unless there is no answer behind its thought.
        own = kept.get("state", "unscored") if said.answer or not response else None
        response, notes = said.answer, said.notes
        kept |= said.fields | ({"state": own} if own else {})
    defaults = {"pair": None, "sample": 0, "system": None, "seed": 0, "state": "unscored"}
    try:
        rollout = from_record({"n_tokens": 0, **defaults, **kept})
    except DataError as error:
        raise _Rejection(f"not a rollout of this version: {error}") from error
    if loaded.chat.decode(rollout.response_ids) != response:
        raise _Rejection("its token ids are another model's")
    scores = {name: _score(row, name) for name in ("trait_score", "coherence")}
    if not rollout.response_ids:
        scores = dict.fromkeys(scores)
    if not rollout.response_ids and rollout.state != "unfinished_thought":
        rollout = replace(rollout, state="empty", judge=None)
    if rollout.state == "unscored" and None not in scores.values():
        rollout = replace(rollout, state="scored", judge=rollout.judge or "file")
    rollout = replace(rollout, n_tokens=len(rollout.response_ids), **scores)
    ignored = tuple(name for name in row if name not in _FIELDS)
    return _Taken(rollout, prompt_ids(loaded, rollout), "rollouts.jsonl", ignored, notes)


_FIELDS = frozenset(field.name for field in fields(Rollout))


def _reference(
    row: Mapping[str, Any], key: str, side: Any, trait: str | None, loaded: LoadedModel
) -> _Taken:
    """A row of the reference project; its question_id ends in polarity and pair, as `_pos_2`."""
    question, prompt, answer = (_text(row, name) for name in _REFERENCE)
    named = re.search(r"_(pos|neg)_(\d+)$", str(row.get("question_id") or ""))
    polarity: Polarity | None = named[1] if named else side  # pyright: ignore[reportAssignmentType]
    said = _answered(answer, loaded)
    rollout = Rollout(
        id=f"{polarity}-{key}",
        question=question,
        pair=int(named[2]) if named else None,
        polarity=polarity,
        sample=0,
        system=_system(prompt, question, loaded),
        seed=0,
        **{**said.fields, **_scores(row, trait, said)},
    )
    used = {*_REFERENCE, "question_id", "coherence", trait}
    ignored = tuple(str(name) for name in row if name not in used)
    prompt_tokens = tuple(loaded.chat.templated_ids(prompt))
    return _Taken(rollout, prompt_tokens, _REFERENCE_READER, ignored, said.notes)


def _conversation(
    raw: RawRow, key: str, side: Any, trait: str | None, loaded: LoadedModel
) -> _Taken:
    """A row in a format of the other verbs: its last answer, to the question before it."""
    row = parse_row(raw, kind="row")
    if isinstance(row, Reject):
        raise _Rejection(row.reason)
    polarity = raw.columns.get("polarity", side)
    asked = last_answer(row.messages)
    said = _answered(asked.response, loaded)
    rollout = Rollout(
        id=f"{polarity}-{key}",
        question=asked.question,
        pair=None,
        polarity=polarity if polarity in POLARITIES else None,
        sample=0,
        system=asked.system,
        seed=0,
        earlier=_earlier(row.messages),
        **{**said.fields, **_scores(raw.columns, trait, said)},
    )
    used = {"polarity", "coherence", trait}
    ignored = tuple(name for name in row.ignored if name not in used)
    notes = (*row.notes, *said.notes)
    return _Taken(rollout, prompt_ids(loaded, rollout), row.reader, ignored, notes)


def _earlier(messages: Sequence[Message]) -> EarlierTurns:
    """The turns before the last question, which must be questions and answers in turn."""
    turns = [m for m in messages if m["role"] != "system"][:-2]
    roles = [message["role"] for message in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2):
        raise _Rejection("its turns are not questions and answers in turn")
    texts = [message["content"] for message in turns]
    return tuple(zip(texts[0::2], texts[1::2], strict=True))


@dataclass(frozen=True)
class _Said:
    """What a file's text of an answer holds."""

    answer: str
    fields: dict[str, Any]
    """Of the rollout."""
    notes: tuple[str, ...] = ()


def _answered(text: str, loaded: LoadedModel) -> _Said:
    """The answer without its thought, which is kept before it where the model thinks."""
    thought, answer = split_thought(text)
    ids = tuple(loaded.chat.response_ids(answer or ""))
    state = "unfinished_thought" if answer is None else "unscored" if ids else "empty"
    found = {"response": answer or "", "response_ids": ids, "n_tokens": len(ids), "state": state}
    if thought is None:
        return _Said(answer or "", found)
    if loaded.chat.thinking is None:
        return _Said(answer or "", found, (THOUGHT,))
    before = text[: text.rfind(answer)] if answer else text
    thinking_ids = tuple(loaded.chat.marked_ids(before))
    return _Said(answer or "", {**found, "thinking": before, "thinking_ids": thinking_ids})


def _scores(row: Mapping[str, Any], trait: str | None, said: _Said) -> dict[str, Any]:
    """The file's scores of an answer, where there is an answer."""
    if trait is None:
        return {}
    if not said.fields["response_ids"]:
        return {"judge": "file"}
    score, coherence = _score(row, trait), _score(row, "coherence")
    state = "unscored" if score is None or coherence is None else "scored"
    return {"judge": "file", "trait_score": score, "coherence": coherence, "state": state}


def _system(prompt: str, question: str, loaded: LoadedModel) -> str | None:
    """The system prompt in a templated prompt, of whatever day; refused where the template is
    not this model's. None where it has none but the template's own.
    """
    if loaded.chat.text_with_any_date(chat(question)).fullmatch(prompt):
        return None
    form = loaded.chat.text_with_any_date(chat(question, _MARKER)).pattern
    found = re.fullmatch(form.replace(re.escape(_MARKER), "(?P<system>.*)"), prompt, re.DOTALL)
    if found is None:
        raise _Rejection("its prompt is not in this model's chat template")
    return found["system"]


def _score(row: Mapping[str, Any], name: str) -> float | None:
    """A score from 0 to 100; None where the cell is empty, as a judge leaves it that gave none."""
    value = row.get(name)
    if value is None or str(value).strip().lower() in ("", "nan", "none"):
        return None
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise _Rejection(f"'{name}' is no number") from None
    if not (math.isfinite(score) and 0 <= score <= 100):
        raise _Rejection(f"'{name}' is not between 0 and 100")
    return score


def _check(
    rollout: Rollout,
    prompt: tuple[int, ...],
    loaded: LoadedModel,
    spec: TraitSpec,
    found: Adopted,
) -> None:
    """Refuse what would spoil an extraction, whatever file it comes from."""
    if rollout.polarity not in ("pos", "neg"):
        raise _Rejection("neither its columns nor the file's name say pos or neg")
    if rollout.id in found.prompt_ids:
        raise _Rejection("its id occurs twice")
    if rollout.question in spec.questions.evaluation:
        raise _Rejection("its question is one of the evaluation questions")
    if len(prompt) + len(rollout.thinking_ids) + rollout.n_tokens > loaded.context:
        raise _Rejection("longer than the model's context")
