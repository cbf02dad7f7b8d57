"""A runner of vLLM's, as far as the hooks look at it, around a few blocks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from personavec.model.engine.vllm_hooks import put_hooks
from personavec.model.engine.vllm_note import NOTE, SteeringTable, note_of
from personavec.model.engine.vllm_worker import Residual

HIDDEN, LAYERS = 8, 3


class Block(torch.nn.Module):
    """Returns the stream in two halves, as most of vLLM's blocks do, or whole."""

    def __init__(self, number: int, *, halves: bool):
        super().__init__()
        generator = torch.Generator().manual_seed(number)
        self.weight = torch.nn.Parameter(torch.randn(HIDDEN, HIDDEN, generator=generator) / 3)
        self.halves = halves

    def forward(self, positions: Any, hidden: torch.Tensor, residual: torch.Tensor | None) -> Any:
        stream = hidden if residual is None else hidden + residual
        out = torch.tanh(stream @ self.weight)
        return (out, stream) if self.halves else out + stream


@dataclass
class Worker:
    """A runner of vLLM's, as far as the hooks look at it, around a few blocks."""

    halves: bool = True
    blocks: dict[int, Block] = field(default_factory=dict)
    requests: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blocks = {n: Block(n, halves=self.halves) for n in range(1, LAYERS + 1)}
        self.model_config = SimpleNamespace(get_hidden_size=lambda: HIDDEN)

    def hooked(self, reads: bool = True) -> Residual:
        residual = Residual(self, self.blocks, reads=reads, serves=lambda: True, block_size=2)
        put_hooks(self.blocks, residual.visit)
        return residual

    @torch.inference_mode()
    def step(self, pieces: list[tuple[str, int, torch.Tensor]]) -> torch.Tensor:
        """One forward of (request, first position, states [token, hidden]); the last layer's."""
        lengths = [len(states) for _, _, states in pieces]
        self.query_start_loc = SimpleNamespace(np=np.concatenate([[0], np.cumsum(lengths)]))
        self.input_batch = SimpleNamespace(
            num_reqs=len(pieces),
            req_ids=[name for name, _, _ in pieces],
            num_computed_tokens_cpu=np.array([first for _, first, _ in pieces]),
        )
        return self.forward(torch.cat([states for _, _, states in pieces]))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = None
        for block in self.blocks.values():
            out = block(None, hidden, residual)
            hidden, residual = out if isinstance(out, tuple) else (out, None)
        return hidden if residual is None else hidden + residual

    def ask(self, name: str, prompt: int, **note: Any) -> None:
        wanted = note_of(name, prompt, (), SteeringTable(LAYERS, HIDDEN)) | note
        params = SimpleNamespace(extra_args={NOTE: wanted})
        self.requests[name] = SimpleNamespace(sampling_params=params)


def states(name: str, n: int) -> torch.Tensor:
    return torch.randn(n, HIDDEN, generator=torch.Generator().manual_seed(len(name)))


def alone(
    blocks: dict[int, Block],
    text: torch.Tensor,
    added: dict[int, torch.Tensor],
    act: Callable[[int, torch.Tensor], torch.Tensor] = lambda layer, stream: stream,
) -> torch.Tensor:
    """[layer, token, hidden] of one text by a plain loop; `added` by layer, [token, hidden]."""
    stream, found = text, [text]
    for layer, block in blocks.items():
        stream = torch.tanh(stream @ block.weight) + stream + added.get(layer, 0)
        stream = act(layer, stream)
        found.append(stream)
    return torch.stack(found).detach()
