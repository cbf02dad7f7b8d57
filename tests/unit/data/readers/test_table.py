"""The readers: every form in which conversations are published or logged, and any shape."""

import json
from datetime import date
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import pytest
from conversation_rows import (
    ANSWER,
    CASES,
    PAIRS,
    PLAIN,
    THOUGHT,
    USER,
    WITH_SYSTEM,
    A,
    Columns,
    Q,
    S,
    good,
    read,
    said,
)
from hypothesis import given, settings, strategies as st

from personavec.data import (
    DataRow,
    Reject,
)
from personavec.data.readers.columns import MESSAGES, PROMPTS, RESPONSES, SIDES, SYSTEM, TWO
from personavec.data.readers.table import READERS
from personavec.plain import is_unicode

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


@pytest.mark.parametrize("name", PLAIN)
def test_more_formats(name: str) -> None:
    row = good(PLAIN[name])
    assert said(row.messages) == [("user", Q), ("assistant", A)]
    guessed = {
        "q and a": "q was taken as the prompt and a as the response",
        "llama.cpp": "prompt was taken as the prompt and content as the response",
    }
    notes = (guessed[name],) if name in guessed else ()
    assert (row.ignored, row.notes, row.rejected) == ((), notes, None)


@pytest.mark.parametrize("name", WITH_SYSTEM)
def test_system_prompts_come_first(name: str) -> None:
    row = good(WITH_SYSTEM[name])
    assert said(row.messages) == [("system", S), ("user", Q), ("assistant", A)]
    assert (row.ignored, row.notes) == ((), ())


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
    page = (Path(__file__).parents[4] / "docs" / "data.md").read_text(encoding="utf-8")
    for reader in READERS:
        assert f"**{reader.name}**" in page
    names = {*MESSAGES, *PROMPTS, *RESPONSES, *SYSTEM, *chain(*SIDES), *chain(*TWO)}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
