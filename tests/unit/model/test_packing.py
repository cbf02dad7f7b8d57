"""Packed linear layers compute as before, and are plain again for all that asks for weights."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import nn

from personavec.model import wrap_model
from personavec.model.packing import PackedLinear, pack
from personavec.model.weights import hash_in_memory

_SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 300,
}
#: Of the four products of attention and the three of each block's MLP, and the head.
_LAYERS = 2 * 7 + 1

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


def network(*, tied: bool = True, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config: Any = hf.LlamaConfig(**_SIZES, tie_word_embeddings=tied, attention_bias=True)
    made: Any = hf.LlamaForCausalLM(config)
    return made.to(dtype).eval()


def packed_in(model: nn.Module) -> int:
    return sum(type(module) is PackedLinear for module in model.modules())


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(torch.arange(40).reshape(2, 20)).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_packed_layers_compute_the_same(dtype: torch.dtype, tied: bool):
    model = network(tied=tied, dtype=dtype)
    expected = logits(model)
    pack(model)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1.6e-2)
    assert packed_in(model) == _LAYERS, "reading unpacked a layer"


def test_one_position_of_a_longer_sequence_is_read_in_place():
    layer = nn.Sequential(nn.Linear(256, 128)).eval()
    hidden = torch.randn(3, 7, 256)
    with torch.no_grad():
        expected = layer(hidden)
        pack(layer)
        torch.testing.assert_close(layer(hidden[:, -1:]), expected[:, -1:])
        torch.testing.assert_close(layer(hidden[1::2, 2]), expected[1::2, 2])
        assert layer(hidden[:0]).shape == (0, 7, 128)


@pytest.mark.parametrize("tied", [True, False])
def test_unpacked_weights_are_bit_for_bit_what_they_were(tied: bool):
    model = network(tied=tied)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    pack(model)
    assert [name for name, _ in model.named_parameters()] == names
    assert not packed_in(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embedding) == tied
    assert all(weight.requires_grad for weight in model.parameters())


def test_the_weights_themselves_are_freed():
    layer = nn.Sequential(nn.Linear(256, 128))
    weight = weakref.ref(layer[0].weight)
    pack(layer)
    assert weight() is None


def test_hash_copy_and_saving_see_plain_weights(tmp_path: Path):
    model = network()
    identity, expected = hash_in_memory(model), logits(model)
    pack(model)
    assert hash_in_memory(model) == identity
    pack(model)
    assert not packed_in(copy.deepcopy(model))
    pack(model)
    model.save_pretrained(tmp_path)
    saved: Any = hf.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(saved), expected)


def test_moving_and_casting_take_the_weights_along():
    model = network()
    pack(model)
    assert logits(model.double()).dtype == torch.float64
    assert not packed_in(model)
    pack(model)
    assert not packed_in(model), "double precision has no packed product"


def test_gradients_are_those_of_the_plain_model():
    plain, model = network(), network()
    pack(model)
    for each in (plain, model):
        each(torch.arange(20)[None]).logits.square().sum().backward()
    expected = {name: weight.grad for name, weight in plain.named_parameters()}
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], msg=name)


def test_a_changed_embedding_changes_the_tied_head():
    model = network()
    pack(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[5] += 1
    changed = logits(model)
    assert packed_in(model) == _LAYERS - 1
    again = network()
    with torch.no_grad():
        again.get_input_embeddings().weight[5] += 1
    torch.testing.assert_close(changed, logits(again))


def test_an_adapter_on_packed_layers_trains_as_on_plain_ones():
    found = []
    for packing in (False, True):
        model = network()
        if packing:
            pack(model)
        torch.manual_seed(1)
        tuned: Any = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
        optimizer = torch.optim.SGD([w for w in tuned.parameters() if w.requires_grad], lr=0.1)
        for _ in range(2):
            tuned(torch.arange(20)[None]).logits.square().mean().backward()
            optimizer.step()
        found.append(logits(tuned.eval()))
        pack(tuned)
        torch.testing.assert_close(logits(tuned), found[-1])
        assert packed_in(tuned) == _LAYERS
        merged = tuned.merge_and_unload()
        torch.testing.assert_close(logits(merged), found[-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(*found)


def test_hooks_stay_and_odd_layers_are_left_alone():
    class Quantised(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(256, 256), Quantised(256, 256), nn.Linear(8, 8))
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    pack(model)
    assert [type(layer) for layer in model] == [PackedLinear, Quantised, nn.Linear]
    with torch.no_grad():
        model[0](torch.ones(1, 256))
    assert seen


def test_packing_does_not_touch_a_model_that_was_wrapped(chat_tokenizer):
    assert not packed_in(wrap_model(network(), chat_tokenizer).model)
