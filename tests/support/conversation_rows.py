"""Rows that tests read conversations from: a question, an answer, and every published form."""

import json
from pathlib import Path
from typing import Any

from personavec.data import (
    ColumnMap,
    DataRow,
    RawRow,
    Reject,
    parse_row,
)
from personavec.data.readers.columns import SIDES, SYSTEM

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
