"""What this machine can do at most, as measured, and the least time that a model's work takes.

Work takes at least its operations over the rate of matrix products, and at least its bytes over the
memory's bandwidth. The longer of the two is the limit that benchmarks compare with.
"""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import personavec as pv
from personavec.model.loading import choose_dtype
from personavec.results import versions

#: Of square products, on an accelerator and on a processor.
_CUDA_SIZES, _SIZES = (4096, 8192, 16384), (1024, 2048, 4096)


@dataclass(frozen=True)
class Work:
    """Operations (a multiply-add is two) and bytes to be read from memory."""

    operations: float
    read: float

    def times(self, n: float) -> Work:
        return Work(n * self.operations, n * self.read)


@dataclass(frozen=True)
class Limits:
    """Operations in matrix products, in the precision in use, and bytes moved, both a second."""

    operations: float
    bandwidth: float

    def seconds(self, work: Work) -> float:
        """The least that the work takes."""
        return max(work.operations / self.operations, work.read / self.bandwidth)

    def share(self, work: Work, seconds: float) -> float:
        """How much of the limit was reached: 1 is as fast as can be."""
        return self.seconds(work) / seconds

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def described(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Where and when a record was made."""
    on = torch.device(device)
    return {
        "machine": {
            "processor": processor(),
            "device": torch.cuda.get_device_name(on) if on.type == "cuda" else str(on),
            "threads": torch.get_num_threads(),
        },
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """The processor's name, such as "AMD EPYC"; its architecture where the system names none."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    named = re.search(r"^model name\s*:\s*(\S.*)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def measured(device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Limits:
    """The best rate of square products of several sizes, and of a copy larger than any cache.

    Products are of `dtype`, by default that in which models are loaded on this device.
    """
    on = torch.device(device)
    precision = dtype or choose_dtype(None, str(on))
    sizes = _CUDA_SIZES if on.type == "cuda" else _SIZES
    operations = 0.0
    for n in sizes:
        a, b = (torch.randn(n, n, device=on).to(precision) for _ in range(2))
        operations = max(operations, 2 * n**3 / _least(lambda a=a, b=b: a @ b, on))
    source = torch.ones(1 << 28, dtype=torch.uint8, device=on)
    target = torch.empty_like(source)
    copied = 2 * len(source) / _least(lambda: target.copy_(source), on)
    return Limits(operations, copied)


def forget_peak() -> None:
    """Make `peak_mib` count from here on, without the peak of loading a model."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """The most memory that this process has had resident, in MiB.

    Not `ru_maxrss`, which begins at the memory of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(peak) / 1024


def _wait(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def median_seconds(run: Callable[[], Any], device: str | torch.device, repeats: int = 3) -> float:
    """Median time of a call, after one that is not timed."""
    return statistics.median(_times(run, device, repeats))


def _least(run: Callable[[], Any], device: torch.device) -> float:
    return min(_times(run, device, 10))


def _times(run: Callable[[], Any], device: str | torch.device, repeats: int) -> list[float]:
    run()
    found = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        found.append(time.perf_counter() - start)
    return found


def reading(
    loaded: pv.LoadedModel, lengths: Sequence[int], depth: int | None = None, *, logits: int = 0
) -> Work:
    """A forward of texts through the first `depth` blocks, all of them where it is None.

    `logits` is the number of tokens whose logits are wanted. No padding; a causal token attends to
    half of its text on average. Weights are read once.
    """
    weights, head = _weights(loaded, depth), _head(loaded) if logits else 0
    # Two products, scores and their sums over values, of two operations, for half of the text.
    attention = 2 * sum(n * n for n in lengths) * _attention_width(loaded, depth)
    return Work(
        2.0 * weights * sum(lengths) + attention + 2.0 * head * logits,
        (weights + head) * _bytes(loaded),
    )


def generating(loaded: pv.LoadedModel, prompts: Sequence[int], responses: Sequence[int]) -> Work:
    """Prompts and responses of these lengths, all in one batch.

    Every step reads all weights, and the keys and values of all that stands before each row.
    """
    steps, tokens = max(responses), sum(responses)
    start = reading(loaded, prompts, logits=len(prompts))
    weights, head = _weights(loaded, None), _head(loaded)
    before = sum(p * r + r * r / 2 for p, r in zip(prompts, responses, strict=True))
    return Work(
        start.operations
        + 2.0 * (weights + head) * tokens
        + 4 * before * _attention_width(loaded, None),
        start.read
        + ((weights + head) * steps + 2 * before * _cached_width(loaded)) * _bytes(loaded),
    )


def training(loaded: pv.LoadedModel, lengths: Sequence[int]) -> Work:
    """A step that trains adapters alone: gradients of activations, not of the weights."""
    return reading(loaded, lengths, logits=sum(lengths)).times(2)


def _weights(loaded: pv.LoadedModel, depth: int | None) -> int:
    """Of products, without asking packed layers for their weights, which would unpack them."""
    return sum(
        module.in_features * module.out_features
        if isinstance(module, nn.Linear)
        else sum(weight.numel() for weight in module.parameters(recurse=False) if weight.dim() == 2)
        for block in list(loaded.blocks.stack)[:depth]
        for module in block.modules()
    )


def _head(loaded: pv.LoadedModel) -> int:
    head = loaded.model.get_output_embeddings()
    return head.in_features * head.out_features


def _attention_width(loaded: pv.LoadedModel, depth: int | None) -> int:
    """Over all heads and layers."""
    config = loaded.model.config.get_text_config()
    layers = loaded.identity.n_layers if depth is None else depth
    return config.num_attention_heads * _head_width(loaded) * layers


def _cached_width(loaded: pv.LoadedModel) -> int:
    config = loaded.model.config.get_text_config()
    return config.num_key_value_heads * _head_width(loaded) * loaded.identity.n_layers


def _head_width(loaded: pv.LoadedModel) -> int:
    config = loaded.model.config.get_text_config()
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _bytes(loaded: pv.LoadedModel) -> int:
    return next(loaded.model.parameters()).element_size()
