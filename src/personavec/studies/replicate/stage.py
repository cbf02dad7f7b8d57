"""A stage: what it needs, what it takes, what it does, and the tables of what it found."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from personavec.report.plots import Cell
from personavec.results import Estimate
from personavec.runs import Settings
from personavec.studies.replicate.config import StageName
from personavec.studies.replicate.study import Inputs, Study
from personavec.studies.replicate.work import Work

R = TypeVar("R")


def nothing_missing(inputs: Inputs) -> str | None:
    """For a stage that needs no data of the user's."""
    return None


@dataclass(frozen=True, eq=False)
class Stage(Generic[R]):
    """One stage of a replication."""

    name: StageName
    title: str
    """What it does, for tables."""
    needs: tuple[StageName, ...]
    """Stages whose files it reads."""
    result: type[R]
    plan: Callable[[Inputs], Work]
    settings: Callable[[Inputs], Settings]
    """What decides its result, beside the model, the judge and the stages that it needs."""
    run: Callable[[Study], R]
    """Goes on where a killed run stopped."""
    missing: Callable[[Inputs], str | None] = nothing_missing
    """Why it cannot be run at all, such as data that were not given."""
    kept: tuple[str, ...] = ()
    """Files in its folder, as patterns, that later stages read."""
    files_kept: bool = True
    """Whether later stages do with those files, or make for themselves what else they read."""


def tables(result: Any) -> dict[str, list[dict[str, Cell]]]:
    """Every field of a result that holds records, as the rows of a table."""
    found: dict[str, list[dict[str, Cell]]] = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            found[field.name] = [flat(record) for record in value]
    return found


def flat(record: Any) -> dict[str, Cell]:
    """A record as cells; an estimate has three: its value, `_low` and `_high`."""
    row: dict[str, Cell] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Estimate):
            row[field.name] = value.value
            row[f"{field.name}_low"], row[f"{field.name}_high"] = value.low, value.high
        elif isinstance(value, str | int | float | bool | None):
            row[field.name] = value
        elif isinstance(value, Sequence):
            row[field.name] = " ".join(
                f"{each:g}" if isinstance(each, float) else str(each) for each in value
            )
    return row


def manifests(
    stages: Sequence[Stage[Any]], inputs: Inputs, shared: Settings
) -> dict[StageName, Settings]:
    """By stage: all that its result depends on, those stages included that it needs.

    `shared` is what every stage depends on, such as the model.
    """
    found: dict[StageName, Settings] = {}
    for stage in stages:
        own: Settings = {
            "command": "replicate",
            "stage": stage.name,
            **shared,
            "settings": stage.settings(inputs),
            "needs": {name: digest(found[name]) for name in stage.needs},
        }
        found[stage.name] = _normal(json.loads(json.dumps(own)))
    return found


def _normal(value: Any) -> Any:
    """With whole numbers as such, however they were given: 1.0 and 1 have one digest."""
    if isinstance(value, dict):
        return {key: _normal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_normal(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def digest(settings: Mapping[str, Any]) -> str:
    """A short hash of settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
