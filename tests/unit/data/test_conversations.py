"""Rows of data: every form that is read, every way in which one can be bad."""

import csv
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from personavec.data import (
    ColumnMap,
    DataRow,
    RawRow,
    Reject,
    fingerprint,
    kind_of,
    parse_row,
    raw_rows,
    read_rows,
)
from personavec.errors import DataError, UsageError

ROWS = [
    {"id": f"r{i}", "prompt": f"question {i}?", "completion": text}
    for i, text in enumerate(("None", "N/A", "null", "plain", 'über\n"quoted"', "NaN"))
]
SAID = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})


def _jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def _csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "jsonl": _jsonl,
    "json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "csv": _csv,
    "parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    WRITERS[suffix](path)
    found = list(raw_rows(path))
    assert [row.columns for row in found] == ROWS
    assert [row.index for row in found] == list(range(len(ROWS)))
    assert [row for _, row in read_rows(path)] == ROWS
    parsed = [parse_row(row) for row in found]
    assert [row.messages[-1]["content"] for row in parsed if isinstance(row, DataRow)] == [
        row["completion"] for row in ROWS
    ]
    assert [row.id for row in parsed] == [row["id"] for row in ROWS]


def test_a_folder_of_parts_is_one_dataset_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    _csv(tmp_path / "b" / "part-2.csv")
    _jsonl(tmp_path / "a-part-1.jsonl")
    (tmp_path / "_notes.json").write_text("not data")
    found = list(raw_rows(tmp_path))
    assert [row.columns for row in found] == ROWS + ROWS
    assert [row.index for row in found] == list(range(2 * len(ROWS)))
    assert found[-1].source == "b/part-2.csv"


def test_a_saved_dataset_and_its_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "plain")
    assert [row.columns for row in raw_rows(tmp_path / "plain")] == ROWS
    splits = datasets.DatasetDict({"train": made, "test": made.select([1])})
    splits.save_to_disk(tmp_path / "split")
    assert [row.columns for row in raw_rows(tmp_path / "split", split="test")] == [ROWS[1]]
    with pytest.raises(UsageError, match=r"several splits.*train"):
        list(raw_rows(tmp_path / "split"))


def test_bad_lines_are_kept_with_their_number_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    good = json.dumps(ROWS[0]).encode()
    path.write_bytes(b"\n".join([good, b"{bad", b"", b'{"x": "\xff"}', b"[1]", good]))
    found = list(raw_rows(path))
    assert [(row.index, row.number) for row in found] == [(0, 1), (1, 2), (2, 4), (3, 5), (4, 6)]
    reasons = [row.error for row in found]
    assert reasons[0] is None
    assert reasons[4] is None
    assert "not JSON" in str(reasons[1])
    assert found[1].text == "{bad"
    assert "not UTF-8: byte 0xff" in str(reasons[2])
    assert "not a JSON object" in str(reasons[3])


def test_bad_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'prompt,completion\na,b\na,b,c\na,\xff\n"long",' + b"x" * 200_000 + b"\n")
    found = list(raw_rows(path))
    assert [row.error is None for row in found] == [True, False, False, True]
    assert "more fields" in str(found[1].error)
    assert "UTF-8" in str(found[2].error)


def test_a_json_list_is_streamed_and_its_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    text = "x" * 1000
    path.write_text(json.dumps([{"prompt": "é" * 7, "completion": text}] * 20_000))
    size = path.stat().st_size
    tracemalloc.start()
    assert sum(row.columns["completion"] == text for row in raw_rows(path)) == 20_000
    assert tracemalloc.get_traced_memory()[1] < size / 2
    tracemalloc.stop()
    path.write_text('[{"a": 1}, {"a": }]')
    with pytest.raises(DataError, match="cannot be read"):
        list(raw_rows(path))
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match="list of objects"):
        list(raw_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no such file"),
        ("empty.jsonl", "", "holds no rows"),
        ("data.txt", "x", r"use a \.csv"),
        ("data.parquet", "x", "as Parquet"),
    ],
)
def test_unreadable_sources(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        list(raw_rows(tmp_path / name))


def _row(**columns: Any) -> RawRow:
    return RawRow(0, "data.jsonl", 1, columns)


SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": list(SAID)},
        {"messages": json.dumps(list(SAID))},
        {
            "messages": [
                SAID[0],
                {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
            ]
        },
        {"messages": [*SAID, {"role": "user", "content": "unanswered"}]},
        {"conversations": SHAREGPT},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": "Hi", "response": "Hello"},
        {"prompt": [SAID[0]], "completion": [SAID[1]]},
        {"question": "Hi", "answer": "Hello"},
        {"instruction": "Hi", "input": "", "output": "Hello"},
    ],
)
def test_every_form_of_a_conversation(columns: dict[str, Any]) -> None:
    parsed = parse_row(_row(**columns))
    assert isinstance(parsed, DataRow)
    assert parsed.messages == SAID
    assert parsed.id == "data.jsonl:1"


