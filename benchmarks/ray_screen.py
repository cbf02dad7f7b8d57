"""What a Ray cluster costs: two workers on two cores against one process on both.

The rows are those of `screen.py`, 50 to 1,500 tokens long, on the embedded model with five traits
at the middle layer. Either way scores two datasets, one three times as long; the rate is that of
the rows between them, so that start-up cancels, and start-up is what is left. Then come the costs
that a simulation of many devices needs: what the driver spends on a window that is no work, what
a reader spends on a row, how fast a dataset is fingerprinted and its stretches planned. Each
figure is the median of several rounds, the two ways by turns. Leave the machine alone meanwhile.

    python benchmarks/ray_screen.py [--json FILE] [--rows N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import described
from screen import TRAITS, long_rows

from personavec import LoadedModel, load_model, load_vector
from personavec.data import fingerprint, in_windows, marks, parts, raw_rows, stretches
from personavec.screen import (
    Added,
    Files,
    Plan,
    Probe,
    prepare,
    probe,
    score_prepared,
    write_outputs,
)
from personavec.screen.cluster import on_ray

#: Rows of a window, fewer than in use: two workers should have as much to do as each other.
WINDOW = 32
EMPTY_WINDOWS = 400


class Nothing:
    """An actor that scores no row."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.table({"rows": [0] * len(batch)})


def one_process(loaded: LoadedModel, wanted: Probe, data: Path, folder: Path) -> int:
    """The tokens of a dataset, scored as `personavec screen` does."""

    def prepared() -> Iterator[Any]:
        for number, raws in enumerate(in_windows(raw_rows(data), WINDOW)):
            yield number, prepare(loaded, raws, Plan())

    tokens = 0
    for number, window in parts.ahead(prepared()):
        columns = score_prepared(loaded, window, wanted, Plan())
        parts.write_part(parts.part(folder, number), parts.to_table(columns))
        tokens += int(columns.sequence_tokens.sum())
    return tokens


def on_cluster(work: on_ray.WorkerSetup, data: Path, folder: Path) -> int:
    todo, _ = stretches(data, split=None, size=WINDOW)
    scored = on_ray.score_stretches(work, todo, folder, "rows")
    return sum(window.tokens for window in scored)


def timed(call: Callable[[], int]) -> tuple[float, int]:
    start = time.perf_counter()
    tokens = call()
    return time.perf_counter() - start, tokens


def rate(score_into: Callable[[Path, Path], int], short: Path, long: Path) -> dict[str, float]:
    """Tokens a second between a short dataset and a long one, and the seconds before that rate."""
    with tempfile.TemporaryDirectory() as folder:
        few_seconds, few = timed(lambda: score_into(short, Path(folder) / "short"))
        many_seconds, many = timed(lambda: score_into(long, Path(folder) / "long"))
    rate = (many - few) / (many_seconds - few_seconds)
    return {"tokens_per_second": rate, "start_seconds": few_seconds - few / rate}


