"""A run killed at any byte and continued holds what an undisturbed run holds."""

import errno
import fcntl
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from personavec.errors import DataError, SettingsMismatchError, StorageError, UsageError
from personavec.runs import append_records, atomic_path, atomic_write, claim, lock, read_records

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


def test_atomic_write_replaces_whole_and_leaves_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "new" / "vector.json"
    atomic_write(path, "é")
    atomic_write(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        (ValueError("mine"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (PermissionError(errno.EACCES, "another file"), PermissionError),
        (OSError(errno.ENOSPC, "full"), StorageError),
        (RuntimeError("I/O error: No space left on device (os error 28)"), StorageError),
    ],
)
def test_failed_artifact_leaves_the_old_one(
    tmp_path: Path, raised: BaseException, shown: type[BaseException]
) -> None:
    path = tmp_path / "vector.safetensors"
    atomic_write(path, "old")

    def fail() -> None:
        with atomic_path(path) as aside:
            assert aside.parent == path.parent
            aside.write_bytes(b"half")
            raise raised

    with pytest.raises(shown):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_under_an_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match="disk full"):
        atomic_write(tmp_path / "vector.json", "new")
    assert list(tmp_path.iterdir()) == []


def test_claim_accepts_the_same_settings_and_names_each_difference(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = {"seed": 0, "layers": (1, 2), "model": {"name": "m", "dtype": "float32"}}
    claim(folder, settings)
    claim(folder, settings)
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 0
    with pytest.raises(SettingsMismatchError) as caught:
        claim(folder, {"layers": [1, 2], "model": {"name": "n", "dtype": "float32"}, "new": None})
    message = str(caught.value)
    assert "seed was 0, now not set" in message
    assert 'model.name was "m", now "n"' in message
    assert "new was not set, now null" in message
    assert "layers" not in message
    assert "dtype" not in message
    assert "--out" in message


def test_another_version_goes_on_with_a_warning_unless_its_files_are_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim(tmp_path, {"seed": 0})
    assert capsys.readouterr().err == ""
    path = tmp_path / "manifest.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "personavec": {**record["personavec"], "version": "0"}}))
    claim(tmp_path, {"seed": 0})
    assert 'begun by personavec "0"' in capsys.readouterr().err
    for earlier, has in (
        ({**record["personavec"], "format": 1}, "format 1; this version continues format 2"),
        (None, "no format number"),
        ("0.1", "no format number"),
    ):
        path.write_text(json.dumps({**record, "personavec": earlier}))
        with pytest.raises(SettingsMismatchError, match=f"another version of personavec.*{has}"):
            claim(tmp_path, {"seed": 0})


def test_claim_refuses_a_folder_that_holds_other_files(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    own = tmp_path / "rows.jsonl"
    own.write_text("{}\n")
    with pytest.raises(UsageError, match=r"holds 'rows\.jsonl' but no manifest\.json"):
        claim(tmp_path, {"seed": 0})
    assert not (tmp_path / "manifest.json").exists()
    claim(tmp_path, {"seed": 0}, beside="rows.jsonl")
    claim(tmp_path, {"seed": 0})
    # Of a run whose manifest is lost nobody knows which settings its files have.
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"rows\.jsonl"):
        claim(tmp_path, {"seed": 1})


def test_claim_under_a_file_or_over_a_broken_manifest_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        claim(tmp_path / "file", {"seed": 0})
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json"):
        claim(tmp_path, {"seed": 0})


def lock_in_another_process(folder: Path) -> str:
    code = "import sys, pathlib, personavec.runs as r\nwith r.lock(pathlib.Path(sys.argv[1])): pass"
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True).stderr


def test_lock_keeps_another_process_out_until_released(tmp_path: Path) -> None:
    with lock(tmp_path):
        refused = lock_in_another_process(tmp_path)
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        assert f"{tmp_path} is being written by another process ({holder}); wait" in refused
    assert lock_in_another_process(tmp_path) == ""


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys, personavec.runs as r\n"
        "with r.lock(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert "process" in (tmp_path / ".lock").read_text()
    with lock(tmp_path):
        pass


def test_waiting_for_a_lock_ends_when_it_is_released(tmp_path: Path) -> None:
    entered, order = threading.Event(), []

    def second() -> None:
        entered.set()
        with lock(tmp_path, wait=True):
            order.append("second")

    with lock(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        entered.wait()
        time.sleep(0.2)
        order.append("first")
    waiting.join(timeout=30)
    assert order == ["first", "second"]


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="file system that cannot lock files"), lock(tmp_path):
        pass
