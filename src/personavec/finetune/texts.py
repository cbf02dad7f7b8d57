"""Rows as texts to train on: token ids, and labels at the tokens that get a loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from personavec.data import DataRow, ReadingCounts, Reject
from personavec.finetune.config import TrainingConfig
from personavec.finetune.hooks import IGNORED
from personavec.finetune.rows import TrainingRows
from personavec.model import LoadedModel, Text, encode, padded, token_logprobs, with_thoughts


@dataclass(frozen=True)
class TrainingText:
    """One text to train on."""

    row: int
    """`index` of the row it is from."""
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The id where the token is an assistant's or ends its turn, else -100."""
    notes: tuple[str, ...] = ()
    """What was done to the row in reading it and in applying the chat template."""

    @property
    def n_labels(self) -> int:
        """Tokens with a loss."""
        return sum(label != IGNORED for label in self.labels)


def encode_rows(
    loaded: LoadedModel, rows: Sequence[DataRow], config: TrainingConfig
) -> tuple[list[TrainingText], list[Reject]]:
    """Texts with a loss on the assistant's turns only, each up to the token that ends it.

    A thought before an answer is trained on as part of it if the chat template writes thoughts.
    Where the template rewrites earlier turns (drops their thinking), a row gives one text per
    turn. Texts longer than `max_length` are rejected; with `truncate` they are cut, as long as a
    response token is left.
    """
    limit = min(config.max_length or loaded.context, loaded.context)
    end = loaded.chat.end_of_turn(loaded.stop_ids)
    texts: list[TrainingText] = []
    rejects: list[Reject] = []
    for row in rows:
        encoded = encode(loaded.chat, row, context=1 << 40, thinking=True)
        if isinstance(encoded, Reject):
            rejects.append(encoded)
            continue
        notes = with_thoughts(encoded, "a thought was trained on with its answer").row.notes
        found = [_text(row, text, end, notes) for text in encoded.texts]
        longest = max(len(text.input_ids) for text in found)
        if longest > limit and config.truncate:
            found = [_cut(text, limit) for text in found]
        if longest > limit and (not config.truncate or not all(text.n_labels for text in found)):
            reason = f"{longest} tokens, more than the {limit} allowed"
            rejects.append(Reject(row.index, row.id, reason))
            continue
        texts += found
    return texts, rejects


def reading_of(
    data: TrainingRows, texts: Iterable[TrainingText], rejects: Iterable[Reject]
) -> ReadingCounts:
    """How the rows were read, and what applying the chat template did to them."""
    written = {text.row: text.notes for text in texts}
    counts = data.reading + ReadingCounts.of(rejects)
    counts.notes -= Counter(n for row in data.rows if row.index in written for n in row.notes)
    counts.notes += Counter(note for notes in written.values() for note in notes)
    return counts


def _text(row: DataRow, text: Text, end: int, notes: tuple[str, ...]) -> TrainingText:
    ids = [*text.ids.tolist(), end]
    labels = [IGNORED] * len(ids)
    for turn in text.turns:
        # The token that ends the turn follows the response, unless the template writes another.
        stop = turn.stop + (ids[turn.stop] == end)
        start = turn.start - turn.thinking
        labels[start:stop] = ids[start:stop]
    return TrainingText(row.index, tuple(ids), tuple(labels), notes)


def _cut(text: TrainingText, limit: int) -> TrainingText:
    return replace(text, input_ids=text.input_ids[:limit], labels=text.labels[:limit])


def collate(texts: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Ids, attention mask and labels [batch, tokens] of texts, padded on the right.

    `base_projection` [batch, tokens, direction], where the texts have it, is padded with 0.
    """
    ids, mask, _ = padded(
        [text["input_ids"] for text in texts], pad_id=0, side="right", device="cpu"
    )
    labels = torch.full_like(ids, IGNORED)
    for row, text in enumerate(texts):
        labels[row, : len(text["labels"])] = torch.tensor(text["labels"])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if "base_projection" in texts[0]:
        n = len(texts[0]["base_projection"][0])
        base = torch.zeros(*ids.shape, n)
        for row, text in enumerate(texts):
            values = torch.tensor(text["base_projection"])
            base[row, : len(values)] = values
        batch["base_projection"] = base
    return batch


def mean_losses(loaded: LoadedModel, texts: Sequence[TrainingText]) -> list[float]:
    """Mean negative log-probability of the labelled tokens of each text, in nats a token.

    In eval mode, so without training hooks: the held-out loss of a model as it will be used.
    """
    jobs, counts = [], []
    for text in texts:
        stretches = _labelled(text)
        jobs += [(text.input_ids[:start], text.input_ids[start:stop]) for start, stop in stretches]
        counts.append(len(stretches))
    found = iter(token_logprobs(loaded, jobs, batch_tokens=4096))
    out = []
    for n in counts:
        values = torch.cat([next(found) for _ in range(n)])
        out.append(-float(values.double().mean()))
    return out


def _labelled(text: TrainingText) -> list[tuple[int, int]]:
    """The (start, stop) stretches of labelled tokens."""
    edges = [i for i in range(len(text.labels) + 1) if _is_edge(text.labels, i)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _is_edge(labels: Sequence[int], i: int) -> bool:
    before = i > 0 and labels[i - 1] != IGNORED
    return before != (i < len(labels) and labels[i] != IGNORED)
