"""Take in a vector that another project made, and measure what its file does not hold.

A reference `.pt` is a bare tensor: the directions. What steering and monitoring need beside it,
the size of the residual stream and the baseline of neutral prompts, is measured on the model.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from personavec.errors import DataError, UsageError
from personavec.model import LoadedModel
from personavec.model.engine import Sampling, TransformersEngine
from personavec.progress import Progress
from personavec.results import versions
from personavec.rollouts import neutral_means
from personavec.runs import claim, lock
from personavec.vectors import LAST_ROW_NOTE, PersonaVector, mean_and_spread, read_reference

#: The reference project's three files of a trait end so.
_RESPONSE, _PROMPT_MEAN, _PROMPT_LAST = (
    "_response_avg_diff.pt",
    "_prompt_avg_diff.pt",
    "_prompt_last_diff.pt",
)


def run(
    loaded: LoadedModel,
    source: Path,
    trait: str,
    out: Path,
    *,
    layer: int | None = None,
    neutral_prompts: int = 48,
    max_tokens: int = 64,
    seed: int = 0,
    batch_tokens: int = 16384,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a persona vector's folder `out` of a reference `.pt`; returns what `--json` prints.

    `layer` is the one to use by default (the middle of the network, unless given). The norm of
    the residual stream and the neutral baseline are measured on the model's answers to
    `neutral_prompts` prompts. The prompt's differences are taken from the files beside `source`
    where the reference project's names tell which they are, and are absent otherwise. A killed
    run continues with the same arguments.

    Raises DataError when the file holds no such tensor, VectorMismatchError when it is for a model
    of another shape, UsageError when the layer cannot be selected.
    """
    started = time.monotonic()
    n_layers, hidden_size = loaded.identity.n_layers, loaded.identity.hidden_size
    vectors = read_reference(source, n_layers, hidden_size)
    layer = n_layers // 2 if layer is None else layer
    _check_layer(vectors, layer, source)
    sampling = Sampling(max_tokens, temperature=0.7, seed=seed)
    settings = {
        "command": "import",
        "trait": trait,
        "layer": layer,
        "source": {"name": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
        "model": loaded.identity.as_dict(),
        "neutral_prompts": neutral_prompts,
        "sampling": sampling.__dict__,
    }
    with lock(out):
        claim(out, settings)
        neutral = neutral_means(
            loaded,
            sampling,
            out / "run" / "neutral-prompts",
            n=neutral_prompts,
            batch_tokens=batch_tokens,
            progress=progress or Progress(),
        )
        notes = [
            LAST_ROW_NOTE,
            "Residual norms were measured on answers to neutral prompts, not on the rollouts that "
            "the vector was made of; steering was not tested, so no coefficients are known to be "
            "coherent.",
        ]
        vector = PersonaVector(
            response_mean_diff=vectors,
            prompt_mean_diff=_beside(source, _PROMPT_MEAN, n_layers, hidden_size),
            prompt_last_diff=_beside(source, _PROMPT_LAST, n_layers, hidden_size),
            residual_norm=neutral[:, 0].norm(dim=-1).mean(0),
            neutral_response_mean=mean_and_spread(neutral[:, 0], vectors),
            neutral_prompt_last=mean_and_spread(neutral[:, 2], vectors),
            trait=trait,
            layer=layer,
            meta={
                "model": settings["model"],
                "imported": settings["source"],
                "engine": TransformersEngine.name,
                "seed": seed,
                "neutral_prompts": len(neutral),
                "versions": versions(),
                "notes": notes,
            },
        )
        vector.save(out)
    return {
        "trait": trait,
        "model": loaded.identity.name,
        "vector": str(out),
        "layer": layer,
        "neutral_prompts": len(neutral),
        "notes": notes,
        "seconds": round(time.monotonic() - started, 1),
    }


def _check_layer(vectors: Float[Tensor, "layer hidden"], layer: int, source: Path) -> None:
    last = len(vectors) - 1
    if not 1 <= layer < last:
        why = "is read after the final norm" if layer == last else "cannot be steered"
        raise UsageError(
            f"--layer {layer}: that row of a reference file {why}; use 1 to {last - 1}"
        )
    if not vectors[layer].any():
        raise DataError(f"{source}: its row {layer} is zero; choose another with --layer")


def _beside(
    source: Path, ending: str, n_layers: int, hidden_size: int
) -> Float[Tensor, "layer hidden"] | None:
    """The same trait's other difference, from the file that the reference project wrote beside."""
    other = source.with_name(source.name.removesuffix(_RESPONSE) + ending)
    if not source.name.endswith(_RESPONSE) or not other.is_file():
        return None
    return read_reference(other, n_layers, hidden_size)
