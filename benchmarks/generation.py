"""How much faster does the engine generate with capture than `generate` does without?

The prompts of an extraction: questions under every eliciting prompt, so that many begin alike. The
engine captures the means of every layer; `generate` runs in batches of 32, with and without the
second forward that captures for it. The ways take turns. One more run of the engine, timed inside,
says how much of it passes outside the model's forward, and how much goes to choosing tokens.

    python benchmarks/generation.py [--trait optimistic] [--questions 10] [--repeats 3]
        [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import described, generating, measured

import personavec as pv
from personavec.model import chat, padded
from personavec.model.engine import Generation, Request, Sampling, TransformersEngine, step_loop
from personavec.rollouts import elicitation_tasks

BATCH, TEMPERATURE, TOKENS = 32, 0.7, 64
Prompts = Sequence[tuple[int, ...]]


def engine(
    loaded: pv.LoadedModel, prompts: Prompts, tokens: int, *, capture: bool = True
) -> list[Generation]:
    """Responses of a new engine, which has kept no beginnings yet."""
    requests = [Request(str(i), prompt) for i, prompt in enumerate(prompts)]
    groups = TransformersEngine(loaded).generate(
        requests, Sampling(tokens, TEMPERATURE), capture=capture
    )
    return [generation for group in groups for generation in group]


def tokens_of(found: Sequence[Generation]) -> int:
    """Response tokens, the one that ends each included."""
    return sum(len(g.response_ids) + g.finished for g in found)


@torch.inference_mode()
def plainly(
    loaded: pv.LoadedModel, prompts: Prompts, tokens: int, *, batch: int, capture: bool
) -> int:
    """`generate` in batches; the number of response tokens, the one that ends each included."""
    ends = torch.tensor(sorted(loaded.stop_ids), device=loaded.device)
    total = 0
    for start in range(0, len(prompts), batch):
        ids, mask, _ = padded(
            prompts[start : start + batch], pad_id=0, side="left", device=loaded.device
        )
        found = loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            top_p=1.0,
            eos_token_id=ends.tolist(),
            pad_token_id=0,
        )
        new = found[:, ids.shape[1] :]
        ending = torch.isin(new, ends).long()
        lived = ending.cumsum(-1) == ending  # up to the first that ends it, and with it
        total += int(lived.sum())
        if capture:
            states = loaded.model(
                input_ids=found,
                attention_mask=torch.cat([mask, lived.long()], dim=1),
                output_hidden_states=True,
            ).hidden_states
            weights = lived.float()[..., None] / lived.sum(-1)[:, None, None]
            for state in states:
                (state[:, ids.shape[1] :].float() * weights).sum(1).cpu()
    return total


@contextmanager
def timed_inside(loaded: pv.LoadedModel) -> Iterator[dict[str, float]]:
    """Seconds in the model's forward, prompts included, and in the choice of tokens."""
    found = {"forward": 0.0, "choosing": 0.0}
    began: list[float] = []

    def now() -> float:
        if loaded.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def enter(*_: Any) -> None:
        began.append(now())

    def leave(*_: Any) -> None:
        start = began.pop()
        if not began:  # the outermost of the model and its trunk
            found["forward"] += now() - start

    def choosing(*given: Any) -> Any:
        start = now()
        chosen = choose(*given)
        found["choosing"] += now() - start
        return chosen

    choose = step_loop.choose
    with ExitStack() as stack:
        for module in (loaded.model, loaded.model.get_decoder()):
            for handle in (
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave),
            ):
                stack.callback(handle.remove)
        stack.enter_context(patch.object(step_loop, "choose", choosing))
        yield found


def shares(loaded: pv.LoadedModel, run: Callable[[], Any]) -> dict[str, float]:
    """Of the time of a run: the part outside the model's forward, and that of choosing tokens."""
    start = time.perf_counter()
    with timed_inside(loaded) as found:
        run()
    taken = time.perf_counter() - start
    return {
        "outside_forward": 1 - found["forward"] / taken,
        "choosing": found["choosing"] / taken,
    }


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    each = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trait", default="optimistic")
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    loaded, spec = pv.load_model("smollm2"), pv.load_trait(arguments.trait)[0]
    tasks = elicitation_tasks(spec, spec.questions.extraction[: arguments.questions], 1)
    prompts = [tuple(loaded.chat.prompt_ids(chat(t.question, t.system, t.earlier))) for t in tasks]
    ways: dict[str, Callable[[], int]] = {
        "engine, capture": lambda: tokens_of(engine(loaded, prompts, TOKENS)),
        "generate": lambda: plainly(loaded, prompts, TOKENS, batch=BATCH, capture=False),
        "generate, capture": lambda: plainly(loaded, prompts, TOKENS, batch=BATCH, capture=True),
    }
    engine(loaded, prompts[:4], 4)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, list[int]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            tokens[name].append(way())
            seconds[name].append(time.perf_counter() - start)
    inside = shares(loaded, lambda: engine(loaded, prompts, TOKENS))
    limits = measured()
    length = round(tokens["engine, capture"][0] / len(prompts))
    work = generating(loaded, [len(p) for p in prompts], [length] * len(prompts))
    ours = seconds["engine, capture"]
    print(f"{len(prompts)} prompts, {sum(map(len, prompts))} tokens in all")
    print("| way | s | response tokens | times as long (range) |\n| --- | --- | --- | --- |")
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(f"| {name} | {middle:.1f} | {tokens[name][0]} | {ratio(found, ours)} |")
    print(
        f"outside the model's forward: {inside['outside_forward']:.1%}; "
        f"choosing tokens: {inside['choosing']:.1%}"
    )
    if arguments.json:
        record = {
            "prompts": len(prompts),
            "prompt_tokens": sum(map(len, prompts)),
            "tokens": tokens,
            "seconds": seconds,
            "shares": inside,
            "share_of_limit": limits.share(work, statistics.median(ours)),
            "limits": limits.as_dict(),
            **described(),
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
