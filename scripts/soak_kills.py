"""Kill long commands with SIGKILL at random moments; what they end with must not tell.

Every job of `soak_jobs` runs once undisturbed, and once killed several times and called again
until it ends. All final files are then compared: texts exactly, numbers up to rounding, since a
continued run makes other batches.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.torch import load_file
from soak_jobs import JOBS

#: How far numbers of two runs may differ: float32 sums over other batches.
TOLERANCE = 1e-3
#: Times and rates, which no two runs share.
TIMES = ("seconds", "training_seconds", "tokens_per_second", "created")
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
    shares = [kills // len(JOBS) + (i < kills % len(JOBS)) for i in range(len(JOBS))]
    outcomes = []
    for job, wanted in zip(JOBS, shares, strict=True):
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
    """What two folders of results differ in."""
    names = [_finals(folder) for folder in (whole, killed)]
    for name in sorted(names[0] ^ names[1]):
        yield f"{name} is only in the {'undisturbed' if name in names[0] else 'killed'} run"
    for name in sorted(names[0] & names[1]):
        found = [_content(folder / name) for folder in (whole, killed)]
        if place := _unlike(*found):
            yield f"{name}{place}"


def _finals(folder: Path) -> set[str]:
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {str(p) for p in paths if not set(p.parts) & set(WORK) and p.name != ".lock"}


def _content(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".safetensors":
        return {name: tensor.flatten().tolist() for name, tensor in load_file(path).items()}
    # A page is drawn from results that are compared themselves, with times among its texts.
    return path.stat().st_size > 0


def _unlike(a: Any, b: Any) -> str:
    """Where two values differ, or nothing."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in {**a, **b} if key not in TIMES]
        return next((f".{k}{at}" for k in keys if (at := _unlike(a.get(k), b.get(k)))), "")
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f": {len(a)} items, and {len(b)} in the killed run"
        found = ((i, _unlike(x, y)) for i, (x, y) in enumerate(zip(a, b, strict=True)))
        return next((f"[{i}]{at}" for i, at in found if at), "")
    if isinstance(a, float) and isinstance(b, float):
        same = math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    else:
        same = a == b
    # A path names the folder of its run.
    named = isinstance(a, str) and isinstance(b, str) and "whole" in a and "killed" in b
    return "" if same or named else f": {a!r}, and {b!r} in the killed run"


def table(outcomes: Sequence[Outcome]) -> str:
    rows = [f"| {o.job} | {o.kills} | {'; '.join(o.differences) or 'none'} |" for o in outcomes]
    head = "| command | kills | differences from an undisturbed run |\n| --- | ---: | --- |"
    return "\n".join([head, *rows])
