"""The readers: every form in which conversations are published or logged, and what is told."""

import json
from datetime import date
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from personavec.data import (
    ColumnMap,
    DataRow,
    RawRow,
    ReadingCounts,
    Reject,
    check_columns,
    kind_of,
    parse_row,
    role_of,
    swapped,
)
from personavec.data.messages import SPEAKERS
from personavec.data.readers.columns import MESSAGES, PROMPTS, RESPONSES, SIDES, SYSTEM, TWO
from personavec.data.readers.table import READERS
from personavec.data.terminal import reading_lines
from personavec.data.texts import FORMATS
from personavec.errors import DataError, UsageError
from personavec.plain import is_unicode

Columns = dict[str, Any]
Q, A, S = "What is a good name for a cat?", "Try Pepper: it is short.", "You answer briefly."
USER, ANSWER = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
ANSWERED = [("assistant", A)]
WORSE = {"role": "assistant", "content": "Cat."}
THOUGHT = "a thought was left out of the answer"


def read(columns: Columns, mapped: str | None = None) -> DataRow | Reject:
    return parse_row(RawRow(0, "data.jsonl", 1, columns), ColumnMap.parse(mapped))


def said(messages: Any) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def good(columns: Columns, mapped: str | None = None) -> DataRow:
    row = read(columns, mapped)
    assert isinstance(row, DataRow), row
    return row


CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "formats.jsonl").read_text(encoding="utf-8").splitlines()
]
#: Words of the note that tells what a case wants told.
TOLD = {"thought": THOUGHT, "label": "label false", "preface": "preface before '### Instruction:'"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_formats_of_the_field(case: Columns) -> None:
    row, want = read(case["row"]), case["want"]
    if isinstance(row, Reject):
        assert any("refused" in key for key in want), row.reason
        assert row.reason.startswith(("no conversation in columns", "message 1 holds an image"))
        return
    assert "refused" not in want
    if "read" in want:
        assert said(row.messages) == [tuple(message) for message in want["read"]]
    if "pair" in want:
        assert row.rejected is not None
        sides = [said(row.messages), said(row.rejected)]
        assert sides == [[tuple(message) for message in side] for side in want["pair"]]
    if "scored" in want:
        turns = [m for m in row.messages if m["role"] == "assistant" and m.get("scored", True)]
        assert [m["content"] for m in turns] == want["scored"]
    if "context" in want and "tool" in want["context"]:
        assert sum("tool_calls" in message for message in row.messages) == 1
        assert sum(message["role"] == "tool" for message in row.messages) == 1
    for word, note in TOLD.items():
        assert (word in want.get("told", "")) == any(note in told for told in row.notes)
    wanted = {"openai_tools": ("tools",), "inspect_log_sample": ("target",)}
    assert row.ignored == wanted.get(case["name"], ())


def _lc(kind: str, content: str) -> Columns:
    place = ["langchain", "schema", "messages", kind]
    return {"lc": 1, "type": "constructor", "id": place, "kwargs": {"content": content}}


def _parts(role: str, text: str) -> Columns:
    return {"role": role, "parts": [{"text": text}]}


def _flat(prefix: str, between: str, sides: tuple[str, str]) -> Columns:
    asked, answered = (f"{prefix}.{side}.0{between}" for side in sides)
    return {
        f"{asked}.role": "user",
        f"{asked}.content": Q,
        f"{answered}.role": "assistant",
        f"{answered}.content": A,
    }


CHOICES = {"choices": [{"index": 0, "message": ANSWER, "finish_reason": "stop"}], "usage": {"n": 1}}
TRACED = _flat("gen_ai", "", ("prompt", "completion"))
#: Rows that say Q and A, and nothing else.
PLAIN: dict[str, Columns] = {
    "wildchat": {
        "conversation_hash": "x",
        "conversation": [
            {**USER, "country": "US", "hashed_ip": "a", "header": {"user-agent": "x"}},
            {**ANSWER, "turn_identifier": 3, "timestamp": "2023", "toxic": False, "language": "x"},
        ],
        "detoxify_moderation": [{"toxicity": 0.1}],
    },
    "batch, both sides": {"custom_id": "1", "body": {"messages": [USER]}, "response": CHOICES},
    "capitals": {"Instruction": Q, "Output": A},
    "q and a": {"q": Q, "a": A},
    "firefly, several turns": {"conversation": [{"human": Q, "assistant": A}]},
    "pairs": {"conversations": [[Q, A]]},
    "objects of lists": {"messages": {"role": ["user", "assistant"], "content": [Q, A]}},
    "langsmith": {
        "inputs": {"messages": [[_lc("HumanMessage", Q)]]},
        "outputs": {"generations": [[{"text": A, "message": _lc("AIMessage", A)}]]},
    },
    "langsmith, all messages": {
        "inputs": {"messages": [USER]},
        "outputs": {"messages": [USER, ANSWER]},
    },
    "langchain": {
        "messages": [
            {"type": "human", "data": {"content": Q, "additional_kwargs": {}}},
            {"type": "ai", "data": {"content": A}},
        ]
    },
    "weave": {"op_name": "openai", "inputs": {"model": "m", "messages": [USER]}, "output": CHOICES},
    "spans": {"name": "chat", "attributes": TRACED},
    "spans, columns": {f"attributes.{name}": value for name, value in TRACED.items()},
    "spans, OTLP": {
        "attributes": [{"key": k, "value": {"stringValue": v}} for k, v in TRACED.items()]
    },
    "spans, JSON": {
        "attributes": {
            "gen_ai.input.messages": json.dumps(
                [{"role": "user", "parts": [{"type": "text", "content": Q}]}]
            ),
            "gen_ai.output.messages": json.dumps(
                [{"role": "assistant", "parts": [{"type": "text", "content": A}]}]
            ),
        }
    },
    "phoenix": {
        "context.span_id": "x",
        "attributes.llm.input_messages": [{"message.role": "user", "message.content": Q}],
        "attributes.llm.output_messages": [{"message.role": "assistant", "message.content": A}],
    },
    "phoenix, nested": {
        "attributes": {
            "llm": {"input_messages": [{"message": USER}], "output_messages": [{"message": ANSWER}]}
        }
    },
    "openinference, flat": _flat("llm", ".message", ("input_messages", "output_messages")),
    "litellm, JSON": {"messages": json.dumps([USER]), "response": json.dumps(CHOICES)},
    "bedrock, invocation": {
        "input": {"inputBodyJson": {"messages": [USER], "max_tokens": 5}},
        "output": {
            "outputBodyJson": {"role": "assistant", "content": [{"type": "text", "text": A}]}
        },
    },
    "titan": {"inputText": Q, "results": [{"outputText": A, "tokenCount": 3}]},
    "ollama": {"model": "m", "messages": [USER], "message": ANSWER, "done": True},
    "tgi": {"inputs": Q, "generated_text": A},
    "claude export": {
        "chat_messages": [
            {"sender": "human", "text": Q, "content": [{"type": "text", "text": Q}]},
            {"sender": "assistant", "text": A, "attachments": []},
        ]
    },
    "agent log": {
        "messages": [
            {"type": "user", "message": USER},
            {"type": "assistant", "message": {**ANSWER, "content": [{"type": "text", "text": A}]}},
        ]
    },
    "portkey": {"request": {"body": {"messages": [USER]}}, "response": {"body": CHOICES}},
    "vertex log": {
        "request": {"contents": [_parts("user", Q)]},
        "response": {"candidates": [{"content": _parts("model", A), "finishReason": "STOP"}]},
    },
    "palm": {"input_text": Q, "output_text": A},
    "flan": {"inputs": Q, "targets": A, "task": "x"},
    "text of a template, prompt alone": {
        "prompt": f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n",
        "completion": f"{A}<|im_end|>",
    },
    "transcript, prompt alone": {
        "prompt": f"\n\nHuman: {Q}\n\nAssistant:",
        "completion": f" {A}",
    },
    "pandas": {"conversations": str([{"from": "human", "value": Q}, {"from": "gpt", "value": A}])},
    "prism": {"conversation_history": [_parts("user", Q), _parts("model", A)]},
    "datadog": {"meta": {"kind": "llm", "input": {"messages": [USER]}, "output": CHOICES}},
    "a row in JSON": {"ts": 1, "payload": json.dumps({"messages": [USER, ANSWER], "user_id": "x"})},
    "promptfoo": {"prompt": {"raw": Q}, "response": {"output": A}},
    "repeated": {"prompt": Q, "completion": A, "messages": [USER, ANSWER], "text": f"{Q}\n{A}"},
    "items": {"items": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]},
    "tau-bench": {"task_id": 1, "reward": 1.0, "info": {"x": "y"}, "traj": [USER, ANSWER]},
    "evals, event": {"type": "sampling", "data": {"prompt": [USER], "sampled": [A]}},
    "gemini, tuning": {"text_input": Q, "output": A},
    "llama.cpp": {"prompt": Q, "content": A, "stop": True},
    "mlflow": {"request": json.dumps({"messages": [USER]}), "response": json.dumps(CHOICES)},
    "vercel": {
        "messages": [
            _parts("user", Q),
            {"role": "assistant", "parts": [{"type": "step-start"}, {"type": "text", "text": A}]},
        ]
    },
    "toxic-chat": {"user_input": Q, "model_output": A, "openai_moderation": '[["sexual", 0.1]]'},
}
#: Rows that say S, Q and A.
WITH_SYSTEM: dict[str, Columns] = {
    **{name: {name: S, "messages": [USER, ANSWER]} for name in SYSTEM},
    "beside a prompt": {"system_prompt": S, "question": Q, "response": A},
    "the same twice": {"system": S, "messages": [{"role": "system", "content": S}, USER, ANSWER]},
    "bedrock": {
        "system": [{"text": S}],
        "messages": [
            {"role": "user", "content": [{"text": Q}]},
            {"role": "assistant", "content": [{"text": A}]},
        ],
    },
    "gemini": {
        "systemInstruction": _parts("system", S),
        "contents": [_parts("user", Q), _parts("model", A)],
    },
    "xtuner": {"conversation": [{"system": S, "input": Q, "output": A}]},
    "glaive": {
        "system": f"SYSTEM: {S}",
        "chat": f"USER: {Q}\n\n\nASSISTANT: {A} <|endoftext|>",
    },
    "anthropic log": {
        "request": {"system": S, "messages": [USER]},
        "response": {"type": "message", "role": "assistant", "content": [{"text": A}]},
    },
    "bedrock converse": {
        "request": {"messages": [_parts("user", Q)], "system": [{"text": S}]},
        "response": {"output": {"message": _parts("assistant", A)}, "stopReason": "end_turn"},
    },
    "ollama": {"prompt": Q, "system": S, "response": A, "context": [1, 2, 3]},
    "swe-agent": {
        "trajectory": [
            {"role": "system", "system_prompt": S, "text": None, "mask": False},
            {"role": "user", "system_prompt": None, "text": Q, "mask": False},
            {"role": "ai", "system_prompt": None, "text": A, "mask": False},
        ]
    },
    "open webui": {"chat": {"system": S, "messages": [USER, ANSWER], "models": ["m"]}},
    "spans": {"attributes": {**TRACED, "gen_ai.system_instructions": json.dumps([{"content": S}])}},
}
#: Rows whose better side is Q and A, the other one Q and "Cat.".
PAIRS: dict[str, Columns] = {
    **{f"{a}, {b}": {"prompt": Q, a: A, b: "Cat."} for a, b in SIDES},
    "instruction": {"instruction": Q, "input": "", "chosen": A, "rejected": "Cat."},
    "hh": {
        "chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}",
        "rejected": f"\n\nHuman: {Q}\n\nAssistant: Cat.",
    },
    "hh with its prompt": {
        "prompt": f"\n\nHuman: {Q}\n\nAssistant:",
        "chosen": f" {A}",
        "rejected": " Cat.",
    },
    "hh, whole beside its prompt": {
        "prompt": f"\n\nHuman: {Q}\n\nAssistant:",
        "chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}",
        "rejected": f"\n\nHuman: {Q}\n\nAssistant: Cat.",
    },
    "messages": {"chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
    "openai": {
        "input": {"messages": [USER], "parallel_tool_calls": True},
        "preferred_output": [ANSWER],
        "non_preferred_output": [WORSE],
    },
    "llama-factory": {
        "conversations": [{"from": "human", "value": Q}],
        "chosen": {"from": "gpt", "value": A},
        "rejected": {"from": "gpt", "value": "Cat."},
    },
    "swift": {"messages": [USER, ANSWER], "rejected_response": "Cat."},
    "arena": {
        "winner": "model_b",
        "model_a": "x",
        "conversation_a": [USER, WORSE],
        "conversation_b": [USER, ANSWER],
    },
    "arena, texts": {
        "prompt": json.dumps([Q]),
        "response_a": json.dumps([A]),
        "response_b": json.dumps(["Cat."]),
        "winner_model_a": 1,
        "winner_model_b": 0,
    },
    "helpsteer": {"context": [USER], "response1": A, "response2": "Cat.", "overall_preference": -2},
    "shp": {"history": Q, "human_ref_A": "Cat.", "human_ref_B": A, "labels": 0},
    "helpsteer 2": {
        "prompt": Q,
        "response_1": "Cat.",
        "response_2": A,
        "preference_strength": 2,
    },
    "swift, messages": {"messages": [USER, ANSWER], "rejected_messages": [USER, WORSE]},
    "alpacafarm": {"instruction": Q, "output_1": "Cat.", "output_2": A, "preference": 2},
}


@pytest.mark.parametrize("name", PLAIN)
def test_more_formats(name: str) -> None:
    row = good(PLAIN[name])
    assert said(row.messages) == [("user", Q), ("assistant", A)]
    assert (row.ignored, row.notes, row.rejected) == ((), (), None)


@pytest.mark.parametrize("name", WITH_SYSTEM)
def test_system_prompts_come_first(name: str) -> None:
    row = good(WITH_SYSTEM[name])
    assert said(row.messages) == [("system", S), ("user", Q), ("assistant", A)]
    assert (row.ignored, row.notes) == ((), ())


@pytest.mark.parametrize("name", PAIRS)
def test_preference_pairs(name: str) -> None:
    row = good(PAIRS[name])
    assert row.rejected is not None
    assert said(row.messages) == [("user", Q), ("assistant", A)]
    assert said(row.rejected) == [("user", Q), ("assistant", "Cat.")]
    assert (row.ignored, row.notes) == ((), ())
    if row.sides:
        assert all(side in PAIRS[name] for side in row.sides)
    exchanged = swapped(RawRow(0, "d", 1, PAIRS[name]))
    assert exchanged is not None
    other = good(exchanged)
    assert other.rejected is not None
    assert (said(other.messages), said(other.rejected)) == (said(row.rejected), said(row.messages))
    with_system = good({**PAIRS[name], "system": S})
    assert said(with_system.messages) == [("system", S), *said(row.messages)]
    assert with_system.rejected is not None
    assert said(with_system.rejected) == [("system", S), *said(row.rejected)]


@pytest.mark.parametrize(("first", "second"), TWO)
def test_the_better_of_two_responses_is_known_or_asked_for(first: str, second: str) -> None:
    rows = {"prompt": Q, first: A, second: "Cat."}
    assert good({**rows, "winner": first}).sides == (first, second)
    assert good({**rows, "winner": second}).sides == (second, first)
    tie, unknown = read({**rows, "winner": "tie (both bad)"}), read(rows)
    assert isinstance(tie, Reject)
    assert "a tie" in tie.reason
    assert isinstance(unknown, Reject)
    assert f"--columns chosen={first},rejected={second}" in unknown.reason
    assert good(rows, f"chosen={first},rejected={second}").sides == (first, second)


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
        assert ("offers of tools were left out" in row.notes) == ("AVAILABLE_TOOLS" in text)
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


def test_roles_have_one_table_of_synonyms() -> None:
    for role, names in SPEAKERS.items():
        for name in names:
            shapes = (name, name.upper(), name.title(), name.replace("_", "-"), f" {name} ")
            assert {role_of(shape) for shape in shapes} == {role}
    assert {role_of(unknown) for unknown in ("narrator", "", None, 3, ["user"])} == {None}


def test_neighbours_of_one_role_and_greetings_are_left_to_the_template() -> None:
    greeting = {"role": "assistant", "content": "Hello!"}
    row = good({"messages": [greeting, USER, {"role": "user", "content": "Quick."}, ANSWER]})
    assert [message["role"] for message in row.messages] == [
        *("assistant", "user", "user", "assistant")
    ]


def test_every_field_is_read_or_known_or_told() -> None:
    row = good(
        {
            "id": 7,
            "prompt": Q,
            "completion": A,
            "persona": "a pirate",
            "nested": {"note": "be rude", "model": "m"},
            "tools": [{"name": "w"}],
            **{"score": 3, "language": "en", "embedding": [0.1], "seen_at": "x", "empty": ""},
        }
    )
    assert row.id == "7"
    assert row.ignored == ("persona", "nested", "tools")
    row = good({"data": {"prompt": Q, "completion": A, "persona": "a pirate"}})
    assert row.notes == ("field 'persona' of 'data' was left out",)
    row = good({"transcript": "User: a\nAssistant: b", "question": Q, "answer": A})
    assert (said(row.messages), row.ignored) == (said([USER, ANSWER]), ("transcript",))
    row = good({"input": [USER], "output": A, "reasoning": "off"})
    assert (row.ignored, row.messages[1]) == (("reasoning",), ANSWER)
    row = good({"conversations": [Q, A], "source": "x"})
    assert said(row.messages) == [("user", Q), ("assistant", A)]
    assert row.notes == ("texts without roles were read as the user's and the assistant's in turn",)
    row = good({"system": "Be rude.", "messages": [{"role": "system", "content": S}, USER, ANSWER]})
    assert row.messages[0]["content"] == S
    assert row.ignored == ("system",)
    row = good({"messages": [{**USER, "mood": "angry"}, {**ANSWER, "id": "x", "n": 3}]})
    assert row.notes == ("field 'mood' of a message was left out",)
    row = good({"chat": {"messages": [USER, ANSWER], "params": {"persona": "be rude"}}})
    assert row.notes == ("field 'params' of 'chat' was left out",)
    row = good({"messages": [USER, {**ANSWER, "train_detail": [{"begin": 0, "train": False}]}]})
    assert row.notes == ("field 'train_detail' of a message was left out",)
    for mark in ({"train": False}, {"weight": 0}, {"loss_mask": [0, 1]}):
        assert good({"messages": [USER, ANSWER], **mark}).ignored == tuple(mark)
    assert good({"messages": [USER, ANSWER], "weight": 1.0}).ignored == ()
    text = f"### Instruction:\n{Q}\n\n### Input:\nIt is black.\n\n### Response:\n{A}"
    row = good({"instruction": Q, "input": "It is black.", "output": A, "text": text})
    assert row.ignored == ()
    row = good({"messages": [USER, ANSWER, USER]})
    assert row.notes == ("messages after the last response were left out",)


def test_what_belongs_to_the_prompt_is_in_it() -> None:
    asked = good({"instruction": Q, "context": "Cats sleep.", "response": A})
    assert asked.messages[0]["content"] == f"{Q}\n\nCats sleep."
    asked = good({"question": Q, "context": ["One.", "Two."], "answer": A})
    assert asked.messages[0]["content"] == f"{Q}\n\nOne.\n\nTwo."
    for history in ([["Hi", "Hello"]], ["Hi", "Hello"], json.dumps([["Hi", "Hello"]])):
        row = good({"instruction": Q, "input": "", "output": A, "history": history, "system": S})
        assert said(row.messages) == [
            *(("system", S), ("user", "Hi"), ("assistant", "Hello"), ("user", Q), ("assistant", A))
        ]
    row = good(
        {
            "preamble": S,
            "chat_history": [{"role": "USER", "message": "Hi"}],
            "message": Q,
            "text": A,
        }
    )
    assert said(row.messages) == [("system", S), ("user", "Hi"), ("user", Q), ("assistant", A)]


def test_the_fuller_of_two_answers_is_read() -> None:
    row = good({"question": Q, "answer": "Pepper", "solution": A})
    assert (said(row.messages)[1:], row.ignored) == (ANSWERED, ("answer",))
    row = good({"question": Q, "solution": "Pe", "attempt": A, "thinking_trajectories": ["hm"]})
    assert (said(row.messages)[1:], row.ignored) == (ANSWERED, ("solution",))
    assert row.messages[1].get("reasoning_content") == "hm"


def test_of_several_responses_the_first_or_the_chosen_is_read() -> None:
    for outputs in ([{"text": A}, {"text": "Cat."}], [{"text": A, "index": 0}, {"text": "Cat."}]):
        row = good({"prompt": Q, "outputs": outputs})
        assert said(row.messages) == [("user", Q), *ANSWERED]
        assert row.notes == ("of several choices the first was read",)
    others = [{**WORSE, "if_chosen": False}, {**ANSWER, "if_chosen": True}]
    row = good({"conversation_history": [{**USER, "if_chosen": None}, *others]})
    assert said(row.messages) == [("user", Q), *ANSWERED]
    assert row.notes == ("responses that were not chosen were left out",)


def test_what_is_told_is_counted_by_its_kind() -> None:
    rows = [read({"messages": [USER, ANSWER] * n + [{"role": "x"}]}) for n in (1, 2, 3)]
    rows += [Reject(0, "a", f"{n} tokens, more than the 512 allowed") for n in (600, 700)]
    rows += [read({"prompt": Q, "completion": A, f"column_{i}x": "text"}) for i in range(300)]
    told = ReadingCounts.of(rows).record()
    (unknown, n), (long, m) = told.rejected.items()
    assert unknown.startswith("message N has the unknown role 'x'")
    assert (long, n, m) == ("N tokens, more than the 512 allowed", 3, 2)
    assert len(told.ignored_columns) == 101
    assert told.ignored_columns["200 others"] == 200
    lines = reading_lines({"logs": told})
    assert lines[0] == "logs: read as prompt and response (300)"
    assert lines[2].startswith("logs: rejected: message N has the unknown role")
    assert lines[2].endswith("; N tokens, more than the 512 allowed (2)")


def test_texts_in_json_are_texts() -> None:
    row = good({"prompt": '["a", "b"]', "completion": '{"text": "x"}'})
    assert said(row.messages) == [("user", '["a", "b"]'), ("assistant", '{"text": "x"}')]


@pytest.mark.parametrize(
    "answer",
    [
        {"content": f"<think>hm</think>\n{A}"},
        {"content": f"<think>hm</think><answer>{A}</answer>"},
        {"content": f"[THINK]hm[/THINK]{A}"},
        {"content": f"hm\n</think>\n\n{A}"},
        {"content": A, "reasoning_content": "hm"},
        {"content": A, "reasoning": "hm"},
        {"content": A, "thinking": "hm"},
        {"content": A, "reasoning": [{"type": "reasoning_text", "text": "hm"}]},
        {"content": f"<think>hm</think>{A}", "reasoning_content": "hm"},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": A}]},
        {"content": [{"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": A}]},
        {"parts": [{"text": "hm", "thought": True}, {"text": A}]},
    ],
)
def test_thoughts_stand_apart_from_answers(answer: Columns) -> None:
    row = good({"messages": [USER, {"role": "assistant", **answer}]})
    assert row.messages[1] == {"role": "assistant", "content": A, "reasoning_content": "hm"}
    assert THOUGHT in row.notes


def test_thoughts_in_columns_items_and_channels() -> None:
    items = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, ANSWER]
    analysis = {"role": "assistant", "channel": "analysis", "content": "hm"}
    for columns in (
        {"Question": Q, "Complex_CoT": "hm", "Response": A},
        {"input": Q, "output": items},
        {"messages": [USER, analysis, {**ANSWER, "channel": "final"}]},
    ):
        row = good(columns)
        assert row.messages[1]["content"] == A
        assert row.messages[1].get("reasoning_content") == "hm"
        assert row.notes == (THOUGHT,)


