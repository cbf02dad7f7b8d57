"""Linear layers whose weights are packed once, for inference on a processor.

Before a matrix product, a processor copies the weight into the order that its kernel reads. With
`nn.Linear` it does so at every call. After `pack` it has been done: a layer keeps the packed weight
in place of its own. Whatever asks for the layer's parameters (training, saving, hashing, copying,
moving) finds an `nn.Linear` again, with the same values, until it is packed again.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

#: Calling oneDNN takes longer than a product with fewer weights.
_FEWEST = 1 << 14
_DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Linear):
    """A linear layer with a packed weight; `pack` makes it of an `nn.Linear` by changing its class.

    So hooks and references to the layer stay, and an unpacked layer is what it was before.
    """

    _packed: Tensor
    _own: nn.Parameter | None
    """The weight itself, where another module (the embedding) has it too."""
    _version: int
    """Of `_own` when it was packed; a higher one means that it has changed since."""
    _trainable: bool

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in] to [..., out] as `nn.Linear` does; gradients unpack the layer."""
        if (
            torch.is_grad_enabled()
            or input.dtype != self._packed.dtype
            or not input.numel()
            or (self._own is not None and self._own._version != self._version)
        ):
            return _unpacked(self)(input)
        return torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")

    @property
    def _parameters(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        # All of nn.Module's methods read it, except for single attributes.
        return _unpacked(self)._parameters

    def __getattr__(self, name: str) -> Any:
        return _unpacked(self).weight if name == "weight" else super().__getattr__(name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _unpacked(self).__reduce_ex__(protocol)


def pack(model: nn.Module) -> None:
    """Pack the linear layers that are on a processor, in place.

    Other classes (quantised layers) stay as they are, and so does everything where this build of
    torch has no oneDNN. The weights themselves are freed, except for tied ones.
    """
    modules = list(model.modules())
    users = Counter(id(w) for m in modules for w in vars(m)["_parameters"].values())
    packed = 0
    for module in modules:
        if type(module) is nn.Linear and _can_pack(module):
            tied = users[id(module.weight)] > 1
            size = 0 if tied else module.weight.nbytes
            try:
                _pack(module, tied=tied)
            except (AttributeError, NotImplementedError, RuntimeError):
                return
            packed += size
    _leave_file(modules, packed)


def _can_pack(layer: nn.Linear) -> bool:
    weight = vars(layer)["_parameters"].get("weight")
    return (
        isinstance(weight, nn.Parameter)
        and type(weight.data) is Tensor
        and weight.device.type == "cpu"
        and weight.dtype in _DTYPES
        and weight.numel() >= _FEWEST
        and not weight.is_inference()
        # Accelerate gives a layer whose weights are elsewhere a forward of its own.
        and "forward" not in vars(layer)
    )


@torch.inference_mode(False)
@torch.no_grad()
def _pack(layer: nn.Linear, *, tied: bool) -> None:
    weight = layer.weight
    vars(layer).update(
        _packed=torch.ops.mkldnn._reorder_linear_weight(weight.detach()),
        _own=weight if tied else None,
        _version=weight._version,
        _trainable=weight.requires_grad,
    )
    del layer._parameters["weight"]
    layer.__class__ = PackedLinear


@torch.inference_mode(False)
@torch.no_grad()
def _unpacked(layer: nn.Linear) -> nn.Linear:
    """The packed layer itself, which has become an `nn.Linear` again."""
    state = vars(layer)
    packed, own, trainable, _ = (
        state.pop(name) for name in ("_packed", "_own", "_trainable", "_version")
    )
    weight = nn.Parameter(packed.to_dense(), trainable) if own is None else own
    state["_parameters"] = {"weight": weight, **state["_parameters"]}
    layer.__class__ = nn.Linear
    return layer


@torch.inference_mode(False)
def _leave_file(modules: list[nn.Module], packed: int) -> None:
    """Copy the other parameters, so that nothing keeps the file of the weights in memory.

    Not where they take more than `packed` bytes, the size of what the file's memory is kept for.
    """
    others = {
        id(weight): weight
        for module in modules
        for weight in vars(module)["_parameters"].values()
        if weight is not None and weight.device.type == "cpu" and type(weight.data) is Tensor
    }
    if sum(weight.nbytes for weight in others.values()) < packed:
        for weight in others.values():
            weight.data = weight.data.clone()
