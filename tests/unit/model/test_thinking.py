"""Thinking is told from the answer, token by token, and stays out of what is captured."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from generating import generate_batch
from hypothesis import given, strategies as st
from tiny_models import THINKING_TEMPLATE
from torch import Tensor

from personavec import LoadedModel, wrap_model
from personavec.model import ChatFormat, Thought, block_output, chat, split
from personavec.model.engine import Request, Sampling, step_loop
from personavec.model.engine.sampling import Draw
from personavec.model.thinking import FORMATS, thinking_format

BY_OPENING = {form.opens: form for form in FORMATS}
every_format = pytest.mark.parametrize("form", FORMATS, ids=list(BY_OPENING))


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def follow(thought: Thought, text: str) -> str:
    """The answer after the whole text was read token by token, one character a token."""
    ids = [ord(c) for c in text]
    for n in range(1, len(ids) + 1):
        thought.read(ids[:n])
    return decode(ids[thought.start :])


@every_format
@given(thinking=st.text("abc \n", max_size=40), answer=st.text("xyz .", min_size=1, max_size=40))
def test_the_answer_is_what_follows_the_thought(form: Any, thinking: str, answer: str) -> None:
    answer = "A" + answer
    text = f"{form.opens}{thinking}{form.closes}\n\n{answer}"
    thought = Thought(form, decode, [])
    assert follow(thought, text) == answer
    assert not thought.unfinished([ord(c) for c in text])
    assert split(text, form)[1] == answer


@every_format
def test_a_response_without_a_thought_is_all_answer(form: Any) -> None:
    thought = Thought(form, decode, [])
    assert follow(thought, "Paris, of course.") == "Paris, of course."
    assert not thought.unfinished([ord(c) for c in "Paris, of course."])
    assert split("Paris, of course.", form) == ("", "Paris, of course.")


@every_format
@pytest.mark.parametrize("opened_by", ["prompt", "response"])
def test_a_thought_that_does_not_end_is_unfinished(form: Any, opened_by: str) -> None:
    prompt = [ord(c) for c in f"question{form.opens}\n"] if opened_by == "prompt" else []
    text = "hm, " if opened_by == "prompt" else f"{form.opens}hm, "
    thought = Thought(form, decode, prompt)
    follow(thought, text)
    assert thought.unfinished([ord(c) for c in text])
    assert split(text, form, opened=opened_by == "prompt")[1] is None


def test_formats_are_known_by_their_templates() -> None:
    assert thinking_format(THINKING_TEMPLATE) == BY_OPENING["<think>"]
    assert thinking_format("{{ messages[0]['content'] }}") is None


@pytest.fixture
def thinker(fresh: Callable[..., LoadedModel]) -> LoadedModel:
    """A tiny model whose template thinks."""
    loaded = fresh("llama")
    loaded.tokenizer.chat_template = THINKING_TEMPLATE
    return wrap_model(loaded.model, loaded.tokenizer, name="thinker")


def scripted(monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel, scripts: dict[str, str]) -> None:
    """Makes every request say its line; all forwards are real."""
    end = next(iter(loaded.stop_ids))
    ids = {
        name: [*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], end]
        for name, text in scripts.items()
    }

    def choose(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        return torch.tensor(
            [ids[d.noise_key][min(d.step, len(ids[d.noise_key]) - 1)] for d in draws]
        )

    monkeypatch.setattr(step_loop, "choose", choose)


@torch.inference_mode()
def mean_over(loaded: LoadedModel, prompt: Sequence[int], text: str, start: int) -> Tensor:
    """[layer, hidden] mean over the response's tokens from `start` on, by the plain route."""
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda m, a, output: seen.append(block_output(output)[0]))
        for block in loaded.blocks.stack
    ]
    loaded.model(input_ids=torch.tensor([[*prompt, *ids]]))
    for handle in handles:
        handle.remove()
    return torch.stack(seen)[:, len(prompt) + start :].mean(1)


def test_thinking_stays_out_of_the_response_and_its_mean(
    thinker: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one batch: a thought and an answer, an answer alone, a thought that never ends."""
    said = {
        "thinks": "<think>a b c</think>\n\nIt is Paris.",
        "answers": "It is Rome, I believe, and no other.",
        "muses": "<think>It may be anything at all",
    }
    scripted(monkeypatch, thinker, said)
    prompt = tuple(thinker.chat.prompt_ids(chat("Where?")))
    requests = [Request(name, prompt) for name in said]
    sampling = Sampling(max_tokens=60, temperature=0)
    found = {g.id: g for g in generate_batch(thinker, requests, sampling, capture=True)}
    texts = {name: thinker.chat.decode(g.response_ids) for name, g in found.items()}
    assert texts == {"thinks": "It is Paris.", "answers": said["answers"], "muses": ""}
    assert thinker.chat.decode_marked(found["thinks"].thinking_ids) == "<think>a b c</think>\n\n"
    assert [g.unfinished_thought for g in found.values()] == [False, False, True]
    assert found["muses"].activations is None
    for name in ("thinks", "answers"):
        start = len(said[name]) - len(texts[name])
        expected = mean_over(thinker, prompt, said[name], start)
        activations = found[name].activations
        assert activations is not None
        torch.testing.assert_close(activations[0, 1:], expected, atol=1e-4, rtol=1e-4)


def test_thinking_is_part_of_the_mean_when_asked_for(
    thinker: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"thinks": "<think>a b c</think>\n\nIt is Paris."}
    scripted(monkeypatch, thinker, said)
    prompt = tuple(thinker.chat.prompt_ids(chat("Where?")))
    [found] = generate_batch(
        thinker,
        [Request("thinks", prompt)],
        Sampling(max_tokens=60, temperature=0),
        capture=True,
        include_thinking=True,
    )
    assert thinker.chat.decode(found.response_ids) == "It is Paris."
    assert found.activations is not None
    expected = mean_over(thinker, prompt, said["thinks"], 0)
    torch.testing.assert_close(found.activations[0, 1:], expected, atol=1e-4, rtol=1e-4)


def test_given_answers_are_scored_after_an_empty_thought(thinker: LoadedModel) -> None:
    messages = chat("Where?", "Be brief.")
    text = thinker.chat.decode_marked(thinker.chat.answer_prompt_ids(messages))
    assert text.endswith("<|assistant|><think>\n\n</think>\n\n")
    quiet = ChatFormat(thinker.tokenizer, {"enable_thinking": False})
    assert quiet.decode_marked(quiet.prompt_ids(messages)) == text
    assert quiet.answer_prompt_ids(messages) == quiet.prompt_ids(messages)


def test_a_recorded_thought_is_cut_off_a_given_answer(thinker: LoadedModel) -> None:
    ids = thinker.chat.response_ids("<think>hm</think>\nParis")
    assert thinker.chat.decode(ids) == "Paris"
    assert thinker.chat.response_ids("<think>hm") == []


def test_a_prompt_that_opens_the_thought_is_closed_for_given_answers(
    thinker: LoadedModel,
) -> None:
    opening = THINKING_TEMPLATE.replace("{% if enable", "<think>\n{% if enable")
    tokenizer = copy.deepcopy(thinker.tokenizer)
    tokenizer.chat_template = opening
    form = ChatFormat(tokenizer)
    text = form.decode_marked(form.answer_prompt_ids(chat("Where?")))
    assert text.endswith("<think>\n\n</think>\n\n")
