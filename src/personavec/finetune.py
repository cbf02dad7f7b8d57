"""Finetune a model on rows of data, with a mitigation, watching the traits as it goes.

The paper's section 5: finetuning moves traits; steering toward the vector in training prevents
it. Trains, logs trait drift beside the loss, stops where a condition is met, and continues after
a kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from personavec.conditions import Condition
from personavec.errors import UsageError
from personavec.mitigations import Mitigation
from personavec.model.loading import LoadedModel
from personavec.model.steering import Layers
from personavec.model.training_hooks import TrainedPositions
from personavec.progress import Progress
from personavec.training import TrainingConfig, TrainingRows
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides a finetune's result, beside the model, the data and the vectors."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    mitigation: Mitigation = field(default_factory=Mitigation)
    layer: Layers = None
    """Where the mitigation acts: a layer, `all`, or each vector's selected one (default)."""
    positions: TrainedPositions = "response"
    drift_every: int = 10
    """Steps between two readings of the probe set."""
    stop_if: tuple[Condition, ...] = ()
    """Conditions on the drift, in sigma or norm, that end the run."""

    def __post_init__(self) -> None:
        if self.drift_every < 1:
            raise UsageError("drift_every must be at least 1")


def run(
    loaded: LoadedModel,
    data: TrainingRows,
    out: Path,
    config: FinetuneConfig | None = None,
    *,
    vectors: Sequence[PersonaVector] = (),
    watch: Sequence[PersonaVector] = (),
    spec: TraitSpec | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Finetune; returns and writes `results.json`, whose keys are those of `finetune --json`.

    `vectors` are what the mitigation works with; they and those in `watch` are read from the
    probe set every `drift_every` steps. `spec` is needed for inoculation: its first positive
    instruction is the system prompt. Writes into `out`: `model/` (the adapter, or the model with
    `full`; loadable with `load_model`), `drift.jsonl`, `rejects.jsonl`, `results.json`,
    `run/checkpoint-N`. Killed and called again with the same arguments, it continues; called on a
    finished run it returns the results at once. The loaded model is the base again afterwards.

    Results: `model` (path of `out/model`), `mitigation`, `coefficient` (what was used; null where
    there is none), `dose` (how auto chose it; null otherwise), `steps`, `loss` (mean over the
    last tenth of the steps), `losses` (of every step), `drift` (path), `stopped` (the condition
    that ended the run, or null), `rows`, `rejected`, `seconds`, `notes`.

    Raises UsageError for a mitigation that lacks its vector or pulls the wrong way,
    VectorMismatchError, DataError for no usable rows, ActivationError for a loss that is not
    finite, SettingsMismatchError for an `out` begun with other settings.
    """
    raise NotImplementedError
