"""Act on the residual stream while a model trains, told which positions choose responses.

A forward pre-hook on the model reads the labels and the attention mask, from which the positions
follow; hooks on decoder blocks do what they are told there. They act in training mode only: what
is evaluated or generated in between sees the model as it is. Hooks on a block run again when
gradient checkpointing recomputes it, and see the same positions, as long as every forward's
backward comes before the next forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from personavec.errors import HookError, ModelError, UsageError
from personavec.model import Blocks, block_output, find_blocks, with_block_output

TrainedPositions = Literal["response", "all"]
#: What is done at a layer: (layer, hidden [batch, tokens, hidden], positions [batch, tokens]) to
#: the states that go on, or None where they are only read.
Act = Callable[[int, Tensor, Tensor], Tensor | None]

#: The label of positions without a loss, as everywhere in torch.
IGNORED = -100


def response_positions(
    labels: Int[Tensor, "batch token"], attention_mask: Tensor | None = None
) -> Bool[Tensor, "batch token"]:
    """Positions whose logits choose a response token: the next one's label counts.

    Labels are those of transformers: aligned with the input, shifted inside the model. The last
    prompt position is among the positions, the last token of the text is not.
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
    # Masks of other shapes (per head, packed) say nothing of padding.
    if attention_mask is None or attention_mask.shape != like.shape:
        return torch.ones_like(like, dtype=torch.bool)
    return attention_mask.to(like.device).bool()


class TrainingHooks:
    """Hooks at some layers of one model, from `attach` to `detach`; use them as a context.

    `act` gets the layer's number, the block's output and the positions. Raises HookError where a
    hook cannot be attached, where a training forward does not say which positions it trains, and,
    from `check_fired`, where none ran.
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
        """Put the hooks on a model as it is trained: give the wrapper (PEFT, FSDP), if any."""
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
        """Take the hooks off; the model is as it was."""
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


class PullAlong:
    """How the loss pulls a layer's activations along a direction, read from its gradient.

    For each row, the gradient at the layer's output is summed over the positions; what descends
    is its negative. `toward` is the cosine of that descent with the direction, mean over rows:
    above 0 the data pull the activations toward it. `share` is the part of the squared gradient,
    over all positions, that lies along the direction: 1/hidden by chance.
    """

    def __init__(self, directions: Mapping[str, tuple[int, Float[Tensor, " hidden"]]]) -> None:
        """`directions` by name: the layer each is read at, and the direction."""
        self._at: dict[int, dict[str, Tensor]] = {}
        for name, (layer, direction) in directions.items():
            unit = direction.float() / direction.float().norm()
            self._at.setdefault(layer, {})[name] = unit
        self._cosines: dict[str, list[Tensor]] = {name: [] for name in directions}
        self._squares: dict[str, list[Tensor]] = {name: [] for name in directions}

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self._at)

    def act(self, layer: int, hidden: Tensor, positions: Tensor) -> None:
        """To be a `TrainingHooks`' act; changes nothing."""
        if not hidden.requires_grad:
            return  # the first pass of reentrant checkpointing; the second one has a gradient

        def read(gradient: Tensor) -> None:
            found = gradient.detach().float() * positions[:, :, None]
            descent, all_of_it = -found.sum(1), found.square().sum()
            size = descent.norm(dim=-1)
            for name, unit in self._at[layer].items():
                unit = unit.to(found.device)
                # A row without a loss, or whose gradient vanished, pulls nowhere.
                cosine = torch.where(size > 0, descent @ unit / size.clamp(min=1e-30), torch.nan)
                self._cosines[name].append(cosine)
                self._squares[name].append(torch.stack([(found @ unit).square().sum(), all_of_it]))

        hidden.register_hook(read)

    def take(self) -> dict[str, Pull]:
        """What was read since the last call, by name."""
        taken = {}
        for name, cosines in self._cosines.items():
            if cosines:
                rows = tuple(c for c in torch.cat(cosines).tolist() if c == c)
                along, all_of_it = torch.stack(self._squares[name]).sum(0).tolist()
                taken[name] = Pull(
                    toward=sum(rows) / len(rows) if rows else None,
                    share=along / all_of_it if all_of_it else None,
                    rows=rows,
                )
            cosines.clear()
            self._squares[name].clear()
        return taken


@dataclass(frozen=True)
class Pull:
    """What `PullAlong` read of some forwards."""

    toward: float | None
    """Mean over rows of the cosine of the descent with the direction; None without any row."""
    share: float | None
    """The part of the squared gradient along the direction."""
    rows: tuple[float, ...]
    """Every row's cosine."""
