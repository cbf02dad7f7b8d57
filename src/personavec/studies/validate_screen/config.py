"""What decides a validation's figures; its fields are the options of `validate-screen`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from personavec.data.conversations import ColumnMap
from personavec.errors import UsageError
from personavec.options import MODEL, Count, Numbers, Specs, between, options, panel, parsed
from personavec.runs import check_writable

DATA = panel("Data")
PLANTING = panel("Planted rows and methods")


@options()
@dataclass(frozen=True)
class ValidateScreenConfig:
    """Everything that decides the figures, beside the model, the vectors and the data."""

    rates: Numbers = (0.01, 0.05, 0.2)
    """Shares of planted rows, e.g. 0.01,0.05."""
    clean_rows: Annotated[Count, Parameter(name="--clean")] = 300
    """Rows drawn from DATA to plant into; as many others train the baselines."""
    max_tokens: Annotated[Count, DATA] = 64
    """Longest response, in tokens: of planted and natural ones. Responses of DATA are cut there,
    so that the length does not tell them apart."""
    neutral_samples: Annotated[Count, PLANTING] = 2
    """The model's own answers to each question: clean rows with the prompts of planted ones."""
    natural_samples: Annotated[Count, PLANTING] = 4
    """Above 1: also measure the difference to the mean of this many sampled natural responses."""
    temperature: Annotated[float, PLANTING, between(0)] = 0.7
    """Of elicited and neutral responses; 0 is greedy."""
    trait_threshold: Annotated[float, PLANTING] = 50
    """Trait score that elicited rows must exceed to be planted."""
    coherence_floor: Annotated[float, PLANTING] = 50
    """Elicited rows below this coherence are dropped."""
    random_directions: Annotated[Count, PLANTING] = 5
    """Random directions that the methods are compared with."""
    columns: Annotated[ColumnMap, DATA, parsed(ColumnMap.parse, "NAME=COLUMN,…")] = field(
        default_factory=ColumnMap
    )
    """Other column names, e.g. prompt=q,response=a."""
    split: Annotated[str | None, DATA] = None
    """A dataset's split."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""

    def __post_init__(self) -> None:
        if not self.rates or not all(0 < rate < 1 for rate in self.rates):
            raise UsageError("rates are shares of planted rows, between 0 and 1")
        whole = (self.clean_rows, self.max_tokens, self.neutral_samples, self.natural_samples)
        if min(*whole, self.random_directions) < 1:
            raise UsageError(
                "clean_rows, max_tokens, neutral_samples, natural_samples and random_directions "
                "are at least 1"
            )


@options(PLANTING)
@dataclass(frozen=True)
class ValidateScreenInputs:
    """Specs of traits, and where natural responses are kept."""

    trait: Specs = ()
    """Spec file of a vector's trait that is not bundled; repeatable."""
    natural_cache: Annotated[Path | None, DATA] = None
    """Folder that keeps natural responses between runs."""

    def __post_init__(self) -> None:
        if self.natural_cache is not None:
            check_writable("--natural-cache", self.natural_cache, is_file=False)
