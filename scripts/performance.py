"""Write docs/performance.md from what the benchmarks have measured.

    python scripts/performance.py

Every figure is read from `benchmarks/results`; a benchmark without results there is named as not
measured.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

INTRODUCTION = """# Performance

Written by `python scripts/performance.py` from `benchmarks/results`. Each figure stands with its
command, and with the baseline that was measured in the same run. "Of the limit" is the distance
from what the machine can do: the least time for the work over the time it took. The least time is
the operations that the work needs over the rate of the fastest matrix product in the precision in
use, or the bytes over the bandwidth of a copy in memory, whichever takes longer, both measured in
the same run (`benchmarks/machine.py`). Operations are those of the texts' own tokens in the layers
that are read; where responses are generated, all of them share every step's read of the weights.
"""

MACHINE = """Up to the last section: two processor cores, SmolLM2-135M. The machine is a virtual
one whose speed changed between these runs and within them, as its measured limits show: compare the
ways of one run, which took turns, and not the seconds of two.
"""

GROWTH = """
- **Rows**: linearly; a screen holds one window of rows at a time, whatever their number.
- **Length**: linearly in tokens, until attention, which grows with the square of a text's length,
  outweighs the weights. Batches are formed of rows of like length.
- **Layers**: a forward ends at the deepest layer that is read. With vLLM it never does.
- **Traits**: a trait is one more column of a product [tokens, hidden] x [hidden, traits], beside
  the network's own products next to nothing.
- **Steering configurations**: rows of one batch; a configuration costs no call of its own.

