"""Turn a request's steering and caps into actions, within the vectors' limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NotRequired, TypedDict

from personavec.errors import UsageError
from personavec.model import Action, Cap, Steering, vector_cap
from personavec.serve.protocol import ApiError, CapAt, Steer
from personavec.vectors import PersonaVector

#: Largest relative dose. Beyond it no model writes text, and numbers may overflow.
_HIGHEST_DOSE = 100.0


class ActionRecord(TypedDict):
    """The record of an addition or a cap in a reply."""

    vector: str
    layer: int
    coefficient: NotRequired[float]
    asked: NotRequired[float]
    """The requested coefficient, if it was clipped to the coherent range."""
    percentile: NotRequired[float]
    of: NotRequired[str]
    """What a cap's percentile refers to: `tokens` of neutral replies, or means of `replies`."""


@dataclass(frozen=True, eq=False)
class Applied:
    """An action with its record for the reply."""

    action: Action
    record: ActionRecord


def find(vectors: Mapping[str, PersonaVector], name: str, param: str) -> PersonaVector:
    """The loaded vector of a trait. Raises ApiError if there is none."""
    if name not in vectors:
        raise ApiError(
            400,
            f"this server has no vector '{name}'; it has {', '.join(sorted(vectors)) or 'none'}",
            code="vector_not_found",
            param=param,
        )
    return vectors[name]


def additions(
    vectors: Mapping[str, PersonaVector], asked: Sequence[Steer], *, any_coefficient: bool
) -> list[Applied]:
    """The requested additions, with coefficients clipped to their vectors' coherent ranges.

    Raises ApiError for a vector that is unknown, named twice, or without a measured range.
    """
    _once([steer.vector for steer in asked], "personavec.steer")
    found = []
    for steer in asked:
        vector = find(vectors, steer.vector, "personavec.steer")
        layer = _layer(vector, steer.layer)
        coefficient = steer.coefficient
        if not any_coefficient:
            low, high = allowed(vector, layer)
            coefficient = min(max(coefficient, low), high)
        dose = vector.relative_dose(coefficient, layer)
        if not dose <= _HIGHEST_DOSE:
            raise ApiError(
                400,
                f"coefficient {steer.coefficient:g} adds {dose:.3g} times the residual norm; at "
                f"most {_HIGHEST_DOSE:g} is possible",
                param="personavec.steer",
            )
        record: ActionRecord = {
            "vector": vector.trait,
            "layer": layer,
            "coefficient": coefficient,
        }
        if coefficient != steer.coefficient:
            record["asked"] = steer.coefficient
        found.append(Applied(Steering(layer, vector.direction(layer), coefficient), record))
    return found


def allowed(vector: PersonaVector, layer: int) -> tuple[float, float]:
    """The lowest and highest coefficients that keep replies coherent, at a layer.

    They were measured at the selected layer; at another layer the same relative doses are allowed.
    Raises ApiError if they were not measured.
    """
    measured = vector.coherent_range
    if measured is None:
        raise ApiError(
            400,
            f"the coherent range of vector '{vector.trait}' was never measured, so this server "
            "does not steer with it; start the server with --allow-any-coefficient to allow it",
            param="personavec.steer",
        )
    scale = vector.relative_dose(1) / max(vector.relative_dose(1, layer), 1e-12)
    return min(0.0, measured[0] * scale), max(0.0, measured[1] * scale)


def caps(vectors: Mapping[str, PersonaVector], asked: Sequence[CapAt]) -> list[Applied]:
    """The requested caps. Raises ApiError for a vector that is unknown or named twice."""
    _once([cap.vector for cap in asked], "personavec.cap")
    return [cap_at(find(vectors, cap.vector, "personavec.cap"), cap.percentile) for cap in asked]


def cap_at(vector: PersonaVector, percentile: float) -> Applied:
    """A cap at a percentile of projections of the model's replies to neutral prompts.

    A calibrated vector has percentiles over the replies' tokens. Without a calibration the
    percentile is over the replies' means, with a normal distribution; means spread less than
    tokens, so such a cap acts more often. Raises ApiError for a percentile that was not measured.
    """
    if vector.calibration is not None:
        try:
            cap = vector_cap(vector, percentile)
        except UsageError as error:
            raise ApiError(400, str(error), param="personavec.cap") from None
        return Applied(cap, _cap_record(vector, percentile, "tokens"))
    mean, spread = vector.neutral_response_mean[vector.layer].tolist()
    ceiling = mean + spread * NormalDist().inv_cdf(percentile / 100)
    cap = Cap(vector.layer, vector.direction(), ceiling)
    return Applied(cap, _cap_record(vector, percentile, "replies"))


def _cap_record(vector: PersonaVector, percentile: float, of: str) -> ActionRecord:
    return {
        "vector": vector.trait,
        "percentile": percentile,
        "layer": vector.layer,
        "of": of,
    }


def _layer(vector: PersonaVector, layer: int | None) -> int:
    if layer is None:
        return vector.layer
    if layer > vector.n_layers:
        raise ApiError(
            400,
            f"layer {layer} does not exist: the model has layers 1 to {vector.n_layers}",
            param="personavec.steer",
        )
    return layer


def _once(names: Sequence[str], param: str) -> None:
    if len(set(names)) < len(names):
        raise ApiError(400, f"{param} names a vector twice; add the coefficients", param=param)
