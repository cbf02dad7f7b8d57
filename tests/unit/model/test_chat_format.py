"""Text is tokenised once, by the model's own template, and every deviation is noted."""

from collections.abc import Callable

import pytest

from personavec import LoadedModel
from personavec.errors import ModelError, UsageError
from personavec.model import chat
from personavec.model.loaded import stop_ids

Fresh = Callable[..., LoadedModel]


def test_a_template_with_a_system_role_is_used_as_it_is(llama: LoadedModel) -> None:
    """No notes; without a system prompt there is no system message."""
    assert llama.chat.notes == []
    with_system = llama.chat.text(chat("Hi?", "Be brief."))
    assert with_system == "<|system|>Be brief.<|end|><|user|>Hi?<|end|><|assistant|>"
    assert llama.chat.text(chat("Hi?")) == "<|user|>Hi?<|end|><|assistant|>"


@pytest.mark.parametrize("template", ["no system", "silent"])
def test_without_a_system_role_the_prompt_is_merged_into_the_first_turn(
    fresh: Fresh, template: str
) -> None:
    """Whether the template refuses a system message or silently leaves it out; noted once."""
    found = fresh("llama", template).chat
    assert found.text(chat("Hi?", "Be brief.")) == ("<|user|>Be brief.\n\nHi?<|end|><|assistant|>")
    assert len(found.notes) == 1
    assert "merged into the first user turn" in found.notes[0]


def test_without_a_template_plain_turns_are_used_and_noted(fresh: Fresh) -> None:
    """The system prompt is still there."""
    found = fresh("llama", "none").chat
    text = found.text(chat("Hi?", "Be brief."))
    assert text == "System: Be brief.\n\nUser: Hi?\n\nAssistant:"
    assert len(found.notes) == 1
    assert "no chat template" in found.notes[0]


def test_prompt_and_response_are_concatenated_as_ids(llama: LoadedModel) -> None:
    """No special token is added beyond the template's, none in a response, none in its text."""
    prompt = llama.chat.prompt_ids(chat("Hé?"))
    response = llama.chat.response_ids("Ça va, <b>merci</b>.")
    special = set(llama.tokenizer.all_special_ids)
    assert llama.tokenizer.decode(prompt) == "<|user|>Hé?<|end|><|assistant|>"
    assert not special & set(response)
    end = llama.tokenizer.eos_token_id
    assert llama.chat.decode([*response, end]) == "Ça va, <b>merci</b>."


def test_an_empty_response_has_no_tokens(llama: LoadedModel) -> None:
    """So that it is found to be empty rather than scored."""
    assert llama.chat.response_ids("") == []


def test_a_template_that_refuses_is_a_usage_error(fresh: Fresh) -> None:
    """With the template's own words, in one line."""
    found = fresh("llama", "no system").chat
    later = [*chat("Hi?"), {"role": "assistant", "content": "Hello."}]
    assert found.text(later)
    found.template = "{{ raise_exception('turns must\nalternate') }}"
    with pytest.raises(UsageError, match="turns must alternate"):
        found.text(later)


def test_templates_differ_in_their_hash(fresh: Fresh) -> None:
    """A result names the template it was made with."""
    hashes = {fresh("llama", template).chat.template_hash for template in ("system", "none")}
    assert len(hashes) == 2


def test_stops_come_from_the_generation_config_and_the_tokenizer(fresh: Fresh) -> None:
    """Both lists count; with neither there is no end to a turn."""
    loaded = fresh("llama")
    end = loaded.tokenizer.eos_token_id
    loaded.model.generation_config.eos_token_id = [7, 8]
    assert loaded.stop_ids == {7, 8, end}
    loaded.model.generation_config.eos_token_id = None
    loaded.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end-of-turn"):
        stop_ids(loaded.model, loaded.tokenizer)
