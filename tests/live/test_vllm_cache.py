"""vLLM's prefix cache changes nothing: not texts, nor log-probabilities, nor what is captured.

In float32, where what differs is the order in which sums are rounded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from vllm_engines import QUESTIONS, by_id, relative_error, start_vllm

from personavec import LoadedModel, PersonaVector, load_model, load_vector
from personavec.model import Action, Directions, chat, vector_cap, vector_steering
from personavec.model.engine import Request, Sampling
from personavec.model.engine.vllm_note import SteeringTable, note_of

pytestmark = pytest.mark.filterwarnings("ignore")

#: A beginning of several blocks.
SYSTEM = " ".join(
    f"Rule {n}: whatever is asked, answer in a sentence or two, and name no more than {n} things."
    for n in range(1, 7)
)
GREEDY = Sampling(max_tokens=40, temperature=0)


@pytest.fixture(scope="module")
def exact() -> LoadedModel:
    return load_model("smollm2", dtype="float32")


@pytest.fixture(scope="module")
def vector() -> PersonaVector:
    return load_vector("humorous")


@pytest.fixture(scope="module")
def caching(exact: LoadedModel) -> Iterator[Any]:
    with start_vllm(exact, max_num_seqs=4) as started:
        yield started


@pytest.fixture(scope="module")
def uncached(exact: LoadedModel) -> Iterator[Any]:
    with start_vllm(exact, enable_prefix_caching=False) as started:
        yield started


def ways(vector: PersonaVector) -> dict[str, tuple[Action, ...]]:
    return {
        "plain": (),
        "response": vector_steering(vector, 2.0),
        "weaker": vector_steering(vector, 1.0),
        "elsewhere": vector_steering(vector, 2.0, 9),
        "prompt": vector_steering(vector, 2.0, positions="prompt"),
        "all": vector_steering(vector, 2.0, positions="all"),
        "cap": (vector_cap(vector, 5),),
        "capped": (*vector_steering(vector, 2.0), vector_cap(vector, 5)),
    }


def asked(loaded: LoadedModel, question: str, *turns: str) -> tuple[int, ...]:
    """The prompt of a question, after other turns of a conversation."""
    said = [
        {"role": role, "content": turn}
        for role, turn in zip(("user", "assistant") * len(turns), turns, strict=False)
    ]
    messages = [*chat(question, SYSTEM)[:1], *said, *chat(question)]
    return tuple(loaded.chat.prompt_ids(messages))


def answers(
    engine: Any, requests: Sequence[Request]
) -> tuple[dict[str, tuple[int, ...]], dict[str, list[float]], dict[str, int]]:
    """By id: the tokens, their log-probabilities, and how many tokens came from the cache."""
    table = SteeringTable(engine.loaded.identity.n_layers, engine.loaded.identity.hidden_size)
    notes = {r.id: note_of(r.id, len(r.prompt_ids), r.steering, table) for r in requests}
    engine.begin(table.rows())
    for request in requests:
        params = engine.sampling_params(GREEDY, "", GREEDY.max_tokens, top_logprobs=0)
        engine.add(request.id, request.prompt_ids, params, notes[request.id])
    tokens, logprobs, cached = {}, {}, {}
    while len(tokens) < len(requests):
        for output in engine.step():
            (completion,) = output.outputs
            ids = tokens[output.request_id] = tuple(completion.token_ids)
            chosen = zip(completion.logprobs, ids, strict=True)
            logprobs[output.request_id] = [step[token].logprob for step, token in chosen]
            cached[output.request_id] = output.num_cached_tokens
    engine.read(list(tokens))
    return tokens, logprobs, cached


def same(engine: Any, uncached: Any, requests: Sequence[Request]) -> dict[str, int]:
    """Check that all answers are those without a cache, each by itself; gives what was cached."""
    tokens, logprobs, cached = answers(engine, requests)
    for request in requests:
        alone, expected, none = answers(uncached, [request])
        assert none == {request.id: 0}
        assert tokens[request.id] == alone[request.id], request.id
        assert logprobs[request.id] == pytest.approx(expected[request.id], abs=1e-3), request.id
    return cached


def test_steered_and_unsteered_requests_share_a_prompt(
    caching: Any, uncached: Any, exact: LoadedModel, vector: PersonaVector
) -> None:
    """In one batch, and in a later one, where they share as much as they may: all but the last
    block, unless the prompt is steered, which is shared under the same steering alone."""
    prompt = asked(exact, QUESTIONS[0])
    block, last = caching._block, len(prompt) - 1
    before = last // block * block
    assert before >= 3 * block
    requests = [Request(name, prompt, way) for name, way in ways(vector).items()]
    same(caching, uncached, requests)
    assert same(caching, uncached, requests) == dict.fromkeys(ways(vector), before)
    other = {
        "new": vector_steering(vector, -1.0),
        "new, all": vector_steering(vector, -1.0, positions="all"),
        "new, prompt": vector_steering(vector, -1.0, positions="prompt"),
    }
    found = same(caching, uncached, [Request(name, prompt, way) for name, way in other.items()])
    assert found == {"new": before, "new, all": 0, "new, prompt": 0}


def test_steered_answers_are_not_shared_when_they_are_read_again(
    caching: Any, uncached: Any, exact: LoadedModel, vector: PersonaVector
) -> None:
    """As earlier turns of a conversation, whose blocks were computed under steering. What was once
    computed without is, as far as the texts begin alike."""
    block = caching._block
    first = asked(exact, QUESTIONS[1])
    unsteered, differ = [first], 0
    for name, way in reversed(ways(vector).items()):
        tokens, *_ = answers(caching, [Request(name, first, way)])
        answered = (*first, *tokens[name])
        if not way:
            unsteered.append(answered)
        # The prompt goes on with the very tokens of the answer, whose last one is always computed.
        second = (*answered, *exact.chat.prompt_ids(chat(QUESTIONS[2])))
        alike = max(common(second[:-1], text) for text in unsteered)
        differ += alike // block < len(answered) // block
        again = [Request("plain", second), Request(f"{name} again", second, way)]
        cached = same(caching, uncached, again)
        assert cached["plain"] == alike // block * block, name
        unsteered.append(second)
    assert differ > len(ways(vector)) / 2


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def captured(loaded: LoadedModel, vector: PersonaVector) -> list[Request]:
    """Prompts that begin alike, some of them twice, under every way to act on them."""
    prompts = [asked(loaded, question) for question in QUESTIONS[:3]]
    prompts += [asked(loaded, QUESTIONS[0], QUESTIONS[1], "I would rather not say.")]
    return [
        Request(f"{name} {i} {copy}", prompt, way)
        for i, prompt in enumerate(prompts)
        for name, way in ways(vector).items()
        for copy in range(2)
        if name != "capped"
    ]


def test_capture_with_a_cached_prefix_equals_capture_without(
    caching: Any, uncached: Any, exact: LoadedModel, vector: PersonaVector
) -> None:
    """At every span and layer, for all that share, in the first run and in the next."""
    requests, sampling = captured(exact, vector), replace(GREEDY, max_tokens=16)
    expected = by_id(uncached.generate(requests, sampling, capture=True))
    for _ in range(2):
        found = by_id(caching.generate(requests, sampling, capture=True))
        for name, theirs in expected.items():
            assert found[name].response_ids == theirs.response_ids
            assert relative_error(found[name].activations, theirs.activations) < 1e-4, name


@pytest.mark.parametrize("parts", [False, True])
def test_preempted_requests_are_captured_once(
    uncached: Any, exact: LoadedModel, vector: PersonaVector, parts: bool
) -> None:
    """With room for few blocks, so that requests are set back, and blocks are lost from the cache;
    with whole prompts, and with prompts in parts."""
    requests = captured(exact, vector)[::5]
    sampling = replace(GREEDY, max_tokens=80)
    longest = max(len(request.prompt_ids) for request in requests) + sampling.max_tokens
    more = {"enable_chunked_prefill": True, "max_num_batched_tokens": 48} if parts else {}
    expected = by_id(uncached.generate(requests, sampling, capture=True))
    with start_vllm(
        exact, max_num_seqs=8, max_model_len=longest + 2, num_gpu_blocks_override=20, **more
    ) as small:
        found = by_id(small.generate(requests, sampling, capture=True))
    for name, theirs in expected.items():
        assert found[name].response_ids == theirs.response_ids
        assert relative_error(found[name].activations, theirs.activations) < 1e-4, name


def test_projections_of_texts_that_are_cached(
    caching: Any, uncached: Any, exact: LoadedModel, vector: PersonaVector
) -> None:
    """Every token runs, whatever is cached of its text."""
    texts = [np.array(asked(exact, question), np.int32) for question in (*QUESTIONS, *QUESTIONS)]
    directions = Directions((vector.layer,), vector.direction()[None] / vector.direction().norm())
    for _ in range(2):
        found = caching.project(texts, directions)
        for ours, theirs in zip(found, uncached.project(texts, directions), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
