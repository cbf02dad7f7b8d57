"""Conversations in one text: every chat template that is known, and none that is only mentioned."""

import pytest
from conversation_rows import ANSWERED, A, Q, S, good, read, said

from personavec.data import (
    Reject,
)
from personavec.data.texts import FORMATS

RENDERED = {
    "ChatML": f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{A}<|im_end|>\n",
    "Llama 3": f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{Q}<|eot_id|>"
    f"<|start_header_id|>assistant<|end_header_id|>\n\n{A}<|eot_id|>",
    "Llama 4": f"<|header_start|>user<|header_end|>\n\n{Q}<|eot|>"
    f"<|header_start|>assistant<|header_end|>\n\n{A}<|eot|>",
    "Gemma": f"<bos><start_of_turn>user\n{Q}<end_of_turn>\n<start_of_turn>model\n{A}<end_of_turn>",
    "gpt-oss": f"<|start|>user<|message|>{Q}<|end|><|start|>assistant<|channel|>analysis<|message|>"
    f"hm<|end|><|start|>assistant<|channel|>final<|message|>{A}<|return|>",
    "Command R": f"<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>{Q}<|END_OF_TURN_TOKEN|>"
    f"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{A}<|END_OF_TURN_TOKEN|>",
    "DeepSeek": f"<｜begin▁of▁sentence｜><｜User｜>{Q}<｜Assistant｜>{A}<｜end▁of▁sentence｜>",
    "Granite": f"<|start_of_role|>user<|end_of_role|>{Q}<|end_of_text|>\n"
    f"<|start_of_role|>assistant<|end_of_role|>{A}<|end_of_text|>",
    "Kimi": f"<|im_user|>user<|im_middle|>{Q}<|im_end|>"
    f"<|im_assistant|>assistant<|im_middle|>{A}<|im_end|>",
    "MOSS or InternLM": f"<|Human|>: {Q}<eoh>\n<|MOSS|>: {A}<eom>",
    "Phi, Zephyr or Tulu": f"<|user|>\n{Q}</s>\n<|assistant|>\n{A}</s>",
    "OpenChat": f"GPT4 Correct User: {Q}<|end_of_turn|>GPT4 Correct Assistant: {A}<|end_of_turn|>",
    "Baize": f"[|Human|] {Q}\n[|AI|] {A}\n[|Human|] ",
    "Guanaco": f"### Human: {Q}### Assistant: {A}",
    "HH-RLHF": f"\n\nHuman: {Q}\n\nAssistant: {A}",
    "Vicuna": f"USER: {Q} ASSISTANT: {A}</s>",
    "transcript": f"User: {Q}\nAssistant: {A}",
    "Llama 2 or Mistral": f"<s>[INST] {Q} [/INST] {A} </s>",
    "Alpaca": f"### Instruction:\n{Q}\n\n### Response:\n{A}",
}


@pytest.mark.parametrize("name", [*(form.name for form in FORMATS), "Llama 2 or Mistral", "Alpaca"])
def test_rendered_texts(name: str) -> None:
    row = good({"text": RENDERED[name]})
    assert said(row.messages) == [("user", Q), ("assistant", A)]
    assert f"read from text as {name} writes it" in row.notes
    assert row.reader == "rendered text"


@pytest.mark.parametrize(
    "text",
    [
        f"<|im_start|>user<|im_sep|>Hi\n{Q}<|im_end|><|im_start|>assistant<|im_sep|>{A}<|im_end|>",
        f"<|im_start|>user name=Bo\nHi\n{Q}<|im_end|>\n<|im_start|>assistant\n{A}<|im_end|>",
        f"<bos><|turn>user\nHi\n{Q}<turn|>\n<|turn>model\n{A}<turn|>",
        f"<|User|>:Hi\n{Q}\n<|Bot|>:{A}<eoa>",
        f"User: Hi\n{Q}\n\nFalcon: {A}",
        f"### User:\nHi\n{Q}\n\n### Response:\n{A}",
        f"### Instruction:\nHi\n{Q}\n\n### Response:\n{A}\n\n### End",
    ],
)
def test_variants_of_rendered_texts_lose_nothing(text: str) -> None:
    assert said(good({"text": text}).messages) == [("user", f"Hi\n{Q}"), ("assistant", A)]


def test_rendered_calls_are_calls() -> None:
    llama = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
    for text in (
        f'<s>[AVAILABLE_TOOLS] [{{"name": "w"}}][/AVAILABLE_TOOLS][INST] {Q}[/INST]'
        f'[TOOL_CALLS] [{{"name": "w"}}]</s>[TOOL_RESULTS] 4 C[/TOOL_RESULTS] {A}</s>',
        llama.format("user", f"{Q}<|eot_id|>")
        + llama.format("assistant", '<|python_tag|>{"name": "w"}<|eom_id|>')
        + llama.format("ipython", "4 C<|eot_id|>")
        + llama.format("assistant", f"{A}<|eot_id|>"),
        f"<|im_start|>user\n{Q}<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "w"}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n4 C\n</tool_response><|im_end|>\n"
        f"<|im_start|>assistant\n{A}<|im_end|>\n",
    ):
        row = good({"text": text})
        assert said(row.messages) == [("user", Q), ("assistant", ""), ("tool", "4 C"), *ANSWERED]
        assert row.messages[1].get("tool_calls") == [
            {"type": "function", "function": {"name": "w", "arguments": {}}}
        ]
        assert ("tool definitions were left out" in row.notes) == ("AVAILABLE_TOOLS" in text)
    deepseek = f"<｜User｜>{Q}<｜Assistant｜><｜tool▁calls▁begin｜>w<｜tool▁calls▁end｜>{A}"
    refused = read({"text": deepseek})
    assert isinstance(refused, Reject)
    assert refused.reason == "text with tool calls as DeepSeek writes them; give the messages"


def test_rendered_system_prompts_and_several_turns() -> None:
    text = f"<s>[INST] <<SYS>>\n{S}\n<</SYS>>\n\n{Q} [/INST] {A} </s><s>[INST] x [/INST] y </s>"
    assert said(good({"text": text}).messages) == [
        *(("system", S), ("user", Q), ("assistant", A), ("user", "x"), ("assistant", "y"))
    ]
    row = good({"text": f"A chat. USER: {Q} ASSISTANT: {A}</s>"})
    assert row.messages[0] == {"role": "system", "content": "A chat."}
    assert any("read as the system prompt" in note for note in row.notes)
    row = good({"text": f"<｜begin▁of▁sentence｜>{S}<｜User｜>{Q}<｜Assistant｜>{A}"})
    assert said(row.messages) == [("system", S), ("user", Q), *ANSWERED]


@pytest.mark.parametrize(
    "text",
    [
        "In the play, User: speaks first.\nAssistant: answers.",
        "He wrote 'Human: hello' and 'Assistant: hi'.",
        "Use <|im_start|>user to begin, and <|im_start|>assistant to answer.",
        "plain words",
    ],
)
def test_texts_that_only_mention_a_format_are_none(text: str) -> None:
    assert isinstance(read({"text": text}), Reject)
    row = good({"prompt": text, "completion": text})
    assert said(row.messages) == [("user", text), ("assistant", text)]
