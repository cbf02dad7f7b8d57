"""What preventative steering adds to a training step of the embedded model.

Each pair is one step without and one with steering on the same rows, in alternating order, so
that other load on the machine affects both. Prints the median ratio with its interval.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from machine import described, measured, training
from peft import LoraConfig, get_peft_model

import personavec as pv
from personavec.stats import clustered_bootstrap

ROWS, TOKENS, PROMPT = 4, 110, 44


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    loaded = pv.load_model("smollm2")
    config = LoraConfig(r=16, lora_alpha=64, use_rslora=True, target_modules="all-linear")
    model = get_peft_model(loaded.model, config)
    model.train()
    steering = pv.PreventativeSteering(model, pv.load_vector("evil"), 2.0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 40000, (ROWS, TOKENS), generator=generator)
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def step(steered: bool) -> float:
        started = time.perf_counter()
        with steering if steered else nullcontext():
            model(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    for steered in (False, True):
        step(steered)
    pairs = []
    for number in range(given.pairs):
        order = (False, True) if number % 2 else (True, False)
        times = {steered: step(steered) for steered in order}
        pairs.append((times[False], times[True]))
    plain, steered = np.array(pairs).T
    ratio = clustered_bootstrap(
        steered / plain, list(range(len(pairs))), statistic=lambda v: float(np.median(v))
    )
    limits = measured()
    share = limits.share(training(loaded, [TOKENS] * ROWS), float(np.median(steered)))
    print(f"{'step':<24}{'median s':>10}")
    print(f"{'plain':<24}{np.median(plain):>10.3f}")
    print(f"{'preventative steering':<24}{np.median(steered):>10.3f}")
    print(f"ratio {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {len(pairs)} pairs")
    print(f"{share:.0%} of the limit")
    if given.json:
        record = {
            "plain": float(np.median(plain)),
            "steered": float(np.median(steered)),
            "ratio": {"value": ratio.value, "low": ratio.low, "high": ratio.high},
            "pairs": len(pairs),
            "rows": ROWS,
            "tokens": TOKENS,
            "share_of_limit": share,
            "limits": limits.as_dict(),
            **described(),
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
