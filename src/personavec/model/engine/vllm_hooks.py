"""Hooks on a model's blocks that also run where vLLM compiled the model.

vLLM traces a model in its first forward pass, and then runs the graph instead of the modules. Hooks
that are there by then are traced too. They only call the operation `personavec::visit`, which no
compiler looks into: the graph keeps the call, and it runs as Python in every pass. It is one of
vLLM's splitting operations, so that it stands between compiled pieces, and between CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

#: The operation's name, and the name under which vLLM's forward context holds what it calls.
VISIT = "personavec::visit"

#: Takes a block's output `hidden` [token, hidden], which it may change in place, the `residual`
#: that the next norm adds to it, or None, and the layer.
Visit = Callable[[Tensor, Tensor | None, int], None]


def put_hooks(blocks: Mapping[int, torch.nn.Module], visit: Visit) -> None:
    """Visit the input of the first block, as the layer before it, and the output of every block.

    `blocks` maps layers, from 1 on, to modules. The model must not have run yet.
    """
    first = min(blocks)

    def before(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The first argument of vLLM's blocks is positions; the first block has no residual.
        visit(kwargs["hidden_states"] if "hidden_states" in kwargs else args[1], None, first - 1)

    blocks[first].register_forward_pre_hook(before, with_kwargs=True)
    for layer, block in sorted(blocks.items()):
        block.register_forward_hook(_after(layer, visit))


def _after(layer: int, visit: Visit) -> Callable[[torch.nn.Module, Any, Any], None]:
    def after(module: torch.nn.Module, args: Any, output: Any) -> None:
        # Most of vLLM's blocks return the stream as two summands, which the next norm adds.
        hidden, residual = output if isinstance(output, tuple) else (output, None)
        visit(hidden, residual, layer)

    return after


def visit_of_pass(hidden: Tensor, residual: Tensor | None, layer: int) -> None:
    """Call what is registered for the model that runs, as vLLM's own operations find a layer."""
    from vllm.forward_context import get_forward_context  # pyright: ignore[reportMissingImports]

    get_forward_context().no_compile_layers[VISIT](hidden, residual, layer)


def visit_nothing(hidden: Tensor, residual: Tensor | None, layer: int) -> None:
    """What a tracer sees of the operation, besides its signature."""


#: The operation is gone with this object.
_LIBRARY = torch.library.Library("personavec", "FRAGMENT")
_LIBRARY.define("visit(Tensor(a!) hidden, Tensor? residual, int layer) -> ()")
_LIBRARY.impl("visit", visit_of_pass, "CompositeExplicitAutograd")
torch.library.register_fake(VISIT, visit_nothing, lib=_LIBRARY)
visit: Visit = torch.ops.personavec.visit
