"""Kill long commands with SIGKILL at random moments: their results must be the same in the end.

Every job of `soak_jobs` runs once undisturbed, and once killed several times and called again
until it ends. All final files are then compared: texts exactly, numbers up to rounding, since a
continued run makes other batches.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from killed_runs import content, unlike
from soak_jobs import CONFIGS

#: Folders that hold what a run continues from.
WORK = ("run", "naturals", "calibration", "cells")


@dataclass
class Outcome:
    """What became of one job."""

    job: str
    kills: int = 0
    """Kills that met the job at work."""
    differences: list[str] = field(default_factory=list)


def run_kills(inputs: Path, folder: Path, kills: int, seed: int) -> list[Outcome]:
    """Spread the kills over all jobs, and compare what each ends with."""
    rng = random.Random(seed)
    n = len(CONFIGS)
    shares = [kills // n + (i < kills % n) for i in range(n)]
    outcomes = []
    for job, wanted in zip(CONFIGS, shares, strict=True):
        outcome = Outcome(job)
        outcomes.append(outcome)
        name = job.replace(" ", "_")
        whole, killed = folder / "whole" / name, folder / "killed" / name
        error, seconds = _run(job, inputs, whole)
        while not error and outcome.kills < wanted:
            begun = _kill(job, inputs, killed, rng.uniform(0, seconds))
            if begun:
                outcome.kills += 1
            else:
                # It ended before the kill: begin anew.
                killed = folder / "killed" / f"{name}-{outcome.kills}-{rng.getrandbits(32)}"
        if not error:
            error, _ = _run(job, inputs, killed)
        outcome.differences += [error] if error else list(differences(whole, killed))
        print(f"{job}: {outcome.kills} kills, {len(outcome.differences)} differences", flush=True)
    return outcomes


def _start(job: str, inputs: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("soak_jobs.py")), job, inputs, out]
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # PEFT writes sets of names in the order of their hashes.
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
    )


def _run(job: str, inputs: Path, out: Path) -> tuple[str, float]:
    """Run a job to its end: what went wrong, and the seconds of work."""
    with _start(job, inputs, out) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        _, said = process.communicate()
    last = (said.strip().splitlines() or ["nothing said"])[-1]
    error = f"ended with {process.returncode}: {last}" if process.returncode else ""
    return error, time.monotonic() - began


def _kill(job: str, inputs: Path, out: Path, after: float) -> bool:
    """Kill a job so many seconds into its work; False where it ended before."""
    with _start(job, inputs, out) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    return process.returncode == -signal.SIGKILL


def differences(whole: Path, killed: Path) -> Iterator[str]:
    """How two folders of results differ."""
    names = [_finals(folder) for folder in (whole, killed)]
    for name in sorted(names[0] ^ names[1]):
        yield f"{name} is only in the {'undisturbed' if name in names[0] else 'killed'} run"
    for name in sorted(names[0] & names[1]):
        found = [content(folder / name) for folder in (whole, killed)]
        if place := unlike(*found, names=("whole", "killed")):
            yield f"{name}{place}"


def _finals(folder: Path) -> set[str]:
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {str(p) for p in paths if not set(p.parts) & set(WORK) and p.name != ".lock"}


def table(outcomes: Sequence[Outcome]) -> str:
    rows = [f"| {o.job} | {o.kills} | {'; '.join(o.differences) or 'none'} |" for o in outcomes]
    head = "| command | kills | differences from an undisturbed run |\n| --- | ---: | --- |"
    return "\n".join([head, *rows])
