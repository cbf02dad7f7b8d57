"""Write docs/performance.md from what the benchmarks have measured.

    python scripts/performance.py

Every figure is read from `benchmarks/results`; a benchmark without results there is named as not
measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

INTRODUCTION = """# Performance

Written by `python scripts/performance.py` from `benchmarks/results`. Each figure stands with its
command, and with the baseline that was measured in the same run. Where a figure has a limit, its
distance from it is given: the operations that the work needs, of the layers that are read alone,
over the bf16 matrix-product rate measured in the same run. Decoding is bounded by memory instead:
every step reads all weights once, for however many rows are in the batch.
"""

GROWTH = """## How the cost grows

- **Rows**: linearly; a screen holds one window of rows at a time, whatever their number.
- **Length**: linearly in tokens, until attention, which grows with the square of a text's length,
  outweighs the weights. Batches are formed of rows of like length.
- **Layers**: a forward ends at the deepest layer that is read. With vLLM it never does.
- **Traits**: a trait is one more column of a product [tokens, hidden] x [hidden, traits], beside
  the network's own products next to nothing.
- **Steering configurations**: rows of one batch; a configuration costs no call of its own.

The tables above measure these: rows, layers, traits and length each changed alone.
"""


def read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def rows(*cells: tuple[object, ...]) -> list[str]:
    head, *body = [f"| {' | '.join(map(str, row))} |" for row in cells]
    return [head, f"|{' --- |' * len(cells[0])}", *body]


def not_measured(command: str) -> list[str]:
    return ["", f"Not measured yet: `{command}`."]


def processor() -> list[str]:
    capture, mixed = read("capture"), read("mixed_batch")
    out = ["", "## On two processor cores: the transformers engine"]
    if capture:
        peak = capture["peak_flops"] / 1e9
        out += [
            "",
            f"`python benchmarks/capture.py` ({capture['date']}; {peak:.0f} GFLOP/s at most)",
            "",
        ]
        table: list[tuple[object, ...]] = [
            ("captured", "s", "baseline", "s", "ratio", "of the limit")
        ]
        for name in ("every layer", "middle layer"):
            seconds, share = capture["median_seconds"], capture["share_of_peak"]
            table.append(
                (
                    name,
                    f"{seconds[f'capture, {name}']:.2f}",
                    "one text at a time",
                    f"{seconds[f'loop, {name}']:.2f}",
                    f"{capture['ratio'][name]:.2f}",
                    f"{share[f'capture, {name}']:.0%}",
                )
            )
        out += rows(*table)
    else:
        out += not_measured("python benchmarks/capture.py --json benchmarks/results/capture.json")
    if mixed:
        seconds = mixed["median_seconds"]
        out += [
            "",
            f"`python benchmarks/mixed_batch.py` ({mixed['date']}): {mixed['configurations']} "
            f"steering configurations in one batch take {seconds['mixed']:.1f} s, one `generate` "
            f"call for each {seconds['one call each']:.1f} s: {mixed['ratio']:.2f} times as long.",
        ]
    else:
        out += not_measured("python benchmarks/mixed_batch.py")
    return out


def finetuning() -> list[str]:
    out = ["", "## On two processor cores: a training step"]
    command = "python benchmarks/training_step.py"
    found = read("training_step")
    if not found:
        return out + not_measured(command)
    ratio = found["ratio"]
    return [
        *out,
        "",
        f"`{command}`: {found['rows']} rows of {found['tokens']} tokens take "
        f"{found['plain']:.2f} s, with preventative steering {found['steered']:.2f} s: "
        f"{ratio['value']:.3f} times as long ({ratio['low']:.3f} to {ratio['high']:.3f}, 95%, "
        f"median of {found['pairs']} pairs).",
    ]


def serving() -> list[str]:
    out = ["", "## On two processor cores: serving"]
    command = "python benchmarks/serve.py"
    found = read("serve")
    if not found:
        return out + not_measured(command)
    rates, first = found["tokens_per_second"], found["first_token_seconds"]
    ways = rows(("way", "tokens/s"), *((way, f"{rate:.0f}") for way, rate in rates.items()))
    table: list[tuple[object, ...]] = [("throughput", "ratio", "range over repeats")]
    for name, (middle, low, high) in found["ratios"].items():
        table.append((name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"))
    return [
        *out,
        "",
        f"`{command}` ({found['date']}): {found['clients']} clients over HTTP, "
        f"{found['tokens']} tokens a reply, beside one `generate` of the same prompts in one "
        f"batch; medians of {found['repeats']} repeats. Readings are along seven traits.",
        "",
        *ways,
        "",
        *rows(*table),
        "",
        f"First token of {first['n']} streams under this load: after {first['p50']:.2f} s (p50), "
        f"{first['p99']:.2f} s (p99).",
    ]


def vllm() -> list[str]:
    out = ["", "## On two processor cores: vLLM"]
    found = read("vllm_engine")
    if not found:
        return out + not_measured("make vllm && make bench")
    out += [
        "",
        f"`python benchmarks/vllm_engine.py` ({found['date']}, vLLM {found['engine']['version']}): "
        f"{found['requests']} responses of extraction, up to {found['max_tokens']} tokens each.",
        "",
    ]
    medians = found["median_tokens_per_second"]
    out += rows(("way", "response tokens/s"), *((w, f"{r:.0f}") for w, r in medians.items()))
    out += ["", *rows(("ratio", ""), *((n, f"{r:.2f}") for n, r in found["ratios"].items()))]
    return out


def accelerator(name: str, title: str, command: str) -> list[str]:
    out = ["", f"## {title}"]
    found = read(name)
    if not found:
        return out + not_measured(command)
    out += [
        "",
        f"`{command}` ({found['device']}, {found['date']}, {found['seconds']:.0f} s; "
        f"{found['bf16_matrix_product_per_second'] / 1e12:.2f} TFLOP/s at most)",
        "",
    ]
    cells = [
        (
            row["model"],
            row["what"].strip(),
            f"{row['tokens_per_second']:,.0f}",
            f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else "",
            f"{row['ratio']:.2f}" if "ratio" in row else "",
        )
        for row in found["rows"]
    ]
    return out + rows(("model", "what", "tokens/s", "of the limit", "ratio"), *cells)


def main() -> None:
    parts = [
        INTRODUCTION.rstrip(),
        *processor(),
        *finetuning(),
        *serving(),
        *vllm(),
        *accelerator(
            "processor",
            "On two processor cores: growth",
            "python benchmarks/gpu.py --shapes smollm2 --device cpu",
        ),
        *accelerator("gpu", "On one accelerator", "python benchmarks/gpu.py"),
    ]
    # What the text says of growth is shown by these tables, and said beside them alone.
    if read("processor") or read("gpu"):
        parts += ["", GROWTH.rstrip()]
    (ROOT / "docs" / "performance.md").write_text("\n".join(parts) + "\n", "utf-8")


if __name__ == "__main__":
    main()
