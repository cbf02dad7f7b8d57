"""Who is evaluated, a model and what steers it, and who judges it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from personavec.errors import UsageError
from personavec.judges import ContrastJudge
from personavec.model import Action, Layers, LoadedModel, load_model, vector_cap, vector_steering
from personavec.model.engine import Engine, TransformersEngine
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector

Arm = Literal["model", "other"]


@dataclass(frozen=True, eq=False)
class SteeredBy:
    """A vector that steers: its coefficient, and the layer (default: the selected one) or `all`.

    `cap`, a percentile of ordinary tokens, also bounds the projection (see `vector_cap`).
    """

    vector: PersonaVector
    coefficient: float = 0.0
    layer: Layers = None
    cap: float | None = None

    def steering(self) -> tuple[Action, ...]:
        """What it does at every position whose logits choose a response token."""
        added = vector_steering(self.vector, self.coefficient, self.layer)
        return added if self.cap is None else (*added, vector_cap(self.vector, self.cap))


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to evaluate, as it is or steered."""

    loaded: LoadedModel
    steered_by: tuple[SteeredBy, ...] = ()
    engine: Engine | None = None
    """What generates its answers; default: its transformers model. Capability runs on that."""

    @property
    def name(self) -> str:
        return self.loaded.identity.name

    @property
    def engine_name(self) -> str:
        return self.engine.name if self.engine else TransformersEngine.name

    def steering(self) -> tuple[Action, ...]:
        """All that its vectors do."""
        return tuple(s for each in self.steered_by for s in each.steering())


Subjects = Mapping[Arm, Subject]


def check_subjects(subjects: Subjects, specs: Sequence[TraitSpec]) -> None:
    """Raises UsageError for no or repeated traits, VectorMismatchError for a vector's shape."""
    if not specs:
        raise UsageError("no trait to evaluate: name at least one")
    names = [spec.name for spec in specs]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UsageError(f"trait '{twice[0]}' is given twice")
    for subject in subjects.values():
        identity = subject.loaded.identity
        for each in subject.steered_by:
            each.vector.check_fits(identity.n_layers, identity.hidden_size)


def judging_model(subject: Subject, compare_to: Subject | None = None) -> LoadedModel:
    """The model nearest to an untouched one: that compared to, an adapter's base, or its own.

    A finetuned model cannot judge what finetuning did to it, and two models that are compared
    need one judge.
    """
    if compare_to is not None:
        return compare_to.loaded
    identity = subject.loaded.identity
    if identity.declared_base:
        device = str(subject.loaded.device)
        return load_model(identity.declared_base, dtype=identity.dtype, device=device)
    return subject.loaded


def default_judge(subject: Subject, compare_to: Subject | None = None) -> ContrastJudge:
    """The contrast judge on the judging model, unsteered.

    It reads answers by their token ids only where it wrote all of them, so that answers that are
    compared are read in one way.
    """
    loaded = judging_model(subject, compare_to)
    answering = {id(s.loaded) for s in (subject, compare_to) if s is not None}
    return ContrastJudge(loaded, wrote_answers=answering == {id(loaded)})