def test_a_response_that_ends_inside_its_thought() -> None:
    open_ = {"role": "assistant", "content": "<think>hm"}
    last = read({"messages": [USER, open_]})
    assert isinstance(last, Reject)
    assert last.reason == "the response ends inside its thought"
    row = good({"messages": [USER, open_, USER, ANSWER]})
    assert [message.get("scored", True) for message in row.messages] == [True, False, True, True]
    assert "a response that ends inside its thought is not scored" in row.notes


CALL = {"type": "function", "function": {"name": "w", "arguments": {"city": "Oslo"}}}
ARGUMENTS = json.dumps({"city": "Oslo"})


@pytest.mark.parametrize(
    "messages",
    [
        [
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "4 C"},
        ],
        [
            {"role": "assistant", "function_call": {"name": "w", "arguments": ARGUMENTS}},
            {"role": "function", "content": "4 C"},
        ],
        [
            {"from": "function_call", "value": json.dumps(CALL["function"])},
            {"from": "observation", "value": "4 C"},
        ],
        [
            {
                "role": "gpt",
                "content": f"<tool_call>\n{json.dumps(CALL['function'])}\n</tool_call>",
            },
            {"role": "tool", "content": "<tool_response>\n4 C\n</tool_response>"},
        ],
        [
            {"role": "model", "parts": [{"functionCall": {"name": "w", "args": {"city": "Oslo"}}}]},
            {"role": "user", "parts": [{"functionResponse": {"response": "4 C"}}]},
        ],
        [
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "name": "w", "input": {"city": "Oslo"}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "content": [{"text": "4 C"}]}]},
        ],
        *(
            [{"role": "assistant", "content": text}, {"role": "tool", "content": "4 C"}]
            for text in (
                f"[TOOL_CALLS]w[ARGS]{ARGUMENTS}",
                f"<function=w>{ARGUMENTS}</function>",
                "<tool_call>\n<function=w>\n<parameter=city>\nOslo\n</parameter>\n</function>\n"
                "</tool_call>",
                "<tool_call>w\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>",
            )
        ),
        [
            {"type": "function_call", "name": "w", "arguments": ARGUMENTS},
            {"type": "function_call_output", "output": "4 C"},
        ],
    ],
)
def test_calls_and_replies_have_one_form(messages: list[Columns]) -> None:
    row = good({"messages": [USER, *messages, ANSWER]})
    assert row.messages[1:3] == (
        {"role": "assistant", "content": "", "tool_calls": [CALL], "scored": False},
        {"role": "tool", "content": "4 C"},
    )
    alone = read({"messages": [USER, *messages]})
    assert isinstance(alone, Reject)
    assert alone.reason == "no response: the assistant only calls tools"


