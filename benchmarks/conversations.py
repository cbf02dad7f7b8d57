"""What keeping beginnings saves a server: 16 conversations of four turns, one system prompt.

16 clients talk at once, each four turns, after a common system prompt of 400 tokens; replies of 24
greedy tokens are streamed. One server keeps the keys and values of what it has read
(`--prefix-cache`), the other, the baseline, reads every prompt anew. They take turns within each
repeat. Measured: the time to the first token, and the time for all.

    python benchmarks/conversations.py [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2 as httpx
import numpy as np
from machine import described
from serve import ratio

import personavec as pv
from personavec.model import chat
from personavec.serve import ServeConfig
from personavec.serve.server import serving

CLIENTS, TURNS, SYSTEM_TOKENS, TOKENS = 16, 4, 400, 24
WORDS = "You are a patient guide to a small museum of clocks, and you never make anything up. "
WAYS = {"kept": 512, "read anew": 0}


def converse(loaded: pv.LoadedModel, url: str, questions: Sequence[str]) -> list[float]:
    """Hold all conversations. Returns the seconds to each reply's first token."""
    ids = loaded.tokenizer(WORDS * 40, add_special_tokens=False)["input_ids"][:SYSTEM_TOKENS]
    system = loaded.chat.decode(ids)
    first: list[float] = []

    async def one(client: httpx.AsyncClient, number: int) -> None:
        messages = chat(questions[number], system)
        for turn in range(TURNS):
            body = {
                "model": "smollm2",
                "temperature": 0,
                "max_tokens": TOKENS,
                "stream": True,
                "messages": messages,
            }
            reply = await streamed(client, url, body, first)
            question = questions[(number + turn + 1) % len(questions)]
            messages += [
                {"role": "assistant", "content": reply},
                {"role": "user", "content": question},
            ]

    async def all_at_once() -> None:
        async with httpx.AsyncClient(timeout=600) as client:
            await asyncio.gather(*(one(client, number) for number in range(CLIENTS)))

    asyncio.run(all_at_once())
    return first


async def streamed(client: httpx.AsyncClient, url: str, body: dict, first: list[float]) -> str:
    """A reply's text; the seconds to its first chunk are added to `first`."""
    start, text, waits = time.perf_counter(), "", True
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            if waits:
                first.append(time.perf_counter() - start)
                waits = False
            for choice in json.loads(line.removeprefix("data: ")).get("choices", ()):
                text += choice["delta"].get("content") or ""
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    loaded = pv.load_model("smollm2")
    questions = pv.load_trait("optimistic")[0].questions.evaluation[:CLIENTS]
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    first: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.repeats):
        for way, size in WAYS.items():
            settings = ServeConfig(name="smollm2", rows=CLIENTS, prefix_cache=size)
            with serving(loaded, {}, settings) as (url, _):
                start = time.perf_counter()
                first[way].append(converse(loaded, url, questions))
                seconds[way].append(time.perf_counter() - start)
    medians = {way: [float(np.median(own)) for own in found] for way, found in first.items()}
    record = {
        "clients": CLIENTS,
        "turns": TURNS,
        "system_tokens": SYSTEM_TOKENS,
        "tokens": TOKENS,
        "repeats": arguments.repeats,
        "seconds": seconds,
        "first_token_p50": medians,
        "ratios": {
            "first token": ratio(medians["read anew"], medians["kept"]),
            "all": ratio(seconds["read anew"], seconds["kept"]),
        },
        **described(),
    }
    for way in WAYS:
        p50, whole = statistics.median(medians[way]), statistics.median(seconds[way])
        print(f"{way}: first token after {p50:.2f} s (p50), all after {whole:.1f} s")
    for name, (middle, low, high) in record["ratios"].items():
        print(
            f"read anew / kept, {name}: {middle:.2f} (range over repeats {low:.2f} to {high:.2f})"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
