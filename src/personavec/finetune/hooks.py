"""Hooks that read or change the residual stream while a model trains.

A forward pre-hook on the model reads the labels and the attention mask, which tell the positions
that choose response tokens. Hooks on decoder blocks then act at these positions. They act in
training mode only, so evaluation and generation in between see the plain model. Gradient
checkpointing runs a block's hook again when it recomputes the block; the hook sees the same
positions as long as each backward pass comes before the next forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from personavec.errors import HookError, ModelError, UsageError
from personavec.finetune.config import TrainedPositions
from personavec.model import Blocks, block_output, find_blocks, with_block_output

#: What a hook does: from (layer, states [batch, tokens, hidden], positions [batch, tokens]) to the
#: states that the model continues with, or None where they are only read.
Act = Callable[[int, Tensor, Tensor], Tensor | None]

#: The label of positions without a loss, as in torch.
IGNORED = -100


def response_positions(
    labels: Int[Tensor, "batch token"], attention_mask: Tensor | None = None
) -> Bool[Tensor, "batch token"]:
    """Positions whose logits choose a response token: the next position has a label.

    Labels are aligned with the input, as transformers expects them. The last prompt position is
    included, the last token of the text is not.
    """
    found = torch.zeros_like(labels, dtype=torch.bool)
    found[:, :-1] = labels[:, 1:] != IGNORED
    return found & _real(found, attention_mask)


def all_positions(
    like: Tensor, attention_mask: Tensor | None = None
) -> Bool[Tensor, "batch token"]:
    """Every position of a [batch, tokens] tensor that is not padding."""
    found = torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)
    return found & _real(found, attention_mask)


def _real(like: Tensor, attention_mask: Tensor | None) -> Tensor:
    # Masks of other shapes (per head, packed) do not mark padding.
    if attention_mask is None or attention_mask.shape != like.shape:
        return torch.ones_like(like, dtype=torch.bool)
    return attention_mask.to(like.device).bool()


class TrainingHooks:
    """Hooks at some layers of one model, from `attach` to `detach`; also a context manager.

    `act` gets the layer's number, the block's output and the positions. Raises HookError where a
    hook cannot be attached, where a training forward has no labels, and, from `check_fired`, where
    a hook never ran.
    """

    def __init__(
        self, layers: Sequence[int], act: Act, positions: TrainedPositions = "response"
    ) -> None:
        self.layers = tuple(layers)
        self.positions: TrainedPositions = positions
        self._act = act
        self._chosen: Tensor | None = None
        self._fired: set[int] = set()
        self._handles: list[RemovableHandle] = []

    def attach(self, model: nn.Module) -> None:
        """Attach to the model as it is trained: the wrapper (PEFT, FSDP), if there is one."""
        self.detach()
        blocks = blocks_in(model)
        if wrong := [n for n in self.layers if not 1 <= n <= blocks.n_layers]:
            raise UsageError(
                f"layer {wrong[0]} does not exist: the model has layers 1 to {blocks.n_layers}"
            )
        self._fired.clear()
        self._chosen = None
        self._handles.append(
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        )
        for layer in self.layers:
            block = blocks.stack[layer - 1]
            self._handles.append(block.register_forward_hook(self._at(layer), prepend=True))

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._chosen = None

    def check_fired(self) -> None:
        """Raise HookError unless every layer's hook has acted in a training forward."""
        if missed := sorted(set(self.layers) - self._fired):
            raise HookError(
                f"training hooks did not act at layer(s) {missed}: no forward in training mode "
                "ran there; give them the model that is trained, in train mode"
            )

    def __enter__(self) -> TrainingHooks:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.detach()
        if kind is None:
            self.check_fired()

    def _before_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if not module.training:
            return
        if len(args) > 1:
            raise HookError(
                "training hooks read labels and attention_mask: pass them to the model by keyword"
            )
        mask, labels = kwargs.get("attention_mask"), kwargs.get("labels")
        if self.positions == "response":
            if labels is None:
                raise HookError(
                    "a training forward without labels does not say which positions choose "
                    "response tokens; pass labels to the model, or use positions='all'"
                )
            self._chosen = response_positions(labels, mask)
            return
        inputs = args[0] if args else kwargs.get("input_ids")
        inputs = kwargs.get("inputs_embeds") if inputs is None else inputs
        if inputs is None:
            raise HookError("a training forward came without input_ids or inputs_embeds")
        self._chosen = all_positions(inputs, mask)

    def _at(self, layer: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if not module.training:
                return None
            hidden = block_output(output)
            if self._chosen is None:
                raise HookError(
                    f"layer {layer} ran in training mode, but the model with the training hooks "
                    "did not: give them the outermost model (PEFT's), which gets the labels"
                )
            if self._chosen.shape != hidden.shape[:2]:
                raise HookError(
                    f"layer {layer} has states for {tuple(hidden.shape[:2])} tokens, the labels "
                    f"are for {tuple(self._chosen.shape)}; virtual tokens and sequences split "
                    "over devices are not supported"
                )
            self._fired.add(layer)
            changed = self._act(layer, hidden, self._chosen.to(hidden.device))
            return None if changed is None else with_block_output(output, changed)

        return hook


def blocks_in(model: nn.Module) -> Blocks:
    """The decoder blocks of a model that may be wrapped for training in parallel.

    Raises HookError when there are none to attach to.
    """
    inner = model
    while isinstance(inner, nn.parallel.DistributedDataParallel):
        inner = inner.module
    try:
        return find_blocks(inner)
    except (ModelError, AttributeError) as error:
        raise HookError(f"training hooks cannot be attached: {error}") from error