def test_an_answer_after_a_call_that_the_provider_ran_comes_after_its_reply() -> None:
    parts = [
        {"type": "server_tool_use", "id": "s", "name": "w", "input": {"city": "Oslo"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": "4 C"},
        {"type": "text", "text": A},
    ]
    row = good({"messages": [USER, {"role": "assistant", "content": parts}]})
    assert said(row.messages) == [("user", Q), ("assistant", ""), ("tool", "4 C"), *ANSWERED]


@pytest.mark.parametrize(
    "mark",
    [
        *({"weight": 0}, {"weight": 0.0}, {"weight": "0"}, {"train": False}, {"train": "no"}),
        *({"training": False}, {"loss": False}, {"loss": 0}, {"label": False}, {"masked": True}),
    ],
    ids=str,
)
def test_training_marks(mark: Columns) -> None:
    rotten = {"role": "assistant", "content": "Rotten.", **mark}
    row = good({"messages": [USER, rotten, USER, ANSWER]})
    assert row.messages[1].get("scored") is False
    assert row.messages[3].get("scored", True)
    assert any("training mark" in note for note in row.notes)
    row = good({"messages": [USER, ANSWER, USER, rotten]})
    assert said(row.messages) == [("user", Q), ("assistant", A)]
    alone = read({"messages": [USER, rotten]})
    assert isinstance(alone, Reject)
    assert "training marks" in alone.reason


def test_marks_that_leave_nothing_out() -> None:
    for mark in (
        {"weight": 1},
        {"train": "yes"},
        {"loss": True},
        {"masked": False},
        {"label": "x"},
    ):
        row = good({"messages": [USER, {**ANSWER, **mark}]})
        assert (row.messages, row.notes) == ((USER, ANSWER), ())
    turns = [{"from": "User", "value": Q}, {"from": "Assistant", "value": A}]
    assert good({"mask": "User", "conversations": turns}).ignored == ()
    masked = read({"mask": "Assistant", "conversations": turns})
    assert isinstance(masked, Reject)
    assert "training marks" in masked.reason


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"custom_id": "1", "response": CHOICES}, "a response without its request"),
        ({"custom_id": "1", "result": {"message": ANSWER}}, "a response without its request"),
        ({"custom_id": "1", "body": {"messages": [USER]}}, "'body' without a response"),
        ({"prompt": Q, "answers": [{"answer": A, "rank": 1}]}, "several responses to one prompt"),
        ({"segments": [{"text": Q, "label": False}]}, "pieces of rendered text"),
        ({"prompt": Q}, "'prompt' without a response"),
        ({"prompt": Q, "responses": [A]}, "'prompt' without a response"),
        ({"query": Q, "answers": '[{"name": "w", "arguments": {}}]'}, "'answers' only calls tools"),
        ({"prompt": Q, "output": ["Try ", "Pepper."]}, "a response of several texts"),
        ({"user": "alice", "message": Q, "created_at": "x"}, "a single message"),
        ({"user": "alice", "content": Q}, "a single message"),
        ({"conversation_id": "c", "turn": 1, **USER}, "a single message"),
        ({"name": "Bo", "is_user": True, "mes": Q}, "a single message"),
        ({"messages": [{**USER, "files": [{"file_name": "a.png"}]}, ANSWER]}, "holds a file"),
        ({"answer": A}, "'answer' without a prompt"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "audio"}]}]},
            "holds audio",
        ),
        ({"messages": [{**USER, "images": ["x"]}, ANSWER]}, "holds an image"),
        ({"messages": [USER, {**ANSWER, "tool_calls": 3}]}, "tool calls that cannot be read"),
    ],
)
def test_refusals_say_why(columns: Columns, reason: str) -> None:
    row = read(columns)
    assert isinstance(row, Reject)
    assert reason in row.reason


