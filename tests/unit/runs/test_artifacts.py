"""Artifacts are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from personavec.errors import StorageError
from personavec.runs import atomic_path, atomic_write


def full_disk(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
