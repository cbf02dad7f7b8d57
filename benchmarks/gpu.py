"""Everything whose speed matters, on one accelerator, with nothing to download: one table.

Models: the embedded one, and random weights in the shapes of Llama-3.2-1B and Qwen2.5-7B and -32B
where they fit; how fast a network runs does not depend on what its weights say. For each: capture
for screening beside the machine's limit and beside the loop over single texts that most people
write; how its cost grows with rows, length, layers and traits; the engine beside `generate`, both
with 64 rows, and what of its time passes outside the model's forward; a sweep of steering
configurations in one batch beside one `generate` call for each; and a training step with
preventative steering beside one without.

    python benchmarks/gpu.py [--shapes smollm2,1b,7b] [--device cuda] [--json FILE]
    python benchmarks/gpu.py --shapes smollm2 --device cpu     # on a processor
    python benchmarks/gpu.py --shapes tiny --device cpu        # does it run? a minute
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import generation
import numpy as np
import torch
from machine import Limits, described, generating, measured, median_seconds, reading, training
from transformers import Qwen2Config, Qwen2ForCausalLM

import personavec as pv
from personavec.model import Directions, Steering, padded, project_tokens, steering_forwards
from personavec.model.engine import Request, Sampling, TransformersEngine
from personavec.vectors import random_directions

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 50000,
    },
    "1b": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 128256,
    },
    "7b": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
    },
    "32b": {
        "hidden_size": 5120,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "intermediate_size": 27648,
        "vocab_size": 152064,
    },
}
#: Rows, their length, and how many of them the plain loop gets, which is slow; the sweep's layers
#: and coefficients, and the tokens of its answers.
FULL = {"rows": 256, "length": 512, "loop": 12, "layers": 5, "coefficients": 4, "tokens": 64}
ON_PROCESSOR = {"rows": 48, "length": 160, "loop": 8, "layers": 3, "coefficients": 3, "tokens": 32}
SMALL = {"rows": 12, "length": 48, "loop": 4, "layers": 2, "coefficients": 2, "tokens": 6}
QUESTIONS, TRAITS, BATCH = 5, 7, 64
Row = dict[str, Any]


def load(shape: str, device: str) -> pv.LoadedModel | None:
    """The model, or None where its weights leave no room for its work."""
    embedded = pv.load_model("smollm2", device=device)
    if shape == "smollm2":
        return embedded
    config = Qwen2Config(**SHAPES[shape], max_position_embeddings=32768)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Qwen2ForCausalLM(config).parameters())
    if device.startswith("cuda") and 2.15 * parameters > torch.cuda.mem_get_info()[0]:
        return None
    with torch.device(device), default_dtype(torch.bfloat16):
        model = Qwen2ForCausalLM(config)
    return pv.wrap_model(model, embedded.tokenizer, name=f"random weights, shape {shape}")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def random_texts(rows: int, length: int) -> list[np.ndarray]:
    """Token ids that share no beginning."""
    return list(np.random.default_rng(0).integers(100, 40000, (rows, length)).astype(np.int32))


def directions(loaded: pv.LoadedModel, traits: int, deepest: int) -> Directions:
    """As a screen has them: every trait's at a layer up to `deepest`."""
    like = torch.ones(loaded.identity.hidden_size)
    layers = tuple(max(1, deepest - i % 4) for i in range(traits))
    unit = torch.nn.functional.normalize(random_directions(like, traits, seed=0), dim=-1)
    return Directions(layers, unit)


