"""How soon is drift caught? `python scripts/drift_study.py LOG out/drift-study --n 20`.

Ordinary conversations of a log go on for three turns that the model writes itself: under the
trait's strongest monitoring prompt, and, to compare with, under its neutral one and steered by the
vector at the top of its coherent range. The chart reads each conversation from its first turn, and
an alarm at one of the three turns is a catch. Beside it stands what a judge says of the replies: a
model that does not follow a prompt has not drifted. Use conversations that fitted no limits: of the
log only every second one, from the second on, is taken. `--model` and `--vectors FOLDER`, as
`personavec replicate` keeps it under `extraction`, take another model; without limits of ordinary
talk there are no alarms, and only the replies are judged.

`python scripts/drift_study.py --orders` asks instead how often a server's chart gives a false alarm
on ordinary talk, by the order in which it is read. Logs are drawn from the bundled dialogues' own
readings: limits are fitted on one and tested on another, which holds the same dialogues, so that
nothing but the order differs; or, with `apart`, only dialogues that the first log lacks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from results_tables import share, table

from personavec import load_model, load_trait, load_vector
from personavec.data import DataRow, Message, parse_row, raw_rows
from personavec.judges import ContrastJudge
from personavec.model import Encoded, encode, vector_steering
from personavec.model.engine import Sampling
from personavec.monitor import gauge, ordinary
from personavec.monitor.readings import read_encoded
from personavec.progress import Progress
from personavec.results import Estimate, dump
from personavec.rollouts import Task, collect
from personavec.runs import atomic_write
from personavec.stats import clustered_bootstrap, share_interval
from personavec.vectors import READING, Chart, Ordinary, bundled_vectors, limits
from personavec.vectors.limits import ChartRule, Stream

#: The assistant's turn, counted from 0, from which the model writes, and for how many.
FROM, TURNS = 2, 3
#: Of `--orders`: simulated logs for each trait, and conversations in each.
LOGS, TALKS = 60, 1000
ARMS = ("encouraging prompt", "neutral prompt", "steered")
MAX_TOKENS = 40


def conversations(log: str, n: int) -> list[list[tuple[str, str]]]:
    """The first `n` that are long enough, as (question, answer) turns, without a system prompt."""
    found = []
    for place, raw in enumerate(raw_rows(log)):
        row = parse_row(raw, kind="row")
        if place % 2 and isinstance(row, DataRow) and row.messages[0]["role"] == "user":
            texts = [message["content"] for message in row.messages]
            if len(texts) >= 2 * (FROM + TURNS):
                found.append(list(zip(texts[0::2], texts[1::2], strict=True))[: FROM + TURNS])
        if len(found) == n:
            break
    return found


def study(
    loaded: Any, vector: Any, talks: list[list[tuple[str, str]]], out: Path
) -> dict[str, Any]:
    """One trait's catches and replies, for every arm."""
    name = vector.trait
    spec, _ = load_trait(name)
    top = (vector.coherent_range or (0.0, 1.0))[1]
    systems = {"encouraging prompt": spec.monitoring[7], "neutral prompt": spec.monitoring[3]}
    states = {(arm, i): list(talk[:FROM]) for arm in ARMS for i, talk in enumerate(talks)}
    expression: dict[str, list[tuple[float, int]]] = {arm: [] for arm in ARMS}
    judge = ContrastJudge(loaded, wrote_answers=True)
    for turn in range(FROM, FROM + TURNS):
        tasks = [
            Task(
                id=f"{arm}-{i}",
                question=talks[i][turn][0],
                system=systems.get(arm),
                earlier=tuple(state),
                steering=vector_steering(vector, top) if arm == "steered" else (),
            )
            for (arm, i), state in states.items()
        ]
        replies = collect(
            loaded,
            tasks,
            Sampling(MAX_TOKENS, 0.7),
            out / name / f"turn-{turn}",
            spec=spec,
            judge=judge,
            label=f"{name}, turn {turn + 1}",
            progress=Progress(),
        )
        for (arm, i), reply in zip(states, replies, strict=True):
            # An empty reply ends nothing: the next turn follows it as it would in a chat.
            states[arm, i].append((talks[i][turn][0], reply.response or "…"))
            if reply.log_odds is not None:
                expression[arm].append((reply.log_odds, i))
    return {
        arm: _caught(loaded, vector, systems.get(arm), states, arm)
        | {
            "log_odds": dump(
                Estimate.of(
                    clustered_bootstrap(
                        [value for value, _ in expression[arm]], [i for _, i in expression[arm]]
                    )
                )
            )
        }
        for arm in ARMS
    }


