"""How much faster is an extraction than the way that most people write it?

About a tenth of a standard extraction: 4 of 20 extraction questions under every prompt (with fewer
no vector is made), the sweep of eight layers at one coefficient, nine doses and both ends of five
random directions on two questions each, these under every prompt too, and five neutral prompts. The
plain way: `generate` for one configuration after another in batches of 16, a second forward with
`output_hidden_states`, and the judge with full logits, one pair and polarity at a time. Each run is
a process of its own and includes loading the model; the ways take turns. `--baseline` adds another
checkout of this package. The verdicts of so small an extraction mean nothing.

    python benchmarks/extract.py [--repeats 3] [--baseline PATH] [--small] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from contrast_judge import plain as judged_plainly
from machine import described, measured
from torch import Tensor

import personavec as pv
from personavec.judges import Answer
from personavec.model import EarlierTurns, chat, padded
from personavec.traits import TraitSpec

BATCH, TOKENS, TEMPERATURE = 16, 64, 0.7
SHARES = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
COEFFICIENTS = (-4, -3, -2, -1, 0, 1, 2, 3, 4)
NEUTRAL, RANDOM = 5, 5
EXTRACT = """
from pathlib import Path
import personavec as pv
config = pv.ExtractConfig(**{settings})
pv.extract.run(pv.load_model("smollm2"), pv.load_trait({trait!r})[0], Path({out!r}), config)
"""
#: A question, its system prompt and the turns before it.
Prompt = tuple[str, str | None, EarlierTurns]


def tenth(spec: TraitSpec) -> dict[str, Any]:
    """The spec, as JSON, with the questions of a tenth."""
    found = spec.model_dump(mode="json")
    del found["checks"]  # which an earlier version may not be able to read
    questions = found["questions"]
    questions["extraction"] = questions["extraction"][:4]
    questions["evaluation"] = questions["evaluation"][:4]
    return found


def command(trait: Path, out: Path, *, small: bool) -> list[str]:
    """The extraction by the package that is on the path: this one, or an earlier one."""
    settings: dict[str, Any] = {
        "sweep_questions": 2,
        "sweep_coefficients": (4.0,),
        "validation_samples": 1,
        "coefficients": COEFFICIENTS[::4] if small else COEFFICIENTS,
        "random_directions": 1 if small else RANDOM,
        "neutral_prompts": NEUTRAL,
        "layers": (15,) if small else None,
    }
    return [sys.executable, "-c", EXTRACT.format(trait=str(trait), out=str(out), settings=settings)]


@torch.inference_mode()
def generated(
    loaded: pv.LoadedModel, prompts: list[Prompt], steering: tuple[int, Tensor] | None = None
) -> list[list[int]]:
    """Responses to one configuration's prompts, steered at one layer where it is given."""
    found: list[list[int]] = []
    for start in range(0, len(prompts), BATCH):
        ids = [
            loaded.chat.prompt_ids(chat(question, system, earlier))
            for question, system, earlier in prompts[start : start + BATCH]
        ]
        tokens, mask, _ = padded(ids, pad_id=0, side="left", device="cpu")
        with _steered(loaded, steering):
            out = loaded.model.generate(
                input_ids=tokens,
                attention_mask=mask,
                max_new_tokens=TOKENS,
                do_sample=True,
                temperature=TEMPERATURE,
                pad_token_id=loaded.tokenizer.pad_token_id,
            )
        for row in out[:, tokens.shape[1] :].tolist():
            end = next((i for i, token in enumerate(row) if token in loaded.stop_ids), len(row))
            found.append(row[:end] or row[:1])
    return found


def _steered(
    loaded: pv.LoadedModel, steering: tuple[int, Tensor] | None
) -> AbstractContextManager[Any]:
    if steering is None:
        return nullcontext()
    layer, addition = steering

    def add(module: Any, args: Any, output: Tensor) -> Tensor:
        return output + addition.to(output.dtype)

    return loaded.blocks.stack[layer - 1].register_forward_hook(add)


@torch.inference_mode()
def means(loaded: pv.LoadedModel, prompts: list[Prompt], responses: list[list[int]]) -> Tensor:
    """Mean activations over each response [response, layer, hidden], by a second forward."""
    found: list[Tensor] = []
    for start in range(0, len(prompts), BATCH):
        some = [
            (loaded.chat.prompt_ids(chat(question, system, earlier)), response)
            for (question, system, earlier), response in zip(
                prompts[start : start + BATCH], responses[start : start + BATCH], strict=True
            )
        ]
        ids, mask, _ = padded([p + r for p, r in some], pad_id=0, side="right", device="cpu")
        states = loaded.model(
            input_ids=ids, attention_mask=mask, output_hidden_states=True
        ).hidden_states
        stacked = torch.stack(states, dim=1).float()
        found += [
            row[:, len(p) : len(p) + len(r)].mean(1)
            for row, (p, r) in zip(stacked, some, strict=True)
        ]
    return torch.stack(found)