@torch.inference_mode()
def capture_rows(loaded: pv.LoadedModel, size: Row, limits: Limits, device: str) -> list[Row]:
    n = loaded.identity.n_layers
    middle = round(0.6 * n)
    rows, length = size["rows"], size["length"]
    texts = random_texts(rows, length)

    def screen(texts: Sequence[np.ndarray], traits: int, deepest: int) -> Callable[[], Any]:
        chosen = directions(loaded, traits, deepest)
        return lambda: project_tokens(loaded.model, texts, chosen)

    def loop() -> None:
        unit = directions(loaded, TRAITS, middle).unit.to(loaded.device)
        for text in texts[: size["loop"]]:
            ids = torch.from_numpy(text.astype(np.int64))[None].to(loaded.device)
            states = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states
            torch.stack([state[0].float().mean(0) for state in states]).cpu()
            (states[middle][0].float() @ unit.T).cpu()

    found = []

    def add(name: str, taken: float, rows: int, length: int, layers: int) -> float:
        rate = rows * length / taken
        share = limits.share(reading(loaded, [length] * rows, layers), taken)
        found.append({"what": name, "tokens_per_second": rate, "share_of_limit": share})
        return rate

    ours = add(
        "capture for screening",
        median_seconds(screen(texts, TRAITS, middle), device),
        *(rows, length, middle),
    )
    plain = size["loop"] * length / median_seconds(loop, device, repeats=1)
    found.append(
        {
            "what": "one text at a time, all layers",
            "tokens_per_second": plain,
            "ratio": ours / plain,
        }
    )
    # How the cost grows.
    few = texts[: rows // 4]
    add(
        "  a quarter of the rows",
        median_seconds(screen(few, TRAITS, middle), device),
        *(len(few), length, middle),
    )
    add("  all layers", median_seconds(screen(few, TRAITS, n), device), len(few), length, n)
    add(
        "  four times the traits",
        median_seconds(screen(few, 4 * TRAITS, middle), device),
        *(len(few), length, middle),
    )
    long = random_texts(max(1, len(few) // 4), 4 * length)
    add(
        "  four times the length",
        median_seconds(screen(long, TRAITS, middle), device),
        *(len(long), 4 * length, middle),
    )
    return found


def engine_rows(loaded: pv.LoadedModel, size: Row, limits: Limits, device: str) -> list[Row]:
    """Sampled responses of the engine and of `generate`, of as many rows in one batch."""
    prompts = [tuple(text.tolist()) for text in random_texts(BATCH, size["length"] // 4)]
    tokens, found = size["tokens"], dict[str, int]()

    def ours(*, capture: bool) -> None:
        responses = generation.engine(loaded, prompts, tokens, capture=capture)
        found["ours"] = generation.tokens_of(responses)

    def theirs() -> None:
        found["theirs"] = generation.plainly(loaded, prompts, tokens, batch=BATCH, capture=False)

    taken = median_seconds(lambda: ours(capture=False), device)
    rate = found["ours"] / taken
    captured = found["ours"] / median_seconds(lambda: ours(capture=True), device)
    plain = median_seconds(theirs, device)
    inside = generation.shares(loaded, lambda: ours(capture=False))
    work = generating(loaded, [len(p) for p in prompts], [round(found["ours"] / BATCH)] * BATCH)
    share = limits.share(work, taken)
    return [
        {"what": f"engine, {BATCH} rows", "tokens_per_second": rate, "share_of_limit": share},
        {"what": "with capture", "tokens_per_second": captured, "ratio": rate / captured},
        {
            "what": "generate",
            "tokens_per_second": found["theirs"] / plain,
            "ratio": rate * plain / found["theirs"],
        },
        {"what": "outside the model's forward", "share_of_time": inside["outside_forward"]},
        {"what": "choosing tokens", "share_of_time": inside["choosing"]},
    ]


def sweep_rows(loaded: pv.LoadedModel, size: Row, limits: Limits, device: str) -> list[Row]:
    """All configurations in one batch, beside one `generate` call for each."""
    n, tokens = loaded.identity.n_layers, size["tokens"]
    layers = [round(n * share) or 1 for share in (0.3, 0.4, 0.5, 0.6, 0.7)][: size["layers"]]
    like = torch.ones(loaded.identity.hidden_size) / loaded.identity.hidden_size**0.5
    addition = random_directions(like, 1, seed=1)[0]
    prompts = [tuple(text.tolist()) for text in random_texts(QUESTIONS, 32)]
    cells = [
        (Steering(layer, addition, c),)
        for layer in layers
        for c in range(1, size["coefficients"] + 1)
    ]
    requests = [
        Request(f"{i}-{j}", prompt, cell)
        for i, cell in enumerate(cells)
        for j, prompt in enumerate(prompts)
    ]
    # Random weights end no answer, so that every way generates the same number of tokens.
    sampling = Sampling(tokens, temperature=0)

    def mixed() -> None:
        list(TransformersEngine(loaded, 1 << 16).generate(requests, sampling))

    def one_call_each() -> None:
        ids, mask, _ = padded(prompts, pad_id=0, side="left", device=loaded.device)
        for cell in cells:
            added = (cell[0].coefficient * cell[0].direction).to(loaded.device, torch.bfloat16)

            def hook(module: Any, args: Any, output: Any, added: torch.Tensor = added) -> Any:
                return output + added

            handle = loaded.blocks.stack[cell[0].layer - 1].register_forward_hook(hook)
            with torch.inference_mode():
                loaded.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=tokens,
                    min_new_tokens=tokens,
                    do_sample=False,
                    pad_token_id=0,
                )
            handle.remove()

    ours = median_seconds(mixed, device, repeats=1)
    theirs = median_seconds(one_call_each, device, repeats=1)
    total = len(requests) * tokens
    work = generating(loaded, [len(r.prompt_ids) for r in requests], [tokens] * len(requests))
    return [
        {
            "what": f"sweep of {len(cells)} x {QUESTIONS}, one batch",
            "tokens_per_second": total / ours,
            "share_of_limit": limits.share(work, ours),
        },
        {
            "what": "the same, one generate call each",
            "tokens_per_second": total / theirs,
            "ratio": theirs / ours,
        },
    ]


def training_rows(loaded: pv.LoadedModel, size: Row, limits: Limits, device: str) -> list[Row]:
    """A step that trains the query and value projections, steered at every position or not."""
    model = loaded.model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("q_proj" in name or "v_proj" in name)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0)
    ids = torch.from_numpy(np.stack(random_texts(4, size["length"])).astype(np.int64)).to(device)
    like = torch.ones(loaded.identity.hidden_size) / loaded.identity.hidden_size**0.5
    layer = round(0.6 * loaded.identity.n_layers)
    steering = (Steering(layer, random_directions(like, 1, seed=2)[0], 2.0, "all"),)

    def step(steered: bool) -> Callable[[], Any]:
        def run() -> None:
            with steering_forwards(model, steering) if steered else nullcontext():
                model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    model.train()
    times = {name: [] for name in ("plain", "steered")}
    for _ in range(5):  # interleaved, so that a drift of the clock falls on both
        times["plain"].append(median_seconds(step(False), device, repeats=1))
        times["steered"].append(median_seconds(step(True), device, repeats=1))
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    plain, steered = (statistics.median(found) for found in times.values())
    tokens = ids.numel()
    work = training(loaded, [size["length"]] * len(ids))
    return [
        {
            "what": "training step",
            "tokens_per_second": tokens / plain,
            "share_of_limit": limits.share(work, plain),
        },
        {
            "what": "with preventative steering",
            "tokens_per_second": tokens / steered,
            "share_of_limit": limits.share(work, steered),
            "ratio": steered / plain,
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="smollm2,1b,7b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = arguments.device
    started = time.monotonic()
    limits = measured(device)
    where = described(device)["machine"]
    print(f"{where['device']}, {where['processor']}")
    print(
        f"{limits.operations / 1e12:.2f} bf16 TFLOP/s in a matrix product, "
        f"{limits.bandwidth / 1e9:.0f} GB/s of memory\n"
    )
    print("| model | what | tokens/s | of the limit | ratio |\n| --- | --- | --- | --- | --- |")
    table: list[Row] = []
    for shape in arguments.shapes.split(","):
        loaded = load(shape, device)
        if loaded is None:
            print(f"| {shape} | does not fit | | | |", flush=True)
            continue
        size = SMALL if shape == "tiny" else ON_PROCESSOR if device == "cpu" else FULL
        parts = [capture_rows]
        if shape != "32b":  # whose sweep and gradients would take the time and the memory of all
            parts += [engine_rows, sweep_rows, training_rows]
        for part in parts:
            for row in part(loaded, size, limits, device):
                table.append({"model": shape, **row})
                print(line(table[-1]), flush=True)
        del loaded
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    taken = time.monotonic() - started
    print(f"\n{taken:.0f} s")
    if arguments.json:
        record = {
            "limits": limits.as_dict(),
            "rows": table,
            "seconds": taken,
            **described(device),
        }
        arguments.json.write_text(json.dumps(record, indent=1))


def line(row: Row) -> str:
    rate = f"{row['tokens_per_second']:,.0f}" if "tokens_per_second" in row else ""
    share = f"{row['share_of_limit']:.0%}" if "share_of_limit" in row else ""
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    if "share_of_time" in row:
        ratio = f"{row['share_of_time']:.1%} of the time"
    return f"| {row['model']} | {row['what']} | {rate} | {share} | {ratio} |"


if __name__ == "__main__":
    main()