def driver_seconds_per_window(folder: Path) -> float:
    """What a window costs the driver, from windows of one row that nobody scores."""
    data = folder / "empty.jsonl"
    seconds = []
    for n in (EMPTY_WINDOWS // 4, EMPTY_WINDOWS):
        data.write_text('{"prompt": "a", "completion": "b"}\n' * n)
        todo, _ = stretches(data, split=None, size=1)
        start = time.perf_counter()
        assert sum(1 for _ in on_ray.pipeline(todo, Nothing, ())) == n
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / (EMPTY_WINDOWS - EMPTY_WINDOWS // 4)


def reading(loaded: LoadedModel, data: Path) -> dict[str, float]:
    """What rows cost outside the model: to read, to tokenise, to prepare, to write out."""
    size = data.stat().st_size
    start = time.perf_counter()
    raws = list(raw_rows(data))
    read = time.perf_counter()
    prepare(loaded, raws, Plan())
    tokenised = time.perf_counter()
    fingerprint(data)
    known = time.perf_counter()
    marks(data, parts.WINDOW)
    planned = time.perf_counter()
    added = Added(
        index=np.arange(len(raws)),
        columns={name: np.zeros(len(raws)) for name in TRAITS},
        flagged=np.zeros(len(raws), bool),
        subsets={},
        content=np.array([raw.hash.encode() for raw in raws]),
    )
    with tempfile.TemporaryDirectory() as folder:
        files = Files(str(data), Path(folder), "parquet", split_flagged=True)
        write_outputs(lambda: raw_rows(data), added, files)
    end = time.perf_counter()
    return {
        "read_seconds_per_row": (read - start) / len(raws),
        "tokenise_seconds_per_row": (tokenised - read) / len(raws),
        "bytes_per_row": size / len(raws),
        "fingerprint_bytes_per_second": size / (known - tokenised),
        "plan_bytes_per_second": size / (planned - known),
        "output_seconds_per_row": (end - planned) / len(raws),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=128, help="of the short dataset")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    loaded = load_model("smollm2")
    layer = loaded.identity.n_layers // 2
    wanted = probe([load_vector(trait) for trait in TRAITS], loaded, layer=layer)
    work = on_ray.worker_setup(loaded, wanted, Plan())
    alone: list[dict[str, float]] = []
    cluster: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name, on_ray.connected("local"):
        folder = Path(name)
        raws = long_rows(loaded, 3 * arguments.rows)
        short, long = folder / "short.jsonl", folder / "long.jsonl"
        for path, step in ((short, 3), (long, 1)):
            path.write_text("".join(json.dumps(raw.columns) + "\n" for raw in raws[::step]))
        for _ in range(arguments.rounds):
            alone.append(rate(lambda d, f: one_process(loaded, wanted, d, f), short, long))
            cluster.append(rate(lambda d, f: on_cluster(work, d, f), short, long))
        overhead = driver_seconds_per_window(folder)
        costs = reading(loaded, long)
        workers, _ = on_ray.devices()
        with tempfile.TemporaryDirectory() as kept:
            tokens = one_process(loaded, wanted, short, Path(kept))
            written = sum(path.stat().st_size for path in parts.written(Path(kept)))

    def median(found: list[dict[str, float]], key: str) -> float:
        return statistics.median(entry[key] for entry in found)

    record: dict[str, Any] = {
        "rows": {"short": arguments.rows, "long": 3 * arguments.rows},
        "tokens_per_row": tokens / arguments.rows,
        "window": WINDOW,
        "workers": workers,
        "one_process": alone,
        "ray": cluster,
        "ratio": median(cluster, "tokens_per_second") / median(alone, "tokens_per_second"),
        "driver_seconds_per_window": overhead,
        **costs,
        "part_bytes_per_row": written / arguments.rows,
        **described(),
    }
    print("| way | tokens/s, median | rounds | start-up, s |\n| --- | --- | --- | --- |")
    for label, found in (("one process", alone), (f"{workers} Ray workers", cluster)):
        shown = ", ".join(f"{entry['tokens_per_second']:.0f}" for entry in found)
        print(
            f"| {label} | {median(found, 'tokens_per_second'):.0f} | {shown} | "
            f"{median(found, 'start_seconds'):.1f} |"
        )
    print(f"ratio {record['ratio']:.2f}")
    print(f"driver: {1000 * overhead:.2f} ms a window")
    print(
        f"reading {1e6 * costs['read_seconds_per_row']:.0f} µs a row, tokenising "
        f"{1e6 * costs['tokenise_seconds_per_row']:.0f} µs, rows of {costs['bytes_per_row']:.0f} "
        f"bytes; fingerprint {costs['fingerprint_bytes_per_second'] / 1e6:.0f} MB/s, planning "
        f"{costs['plan_bytes_per_second'] / 1e6:.0f} MB/s; scores "
        f"{record['part_bytes_per_row']:.0f} bytes a row; files to take away "
        f"{1e6 * costs['output_seconds_per_row']:.0f} µs a row"
    )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
