"""The artifact: a persona vector with where it came from. Save, load, check, compare."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from personavec.errors import UsageError, VectorMismatchError
from personavec.in_notebooks import InNotebooks
from personavec.runs import atomic_write
from personavec.traits import check_trait_name
from personavec.vectors.calibration import Calibration
from personavec.vectors.estimators import Estimator
from personavec.vectors.limits import Ordinary
from personavec.vectors.verdict import StoredVerdict, verdict_of

FORMAT = 1
#: The file in a vector's folder that holds its drift limits.
DRIFT_FILE = "drift.json"


@dataclass(frozen=True, eq=False)
class PersonaVector(InNotebooks):
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
        """The number of decoder blocks; the vector has a row more, for the embedding."""
        return self.response_mean_diff.shape[0] - 1

    @property
    def hidden_size(self) -> int:
        """The width of the residual stream."""
        return self.response_mean_diff.shape[1]

    @property
    def hash(self) -> str:
        """A short hash of the vector in use and its layer."""
        data = self.directions.numpy().tobytes() + f"layer {self.layer}".encode()
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    @property
    def identity(self) -> dict[str, str | int]:
        """For manifests: what decides readings, the vector in use and what standardises them."""
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
    def verdict(self) -> StoredVerdict | None:
        """Whether it can be relied on, by its extraction; None where nothing says."""
        return verdict_of(self.meta)

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
        if not has_direction(found):
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

        It does if its model's name is neither this one's nor that of this one's base, or if the
        name is the same and the weights differ. Where both weights are known and the same, it does
        not, whatever the names: a model on disk may have been moved.
        """
        model = self.meta.get("model", {})
        own, own_weights = model.get("name"), model.get("weights")
        if weights and own_weights == weights:
            return None
        if own == model_name and weights and own_weights not in (None, weights):
            return f"vector '{self.trait}' was extracted from other weights of {own}"
        if own is None or own in (model_name, declared_base):
            return None
        return f"vector '{self.trait}' was extracted from {own}, not from {model_name}"

    def save(self, folder: Path) -> Path:
        """Write `vector.safetensors` and `vector.json` atomically; the JSON comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        found = {name: getattr(self, name) for name in TENSORS}
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


#: Tensors that every vector has in its file; two may be absent.
TENSORS = (
    "response_mean_diff",
    "prompt_mean_diff",
    "prompt_last_diff",
    "residual_norm",
    "neutral_response_mean",
    "neutral_prompt_last",
)


def has_direction(direction: Float[Tensor, " hidden"]) -> bool:
    """Whether a direction can be divided by its length."""
    return 0 < float(direction.norm()) < math.inf


def other_model_notes(
    vectors: Iterable[PersonaVector], lineage: tuple[str, str | None, str | None]
) -> list[str]:
    """A sentence of each vector that comes from another model; `lineage` is the model's in use."""
    warnings = [vector.other_model_warning(*lineage) for vector in vectors]
    return [f"{warning[0].upper()}{warning[1:]}." for warning in warnings if warning]


def check_layer(layer: int | Literal["all"] | None, vectors: Iterable[PersonaVector]) -> None:
    """Refuse a layer that one of the vectors does not have. Raises UsageError."""
    for vector in vectors:
        if isinstance(layer, int) and not 1 <= layer <= vector.n_layers:
            raise UsageError(
                f"--layer {layer}: the {vector.trait} vector has layers 1 to {vector.n_layers}"
            )


def cosine(a: Float[Tensor, "*batch hidden"], b: Float[Tensor, "*batch hidden"]) -> Tensor:
    """Cosine similarity along the last axis."""
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)