The table shows the first four, each changed alone.
"""


def table(*cells: tuple[object, ...]) -> list[str]:
    head, *body = [f"| {' | '.join(map(str, row))} |" for row in cells]
    return ["", head, f"|{' --- |' * len(cells[0])}", *body]


def over(slow: list[float], fast: list[float]) -> str:
    """The ratio of the medians, with its range over all pairs of repeats."""
    middle = statistics.median(slow) / statistics.median(fast)
    return f"{middle:.2f} ({min(slow) / max(fast):.2f} to {max(slow) / min(fast):.2f})"


def limits(found: dict[str, Any]) -> str:
    limit = found["limits"]
    return (
        f"at most {limit['operations'] / 1e12:.2f} TFLOP/s and {limit['bandwidth'] / 1e9:.0f} GB/s"
    )


def capture(found: dict[str, Any]) -> list[str]:
    seconds, share = found["seconds"], found["share_of_limit"]
    pairs = [
        (f"capture, {depth}", f"one text at a time, {depth}", f"loop, {depth}")
        for depth in ("every layer", "middle layer")
    ]
    lines = [
        (
            way,
            f"{statistics.median(seconds[way]):.2f}",
            label,
            f"{statistics.median(seconds[baseline]):.2f}",
            over(seconds[baseline], seconds[way]),
            f"{share[way]:.0%}",
        )
        for way, label, baseline in pairs
    ]
    taken = over(seconds["generation with capture"], seconds["generation"])
    return [
        f"{found['texts']} texts, {found['tokens']} tokens, {len(seconds['generation'])} repeats; "
        f"{limits(found)}.",
        *table(("way", "s", "baseline", "s", "ratio (range over pairs)", "of the limit"), *lines),
        "",
        f"Generation with capture takes {taken} times as long as without. {memory(found)}",
    ]


def mixed_batch(found: dict[str, Any]) -> list[str]:
    seconds, share = found["seconds"], found["share_of_limit"]
    ratio = over(seconds["one call each"], seconds["mixed"])
    medians = found["median_seconds"]
    return [
        f"{found['configurations']} steering configurations of {found['questions']} questions in "
        f"one batch take {medians['mixed']:.1f} s, {share['mixed']:.0%} of the limit "
        f"({limits(found)}); one `generate` call for each takes "
        f"{medians['one call each']:.1f} s: {ratio} times as long. {memory(found)}"
    ]


def extraction(found: dict[str, Any]) -> list[str]:
    names = {
        "personavec": "this package",
        "plain": "the plain way",
        "baseline": "its version before one engine (d1cc713)",
    }
    lines = [
        (
            names[way],
            f"{statistics.median(run['seconds'] for run in runs):.0f}",
            f"{statistics.median(run['processor_seconds'] for run in runs):.0f}",
            _ratio(found["ratios"][way]["seconds"]) if way in found["ratios"] else "",
        )
        for way, runs in found["runs"].items()
    ]
    return [
        f"About a tenth of a standard extraction, {len(found['runs']['plain'])} repeats; "
        f"{limits(found)}.",
        *table(("way", "s", "processor s", "times as long (range)"), *lines),
    ]


def _ratio(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} ({found['least']:.2f} to {found['most']:.2f})"


def generation(found: dict[str, Any]) -> list[str]:
    seconds, tokens = found["seconds"], found["tokens"]
    ours, shares = seconds["engine, capture"], found["shares"]
    lines = [
        (
            way,
            f"{statistics.median(took):.1f}",
            statistics.median(tokens[way]),
            over(took, ours) if way != "engine, capture" else "",
        )
        for way, took in seconds.items()
    ]
    return [
        f"{found['prompts']} prompts of an extraction, {found['prompt_tokens']} tokens in all, "
        f"which share beginnings; {len(ours)} repeats; the engine reaches "
        f"{found['share_of_limit']:.0%} of the limit ({limits(found)}).",
        *table(("way", "s", "response tokens", "times as long (range over pairs)"), *lines),
        "",
        f"{shares['outside_forward']:.1%} of the engine's time passes outside the model's forward, "
        f"{shares['choosing']:.1%} goes to choosing tokens.",
    ]


def threads(found: dict[str, Any]) -> list[str]:
    lines = []
    for way, took in found["seconds"].items():
        one, two = (statistics.median(took[jobs]) for jobs in ("1", "2"))
        lines.append((way, f"{one:.2f}", f"{two:.2f}", f"{two / one:.2f}"))
    return [
        f"{found['machine']['threads']} cores; medians of repeats that took turns.",
        *table(("waiting", "one job, s", "two side by side, s", "times as long"), *lines),
    ]


def memory(found: dict[str, Any]) -> str:
    peak = found["peak_mib"]
    return (
        f"Peak memory {peak['1x']:.0f} MiB, and {peak['10x']:.0f} MiB on ten times as many texts."
    )


def screen(found: dict[str, Any]) -> list[str]:
    plain, ours = (found[f"{way}_tokens_per_second"] for way in ("plain", "screen"))
    text = (
        f"{found['rows']} rows of {found['lengths']['from']} to {found['lengths']['to']} tokens, "
        f"{found['traits']} traits at layer {found['layer']}: {statistics.median(ours):.0f} "
        f"tokens/s, {over(ours, plain)} times the plain loop's; {found['share_of_limit']:.0%} of "
        f"the limit ({limits(found)})."
    )
    short = [
        f"{run['rows']} rows {run['ms_per_row']:.2f} ms a row and {run['peak_mib']:.0f} MiB"
        for run in found["short"]
    ]
    return [f"{text} Short rows, in processes of their own: {', '.join(short)}."]


def ray(found: dict[str, Any]) -> list[str]:
    one, many = (
        [entry["tokens_per_second"] for entry in found[way]] for way in ("one_process", "ray")
    )
    return [
        f"{found['workers']} workers on a local Ray cluster reach {over(many, one)} times the "
        f"rate of one process on the same cores ({statistics.median(many):.0f} and "
        f"{statistics.median(one):.0f} tokens/s); a window costs the driver "
        f"{1000 * found['driver_seconds_per_window']:.1f} ms. What this means for many devices: "
        "[scale.md](scale.md#figures)."
    ]


def contrast_judge(found: dict[str, Any]) -> list[str]:
    off, itself, exact = (
        found[key] for key in ("nats_per_token_off", "plain_off_itself", "float32_off")
    )
    seconds = {way: statistics.median(took) for way, took in found["seconds"].items()}
    judge, spared = (
        f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        for ratio in (found["ratios"][way] for way in ("judge", "spared"))
    )
    return [
        f"{found['responses']} responses in {found['dtype']} take {seconds['judge']:.0f} s, "
        f"{found['share_of_limit']:.0%} of the limit ({limits(found)}); the plain way takes "
        f"{seconds['plain']:.0f} s, {judge} times as long, and {spared} times as long as where "
        "generation gave the responses' own log-probabilities (range over repeats). Scores "
        f"differ by {off['mean']:.1e} nats a token on average and {off['max']:.1e} at most; "
        f"the plain way differs from itself in other batches by {itself['mean']:.1e} and "
        f"{itself['max']:.1e}; in float32 the difference is {exact['max']:.1e} at most."
    ]


def judge_throughput(found: dict[str, Any]) -> list[str]:
    seconds = sorted(found["seconds"])
    shares = [found["calls"] / s / found["allowed_per_second"] for s in (seconds[-1], seconds[0])]
    return [
        f"The API judge reaches {found['share']:.1%} of what {found['concurrency']} calls at a "
        f"time allow against a server that answers in {1000 * found['server_seconds']:.0f} ms "
        f"(median of {len(seconds)} runs of {found['calls']} calls, {shares[0]:.1%} to "
        f"{shares[1]:.1%}). Asked again, it calls nobody."
    ]


def training_step(found: dict[str, Any]) -> list[str]:
    ratio = found["ratio"]
    return [
        f"{found['rows']} rows of {found['tokens']} tokens take {found['plain']:.2f} s, with "
        f"preventative steering {found['steered']:.2f} s, {found['share_of_limit']:.0%} of the "
        f"limit ({limits(found)}): {ratio['value']:.3f} times as long ({ratio['low']:.3f} to "
        f"{ratio['high']:.3f}, 95%, median of {found['pairs']} pairs)."
    ]


def serve(found: dict[str, Any]) -> list[str]:
    rates, first = found["tokens_per_second"], found["first_token_seconds"]
    share = found["share_of_limit"]
    ratios = [
        (name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
        for name, (middle, low, high) in found["ratios"].items()
    ]
    return [
        f"{found['clients']} clients over HTTP, {found['tokens']} tokens a reply, beside one "
        f"`generate` of the same prompts in one batch; medians of {found['repeats']} repeats; "
        f"readings are along seven traits; {limits(found)}.",
        *table(
            ("way", "tokens/s", "of the limit"),
            *((way, f"{rate:.0f}", f"{share[way]:.0%}") for way, rate in rates.items()),
        ),
        *table(("throughput", "ratio", "range over repeats"), *ratios),
        "",
        f"First token of {first['n']} streams under this load: after {first['p50']:.2f} s (p50), "
        f"{first['p99']:.2f} s (p99).",
    ]


def conversations(found: dict[str, Any]) -> list[str]:
    first, whole = found["ratios"]["first token"], found["ratios"]["all"]
    kept, anew = (statistics.median(found["first_token_p50"][way]) for way in ("kept", "read anew"))
    return [
        f"{found['clients']} conversations of {found['turns']} turns after one system prompt of "
        f"{found['system_tokens']} tokens, replies of {found['tokens']} tokens: the first token "
        f"comes after {kept:.2f} s (p50) where beginnings are kept, and after {anew:.2f} s where "
        f"prompts are read anew: {first[0]:.2f} ({first[1]:.2f} to {first[2]:.2f}) times as late; "
        f"all take {whole[0]:.2f} ({whole[1]:.2f} to {whole[2]:.2f}) times as long."
    ]


def vllm(found: dict[str, Any]) -> list[str]:
    medians, share = found["median_tokens_per_second"], found["share_of_limit"]
    return [
        f"vLLM {found['engine']['version']}: {found['requests']} responses of an extraction, up to "
        f"{found['max_tokens']} tokens each, after {found['prompt_tokens']} prompt tokens in all; "
        f"{limits(found)}.",
        *table(
            ("way", "response tokens/s", "of the limit"),
            *((way, f"{rate:.0f}", f"{share[way]:.0%}") for way, rate in medians.items()),
        ),
        *table(
            ("ratio", "of medians"), *((n, f"{ratio:.2f}") for n, ratio in found["ratios"].items())
        ),
    ]


def accelerator(found: dict[str, Any]) -> list[str]:
    lines = [
        (
            row["model"],
            row["what"].strip(),
            f"{row['tokens_per_second']:,.0f}" if "tokens_per_second" in row else "",
            f"{row['share_of_limit']:.0%}" if "share_of_limit" in row else "",
            f"{row['share_of_time']:.1%} of the time"
            if "share_of_time" in row
            else f"{row['ratio']:.2f}"
            if "ratio" in row
            else "",
        )
        for row in found["rows"]
    ]
    return [
        f"{found['machine']['device']}, {found['seconds']:.0f} s in all; {limits(found)}.",
        *table(("model", "what", "tokens/s", "of the limit", "ratio"), *lines),
    ]


def growth(found: dict[str, Any]) -> list[str]:
    return [*accelerator(found), GROWTH.rstrip()]


#: Title, and for each benchmark below it: its record's name, its command, how it is told.
Section = tuple[str, str, Callable[[dict[str, Any]], list[str]]]
SECTIONS: dict[str, tuple[Section, ...]] = {
    "An extraction": (
        ("extract", "benchmarks/extract.py --baseline PATH", extraction),
        ("generation", "benchmarks/generation.py", generation),
        ("threads", "benchmarks/threads.py", threads),
    ),
    "Capture and steering": (
        ("capture", "benchmarks/capture.py", capture),
        ("mixed_batch", "benchmarks/mixed_batch.py", mixed_batch),
    ),
    "Screening": (
        ("screen", "benchmarks/screen.py", screen),
        ("ray_screen", "benchmarks/ray_screen.py", ray),
    ),
    "Judging": (
        ("contrast_judge", "benchmarks/contrast_judge.py --questions 6", contrast_judge),
        ("judge_throughput", "benchmarks/judge_throughput.py", judge_throughput),
    ),
    "A training step": (("training_step", "benchmarks/training_step.py", training_step),),
    "Serving": (
        ("serve", "benchmarks/serve.py", serve),
        ("conversations", "benchmarks/conversations.py", conversations),
    ),
    "vLLM": (("vllm_engine", "benchmarks/vllm_engine.py", vllm),),
    "How the cost grows": (
        ("processor", "benchmarks/gpu.py --shapes smollm2 --device cpu", growth),
    ),
    "On one accelerator": (("gpu", "benchmarks/gpu.py", accelerator),),
}


def told(section: Section) -> list[str]:
    name, command, tell = section
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return ["", f"Not measured yet: `python {command}`."]
    found = json.loads(path.read_text("utf-8"))
    machine = found["machine"]
    processor = machine if isinstance(machine, str) else machine["processor"]
    where = f"{found['date']}, {processor}"
    return ["", f"`python {command}` ({where}).", "", *tell(found)]


def main() -> None:
    out = [INTRODUCTION.rstrip(), "", MACHINE.rstrip()]
    for title, sections in SECTIONS.items():
        out += ["", f"## {title}"]
        for section in sections:
            out += told(section)
    (ROOT / "docs" / "performance.md").write_text("\n".join(out) + "\n", "utf-8")


if __name__ == "__main__":
    main()
