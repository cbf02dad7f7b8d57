"""A server under clients that cancel, send malformed bodies, are slow, or give up.

Every reply is checked against its own request. Replies are greedy, so most equal what the same
request is answered alone; rounding differs between batches and turns near ties, so that the others
are read by the model afterwards: no token may be more than half a nat behind the choice that the
model makes under the request's own prompt and steering. How far behind a reply is under another's
request is the control. The server's process is watched for memory.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import torch

import personavec as pv
from personavec.model import SteeringBatch, steering_rows, vector_steering

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


#: Of requests: topics, lengths, steered and not.
KINDS = 80
#: Nats by which rounding may turn a choice.
TIE = 0.5
CLIENTS = 32
#: How often memory is read.
MEMORIES = 10


def body(number: int) -> dict[str, Any]:
    """One of eighty requests."""
    kind = number % KINDS
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


@dataclass(frozen=True)
class Reply:
    """What the request of one kind was answered, and why the reply ended."""

    kind: int
    text: str
    finish: str | None


@torch.inference_mode()
def behind(loaded: pv.LoadedModel, vector: pv.PersonaVector, reply: Reply, kind: int) -> float:
    """The most nats that a token of a reply is behind the greedy choice of a kind of request."""
    asked = body(kind)
    prompt = loaded.chat.prompt_ids(asked["messages"])
    response = loaded.chat.response_ids(reply.text)
    if reply.finish == "stop":
        response = [*response, loaded.tokenizer.eos_token_id]
    if not response:
        return float("inf")
    ids = torch.tensor([[*prompt, *response[:-1]]])
    steered = asked.get("personavec", {}).get("steer", [])
    actions = [a for s in steered for a in vector_steering(vector, s["coefficient"])]
    batch = SteeringBatch([actions], loaded.identity.hidden_size, loaded.identity.n_layers)
    mask = torch.zeros_like(ids)
    mask[:, len(prompt) - 1 :] = 1
    batch.token_masks = {"response": mask, "prompt": 1 - mask, "all": torch.ones_like(ids)}
    with steering_rows(loaded.model, batch):
        logits = loaded.model(input_ids=ids).logits[0, len(prompt) - 1 :].float()
    chosen = logits.gather(-1, torch.tensor(response)[:, None])[:, 0]
    return float((logits.amax(-1) - chosen).max())


class Soak:
    def __init__(self, url: str, client: httpx.AsyncClient):
        self.url, self.client = f"{url}/v1/chat/completions", client
        self.alone: dict[int, Reply] = {}
        self.replies: Counter[Reply] = Counter()
        self.counts: Counter[str] = Counter()

    async def reply(self, number: int) -> Reply:
        asked = body(number)
        while True:
            reply = await self.client.post(self.url, json=asked)
            if reply.status_code != 429:
                break
            self.counts["sent away (429), asked again"] += 1
            await asyncio.sleep(float(reply.headers["retry-after"]) * random.random())
        [choice] = reply.raise_for_status().json()["choices"]
        return Reply(number % KINDS, choice["message"]["content"], choice["finish_reason"])

    async def whole(self, number: int) -> None:
        self.replies[await self.reply(number)] += 1

    async def stream(self, number: int, leave: bool) -> None:
        asked = body(number)
        text, finish = "", None
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
                        finish = choice["finish_reason"] or finish
        self.replies[Reply(number % KINDS, text, finish)] += 1

    async def broken(self) -> None:
        headers = {"Content-Type": "application/json"}
        reply = await self.client.post(self.url, content=random.choice(BROKEN), headers=headers)
        right = reply.status_code == 400 and "message" in reply.json()["error"]
        self.counts["malformed, refused" if right else "MALFORMED BUT NOT REFUSED"] += 1

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
            elif chance < 0.23:
                await self.slow()
            elif chance < 0.5:
                await self.stream(number, leave=False)
            else:
                await self.whole(number)
        except (httpx.HTTPError, OSError) as error:
            self.counts[f"LOST: {type(error).__name__}"] += 1

    def judge(self) -> dict[str, float]:
        """Count the replies by what the model says of them. Returns the distances."""
        loaded, vector = pv.load_model("smollm2"), pv.load_vector("humorous")
        most, least = 0.0, float("inf")
        for reply, n in self.replies.items():
            if reply.finish not in ("stop", "length"):
                self.counts["CUT SHORT"] += n
                continue
            if reply == self.alone[reply.kind]:
                self.counts["as asked alone"] += n
                continue
            distance = behind(loaded, vector, reply, reply.kind)
            self.counts["MIXED UP" if distance > TIE else "a near tie turned by rounding"] += n
            most = max(most, distance)
        for reply in self.alone.values():
            # The next topic's request, alike in all else.
            other = reply.kind + 1 if reply.kind % 10 < 9 else reply.kind - 9
            least = min(least, behind(loaded, vector, reply, other))
        return {
            "most, of replies unlike those asked alone": most,
            "most, of those asked alone": max(
                behind(loaded, vector, reply, kind) for kind, reply in self.alone.items()
            ),
            "least, of those asked alone under another topic's request": least,
        }

    async def slow(self) -> None:
        """Send a request byte by byte, and leave before its end."""
        address = urlsplit(self.url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            for byte in b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
            self.counts["slow, left before the end"] += 1
        except ConnectionError:
            self.counts["slow, closed by the server"] += 1
        finally:
            writer.close()


@dataclass(frozen=True)
class Served:
    """What a server was asked, and what came of it."""

    requests: int
    counts: Counter[str]
    nats_behind: dict[str, float]
    held_at_the_end: int
    memory_mib: list[float]
    seconds: float

    @property
    def wrong(self) -> bool:
        """Was a request lost, mixed up or cut, or is a place still held?"""
        return self.held_at_the_end > 0 or any(name.split(":")[0].isupper() for name in self.counts)

    def record(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "clients": CLIENTS,
            "counts": self.counts,
            "nats_behind": self.nats_behind,
            "held_at_the_end": self.held_at_the_end,
            "memory_mib": self.memory_mib,
            "seconds": self.seconds,
        }

    def table(self) -> str:
        rows = [f"| {name} | {n} |" for name, n in sorted(self.counts.items())]
        rows.append(f"| places still held at the end | {self.held_at_the_end} |")
        rows += [
            f"| nats behind the greedy choice: {k} | {v:.2f} |" for k, v in self.nats_behind.items()
        ]
        rows.append(f"| memory, MiB | {', '.join(f'{m:.0f}' for m in self.memory_mib)} |")
        asked = f"| server, {self.seconds:.0f} s, {CLIENTS} clients | of {self.requests} |"
        return "\n".join([asked, "| --- | ---: |", *rows])


def run(seconds: float, seed: int) -> Served:
    """Start a server of the embedded model and ask it for so long."""
    command = "from personavec.cli.main import main; main()"
    arguments = ["serve", "--port", "0", "--json", "--vectors", "humorous"]
    with subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            address = json.loads(process.stdout.readline())["address"]
            return asyncio.run(_ask(address, process.pid, seconds, seed))
        finally:
            process.send_signal(signal.SIGTERM)


async def _ask(url: str, pid: int, seconds: float, seed: int) -> Served:
    random.seed(seed)
    memories: list[float] = []
    limits = httpx.Limits(max_connections=2 * CLIENTS)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        soak = Soak(url, client)
        for kind in range(KINDS):
            soak.alone[kind] = await soak.reply(kind)
        began = time.monotonic()
        asked = 0

        async def keep_asking() -> None:
            nonlocal asked
            while (passed := time.monotonic() - began) < seconds:
                if passed >= len(memories) * seconds / MEMORIES:
                    memories.append(memory(pid))
                    print(f"{asked} requests, {memories[-1]:.0f} MiB", flush=True)
                number, asked = asked, asked + 1
                await soak.one(number)

        await asyncio.gather(*(keep_asking() for _ in range(CLIENTS)))
        for _ in range(100):
            left = (await client.get(f"{url}/healthz")).json()["open"]
            if not left:
                break
            await asyncio.sleep(0.1)
    taken = time.monotonic() - began
    return Served(asked, soak.counts, soak.judge(), left, memories, taken)
