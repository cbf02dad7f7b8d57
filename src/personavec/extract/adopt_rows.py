"""Turn rows of adopted files into rollouts, for each kind of file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from personavec.data import (
    THOUGHT,
    DataRow,
    Message,
    RawColumns,
    RawRow,
    Reject,
    parse_row,
    split_thought,
)
from personavec.errors import DataError
from personavec.judges import last_answer
from personavec.model import EarlierTurns, LoadedModel, chat
from personavec.plain import parse_json
from personavec.rollouts import Rollout, from_record, prompt_ids
from personavec.traits import POLARITIES, Polarity, TraitSpec

_POLARITY = re.compile(r"(?:^|_)(pos|neg)(?=_|$)")
_MARKER = "personavec-system-marker"


class Rejection(Exception):
    """Why a row cannot be used."""


@dataclass(frozen=True)
class AdoptedRow:
    """A row as a rollout, with how it was read."""

    rollout: Rollout
    prompt: tuple[int, ...]
    reader: str
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def texts(self) -> list[Message]:
        """The messages that are templated; prompts of the reference project already are."""
        own, templated = self.rollout, self.reader == _REFERENCE_READER
        asked = [] if templated else chat(own.question, own.system, own.earlier)
        reply: Message = {"role": "assistant", "content": (own.thinking or "") + own.response}
        return [*asked, reply]


@dataclass(frozen=True)
class _FileFacts:
    """What holds for all rows of a file."""

    path: Path
    side: str | None
    """The polarity in the file's name, if any."""
    trait: str | None
    """The column with trait scores, if any."""


def row_reader(
    path: Path, rows: Sequence[RawColumns], loaded: LoadedModel, spec: TraitSpec
) -> Callable[[RawColumns, str], AdoptedRow]:
    """The function that reads the file's rows; it takes a row and a key for the rollout's id.

    Raises DataError if a column is missing.
    """
    columns = set().union(*rows) if rows else set()
    if {"response", "polarity"} <= columns:
        _same_model(path, loaded)
        _require(path, columns, "question")
        return lambda row, _: _ours(row, loaded)
    match = _POLARITY.search(path.stem)
    trait = next((c for c in sorted(columns) if _plain(c) == _plain(spec.name)), None)
    file = _FileFacts(path, match[1] if match else None, trait)
    is_reference = "question_id" in columns or {"question", "prompt", "answer"} <= columns
    raws = (_raw(path, number, row) for number, row in enumerate(rows, start=1))
    is_conversation = any(isinstance(parse_row(raw, kind="row"), DataRow) for raw in raws)
    if is_reference or not is_conversation:
        needed = ("question", "polarity") if "response" in columns else _REFERENCE
        _require(path, columns, *needed)
    if (trait is None) != ("coherence" not in columns):
        _require(path, columns, trait or spec.name, "coherence")
    read = _reference if is_reference else _conversation
    return lambda row, key: read(row, key, file, loaded)


_REFERENCE = ("question", "prompt", "answer")
_REFERENCE_READER = "reference project"


