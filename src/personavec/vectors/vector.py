"""The artifact: a persona vector with where it came from. Save, load, check, compare."""

from __future__ import annotations

import hashlib
import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from personavec.errors import DataError, UsageError, VectorMismatchError
from personavec.plain import parse_json
from personavec.runs import atomic_write, why_invalid
from personavec.traits import TraitName, check_trait_name
from personavec.vectors import calibration, limits
from personavec.vectors.calibration import Calibration
from personavec.vectors.estimators import ESTIMATORS, Estimator
from personavec.vectors.limits import Ordinary

FORMAT = 1
#: What is ordinary in conversations, for drift alarms, in the vector's folder.
DRIFT_FILE = "drift.json"


@dataclass(frozen=True, eq=False)
class PersonaVector:
    """One trait's direction at every layer, float32 on the CPU.

    Row l is the output of block l, counted from 1; row 0 the embedding. Rows are differences of
    mean activations as extracted, not normalised, so a coefficient is a multiple of the
    difference itself. `residual_norm` is the mean norm of response-token activations. The
    neutral statistics are the mean and spread of projections on neutral prompts. The prompt's
    differences are None where an imported vector came without them.

    `estimated` holds the directions of other estimators than the difference of means, by name.
    Where `estimator` names one of them, that is the vector in use, and `response_mean_diff` stays
    beside it. `estimated_neutral` has the neutral statistics of projections onto them: of
    responses, then of prompts' last tokens. `calibration`
    is what `calibrate` has measured of it, `ordinary` what `monitor --fit-limits` has, if any.
    """

    response_mean_diff: Float[Tensor, "layer hidden"]
    prompt_mean_diff: Float[Tensor, "layer hidden"] | None
    prompt_last_diff: Float[Tensor, "layer hidden"] | None
    residual_norm: Float[Tensor, " layer"]
    neutral_response_mean: Float[Tensor, "layer statistic"]
    neutral_prompt_last: Float[Tensor, "layer statistic"]
    trait: str
    layer: int
    meta: dict[str, Any] = field(default_factory=dict)
    estimated: Mapping[Estimator, Float[Tensor, "layer hidden"]] = field(default_factory=dict)
    estimated_neutral: Mapping[Estimator, Float[Tensor, "span layer statistic"]] = field(
        default_factory=dict
    )
    estimator: Estimator = "mean"
    calibration: Calibration | None = None
    ordinary: Ordinary | None = None

    def __post_init__(self) -> None:
        check_trait_name(self.trait)

    @property
    def n_layers(self) -> int:
        return self.response_mean_diff.shape[0] - 1

    @property
    def hidden_size(self) -> int:
        return self.response_mean_diff.shape[1]

    @property
    def hash(self) -> str:
        """A short hash of the vector in use and its layer."""
        data = self.directions.numpy().tobytes() + f"layer {self.layer}".encode()
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """What a run reads of it, for manifests: the vector in use, and what it is measured by."""
        measures = (self.residual_norm, self.neutral_response_mean, self.neutral_prompt_last)
        data = b"".join(part.numpy().tobytes() for part in measures)
        return {
            "hash": self.hash,
            "layer": self.layer,
            "estimator": self.estimator,
            "baseline": hashlib.blake2b(data, digest_size=8).hexdigest(),
        }

    @property
    def coherent_range(self) -> tuple[float, float] | None:
        """The range of coefficients over which steered answers stayed coherent, if measured."""
        found = self.meta.get("coherent_range")
        return (found[0], found[1]) if found else None

    @property
    def directions(self) -> Float[Tensor, "layer hidden"]:
        """The vector in use at every layer, by the estimator that was selected."""
        if self.estimator == "mean":
            return self.response_mean_diff
        return self.estimated[self.estimator]

    def direction(self, layer: int | None = None) -> Float[Tensor, " hidden"]:
        """The vector at a layer (default: the selected one), as extracted."""
        layer = self.layer if layer is None else layer
        if not 0 <= layer <= self.n_layers:
            raise UsageError(f"layer {layer} does not exist: use 0 to {self.n_layers}")
        found = self.directions[layer]
        if not _points(found):
            raise UsageError(
                f"vector '{self.trait}' has no direction at layer {layer}; use another layer"
            )
        return found

    def by(self, estimator: Estimator) -> PersonaVector:
        """The same trait at the same layer by an estimator that was not selected.

        Calibrations belong to the selected one and are left out. Raises UsageError where the
        vector holds no such direction with its neutral statistics.
        """
        if estimator == self.estimator:
            return self
        if estimator not in self.estimated or estimator not in self.estimated_neutral:
            raise UsageError(
                f"vector '{self.trait}' holds no neutral statistics of the {estimator} estimator; "
                "extract it again"
            )
        responses, prompts = self.estimated_neutral[estimator]
        return replace(
            self,
            estimator=estimator,
            neutral_response_mean=responses,
            neutral_prompt_last=prompts,
            calibration=None,
            ordinary=None,
        )

    def increments(self) -> Float[Tensor, "block hidden"]:
        """What each layer adds to the vector of the layer below: v_l - v_(l-1), l from 1."""
        return self.directions[1:] - self.directions[:-1]

    def project(self, hidden: Float[Tensor, "*batch hidden"], layer: int | None = None) -> Tensor:
        """Projection h.v / |v| of activations at a layer, in units of the residual stream."""
        direction = self.direction(layer)
        return hidden.float() @ (direction / direction.norm())

    def relative_dose(self, coefficient: float, layer: int | None = None) -> float:
        """|coefficient * v| over the mean residual norm at the layer."""
        layer = self.layer if layer is None else layer
        size = float(self.direction(layer).norm() / self.residual_norm[layer])
        return abs(coefficient) * size

    def check_fits(self, n_layers: int, hidden_size: int) -> None:
        """Raise VectorMismatchError unless the model has the vector's shape."""
        if (n_layers, hidden_size) != (self.n_layers, self.hidden_size):
            raise VectorMismatchError(
                f"vector '{self.trait}' is for {self.n_layers} layers of width {self.hidden_size} "
                f"({self.meta.get('model', {}).get('name', 'unknown model')}); the model has "
                f"{n_layers} of width {hidden_size}: extract the trait on this model"
            )

    def other_model_warning(
        self, model_name: str, declared_base: str | None = None, weights: str | None = None
    ) -> str | None:
        """A warning when the vector comes from another model of the same shape.

        That is one of another name that this one does not descend from, or other weights under
        the same name, where both are known.
        """
        model = self.meta.get("model", {})
        own, own_weights = model.get("name"), model.get("weights")
        if own == model_name and weights and own_weights not in (None, weights):
            return f"vector '{self.trait}' was extracted from other weights of {own}"
        if own is None or own in (model_name, declared_base):
            return None
        return f"vector '{self.trait}' was extracted from {own}, not from {model_name}"

    def save(self, folder: Path) -> Path:
        """Write `vector.safetensors` and `vector.json` atomically; the JSON comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        found = {name: getattr(self, name) for name in _TENSORS}
        found |= {f"response_{name}": tensor for name, tensor in self.estimated.items()}
        found |= {f"{name}_neutral": tensor for name, tensor in self.estimated_neutral.items()}
        tensors = {name: tensor.clone() for name, tensor in found.items() if tensor is not None}
        atomic_write(folder / "vector.safetensors", save(tensors))
        record = {
            **self.meta,
            **{"format": FORMAT, "trait": self.trait, "layer": self.layer},
            "estimator": self.estimator,
        }
        atomic_write(folder / "vector.json", json.dumps(record, indent=1, ensure_ascii=False))
        return folder

    def __repr__(self) -> str:
        model = self.meta.get("model", {}).get("name", "?")
        return (
            f"PersonaVector({self.trait!r}, model={model!r}, layer={self.layer} of "
            f"{self.n_layers}, hidden={self.hidden_size})"
        )

    def _repr_html_(self) -> str:
        rows = {
            "model": self.meta.get("model", {}).get("name", "?"),
            "selected layer": f"{self.layer} of {self.n_layers}",
            "norm there": f"{float(self.direction().norm()):.2f}, "
            f"{100 * self.relative_dose(1):.0f}% of the residual stream's",
            "coherent coefficients": self.coherent_range or "not measured",
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th>"
            f"<td>{html.escape(str(v))}</td></tr>"
            for k, v in rows.items()
        )
        return f"<b>persona vector: {html.escape(self.trait)}</b><table>{cells}</table>"


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    name: str


class _Settings(BaseModel):
    model_config = ConfigDict(extra="allow")

    sweep_questions: Annotated[int, Field(ge=0)] = 0


class _Record(BaseModel):
    """What the package reads of a `vector.json`; what it only shows may be anything."""

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


_TENSORS = (
    "response_mean_diff",
    "prompt_mean_diff",
    "prompt_last_diff",
    "residual_norm",
    "neutral_response_mean",
    "neutral_prompt_last",
)
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
        **{name: tensors.get(name) for name in _TENSORS},  # pyright: ignore[reportArgumentType]
        trait=record.trait,
        layer=record.layer,
        meta=meta,
        estimated=estimated,
        estimated_neutral=neutral,
        estimator=record.estimator,
    )
    if not _points(vector.directions[record.layer]):
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
    required = set(_TENSORS) - set(_OPTIONAL)
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


def _points(direction: Float[Tensor, " hidden"]) -> bool:
    """Whether a direction can be divided by its length."""
    return 0 < float(direction.norm()) < math.inf


def with_measurements(vector: PersonaVector, folder: Path) -> PersonaVector:
    """The vector with the calibration and the drift limits that lie in a folder, if any.

    Raises DataError when one is damaged or was measured of another vector.
    """
    found: dict[str, Any] = {}
    if (path := folder / calibration.FILE).is_file():
        found["calibration"] = calibration.from_json(_read(path), str(path))
        if found["calibration"].layer != vector.layer:
            raise DataError(
                f"{path} is of another layer; delete it, and calibrate the vector again"
            )
        _check_owner(vector, found["calibration"].vector, path, "calibrate the vector again")
    if (path := folder / DRIFT_FILE).is_file():
        again = "fit the limits again with 'personavec monitor --fit-limits'"
        try:
            record = parse_json(_read(path))
            owner, ordinary = record["vector"], limits.from_record(record["ordinary"])
            if record["reading"] != limits.READING:
                raise ValueError(f"its limits are of {record['reading']}")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}); delete it, and {again}") from error
        _check_owner(vector, owner, path, again)
        found["ordinary"] = ordinary
    return replace(vector, **found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its rights") from error


def _check_owner(vector: PersonaVector, owner: Any, path: Path, again: str) -> None:
    if owner != vector.hash:
        raise DataError(
            f"{path} was measured of another vector than this one of '{vector.trait}'; delete it, "
            f"and {again}"
        )


def cosine(a: Float[Tensor, "*batch hidden"], b: Float[Tensor, "*batch hidden"]) -> Tensor:
    """Cosine similarity along the last axis."""
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)
