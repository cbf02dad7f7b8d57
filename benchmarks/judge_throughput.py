"""How much of the throughput that the concurrency limit allows does the API judge reach?

500 answers, 1,000 judge calls, against a server in a process of its own that answers each in
50 ms. Allowed: concurrency / 0.05 calls a second. Afterwards the same scores are asked for again,
which must take no call.

    python benchmarks/judge_throughput.py [--concurrency 16] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import described

from personavec.judges import Answer, ApiRubricJudge, Endpoint
from personavec.traits import load_trait

SECONDS, ANSWERS = 0.05, 500


def serve(port: Any, calls: Any) -> None:
    """The least of an HTTP server: one completion for every request, 50 ms after it came."""
    listed = [{"token": t, "logprob": p} for t, p in (("85", -0.2), ("80", -1.8), ("90", -4.0))]
    choice = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": "85"},
        "logprobs": {"content": [{"token": "85", "logprob": -0.2, "top_logprobs": listed}]},
    }
    body = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode()
    lines = ("HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}")
    reply = "\r\n".join((*lines, "", "")).encode() + body

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                headers = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(headers.split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                calls.value += 1
                await asyncio.sleep(SECONDS)
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    port, calls = spawn.Value("i", 0), spawn.Value("i", 0)
    server = spawn.Process(target=serve, args=(port, calls), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.05)
    spec = load_trait("optimistic")[0]
    answers = [Answer("What comes next?", f"Good things, number {i}.") for i in range(ANSWERS)]
    seconds: list[float] = []
    again = 0.0
    for repeat in range(arguments.repeats + 1):
        with tempfile.TemporaryDirectory() as cache:
            endpoint = Endpoint(
                "parrot",
                f"http://127.0.0.1:{port.value}/v1",
                concurrency=arguments.concurrency,
                cache=Path(cache),
            )
            judge = ApiRubricJudge(endpoint)
            if repeat == 0:  # imports and connections
                judge.score(spec, answers[:20])
                continue
            before = calls.value
            start = time.perf_counter()
            scores = judge.score(spec, answers)
            seconds.append(time.perf_counter() - start)
            assert calls.value - before == 2 * ANSWERS
            assert {score.state for score in scores} == {"scored"}
            start = time.perf_counter()
            assert judge.score(spec, answers) == scores
            again = time.perf_counter() - start
            assert calls.value - before == 2 * ANSWERS
    server.terminate()
    server.join()
    allowed = arguments.concurrency / SECONDS
    rate = 2 * ANSWERS / statistics.median(seconds)
    record = {
        "calls": 2 * ANSWERS,
        "concurrency": arguments.concurrency,
        "server_seconds": SECONDS,
        "seconds": seconds,
        "calls_per_second": rate,
        "allowed_per_second": allowed,
        "share": rate / allowed,
        "seconds_from_disk": again,
        **described(),
    }
    print("| calls | concurrency | median s | calls/s | allowed | share |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(
        f"| {record['calls']} | {record['concurrency']} | {statistics.median(seconds):.2f} "
        f"| {rate:.0f} | {allowed:.0f} | {record['share']:.1%} |"
    )
    print(f"asked again: no call, {again:.2f} s from disk")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
