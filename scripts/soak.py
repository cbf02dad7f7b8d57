"""Ten thousand short requests with cancels, malformed bodies and time-outs; one table at the end.

Every reply is checked against its own request: greedy replies of known prompts are known. Some
requests are steered, so a mix-up of rows would show. Asks a server that runs already, whose
process is watched for memory:

    personavec serve --port 8000 &
    python scripts/soak.py http://127.0.0.1:8000 --pid $! --json out/soak.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2 as httpx

TOPICS = (
    "rain",
    "bread",
    "trains",
    "chess",
    "gardens",
    "the sea",
    "paper",
    "clocks",
    "maps",
    "tea",
)
BROKEN = (
    b"{",
    b"[]",
    b'{"model": 3}',
    b"\xff",
    b'{"model": "smollm2", "messages": [{"role": "user", "content": 1}]}',
)


def body(number: int) -> dict[str, Any]:
    """One of eighty requests whose greedy replies are known after being asked once alone."""
    kind = number % 80
    asked: dict[str, Any] = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": f"Say something about {TOPICS[kind % 10]}."}],
        "temperature": 0,
        "max_tokens": 4 + 4 * (kind // 10 % 4),
    }
    if kind >= 40:
        asked["personavec"] = {"steer": [{"vector": "humorous", "coefficient": 1.0}]}
    return asked


def memory(pid: int) -> float:
    """Resident memory in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} tells no memory")


class Soak:
    def __init__(self, url: str, client: httpx.AsyncClient):
        self.url, self.client = f"{url}/v1/chat/completions", client
        self.known: dict[str, set[str]] = {}
        self.counts: Counter[str] = Counter()

    async def text(self, asked: dict[str, Any]) -> str:
        while True:
            reply = await self.client.post(self.url, json=asked)
            if reply.status_code != 429:
                break
            self.counts["sent away (429), asked again"] += 1
            await asyncio.sleep(float(reply.headers["retry-after"]) * random.random())
        return reply.raise_for_status().json()["choices"][0]["message"]["content"]

    async def whole(self, number: int) -> None:
        asked = body(number)
        self.check(asked, await self.text(asked))

    def check(self, asked: dict[str, Any], text: str) -> None:
        """A neighbour may turn a near tie by rounding: such replies are counted apart.

        A reply that belongs to another prompt is a mix-up: it equals none of its own known ones
        and begins as another request's does.
        """
        known = self.known[json.dumps(asked)]
        if text in known:
            self.counts["right"] += 1
        elif any(text in other for other in self.known.values()):
            self.counts["MIXED UP"] += 1
        else:
            self.counts["turned by rounding"] += 1
            known.add(text)

    async def stream(self, number: int, leave: bool) -> None:
        asked = body(number)
        text = ""
        async with self.client.stream("POST", self.url, json={**asked, "stream": True}) as reply:
            if reply.status_code == 429:
                self.counts["sent away (429)"] += 1
                return
            async for line in reply.aiter_lines():
                if leave and text:
                    self.counts["left in mid-stream"] += 1
                    return
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        text += choice["delta"].get("content") or ""
        self.check(asked, text)

    async def broken(self) -> None:
        headers = {"Content-Type": "application/json"}
        reply = await self.client.post(self.url, content=random.choice(BROKEN), headers=headers)
        right = reply.status_code == 400 and "message" in reply.json()["error"]
        self.counts["malformed, refused" if right else "MALFORMED, NOT REFUSED"] += 1

    async def timed_out(self, number: int) -> None:
        try:
            reply = await self.client.post(self.url, json=body(number), timeout=0.05)
            self.counts["answered before the client's time-out"] += reply.status_code == 200
        except httpx.TimeoutException:
            self.counts["client timed out"] += 1

    async def one(self, number: int) -> None:
        chance = random.random()
        try:
            if chance < 0.1:
                await self.stream(number, leave=True)
            elif chance < 0.15:
                await self.broken()
            elif chance < 0.2:
                await self.timed_out(number)
            elif chance < 0.5:
                await self.stream(number, leave=False)
            else:
                await self.whole(number)
        except httpx.HTTPError as error:
            self.counts[f"LOST: {type(error).__name__}"] += 1


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    random.seed(0)
    limits = httpx.Limits(max_connections=2 * arguments.clients)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        soak = Soak(arguments.url, client)
        for number in range(80):
            asked = body(number)
            soak.known[json.dumps(asked)] = {await soak.text(asked)}
        numbers = iter(range(arguments.requests))
        at: dict[int, float] = {}
        began = time.monotonic()

        async def keep_asking() -> None:
            for number in numbers:
                if number % max(1, arguments.requests // 10) == 0:
                    at[number] = memory(arguments.pid)
                    print(f"{number} requests, {at[number]:.0f} MiB", flush=True)
                await soak.one(number)

        await asyncio.gather(*(keep_asking() for _ in range(arguments.clients)))
        for _ in range(100):
            left = (await client.get(f"{arguments.url}/healthz")).json()["open"]
            if not left:
                break
            await asyncio.sleep(0.1)
    print(f"\n| what | n of {arguments.requests} |\n| --- | --- |")
    for name, n in sorted(soak.counts.items()):
        print(f"| {name} | {n} |")
    print(f"| places still held at the end | {left} |")
    seconds = time.monotonic() - began
    print(f"\nmemory: {', '.join(f'{m:.0f}' for m in at.values())} MiB")
    print(f"{seconds:.0f} s")
    if arguments.json:
        record = {
            "requests": arguments.requests,
            "clients": arguments.clients,
            "counts": soak.counts,
            "held_at_the_end": left,
            "memory_mib": list(at.values()),
            "seconds": seconds,
        }
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
