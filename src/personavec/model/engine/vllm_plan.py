"""Plan, in vLLM's workers, which tokens of a forward pass are steered, capped, captured, projected.

A vLLM step runs tokens of several requests in one flat sequence; an index in a pass is an index in
that sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from personavec.model.engine.vllm_note import OwnTensors, RequestNote
from personavec.model.engine.vllm_reading import BlockSum, Reading


@dataclass(frozen=True, eq=False)
class TokenCaps:
    """At most one cap for each of some tokens."""

    tokens: Tensor
    """Indices in the pass, [token]."""
    units: Tensor
    """Unit directions, [token, hidden]."""
    ceilings: Tensor
    """Ceilings of the projections, [token]."""

    def apply(self, hidden: Tensor, residual: Tensor | None) -> None:
        """Cap the residual stream `hidden + residual` [token, hidden], in place in `hidden`."""
        stream = hidden[self.tokens].float()
        if residual is not None:
            stream = stream + residual[self.tokens].float()
        over = ((stream * self.units).sum(-1) - self.ceilings).clamp(min=0)
        removed = -over[:, None] * self.units
        hidden.index_add_(0, self.tokens, removed.to(hidden.dtype))


@dataclass
class StepPlan:
    """What the layers do with the tokens of one forward pass."""

    table: Tensor
    """The vectors to add in this step, [row, hidden]."""
    additions: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By layer: the steered tokens [token], and the row of `table` for each."""
    caps: dict[int, list[TokenCaps]] = field(default_factory=dict)
    """By layer, to apply in this order: first the first cap of every request, then the second."""
    captured: tuple[Tensor, Tensor, Tensor] | None = None
    """The captured tokens [token], the row of the sums for each, and its weight [token, 1]."""
    projected: list[tuple[Tensor, int, int]] = field(default_factory=list)
    """Projections [token, direction] to fill in, and their [start, stop) among projected tokens."""
    chosen: Tensor | None = None
    """The projected tokens [token]; None if all tokens are projected."""
    readings: list[Reading | None] = field(default_factory=list)
    """Requests in the order of the logits; None for a request without a note."""


@dataclass(frozen=True)
class StepPiece:
    """The tokens of one request in a forward pass.

    Tokens are addressed by their absolute position in the request. Therefore a chunked prompt, or a
    preempted request that is computed again, gives the same result as an uninterrupted one.
    """

    note: RequestNote
    start: int
    """Index in the pass of the piece's first token."""
    first: int
    """Position in the request of the piece's first token."""
    end: int
    """Position in the request after the piece's last token."""

    def tokens(self, low: int, high: int | None) -> np.ndarray:
        """Indices in the pass of the tokens at positions [low, high)."""
        low, high = max(low, self.first), self.end if high is None else min(high, self.end)
        begin = self.start - self.first
        return np.arange(begin + low, begin + max(low, high))

    def steered(self, kind: str) -> np.ndarray:
        """Indices in the pass of the tokens at these kinds of positions (`Positions`)."""
        return self.tokens(*steered_positions(kind, self.note["prompt"]))


class PlanBuilder:
    """Builds the plan of a forward pass from the notes of its pieces."""

    def __init__(self, table: Tensor, n_directions: int):
        self._tables, self._n_rows, self._n_directions = [table], len(table), n_directions
        self._steered: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}
        self._capped: dict[tuple[int, int], list[tuple[np.ndarray, Tensor, float]]] = {}
        self._captured: list[np.ndarray] = []
        self._sum_rows: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []
        self._projecting: list[np.ndarray] = []
        self._n_projecting = 0
        self._plan = StepPlan(table)

    def append(self, reading: Reading | None) -> None:
        """Append a request in the order of the logits."""
        self._plan.readings.append(reading)

    def act(self, piece: StepPiece, own: OwnTensors | None) -> None:
        """Steer and cap a piece, with its own tensors or with the shared table."""
        base = 0
        if own is not None:
            base = self._n_rows
            self._tables.append(own.table)
            self._n_rows += len(own.table)
            for number, (layer, row, ceiling, kind) in enumerate(piece.note["cap"]):
                where = piece.steered(kind)
                if len(where):
                    together = self._capped.setdefault((layer, number), [])
                    together.append((where, own.units[row], ceiling))
        for layer, row, kind in piece.note["steer"]:
            where = piece.steered(kind)
            if len(where):
                tokens, rows = self._steered.setdefault(layer, ([], []))
                tokens.append(where)
                rows.append(np.full(len(where), base + row))

    def capture(self, piece: StepPiece, reading: Reading, response: Sequence[int]) -> int:
        """Add a piece's new tokens to the sums; returns its number of new response tokens."""
        prompt = piece.note["prompt"]
        low, high = response
        spans = ((low, high, 1.0), (0, prompt, 1 / prompt), (prompt - 1, prompt, 1.0))
        for row, (low, high, weight) in zip(reading.rows, spans, strict=True):
            self._sum(piece.tokens(max(low, reading.until), high), row, weight)
        return len(self._captured[-len(spans)])

    def capture_block(self, piece: StepPiece, block: BlockSum, end: int) -> None:
        """Add a piece's new tokens to a block's sum; the block ends at position `end`."""
        if piece.first <= block.until < min(piece.end, end):
            self._sum(piece.tokens(block.until, end), block.row, 1.0)
            block.until = min(piece.end, end)

    def _sum(self, where: np.ndarray, row: int, weight: float) -> None:
        self._captured.append(where)
        self._sum_rows.append(np.full(len(where), row))
        self._weights.append(np.full(len(where), weight, np.float32))

    def project(self, piece: StepPiece, first: int) -> Tensor | None:
        """Project a piece's tokens from position `first` on.

        Returns zeros [token, direction], which the layers will fill; None if there are no tokens.
        """
        where = piece.tokens(first, None)
        if not len(where):
            return None
        stop = self._n_projecting + len(where)
        values = torch.zeros(len(where), self._n_directions)
        self._plan.projected.append((values, self._n_projecting, stop))
        self._projecting.append(where)
        self._n_projecting = stop
        return values

    def plan(self, n_tokens: int, device: torch.device) -> StepPlan:
        """The plan for a forward pass over `n_tokens` tokens."""

        def here(pieces: Sequence[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate(pieces)).to(device, non_blocking=True)

        plan = self._plan
        if len(self._tables) > 1:
            plan.table = torch.cat(self._tables)
        plan.additions = {
            layer: (here(tokens), here(rows)) for layer, (tokens, rows) in self._steered.items()
        }
        if self._captured:
            weights = here(self._weights)[:, None]
            plan.captured = (here(self._captured), here(self._sum_rows), weights)
        for (layer, _), together in sorted(self._capped.items(), key=lambda item: item[0]):
            caps = TokenCaps(
                here([where for where, _, _ in together]),
                torch.cat([unit.expand(len(where), -1) for where, unit, _ in together]),
                here([np.full(len(where), at, np.float32) for where, _, at in together]),
            )
            plan.caps.setdefault(layer, []).append(caps)
        if self._projecting and self._n_projecting < n_tokens:
            plan.chosen = here(self._projecting)
        return plan


def steered_positions(kind: str, prompt: int) -> tuple[int, int | None]:
    """The positions [from, to) that are steered, by `Positions`; None means to the end."""
    match kind:
        case "response":
            return prompt - 1, None
        case "prompt":
            return 0, prompt
        case "all":
            return 0, None
    raise ValueError(f"no such positions: {kind}")
