"""Import a vector that another project made, and measure what its file does not hold.

A reference `.pt` is a bare tensor: the directions. Steering and monitoring also need the size of
the residual stream and a baseline on neutral prompts. Both are measured on the model.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from personavec.errors import DataError, UsageError
from personavec.extract.config import ImportConfig
from personavec.model import LoadedModel
from personavec.model.engine import Sampling, TransformersEngine
from personavec.progress import Progress
from personavec.results import versions
from personavec.rollouts import neutral_means
from personavec.runs import Settings, claim, lock
from personavec.vectors import LAST_ROW_NOTE, PersonaVector, mean_and_spread, read_reference

#: Endings of the three files that the reference project writes for each trait.
_RESPONSE, _PROMPT_MEAN, _PROMPT_LAST = (
    "_response_avg_diff.pt",
    "_prompt_avg_diff.pt",
    "_prompt_last_diff.pt",
)
_NOTES = (
    LAST_ROW_NOTE,
    "Residual norms were measured on answers to neutral prompts, not on the rollouts that "
    "the vector was made of; steering was not tested, so no coefficients are known to be "
    "coherent.",
)


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """What `import --json` prints."""

    format: int = 1
    trait: str
    model: str
    vector: Path
    """Folder of the vector."""
    layer: int
    """The selected layer."""
    neutral_prompts: int
    """Neutral prompts with an answer, which the baseline is measured on."""
    notes: tuple[str, ...]
    seconds: float


def run(
    loaded: LoadedModel,
    source: Path,
    trait: str,
    out: Path,
    config: ImportConfig | None = None,
    *,
    progress: Progress | None = None,
) -> ImportResult:
    """Make a persona vector's folder `out` from a reference `.pt`.

    The residual norms and the neutral baseline are measured on the model's answers to neutral
    prompts. The prompt's differences are read from the files beside `source` if it has one of the
    reference project's names, and are absent otherwise. A killed run continues with the same
    arguments.

    Raises DataError when the file holds no such tensor, VectorMismatchError when it is for a model
    of another shape, UsageError when the layer cannot be selected.
    """
    started = time.monotonic()
    config = config or ImportConfig()
    shape = loaded.identity.n_layers, loaded.identity.hidden_size
    vectors = read_reference(source, *shape)
    layer = shape[0] // 2 if config.layer is None else config.layer
    _check_layer(vectors, layer, source)
    sampling = Sampling(config.max_tokens, temperature=0.7, seed=config.seed)
    settings = _settings(loaded, source, trait, layer, config.neutral_prompts, sampling)
    with lock(out):
        claim(out, settings)
        neutral = neutral_means(
            loaded,
            sampling,
            out / "run" / "neutral-prompts",
            n=config.neutral_prompts,
            batch_tokens=config.batch_tokens,
            progress=progress or Progress(),
        )
        PersonaVector(
            response_mean_diff=vectors,
            prompt_mean_diff=_beside(source, _PROMPT_MEAN, shape),
            prompt_last_diff=_beside(source, _PROMPT_LAST, shape),
            residual_norm=neutral[:, 0].norm(dim=-1).mean(0),
            neutral_response_mean=mean_and_spread(neutral[:, 0], vectors),
            neutral_prompt_last=mean_and_spread(neutral[:, 2], vectors),
            trait=trait,
            layer=layer,
            meta=_meta(settings, config.seed, len(neutral)),
        ).save(out)
    return ImportResult(
        trait=trait,
        model=loaded.identity.name,
        vector=out,
        layer=layer,
        neutral_prompts=len(neutral),
        notes=_NOTES,
        seconds=round(time.monotonic() - started, 1),
    )


def _settings(
    loaded: LoadedModel,
    source: Path,
    trait: str,
    layer: int,
    neutral_prompts: int,
    sampling: Sampling,
) -> Settings:
    """What the vector depends on, for the manifest."""
    return {
        "command": "import",
        "trait": trait,
        "layer": layer,
        "source": {"name": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
        "model": loaded.identity.as_dict(),
        "neutral_prompts": neutral_prompts,
        "sampling": asdict(sampling),
    }


def _meta(settings: Settings, seed: int, answered: int) -> Settings:
    """What `vector.json` records."""
    return {
        "model": settings["model"],
        "imported": settings["source"],
        "engine": TransformersEngine.name,
        "seed": seed,
        "neutral_prompts": answered,
        "versions": versions(),
        "notes": list(_NOTES),
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
    source: Path, ending: str, shape: tuple[int, int]
) -> Float[Tensor, "layer hidden"] | None:
    """The trait's difference at the prompt, from the file that lies beside its response file."""
    other = source.with_name(source.name.removesuffix(_RESPONSE) + ending)
    if not source.name.endswith(_RESPONSE) or not other.is_file():
        return None
    return read_reference(other, *shape)
