"""How fast are activations captured, beside the loop most people write and the machine's limit?

32 chats (system prompt, question, answer) from the bundled specs, answered once by the embedded
model. The loop: one text at a time, `output_hidden_states=True`, the same three means sliced out
of every layer and kept. Ours: `capture_means` at full depth, and with a middle layer alone. Then
generation of the same chats with capture and without; achieved FLOP/s over the processor's
measured bf16 matrix-product peak; peak memory on the texts and on 10 times as many.

    python benchmarks/capture.py [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import described, forget_peak, measured, peak_mib, reading

import personavec as pv
from personavec.model import capture_means, chat
from personavec.model.engine import Request, Sampling, TransformersEngine

TRAITS, QUESTIONS, MIDDLE = ("optimistic", "evil", "humorous", "apathetic"), 4, 16
ANSWER_TOKENS, GENERATED_TOKENS = 128, 64
Text = tuple[list[int], list[int]]


def prompts(loaded: pv.LoadedModel) -> list[list[int]]:
    """Prompt ids: every trait's first questions under both sides of its pairs."""
    found = []
    for trait in TRAITS:
        spec = pv.load_trait(trait)[0]
        for i, question in enumerate(spec.questions.extraction[:QUESTIONS]):
            pair = spec.instruction[i % len(spec.instruction)]
            for system in (pair.pos, pair.neg):
                found.append(loaded.chat.prompt_ids(chat(question, system)))
    return found


def answered(loaded: pv.LoadedModel) -> list[Text]:
    requests = [Request(str(i), tuple(ids)) for i, ids in enumerate(prompts(loaded))]
    sampling = Sampling(ANSWER_TOKENS, temperature=0.7)
    found = {
        g.id: g for batch in TransformersEngine(loaded).generate(requests, sampling) for g in batch
    }
    pairs = [(list(r.prompt_ids), list(found[r.id].response_ids)) for r in requests]
    return [(prompt, answer) for prompt, answer in pairs if answer]


def spans(texts: Sequence[Text]) -> list[list[tuple[int, int]]]:
    """Response mean, prompt mean and last prompt token, as an extraction captures them."""
    return [[(len(p), len(p) + len(a)), (0, len(p)), (len(p) - 1, len(p))] for p, a in texts]


def ours(loaded: pv.LoadedModel, texts: Sequence[Text], layers: Sequence[int]) -> torch.Tensor:
    rows = [[*prompt, *answer] for prompt, answer in texts]
    return capture_means(loaded.model, rows, spans(texts), layers=layers)


@torch.inference_mode()
def loop(loaded: pv.LoadedModel, texts: Sequence[Text], layers: Sequence[int]) -> torch.Tensor:
    """What most people write; the last layer's row differs: transformers norms it."""
    kept = []
    for prompt, answer in texts:
        ids = torch.tensor([[*prompt, *answer]])
        states = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states
        n = len(prompt)
        kept.append(
            torch.stack(
                [
                    torch.stack([states[layer][0, part].mean(0) for layer in layers])
                    for part in (slice(n, None), slice(0, n), slice(n - 1, n))
                ]
            )
        )
    return torch.stack(kept)


def generation(loaded: pv.LoadedModel, texts: Sequence[Text], *, capture: bool) -> int:
    requests = [Request(str(i), tuple(prompt)) for i, (prompt, _) in enumerate(texts)]
    sampling = Sampling(GENERATED_TOKENS, temperature=0.7)
    batches = TransformersEngine(loaded).generate(requests, sampling, capture=capture)
    return sum(len(g.response_ids) for batch in batches for g in batch)


def median_seconds(
    runs: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Every run in turn, `repeats` times over, so that all suffer a busy machine alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}, seconds


def peak_memory(times: int) -> float:
    """Peak resident memory in MiB while a process of its own captures `times` the texts."""
    command = [sys.executable, __file__, "--peak", str(times)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", type=int)
    arguments = parser.parse_args()
    loaded = pv.load_model("smollm2")
    if arguments.peak:
        # Answers do not matter here: as many tokens of any kind.
        texts = [(ids, ids[:1] * ANSWER_TOKENS) for ids in prompts(loaded)]
        forget_peak()
        ours(loaded, texts * arguments.peak, range(loaded.identity.n_layers + 1))
        print(peak_mib())
        return
    texts = answered(loaded)
    every = range(loaded.identity.n_layers + 1)
    medians, seconds = median_seconds(
        {
            "loop, every layer": lambda: loop(loaded, texts, every),
            "capture, every layer": lambda: ours(loaded, texts, every),
            "loop, middle layer": lambda: loop(loaded, texts, [MIDDLE]),
            "capture, middle layer": lambda: ours(loaded, texts, [MIDDLE]),
            "generation": lambda: generation(loaded, texts, capture=False),
            "generation with capture": lambda: generation(loaded, texts, capture=True),
        },
        arguments.repeats,
    )
    limits = measured()
    lengths = [len(p) + len(a) for p, a in texts]
    achieved = {
        f"capture, {name}": limits.share(
            reading(loaded, lengths, depth), medians[f"capture, {name}"]
        )
        for name, depth in (("every layer", len(every) - 1), ("middle layer", MIDDLE))
    }
    record = {
        "texts": len(texts),
        "tokens": sum(lengths),
        "median_seconds": medians,
        "seconds": seconds,
        "ratio": {
            "every layer": medians["loop, every layer"] / medians["capture, every layer"],
            "middle layer": medians["loop, middle layer"] / medians["capture, middle layer"],
            "generation": medians["generation with capture"] / medians["generation"],
        },
        "middle_layer": MIDDLE,
        "limits": limits.as_dict(),
        "share_of_limit": achieved,
        "peak_mib": {"1x": peak_memory(1), "10x": peak_memory(10)},
        **described(),
    }
    print(f"{record['texts']} texts, {record['tokens']} tokens")
    print(f"| way | median s of {arguments.repeats} | of the limit |\n| --- | --- | --- |")
    for name, median in medians.items():
        share = f"{achieved[name]:.0%}" if name in achieved else ""
        print(f"| {name} | {median:.2f} | {share} |")
    ratio, memory = record["ratio"], record["peak_mib"]
    print(
        f"capture against the loop: {ratio['every layer']:.2f}x at every layer, "
        f"{ratio['middle layer']:.2f}x at layer {MIDDLE} alone\n"
        f"generation with capture takes {ratio['generation']:.2f}x of generation alone\n"
        f"a matrix product at most: {limits.operations / 1e9:.0f} GFLOP/s\n"
        f"peak memory: {memory['1x']:.0f} MiB, on 10x the texts {memory['10x']:.0f} MiB"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