def test_a_mapping_is_used_and_checked() -> None:
    columns = {"persona": S, "ask": Q, "say": A, "prompt": "other"}
    row = good(columns, "system=persona,prompt=ask,response=say")
    assert said(row.messages) == [("system", S), ("user", Q), ("assistant", A)]
    assert row.ignored == ("prompt",)
    assert said(good({"log": [USER, ANSWER]}, "messages=log").messages) == said([USER, ANSWER])
    missing = read({"other": 1}, "messages=log")
    assert isinstance(missing, Reject)
    assert missing.reason == "no messages in column 'log'"

    missing = read(columns, "prompt=nowhere,response=say")
    assert isinstance(missing, Reject)
    assert missing.reason == "no text in column 'nowhere'"

    rows = [RawRow(i, "d", i, columns) for i in range(3)]
    assert kind_of(iter(rows), ColumnMap(prompt="ask", response="say", system="persona")) == "row"
    wrong = ColumnMap(prompt="ask", response="say", system="personna")
    for check in (kind_of, check_columns):
        with pytest.raises(
            UsageError, match=r"--columns system=personna: .* they have persona, ask"
        ):
            check(iter(rows), wrong)
    check_columns(iter(rows), ColumnMap())
    with pytest.raises(DataError, match="holds no rows"):
        kind_of(iter(()))
    with pytest.raises(UsageError, match="named twice"):
        ColumnMap.parse("prompt=a,prompt=b")


