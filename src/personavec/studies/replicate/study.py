"""What all stages of a replication share: the model, the data, the folders."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from personavec.data import DataRow, fingerprint, parse_row, raw_rows
from personavec.errors import DataError
from personavec.finetune import (
    FinetuneConfig,
    FinetuneResults,
    TrainingConfig,
    TrainingRows,
)
from personavec.judges import ContrastJudge, Judge
from personavec.model import LoadedModel
from personavec.model.engine import Engine, Sampling
from personavec.progress import Progress
from personavec.results import read
from personavec.rollouts import Naturals
from personavec.runs import Settings
from personavec.studies.replicate.config import (
    TRAIT_FIELDS,
    ReplicateConfig,
    ReplicateInputs,
)
from personavec.studies.replicate.spreading import TrainingJob, Workers, train_all
from personavec.traits import TraitSpec, load_trait
from personavec.vectors import PersonaVector, load_vector

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: Rows of a source that are read: a dataset on the hub may have millions.
READ = 50_000
#: Trait drift is read at the end, by the stage that measures expression.
_NEVER = 10**9

R = TypeVar("R")


@dataclass(frozen=True)
class Sources:
    """The user's data: files or datasets on the hub; None where there are none."""

    maths: str | None = None
    """Worked arithmetic, as GSM8K has it."""
    chats: str | None = None
    """Real conversations."""
    dialogues: str | None = None
    """Conversations of many turns."""

    def identity(self, name: str) -> Settings | None:
        """One of them by content."""
        source = getattr(self, name)
        return None if source is None else fingerprint(source)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What a stage could not do, and why."""

    what: str
    why: str


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is known of a replication before its model is loaded."""

    config: ReplicateConfig
    specs: Mapping[str, TraitSpec]
    """By the trait's name, with the judge pairs that are used."""
    sources: Sources = field(default_factory=Sources)

    def settings(self, fields: Sequence[str], traits: Sequence[str] = ()) -> Settings:
        """These fields of the config, and the specs of these traits by content."""
        return {
            **{name: getattr(self.config, name) for name in fields},
            "specs": {name: self.specs[name].hash for name in traits},
        }


def read_inputs(config: ReplicateConfig, given: ReplicateInputs) -> Inputs:
    """The inputs of a command line. Raises SpecError."""
    loaded = [load_trait(source)[0] for source in config.traits]
    specs = {spec.name: spec.at_most(judge_pairs=config.judge_pairs) for spec in loaded}
    # A spec file is named by its trait from here on.
    names = dict(zip(config.traits, specs, strict=True))
    renamed = {
        name: tuple(names[source] for source in getattr(config, name)) for name in TRAIT_FIELDS
    }
    sources = Sources(given.maths, given.chats, given.dialogues)
    return Inputs(dataclasses.replace(config, **renamed), specs, sources)


@dataclass(frozen=True, eq=False)
class Study:
    """A replication that runs."""

    inputs: Inputs
    loaded: LoadedModel
    out: Path
    judge: Judge | None = None
    """None: the model judges by contrast, as each verb does by itself."""
    engine: Engine | None = None
    progress: Progress = field(default_factory=Progress)
    workers: Workers | None = None
    """Who finetunes side by side; None: this process alone."""

    @property
    def config(self) -> ReplicateConfig:
        return self.inputs.config

    @property
    def sources(self) -> Sources:
        return self.inputs.sources

    def spec(self, trait: str) -> TraitSpec:
        return self.inputs.specs[trait]

    @cached_property
    def judge_of_tuned(self) -> Judge:
        """Who judges what finetuned models wrote."""
        return self.judge or ContrastJudge(self.loaded)

    def folder(self, stage: str) -> Path:
        return self.out / stage

    def result(self, kind: type[R]) -> R:
        """What an earlier stage found. Raises DataError where it has not run."""
        stage = next(f.default for f in dataclasses.fields(cast("Any", kind)) if f.name == "stage")
        return read(kind, self.folder(str(stage)) / "results.json", f"run the stage {stage} again")

    def vector(self, trait: str) -> PersonaVector:
        """The vector that the extraction made. Raises UsageError where there is none."""
        return load_vector(self.folder("extraction") / trait)

    def has_vector(self, trait: str) -> bool:
        return (self.folder("extraction") / trait / "vector.json").is_file()

    def vectors(self, traits: Sequence[str]) -> list[PersonaVector]:
        """The vectors of those traits that have one."""
        return [self.vector(trait) for trait in traits if self.has_vector(trait)]

    @property
    def sampling(self) -> Sampling:
        """Of answers to evaluation questions."""
        return Sampling(self.config.answer_tokens, 0.7, seed=self.config.seed)

    def naturals(self, tokens: int) -> Naturals:
        """Natural responses of at most so many tokens, kept for all stages."""
        return Naturals(
            self.loaded,
            self.out / "responses",
            max_tokens=tokens,
            batch_tokens=self.config.batch_tokens,
            engine=self.engine,
        )

    def training(self, seed: int) -> TrainingConfig:
        """How every model is finetuned, cut to the model's context."""
        config = self.config
        return TrainingConfig(
            rank=config.rank,
            alpha=2 * config.rank,
            learning_rate=config.learning_rate,
            epochs=config.epochs,
            accumulation=config.accumulation,
            seed=seed,
            truncate=True,
        )

    def train(self, jobs: Mapping[Path, tuple[TrainingRows, int]]) -> list[FinetuneResults]:
        """Finetunes on rows with a seed, each in its folder; side by side where they can be.

        Raises what a finetune raises.
        """
        wanted = [
            TrainingJob(
                rows, folder, FinetuneConfig(training=self.training(seed), drift_every=_NEVER)
            )
            for folder, (rows, seed) in jobs.items()
        ]
        return train_all(self.loaded, wanted, self.workers, self.progress)


def sizes_of(config: DataclassInstance) -> Settings:
    """A verb's config by what decides its result: the sizes themselves, not the preset's name."""
    found = dataclasses.asdict(config)
    return {name: found[name] for name in found if name not in ("preset", "batch_tokens")}


def drawn(rows: TrainingRows, n: int | None, seed: int) -> TrainingRows:
    """Up to `n` of the rows, the same in every run."""
    if n is None or len(rows.rows) <= n:
        return rows
    chosen = sorted(random.Random(seed).sample(range(len(rows.rows)), n))
    kept = tuple(rows.rows[i] for i in chosen)
    source = {**rows.source, "drawn": n, "seed": seed}
    return dataclasses.replace(rows, rows=kept, source=source)


def conversations(source: str, n: int | None, seed: int) -> tuple[DataRow, ...]:
    """Up to `n` conversations, drawn from the first `READ` of a file or dataset.

    Raises DataError where none can be used.
    """
    parsed = map(parse_row, islice(raw_rows(source), READ))
    rows = [row for row in parsed if isinstance(row, DataRow)]
    if not rows:
        raise DataError(f"{source}: none of its first rows holds a conversation")
    return drawn(TrainingRows.of(rows), n, seed).rows


def in_groups(rows: Sequence[R], size: int) -> Iterator[Sequence[R]]:
    """The rows, so many at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
