"""Rows as texts to train on: token ids, and labels that say which of them count."""

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
class Example:
    """One text to train on: its ids, and the labels that say which of them count."""

    row: int
    """`index` of the row it is from."""
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    """-100, or the id where the token is an assistant's or ends its turn."""
    notes: tuple[str, ...] = ()
    """What was done to the row, in reading it and in writing it as the model's template does."""

    @property
    def n_labels(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def encode_rows(
    loaded: LoadedModel, rows: Sequence[DataRow], config: TrainingConfig
) -> tuple[list[Example], list[Reject]]:
    """Texts with a loss on the assistant's turns only, each up to the token that ends it.

    A thought before an answer is trained on as part of it, where the template writes thoughts.
    A row whose template rewrites earlier turns (it drops their thinking) gives a text for each
    turn. Texts longer than `max_length` are rejected, or cut with `truncate` as long as a
    response token is left.
    """
    limit = min(config.max_length or loaded.context, loaded.context)
    end = loaded.chat.end_of_turn(loaded.stop_ids)
    examples: list[Example] = []
    rejects: list[Reject] = []
    for row in rows:
        encoded = encode(loaded.chat, row, context=1 << 40, thinking=True)
        if isinstance(encoded, Reject):
            rejects.append(encoded)
            continue
        notes = with_thoughts(encoded, "a thought was trained on with its answer").row.notes
        found = [_example(row, text, end, notes) for text in encoded.texts]
        longest = max(len(example.input_ids) for example in found)
        if longest > limit and config.truncate:
            found = [_cut(example, limit) for example in found]
        if longest > limit and (not config.truncate or not all(e.n_labels for e in found)):
            reason = f"{longest} tokens, more than the {limit} allowed"
            rejects.append(Reject(row.index, row.id, reason))
            continue
        examples += found
    return examples, rejects


def told_of(
    data: TrainingRows, examples: Iterable[Example], rejects: Iterable[Reject]
) -> ReadingCounts:
    """What reading the rows and writing them as the model's template does has to tell."""
    written = {example.row: example.notes for example in examples}
    told = data.told + ReadingCounts.of(rejects)
    told.notes -= Counter(n for row in data.rows if row.index in written for n in row.notes)
    told.notes += Counter(note for notes in written.values() for note in notes)
    return told


def _example(row: DataRow, text: Text, end: int, notes: tuple[str, ...]) -> Example:
    ids = [*text.ids.tolist(), end]
    labels = [IGNORED] * len(ids)
    for turn in text.turns:
        # The token after a response is the one that ends it, unless the template writes another.
        stop = turn.stop + (ids[turn.stop] == end)
        start = turn.start - turn.thinking
        labels[start:stop] = ids[start:stop]
    return Example(row.index, tuple(ids), tuple(labels), notes)


def _cut(example: Example, limit: int) -> Example:
    return replace(example, input_ids=example.input_ids[:limit], labels=example.labels[:limit])


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Ids, attention mask and labels [batch, tokens] of examples, padded on the right.

    Columns that some examples hold per token (`base_projection`) are padded with 0.
    """
    ids, mask, _ = padded([e["input_ids"] for e in examples], pad_id=0, side="right", device="cpu")
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        labels[row, : len(example["labels"])] = torch.tensor(example["labels"])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if "base_projection" in examples[0]:
        n = len(examples[0]["base_projection"][0])
        base = torch.zeros(*ids.shape, n)
        for row, example in enumerate(examples):
            values = torch.tensor(example["base_projection"])
            base[row, : len(values)] = values
        batch["base_projection"] = base
    return batch


def mean_losses(
    loaded: LoadedModel, examples: Sequence[Example], *, batch_tokens: int = 4096
) -> list[float]:
    """Each example's mean negative log-probability of its labelled tokens, in nats a token.

    In eval mode, so without steering: held-out loss of a model as it will be used.
    """
    jobs, counts = [], []
    for example in examples:
        stretches = _labelled(example)
        jobs += [
            (example.input_ids[:start], example.input_ids[start:stop]) for start, stop in stretches
        ]
        counts.append(len(stretches))
    found = iter(token_logprobs(loaded, jobs, batch_tokens=batch_tokens))
    out = []
    for n in counts:
        values = torch.cat([next(found) for _ in range(n)])
        out.append(-float(values.double().mean()))
    return out


def _labelled(example: Example) -> list[tuple[int, int]]:
    """The (start, stop) stretches of labelled tokens."""
    edges = [i for i in range(len(example.labels) + 1) if _is_edge(example.labels, i)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _is_edge(labels: Sequence[int], i: int) -> bool:
    before = i > 0 and labels[i - 1] != IGNORED
    return before != (i < len(labels) and labels[i] != IGNORED)
