"""How fast a screen scores rows, against the plain loop and against what the processor can do.

Rows are bundled questions, answered with bundled sentences up to 50 to 1,500 tokens a row, spread
evenly on a log scale. The plain loop runs one row at a time with `output_hidden_states=True`, at
full depth and with the output head. Both project onto five traits at the middle layer. FLOP/s
count the tokens of the rows and the layers needed alone, and are held against the fastest square
bf16 product measured in the same run. Memory and cost per row are measured in processes of their
own, on rows of at most 64 tokens. Leave the machine alone meanwhile.

    python benchmarks/screen.py [--json FILE] [--rows N] [--many N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import described, forget_peak, measured, peak_mib, reading

from personavec import LoadedModel, load_model, load_vector
from personavec.data import RawRow
from personavec.model import chat
from personavec.progress import Progress
from personavec.screen import Plan, Probe, pipeline as screen, prepare, probe
from personavec.screen.score import score_rows
from personavec.traits import load_trait, neutral_prompts

TRAITS = ("evil", "sycophantic", "hallucinating", "optimistic", "impolite")
FEW = 1000


def long_rows(loaded: LoadedModel, n: int) -> list[RawRow]:
    """Rows of 50 to 1,500 tokens in random order."""
    lengths = np.random.default_rng(0).permutation(np.geomspace(50, 1500, n)).astype(int)
    return [_row(loaded, i, int(length)) for i, length in enumerate(lengths)]


def _row(loaded: LoadedModel, number: int, length: int) -> RawRow:
    """A question, and sentences in an order of the row's own, cut at the wanted length."""
    rng = np.random.default_rng(number)
    questions = neutral_prompts()
    question = str(rng.choice(questions))
    messages = chat(question)
    room = max(4, length - len(loaded.chat.prompt_ids(messages)))
    sentences = [q for name in TRAITS for q in load_trait(name)[0].questions.extraction]
    text = " ".join(rng.permutation(sentences * (2 + room // 200)).tolist())
    answer = loaded.chat.decode(loaded.chat.response_ids(text)[:room])
    columns = {"messages": [*messages, {"role": "assistant", "content": answer}]}
    return RawRow(number, "made", number + 1, columns)


def plain_loop(loaded: LoadedModel, raws: Sequence[RawRow], wanted: Probe) -> int:
    """What a user would write without this package. Returns the number of tokens scored."""
    layer, unit = wanted.layer(0), wanted.directions.unit[: len(TRAITS)]
    tokens = 0
    for encoded in prepare(loaded, raws, Plan()).encoded:
        [text] = encoded.texts
        ids = torch.from_numpy(text.ids.astype(np.int64))[None]
        with torch.inference_mode():
            states = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states[layer]
        [turn] = text.turns
        _ = states[0, turn.start : turn.stop].float().mean(0) @ unit.T
        tokens += len(text.ids)
    return tokens


def screened(loaded: LoadedModel, raws: Sequence[RawRow], wanted: Probe) -> int:
    return int(score_rows(loaded, raws, wanted, Plan()).sequence_tokens.sum())


def rate(call: Callable[[], int]) -> float:
    start = time.perf_counter()
    tokens = call()
    return tokens / (time.perf_counter() - start)


def short_run(rows: int) -> dict[str, float]:
    """A whole screen of short rows in a process of its own: seconds a row, and peak memory."""
    out = subprocess.run(
        [sys.executable, __file__, "--short", str(rows)], check=True, capture_output=True, text=True
    )
    return json.loads(out.stdout.splitlines()[-1])


def _short_child(rows: int) -> None:
    loaded = load_model("smollm2")
    vectors = [load_vector(trait) for trait in TRAITS]
    made = [_row(loaded, i, 36 + i % 29) for i in range(FEW)]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        with data.open("w") as file:
            for i in range(rows):
                file.write(json.dumps(made[i % FEW].columns | {"id": i}) + "\n")
        forget_peak()
        start = time.perf_counter()
        results = screen.run(
            loaded,
            vectors,
            [data],
            Path(folder) / "out",
            screen.ScreenConfig(layer=loaded.identity.n_layers // 2),
            progress=Progress(quiet=True),
        )
        seconds = time.perf_counter() - start
    assert results.rows == rows
    print(json.dumps({"rows": rows, "ms_per_row": 1000 * seconds / rows, "peak_mib": peak_mib()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--many", type=int, default=50_000, help="0 leaves the short rows out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--short", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.short:
        return _short_child(arguments.short)

    loaded = load_model("smollm2")
    layer = loaded.identity.n_layers // 2
    wanted = probe([load_vector(trait) for trait in TRAITS], loaded, layer=layer)
    raws = long_rows(loaded, arguments.rows)
    some = raws[:: max(1, arguments.rows // 32)]
    screened(loaded, some[:4], wanted)  # warm up
    plain_loop(loaded, some[:2], wanted)
    plain: list[float] = []
    ours: list[float] = []
    for _ in range(arguments.repeats):
        plain.append(rate(lambda: plain_loop(loaded, some, wanted)))
        ours.append(rate(lambda: screened(loaded, raws, wanted)))
    lengths = [len(e.texts[0].ids) for e in prepare(loaded, raws, Plan()).encoded]
    limits = measured()
    share = limits.share(reading(loaded, lengths, layer), sum(lengths) / statistics.median(ours))
    record: dict[str, Any] = {
        "rows": len(raws),
        "tokens": sum(lengths),
        "lengths": {"from": min(lengths), "to": max(lengths)},
        "layer": layer,
        "traits": len(TRAITS),
        "plain_tokens_per_second": plain,
        "screen_tokens_per_second": ours,
        "ratio": statistics.median(ours) / statistics.median(plain),
        "limits": limits.as_dict(),
        "share_of_limit": share,
        **described(),
    }
    if arguments.many:
        record["short"] = [short_run(rows) for rows in (FEW, arguments.many)]
    print("| way | tokens/s, median | of " + str(arguments.repeats) + " |\n| --- | --- | --- |")
    for name, found in (("plain loop", plain), ("screen", ours)):
        shown = ", ".join(f"{value:.0f}" for value in found)
        print(f"| {name} | {statistics.median(found):.0f} | {shown} |")
    print(f"ratio {record['ratio']:.2f}")
    print(f"{share:.1%} of the limit, {limits.operations / 1e9:.0f} GFLOP/s")
    for run in record.get("short", []):
        print(
            f"{run['rows']} short rows: {run['ms_per_row']:.2f} ms a row, {run['peak_mib']:.0f} MiB"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
