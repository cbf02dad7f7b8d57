"""Does one mixed batch of steering configurations beat a `generate` call per configuration?

20 configurations (5 layers x 4 coefficients) x 5 questions, 64 greedy tokens each. Baseline:
transformers' `generate` under a plain forward hook, once per configuration, its 5 questions in
one left-padded batch. Also: peak memory on the same work and on 10 times the texts.

    python benchmarks/mixed_batch.py [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import described, forget_peak, generating, measured, peak_mib

import personavec as pv
from personavec.model import Steering, chat, padded
from personavec.model.engine import Request, Sampling, TransformersEngine
from personavec.vectors import random_directions

LAYERS, COEFFICIENTS, TOKENS, BUDGET = (10, 13, 16, 19, 22), (-2.0, -1.0, 1.0, 2.0), 64, 8192
DOSE = 20.0


def workload(loaded: pv.LoadedModel, times: int = 1):
    questions = pv.load_trait("optimistic")[0].questions.evaluation[:5]
    prompts = [tuple(loaded.chat.prompt_ids(chat(q))) for q in questions]
    directions = random_directions(
        torch.ones(loaded.identity.hidden_size) / loaded.identity.hidden_size**0.5, 5, seed=0
    )
    return [
        [
            Request(f"{n}-{layer}-{c}-{i}", ids, (Steering(layer, DOSE * direction, c),))
            for i, ids in enumerate(prompts)
        ]
        for n in range(times)
        for layer, direction in zip(LAYERS, directions, strict=True)
        for c in COEFFICIENTS
    ]


def mixed(loaded: pv.LoadedModel, cells) -> list[int]:
    """Every response's tokens."""
    requests = [request for cell in cells for request in cell]
    sampling = Sampling(TOKENS, temperature=0)
    found = [
        g
        for batch in TransformersEngine(loaded, BUDGET).generate(requests, sampling)
        for g in batch
    ]
    return [len(g.response_ids) for g in found]


def one_call_each(loaded: pv.LoadedModel, cells) -> list[int]:
    tokens: list[int] = []
    for cell in cells:
        ids, mask, _ = padded([r.prompt_ids for r in cell], pad_id=0, side="left", device="cpu")
        steering = cell[0].steering[0]
        addition = (steering.coefficient * steering.direction).to(torch.bfloat16)

        def hook(module, args, output, addition=addition):
            return output + addition

        handle = loaded.blocks.stack[steering.layer - 1].register_forward_hook(hook)
        with torch.inference_mode():
            out = loaded.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=loaded.tokenizer.pad_token_id,
            )
        handle.remove()
        stops = torch.tensor(sorted(loaded.stop_ids))
        tokens += (~torch.isin(out[:, ids.shape[1] :], stops)).sum(1).tolist()
    return tokens


def peak_memory(times: int) -> float:
    """Peak resident memory in MiB of the mixed run on `times` the texts, in its own process."""
    command = [sys.executable, __file__, "--peak", str(times)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", type=int)
    arguments = parser.parse_args()
    loaded = pv.load_model("smollm2")
    if arguments.peak:
        forget_peak()
        mixed(loaded, workload(loaded, arguments.peak))
        print(peak_mib())
        return
    cells = workload(loaded)
    seconds: dict[str, list[float]] = {"mixed": [], "one call each": []}
    lengths: dict[str, list[int]] = {}
    for run in (mixed, one_call_each):
        run(loaded, cells[:1])  # warm up
    for _ in range(arguments.repeats):
        for name, run in (("mixed", mixed), ("one call each", one_call_each)):
            start = time.perf_counter()
            lengths[name] = run(loaded, cells)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    tokens = {name: sum(found) for name, found in lengths.items()}
    limits = measured()
    prompts = [len(request.prompt_ids) for cell in cells for request in cell]
    shares = {
        name: limits.share(generating(loaded, prompts, lengths[name]), medians[name])
        for name in medians
    }
    rates = {name: tokens[name] / medians[name] for name in medians}
    record = {
        "configurations": len(cells),
        "questions": len(cells[0]),
        "tokens": tokens,
        "seconds": seconds,
        "median_seconds": medians,
        "tokens_per_second": rates,
        "share_of_limit": shares,
        "limits": limits.as_dict(),
        "ratio": medians["one call each"] / medians["mixed"],
        "ratio_per_token": rates["mixed"] / rates["one call each"],
        "batch_tokens": BUDGET,
        "peak_mib": {"1x": peak_memory(1), "10x": peak_memory(10)},
        **described(),
    }
    print(f"| way | median s of {arguments.repeats} | tokens/s | of the limit |")
    print("| --- | --- | --- | --- |")
    for name in medians:
        print(f"| {name} | {medians[name]:.1f} | {rates[name]:.0f} | {shares[name]:.0%} |")
    print(
        f"ratio of times {record['ratio']:.2f}, of tokens per second "
        f"{record['ratio_per_token']:.2f}"
    )
    print(
        f"peak memory: {record['peak_mib']['1x']:.0f} MiB, on 10x the texts "
        f"{record['peak_mib']['10x']:.0f} MiB"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
