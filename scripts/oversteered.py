"""Answers of models steered past their range, to be labelled by reading.

`python scripts/oversteered.py OUT.jsonl` steers the embedded model along the bundled vectors and
along random directions, at both signs, and asks tiny random models. `--model GGUF` steers another
model along directions that it makes itself of the bundled traits' instructions.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from tiny_models import ARCHITECTURES, build

from personavec import LoadedModel, load_model
from personavec.model import Steering, chat
from personavec.model.engine import Request, Sampling, TransformersEngine
from personavec.traits import load_trait
from personavec.vectors import bundled_vectors, load_vector

#: Coefficients on vectors whose coherent range ends at 2 to 4.
DOSES = (-12, -9, -7, -5, 5, 7, 9, 12)
#: Coefficients within that range, of which most answers are sound.
MILD = (-2, 2)
#: Norms of random directions, and of the second model's, as multiples of the residual's norm.
RELATIVE = (0.5, 0.8, 1.2, 2.0)
PER_DOSE = 4
SAMPLING = Sampling(max_tokens=64, temperature=0.7)
Row = dict[str, Any]
Steered = tuple[str, Steering]


def questions() -> list[str]:
    """The distinct questions of all bundled traits, shuffled."""
    kinds = ("extraction", "evaluation")
    specs = [load_trait(name)[0] for name in bundled_vectors()]
    found = {q for spec in specs for kind in kinds for q in getattr(spec.questions, kind)}
    shuffled = sorted(found)
    random.Random(0).shuffle(shuffled)
    return shuffled


def answers(loaded: LoadedModel, steered: list[Steered], writer: str, skip: int = 0) -> list[Row]:
    """PER_DOSE answers for each way of steering, to questions in turn from `skip` on."""
    asked = questions()
    requests, rows = [], {}
    for i, (source, action) in enumerate(steered):
        for j in range(PER_DOSE):
            question = asked[(skip + i * PER_DOSE + j) % len(asked)]
            key = f"{source}/{j}"
            prompt = tuple(loaded.chat.prompt_ids(chat(question)))
            requests.append(Request(key, prompt, (action,) if action.coefficient else ()))
            rows[key] = {"prompt": question, "from": f"{writer}, {source}"}
    for batch in TransformersEngine(loaded, 1 << 13).generate(requests, SAMPLING):
        for found in batch:
            rows[found.id] |= {
                "answer": loaded.chat.decode(found.response_ids),
                "cut": not found.finished,
            }
    return [row for row in rows.values() if row.get("answer", "").strip()]


def along_bundled(doses: tuple[int, ...]) -> list[Steered]:
    """The bundled vectors at their own layers."""
    vectors = [load_vector(name) for name in bundled_vectors()]
    return [
        (
            f"{v.trait} at layer {v.layer}, {dose:+d}",
            Steering(v.layer, v.direction(), float(dose)),
        )
        for v in vectors
        for dose in doses
    ]


def residual(loaded: LoadedModel, question: str, layer: int, system: str | None = None):
    """Mean hidden state [hidden] of an answer's first tokens at a layer."""
    prompt = tuple(loaded.chat.prompt_ids(chat(question, system)))
    [[found]] = TransformersEngine(loaded, 1 << 13).generate(
        [Request(question, prompt)], Sampling(max_tokens=16, temperature=0), capture=True
    )
    assert found.activations is not None
    return found.activations[0, layer].float()


def along_random(loaded: LoadedModel, layers: tuple[int, ...]) -> list[Steered]:
    """A random direction for each layer, in units of the residual's norm there."""
    found = []
    for layer in layers:
        noise = torch.randn(loaded.identity.hidden_size, generator=torch.manual_seed(layer))
        unit = noise / noise.norm() * residual(loaded, questions()[0], layer).norm()
        for size in RELATIVE:
            found.append((f"random at layer {layer}, {size:+g}", Steering(layer, unit, size)))
    return found


def along_own(loaded: LoadedModel, layer: int) -> list[Steered]:
    """The traits' directions in a model that nobody extracted: means of a few answers."""
    found = []
    for name in bundled_vectors():
        spec = load_trait(name)[0]
        pair, asked = spec.instruction[0], spec.questions.extraction[:4]
        diffs = [
            residual(loaded, q, layer, pair.pos) - residual(loaded, q, layer, pair.neg)
            for q in asked
        ]
        size = residual(loaded, asked[0], layer).norm()
        mean = torch.stack(diffs).mean(0)
        for dose in (*RELATIVE[:3], *(-r for r in RELATIVE[:3])):
            action = Steering(layer, mean / mean.norm() * size, dose)
            found.append((f"{name} at layer {layer}, {dose:+g} of the residual", action))
    return found


def tiny() -> list[Row]:
    """Four answers of each tiny random model."""
    rows = []
    for name in ARCHITECTURES:
        loaded = build(name)
        nothing = Steering(1, torch.zeros(loaded.identity.hidden_size), 0.0)
        rows += answers(loaded, [("unsteered", nothing)], f"tiny random {name}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", help="a GGUF file in place of the embedded model")
    options = parser.parse_args()
    loaded = load_model(options.model or "smollm2")
    middle = loaded.identity.n_layers * 5 // 8
    if options.model:
        steered = [*along_own(loaded, middle), *along_random(loaded, (middle, middle - 6))]
        rows = answers(loaded, steered, Path(options.model).stem)
    else:
        steered = [*along_bundled(DOSES), *along_random(loaded, (8, 14, 18, 22))]
        rows = [*answers(loaded, steered, "smollm2"), *tiny()]
        rows += answers(loaded, along_bundled(MILD), "smollm2", skip=100)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    options.out.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{len(rows)} answers in {options.out}")


if __name__ == "__main__":
    main()
