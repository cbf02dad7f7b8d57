"""Readings of a conversation: several vectors at once, and thinking apart from the answer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from personavec import LoadedModel, PersonaVector, wrap_model
from personavec.data import Message
from personavec.errors import DataError, UsageError
from personavec.model import capture_means
from personavec.monitor import gauge, project_conversation, read_conversation, read_turn

TALK = [
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "<think>Hm, so.</think>\n\nBye."},
]
THINKING = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{{ message['content'].split('</think>')[-1] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>OPEN{% endif %}"
    "{# <think> </think> #}"
)
MakeVector = Callable[..., PersonaVector]


@pytest.fixture
def vectors(llama: LoadedModel, random_vector: MakeVector) -> list[PersonaVector]:
    """Two traits at two layers."""
    return [random_vector(llama, 1, "one"), random_vector(llama, 3, "two")]


def thinker(llama: LoadedModel, opening: str = "") -> LoadedModel:
    tokenizer: Any = type(llama.tokenizer)(
        tokenizer_object=llama.tokenizer.backend_tokenizer,
        eos_token="<|end|>",
        chat_template=THINKING.replace("OPEN", opening),
    )
    return wrap_model(llama.model, tokenizer, name="thinker")


def test_several_vectors_read_what_each_reads_alone(
    llama: LoadedModel, vectors: list[PersonaVector]
) -> None:
    together = read_conversation(llama, vectors, TALK, tokens=True)
    assert [(r.turn, r.trait) for r in together] == [(t, n) for t in (1, 3) for n in ("one", "two")]
    for vector in vectors:
        alone = project_conversation(llama, vector, TALK)
        own = [r for r in together if r.trait == vector.trait]
        for a, b in zip(alone, own, strict=True):
            assert (a.n_tokens, a.layer) == (b.n_tokens, vector.layer)
            assert a.response_mean == pytest.approx(b.response_mean, abs=1e-5)
            assert b.tokens is not None
            assert np.mean(b.tokens) == pytest.approx(b.response_mean, abs=1e-3)


@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_thinking_is_read_apart_from_the_answer_that_follows_it(
    llama: LoadedModel, vectors: list[PersonaVector], opening: str
) -> None:
    """By hand: prompt, thought and answer as three stretches of ids, whether or not the prompt
    opens the thought."""
    model = thinker(llama, opening)
    found = [r for r in read_conversation(model, vectors, TALK) if r.trait == "two"][-1]
    written = "<think>Hm, so.</think>\n\n".removeprefix(opening.strip())
    stretches = [
        model.chat.prompt_ids(TALK[:3]),
        model.tokenizer(written, add_special_tokens=False)["input_ids"],
        model.tokenizer("Bye.", add_special_tokens=False)["input_ids"],
    ]
    ids = [i for stretch in stretches for i in stretch]
    tokens = [(i, i + 1) for i in range(len(ids))]
    states = capture_means(model.model, [ids], [tokens], layers=[3])[0, :, 0]
    values = vectors[1].project(states)
    start = len(stretches[0])
    middle = start + len(stretches[1])
    assert found.prompt_last == pytest.approx(float(values[start - 1]), abs=1e-4)
    assert found.thinking_mean == pytest.approx(float(values[start:middle].mean()), abs=1e-4)
    assert found.response_mean == pytest.approx(float(values[middle:].mean()), abs=1e-4)
    assert found.n_tokens == len("Bye.")


def test_a_thought_is_left_out_where_the_template_knows_none(
    llama: LoadedModel, vectors: list[PersonaVector]
) -> None:
    plain: list[Message] = [TALK[0], {"role": "assistant", "content": "Bye."}]
    thinks: list[Message] = [
        TALK[0],
        {"role": "assistant", "content": "<think>Hm, so.</think>\n\nBye."},
    ]
    assert read_conversation(llama, vectors, thinks) == read_conversation(llama, vectors, plain)


def test_a_thought_without_an_answer_has_no_response_reading(
    llama: LoadedModel, vectors: list[PersonaVector]
) -> None:
    model = thinker(llama)
    messages = [TALK[0], {"role": "assistant", "content": "<think>Never done"}]
    for reading in read_conversation(model, vectors, messages):
        assert (reading.response_mean, reading.response_mean_sigma) == (None, None)
        assert reading.thinking_mean is not None
        assert reading.n_tokens == 0


def test_sigmas_are_distances_from_the_neutral_baseline(
    llama: LoadedModel, vectors: list[PersonaVector]
) -> None:
    for vector in vectors:
        vector.neutral_prompt_last[:] = torch.tensor([2.0, 4.0])
        vector.neutral_response_mean[:] = torch.tensor([-1.0, 0.5])
    ruler = gauge(vectors, llama)
    readings = read_turn(
        ruler, 7, prompt_last=torch.tensor([6.0, 2.0]), response=torch.tensor([[0.0, 1.0]] * 3)
    )
    assert [r.prompt_last_sigma for r in readings] == [1.0, 0.0]
    assert [r.response_mean_sigma for r in readings] == [2.0, 4.0]
    assert {r.turn for r in readings} == {7}


def test_what_cannot_be_a_gauge_is_named(
    llama: LoadedModel, vectors: list[PersonaVector], random_vector: MakeVector
) -> None:
    with pytest.raises(UsageError, match="no vector"):
        gauge([], llama)
    with pytest.raises(UsageError, match="trait 'one'"):
        gauge([vectors[0], vectors[0]], llama)
    vectors[1].neutral_prompt_last[3, 1] = 0
    with pytest.raises(DataError, match="'two' has no spread"):
        gauge(vectors, llama)