def _raw(path: Path, number: int, row: RawColumns) -> RawRow:
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
    """Raise DataError if the manifest beside the rollouts names another model."""
    manifest = path.parent / "manifest.json"
    if not manifest.is_file():
        return
    try:
        writer = parse_json(manifest.read_bytes())["model"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if writer != loaded.identity.name:
        raise DataError(
            f"{path} holds rollouts of {writer}, not of {loaded.identity.name}: a vector must be "
            f"made from its own model's rollouts; use --model {writer}, or generate new ones"
        )


def _text(row: RawColumns, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise Rejection(row.get("_error") or f"no text in '{name}'")
    return value


def _ours(row: RawColumns, loaded: LoadedModel) -> AdoptedRow:
    """A line of our rollouts.jsonl; token ids, if it has them, are used as they are."""
    _text(row, "question")
    response = row.get("response")
    if not isinstance(response, str):
        raise Rejection(row.get("_error") or "no text in 'response'")
    kept = {name: value for name, value in row.items() if name in _FIELDS}
    notes: tuple[str, ...] = ()
    if "response_ids" not in row:
        parsed = _answered(response, loaded)
        # Keep the row's own state, unless its thought has no answer after it.
        own = kept.get("state", "unscored") if parsed.answer or not response else None
        response, notes = parsed.answer, parsed.notes
        kept |= parsed.fields | ({"state": own} if own else {})
    defaults = {"pair": None, "sample": 0, "system": None, "seed": 0, "state": "unscored"}
    try:
        rollout = from_record({"n_tokens": 0, **defaults, **kept})
    except DataError as error:
        raise Rejection(f"not a rollout of this version: {error}") from error
    if loaded.chat.decode(rollout.response_ids) != response:
        raise Rejection("its token ids are another model's")
    scores = {name: _score(row, name) for name in ("trait_score", "coherence")}
    if not rollout.response_ids:
        scores = dict.fromkeys(scores)
    if not rollout.response_ids and rollout.state != "unfinished_thought":
        rollout = replace(rollout, state="empty", judge=None)
    if rollout.state == "unscored" and None not in scores.values():
        rollout = replace(rollout, state="scored", judge=rollout.judge or "file")
    rollout = replace(rollout, n_tokens=len(rollout.response_ids), **scores)
    ignored = tuple(name for name in row if name not in _FIELDS)
    return AdoptedRow(rollout, prompt_ids(loaded, rollout), "rollouts.jsonl", ignored, notes)


_FIELDS = frozenset(field.name for field in fields(Rollout))


def _reference(row: RawColumns, key: str, file: _FileFacts, loaded: LoadedModel) -> AdoptedRow:
    """A row of the reference project, whose question_id ends with polarity and pair: `_pos_2`."""
    question, prompt, answer = (_text(row, name) for name in _REFERENCE)
    named = re.search(r"_(pos|neg)_(\d+)$", str(row.get("question_id") or ""))
    polarity: Polarity | None = named[1] if named else file.side  # pyright: ignore[reportAssignmentType]
    parsed = _answered(answer, loaded)
    rollout = Rollout(
        id=f"{polarity}-{key}",
        question=question,
        pair=int(named[2]) if named else None,
        polarity=polarity,
        sample=0,
        system=_system(prompt, question, loaded),
        seed=0,
        **{**parsed.fields, **_scores(row, file.trait, parsed)},
    )
    used = {*_REFERENCE, "question_id", "coherence", file.trait}
    ignored = tuple(str(name) for name in row if name not in used)
    prompt_tokens = tuple(loaded.chat.templated_ids(prompt))
    return AdoptedRow(rollout, prompt_tokens, _REFERENCE_READER, ignored, parsed.notes)


def _conversation(
    columns: RawColumns, key: str, file: _FileFacts, loaded: LoadedModel
) -> AdoptedRow:
    """A row in any format that the other verbs read: its last answer and the question before."""
    row = parse_row(_raw(file.path, 0, columns), kind="row")
    if isinstance(row, Reject):
        raise Rejection(row.reason)
    polarity = columns.get("polarity", file.side)
    asked = last_answer(row.messages)
    parsed = _answered(asked.response, loaded)
    rollout = Rollout(
        id=f"{polarity}-{key}",
        question=asked.question,
        pair=None,
        polarity=polarity if polarity in POLARITIES else None,
        sample=0,
        system=asked.system,
        seed=0,
        earlier=_earlier(row.messages),
        **{**parsed.fields, **_scores(columns, file.trait, parsed)},
    )
    used = {"polarity", "coherence", file.trait}
    ignored = tuple(name for name in row.ignored if name not in used)
    notes = (*row.notes, *parsed.notes)
    return AdoptedRow(rollout, prompt_ids(loaded, rollout), row.reader, ignored, notes)


def _earlier(messages: Sequence[Message]) -> EarlierTurns:
    """The turns before the last question, which must alternate between user and assistant."""
    turns = [m for m in messages if m["role"] != "system"][:-2]
    roles = [message["role"] for message in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2):
        raise Rejection("its turns do not alternate between questions and answers")
    texts = [message["content"] for message in turns]
    return tuple(zip(texts[0::2], texts[1::2], strict=True))


@dataclass(frozen=True)
class _AnswerText:
    """The answer in a file's text, without its thought."""

    answer: str
    fields: dict[str, Any]
    """The fields of the rollout that follow from the text."""
    notes: tuple[str, ...] = ()


def _answered(text: str, loaded: LoadedModel) -> _AnswerText:
    """Split a text into thought and answer; a thought is kept only if the model thinks."""
    thought, answer = split_thought(text)
    ids = tuple(loaded.chat.response_ids(answer or ""))
    state = "unfinished_thought" if answer is None else "unscored" if ids else "empty"
    found = {"response": answer or "", "response_ids": ids, "n_tokens": len(ids), "state": state}
    if thought is None:
        return _AnswerText(answer or "", found)
    if loaded.chat.thinking is None:
        return _AnswerText(answer or "", found, (THOUGHT,))
    before = text[: text.rfind(answer)] if answer else text
    thinking_ids = tuple(loaded.chat.marked_ids(before))
    return _AnswerText(answer or "", {**found, "thinking": before, "thinking_ids": thinking_ids})


def _scores(row: RawColumns, trait: str | None, parsed: _AnswerText) -> dict[str, Any]:
    """The file's scores as fields of the rollout; None without an answer."""
    if trait is None:
        return {}
    if not parsed.fields["response_ids"]:
        return {"judge": "file"}
    score, coherence = _score(row, trait), _score(row, "coherence")
    state = "unscored" if score is None or coherence is None else "scored"
    return {"judge": "file", "trait_score": score, "coherence": coherence, "state": state}


def _system(prompt: str, question: str, loaded: LoadedModel) -> str | None:
    """The system prompt in a templated prompt, whatever date the template wrote into it.

    None if there is only the template's own system prompt. Raises Rejection if the prompt is not
    in this model's template.
    """
    if loaded.chat.text_with_any_date(chat(question)).fullmatch(prompt):
        return None
    form = loaded.chat.text_with_any_date(chat(question, _MARKER)).pattern
    found = re.fullmatch(form.replace(re.escape(_MARKER), "(?P<system>.*)"), prompt, re.DOTALL)
    if found is None:
        raise Rejection("its prompt is not in this model's chat template")
    return found["system"]


def _score(row: RawColumns, name: str) -> float | None:
    """A score from 0 to 100; None for an empty cell, when the judge gave no score."""
    value = row.get(name)
    if value is None or str(value).strip().lower() in ("", "nan", "none"):
        return None
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise Rejection(f"'{name}' is not a number") from None
    if not (math.isfinite(score) and 0 <= score <= 100):
        raise Rejection(f"'{name}' is not between 0 and 100")
    return score
