"""Read and write vectors in the formats of the reference project, llama.cpp, vllm-lens, hotwire.

Our layer l is the output of block l, where blocks count from 1. llama.cpp, vllm-lens and hotwire
count blocks from 0, so they call layer l l - 1; the reference project counts as we do. No model is
needed.
"""

from __future__ import annotations

import base64
import io
import json
import math
import pickle
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from personavec.errors import DataError, UsageError, VectorMismatchError
from personavec.runs import atomic_path, atomic_write
from personavec.vectors.vector import PersonaVector

Format = Literal["pt", "gguf", "vllm-lens", "hotwire"]

#: A note on every imported or exported file of the reference project.
LAST_ROW_NOTE = (
    "The reference project reads the last row after the model's final norm, personavec before "
    "it: the last rows of the two cannot be compared."
)

_EVERYWHERE_NOTE = (
    "{} steers the prompt's tokens too, personavec by default only the response's: the "
    "same coefficient acts more strongly there."
)

_LOOPBACK_NOTE = (
    "Its server runs code from requests as hooks: bind it to loopback, so that only programs on "
    "this machine can reach it."
)

_FORMAT_NOTES: dict[Format, str] = {
    "pt": LAST_ROW_NOTE,
    "gguf": _EVERYWHERE_NOTE.format("llama.cpp"),
    "vllm-lens": f"{_EVERYWHERE_NOTE.format('vllm-lens')} {_LOOPBACK_NOTE}",
    "hotwire": "hotwire steers only generated tokens with decode_only, otherwise also the prompt.",
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, and how to use it in the other tool."""

    format: Format
    out: Path
    trait: str
    model: str
    layers: tuple[int, ...]
    """Layers in the file, as personavec counts them."""
    coefficient: float
    use: tuple[str, ...]
    """Commands and requests, in order."""
    notes: tuple[str, ...]


def export(
    vector: PersonaVector,
    path: Path,
    to: Format,
    *,
    layer: int | None = None,
    coefficient: float = 1.0,
    all_layers: bool = False,
) -> Exported:
    """Write a vector to a file of another tool.

    `layer` defaults to the vector's selected layer. `all_layers` writes all layers from 2 on to a
    GGUF file.

    Raises UsageError when the format does not support the options, and StorageError when the file
    cannot be written.
    """
    _check_format_holds(to, layer, coefficient, all_layers)
    chosen = vector.layer if layer is None else layer
    vector.direction(chosen)  # Raises UsageError for a layer that does not exist.
    n = vector.n_layers
    if chosen == 0 and to != "pt":
        raise UsageError(
            f"layer 0 is the embedding, which a {to} file cannot hold: use --layer 1 to {n}"
        )
    match to:
        case "pt":
            write_reference(vector.directions, path)
            layers, use = range(n + 1), _use_reference(path, vector.trait)
        case "hotwire":
            write_hotwire(vector, path)
            layers, use = range(1, n + 1), _use_hotwire(path, chosen, coefficient)
        case "vllm-lens":
            write_vllm_lens(vector, path, layer=chosen, coefficient=coefficient)
            layers, use = [chosen], _use_vllm_lens(path)
        case "gguf":
            layers = range(min(2, n), n + 1) if all_layers else [chosen]
            write_control_vector(vector, path, layers=layers, coefficient=coefficient)
            use = _use_control_vector(path, max(2, chosen) if all_layers else None)
    return Exported(
        format=to,
        out=path,
        trait=vector.trait,
        model=_model_name(vector),
        layers=tuple(layers),
        coefficient=coefficient,
        use=tuple(use),
        notes=(_FORMAT_NOTES[to],),
    )


def _check_format_holds(
    to: Format, layer: int | None, coefficient: float, all_layers: bool
) -> None:
    """Raise UsageError for options that the format does not support."""
    if not math.isfinite(coefficient) or coefficient == 0:
        raise UsageError(f"coefficient {coefficient:g} steers nothing: use a finite number, not 0")
    if all_layers and (to != "gguf" or layer is not None):
        raise UsageError(
            "--all-layers is for --format gguf without --layer: pt and hotwire files hold every "
            "layer anyway, and a vllm-lens file steers at all the layers that it holds"
        )
    if to == "pt" and (layer is not None or coefficient != 1):
        raise UsageError(
            "a .pt holds every layer as extracted and names none: leave out --layer and "
            "--coefficient, and give both to the tool that reads it"
        )


def _model_name(vector: PersonaVector) -> str:
    return vector.meta.get("model", {}).get("name", "unknown")


# The reference project


def read_reference(
    path: Path, n_layers: int | None = None, hidden_size: int | None = None
) -> Float[Tensor, "layer hidden"]:
    """Read the tensor [layers + 1, hidden] of a reference `.pt`, as float32 on the CPU.

    Only tensors are unpickled; no code in the file is run. The reference project captured the last
    row after the model's final norm. If `n_layers` and `hidden_size` are given, the shape must
    match them.

    Raises DataError when the file holds something else, and VectorMismatchError when it is for a
    model of another shape.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    wanted = "a tensor [layers + 1, hidden], row 0 the embedding"
    found = _load_tensors(path)
    if not isinstance(found, Tensor):
        raise DataError(
            f"{path} holds a {type(found).__name__}, not {wanted}: save the tensor alone"
        )
    plain = found.is_floating_point() and found.layout == torch.strided
    if found.dim() != 2 or found.shape[0] < 3 or not plain:
        kind = f"a {str(found.dtype).removeprefix('torch.')} tensor {list(found.shape)}"
        raise DataError(f"{path} holds {kind}, not {wanted}: save the vector's tensor alone")
    found = found.detach().float()
    if not torch.isfinite(found).all():
        raise DataError(f"{path} holds NaN or infinite values: make the vector again")
    shape = (n_layers + 1, hidden_size) if n_layers and hidden_size else tuple(found.shape)
    if tuple(found.shape) != shape:
        raise VectorMismatchError(
            f"{path} holds a tensor {list(found.shape)}, the model needs {list(shape)} (layers + "
            "1, hidden): name the model that the vector was made on with --model"
        )
    return found.contiguous()


def _load_tensors(path: Path) -> Any:
    """Load a file of torch.save that holds only tensors and plain containers of them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of files that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than tensors, and unpickling it could run code: where you trust "
            "it, save its tensor alone with torch.save(tensor, path)"
        ) from error
    except Exception as error:  # torch raises almost anything for other kinds of files
        raise DataError(
            f"{path} is damaged or was not written by torch.save: write it again"
        ) from error


def write_reference(rows: Float[Tensor, "layer hidden"], path: Path) -> None:
    """Write rows [layers + 1, hidden] as the reference project does: one float32 tensor."""
    _save_tensor(rows, path)


def _save_tensor(tensor: Tensor, path: Path) -> None:
    buffer = io.BytesIO()
    # Cloned, since torch saves the whole storage of a view.
    torch.save(tensor.float().clone(), buffer)
    atomic_write(path, buffer.getvalue())


def _use_reference(path: Path, trait: str) -> list[str]:
    return [
        f"python -m eval.eval_persona --model MODEL --trait {shlex.quote(trait)} --version eval "
        f"--steering_type response --coef 2.0 --layer LAYER --vector_path {shlex.quote(str(path))} "
        "--output_path out/steered.csv"
    ]


# llama.cpp


def write_control_vector(
    vector: PersonaVector, path: Path, *, layers: Sequence[int], coefficient: float = 1.0
) -> None:
    """Write a llama.cpp control vector: a tensor `direction.N` [hidden] per layer, N = layer - 1.

    llama.cpp adds `direction.N` to the output of block N, counted from 0. It has no N = 0, so it
    cannot steer at layer 1. Directions are multiplied by `coefficient`. The model's name is stored
    as `controlvector.model_hint`, which llama.cpp ignores.

    Raises UsageError for layer 1 and the embedding.
    """
    from gguf import GGUFWriter

    if bad := [layer for layer in layers if layer < 2]:
        raise UsageError(
            f"a llama.cpp control vector cannot hold layer {bad[0]}: it has no direction for the "
            f"first block; use --layer 2 to {vector.n_layers}"
        )
    with atomic_path(path) as aside:
        writer = GGUFWriter(aside, "controlvector")
        try:
            writer.add_string("controlvector.model_hint", _model_name(vector))
            writer.add_uint32("controlvector.layer_count", len(layers))
            writer.add_name(f"persona vector: {vector.trait}")
            for layer in layers:
                direction = coefficient * vector.direction(layer)
                writer.add_tensor(f"direction.{layer - 1}", direction.numpy().astype(np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _use_control_vector(path: Path, layer: int | None) -> list[str]:
    only = f" --control-vector-layer-range {layer - 1} {layer - 1}" if layer else ""
    file = shlex.quote(f"{path}:1.0")
    return [f"llama-server -m MODEL.gguf --control-vector-scaled {file}{only}"]


# vllm-lens


def write_vllm_lens(
    vector: PersonaVector, path: Path, *, layer: int, coefficient: float = 1.0
) -> None:
    """Write the JSON that vllm-lens takes as `apply_steering_vectors`: a list of one vector.

    The vector has `activations` [1, hidden] in base64, `layer_indices` [layer - 1], and the
    coefficient as `scale`.
    """
    rows = vector.direction(layer)[None].numpy().astype("<f4")
    entry = {
        "activations": {
            "data": base64.b64encode(rows.tobytes()).decode("ascii"),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(rows.shape),
        },
        "layer_indices": [layer - 1],
        "scale": coefficient,
        "norm_match": False,
        "position_indices": None,
    }
    atomic_write(path, json.dumps([entry]))


def _use_vllm_lens(path: Path) -> list[str]:
    body = (
        '{"model": "MODEL", "messages": [{"role": "user", "content": "Hello"}], '
        '"vllm_xargs": {"apply_steering_vectors": $vector}}'
    )
    return [
        "vllm serve MODEL --host 127.0.0.1",
        f"jq -n --rawfile vector {shlex.quote(str(path))} '{body}' | {_POST} -d @-",
    ]


_POST = "curl -s 127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json'"


# hotwire


def write_hotwire(vector: PersonaVector, path: Path) -> None:
    """Write hotwire's `.pt`: one float32 tensor [layers, hidden], whose row i is layer i + 1.

    hotwire names a vector after its file, and takes layer and scale from each request. Raises
    UsageError unless the name ends in .pt.
    """
    if path.suffix != ".pt":
        raise UsageError(f"{path}: hotwire reads only .pt files; use a name that ends in .pt")
    _save_tensor(vector.directions[1:], path)


def _use_hotwire(path: Path, layer: int, coefficient: float) -> list[str]:
    spec = {"id": path.stem, "layer": layer - 1, "scale": coefficient, "decode_only": True}
    body = {
        "model": "MODEL",
        "messages": [{"role": "user", "content": "Hello"}],
        "vllm_xargs": {"hotwire": json.dumps(spec)},
    }
    return [
        f"HOTWIRE_VECTORS={shlex.quote(str(path))} vllm serve MODEL",
        f"{_POST} -d {shlex.quote(json.dumps(body))}",
    ]