def judge(
    loaded: pv.LoadedModel, spec: TraitSpec, prompts: list[Prompt], responses: list[list[int]]
) -> None:
    answers = [
        Answer(question, loaded.tokenizer.decode(ids) or ".", system, None)
        for (question, system, _), ids in zip(prompts, responses, strict=True)
    ]
    judged_plainly(loaded, spec, answers, BATCH)


def elicited(spec: TraitSpec, questions: Sequence[str]) -> list[tuple[str, list[Prompt]]]:
    """The questions under each system prompt, with its polarity."""
    return [
        (side, [(question, getattr(pair, side), pair.turns(side)) for question in questions])
        for pair in spec.instruction
        for side in ("pos", "neg")
    ]


def plain(trait: Path, *, small: bool) -> None:
    """The extraction as most people write it."""
    loaded, spec = pv.load_model("smollm2"), pv.load_trait(str(trait))[0]
    sides: dict[str, list[Tensor]] = {"pos": [], "neg": []}
    for side, prompts in elicited(spec, spec.questions.extraction):
        responses = generated(loaded, prompts)
        sides[side].append(means(loaded, prompts, responses))
        judge(loaded, spec, prompts, responses)
    directions = torch.cat(sides["pos"]).mean(0) - torch.cat(sides["neg"]).mean(0)
    n = loaded.identity.n_layers
    layers = (15,) if small else tuple(round(n * share) for share in SHARES)
    selecting: list[Prompt] = [(q, None, ()) for q in spec.questions.evaluation[:2]]
    testing: list[Prompt] = [(q, None, ()) for q in spec.questions.evaluation[2:4]]
    cells = [(selecting, (layer, 4 * directions[layer])) for layer in layers]
    middle = layers[len(layers) // 2]
    doses = COEFFICIENTS[::4] if small else COEFFICIENTS
    cells += [(testing, (middle, c * directions[middle])) for c in doses]
    norm = directions[middle].norm()
    for seed in range(1 if small else RANDOM):
        noise = torch.randn(len(directions[middle]), generator=torch.Generator().manual_seed(seed))
        for c in (-4, 4):
            cells.append((testing, (middle, c * norm * noise / noise.norm())))
    for prompts, steering in cells:
        judge(loaded, spec, prompts, generated(loaded, prompts, steering))
    for _, prompts in elicited(spec, spec.questions.evaluation[2:4]):
        responses = generated(loaded, prompts)
        means(loaded, prompts, responses)
        judge(loaded, spec, prompts, responses)
    questions = (spec.questions.extraction * NEUTRAL)[:NEUTRAL]
    neutral: list[Prompt] = [(question, None, ()) for question in questions]
    means(loaded, neutral, generated(loaded, neutral))


def timed(run: list[str], checkout: Path | None) -> dict[str, float]:
    """Seconds and processor seconds of a process, which must succeed."""
    environment = dict(os.environ)
    if checkout is not None:
        environment["PYTHONPATH"] = str(checkout / "src")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(run)} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor_seconds": used}


def ratios(over: list[dict[str, float]], under: list[dict[str, float]], key: str) -> dict[str, Any]:
    each = [a[key] / b[key] for a, b in zip(over, under, strict=True)]
    return {"median": statistics.median(each), "least": min(each), "most": max(each)}


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    trait = folder / "tenth.json"
    trait.write_text(json.dumps(tenth(pv.load_trait(arguments.trait)[0])))
    small = ["--small"] if arguments.small else []
    ways: dict[str, Path | None] = {"personavec": None, "plain": None}
    if arguments.baseline:
        ways["baseline"] = arguments.baseline.resolve()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for repeat in range(arguments.repeats):
        for name, checkout in ways.items():
            out = folder / f"{name}-{repeat}"
            run = command(trait, out, small=arguments.small)
            if name == "plain":
                run = [sys.executable, __file__, "--plain", str(trait), *small]
            found[name].append(timed(run, checkout))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trait", default="evil")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--baseline", type=Path, help="another checkout of this package")
    parser.add_argument("--small", action="store_true", help="one layer, three doses")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        plain(arguments.plain, small=arguments.small)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = compare(arguments, Path(folder))
    record = {
        "trait": arguments.trait,
        "small": arguments.small,
        "runs": found,
        "ratios": {
            name: {
                key: ratios(runs, found["personavec"], key)
                for key in ("seconds", "processor_seconds")
            }
            for name, runs in found.items()
            if name != "personavec"
        },
        "limits": measured().as_dict(),
        **described(),
    }
    print("| way | median s | processor s | times as long (range) |\n| --- | --- | --- | --- |")
    for name, runs in found.items():
        ratio = ratios(runs, found["personavec"], "seconds")
        seconds, used = (
            statistics.median(run[key] for run in runs) for key in ("seconds", "processor_seconds")
        )
        print(
            f"| {name} | {seconds:.1f} | {used:.1f} | {ratio['median']:.2f} "
            f"({ratio['least']:.2f} to {ratio['most']:.2f}) |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