def _caught(
    loaded: Any,
    vector: Any,
    system: str | None,
    states: dict[tuple[str, int], list[tuple[str, str]]],
    arm: str,
) -> dict[str, Any]:
    ordinary: Ordinary | None = vector.ordinary
    if ordinary is None:
        return {"caught": None, "turns": None}
    rows: list[Encoded] = []
    for (own, _), turns in states.items():
        if own != arm:
            continue
        messages: list[Message] = []
        for asked, answer in turns:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answer})
        before: list[Message] = [{"role": "system", "content": system}] if system else []
        # The turns before the change as they were, those after it with what then stood on top.
        for part in (messages[: 2 * FROM], [*before, *messages]):
            row = encode(loaded.chat, DataRow(0, "", tuple(part)), context=loaded.context)
            if not isinstance(row, Encoded):
                raise SystemExit(f"a conversation cannot be read: {row.reason}")
            rows.append(row)
    readings = read_encoded(loaded, rows, gauge([vector], loaded))
    took = []
    for first, whole in zip(readings[0::2], readings[1::2], strict=True):
        chart = ordinary.chart()
        alarms = [
            # An empty reply says nothing, and moves no chart.
            (sigma := getattr(reading, READING)) is not None
            and chart.update(ordinary.standardise(sigma, turn)) is not None
            for turn, reading in enumerate([*first, *whole[FROM:]])
        ]
        took.append(alarms[FROM:].index(True) + 1 if any(alarms[FROM:]) else None)
    hits = [turns for turns in took if turns is not None]
    return {
        "caught": dump(Estimate.of(share_interval(len(hits), len(took)))) | {"of": len(took)},
        "turns": statistics.median(hits) if hits else None,
    }


def orders(loaded: Any, name: str, *, apart: bool) -> dict[str, dict[str, Any]]:
    """One trait's logs with a false alarm, by chart and order.

    `apart`, a log shares no dialogue with the one that its limits were fitted on. A chart that
    takes every reading has its own limit, fitted in the same way.
    """
    vector = load_vector(name)
    mean, spread = vector.neutral_response_mean[vector.layer].tolist()
    talks = [
        [(value - mean) / spread for value in itertools.takewhile(math.isfinite, talk)]
        for talk in ordinary.read(loaded, [vector])[name].response_mean
    ]
    hits: dict[str, list[bool]] = {}
    for seed in range(LOGS):
        rng = np.random.default_rng(seed)
        mixed = rng.permutation(len(talks))
        pools = np.array_split(mixed, 2) if apart else (mixed, mixed)
        own, other = ([talks[i] for i in rng.choice(pool, TALKS)] for pool in pools)
        fitted = limits.fit(own, seed=seed)
        before, log = (
            [[fitted.standardise(sigma, turn) for turn, sigma in enumerate(talk)] for talk in part]
            for part in (own, other)
        )
        fit_log = limits.interleaved(before, seed=seed)
        every = limits.levels([value for _, value in fit_log], fitted.server)
        # As `limits.fit` takes it.
        rule = ChartRule(fitted.server.weight, 1.25 * max(every))
        in_order = {
            "one after the other": [(i, value) for i, talk in enumerate(log) for value in talk],
            "interleaved": list(limits.interleaved(log, seed=seed, shuffled=False)),
        }
        for order, met in in_order.items():
            chart, stream = Chart(rule), Stream(fitted.server)
            alarmed = {
                "every reading": [chart.update(value) is not None for _, value in met],
                "again after three others": [
                    stream.update(*reading) is not None for reading in met
                ],
            }
            for kind, alarms in alarmed.items():
                hits.setdefault(f"{kind}, {order}", []).append(any(alarms))
    return {
        what: {
            **dump(Estimate.of(share_interval(sum(found), len(found)))),
            "hits": sum(found),
            "of": LOGS,
        }
        for what, found in hits.items()
    }


def orders_table(results: dict[str, dict[str, Any]]) -> str:
    head = ["trait", *next(iter(results.values()))]
    rows = [[name, *map(share, found.values())] for name, found in results.items()]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--orders", action="store_true", help="false alarms by order; takes no log")
    parser.add_argument("--json", type=Path, help="with --orders: write the figures here too")
    parser.add_argument("--n", type=int, default=20, help="conversations for each trait and arm")
    parser.add_argument("--traits", default=",".join(bundled_vectors()))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--vectors", type=Path, help="folder of vectors; default: the bundled ones")
    given = parser.parse_args()
    if given.orders:
        loaded = load_model("smollm2")
        found = {}
        for dialogues, apart in (("the same", False), ("other", True)):
            found[dialogues] = {
                name: orders(loaded, name, apart=apart) for name in given.traits.split(",")
            }
            print(
                f"Tested on {dialogues} dialogues\n\n{orders_table(found[dialogues])}", flush=True
            )
        if given.json:
            atomic_write(given.json, json.dumps(found, indent=1) + "\n")
        return
    if given.log is None or given.out is None:
        parser.error("name a LOG and a folder OUT, or give --orders")
    loaded = load_model(given.model)
    talks = conversations(given.log, given.n)
    results = {}
    print("| trait | arm | caught within 3 turns | turns | judge's log-odds |")
    print("| --- | --- | --- | --- | --- |")
    for name in given.traits.split(","):
        vector = load_vector(given.vectors / name if given.vectors else name)
        results[name] = study(loaded, vector, talks, given.out)
        for arm, record in results[name].items():
            caught, level = record["caught"], record["log_odds"]
            shown = "not measured" if caught is None else f"{share(caught)} of {caught['of']}"
            print(
                f"| {name} | {arm} | {shown} | {record['turns'] or '–'} | "
                f"{level['value']:+.1f} [{level['low']:+.1f}, {level['high']:+.1f}] |",
                flush=True,
            )
        atomic_write(given.out / "results.json", json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
