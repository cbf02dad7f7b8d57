"""Sampling is keyed by (seed, id, step), and decoding with a cache is only a faster forward."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from generating import generate, generate_batch
from hypothesis import given, settings, strategies as st
from scipy import stats

from personavec import LoadedModel
from personavec.errors import UsageError
from personavec.model import Steering
from personavec.model.engine import Request, Sampling
from personavec.model.engine.sampling import Draw, choose, usable

same_examples = settings(derandomize=True, max_examples=15, deadline=None)
REQUESTS = [Request(f"r{i}", tuple(range(40, 42 + 3 * i))) for i in range(7)]


def ids_of(
    loaded: LoadedModel, requests: list[Request], sampling: Sampling, budget: int = 1 << 14
) -> dict[str, tuple[int, ...]]:
    batches = generate(loaded, requests, sampling, batch_tokens=budget)
    return {g.id: g.response_ids for batch in batches for g in batch}


@same_examples
@given(order=st.permutations(REQUESTS), budget=st.integers(1, 200))
def test_order_and_batch_size_change_no_sample(
    loaded: LoadedModel, order: list[Request], budget: int
) -> None:
    """In float32, where rounding is too small to turn a choice."""
    sampling = Sampling(max_tokens=8, temperature=1.0, seed=3)
    assert ids_of(loaded, order, sampling, budget) == ids_of(loaded, REQUESTS, sampling)


def test_logprobs_are_those_of_a_plain_forward(loaded: LoadedModel) -> None:
    """Before temperature and top-p, of the first tokens, and only where they are asked for."""
    sampling = Sampling(max_tokens=8, temperature=0.7, top_p=0.6, seed=5)
    requests = [replace(r, logprobs=i % 3 * 5) for i, r in enumerate(REQUESTS)]
    found = generate_batch(loaded, requests, sampling, capture=True)
    for request, generation in zip(requests, found, strict=True):
        n = min(request.logprobs, len(generation.response_ids))
        assert len(generation.logprobs) == n
        ids = torch.tensor([[*request.prompt_ids, *generation.response_ids[:n]]])
        with torch.inference_mode():
            logits = loaded.model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, ids[0, len(request.prompt_ids) :, None])
        torch.testing.assert_close(
            torch.tensor(generation.logprobs), expected[:, 0] if n else torch.empty(0)
        )


def test_seeds_and_ids_differ_in_their_noise(loaded: LoadedModel) -> None:
    """Twelve tokens out of 260 agree by chance about never; the same seed agrees always."""
    same_prompt = [Request(f"r{i}", (1, 2, 3)) for i in range(3)]
    first, again, other = (
        ids_of(loaded, same_prompt, Sampling(max_tokens=12, temperature=2.0, seed=seed))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert len({*first.values(), *other.values()}) == 6


def test_greedy_equals_transformers_generate(loaded: LoadedModel) -> None:
    """On a left-padded batch, up to the end-of-turn token."""
    width = max(len(r.prompt_ids) for r in REQUESTS)
    padding = [width - len(r.prompt_ids) for r in REQUESTS]
    rows = zip(REQUESTS, padding, strict=True)
    ids = torch.tensor([[0] * pad + list(r.prompt_ids) for r, pad in rows])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
    theirs = loaded.model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=10, pad_token_id=0
    )
    ours = ids_of(loaded, REQUESTS, Sampling(max_tokens=10, temperature=0))
    for request, row in zip(REQUESTS, theirs[:, width:].tolist(), strict=True):
        end = next((i for i, t in enumerate(row) if t in loaded.stop_ids), len(row))
        assert ours[request.id] == tuple(row[:end])


@torch.inference_mode()
def test_cached_decoding_equals_a_full_forward_at_every_step(loaded: LoadedModel) -> None:
    """Sampled tokens are those that the same noise picks from uncached logits."""
    sampling = Sampling(max_tokens=8, temperature=1.0, seed=5)
    for request, found in zip(REQUESTS, generate_batch(loaded, REQUESTS, sampling), strict=True):
        row = list(request.prompt_ids)
        for step, token in enumerate(found.response_ids):
            logits = loaded.model(input_ids=torch.tensor([row])).logits[:, -1]
            assert int(choose(logits, [Draw(sampling, request.id, step)])) == token
            row.append(token)


def test_a_row_that_ended_changes_no_row_that_goes_on(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of all tokens end a turn, so rows end at unlike steps; each equals itself alone.

    Every second row is steered, so that a mask on the wrong row would show.
    """
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", list(range(0, 256, 3)))
    v = torch.randn(32, generator=torch.Generator().manual_seed(0))
    requests = [
        Request(f"r{i}", tuple(range(40, 42 + i)), (Steering(1, v, 3.0),) * (i % 2))
        for i in range(16)
    ]
    sampling = Sampling(max_tokens=8, temperature=0.2)
    together = ids_of(loaded, requests, sampling)
    assert len({len(ids) for ids in together.values()}) > 3
    assert together == ids_of(loaded, requests, sampling, budget=1)
    assert not {t for ids in together.values() for t in ids} & loaded.stop_ids


