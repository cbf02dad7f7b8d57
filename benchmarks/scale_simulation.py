"""A screen on up to 1,000 devices, simulated from what the benchmark measured on two.

A discrete-event simulation of one dataset: devices take windows of 512 rows from a queue. What the
driver does for each window is done one at a time; reading takes its share of the storage's
bandwidth; a window's seconds vary, some devices are slow, nodes of eight devices fail, and what
they had in hand is done again. Before it, the driver reads the data for its fingerprint and
plan. After it, the driver makes another plan, and all nodes write the output files, with one core
for each device, as fast as the storage allows. Costs of the driver, of reading, writing and
start-up are those in the benchmark's record; all else is an assumption, printed with the table.

    python benchmarks/scale_simulation.py benchmarks/results/ray_screen.json [--rows N] ...
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 512
DEVICES_PER_NODE = 8


@dataclass(frozen=True)
class Assumed:
    """What the benchmark cannot measure."""

    tokens_per_second: float
    """Of one device: 2 × 8e9 parameters × half the depth is 8e9 FLOP a token, at 400e12 FLOP/s."""
    bandwidth: float
    """Of the shared storage, bytes a second."""
    spread: float
    """Standard deviation of the log of a window's seconds."""
    slow: float
    """Share of devices that take twice as long."""
    mtbf: float
    """Mean hours between failures of a node."""
    replace: float
    """Seconds until a failed node's devices are back, before they start up."""
    seed: int


@dataclass(frozen=True)
class Outcome:
    devices: int
    scoring: float
    """Seconds from the first window to the last."""
    busy: float
    """Share of the devices' seconds spent on windows that counted."""
    driver: float
    """Share of the seconds that the driver was busy with windows."""
    failures: int
    redone: int


def simulate(devices: int, windows: int, measured: dict[str, float], assumed: Assumed) -> Outcome:
    """Score all windows on so many devices."""
    rng = np.random.default_rng(assumed.seed)
    base = WINDOW * measured["tokens_per_row"] / assumed.tokens_per_second
    read = WINDOW * measured["read_seconds_per_row"]
    transfer = WINDOW * measured["bytes_per_row"] / assumed.bandwidth
    handling = measured["driver_seconds_per_window"]
    pace = np.where(rng.random(devices) < assumed.slow, 2.0, 1.0)
    nodes = -(-devices // DEVICES_PER_NODE)
    fails = rng.exponential(assumed.mtbf * 3600, nodes)
    seen = np.zeros(nodes, bool)

    # One that is not there yet is free when it has started.
    free = [(measured["start_seconds"], device) for device in range(devices)]
    heapq.heapify(free)
    noise = deque(rng.lognormal(0, assumed.spread, windows + devices).tolist())
    left, failures, redone = windows, 0, 0
    driver_free = storage_free = driver_busy = worked = end = 0.0
    while left:
        now, device = heapq.heappop(free)
        node = device // DEVICES_PER_NODE
        # Its device can wait for the driver, for storage, or for its own reader.
        driver_free = max(driver_free, now) + handling
        driver_busy += handling
        storage_free = max(storage_free, now) + transfer
        start = max(driver_free, storage_free)
        if not noise:
            noise.extend(rng.lognormal(0, assumed.spread, devices).tolist())
        seconds = max(base * pace[device] * noise.popleft(), read)
        if fails[node] < start + seconds:
            back = fails[node] + assumed.replace + measured["start_seconds"]
            failures += not seen[node]
            redone += start < fails[node]
            seen[node] = True
            heapq.heappush(free, (back, device))
            # The node's other devices meet the same failure before the next one is drawn.
            if all(b > fails[node] for b, d in free if d // DEVICES_PER_NODE == node):
                fails[node] = back + rng.exponential(assumed.mtbf * 3600)
                seen[node] = False
            continue
        left -= 1
        worked += seconds
        end = max(end, start + seconds)
        heapq.heappush(free, (start + seconds, device))
    return Outcome(devices, end, worked / (devices * end), driver_busy / end, failures, redone)


def passes(
    devices: int, rows: int, measured: dict[str, float], assumed: Assumed
) -> tuple[float, float]:
    """Seconds before scoring, and seconds after it."""
    size = rows * measured["bytes_per_row"]
    plan = size / measured["plan_bytes_per_second"]
    # Rows are read for their types and once more to be written, with scores and as clean ones.
    by_row = measured["read_seconds_per_row"] + measured["output_seconds_per_row"]
    writing = max(rows * by_row / devices, 4 * size / assumed.bandwidth)
    return size / measured["fingerprint_bytes_per_second"] + plan, plan + writing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measured", type=Path, help="what ray_screen.py --json wrote")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64, 256, 1000])
    parser.add_argument("--tokens-per-second", type=float, default=50_000)
    parser.add_argument("--bandwidth", type=float, default=10e9)
    parser.add_argument("--spread", type=float, default=0.2)
    parser.add_argument("--slow", type=float, default=0.02)
    parser.add_argument("--mtbf", type=float, default=500)
    parser.add_argument("--replace", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    record = json.loads(arguments.measured.read_text())
    starts = [entry["start_seconds"] for entry in record["ray"]]
    measured: dict[str, float] = {**_numbers(record), "start_seconds": float(np.median(starts))}
    names = ("tokens_per_second", "bandwidth", "spread", "slow", "mtbf", "replace", "seed")
    assumed = Assumed(**{name: getattr(arguments, name) for name in names})
    windows = -(-arguments.rows // WINDOW)
    size = arguments.rows * measured["bytes_per_row"]

    print(
        f"{arguments.rows:,} rows of {measured['tokens_per_row']:.0f} tokens, "
        f"{size / 1e9:.0f} GB, in {windows:,} windows.\n\nAssumed: "
        f"{assumed.tokens_per_second:,.0f} tokens/s a device; storage "
        f"{assumed.bandwidth / 1e9:.0f} GB/s; a window's seconds spread by {assumed.spread:.0%}; "
        f"{assumed.slow:.0%} of devices twice as slow; a node of {DEVICES_PER_NODE} devices fails "
        f"every {assumed.mtbf:.0f} h and is back after {assumed.replace:.0f} s.\n\nMeasured: "
        f"driver {1000 * measured['driver_seconds_per_window']:.2f} ms a window, start-up "
        f"{measured['start_seconds']:.1f} s, reading "
        f"{1e6 * measured['read_seconds_per_row']:.0f} µs a row, writing "
        f"{1e6 * measured['output_seconds_per_row']:.0f} µs a row; fingerprint "
        f"{measured['fingerprint_bytes_per_second'] / 1e6:.0f} MB/s, plan "
        f"{measured['plan_bytes_per_second'] / 1e6:.0f} MB/s, by the driver alone.\n"
    )
    print(
        "| devices | scoring | rows/s | devices busy | driver busy | node failures | "
        "windows redone | before scoring | after | in all |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for devices in arguments.devices:
        found = simulate(devices, windows, measured, assumed)
        before, after = passes(devices, arguments.rows, measured, assumed)
        print(
            f"| {devices:,} | {found.scoring / 3600:.2f} h | "
            f"{arguments.rows / found.scoring:,.0f} | {found.busy:.1%} | {found.driver:.1%} | "
            f"{found.failures} | {found.redone} | {before / 60:.0f} min | {after / 60:.0f} min | "
            f"{(before + found.scoring + after) / 3600:.2f} h |"
        )


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, int | float)}


if __name__ == "__main__":
    main()
