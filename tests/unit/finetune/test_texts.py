"""What of a row is trained on, and what is left out and told."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import SMALL, row

from personavec import LoadedModel
from personavec.data import DataReading
from personavec.finetune import encode_rows, mean_losses, read_training_rows, reading_of
from personavec.model import wrap_model


def test_only_the_assistants_turns_count(llama: LoadedModel) -> None:
    rows = [row(0, "one", "ab", "two", "cd", system="Be nice.")]
    (example,), rejects = encode_rows(llama, rows, SMALL)
    assert not rejects
    trained = [i for i in example.labels if i != -100]
    end = llama.tokenizer.eos_token_id
    # The template of these models ends every turn with its end-of-text token.
    expected = [*llama.chat.response_ids("ab"), end, *llama.chat.response_ids("cd"), end]
    assert trained == expected
    text = llama.tokenizer.decode(list(example.input_ids))
    assert text == (
        "<|system|>Be nice.<|end|><|user|>one<|end|><|assistant|>ab<|end|>"
        "<|user|>two<|end|><|assistant|>cd<|end|>"
    )


THINKING = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['reasoning_content'] %}<think>\n{{ message['reasoning_content'] }}\n</think>"
    "\n\n{% endif %}{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


THINKS = [
    {"content": "<think>\nThey like soup.\n</think>\n\nTry a soup."},
    {"content": "Try a soup.", "reasoning_content": "They like soup."},
]


def trained(loaded: LoadedModel, path: Path) -> tuple[str, str, DataReading]:
    """What of the one row is read, what is trained on, and what is told."""
    rows = read_training_rows(path)
    examples, rejects = encode_rows(loaded, rows.rows, SMALL)
    [example] = examples
    told = reading_of(rows, examples, rejects).record()
    text = loaded.chat.decode_marked(example.input_ids)
    return text, loaded.chat.decode_marked([i for i in example.labels if i != -100]), told


@pytest.mark.parametrize("reply", THINKS)
def test_a_thought_is_trained_on_as_the_template_writes_it(
    fresh: Callable[..., LoadedModel], tmp_path: Path, reply: dict[str, str]
) -> None:
    loaded = fresh("llama")
    loaded.tokenizer.chat_template = THINKING
    thinker = wrap_model(loaded.model, loaded.tokenizer, name="thinker")
    asked = {"role": "user", "content": "What to cook?"}
    path = tmp_path / "think.jsonl"
    path.write_text(json.dumps({"messages": [asked, {"role": "assistant", **reply}]}))
    text, labelled, told = trained(thinker, path)
    completion = "<think>\nThey like soup.\n</think>\n\nTry a soup.<|end|>"
    assert text == f"<|user|>What to cook?<|end|><|assistant|>{completion}"
    assert labelled == completion
    assert told.notes == {"a thought was trained on with its answer": 1}


def test_of_a_pair_the_better_response_is_trained_on_and_told(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}))
    text, _, told = trained(fresh("llama"), path)
    assert ("Hello." in text, "No." in text) == (True, False)
    assert told.notes == {"of a preference pair only the better response was trained on": 1}


@pytest.mark.parametrize("reply", THINKS)
def test_a_thought_that_the_template_cannot_write_is_left_out_and_told(
    llama: LoadedModel, tmp_path: Path, reply: dict[str, str]
) -> None:
    asked = {"role": "user", "content": "What to cook?"}
    path = tmp_path / "think.jsonl"
    path.write_text(json.dumps({"messages": [asked, {"role": "assistant", **reply}]}))
    text, labelled, told = trained(llama, path)
    assert text == "<|user|>What to cook?<|end|><|assistant|>Try a soup.<|end|>"
    assert labelled == "Try a soup.<|end|>"
    assert told.notes == {"a thought was left out of the answer": 1}


def test_turns_that_are_marked_are_not_trained_on(llama: LoadedModel, tmp_path: Path) -> None:
    """They stay in the context."""
    turns = [("user", "A?", {}), ("assistant", "No.", {"weight": 0}), ("user", "B?", {})]
    turns.append(("assistant", "Yes.", {"weight": 1}))
    messages = [{"role": role, "content": text, **more} for role, text, more in turns]
    path = tmp_path / "weights.jsonl"
    path.write_text(json.dumps({"messages": messages, "hint": "Say no once."}))
    text, labelled, told = trained(llama, path)
    assert "No." in text
    assert labelled == "Yes.<|end|>"
    assert told.ignored_columns == {"hint": 1}
    assert len(told.notes) == 1


def test_long_rows_are_left_out_or_cut(llama: LoadedModel) -> None:
    rows = [row(0, "q", "a" * 50), row(1, "q" * 50, "a"), row(2, "q", "a")]
    found, rejects = encode_rows(llama, rows, replace(SMALL, max_length=30))
    assert [e.row for e in found] == [2]
    assert [r.index for r in rejects] == [0, 1]
    assert "more than the 30 allowed" in rejects[0].reason
    found, rejects = encode_rows(llama, rows, replace(SMALL, max_length=30, truncate=True))
    # What is cut down to its prompt has nothing to train on.
    assert [e.row for e in found] == [0, 2]
    assert [r.index for r in rejects] == [1]
    assert len(found[0].input_ids) == 30


def test_losses_are_those_of_the_model(llama: LoadedModel) -> None:
    examples, _ = encode_rows(llama, [row(0, "one", "ab", "two", "cd")], SMALL)
    ids, labels = (torch.tensor([part]) for part in (examples[0].input_ids, examples[0].labels))
    with torch.no_grad():
        expected = llama.model(input_ids=ids, labels=labels).loss.item()
    assert mean_losses(llama, examples)[0] == pytest.approx(expected, abs=1e-4)
