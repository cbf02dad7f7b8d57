"""Does a job that waits for its threads leave the cores to others?

Threads that have finished their share of a product wait for the others. By default they spin, which
is fastest as long as nothing else runs; beside another job the spinning takes the time of the
threads that are waited for. One job, then two side by side, each generating and judging responses
of the embedded model in a process of its own, with the waiting that the environment asks for
(GNU's OpenMP: `OMP_WAIT_POLICY`, `GOMP_SPINCOUNT`). The ways take turns.

    python benchmarks/threads.py [--repeats 3] [--rows 16] [--tokens 24] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import described

import personavec as pv
from personavec.judges import Answer, ContrastJudge
from personavec.model import chat
from personavec.model.engine import Request, Sampling, TransformersEngine

#: Environment variables of each way.
WAYS = {
    "spin, as torch does": {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": ""},
    "spin 10,000 times": {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": "10000"},
    "spin 1,000 times, as the command line does": {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": "1000"},
    "sleep at once": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": ""},
}


def work(rows: int, tokens: int) -> None:
    """Generate and judge once to warm up, and once more for every line on standard input."""
    loaded, (spec, *_) = pv.load_model("smollm2"), pv.load_trait("optimistic")
    questions = [spec.questions.extraction[i % 20] for i in range(rows)]
    requests = [
        Request(str(i), tuple(loaded.chat.prompt_ids(chat(question))))
        for i, question in enumerate(questions)
    ]

    def once() -> None:
        engine = TransformersEngine(loaded)
        found = [g for group in engine.generate(requests, Sampling(tokens)) for g in group]
        texts = {g.id: loaded.chat.decode(g.response_ids) for g in found}
        answers = [Answer(question, texts[str(i)]) for i, question in enumerate(questions)]
        ContrastJudge(loaded).score(spec, answers)

    once()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        once()
        print(time.perf_counter() - start, flush=True)


def seconds(way: dict[str, str], jobs: int, rows: int, tokens: int) -> float:
    """Seconds until the last of so many jobs is done, once all are ready."""
    environment = {**os.environ, **way}
    environment = {key: value for key, value in environment.items() if value or key not in way}
    command = [sys.executable, __file__, "--work", f"--rows={rows}", f"--tokens={tokens}"]
    running = [
        subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(jobs)
    ]

    def heard() -> list[str]:
        return [job.stdout.readline() for job in running if job.stdout is not None]

    heard()
    for job in running:
        assert job.stdin is not None
        job.stdin.write("go\n")
        job.stdin.flush()
    found = max(float(line) for line in heard())
    for job in running:
        job.communicate()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.rows, arguments.tokens)
        return
    found: dict[str, dict[str, list[float]]] = {name: {"1": [], "2": []} for name in WAYS}
    for _ in range(arguments.repeats):
        for name, way in WAYS.items():
            for jobs in (1, 2):
                took = seconds(way, jobs, arguments.rows, arguments.tokens)
                found[name][str(jobs)].append(took)
    print(
        "| waiting | one job, s | two side by side, s | times as long |\n| --- | --- | --- | --- |"
    )
    for name, took in found.items():
        one, two = (statistics.median(took[jobs]) for jobs in ("1", "2"))
        print(f"| {name} | {one:.2f} | {two:.2f} | {two / one:.2f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": found, **described()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
