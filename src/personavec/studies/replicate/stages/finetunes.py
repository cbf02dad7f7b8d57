"""A finetune on every set, some of them with several seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from personavec.finetune import FinetuneResults
from personavec.runs import Settings
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.stages import sets
from personavec.studies.replicate.stages.sets import Dataset
from personavec.studies.replicate.study import Inputs, Study
from personavec.studies.replicate.work import Work, trained

FIELDS = ("set_rows", "seeds", "rank", "learning_rate", "epochs", "accumulation", "seed")
#: Levels of which every seed is trained: what is compared, and its null.
_COMPARED = ("normal", "strong")


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """One finetune."""

    set: str
    level: str
    trait: str | None
    """The trait that the set shows."""
    seed: int
    rows: int
    steps: int
    loss: float
    """Mean over the last tenth of the steps, in nats a token."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FinetunesResult:
    format: int = 1
    stage: str = "finetunes"
    models: tuple[TrainedModel, ...]


@dataclass(frozen=True)
class Job:
    """A finetune to run."""

    dataset: Dataset
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset.name}-seed{self.seed}"

    def folder(self, study: Study) -> Path:
        return study.folder("finetunes") / self.name


def seeds_of(level: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds that a level is trained with."""
    return seeds if level in _COMPARED else seeds[:1]


def jobs(study: Study) -> list[Job]:
    """Every finetune, in order."""
    return [
        Job(dataset, seed)
        for dataset in sets.datasets(study)
        for seed in seeds_of(dataset.level, study.config.seeds)
    ]


def count(inputs: Inputs) -> int:
    """How many finetunes a plan counts on."""
    return sum(len(seeds_of(level, inputs.config.seeds)) for _, level in sets.expected(inputs))


def plan(inputs: Inputs) -> Work:
    config = inputs.config
    return trained(config.set_rows, config.answer_tokens, config.epochs) * count(inputs)


def settings(inputs: Inputs) -> Settings:
    return inputs.settings(FIELDS)


def run(study: Study) -> FinetunesResult:
    wanted = jobs(study)
    found = study.train({job.folder(study): (job.dataset.rows, job.seed) for job in wanted})
    return FinetunesResult(models=tuple(map(_trained, wanted, found)))


def _trained(job: Job, found: FinetuneResults) -> TrainedModel:
    return TrainedModel(
        set=job.dataset.set,
        level=job.dataset.level,
        trait=job.dataset.trait,
        seed=job.seed,
        rows=found.rows,
        steps=found.steps,
        loss=found.loss,
        seconds=found.seconds,
    )


STAGE = Stage(
    "finetunes",
    "finetunes",
    ("sets",),
    FinetunesResult,
    plan,
    settings,
    run,
    files_kept=False,
)
