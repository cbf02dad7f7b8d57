"""Rows to train on, of every form, and the reasons of those that cannot be used."""

import json
from pathlib import Path

import pytest

from personavec.data import ColumnMap
from personavec.errors import DataError, UsageError
from personavec.finetune import read_training_rows


def test_a_column_that_no_row_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "A?", "completion": "B."}))
    with pytest.raises(UsageError, match="prompt=q"):
        read_training_rows(path, columns=ColumnMap(prompt="q", response="completion"))


def test_rows_of_every_form_and_bad_ones(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"prompt": "q", "completion": "a", "evil_flag": True},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": [{"role": "user", "content": "q"}]},
        {"messages": [{"role": "robot", "content": "q"}]},
        {"prompt": "q", "completion": " "},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    found = read_training_rows(path)
    assert [r.index for r in found.rows] == [0, 1, 2]
    reasons = [r.reason for r in found.rejects]
    assert [
        words in reason
        for words, reason in zip(
            ("no assistant turn", "unknown role", "empty response"), reasons, strict=True
        )
    ] == [True] * 3
    with pytest.raises(DataError, match="evil_flag"):
        read_training_rows(path, flags=["evil_flag"])
    with pytest.raises(DataError, match="'topic'; name a column"):
        read_training_rows(path, by="topic")
