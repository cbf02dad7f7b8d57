"""Supervised finetuning of rows, with a mitigation: TRL's SFTTrainer underneath.

Knows rows, a model and a configuration; nothing of datasets as files or of what the result is
compared with. `train` is the whole of it: encode the rows, wrap the model, run, save.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personavec.data import (
    ColumnMap,
    Reject,
    Row,
    Told,
    check_columns,
    fingerprint,
    parse_row,
    raw_rows,
    source_name,
)
from personavec.errors import DataError, UsageError, missing_extra
from personavec.finetuning.drift import Drift
from personavec.model.capture import padded
from personavec.model.loading import LoadedModel
from personavec.model.scoring import token_logprobs
from personavec.model.training_hooks import IGNORED, PullAlong
from personavec.progress import Progress
from personavec.screening.encode import Text, encode
from personavec.screening.telling import with_thoughts

PAIR = "of a preference pair only the better response was trained on"


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is finetuned; the defaults are the paper's (appendix D: rs-LoRA).

    For a small model (the embedded one) and few rows: rank 16, learning rate 1e-3, 3 epochs.
    """

    full: bool = False
    """Train all weights, not a LoRA adapter."""
    rank: int = 32
    alpha: int = 64
    """LoRA's scale; the update is multiplied by alpha / sqrt(rank) (rs-LoRA)."""
    dropout: float = 0.0
    learning_rate: float = 1e-5
    """At its highest, after warmup; falls linearly to 0."""
    warmup_steps: int = 5
    """Steps of rising learning rate, a quarter of the run at most."""
    weight_decay: float = 0.01
    epochs: float = 1.0
    batch: int = 2
    """Texts in one forward of one process."""
    accumulation: int = 8
    """Forwards to a step. A step sees batch x accumulation x processes texts."""
    max_length: int | None = None
    """Longest text in tokens; default: the model's context."""
    truncate: bool = False
    """Cut longer texts at the end, not leave them out."""
    gradient_checkpointing: bool = False
    mixed_precision: bool = False
    """Make products of float32 weights in bfloat16. Weights loaded in bfloat16 need none."""
    seed: int = 0
    checkpoint_every: int = 50
    """Steps between checkpoints, from which a killed run continues."""
    report_to: tuple[str, ...] = ()
    """Trackers of transformers' trainer, such as tensorboard or wandb."""

    def __post_init__(self) -> None:
        whole = {
            "rank": self.rank,
            "alpha": self.alpha,
            "batch": self.batch,
            "accumulation": self.accumulation,
            "checkpoint_every": self.checkpoint_every,
        }
        if low := [name for name, value in whole.items() if value < 1]:
            raise UsageError(f"{low[0]} must be at least 1")
        if not self.learning_rate > 0 or not self.epochs > 0:
            raise UsageError("learning_rate and epochs must be above 0")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TrainingRows:
    """Rows to train on, and those that cannot be used."""

    rows: tuple[Row, ...]
    rejects: tuple[Reject, ...] = ()
    flagged: frozenset[int] = frozenset()
    """`index` of the rows that a screen flagged for one of the chosen traits."""
    parts: Mapping[int, str] = field(default_factory=dict)
    """Which part of the data a row is of, by its `index`, where a column says so."""
    source: dict[str, Any] = field(default_factory=dict)
    """What tells a changed input from the same one (`conversations.fingerprint`)."""
    told: Told = field(default_factory=Told)
    """What reading the rows has to tell."""
    name: str = "rows"
    """What the data is called in results."""

    @classmethod
    def of(cls, rows: list[Row] | tuple[Row, ...]) -> TrainingRows:
        """Rows that are in memory already, known by a hash of their messages."""
        text = json.dumps([row.messages for row in rows], ensure_ascii=False)
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        source = {"rows": len(rows), "hash": digest}
        return cls(tuple(rows), source=source, told=Told.of(rows))


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


