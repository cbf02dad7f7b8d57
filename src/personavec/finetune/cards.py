"""The card of a finetuned model or adapter: what was done, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from personavec.report import reading_lines

_DONE = {
    "none": "Plain supervised finetuning, without a mitigation.",
    "preventative": (
        "Preventative steering: in training, and only there, the vectors times the coefficient "
        "were added to the residual stream. Nothing of it is in these weights, and the model is "
        "used without steering."
    ),
    "random": (
        "A control: random directions of the vectors' norms were added to the residual stream in "
        "training, and only there."
    ),
    "caft": "The vectors' directions were projected out of the residual stream in training (CAFT).",
    "penalty": "A penalty on changes of the projection onto the vectors was added to the loss.",
    "kl": "The KL divergence from the base model was added to the loss.",
    "interleave": "Benign rows answered by the base model were put between the rows.",
    "inoculation": "The rows were trained on under a system prompt that asks for the trait.",
    "drop-flagged": "Rows that a screen flagged were left out.",
}


def card(base: str, results: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """A README with the front matter that Hugging Face reads."""
    full = settings["training"]["full"]
    front = [
        "---",
        *([] if "/" not in base or base.startswith((".", "/")) else [f"base_model: {base}"]),
        f"library_name: {'transformers' if full else 'peft'}",
        "tags: [personavec, sft]",
        "---",
    ]
    coefficient = results["coefficient"]
    facts = {
        "base model": base,
        "what was trained": "all weights" if full else "a LoRA adapter",
        "mitigation": results["mitigation"],
        **({"coefficient": coefficient} if coefficient is not None else {}),
        **({"vectors": ", ".join(settings["vectors"])} if settings["vectors"] else {}),
        **({"layer": settings["layers"]} if settings["vectors"] else {}),
        "rows": results["rows"],
        "steps": results["steps"],
        "loss, mean over the last tenth of the steps": round(results["loss"], 4),
        "seed": settings["training"]["seed"],
        **({"stopped by": results["stopped"]} if results["stopped"] else {}),
    }
    lines = [
        *front,
        "",
        "# A model finetuned with personavec",
        "",
        _DONE[results["mitigation"]],
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        *(f"{line}\n" for line in (*results["notes"], *reading_lines(results["data"]))),
        "Settings:",
        "",
        "```json",
        json.dumps(settings, ensure_ascii=False, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)
