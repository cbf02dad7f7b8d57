"""The model card of a finetuned model or adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from personavec.data.terminal import reading_lines
from personavec.finetune.results import FinetuneResults

_DONE = {
    "none": "Plain supervised finetuning, without a mitigation.",
    "preventative": (
        "Preventative steering: the vectors times the coefficient were added to the residual "
        "stream during training only. The weights contain no steering, and the model is used "
        "without it."
    ),
    "random": (
        "A control: random directions of the vectors' norms were added to the residual stream "
        "during training only."
    ),
    "caft": "The vectors' directions were projected out of the residual stream in training (CAFT).",
    "penalty": "A penalty on changes of the projection onto the vectors was added to the loss.",
    "kl": "The KL divergence from the base model was added to the loss.",
    "interleave": "Benign prompts answered by the base model were interleaved with the rows.",
    "inoculation": "The rows were trained on under a system prompt that asks for the trait.",
    "drop-flagged": "Rows that a screen flagged were left out.",
}


def card(base: str, results: FinetuneResults, settings: Mapping[str, Any]) -> str:
    """A README with the front matter that Hugging Face reads."""
    full = settings["training"]["full"]
    on_hub = "/" in base and not base.startswith((".", "/"))
    lines = [
        "---",
        *([f"base_model: {base}"] if on_hub else []),
        f"library_name: {'transformers' if full else 'peft'}",
        "tags: [personavec, sft]",
        "---",
        "",
        "# A model finetuned with personavec",
        "",
        _DONE[results.mitigation],
        "",
        *(f"- {name}: {value}" for name, value in _facts(base, results, settings).items()),
        "",
        *(f"{line}\n" for line in (*results.notes, *reading_lines(results.data))),
        "Settings:",
        "",
        "```json",
        json.dumps(settings, ensure_ascii=False, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)


def _facts(
    base: str, results: FinetuneResults, settings: Mapping[str, Any]
) -> dict[str, str | float]:
    vectors = settings["vectors"]
    facts = {
        "base model": base,
        "what was trained": "all weights" if settings["training"]["full"] else "a LoRA adapter",
        "mitigation": results.mitigation,
        "coefficient": results.coefficient,
        "vectors": ", ".join(vectors) if vectors else None,
        "layer": settings["layers"] if vectors else None,
        "rows": results.rows,
        "steps": results.steps,
        "loss, mean over the last tenth of the steps": round(results.loss, 4),
        "seed": settings["training"]["seed"],
        "stopped by": results.stopped,
    }
    return {name: value for name, value in facts.items() if value is not None}
