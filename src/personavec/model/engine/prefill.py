"""Prefill: encode the prompts of joining requests into rows of the cache.

A beginning that a prompt shares with others is copied, and only the rest is read by the model. The
last prompt token is left to the first step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from personavec.model import (
    MIN_TOKENS,
    Beginning,
    Beginnings,
    LoadedModel,
    SteeringBatch,
    TokenProjections,
    can_share,
    encode_beginning,
    find_blocks,
    padded,
    run_to_deepest_layer,
    shared_beginnings,
    steering_rows,
)
from personavec.model.engine.base import SPANS
from personavec.model.engine.batch_cache import BatchCache
from personavec.model.engine.loop import DecodeJob
from personavec.model.engine.row_cache import RowCache
from personavec.model.engine.row_sums import RowSums


@dataclass(frozen=True, eq=False)
class Prefill:
    """What encodes prompts into `cache`.

    Forwards are read into `sums`, if activations are captured. With `remember`, every prompt is
    kept as a beginning of later ones, and looked for among those that are kept; without, jobs say
    which beginnings they share.
    """

    loaded: LoadedModel
    cache: RowCache | BatchCache
    beginnings: Beginnings
    recorder: TokenProjections | None = None
    sums: RowSums | None = None
    remember: bool = False

    def run(self, joining: Sequence[DecodeJob]) -> None:
        """Add a row for each job, which holds its prompt but for the last token."""
        self._read_nothing()
        beginnings = self._beginnings(joining)
        skipped = [0 if own is None else len(own.ids) for own in beginnings]
        rest = [job.request.prompt_ids[n:-1] for job, n in zip(joining, skipped, strict=True)]
        ids, own_mask, offsets = padded(rest, pad_id=0, side="left", device=self.loaded.device)
        start = self.cache.n
        mask = self.cache.join(own_mask, beginnings)
        if self.sums is not None:
            self._start_sums(self.sums, start, joining, beginnings, own_mask)
        if ids.shape[1]:
            if self.recorder is not None:
                self.recorder.clear(*ids.shape)
            with self._prompt_steering(joining, own_mask):
                run_to_deepest_layer(
                    self.loaded.model,
                    self.cache,
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=offsets + torch.tensor(skipped)[:, None].to(offsets),
                )
        for row, (job, own) in enumerate(zip(joining, rest, strict=True), start=start):
            if len(own) >= MIN_TOKENS:
                self.keep(row, job.request.prompt_ids[:-1])

    def keep(self, row: int, ids: tuple[int, ...]) -> None:
        """Remember what a row holds, all of it unsteered, as a beginning of later prompts."""
        if self.remember and isinstance(self.cache, RowCache) and can_share(self.loaded) and ids:
            self.beginnings.keep(Beginning(ids, self.cache.row(row)))

    def _beginnings(self, joining: Sequence[DecodeJob]) -> list[Beginning | None]:
        """For each job the longest beginning at hand; those that it shares are encoded now."""
        lengths = [job.beginnings for job in joining]
        if self.remember and can_share(self.loaded):
            lengths = shared_beginnings([job.request.prompt_ids for job in joining])
        return [self._beginning(job, own) for job, own in zip(joining, lengths, strict=True)]

    def _beginning(self, job: DecodeJob, lengths: Sequence[int]) -> Beginning | None:
        ids = job.request.prompt_ids
        found = self.beginnings.common(ids[:-1]) if self.remember else None
        for length in lengths:
            if found is None or length >= len(found.ids) + MIN_TOKENS:
                found = encode_beginning(
                    self.loaded, self.beginnings, ids[:length], capture=self.sums is not None
                )
        return found

    def _read_nothing(self) -> None:
        """Encoding a beginning is not read into any row."""
        if self.sums is not None:
            self.sums.pause()
        if self.recorder is not None:
            self.recorder.clear(0, 0)

    def _start_sums(
        self,
        sums: RowSums,
        start: int,
        joining: Sequence[DecodeJob],
        beginnings: Sequence[Beginning | None],
        mask: Int[Tensor, "row token"],
    ) -> None:
        """Let the joining rows' prompts be summed, what is copied included."""
        lengths = torch.tensor([len(job.request.prompt_ids) for job in joining], device=mask.device)
        weights = torch.zeros(len(joining), len(SPANS), mask.shape[1], device=mask.device)
        weights[:, 1] = mask / lengths[:, None]
        for row, (own, length) in enumerate(zip(beginnings, lengths.tolist(), strict=True)):
            copied = None if own is None or own.sums is None else own.sums / length
            sums.start(start + row, (None, copied, None))
        sums.weigh(slice(start, start + len(joining)), weights)

    def _prompt_steering(
        self, joining: Sequence[DecodeJob], mask: Int[Tensor, "row token"]
    ) -> contextlib.AbstractContextManager[object]:
        """The steering before the last prompt token, of jobs that ask for it."""
        actions = [job.prompt_steering for job in joining]
        if not any(actions):
            return contextlib.nullcontext()
        blocks = find_blocks(self.loaded.model)
        batch = SteeringBatch(actions, blocks.hidden_size, blocks.n_layers)
        batch.token_masks = {"prompt": mask, "all": mask}
        return steering_rows(self.loaded.model, batch)
