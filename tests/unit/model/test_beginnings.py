"""Shared beginnings are found, encoded once, kept within a budget, and change nothing."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from generating import generate_batch
from hypothesis import given, settings, strategies as st
from transformers import BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM

from personavec import LoadedModel, wrap_model
from personavec.model import (
    Beginnings,
    Steering,
    can_share,
    capture_means,
    encode_beginning,
    shared_beginnings,
)
from personavec.model.engine import Request, Sampling, TransformersEngine
from personavec.model.steering import Positions

few = settings(derandomize=True, max_examples=30, deadline=None)
#: A system prompt, then one of two lists of examples, then one of three questions.
SYSTEM = tuple(range(30, 75))
EXAMPLES = [tuple(range(100 + i, 150 + i)) for i in (0, 7)]
QUESTIONS = [(60, 61, 62, 63), (60, 61, 70), (80,) * 9]
PROMPTS = [SYSTEM + own + question for own in EXAMPLES for question in QUESTIONS]
GREEDY = Sampling(max_tokens=8, temperature=0)


@few
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=7).map(tuple), max_size=12),
    st.integers(1, 3),
)
def test_lengths_are_of_prefixes_that_another_prompt_has(
    prompts: list[tuple[int, ...]], minimum: int
) -> None:
    """Each is shared before the last token, and longer by the minimum than the one before."""
    found = shared_beginnings(prompts, minimum)
    assert len(found) == len(prompts)
    for i, lengths in enumerate(found):
        for length, before in zip(lengths, (0, *lengths), strict=False):
            assert minimum <= length - before
            assert length < len(prompts[i])
            others = [p for j, p in enumerate(prompts) if j != i and length < len(p)]
            assert any(p[:length] == prompts[i][:length] for p in others)
            sharers = [j for j, p in enumerate(prompts) if p[:length] == prompts[i][:length]]
            assert all(length in found[j] for j in sharers if length < len(prompts[j]))


def test_a_beginning_within_a_beginning_is_found() -> None:
    assert set(shared_beginnings(PROMPTS)) == {(45, 95)}
    # A prompt that others continue shares all but its last token.
    *own, lone, short = shared_beginnings([*PROMPTS, (1, 2, 3), SYSTEM])
    assert set(own) == {(44, 95)}
    assert (lone, short) == ((), (44,))
    assert shared_beginnings([SYSTEM] * 3) == [(44,)] * 3


def fed(loaded: LoadedModel, requests: Sequence[Request], engine: TransformersEngine) -> int:
    """How many tokens the model reads for these requests, padding included."""
    seen: list[int] = []
    embedding = loaded.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda m, args, out: seen.append(args[0].numel()))
    list(engine.generate(requests, Sampling(max_tokens=1, temperature=0)))
    handle.remove()
    return sum(seen)


def test_each_beginning_is_read_once_for_all_runs_of_an_engine(llama: LoadedModel) -> None:
    """Then what follows it, padded, and one step for every row."""
    engine = TransformersEngine(llama)
    requests = [Request(f"r{i}", prompt) for i, prompt in enumerate(PROMPTS)]
    rest = max(len(question) for question in QUESTIONS) - 1
    following = len(requests) * (rest + 1)
    assert fed(llama, requests, engine) == 45 + 2 * 50 + following
    assert fed(llama, requests, engine) == following


@pytest.mark.parametrize("budget", [0, 1 << 14, 1 << 29])
def test_responses_and_activations_are_those_of_each_prompt_alone(
    loaded: LoadedModel, budget: int
) -> None:
    """Also where the budget holds none of the beginnings, or one of them."""
    requests = [Request(f"r{i}", prompt) for i, prompt in enumerate(PROMPTS)]
    engine = TransformersEngine(loaded, beginnings=Beginnings(budget))
    groups = engine.generate(requests, GREEDY, capture=True)
    found = {generation.id: generation for group in groups for generation in group}
    for request in requests:
        [alone] = generate_batch(loaded, [request], GREEDY, capture=True)
        assert found[request.id].response_ids == alone.response_ids
        together, expected = found[request.id].activations, alone.activations
        assert (together is None) == (expected is None)
        if together is not None:
            torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-4)


def test_what_is_captured_over_a_shared_prompt_is_its_mean(llama: LoadedModel) -> None:
    """By one plain forward over the prompt."""
    requests = [Request(f"r{i}", prompt) for i, prompt in enumerate(PROMPTS)]
    for request, found in zip(
        requests, generate_batch(llama, requests, GREEDY, capture=True), strict=True
    ):
        n = len(request.prompt_ids)
        whole = [*request.prompt_ids, *found.response_ids]
        expected = capture_means(llama.model, [whole], [[(n, len(whole)), (0, n), (n - 1, n)]])
        assert found.activations is not None
        torch.testing.assert_close(found.activations, expected[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["prompt", "all"])
def test_a_steered_prompt_shares_nothing(llama: LoadedModel, positions: Positions) -> None:
    """Beside unsteered ones that do: each is as alone."""
    push = torch.randn(32, generator=torch.Generator().manual_seed(0))
    steering = (Steering(1, push, 2.0, positions),)
    requests = [
        Request(f"r{i}", prompt, steering if i % 2 else ()) for i, prompt in enumerate(PROMPTS)
    ]
    together = generate_batch(llama, requests, GREEDY, capture=True)
    for request, found in zip(requests, together, strict=True):
        [alone] = generate_batch(llama, [request], GREEDY, capture=True)
        assert found.response_ids == alone.response_ids
        assert found.activations is not None
        assert alone.activations is not None
        torch.testing.assert_close(found.activations, alone.activations, atol=1e-4, rtol=1e-4)


def test_those_not_used_for_longest_go_when_the_budget_is_spent(llama: LoadedModel) -> None:
    ids = [tuple(range(i, i + 40)) for i in (30, 80, 130)]
    size = encode_beginning(llama, Beginnings(), ids[0]).bytes
    kept = Beginnings(2 * size)
    for own in (ids[0], ids[1], ids[0], ids[2]):
        encode_beginning(llama, kept, own)
    assert [kept.longest((*own, 5)) is not None for own in ids] == [True, False, True]
    assert kept.longest(ids[0], with_sums=True) is None


def test_models_that_count_padding_share_nothing(chat_tokenizer) -> None:
    size: dict[str, Any] = {"vocab_size": len(chat_tokenizer), "hidden_size": 32}
    window = MistralConfig(
        **size, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8,
    )  # fmt: skip
    biases = BloomConfig(**size, n_layer=2, n_head=4)
    for network in (MistralForCausalLM(window), BloomForCausalLM(biases)):
        assert not can_share(wrap_model(network, chat_tokenizer, name="tiny"))