@dataclass(frozen=True)
class Trained:
    """What a training run came to."""

    steps: int
    losses: tuple[float, ...]
    """The loss of every step, terms that a mitigation added included."""
    added: tuple[float, ...]
    """What a mitigation added to each; empty where it adds nothing."""
    stopped: bool
    """A reader ended it before its last step."""
    saved: Path | None
    """The folder of what was trained; None where it was stopped before a checkpoint."""

    @property
    def loss(self) -> float:
        """The mean over the last tenth of the steps, what a mitigation added left out."""
        added = self.added or (0.0,) * len(self.losses)
        plain = [loss - more for loss, more in zip(self.losses, added, strict=True)]
        last = plain[-max(1, len(plain) // 10) :]
        return sum(last) / len(last)


@dataclass(frozen=True, eq=False)
class Setup:
    """What goes with a training run, beside the examples and the configuration."""

    acting: tuple[Any, ...] = ()
    """transformers callbacks that change the training forwards, as `PreventativeSteering`."""
    pull: PullAlong | None = None
    """Reads how the loss pulls along directions."""
    addition: Any = None
    """A term of the loss (`sft.Addition`)."""
    drift: Drift | None = None
    """Reads the probes and may end the run."""
    per_token: tuple[Any, ...] = ()
    """For every example, rows of numbers for its tokens, which the addition gets
    (`base_projection`)."""
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    label: str = "training"
    max_steps: int = -1
    """Steps after which training ends; -1 for what the epochs come to."""


def encode_rows(
    loaded: LoadedModel, rows: Sequence[Row], config: TrainingConfig
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


def told_of(data: TrainingRows, examples: Iterable[Example], rejects: Iterable[Reject]) -> Told:
    """What reading the rows and writing them as the model's template does has to tell."""
    written = {example.row: example.notes for example in examples}
    told = data.told + Told.of(rejects)
    told.notes -= Counter(n for row in data.rows if row.index in written for n in row.notes)
    told.notes += Counter(note for notes in written.values() for note in notes)
    return told


def _example(row: Row, text: Text, end: int, notes: tuple[str, ...]) -> Example:
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


def train(
    loaded: LoadedModel,
    examples: Sequence[Example],
    folder: Path,
    config: TrainingConfig,
    *,
    setup: Setup | None = None,
    save_to: Path | None = None,
) -> Trained:
    """Train on the examples; checkpoints go to `folder`, from which a killed run continues.

    `save_to` gets the adapter (or the model with `full`), from the last good checkpoint where a
    reader stopped the run. The loaded model is the base again afterwards, unless `full`. Raises
    ActivationError for a loss that is not finite, StorageError for a full disk, UsageError for a
    model that cannot be trained so.
    """
    return _sft().train(loaded, examples, folder, config, setup or Setup(), save_to)


def _sft() -> Any:
    """The module that trains, which needs trl and peft."""
    try:
        from personavec.finetuning import sft
    except ImportError:
        raise missing_extra("finetune") from None
    return sft


def read_training_rows(
    source: str | Path,
    *,
    columns: ColumnMap | None = None,
    split: str | None = None,
    flags: Iterable[str] = (),
    by: str | None = None,
) -> TrainingRows:
    """Rows of a file or dataset; those that cannot be used are kept aside with the reason.

    Of preference pairs the chosen side is taken. `flags` are columns of a screen's rows that mark
    what it flagged, such as `evil_flag`; `by` is one that says which part of the data a row is
    of. Raises DataError when no row can be used, or a column is not there.
    """
    rows: list[Row] = []
    rejects: list[Reject] = []
    flagged: set[int] = set()
    parts: dict[int, str] = {}
    flags = tuple(flags)
    check_columns(raw_rows(source, split=split), columns or ColumnMap())
    for raw in raw_rows(source, split=split):
        parsed = parse_row(raw, columns)
        if isinstance(parsed, Reject):
            rejects.append(parsed)
            continue
        if missing := [name for name in flags if name not in raw.columns]:
            raise DataError(
                f"{source}, row {parsed.id}: no column {missing[0]!r}; screen the data first "
                "(personavec screen) and give the rows file that it writes"
            )
        if any(raw.columns[name] in (True, "true", "True", 1) for name in flags):
            flagged.add(parsed.index)
        if by is not None:
            if raw.columns.get(by) is None:
                raise DataError(
                    f"{source}, row {parsed.id}: no value in column {by!r}; name a column that "
                    "every row has"
                )
            parts[parsed.index] = str(raw.columns[by])
        notes = (*parsed.notes, PAIR) if parsed.rejected else parsed.notes
        rows.append(replace(parsed, rejected=None, notes=notes))
    if not rows:
        first = f": row {rejects[0].id}: {rejects[0].reason}" if rejects else ""
        raise DataError(f"{source}: none of its rows ({len(rejects)}) can be trained on{first}")
    return TrainingRows(
        tuple(rows),
        tuple(rejects),
        frozenset(flagged),
        parts,
        fingerprint(source, split=split),
        Told.of([*rows, *rejects]),
        source_name(source),
    )