def chosen(logits: list[float], n: int, sampling: Sampling) -> np.ndarray:
    """How often each token is chosen by `n` requests at the same logits."""
    draws = [Draw(sampling, f"r{i}", 0) for i in range(n)]
    tokens = choose(torch.tensor([logits]).repeat(n, 1), draws)
    return np.bincount(tokens.numpy(), minlength=len(logits))


LOGITS = [0.0, 1.0, -1.0, 2.0, 0.5, -2.0, 0.0, 1.5]


DIRECTION = torch.ones(32)


@pytest.mark.parametrize("coefficient", [1e19, 1e30, 3e38], ids=["constant", "zero", "nan"])
@pytest.mark.parametrize("capture", [False, True])
def test_a_steered_row_that_overflows_fails_alone(
    loaded: LoadedModel, coefficient: float, capture: bool
) -> None:
    """Whether the last norm gives NaN or, its squares being infinite, the same logit everywhere."""
    action = Steering(1, DIRECTION * 10, coefficient)
    requests = [Request("ill", (1, 2, 3), (action,)), *REQUESTS[:3]]
    sampling = Sampling(max_tokens=5, seed=1)
    [found] = generate(loaded, requests, sampling, capture=capture)
    [ill] = [generation for generation in found if generation.id == "ill"]
    well = [generation for generation in found if generation.id != "ill"]
    assert ill.failed
    assert not ill.response_ids
    assert ill.activations is None
    assert not any(generation.failed for generation in well)
    alone = ids_of(loaded, REQUESTS[:3], sampling)
    assert {generation.id: generation.response_ids for generation in well} == alone


def test_a_row_may_fail_after_some_tokens(fresh: Callable[..., LoadedModel]) -> None:
    """The token that a greedy row takes third has no finite embedding."""
    loaded = fresh("llama")
    sampling = Sampling(max_tokens=8, temperature=0)
    before = ids_of(loaded, REQUESTS, sampling)
    third = before["r0"][2]
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[third] = torch.nan
    [found] = generate(loaded, REQUESTS, sampling)
    for generation in found:
        fed = before[generation.id][:-1]
        assert generation.failed == (third in fed)
        assert generation.response_ids == (() if third in fed else before[generation.id])


def test_what_can_be_chosen_from() -> None:
    """Minus infinity bars a token; NaN, infinity, or the same logit everywhere bar the row."""
    rows = [[0.0, 1.0], [0.0, -torch.inf], [0.0, torch.nan], [0.0, torch.inf], [1.0, 1.0]]
    assert usable(torch.tensor(rows)).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_choices_follow_the_softmax(temperature: float) -> None:
    """A fair sampler fails this for one seed in a million; the seed is fixed."""
    n = 5000
    expected = torch.tensor(LOGITS).double().div(temperature).softmax(-1).numpy() * n
    counts = chosen(LOGITS, n, Sampling(temperature=temperature))
    assert stats.chisquare(counts, expected).pvalue > 1e-6


def test_steps_of_one_request_are_independent_draws() -> None:
    """The same over steps instead of ids; again one false alarm in a million seeds."""
    row = torch.tensor([LOGITS])
    tokens = [int(choose(row, [Draw(Sampling(), "r", step)])) for step in range(3000)]
    expected = torch.tensor(LOGITS).double().softmax(-1).numpy() * len(tokens)
    assert stats.chisquare(np.bincount(tokens, minlength=8), expected).pvalue > 1e-6


def test_an_all_but_impossible_token_is_never_chosen() -> None:
    """Noise of exactly 0 would force its token, whatever the logits: 2e7 draws hold none.

    In float32 about one draw in 1e7 was 0. Rightly, e^-60 of any draw being forced is no odds.
    """
    logits = torch.full((100, 50_000), -60.0)
    logits[:, 7] = 0
    for group in range(4):
        draws = [Draw(Sampling(), f"g{group}-{i}", 0) for i in range(100)]
        assert set(choose(logits, draws).tolist()) == {7}


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    """Probabilities 0.5, 0.3, 0.15, 0.05: 0.7 needs two of them, and they keep their odds."""
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().tolist()
    counts = chosen(logits, 3000, Sampling(top_p=0.7))
    assert counts[0] == counts[2] == 0
    assert stats.binomtest(int(counts[1]), 3000, 0.5 / 0.8).pvalue > 1e-6
    assert chosen(logits, 50, Sampling(top_p=1e-9)).tolist() == [0, 50, 0, 0]


def test_an_over_long_prompt_is_refused_before_anything_runs(llama: LoadedModel) -> None:
    """The request is named, and how long it is, and what the model takes."""
    long = Request("the-long-one", tuple([5] * (llama.context - 3)))
    with pytest.raises(UsageError, match=r"the-long-one.*exceed .*context of 1024"):
        next(generate(llama, [REQUESTS[0], long], Sampling(max_tokens=4)))
    fits = Request("fits", tuple([5] * (llama.context - 4)))
    [[found]] = generate(llama, [fits], Sampling(max_tokens=4, temperature=0))
    assert len(found.response_ids) <= 4


def test_no_requests_give_no_batches(llama: LoadedModel) -> None:
    """An empty job is a job done."""
    assert list(generate(llama, [], Sampling())) == []