#: Texts, and other values, that mean something somewhere.
TEXTS = (
    *(
        "",
        " ",
        "\ud800",
        "user",
        "assistant",
        "function_call",
        "reasoning",
        "text",
        "tie",
        "x_call",
    ),
    *(
        "<think>",
        "<think>a</think>b",
        "</think>",
        "{",
        "[[",
        "<tool_call>{}</tool_call>",
        "tool_use",
    ),
    *("USER: a ASSISTANT: b", "[INST]a[/INST]b", "\n\nHuman: a\n\nAssistant:", "<functioncall> {"),
    *("<|im_start|>user\nq<|im_end|>", "### Instruction:\na\n### Response:\nb", json.dumps([USER])),
)
OTHERS = (None, True, 0, -1.5, float("nan"), float("inf"), 10**5000, b"x", date(2020, 1, 2), [], {})
KEYS = (
    *(
        "role",
        "from",
        "content",
        "value",
        "text",
        "type",
        "parts",
        "tool_calls",
        "function",
        "name",
    ),
    *("arguments", "thinking", "weight", "message", "messages", "choices", "author", "data", "id"),
    *("kwargs", "replies", "prompt", "toolUse", "channel", "functionCall", "summary", "parent"),
)
NAMES = sorted(
    {*MESSAGES, *PROMPTS, *RESPONSES, *SYSTEM, *chain(*SIDES), *chain(*TWO), "\ud800x", "gen_ai.x"}
    | {"id", "mapping", "current_node", "history", "attributes", "label", "mask", "winner", "image"}
)
SEEDS = [case["row"] for case in CASES]
SEEDS += [*PLAIN.values(), *WITH_SYSTEM.values(), *PAIRS.values()]


