"""Runs that are killed and called again: the kill, and what tells the files of two runs apart."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.torch import load_file

#: How far numbers of two runs may differ: float32 sums over other batches.
TOLERANCE = 1e-3
#: Times and rates, which no two runs share.
TIMES = ("seconds", "training_seconds", "tokens_per_second", "created")


def kill_when(
    ready: Callable[[], bool],
    process: subprocess.Popen[Any],
    seconds: float = 600,
    *,
    group: bool = False,
) -> None:
    """Send SIGKILL to a process, or to its group, as soon as something is ready.

    Raises RuntimeError if the process ends before, or if the time is over.
    """
    until = time.monotonic() + seconds
    while not (found := ready()) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    if group and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    if not found or process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"no kill: the process ended with {process.returncode}")


def content(path: Path) -> Any:
    """What a file of a run holds. Of a page, only whether it holds anything."""
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        # Responses and scores are written as they are made, in any order.
        by_id = path.name in ("generated.jsonl", "scores.jsonl")
        return sorted(records, key=lambda record: record["id"]) if by_id else records
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".safetensors":
        return {name: tensor.flatten().tolist() for name, tensor in load_file(path).items()}
    # A page is drawn from results that are compared themselves, with times among its texts.
    return path.stat().st_size > 0


def unlike(
    a: Any, b: Any, ignored: Collection[str] = TIMES, names: tuple[str, str] | None = None
) -> str:
    """Where two values differ, or nothing.

    Texts that hold these names, the first one in `a` and the second one in `b`, count as equal:
    they are paths of the two runs' folders.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in {**a, **b} if key not in ignored]
        inner = ((f".{key}", a.get(key), b.get(key)) for key in keys)
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f": {len(a)} and {len(b)} items"
        inner = ((f"[{i}]", x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)))
    else:
        return "" if _same(a, b, names) else f": {a!r} and {b!r}"
    return next((f"{k}{at}" for k, x, y in inner if (at := unlike(x, y, ignored, names))), "")


def _same(a: Any, b: Any, names: tuple[str, str] | None) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        close = math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        return close or (math.isnan(a) and math.isnan(b))
    if names and isinstance(a, str) and isinstance(b, str) and names[0] in a and names[1] in b:
        return True
    return a == b
