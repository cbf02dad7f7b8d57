"""Does vLLM generate faster than the transformers engine, what do steering and capture cost it, and
what does prefix caching give?

Extraction's work: the questions of a trait under both sides of every instruction pair, as many
tokens as an extraction generates. Measured: the transformers engine and vLLM on it, both with
capture of all layers; vLLM alone without anything, with another steering of another layer in
every request, with capture of all layers, and with both; and vLLM without prefix caching, without
anything and with capture. The ways take turns; the cache is empty when one begins. With others at
work on the machine, compare tokens per CPU second of all processes, not tokens per second.

    .venv-vllm/bin/python benchmarks/vllm_engine.py [--requests 160] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from machine import described, generating, measured

import personavec as pv
from personavec.model import Steering
from personavec.model.engine import Engine, Request, Sampling, TransformersEngine, VllmEngine
from personavec.rollouts import elicitation_tasks, prompt_ids
from personavec.vectors import random_directions

SAMPLING = Sampling(max_tokens=64, temperature=0.7)


def workload(loaded: pv.LoadedModel, n: int) -> list[Request]:
    """The first `n` requests of an extraction."""
    spec = pv.load_trait("optimistic")[0]
    tasks = elicitation_tasks(spec, spec.questions.extraction, 1)
    every = max(1, len(tasks) // n)
    return [Request(task.id, prompt_ids(loaded, task)) for task in tasks[::every][:n]]


def steered(loaded: pv.LoadedModel, requests: list[Request]) -> list[Request]:
    """The same, each with a small random direction of its own at a layer of its own.

    Small, so that answers do not become longer or shorter.
    """
    like = torch.ones(loaded.identity.hidden_size) / loaded.identity.hidden_size**0.5
    directions = random_directions(like, len(requests), seed=0)
    layers = loaded.identity.n_layers
    return [
        replace(r, steering=(Steering(1 + i % layers, directions[i], 1.0),))
        for i, r in enumerate(requests)
    ]


def generated(engine: Engine, requests: list[Request], *, capture: bool) -> list[int]:
    """Every response's tokens."""
    groups = engine.generate(requests, SAMPLING, capture=capture)
    return [len(g.response_ids) for group in groups for g in group]


def vllm_engines(loaded: pv.LoadedModel) -> tuple[VllmEngine, VllmEngine]:
    """With prefix caching, and without it and with vLLM's own block size."""
    shared = {"gpu_memory_utilization": 0.4} if loaded.device.type == "cuda" else {}
    plain: dict[str, bool | int] = {"enable_prefix_caching": False}
    if loaded.device.type == "cpu":
        plain["block_size"] = 128
    return VllmEngine(loaded, shared), VllmEngine(loaded, {**shared, **plain})


def cpu_seconds() -> float:
    """Of this process and all below it."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    loaded = pv.load_model(arguments.model)
    ours = TransformersEngine(loaded)
    theirs, uncached = vllm_engines(loaded)
    plain = workload(loaded, arguments.requests)
    other = steered(loaded, plain)
    ways: dict[str, Callable[[], list[int]]] = {
        "transformers, capture": lambda: generated(ours, plain, capture=True),
        "vllm": lambda: generated(theirs, plain, capture=False),
        "vllm, steering": lambda: generated(theirs, other, capture=False),
        "vllm, capture": lambda: generated(theirs, plain, capture=True),
        "vllm, steering and capture": lambda: generated(theirs, other, capture=True),
        "vllm without caching": lambda: generated(uncached, plain, capture=False),
        "vllm without caching, capture": lambda: generated(uncached, plain, capture=True),
    }
    generated(ours, plain[:8], capture=True)  # warm up
    for engine in (theirs, uncached):
        generated(engine, other, capture=True)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    lengths: dict[str, list[int]] = {}
    for _ in range(arguments.repeats):
        for way, run in ways.items():
            theirs._engine.reset_prefix_cache()
            start, start_cpu = time.perf_counter(), cpu_seconds()
            lengths[way] = run()
            rates[way].append(sum(lengths[way]) / (time.perf_counter() - start))
            cpu[way].append(sum(lengths[way]) / (cpu_seconds() - start_cpu))
    medians = {way: statistics.median(found) for way, found in rates.items()}
    limits = measured(loaded.device)
    prompts = [len(request.prompt_ids) for request in plain]
    shares = {
        way: limits.share(generating(loaded, prompts, found), sum(found) / medians[way])
        for way, found in lengths.items()
    }
    base = medians["vllm"]
    medians_cpu = {way: statistics.median(found) for way, found in cpu.items()}
    ratios = {
        "caching over none": base / medians["vllm without caching"],
        "caching over none, capture": medians["vllm, capture"]
        / medians["vllm without caching, capture"],
        "vllm, capture, over transformers, capture": medians["vllm, capture"]
        / medians["transformers, capture"],
        "steering over none": medians["vllm, steering"] / base,
        "capture over none": medians["vllm, capture"] / base,
        "steering and capture over none": medians["vllm, steering and capture"] / base,
    }
    record = {
        "requests": len(plain),
        "max_tokens": SAMPLING.max_tokens,
        "prompt_tokens": sum(prompts),
        "tokens_per_second": rates,
        "median_tokens_per_second": medians,
        "tokens_per_cpu_second": cpu,
        "median_tokens_per_cpu_second": medians_cpu,
        "share_of_limit": shares,
        "limits": limits.as_dict(),
        "ratios": ratios,
        "model": loaded.identity.as_dict(),
        "engine": theirs.describe(),
        **described(loaded.device),
    }
    print(
        f"| way | response tokens/s, median of {arguments.repeats} | per CPU second | of the limit "
        "| runs |"
    )
    print("| --- | --- | --- | --- | --- |")
    for way, found in rates.items():
        runs = ", ".join(f"{rate:.0f}" for rate in found)
        print(
            f"| {way} | {medians[way]:.0f} | {medians_cpu[way]:.0f} | {shares[way]:.0%} | {runs} |"
        )
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    theirs.close()
    uncached.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
