"""Records of a run that is killed at any byte and continued are those of an undisturbed run."""

import errno
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from personavec.errors import DataError, StorageError
from personavec.runs import append_records, read_records

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Any text, also what looks like a line end or is no valid Unicode.
    | st.text(st.characters(codec=None, exclude_categories=()), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


record_lists = st.lists(st.dictionaries(st.text(max_size=8), json_values, max_size=4), max_size=8)


def full_disk(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@given(records=record_lists, data=st.data())
def test_killed_at_any_byte_and_continued_equals_undisturbed(
    records: list[dict[str, Any]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rollouts.jsonl"
        split = data.draw(st.integers(0, len(records)))
        append_records(path, records[:split])
        append_records(path, records[split:])
        undisturbed = path.read_bytes() if path.exists() else b""
        kept_bytes = data.draw(st.integers(0, len(undisturbed)))
        path.write_bytes(undisturbed[:kept_bytes])

        kept = read_records(path)
        assert kept == records[: undisturbed[:kept_bytes].count(b"\n")]

        append_records(path, records[len(kept) :])
        assert read_records(path) == records
        if len(kept) < len(records):
            assert path.read_bytes() == undisturbed


@given(tail=st.binary(max_size=40))
def test_whatever_follows_a_sound_record_reading_and_appending_agree(tail: bytes) -> None:
    sound = b'{"id": 0}\n'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rollouts.jsonl"
        path.write_bytes(sound + tail)
        try:
            before = read_records(path)
        except DataError:
            return  # an unsound line in the middle; its own test is below
        append_records(path, [{"id": 9}])
        assert read_records(path) == [*before, {"id": 9}]


def test_a_last_line_longer_than_the_reading_block_is_found(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    long = [{"id": i, "response": "x" * 200_000} for i in range(3)]
    append_records(path, long)
    os.truncate(path, path.stat().st_size - 1)
    append_records(path, [{"id": 9}])
    assert read_records(path) == [*long[:2], {"id": 9}]


@pytest.mark.parametrize("bad", [b'{"id": 1', b"[1]", b"", b"\x00\x00", b"\xff"])
def test_unsound_line_in_the_middle_is_named(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(b'{"id": 0}\n' + bad + b'\n{"id": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        read_records(path)


def test_missing_file_has_no_records_and_no_records_make_no_file(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    append_records(path, [])
    assert read_records(path) == []
    assert not path.exists()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_before_anything_is_written(
    tmp_path: Path, number: float
) -> None:
    path = tmp_path / "rollouts.jsonl"
    with pytest.raises(DataError, match="'b'"):
        append_records(path, [{"id": "a"}, {"id": "b", "log_odds": number}])
    assert not path.exists()


def test_full_disk_keeps_earlier_records_and_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rollouts.jsonl"
    append_records(path, [{"id": 0}])
    before = path.read_bytes()
    write = os.write

    def half_then_full(handle: int, data: memoryview) -> int:
        return write(handle, data[: len(data) // 2]) if len(data) > 12 else full_disk()

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(StorageError, match=r"disk full .* free space and run the same command"):
        append_records(path, [{"id": 1}, {"id": 2}])
    assert path.read_bytes() == before
