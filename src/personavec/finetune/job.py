"""One finetune: what it is given, what is checked before work, and the settings of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from personavec.errors import UsageError
from personavec.finetune.config import UNITS, WITH_VECTOR, FinetuneConfig, Mitigation
from personavec.finetune.rows import TrainingRows
from personavec.model import LoadedModel
from personavec.progress import Progress
from personavec.runs import Settings
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector


@dataclass(frozen=True, eq=False)
class FinetuneJob:
    """What `run` was given, and what follows from it."""

    loaded: LoadedModel
    data: TrainingRows
    out: Path
    config: FinetuneConfig
    vectors: tuple[PersonaVector, ...] = ()
    """Vectors that the mitigation works with."""
    watch: tuple[PersonaVector, ...] = ()
    """Further vectors whose drift is logged."""
    spec: TraitSpec | None = None
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))

    @property
    def read(self) -> list[PersonaVector]:
        """Each vector whose drift is logged."""
        return _read(self.vectors, self.watch)

    @property
    def directions(self) -> dict[str, tuple[int, Tensor]]:
        """The layer and the direction of each of them, by trait."""
        return {v.trait: (self.layer_of(v), v.direction(self.layer_of(v))) for v in self.read}

    def layer_of(self, vector: PersonaVector) -> int:
        """The layer at which a vector is read."""
        return _layer_of(self.config, vector)

    def check(self) -> None:
        """Raise UsageError or VectorMismatchError where the job cannot be done."""
        identity, layer = self.loaded.identity, self.config.layer
        for vector in self.read:
            vector.check_fits(identity.n_layers, identity.hidden_size)
            vector.direction(self.layer_of(vector))
        if isinstance(layer, int) and layer < 1:
            raise UsageError(f"layer {layer} cannot be steered: layers count from 1")
        check_inputs(self.config, self.vectors, self.watch, self.spec)

    def settings(self) -> Settings:
        """Everything that decides the result: the manifest of the folder."""
        config = self.config
        return {
            "command": "finetune",
            "data": self.data.source,
            "model": self.loaded.identity.as_dict(),
            "rows": self.data.hash,
            "vectors": {v.trait: v.identity for v in self.vectors},
            "watch": {v.trait: v.identity for v in self.watch},
            "spec": self.spec.hash if self.spec else None,
            "training": asdict(config.training),
            "mitigation": config.mitigation.as_dict(),
            "layer": config.layer,
            "positions": config.positions,
            "drift_every": config.drift_every,
            "stop_if": [str(condition) for condition in config.stop_if],
        }


def check_inputs(
    config: FinetuneConfig,
    vectors: Sequence[PersonaVector],
    watch: Sequence[PersonaVector] = (),
    spec: TraitSpec | None = None,
) -> None:
    """Raise UsageError where a mitigation, a condition or a tracker lacks what it needs.

    Needs no model.
    """
    _check_mitigation(config.mitigation, vectors, spec)
    _check_conditions(config, {vector.trait: vector for vector in _read(vectors, watch)})
    _check_trackers(config.training.report_to)


def _check_mitigation(
    mitigation: Mitigation, vectors: Sequence[PersonaVector], spec: TraitSpec | None
) -> None:
    if mitigation.name in WITH_VECTOR and not vectors:
        raise UsageError(f"mitigation {mitigation.name} needs a vector: name it with --vectors")
    if mitigation.name == "inoculation" and spec is None:
        raise UsageError("mitigation inoculation needs a trait: name it with --trait")
    if mitigation.coefficient == "auto" and len(vectors) != 1:
        raise UsageError("--dose auto chooses the coefficient of one vector; name one")


def _check_conditions(config: FinetuneConfig, vectors: dict[str, PersonaVector]) -> None:
    for condition in config.stop_if:
        vector = vectors.get(condition.trait)
        if vector is None:
            raise UsageError(
                f"condition {condition}: no vector for trait {condition.trait!r} is read in "
                f"training; those read are {', '.join(sorted(vectors)) or 'none'}"
            )
        if condition.unit not in UNITS:
            raise UsageError(f"condition {condition}: the unit must be {' or '.join(UNITS)}")
        spread = float(vector.neutral_prompt_last[_layer_of(config, vector), 1])
        if condition.unit == "sigma" and not spread > 0:
            raise UsageError(
                f"condition {condition}: the vector has no spread over neutral prompts, so it has "
                "no sigma; extract it again, or use norm"
            )


def _check_trackers(names: Sequence[str]) -> None:
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    for name in names:
        if name in ("all", "none"):
            continue
        try:
            for tracker in get_reporting_integration_callbacks([name]):
                tracker()
        except (ValueError, RuntimeError, ImportError) as error:
            raise UsageError(f"--report-to {name}: {error}") from error


def _layer_of(config: FinetuneConfig, vector: PersonaVector) -> int:
    return config.layer if isinstance(config.layer, int) else vector.layer


def _read(vectors: Sequence[PersonaVector], watch: Sequence[PersonaVector]) -> list[PersonaVector]:
    """Each trait's vector once; of two, the one that the mitigation works with."""
    return list({v.trait: v for v in (*watch, *vectors)}.values())
