"""Reads a vector's folder and checks every value, since the folder may come from anyone."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from personavec.errors import DataError, UsageError
from personavec.plain import parse_json
from personavec.runs import why_invalid
from personavec.traits import TraitName
from personavec.vectors import calibration, limits
from personavec.vectors.calibration import Calibration
from personavec.vectors.estimators import ESTIMATORS, Estimator
from personavec.vectors.limits import Ordinary
from personavec.vectors.vector import DRIFT_FILE, TENSORS, PersonaVector, has_direction


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    name: str


class _Settings(BaseModel):
    model_config = ConfigDict(extra="allow")

    sweep_questions: Annotated[int, Field(ge=0)] = 0


class _Record(BaseModel):
    """The fields of a `vector.json` that the package uses; what it only shows is not checked."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    format: Literal[1]
    trait: TraitName
    layer: Annotated[int, Field(ge=1, strict=True)]
    estimator: Estimator = "mean"
    description: str | None = None
    model: _Model = _Model(name="unknown")
    coherent_range: tuple[float, float] | None = None
    settings: _Settings = _Settings()
    spec_hash: str | None = None

    @model_validator(mode="after")
    def _in_order(self) -> _Record:
        if self.coherent_range and self.coherent_range[0] > self.coherent_range[1]:
            raise ValueError("coherent_range: its lower end is above its upper one")
        return self


_OPTIONAL = ("prompt_mean_diff", "prompt_last_diff")


def bundled_vectors() -> list[str]:
    """Names of the embedded model's vectors that ship with the package."""
    folder = resources.files("personavec") / "bundled" / "vectors"
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def vector_folder(source: str | Path) -> Path:
    """The folder of a vector, or of a bundled one by its trait's name. Raises UsageError."""
    folder = Path(source)
    if not folder.is_dir() and str(source) in bundled_vectors():
        folder = Path(str(resources.files("personavec") / "bundled" / "vectors" / str(source)))
    if not (folder / "vector.json").is_file():
        raise UsageError(
            f"no persona vector at '{source}': give a folder made by 'personavec extract' or one "
            f"of: {', '.join(bundled_vectors()) or 'none are bundled'}"
        )
    return folder


def load_vector(source: str | Path) -> PersonaVector:
    """Load a vector from its folder, or a bundled one by its trait's name.

    Raises UsageError when there is none, DataError when its files do not hold one.
    """
    folder = vector_folder(source)
    try:
        vector = _read_vector(folder)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        why = why_invalid(error) if isinstance(error, ValidationError) else error
        raise DataError(f"the vector in {folder} is damaged ({why}); extract it again") from error
    return with_measurements(vector, folder)


def _read_vector(folder: Path) -> PersonaVector:
    """What `vector.json` and the tensors hold. Raises KeyError or ValueError, among others."""
    meta = parse_json((folder / "vector.json").read_bytes())
    record = _Record.model_validate(meta)
    tensors = _read_tensors(folder / "vector.safetensors")
    if record.layer >= len(tensors["residual_norm"]):
        raise ValueError(f"layer {record.layer} of {len(tensors['residual_norm']) - 1}")
    estimated = {n: tensors[f"response_{n}"] for n in _others() if f"response_{n}" in tensors}
    neutral = {n: tensors[f"{n}_neutral"] for n in _others() if f"{n}_neutral" in tensors}
    if record.estimator not in ("mean", *estimated):
        raise ValueError(f"no tensor of estimator '{record.estimator}'")
    vector = PersonaVector(
        **{name: tensors.get(name) for name in TENSORS},  # pyright: ignore[reportArgumentType]
        trait=record.trait,
        layer=record.layer,
        meta=meta,
        estimated=estimated,
        estimated_neutral=neutral,
        estimator=record.estimator,
    )
    if not has_direction(vector.directions[record.layer]):
        raise ValueError(f"its direction at layer {record.layer} is zero, or too long for a number")
    return vector


def _others() -> list[Estimator]:
    """Estimators whose directions are stored beside the difference of means."""
    return [name for name in ESTIMATORS if name != "mean"]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a vector, float32 and of the right shapes. Raises KeyError or ValueError."""
    stored = load_file(path)
    directions = stored["response_mean_diff"].shape
    statistics = (*directions[:1], 2)
    expected: dict[str, tuple[int, ...]] = {
        "response_mean_diff": directions,
        "prompt_mean_diff": directions,
        "prompt_last_diff": directions,
        "residual_norm": directions[:1],
        "neutral_response_mean": statistics,
        "neutral_prompt_last": statistics,
        **{f"response_{name}": directions for name in _others()},
        **{f"{name}_neutral": (2, *statistics) for name in _others()},
    }
    required = set(TENSORS) - set(_OPTIONAL)
    found = {name: stored[name] for name in expected if name in stored or name in required}
    if odd := [name for name, tensor in found.items() if not tensor.is_floating_point()]:
        raise ValueError(f"its tensor {odd[0]} is of {found[odd[0]].dtype}")
    found = {name: tensor.float() for name, tensor in found.items()}
    if len(directions) != 2 or any(t.shape != expected[name] for name, t in found.items()):
        raise ValueError("its tensors differ in shape")
    if not all(torch.isfinite(tensor).all() for tensor in found.values()):
        raise ValueError("it holds NaN or infinite values")
    # A template's last token is always the same, so its spread at the embedding is 0.
    spreads = [found[name][:, 1] for name in ("neutral_response_mean", "neutral_prompt_last")]
    measured = (found["residual_norm"], *spreads)
    if any((part < 0).any() or not part[1:].all() for part in measured):
        raise ValueError("a norm or a spread on neutral prompts is not above 0")
    return found


def with_measurements(vector: PersonaVector, folder: Path) -> PersonaVector:
    """The vector with the calibration and the drift limits that lie in a folder, if any.

    Raises DataError when one is damaged or was measured of another vector.
    """
    return replace(
        vector,
        calibration=_calibration_in(folder, vector) or vector.calibration,
        ordinary=_limits_in(folder, vector) or vector.ordinary,
    )


def _calibration_in(folder: Path, vector: PersonaVector) -> Calibration | None:
    if not (path := folder / calibration.FILE).is_file():
        return None
    found = calibration.from_json(_read(path), str(path))
    if found.layer != vector.layer:
        raise DataError(f"{path} is of another layer; delete it, and calibrate the vector again")
    _check_owner(vector, found.vector, path, "calibrate the vector again")
    return found


def _limits_in(folder: Path, vector: PersonaVector) -> Ordinary | None:
    if not (path := folder / DRIFT_FILE).is_file():
        return None
    again = "fit the limits again with 'personavec monitor --fit-limits'"
    try:
        record = parse_json(_read(path))
        owner, found = record["vector"], limits.from_record(record["ordinary"])
        if record["reading"] != limits.READING:
            raise ValueError(f"its limits are of {record['reading']}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, and {again}") from error
    _check_owner(vector, owner, path, again)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); check its permissions"
        ) from error


def _check_owner(vector: PersonaVector, owner: Any, path: Path, again: str) -> None:
    if owner != vector.hash:
        raise DataError(
            f"{path} was measured of another vector than this one of '{vector.trait}'; delete it, "
            f"and {again}"
        )
