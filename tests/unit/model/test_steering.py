"""Steering adds what was asked, where it was asked, to the row it was asked for; else nothing."""

import math
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest
import torch
from generating import generate_batch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor

from personavec import LoadedModel, PersonaVector, steer
from personavec.errors import HookError, UsageError, VectorMismatchError
from personavec.model import (
    SpanSums,
    Steering,
    SteeringBatch,
    block_output,
    recording,
    run_to_deepest_layer,
    steering_rows,
    vector_steering,
    with_block_output,
)
from personavec.model.engine import Request, Sampling

GREEDY = Sampling(max_tokens=6, temperature=0)
POSITIONS = ("response", "prompt", "all")
# Two logits of a random model that nearly tie could be ordered differently by rounding, about
# once in 1e5 tokens: the same examples at every run, so that this can never be a false alarm.
same_examples = settings(
    derandomize=True,
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
MakeVector = Callable[..., PersonaVector]
token_ids = st.lists(st.integers(0, 255), min_size=1, max_size=20)


@torch.inference_mode()
def logits(loaded: LoadedModel, ids: list[int]) -> Tensor:
    return loaded.model(input_ids=torch.tensor([ids])).logits


def direction(loaded: LoadedModel, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(loaded.identity.hidden_size, generator=generator)


def prompt(text: str = "What is a persona?") -> tuple[int, ...]:
    return tuple(text.encode())


@same_examples
@given(ids=token_ids, data=st.data())
def test_coefficient_zero_changes_no_logit(
    loaded: LoadedModel, random_vector: MakeVector, ids: list[int], data: st.DataObject
) -> None:
    """Bit for bit, at any layer and position."""
    layer = data.draw(st.integers(1, loaded.identity.n_layers))
    positions = data.draw(st.sampled_from(POSITIONS))
    plain = logits(loaded, ids)
    with steer(loaded.model, random_vector(loaded), 0, layer=layer, positions=positions):
        steered = logits(loaded, ids)
    assert torch.equal(steered, plain)


@pytest.mark.parametrize("raising", [False, True])
def test_leaving_steer_restores_the_model_bit_for_bit(
    loaded: LoadedModel, random_vector: MakeVector, raising: bool
) -> None:
    """Also when what ran inside failed; and inside, something did change."""
    ids = list(prompt())
    hooks = [len(block._forward_hooks) for block in loaded.blocks.stack]
    before = logits(loaded, ids)
    with suppress(KeyError), steer(loaded.model, random_vector(loaded), 1.5):
        assert not torch.equal(logits(loaded, ids), before)
        if raising:
            raise KeyError("the caller's own")
    assert torch.equal(logits(loaded, ids), before)
    assert [len(block._forward_hooks) for block in loaded.blocks.stack] == hooks


@st.composite
def steered_rows(draw: st.DrawFn) -> list[tuple[list[int], list[tuple[float, int, float, str]]]]:
    """Rows of (prompt ids, steerings as (share of depth, vector seed, coefficient, positions))."""
    one = st.tuples(
        st.floats(0, 1), st.integers(0, 3), st.floats(-3, 3), st.sampled_from(POSITIONS)
    )
    row = st.tuples(token_ids, st.lists(one, max_size=2))
    return draw(st.lists(row, min_size=2, max_size=5))


@same_examples
@given(rows=steered_rows())
def test_a_row_of_a_mixed_batch_equals_the_same_request_alone(
    loaded: LoadedModel, rows: list[tuple[list[int], list[tuple[float, int, float, str]]]]
) -> None:
    """Different lengths, layers, vectors, coefficients and positions; ids and activations."""
    n = loaded.identity.n_layers
    requests = [
        Request(
            id=f"r{i}",
            prompt_ids=tuple(ids),
            steering=tuple(
                Steering(1 + round(depth * (n - 1)), direction(loaded, seed), c, positions)
                for depth, seed, c, positions in steerings
            ),
        )
        for i, (ids, steerings) in enumerate(rows)
    ]
    together = generate_batch(loaded, requests, GREEDY, capture=True)
    for request, found in zip(requests, together, strict=True):
        [alone] = generate_batch(loaded, [request], GREEDY, capture=True)
        assert (found.response_ids, found.finished) == (alone.response_ids, alone.finished)
        if alone.activations is None:
            assert found.activations is None
        else:
            torch.testing.assert_close(found.activations, alone.activations, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS)
def test_engine_equals_a_forward_with_the_addition_made_by_a_plain_hook(
    loaded: LoadedModel, positions: str
) -> None:
    """Each token that cached, steered decoding chose is what one uncached forward chooses."""
    layer, v, start = 2, direction(loaded, 5), len(prompt())
    [found] = generate_batch(
        loaded, [Request("a", prompt(), (Steering(layer, v, 2.0, positions),))], GREEDY
    )
    ids = [*prompt(), *found.response_ids]
    acts = {
        "response": range(start - 1, len(ids)),
        "prompt": range(start),
        "all": range(len(ids)),
    }[positions]

    def add(module: object, args: object, output: object) -> object:
        hidden = block_output(output).clone()
        hidden[:, list(acts)] += 2.0 * v
        return with_block_output(output, hidden)

    handle = loaded.blocks.stack[layer - 1].register_forward_hook(add)
    chosen = logits(loaded, ids)[0, start - 1 :].argmax(-1).tolist()
    handle.remove()
    assert chosen[: len(found.response_ids)] == list(found.response_ids)
    [unsteered] = generate_batch(loaded, [Request("a", prompt())], GREEDY)
    assert unsteered.response_ids != found.response_ids  # or the test shows nothing


def test_steer_around_transformers_generate_equals_the_engine(
    loaded: LoadedModel, random_vector: MakeVector
) -> None:
    """What a notebook does, with left padding, is what the engine does."""
    vector = random_vector(loaded, layer=2)
    prompts = [prompt(), prompt("Hm?")]
    requests = [
        Request(str(i), ids, (Steering(2, vector.direction(), 1.5),))
        for i, ids in enumerate(prompts)
    ]
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    with steer(loaded.model, vector, 1.5):
        out = loaded.model.generate(
            padded, attention_mask=mask, do_sample=False, max_new_tokens=6, pad_token_id=0
        )
    for row, found in zip(out, generate_batch(loaded, requests, GREEDY), strict=True):
        assert tuple(row[width:].tolist())[: len(found.response_ids)] == found.response_ids


def test_response_positions_leave_the_prompt_before_its_last_token_alone(
    loaded: LoadedModel, random_vector: MakeVector
) -> None:
    """The output of the steered block, position by position; the last one moves by α·v."""
    vector = random_vector(loaded, layer=1)
    seen: list[Tensor] = []

    def read(module: object, args: object, output: object) -> None:
        seen.append(block_output(output).clone())

    def look() -> Tensor:
        handle = loaded.blocks.stack[0].register_forward_hook(read)
        logits(loaded, list(prompt()))
        handle.remove()
        return seen.pop()[0]

    plain = look()
    with steer(loaded.model, vector, 2.0):
        steered = look()
    assert torch.equal(steered[:-1], plain[:-1])
    torch.testing.assert_close(steered[-1] - plain[-1], 2.0 * vector.direction())


def test_engine_response_steering_leaves_the_prompt_before_its_last_token_alone(
    loaded: LoadedModel,
) -> None:
    """The same through the engine, at the deepest layer: sum over the prompt less its last."""
    steering = (Steering(1, direction(loaded, 2), 3.0),)
    sums = []
    for row in ((), steering):
        [found] = generate_batch(loaded, [Request("a", prompt(), row)], GREEDY, capture=True)
        _, prompt_mean, prompt_last = found.activations
        sums.append(prompt_mean * len(prompt()) - prompt_last)
    torch.testing.assert_close(sums[0], sums[1], atol=1e-4, rtol=1e-4)


def test_capture_at_the_steered_layer_reads_the_steered_state(loaded: LoadedModel) -> None:
    """The last prompt token's activation moves by exactly α·v."""
    v = direction(loaded, 3)
    found = [
        generate_batch(loaded, [Request("a", prompt(), row)], GREEDY, capture=True)[0].activations
        for row in ((), (Steering(1, v, 2.0),))
    ]
    torch.testing.assert_close(found[1][2, 1] - found[0][2, 1], 2.0 * v, atol=1e-4, rtol=1e-4)


def test_capture_reads_the_steered_state_whichever_context_comes_first(
    loaded: LoadedModel, random_vector: MakeVector
) -> None:
    """Recording around steer() and steer() around recording read the same, which is not plain."""
    vector, ids = random_vector(loaded, layer=1), torch.tensor([list(prompt())])
    read = []
    for first, coefficient in (("recording", 2.0), ("steer", 2.0), ("steer", 0.0)):
        sums = SpanSums([1], 1, 1, loaded.identity.hidden_size)
        sums.weigh(torch.ones(1, 1, ids.shape[1]))
        contexts = [recording(loaded.model, sums), steer(loaded.model, vector, coefficient)]
        with ExitStack() as stack:
            for context in contexts if first == "recording" else reversed(contexts):
                stack.enter_context(context)
            logits(loaded, list(prompt()))
        read.append(sums.sums)
    assert torch.equal(read[0], read[1])
    moved = (read[1] - read[2]).flatten()
    torch.testing.assert_close(moved, 2.0 * vector.direction(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("coefficient", [math.nan, math.inf, -math.inf])
def test_a_coefficient_that_is_no_number_is_refused(
    llama: LoadedModel, random_vector: MakeVector, coefficient: float
) -> None:
    """Named in the message, before any forward."""
    with pytest.raises(UsageError, match="not a finite number"):
        Steering(1, direction(llama, 0), coefficient)
    with (
        pytest.raises(UsageError, match="not a finite number"),
        steer(llama.model, random_vector(llama), coefficient),
    ):
        pass


@pytest.mark.parametrize("layer", [-1, 0, 5, 99])
def test_a_layer_that_does_not_exist_is_refused(
    llama: LoadedModel, random_vector: MakeVector, layer: int
) -> None:
    """Layers of this model are 1 to 4; 0 is the embedding and cannot be steered."""
    with (
        pytest.raises(UsageError, match=f"layer {layer} "),
        steer(llama.model, random_vector(llama), 1, layer=layer),
    ):
        pass
    with pytest.raises(UsageError, match=f"layer {layer} "):
        SteeringBatch([(Steering(layer, direction(llama, 0), 1.0),)], 32, 4)


def test_a_vector_of_another_shape_is_refused(
    llama: LoadedModel, fresh: Callable[..., LoadedModel], random_vector: MakeVector
) -> None:
    """A vector of the 3-layer Qwen2 does not fit the 4-layer Llama, and the error says both."""
    vector = random_vector(fresh("qwen2"))
    with (
        pytest.raises(VectorMismatchError, match=r"for 3 layers .* has 4 "),
        steer(llama.model, vector, 1),
    ):
        pass


def test_a_hook_that_did_not_fire_is_an_error(
    llama: LoadedModel, random_vector: MakeVector
) -> None:
    """No forward at all, inside steer(), steering_rows() and recording()."""
    with pytest.raises(HookError), steer(llama.model, random_vector(llama), 1):
        pass
    batch = SteeringBatch([(Steering(2, direction(llama, 0), 1.0),)], 32, 4)
    with pytest.raises(HookError, match=r"layer\(s\) \[2\]"), steering_rows(llama.model, batch):
        pass
    with pytest.raises(HookError), recording(llama.model, SpanSums([1], 1, 1, 32)):
        pass


def test_steering_a_layer_that_the_forward_does_not_reach_is_an_error(llama: LoadedModel) -> None:
    """The forward ends after layer 1, the steering is at layer 3: it must not pass silently."""
    batch = SteeringBatch([(Steering(3, direction(llama, 0), 1.0),)], 32, 4)
    ids = torch.tensor([list(prompt())])
    with (
        pytest.raises(HookError, match=r"layer\(s\) \[3\]"),
        steering_rows(llama.model, batch),
        recording(llama.model, SpanSums([1], 1, 1, 32), stop_early=True),
    ):
        run_to_deepest_layer(llama.model, input_ids=ids)


def test_all_layers_together_add_the_vector_once(
    fresh: Callable[..., LoadedModel], random_vector: MakeVector
) -> None:
    """Where blocks add nothing of their own, the last layer moves by α·(v_L − v_0)."""
    loaded = fresh("llama")
    for block in loaded.blocks.stack:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    vector, ids = random_vector(loaded), list(prompt())
    seen: list[Tensor] = []
    handle = loaded.blocks.stack[-1].register_forward_hook(
        lambda module, args, output: seen.append(block_output(output).clone())
    )
    logits(loaded, ids)
    with steer(loaded.model, vector, 1.5, layer="all", positions="all"):
        logits(loaded, ids)
    handle.remove()
    rows = vector.response_mean_diff
    moved = (seen[1] - seen[0])[0]
    torch.testing.assert_close(moved, (1.5 * (rows[-1] - rows[0])).expand_as(moved))


def test_all_layers_in_the_engine_equal_steer_around_generate(
    loaded: LoadedModel, random_vector: MakeVector
) -> None:
    """Per-row steering at every layer, beside an unsteered row, writes what steer() writes."""
    vector = random_vector(loaded)
    rows = [vector_steering(vector, 0.5, "all"), ()]
    requests = [Request(str(i), prompt(), steering) for i, steering in enumerate(rows)]
    steered, plain = generate_batch(loaded, requests, GREEDY)
    with steer(loaded.model, vector, 0.5, layer="all"):
        output = loaded.model.generate(
            torch.tensor([prompt()]), max_new_tokens=6, do_sample=False, pad_token_id=0
        )
    written = tuple(output[0, len(prompt()) :].tolist())
    assert steered.response_ids == written[: len(steered.response_ids)]
    assert steered.response_ids != plain.response_ids


def test_a_vector_means_one_steering_or_one_a_layer(
    llama: LoadedModel, random_vector: MakeVector
) -> None:
    vector = random_vector(llama, layer=3)
    [selected] = vector_steering(vector, 2.0)
    [second] = vector_steering(vector, 2.0, 2, "all")
    assert (selected.layer, second.layer, second.positions) == (3, 2, "all")
    assert torch.equal(second.direction, vector.direction(2))
    each = vector_steering(vector, 2.0, "all")
    assert [s.layer for s in each] == [1, 2, 3, 4]
    assert torch.equal(each[2].direction, vector.direction(3) - vector.direction(2))