def test_system_prompts_inputs_and_mapped_columns() -> None:
    parsed = parse_row(_row(system="Be brief.", instruction="Add", input="1 2", output="3"))
    assert isinstance(parsed, DataRow)
    assert [m["content"] for m in parsed.messages] == ["Be brief.", "Add\n\n1 2", "3"]
    columns = ColumnMap.parse("prompt=q, response=a,id=key")
    parsed = parse_row(_row(q="Hi", a="Hello", key=7), columns)
    assert isinstance(parsed, DataRow)
    assert (parsed.id, parsed.messages) == ("7", SAID)
    with pytest.raises(UsageError, match="--columns"):
        ColumnMap.parse("question=q")


def test_preference_pairs() -> None:
    other = {"role": "assistant", "content": "Go away"}
    forms = [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
        {"chosen": list(SAID), "rejected": [SAID[0], other]},
        {"prompt": "Hi", "chosen": [SAID[1]], "rejected": [other]},
    ]
    for columns in forms:
        parsed = parse_row(_row(**columns))
        assert isinstance(parsed, DataRow)
        assert parsed.messages == SAID
        assert parsed.rejected == (SAID[0], other)
    assert kind_of(iter([_row(x=1), _row(**forms[0])])) == "pair"
    assert kind_of(iter([_row(prompt="a", completion="b")])) == "row"


def _bad_rows() -> Iterator[tuple[dict[str, Any], str]]:
    user, assistant = SAID
    yield {"messages": [user]}, "no assistant turn"
    yield {"messages": []}, "'messages' is empty"
    yield {"messages": "Hi"}, "no list of messages"
    yield {"messages": 3}, "no list of messages"
    yield {"messages": ["Hi", "Hello"]}, "texts without roles"
    yield {"messages": [user, {"role": "narrator", "content": "x"}]}, "unknown role 'narrator'"
    yield {"messages": [user, {"role": ["assistant"], "content": "x"}]}, "unknown role a list"
    yield {"messages": [user, {"content": "x"}]}, "message 2 has no role"
    yield {"messages": [user, {"role": "tool", "content": "x"}]}, "no assistant turn"
    yield {"messages": [user, {"role": "assistant", "content": None}]}, "no text"
    yield {"messages": [user, {"role": "assistant", "content": " \n"}]}, "empty response"
    yield {"messages": [user, {"role": "assistant", "content": "\ud800"}]}, "surrogate"
    yield {"prompt": "Hi", "completion": ""}, "empty response"
    yield {"prompt": "Hi", "completion": None}, "no text in column 'completion'"
    yield {"prompt": 3, "completion": "x"}, "no text in column 'prompt'"
    yield {"text": "Hi"}, "no conversation in columns text"
    yield {}, r"no conversation in columns \(none\)"
    yield (
        {"chosen": list(SAID), "rejected": [{**user, "content": "Bye"}, assistant]},
        "different prompts",
    )
    more = [user, {"role": "assistant", "content": "No"}, user, assistant]
    yield {"chosen": [*SAID, user, assistant], "rejected": more}, "part at message 2, before"
    yield {"chosen": "Hello", "rejected": "No"}, "answer no prompt"
    yield {"prompt": "Hi", "response_0": "a", "response_1": "b"}, "no column says which"
    yield {"messages": list(SAID), "image": "cat.png"}, "the row holds an image in 'image'"


@pytest.mark.parametrize(("columns", "reason"), list(_bad_rows()))
def test_bad_rows_have_a_reason(columns: dict[str, Any], reason: str) -> None:
    parsed = parse_row(_row(**columns))
    assert isinstance(parsed, Reject)
    assert re.search(reason, parsed.reason), parsed.reason


def test_rows_and_pairs_do_not_mix() -> None:
    pair = _row(prompt="Hi", chosen="a", rejected="b")
    row = _row(prompt="Hi", completion="a")
    for raw, kind in ((pair, "row"), (row, "pair")):
        assert isinstance(parse_row(raw, kind=kind), Reject)
    with pytest.raises(DataError, match=r"none of the first.*no conversation"):
        kind_of(iter([_row(x=1)]))


def test_a_fingerprint_changes_with_the_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    _jsonl(path)
    before = fingerprint(path)
    path.touch()
    assert fingerprint(path) == before
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    assert fingerprint(path) != before
