"""Rows of a running batch are as they would be alone, whoever joins and leaves beside them."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from generating import generate_batch
from hypothesis import given, settings, strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from personavec import LoadedModel, PersonaVector, wrap_model
from personavec.errors import ModelError, UsageError
from personavec.model import Action, Cap, Directions, Steering, project_tokens
from personavec.model.engine import (
    NOT_FINITE,
    DecodeJob,
    GuardVerdict,
    Request,
    Sampling,
    StepLoop,
    Update,
    check_joinable,
)

few = settings(derandomize=True, max_examples=12, deadline=None)


def prompt(i: int) -> tuple[int, ...]:
    return tuple(30 + (7 * i + 5 * j) % 200 for j in range(1 + (13 * i) % 41))


def run(loop: StepLoop) -> Iterator[Update]:
    while loop.busy:
        yield from loop.step()


def responses(updates: Iterator[Update]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for update in updates:
        found.setdefault(update.id, ())
        if update.token is not None:
            found[update.id] += (update.token,)
    return found


def alone(loaded: LoadedModel, job: DecodeJob) -> tuple[int, ...]:
    [found] = generate_batch(loaded, [job.request], job.sampling)
    return found.response_ids


def direction(loaded: LoadedModel, seed: int) -> torch.Tensor:
    return torch.randn(loaded.identity.hidden_size, generator=torch.Generator().manual_seed(seed))


def job(loaded: LoadedModel, i: int, tokens: int, temperature: float = 1.0) -> DecodeJob:
    steering = (Steering(1 + i % 2, direction(loaded, i), 0.3 * i),) if i % 3 else ()
    sampling = Sampling(tokens, temperature, top_p=0.9 if i % 2 else 1.0, seed=i)
    return DecodeJob(Request(f"r{i}", prompt(i), steering), sampling)


@few
@given(
    plan=st.lists(
        st.tuples(st.integers(1, 30), st.integers(0, 4), st.sampled_from([0.0, 0.8])),
        min_size=1,
        max_size=9,
    ),
    rows=st.integers(1, 4),
)
def test_each_request_is_as_alone_whatever_joins_and_leaves(
    loaded: LoadedModel, plan: list[tuple[int, int, float]], rows: int
) -> None:
    """Lengths, arrivals, sampling and steering of their own; in float32 rounding turns nothing."""
    loop = StepLoop(loaded, max_rows=rows, prefill_tokens=60)
    jobs = []
    updates: list[Update] = []
    for i, (tokens, steps_between, temperature) in enumerate(plan):
        jobs.append(job(loaded, i, tokens, temperature))
        loop.submit(jobs[-1])
        for _ in range(steps_between):
            updates += loop.step()
            assert loop.running <= rows
    updates += run(loop)
    loop.close()
    found = responses(iter(updates))
    assert found == {one.request.id: alone(loaded, one) for one in jobs}
    assert sum(update.end is not None for update in updates) == len(jobs)


@few
@given(cancels=st.lists(st.integers(0, 7), max_size=6), after=st.integers(0, 12))
def test_cancelling_some_changes_none_of_the_others(
    llama: LoadedModel, cancels: list[int], after: int
) -> None:
    loop = StepLoop(llama, max_rows=3)
    jobs = [job(llama, i, 10) for i in range(8)]
    for one in jobs:
        loop.submit(one)
    updates = [update for _ in range(after) for update in loop.step()]
    ended = {update.id for update in updates if update.end}
    gone = {f"r{i}" for i in cancels}
    for id in gone:
        loop.cancel(id)
    updates += run(loop)
    found = responses(iter(updates))
    assert (loop.running, loop.waiting) == (0, 0)
    for one in jobs:
        if one.request.id not in gone or one.request.id in ended:
            assert found.get(one.request.id, ()) == alone(llama, one)


def test_a_long_prompt_joins_short_ones_and_buffers_grow(llama: LoadedModel) -> None:
    """Past several sizes of buffer, and back to the first when all have left."""
    loop = StepLoop(llama, max_rows=3)
    jobs = [
        DecodeJob(Request("short", (40, 41)), Sampling(300, 0.9, seed=1)),
        DecodeJob(Request("long", tuple(range(30, 230)) * 2), Sampling(200, 0.9, seed=2)),
        DecodeJob(Request("late", tuple(range(30, 60))), Sampling(150, 0.9, seed=3)),
    ]
    loop.submit(jobs[0])
    updates = [update for _ in range(20) for update in loop.step()]
    loop.submit(jobs[1])
    updates += [update for _ in range(20) for update in loop.step()]
    loop.submit(jobs[2])
    updates += run(loop)
    assert responses(iter(updates)) == {one.request.id: alone(llama, one) for one in jobs}
    assert loop._cache.columns == 128


OTHERS = {
    "sliding window": lambda v, end: MistralForCausalLM(
        MistralConfig(
            vocab_size=v, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, sliding_window=8, eos_token_id=end,
        )
    ),
    "window at every other layer": lambda v, end: Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=v, hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=8,
            num_attention_heads=4, num_key_value_heads=2, sliding_window=8, eos_token_id=end,
            layer_types=["sliding_attention", "full_attention"],
        )
    ),
    "position biases": lambda v, end: BloomForCausalLM(
        BloomConfig(vocab_size=v, hidden_size=32, n_layer=2, n_head=4, eos_token_id=end)
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_attention(kind: str, chat_tokenizer) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = OTHERS[kind](len(chat_tokenizer), chat_tokenizer.eos_token_id)
        for parameter in network.parameters():
            parameter.data.normal_(std=0.15)
    loaded = wrap_model(network.float(), chat_tokenizer, name="tiny")
    loop = StepLoop(loaded, max_rows=2)
    jobs = [DecodeJob(Request(f"r{i}", prompt(i)), Sampling(12, 1.0, seed=i)) for i in range(1, 6)]
    for one in jobs:
        loop.submit(one)
    assert responses(run(loop)) == {one.request.id: alone(loaded, one) for one in jobs}


def test_a_model_with_another_kind_of_memory_runs_batches_that_nobody_joins(
    chat_tokenizer,
) -> None:
    """Its rows leave one by one, and the next ones join when all have left."""
    config = MambaConfig(
        vocab_size=len(chat_tokenizer), hidden_size=32, num_hidden_layers=2,
        eos_token_id=chat_tokenizer.eos_token_id,
    )  # fmt: skip
    loaded = wrap_model(MambaForCausalLM(config), chat_tokenizer, name="tiny-mamba")
    with pytest.raises(ModelError, match="cannot join a running batch"):
        check_joinable(config)
    loop = StepLoop(loaded, max_rows=3)
    jobs = [DecodeJob(Request(f"r{i}", prompt(i)), Sampling(3 * i, seed=i)) for i in range(1, 8)]
    for one in jobs:
        loop.submit(one)
    updates: list[Update] = []
    sizes: list[int] = []
    while loop.busy:
        updates += loop.step()
        sizes.append(loop.running)
    grown = [b for a, b in pairwise(sizes) if b > a]
    assert grown
    assert all(a == 0 for a, b in pairwise(sizes) if b > a)
    assert responses(iter(updates)) == {one.request.id: alone(loaded, one) for one in jobs}


def test_readings_are_those_of_the_whole_text(loaded: LoadedModel) -> None:
    """Of the last prompt token and of every response token, the last one too."""
    directions = Directions((1, 2), torch.stack([direction(loaded, i) for i in (1, 2)]))
    loop = StepLoop(loaded, directions=directions, max_rows=3)
    jobs = [
        DecodeJob(Request(f"r{i}", prompt(i)), Sampling(3 + 4 * i, 1.0, seed=i), read=i != 3)
        for i in range(6)
    ]
    for one in jobs:
        loop.submit(one)
    found = responses(run(loop))
    readings = {one.request.id: loop.projections(one.request.id) for one in jobs}
    assert loop.projections("r1") is None
    loop.close()
    for one in jobs:
        values = readings[one.request.id]
        if not one.read:
            assert values is None
            continue
        text = [*one.request.prompt_ids, *found[one.request.id]]
        [whole] = project_tokens(
            loaded.model, [np.array(text, dtype=np.int32)], directions, share_prefixes=False
        )
        expected = whole[len(one.request.prompt_ids) - 1 :]
        torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("action", ["steer", "cap"])
def test_a_guard_acts_from_the_last_prompt_token_on(llama: LoadedModel, action: str) -> None:
    """As if the request had asked for it; the forecast is that of the state before it acted."""
    along = direction(llama, 1)
    unit = along / along.norm()
    acts: tuple[Action, ...] = (Steering(2, along, -2.0),)
    if action == "cap":
        acts = (Cap(2, along, -30.0),)
    asked: list[torch.Tensor] = []

    def guard(forecast: torch.Tensor) -> GuardVerdict:
        asked.append(forecast.clone())
        return acts

    directions = Directions((2,), unit[None])
    loop = StepLoop(llama, directions=directions, max_rows=3)
    sampling = Sampling(12, 1.0, seed=4)
    guarded = DecodeJob(Request("guarded", prompt(4), noise="n"), sampling, read=True, guard=guard)
    plain = DecodeJob(Request("plain", prompt(4), noise="n"), sampling, read=True)
    asking = DecodeJob(Request("asking", prompt(4), acts, noise="n"), sampling, read=True)
    for one in (guarded, plain, asking):
        loop.submit(one)
    found = responses(run(loop))
    values = {id: loop.projections(id) for id in found}
    loop.close()
    assert found["guarded"] == found["asking"] == alone(llama, asking)
    assert found["plain"] == alone(llama, plain) != found["guarded"]
    assert len(asked) == 1
    torch.testing.assert_close(asked[0], values["plain"][0])
    torch.testing.assert_close(values["guarded"][0], values["plain"][0])
    torch.testing.assert_close(values["guarded"][1:], values["asking"][1:], atol=1e-4, rtol=1e-4)


def test_a_guard_refuses_before_a_token_is_chosen(llama: LoadedModel) -> None:
    loop = StepLoop(llama, directions=Directions((2,), direction(llama, 1)[None]))
    loop.submit(DecodeJob(Request("no", prompt(3)), Sampling(5), guard=lambda forecast: "refuse"))
    assert list(run(loop)) == [Update("no", end="refused")]
    loop.close()


def test_logprobs_are_the_models_own(llama: LoadedModel) -> None:
    loop = StepLoop(llama)
    one = DecodeJob(Request("a", prompt(2)), Sampling(6, 0.7, top_p=0.5, seed=1), top_logprobs=3)
    loop.submit(one)
    updates = [update for update in run(loop) if update.token is not None]
    row = list(one.request.prompt_ids)
    for update in updates:
        with torch.inference_mode():
            expected = llama.model(input_ids=torch.tensor([row])).logits[0, -1].log_softmax(-1)
        assert update.logprob == pytest.approx(float(expected[update.token]), abs=1e-4)
        values, ids = expected.topk(3)
        assert [id for id, _ in update.top] == ids.tolist()
        assert [p for _, p in update.top] == pytest.approx(values.tolist(), abs=1e-4)
        row.append(update.token)
    assert len(updates) == 6


def test_finishing_early_reads_the_last_token(llama: LoadedModel) -> None:
    directions = Directions((1,), direction(llama, 1)[None])
    loop = StepLoop(llama, directions=directions)
    loop.submit(DecodeJob(Request("a", prompt(2)), Sampling(50, 0.9, seed=3), read=True))
    updates = [update for _ in range(5) for update in loop.step()]
    assert loop.finish("a")
    updates += run(loop)
    assert [update.end for update in updates] == [None] * 5 + ["stop"]
    values = loop.projections("a")
    assert values is not None
    assert len(values) == 1 + 5
    assert not loop.finish("a")
    loop.close()


def ill(loaded: LoadedModel, name: str, tokens: int = 6) -> DecodeJob:
    """A direction so large that it overflows, in any type."""
    huge = torch.full((loaded.identity.hidden_size,), 1e38)
    return DecodeJob(Request(name, prompt(7), (Steering(1, huge, 1e3),)), Sampling(tokens, seed=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_row_of_nan_fails_alone_and_leaves_nothing(
    fresh: Callable[..., LoadedModel], dtype: torch.dtype
) -> None:
    """Beside a long reply; those who get its place later, and its neighbours, are as alone."""
    loaded = fresh()
    loaded.model.to(dtype)
    loop = StepLoop(loaded, max_rows=3)
    first = [ill(loaded, "ill"), DecodeJob(Request("long", prompt(3)), Sampling(40, 0.0))]
    later = [DecodeJob(Request(f"late{i}", prompt(i)), Sampling(6, 0.0)) for i in range(1, 5)]
    for one in (*first, ill(loaded, "ill too"), *later):
        loop.submit(one)
    updates = list(run(loop))
    loop.close()
    failed = [update for update in updates if update.end == "failed"]
    assert [(update.id, update.reason) for update in failed] == [
        ("ill", NOT_FINITE),
        ("ill too", NOT_FINITE),
    ]
    found = responses(iter(updates))
    for one in (first[1], *later):
        assert found[one.request.id] == alone(loaded, one)


def test_a_batch_of_nan_alone_leaves_nothing(fresh: Callable[..., LoadedModel]) -> None:
    """Also where the batch was empty in between."""
    loaded = fresh()
    loop = StepLoop(loaded, max_rows=2)
    well = DecodeJob(Request("well", prompt(3)), Sampling(6, seed=1))
    for one in (ill(loaded, "ill"), well):
        loop.submit(one)
        updates = list(run(loop))
    assert responses(iter(updates))["well"] == alone(loaded, well)
    loop.close()


def test_a_forecast_that_overflows_under_its_guard_fails_alone(
    fresh: Callable[..., LoadedModel],
) -> None:
    """The guard's own action, and what a guard raises, are its row's alone."""
    loaded = fresh()
    huge = torch.full((loaded.identity.hidden_size,), 1e38)
    size = loaded.identity.hidden_size

    def breaks(forecast: torch.Tensor) -> GuardVerdict:
        raise ZeroDivisionError("by zero")

    guards: dict[str, Callable[[torch.Tensor], GuardVerdict]] = {
        "overflows": lambda forecast: (Steering(1, huge, 1e3),),
        "no such layer": lambda forecast: (Steering(99, huge, 1.0),),
        "another size": lambda forecast: (Cap(1, torch.ones(size + 1), 1.0),),
        "breaks": breaks,
    }
    loop = StepLoop(loaded, directions=Directions((2,), direction(loaded, 1)[None]), max_rows=8)
    well = DecodeJob(Request("well", prompt(3)), Sampling(20, seed=1))
    loop.submit(well)
    for name, guard in guards.items():
        loop.submit(DecodeJob(Request(name, prompt(4)), Sampling(5), guard=guard))
    updates = list(run(loop))
    loop.close()
    reasons = {update.id: update.reason for update in updates if update.end == "failed"}
    assert set(reasons) == set(guards)
    assert reasons["overflows"] == NOT_FINITE
    assert "by zero" in reasons["breaks"]
    assert responses(iter(updates))["well"] == alone(loaded, well)


def test_actions_that_cannot_act_are_refused_before_they_join(llama: LoadedModel) -> None:
    loop = StepLoop(llama)
    with pytest.raises(UsageError, match="layer 9 does not exist"):
        loop.submit(
            DecodeJob(Request("a", prompt(1), (Steering(9, torch.ones(32), 1.0),)), Sampling(5))
        )
    assert not loop.busy


def test_a_prompt_that_cannot_be_encoded_fails_alone(fresh: Callable[..., LoadedModel]) -> None:
    """As where the memory does not suffice for it: what runs goes on."""
    loaded = fresh()
    loop = StepLoop(loaded, max_rows=3)
    well = DecodeJob(Request("well", prompt(3)), Sampling(20, seed=1))
    loop.submit(well)
    updates = loop.step()
    loop.submit(DecodeJob(Request("ill", (10**6, *prompt(2))), Sampling(5)))
    updates += list(run(loop))
    [failed] = [update for update in updates if update.end == "failed"]
    assert failed.id == "ill"
    assert "could not be encoded" in failed.reason
    assert responses(iter(updates))["well"] == alone(loaded, well)
    loop.close()


def test_what_does_not_fit_the_context_is_refused(llama: LoadedModel) -> None:
    loop = StepLoop(llama)
    with pytest.raises(UsageError, match="exceed the model's context of 1024"):
        loop.submit(DecodeJob(Request("a", (40,) * 1000), Sampling(25)))
    with pytest.raises(UsageError, match="no tokens"):
        loop.submit(DecodeJob(Request("a", ()), Sampling(25)))
    with pytest.raises(UsageError, match="at least one"):
        StepLoop(llama, max_rows=0)


def _hooks(loaded: LoadedModel) -> list[list[int]]:
    """transformers leaves hooks of its own there once it has captured outputs."""
    return [[*b._forward_hooks, *b._forward_pre_hooks] for b in loaded.blocks.stack]


def test_closing_leaves_the_model_as_it_was(
    llama: LoadedModel, random_vector: Callable[[LoadedModel], PersonaVector]
) -> None:
    vector = random_vector(llama)
    unit = vector.direction(1) / vector.direction(1).norm()
    before = _hooks(llama)
    loop = StepLoop(llama, directions=Directions((1,), unit[None]))
    assert _hooks(llama) != before
    loop.submit(DecodeJob(Request("a", prompt(2), (Steering(1, unit, 3.0),)), Sampling(4)))
    loop.step()
    loop.close()
    assert _hooks(llama) == before
    assert not loop.busy


def stepped(loaded: LoadedModel, loop: StepLoop, *jobs: DecodeJob) -> tuple[int, list[Update]]:
    """How many tokens the model reads in the step that jobs join, padding included."""
    seen: list[int] = []
    embedding = loaded.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda m, args, out: seen.append(args[0].numel()))
    for one in jobs:
        loop.submit(one)
    updates = loop.step()
    handle.remove()
    return sum(seen), updates


@pytest.mark.parametrize("steered", [False, True])
def test_a_later_turn_reads_only_what_is_new(llama: LoadedModel, steered: bool) -> None:
    """An unsteered reply is kept with its prompt; a steered one is encoded again, unsteered."""
    loop = StepLoop(llama, remember=True)
    steering = (Steering(1, direction(llama, 1), 3.0),) if steered else ()
    asked = tuple(range(30, 100))
    first = DecodeJob(Request("first", asked, steering), Sampling(40, 0.9, seed=1))
    read, updates = stepped(llama, loop, first)
    assert read == len(asked)
    reply = responses(iter([*updates, *run(loop)]))["first"]
    assert reply == alone(llama, first)
    second = DecodeJob(Request("second", (*asked, *reply, *range(200, 212))), Sampling(5, 0.0))
    read, updates = stepped(llama, loop, second)
    # The last token of a prompt, and that of a reply cut off by its limit, were not read.
    known = len(asked) - 1 if steered else len(asked) + len(reply) - (len(reply) == 40)
    assert read == len(second.request.prompt_ids) - known
    found = responses(iter([*updates, *run(loop)]))["second"]
    loop.close()
    assert found == alone(llama, second)


def test_clients_with_a_common_system_prompt_read_it_once(llama: LoadedModel) -> None:
    """Those that come together, and one that comes later; each is as alone."""
    loop = StepLoop(llama, remember=True)
    system = tuple(range(30, 130))
    jobs = [
        DecodeJob(Request(f"r{i}", (*system, 200 + i, 150, 151)), Sampling(6, 0.9, seed=i))
        for i in range(4)
    ]
    read, updates = stepped(llama, loop, *jobs[:3])
    # The system prompt, two further tokens for each, and the last one of each in the step.
    assert read == len(system) + 3 * 2 + 3
    read, more = stepped(llama, loop, jobs[3])
    assert read == 2 + 4
    found = responses(iter([*updates, *more, *run(loop)]))
    loop.close()
    assert found == {one.request.id: alone(llama, one) for one in jobs}
