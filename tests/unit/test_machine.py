"""What benchmarks record of the machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from personavec.model import wrap_model
from personavec.model.packing import PackedLinear, pack

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
machine: Any = pytest.importorskip("machine")


def test_the_processor_has_its_name():
    name = machine.processor()
    assert name
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and "model name" in cpuinfo.read_text():
        assert f": {name}\n" in cpuinfo.read_text()


def test_the_peak_is_that_of_the_precision_in_use(monkeypatch: pytest.MonkeyPatch):
    seen: list[torch.dtype] = []

    def least(run: Any, on: Any) -> float:
        found = run()
        seen.append(found.dtype)
        return 1.0

    monkeypatch.setattr(machine, "_least", least)
    monkeypatch.setattr(machine, "choose_dtype", lambda named, device: torch.float64)
    monkeypatch.setattr(machine, "_SIZES", (8,))
    machine.measured()
    assert seen[0] == torch.float64
    seen.clear()
    machine.measured(dtype=torch.float32)
    assert seen[0] == torch.float32


def test_counting_work_counts_all_weights_and_leaves_packed_layers_packed(chat_tokenizer: Any):
    config: Any = hf.LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=300,
    )
    loaded = wrap_model(hf.LlamaForCausalLM(config), chat_tokenizer)
    expected = sum(p.numel() for p in loaded.blocks.stack.parameters() if p.dim() == 2)
    head = loaded.model.lm_head.weight.numel()
    pack(loaded.model)
    assert machine.reading(loaded, [1]).read == 4 * expected
    assert machine.reading(loaded, [1], logits=1).read == 4 * (expected + head)
    assert sum(type(module) is PackedLinear for module in loaded.model.modules()) == 2 * 7 + 1
