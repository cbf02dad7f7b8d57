"""What serving costs: 16 clients over HTTP beside transformers' `generate` on the same prompts.

Plain `generate` in one batch of 16, the server without readings, with readings for all seven
traits, and with half of the requests steered; 100 greedy tokens a reply, end-of-turn tokens not
allowed to end one (batches would differ). The ways take turns within each repeat, so that changes
of the machine's speed affect all of them. Also the time to the first token, streamed, under the
same load.

    python benchmarks/serve.py [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import torch
from machine import described, generating, measured

import personavec as pv
from personavec.model import chat, padded
from personavec.serve import ServeConfig
from personavec.serve.server import serving
from personavec.vectors import bundled_vectors

CLIENTS, TOKENS = 16, 100


def bodies(questions: Sequence[str], **more: Any) -> list[dict[str, Any]]:
    common = {"model": "smollm2", "temperature": 0, "max_tokens": TOKENS, **more}
    return [{**common, "messages": chat(question)} for question in questions]


def ask_all(url: str, asked: list[dict[str, Any]]) -> list[float]:
    """Send all at once. Returns the seconds to each reply's first chunk, if streamed."""
    first: list[float] = []

    async def one(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        start = time.perf_counter()
        target = f"{url}/v1/chat/completions"
        if not body.get("stream"):
            reply = (await client.post(target, json=body)).raise_for_status().json()
            assert reply["usage"]["completion_tokens"] == TOKENS
            return
        async with client.stream("POST", target, json=body) as reply:
            waits = True
            async for line in reply.aiter_lines():
                if waits and line.startswith("data: "):
                    first.append(time.perf_counter() - start)
                    waits = False

    async def all_at_once() -> None:
        async with httpx.AsyncClient(timeout=600) as client:
            await asyncio.gather(*(one(client, body) for body in asked))

    asyncio.run(all_at_once())
    return first


def plain(loaded: pv.LoadedModel, prompts: list[tuple[int, ...]]) -> None:
    ids, mask, _ = padded(prompts, pad_id=0, side="left", device=loaded.device)
    with torch.inference_mode():
        out = loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
    assert out.shape[1] == ids.shape[1] + TOKENS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    loaded = endless(pv.load_model("smollm2"))
    vectors = {name: pv.load_vector(name) for name in bundled_vectors()}
    questions = pv.load_trait("optimistic")[0].questions.evaluation[:CLIENTS]
    prompts = [tuple(loaded.chat.prompt_ids(chat(question))) for question in questions]
    steered = bodies(questions)
    for body in steered[::2]:
        body["personavec"] = {"steer": [{"vector": "optimistic", "coefficient": 1}]}
    streamed = bodies(questions, stream=True)
    seconds: dict[str, list[float]] = {}
    first: list[float] = []

    def timed(name: str, run: Any) -> None:
        start = time.perf_counter()
        run()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    settings = ServeConfig(name="smollm2", rows=CLIENTS)
    with serving(loaded, {}, settings) as (bare, _):
        plain(loaded, prompts)  # warm up
        ask_all(bare, bodies(questions))
        for _ in range(arguments.repeats):
            timed("generate", lambda: plain(loaded, prompts))
            timed("served", lambda: ask_all(bare, bodies(questions)))
            # Readings hook the model, so the server that reads is up for its own turns only.
            with serving(loaded, vectors, settings) as (full, _):
                ask_all(full, bodies(questions))  # warm up, as the other one is
                timed("readings", lambda: ask_all(full, bodies(questions)))
                timed("readings, half steered", lambda: ask_all(full, steered))
                first += ask_all(full, streamed)
    rates = {name: CLIENTS * TOKENS / statistics.median(values) for name, values in seconds.items()}
    ratios = {
        "served / generate": ratio(seconds["generate"], seconds["served"]),
        "readings / served": ratio(seconds["served"], seconds["readings"]),
        "half steered / readings": ratio(seconds["readings"], seconds["readings, half steered"]),
    }
    limits = measured()
    work = generating(loaded, [len(prompt) for prompt in prompts], [TOKENS] * CLIENTS)
    shares = {
        name: limits.share(work, statistics.median(values)) for name, values in seconds.items()
    }
    record = {
        "clients": CLIENTS,
        "tokens": TOKENS,
        "repeats": arguments.repeats,
        "seconds": seconds,
        "tokens_per_second": rates,
        "share_of_limit": shares,
        "limits": limits.as_dict(),
        "ratios": ratios,
        "first_token_seconds": {
            "p50": float(np.quantile(first, 0.5)),
            "p99": float(np.quantile(first, 0.99)),
            "n": len(first),
        },
        **described(),
    }
    print(f"| way | tokens/s, median of {arguments.repeats} | of the limit |\n| --- | --- | --- |")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} | {shares[name]:.0%} |")
    for name, (middle, low, high) in ratios.items():
        print(f"throughput, {name}: {middle:.3f} (range over repeats {low:.3f} to {high:.3f})")
    found = record["first_token_seconds"]
    print(f"first token, {found['n']} streams: p50 {found['p50']:.2f} s, p99 {found['p99']:.2f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


def ratio(before: list[float], after: list[float]) -> tuple[float, float, float]:
    """Median and range of the ratios within each repeat."""
    found = sorted(b / a for b, a in zip(before, after, strict=True))
    return statistics.median(found), found[0], found[-1]


def endless(loaded: pv.LoadedModel) -> pv.LoadedModel:
    """The model with an end-of-turn token that it never writes: an unused one."""
    unused = loaded.tokenizer.convert_tokens_to_ids("<reponame>")
    loaded.model.generation_config.eos_token_id = unused
    tokenizer = loaded.tokenizer
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(unused)
    loaded.chat.turn_end = None  # the template's own token ends replies too
    return replace(loaded, tokenizer=tokenizer)


if __name__ == "__main__":
    main()
