"""What a validation returns: the schema of its `results.json`, which report and `--json` read."""

from __future__ import annotations

from dataclasses import dataclass

from personavec.data import DataReading
from personavec.in_notebooks import InNotebooks
from personavec.model import ModelIdentity
from personavec.results import Dump, Estimate, dump
from personavec.studies.validate_screen.config import ValidateScreenConfig

#: By statistic (`auc`, `precision@0.05`, …): its value over all rows, with its interval.
Figures = dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class TraitDetection:
    """One trait's planted rows among clean ones."""

    planted: int
    clean: int
    clean_same_prompts: int
    """Clean rows that have the prompts of planted ones."""
    left_out: int
    """Rows without a score by some method."""
    methods: dict[str, Figures]


@dataclass(frozen=True, kw_only=True)
class StyleDetection:
    """One style of planted rows: means over traits, and every trait."""

    methods: dict[str, Figures]
    traits: dict[str, TraitDetection]


@dataclass(frozen=True, kw_only=True)
class Band(Estimate):
    """The mean exact difference of a dataset of known strength."""

    n: int


@dataclass(frozen=True, kw_only=True)
class DatasetOrder:
    """Whether the mean exact difference orders datasets as the judge does."""

    ordered: bool
    """Strong > mild > normal."""
    beyond_chance: bool
    """Both steps' intervals lie above 0."""
    log_odds_between_bands: tuple[float, float]
    """The highest excess of the mild rows and the lowest of the strong ones, in nats."""
    bands: dict[str, Band]
    mild_minus_normal: Estimate
    strong_minus_mild: Estimate


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """The rows that the baselines were fitted on."""

    planted: int
    clean: int


@dataclass(frozen=True, kw_only=True)
class ClassifierFit:
    """How the word classifier was chosen."""

    C: float
    """The inverse penalty, by cross-validation."""
    training_auc: float
    """Over the folds of the training rows."""


@dataclass(frozen=True, kw_only=True)
class ValidatedTrait:
    """One trait's rows and baselines."""

    layer: int
    elicited: int
    """Responses that were elicited."""
    kept: int
    """Elicited responses that were planted."""
    neutral: int
    written: int
    training: TrainingRows
    tfidf: ClassifierFit
    longer: bool
    """Whether planted responses were the longer ones in training."""


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """The clean dataset."""

    name: str
    clean: int
    """Rows drawn to plant into."""
    training: int
    """Other rows drawn to fit the baselines on."""
    rejected: int
    told: DataReading


@dataclass(frozen=True, kw_only=True)
class ValidateScreenResults(InNotebooks):
    """What a validation found; `results.json` is its dump."""

    format: int = 1
    command: str = "validate-screen"
    model: ModelIdentity
    data: StudyData
    rates: tuple[float, ...]
    methods: dict[str, str]
    """By key: what each method is called."""
    traits: dict[str, ValidatedTrait]
    not_measured: dict[str, str]
    """By trait: why it was left out."""
    styles: dict[str, StyleDetection | None]
    order: dict[str, DatasetOrder | None]
    notes: tuple[str, ...]
    settings: ValidateScreenConfig
    versions: dict[str, str]
    out: str


def summary(results: ValidateScreenResults) -> Dump:
    """The object that `validate-screen --json` prints."""
    found = dump(results)
    for name in ("command", "settings", "versions"):
        del found[name]
    return {**found, "model": results.model.name, "report": f"{results.out}/report.html"}
