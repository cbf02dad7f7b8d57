"""Trait drift: projections of a fixed set of probes, read while a model trains.

The probes are neutral prompts, read at their last token, as the finetuning shift is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from personavec.conditions import Condition
from personavec.errors import DataError, UsageError
from personavec.finetune.pull import LossPull
from personavec.model import Directions, Layers, LoadedModel, chat, project_tokens
from personavec.results import dump
from personavec.runs import (
    Record,
    append_records,
    atomic_write,
    read_as,
    read_records,
    write_records,
)
from personavec.stats import clustered_bootstrap
from personavec.traits import neutral_prompts
from personavec.vectors import PersonaVector

N_PROBES = 32


@dataclass(frozen=True, kw_only=True)
class TraitDrift:
    """A trait's reading over the probes."""

    projection: float
    """Mean projection, in units of the residual stream."""
    sigma: float
    """The same in standard deviations of neutral prompts."""
    norm: float
    """The same in mean residual norms of the layer."""
    change: float
    """Mean change since before training, in sigma."""
    low: float
    high: float
    """Its 95% interval, bootstrapped over the probes."""


@dataclass(frozen=True, kw_only=True)
class DriftPull:
    """How the loss pulled along a vector since the last reading; see `pull.Pull`."""

    toward: float | None
    share: float | None


@dataclass(frozen=True, kw_only=True)
class DriftReading:
    """One record of the drift log."""

    step: int
    loss: float | None
    """Loss of this step, in nats a token; None before training."""
    traits: dict[str, TraitDrift]
    pull: dict[str, DriftPull]


class Probes:
    """Neutral prompts, and the vectors whose projections at their last token are read."""

    def __init__(
        self,
        loaded: LoadedModel,
        vectors: Sequence[PersonaVector],
        *,
        layer: Layers = None,
        n: int = N_PROBES,
    ) -> None:
        identity = loaded.identity
        for vector in vectors:
            vector.check_fits(identity.n_layers, identity.hidden_size)
        self.vectors = {vector.trait: vector for vector in vectors}
        self.layers = {
            name: layer if isinstance(layer, int) else vector.layer
            for name, vector in self.vectors.items()
        }
        self.questions = neutral_prompts()[:n]
        self._texts = [
            np.asarray(loaded.chat.prompt_ids(chat(question)), dtype=np.int32)
            for question in self.questions
        ]

    def project(self, model: Any) -> dict[str, list[float]]:
        """Each prompt's projection by trait, in units of the residual stream, in eval mode."""
        if not self.vectors:
            return {}
        chosen = [vector.direction(self.layers[name]) for name, vector in self.vectors.items()]
        unit = torch.stack([direction / direction.norm() for direction in chosen])
        directions = Directions(tuple(self.layers.values()), unit)
        was_training = model.training
        model.eval()
        try:
            values = project_tokens(model, self._texts, directions)
        finally:
            model.train(was_training)
        last = torch.stack([tokens[-1] for tokens in values])
        return {name: last[:, i].tolist() for i, name in enumerate(self.vectors)}

    def spread(self, name: str) -> float:
        """Standard deviation of projections on neutral prompts; 1 where it was not measured."""
        return float(self.vectors[name].neutral_prompt_last[self.layers[name]][1]) or 1.0

    def reading(self, trait: str, values: Sequence[float], before: Sequence[float]) -> TraitDrift:
        """A trait's drift, from every prompt's projection now and before training."""
        vector, layer, spread = self.vectors[trait], self.layers[trait], self.spread(trait)
        mean = float(vector.neutral_prompt_last[layer][0])
        projection = sum(values) / len(values)
        change = (np.asarray(values) - np.asarray(before)) / spread
        interval = clustered_bootstrap(change, self.questions, n=500)
        return TraitDrift(
            projection=projection,
            sigma=(projection - mean) / spread,
            norm=projection / float(vector.residual_norm[layer]),
            change=interval.value,
            low=interval.low,
            high=interval.high,
        )


def read_log(path: Path, every: int, step: int, anew: str) -> list[Record]:
    """The records of a drift log up to and including a step.

    Raises DataError, with the remedy `anew`, where the log is damaged or lacks a reading.
    """
    records = read_records(path)
    if not all(isinstance(record.get("step"), int) for record in records):
        raise DataError(f"{path} is damaged (a record without step); {anew}")
    kept = [record for record in records if record["step"] <= step]
    lost = {*range(0, step, every), step} - {record["step"] for record in kept}
    if lost:
        raise DataError(f"{path} is damaged (no reading of step {min(lost)}); {anew}")
    return kept


class DriftLog:
    """Reads the probes every so many steps, logs the readings, and checks the conditions.

    `path` gets one `DriftReading` per line.
    """

    def __init__(
        self,
        probes: Probes,
        path: Path,
        *,
        every: int,
        conditions: Sequence[Condition] = (),
        pull: LossPull | None = None,
        on_reading: Callable[[DriftReading], None] | None = None,
    ) -> None:
        self.every = every
        self.stopped: Condition | None = None
        self._probes, self._path, self._conditions = probes, path, tuple(conditions)
        self.pull, self._on_reading = pull, on_reading
        self._before = path.with_name("run") / "probes.json"
        self._base: dict[str, list[float]] = {}

    def begin(self, model: Any, step: int) -> None:
        """Take the reading before training, or continue from a checkpoint at `step`.

        Raises UsageError where a condition is met before training.
        """
        if step:
            self._continue(step)
            return
        self._base = self._probes.project(model)
        if PartialState().is_main_process:
            atomic_write(self._before, json.dumps(self._base))
            write_records(self._path, ())
        self.read(model, 0, None)
        if self.stopped is not None:
            raise UsageError(
                f"--stop-if {self.stopped} is met before training; choose another threshold"
            )

    def _continue(self, step: int) -> None:
        """Read what was measured before training; drop records of steps that run again."""
        anew = "delete the folder, and finetune anew"
        self._base = read_as(self._before, dict[str, list[float]], anew)
        sizes = {name: len(values) for name, values in self._base.items()}
        if sizes != dict.fromkeys(self._probes.vectors, len(self._probes.questions)):
            raise DataError(f"{self._before} is damaged (readings of other probes); {anew}")
        if PartialState().is_main_process:
            write_records(self._path, read_log(self._path, self.every, step, anew))

    def read(self, model: Any, step: int, loss: float | None) -> tuple[dict[str, float], bool]:
        """Take a reading; the numbers for the trainer's log, and whether a condition is met."""
        found = self._base if step == 0 else self._probes.project(model)
        traits = {
            name: self._probes.reading(name, values, self._base[name])
            for name, values in found.items()
        }
        reading = DriftReading(step=step, loss=loss, traits=traits, pull=self._pulls())
        if PartialState().is_main_process:
            append_records(self._path, [dump(reading)])
        for condition in self._conditions:
            if condition.met({name: getattr(t, condition.unit) for name, t in traits.items()}):
                self.stopped = condition
                break
        if self._on_reading is not None:
            self._on_reading(reading)
        logs = {f"drift/{name}": drift.sigma for name, drift in traits.items()}
        return logs, self.stopped is not None

    def _pulls(self) -> dict[str, DriftPull]:
        taken = {} if self.pull is None else self.pull.take()
        return {name: DriftPull(toward=p.toward, share=p.share) for name, p in taken.items()}
