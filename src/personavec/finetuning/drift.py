"""Trait drift: a fixed probe set's projections, read while a model trains.

The probes are neutral prompts, read at their last token, where the finetuning shift is read too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from personavec.conditions import Condition
from personavec.errors import DataError, UsageError
from personavec.model.chat import chat
from personavec.model.loading import LoadedModel
from personavec.model.projecting import Directions, project_tokens
from personavec.model.steering import Layers
from personavec.model.training_hooks import PullAlong
from personavec.runs import append_records, atomic_write, read_as, read_records, write_records
from personavec.stats import clustered_bootstrap
from personavec.summaries import without_nan
from personavec.traits import neutral_prompts
from personavec.vectors import PersonaVector

#: Units in which a probe set's drift can be read.
UNITS = ("sigma", "norm")
N_PROBES = 32


class Probes:
    """Neutral prompts as ids, and the vectors whose projections at their last token are read."""

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
        """Every prompt's projection by trait, in units of the residual stream, in eval mode."""
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
        """The standard deviation of projections on neutral prompts; 1 where it was not measured."""
        return float(self.vectors[name].neutral_prompt_last[self.layers[name]][1]) or 1.0

    def reading(self, name: str, values: Sequence[float]) -> dict[str, float]:
        """The mean projection; also in spreads of neutral prompts, and in residual norms."""
        vector, layer = self.vectors[name], self.layers[name]
        mean, spread = float(vector.neutral_prompt_last[layer][0]), self.spread(name)
        projection = sum(values) / len(values)
        return {
            "projection": projection,
            "sigma": (projection - mean) / spread,
            "norm": projection / float(vector.residual_norm[layer]),
        }


def read_log(path: Path, every: int, step: int, anew: str) -> list[dict[str, Any]]:
    """The records of a drift log up to a step, which has one itself.

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


class Drift:
    """Reads the probes every so many steps, keeps the record, and checks the conditions.

    `path` gets one record a reading: `step`, `loss` (of that step; null before the first),
    `traits` {name: `projection`, `sigma`, `norm`, and `change`, `low`, `high`: the mean change
    from before training in sigma, bootstrapped over the prompts} and `pull` {trait: `toward`,
    `share`}, how the loss pulls along the vector since the last reading (`PullAlong`).
    """

    def __init__(
        self,
        probes: Probes,
        path: Path,
        *,
        every: int,
        conditions: Sequence[Condition] = (),
        pull: PullAlong | None = None,
        on_reading: Any = None,
    ) -> None:
        self.every = every
        self.stopped: Condition | None = None
        self._probes, self._path, self._conditions = probes, path, tuple(conditions)
        self.pull, self._on_reading = pull, on_reading
        self._before = path.with_name("run") / "probes.json"

    def begin(self, model: Any, step: int) -> None:
        """Take the reading before training, or go on from a checkpoint at `step`.

        Records of steps that will be run again are removed. Raises UsageError where a condition
        is met before a step is trained.
        """
        main = PartialState().is_main_process
        if step:
            anew = "delete the folder, and finetune anew"
            self._base = read_as(self._before, dict[str, list[float]], anew)
            sizes = {name: len(values) for name, values in self._base.items()}
            if sizes != dict.fromkeys(self._probes.vectors, len(self._probes.questions)):
                raise DataError(f"{self._before} is damaged (readings of other probes); {anew}")
            if main:
                write_records(self._path, read_log(self._path, self.every, step, anew))
            return
        self._base = self._probes.project(model)
        if main:
            atomic_write(self._before, json.dumps(self._base))
            write_records(self._path, ())
        self.read(model, 0, None)
        if self.stopped is not None:
            raise UsageError(
                f"--stop-if {self.stopped} is met before training; choose another threshold"
            )

    def read(self, model: Any, step: int, loss: float | None) -> tuple[dict[str, float], bool]:
        """Take a reading; numbers for the trainer's log, and whether a condition is met."""
        found = self._base if step == 0 else self._probes.project(model)
        traits = {}
        for name, values in found.items():
            change = np.asarray(values) - np.asarray(self._base[name])
            change /= self._probes.spread(name)
            interval = clustered_bootstrap(change, self._probes.questions, n=500)
            traits[name] = {
                **self._probes.reading(name, values),
                "change": interval.value,
                "low": interval.low,
                "high": interval.high,
            }
        record = {"step": step, "loss": loss, "traits": without_nan(traits), "pull": self._pulls()}
        if PartialState().is_main_process:
            append_records(self._path, [record])
        for condition in self._conditions:
            if condition.met({name: t[condition.unit] for name, t in traits.items()}):
                self.stopped = condition
                break
        if self._on_reading is not None:
            self._on_reading(record)
        logs = {f"drift/{name}": t["sigma"] for name, t in traits.items()}
        return logs, self.stopped is not None

    def _pulls(self) -> dict[str, Any]:
        taken = self.pull.take() if self.pull is not None else {}
        return {name: {"toward": p.toward, "share": p.share} for name, p in taken.items()}
