"""Configs of `monitor` and `calibrate`; their fields are the commands' options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from personavec.data.conversations import ColumnMap
from personavec.errors import UsageError
from personavec.options import MODEL, Count, Integers, Names, between, options, panel, parsed
from personavec.presets import Preset, choose_sizes, sizes
from personavec.runs import check_writable

if TYPE_CHECKING:
    from personavec.traits import TraitSpec
    from personavec.vectors import PersonaVector

Format = Literal["jsonl", "parquet"]

#: Least number of questions to fit a line on, and to give an interval.
MIN_FIT_QUESTIONS, MIN_TEST_QUESTIONS = 3, 2

DATA = panel("Data")
FILES = panel("Files and report")
ANSWERS = panel("Answers")


@options()
@dataclass(frozen=True)
class MonitorConfig:
    """Everything that determines the readings, except the model, the vectors and the log."""

    columns: Annotated[ColumnMap, DATA, parsed(ColumnMap.parse, "NAME=COLUMN,…")] = field(
        default_factory=ColumnMap
    )
    """Other column names, e.g. messages=turns,id=key."""
    split: Annotated[str | None, DATA] = None
    """A dataset's split."""
    tokens: bool = False
    """Keep every response token's projection."""
    extremes: Annotated[int, between(0)] = 6
    """Turns of each trait that the report shows token by token: those with the highest answers."""
    format: Annotated[Format, FILES] = "jsonl"
    """Format of the readings."""
    batch_tokens: Annotated[int | None, MODEL, between(1)] = None
    """Tokens in a batch; default: as the memory allows."""
    max_rejects: Annotated[int | None, DATA, between(0)] = None
    """Stop at more unusable rows than this; default: any number may be unusable."""

    def __post_init__(self) -> None:
        if self.extremes < 0:
            raise UsageError("extremes is 0 or more")


#: Sizes of a calibration; None is all that there are.
SIZES = sizes(
    #                  quick, standard, thorough
    fit_questions=(6, 10, 20),
    test_questions=(6, 12, 12),
    judge_pairs=(1, None, None),
    shots=((0, 10), (0, 5, 10, 15, 20), (0, 5, 10, 15, 20)),
    example_questions=(20, 40, 80),
    neutral_prompts=(16, 48, 48),
)


@options()
@dataclass(frozen=True)
class CalibrateConfig:
    """Everything that determines a calibration, except the model, the spec and the vector."""

    preset: Preset = "standard"
    """How large the run is: sets the defaults of the numbers of questions, prompts, examples and
    judge pairs."""
    fit_questions: Annotated[int, between(MIN_FIT_QUESTIONS)] = SIZES["fit_questions"]
    """Extraction questions that the forecast is fitted on."""
    test_questions: Annotated[int, between(MIN_TEST_QUESTIONS)] = SIZES["test_questions"]
    """Evaluation questions that it is tested on: the last ones, since an extraction selects the
    layer on the first ones."""
    judge_pairs: Annotated[int | None, ANSWERS, between(1)] = SIZES["judge_pairs"]
    """Only the first N judge pairs; default: all."""
    shots: Annotated[Integers, ANSWERS] = SIZES["shots"]
    """Numbers of earlier turns that show the trait."""
    example_questions: Annotated[Count, ANSWERS] = SIZES["example_questions"]
    """Questions whose answers are candidates for these turns; those that show the trait best are
    taken."""
    neutral_prompts: Annotated[int, ANSWERS, between(2)] = SIZES["neutral_prompts"]
    """Neutral prompts; caps treat the tokens of their answers as ordinary."""
    max_tokens: Annotated[Count, ANSWERS] = 64
    """Longest response, in tokens."""
    temperature: Annotated[float, ANSWERS, between(0)] = 0.7
    """0 is greedy."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""

    def __post_init__(self) -> None:
        from personavec.traits import neutral_prompts

        choose_sizes(self)
        if self.fit_questions < MIN_FIT_QUESTIONS or self.test_questions < MIN_TEST_QUESTIONS:
            raise UsageError("fitting needs at least 3 questions, an interval at least 2")
        if not self.shots or min(self.shots) < 0:
            raise UsageError("the numbers of examples are 0 or more")
        if self.max_tokens < 1 or self.batch_tokens < 1 or self.neutral_prompts < 2:
            raise UsageError("max_tokens and batch_tokens are at least 1, neutral_prompts 2")
        if self.neutral_prompts > (there := len(neutral_prompts())):
            raise UsageError(f"{self.neutral_prompts} neutral prompts: the package has {there}")


@options()
@dataclass(frozen=True)
class MonitorInputs:
    """Which vectors a log is read along, and where the results are written."""

    vectors: Names = ()
    """Vectors' folders or bundled names; repeat it, or separate by commas. Default: all bundled
    ones."""
    out: Path = Path("out/monitor")
    """Folder to write."""
    fit_limits: Path | None = None
    """Treat the log as ordinary: fit drift limits on it, and write them to this folder."""

    def __post_init__(self) -> None:
        check_writable("--out", self.out, is_file=False)
        if self.fit_limits is not None:
            check_writable("--fit-limits", self.fit_limits, is_file=False)

    def load(self) -> list[PersonaVector]:
        """The vectors. Raises UsageError, DataError."""
        from personavec.vectors import bundled_vectors, load_vector

        return [load_vector(name) for name in self.vectors or bundled_vectors()]


@options()
@dataclass(frozen=True)
class CalibrateInputs:
    """Which vector is calibrated with which spec, and where the result is written."""

    vectors: str = "optimistic"
    """A vector's folder or a bundled name."""
    trait: str | None = None
    """Its spec: a bundled trait or a file. Default: the vector's trait."""
    out: Path | None = None
    """Folder to write; default: the vector's."""

    def __post_init__(self) -> None:
        if self.out is not None:
            check_writable("--out", self.out, is_file=False)

    def load(self) -> tuple[PersonaVector, TraitSpec]:
        """The vector and its spec. Raises UsageError for a spec of another trait, and DataError."""
        from personavec.traits import load_trait
        from personavec.vectors import load_vector

        vector = load_vector(self.vectors)
        spec, _ = load_trait(self.trait or vector.trait)
        if spec.name != vector.trait:
            raise UsageError(f"the vector is of '{vector.trait}', the spec of '{spec.name}'")
        return vector, spec

    def folder(self) -> Path:
        """Where to write. Raises UsageError for a bundled vector without --out."""
        from personavec.vectors import bundled_vectors, vector_folder

        if self.out is not None:
            return self.out
        if self.vectors in bundled_vectors():
            raise UsageError(f"'{self.vectors}' is a bundled vector: give --out a folder to write")
        return vector_folder(self.vectors)