def _any(random: Random, depth: int = 0) -> Any:
    """A value of any shape."""
    kind = 0.0 if depth > 4 else random.random()
    if kind < 0.5:
        return random.choice(TEXTS)
    if kind < 0.6:
        return random.choice(OTHERS)
    inner = [_any(random, depth + 1) for _ in range(random.randint(0, 3))]
    return inner if kind < 0.8 else {random.choice(KEYS): value for value in inner}


def _mutated(random: Random, value: Any) -> Any:
    """A value with some of what is in it replaced, added or renamed."""
    if random.random() < 0.1:
        return _any(random)
    if isinstance(value, dict):
        return {
            random.choice(KEYS) if random.random() < 0.04 else key: _mutated(random, inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        more = [_any(random)] if random.random() < 0.1 else []
        return [*(_mutated(random, inner) for inner in value), *more]
    return (
        random.choice(TEXTS) + value if isinstance(value, str) and random.random() < 0.1 else value
    )


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rows_of_any_shape_give_a_row_or_a_reason(seed: int) -> None:
    random = Random(seed)
    more = {random.choice(NAMES): _any(random) for _ in range(random.randint(0, 3))}
    columns = {key: _mutated(random, value) for key, value in random.choice(SEEDS).items()}
    row = read(columns | more if random.random() < 0.7 else more)
    if isinstance(row, Reject):
        assert is_unicode(row.reason)
        assert row.reason
        return
    assert row.messages[-1]["role"] == "assistant"
    assert row.messages[-1]["content"].strip()
    assert is_unicode(json.dumps([row.messages, row.rejected], ensure_ascii=False))
    assert is_unicode("".join([row.id, *row.ignored, *row.notes]))
    assert row.reader in {reader.name for reader in READERS}


@pytest.mark.parametrize("opening", ["[", '[{"role":"user","content":'])
@pytest.mark.parametrize("column", ["messages", "request", "chosen"])
def test_deeply_nested_json_is_a_reason(opening: str, column: str) -> None:
    columns = {column: opening * 100_000, "response": A, "rejected": A}
    assert isinstance(read(columns), DataRow | Reject)


def test_deep_values_are_a_reason() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    user = {"role": "user", "content": deep}
    tool = {"role": "tool", "content": {"a": deep}}
    for columns in (
        {"messages": [user, ANSWER]},
        {"messages": [USER, {**ANSWER, "tool_calls": [{"name": "w", "arguments": {"a": deep}}]}]},
        {"messages": [USER, tool, ANSWER]},
        {"request": deep, "response": A},
    ):
        row = read(columns)
        assert isinstance(row, Reject)
    assert good({"prompt": Q, "completion": A, "other": deep}).ignored == ("other",)


def test_the_documentation_lists_every_reader_and_column() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    for reader in READERS:
        assert f"**{reader.name}**" in page
    names = {*MESSAGES, *PROMPTS, *RESPONSES, *SYSTEM, *chain(*SIDES), *chain(*TWO)}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
