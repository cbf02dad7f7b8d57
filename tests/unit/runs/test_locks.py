"""Locks keep other processes out, and end with their process."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from personavec.errors import StorageError
from personavec.runs import lock


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
