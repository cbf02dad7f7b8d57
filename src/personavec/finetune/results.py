"""What a finetune returns, and writes as `results.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from personavec.data import DataReading
from personavec.model import ModelIdentity


@dataclass(frozen=True, kw_only=True)
class PreventativeDose:
    """The coefficient that `--dose auto` chose, and what it was chosen from."""

    coefficient: float
    """The multiple of v that is used."""
    difference: float
    """Mean projection difference of the data along the vector, in units of the residual stream."""
    low: float
    high: float
    """Its 95% interval, bootstrapped over prompts."""
    norm: float
    """‖v‖ at the layer."""
    start: float
    """The coefficient at which α·‖v‖ cancels the difference."""
    change_without: float | None
    """How far a trial run without steering moved the probes, in sigma; None without a trial."""
    change_with: float | None
    """How far a trial run with steering at `start` moved them."""
    why: str
    """The reason for the coefficient, in words."""


@dataclass(frozen=True, kw_only=True)
class FinetuneResults:
    """What was trained, and how it went."""

    format: int = 1
    model: Path | None
    """Folder of the adapter, or of the model with `full`; None where a condition stopped the run
    before its first checkpoint."""
    weights: str | None
    """Hash of the files in `model`."""
    mitigation: str
    coefficient: float | str | None
    """The coefficient used, or its schedule; None for mitigations without one."""
    strength: float | None
    dose: PreventativeDose | None
    """How `auto` chose the coefficient; None where it was given."""
    steps: int
    loss: float
    """Mean over the last tenth of the steps, in nats a token, without a mitigation's term."""
    losses: tuple[float, ...]
    """Loss of each step, a mitigation's term included."""
    drift: Path
    """The drift log, one record a reading."""
    stopped: str | None
    """The condition that ended the run."""
    rows: int
    """Rows trained on."""
    rejected: int
    """Rows that could not be used."""
    data: dict[str, DataReading]
    """How the rows were read, by dataset (`data.DataReading`)."""
    seconds: float
    notes: tuple[str, ...]
    base: ModelIdentity
    """Identity of the model before training."""
    versions: dict[str, str]
