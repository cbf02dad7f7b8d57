"""Run a stage's commands, some at a time, each with a log and a line at its start and end."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from personavec.rollouts.estimate import duration

#: Seconds between two looks at whether a command has ended.
_LOOK = 0.2
#: Of a failed command's last line.
_SHOWN = 300


@dataclass(frozen=True)
class _Running:
    process: subprocess.Popen[bytes]
    log: Path
    file: IO[bytes]
    started: float


def run_all(
    stage: str, commands: Mapping[str, Sequence[str]], *, logs: Path, root: Path, jobs: int
) -> list[str]:
    """Run commands by name, at most `jobs` at a time; the names of those that failed.

    Each has its share of the cores, and ends with this process, however that ends.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, left = list(commands), len(commands)
    running: dict[str, _Running] = {}
    failed: list[str] = []
    threads = max(1, _cores() // jobs)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                log = logs / f"{_title(stage, name).replace(' ', '-')}.log"
                running[name] = _start(commands[name], log, root, threads)
                say(f"{_title(stage, name)}: started")
            time.sleep(_LOOK)
            for name in [name for name, each in running.items() if each.process.poll() is not None]:
                left -= 1
                if not _ended(_title(stage, name), running.pop(name), left):
                    failed.append(name)
    finally:
        for each in running.values():
            each.process.kill()
            each.process.wait()
    return failed


def _title(stage: str, name: str) -> str:
    """A stage's only command has its name."""
    return stage if name == stage else f"{stage} {name}"


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def _start(command: Sequence[str], log: Path, root: Path, threads: int) -> _Running:
    paths = [str(root / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    # Else a killed driver would leave commands behind, which hold their folders' locks.
    bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    file = log.open("wb")
    process = subprocess.Popen(
        [*bound, *command],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
    )
    return _Running(process, log, file, time.monotonic())


def _ended(what: str, found: _Running, left: int) -> bool:
    """Say how a command ended; whether it did what it should."""
    found.file.close()
    took = duration(time.monotonic() - found.started)
    if found.process.returncode == 0:
        say(f"{what}: done in {took}, {left} left")
        return True
    lines = found.log.read_text("utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    code = found.process.returncode
    why = f"killed by signal {-code}" if code < 0 else last[:_SHOWN]
    say(f"{what}: FAILED after {took}, {left} left: {why} (see {found.log})")
    return False


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
