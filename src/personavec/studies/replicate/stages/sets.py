"""Finetuning sets: some show a trait, some have a narrow flaw; each at up to three levels.

Sets of flaws are made from their source without the model, in seconds. They lie in a folder of
their own, which is no evidence: the rows of `--maths` are the user's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from personavec.data import fingerprint
from personavec.errors import DataError, PersonavecError, SettingsMismatchError, StorageError
from personavec.finetune import TrainingRows, read_training_rows
from personavec.finetune.sets import (
    ElicitConfig,
    ElicitResults,
    FlawedConfig,
    FlawedResults,
    elicit,
    flawed_sums,
)
from personavec.results import Estimate
from personavec.runs import Settings
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.study import Inputs, LeftOut, Study, drawn
from personavec.studies.replicate.work import Work, answered, judged, judging_pairs
from personavec.traits import BUNDLED

_FIELDS = (
    *("elicited", "elicited_answers", "flawed", "answer_tokens", "judge_pairs", "seed"),
    *("trait_threshold", "coherence_floor"),
)
LEVELS = ("normal", "mild", "strong")
#: What the set of `--maths` is called.
MATHS = "maths"
#: The folder of the sets of narrow flaws.
_FLAWED = "flawed"


@dataclass(frozen=True, kw_only=True)
class SetLevel:
    """One level of a set: a file of rows."""

    set: str
    level: str
    trait: str | None
    """The trait that it shows; None for a narrow flaw."""
    rows: int
    expression: Estimate
    """Of the trait that it shows: log-odds in nats, or the trait score of a rubric judge."""


@dataclass(frozen=True, kw_only=True)
class SetsResult:
    format: int = 1
    stage: str = "sets"
    levels: tuple[SetLevel, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Dataset:
    """The rows of one level, as they are trained on."""

    set: str
    level: str
    trait: str | None
    rows: TrainingRows

    @property
    def name(self) -> str:
        return f"{self.set}-{self.level}"


def plan(inputs: Inputs) -> Work:
    config, work = inputs.config, Work()
    for trait in config.elicited:
        spec = inputs.specs[trait]
        asked = len(elicit.tasks_of(spec, spec.questions.extraction, config.elicited_answers))
        work += answered(asked, config.answer_tokens)
        pairs = judging_pairs(spec, config.judge_pairs)
        work += judged(asked, config.answer_tokens, pairs, own=asked)
    return work


def settings(inputs: Inputs) -> Settings:
    own = inputs.settings(_FIELDS, inputs.config.elicited)
    sources = flawed_sources(inputs)
    return {**own, "flawed": {name: _content(source) for name, source in sources.items()}}


def _content(source: str) -> Settings:
    """A set's source by content."""
    return fingerprint(_bundled(source) or source)


def _bundled(source: str) -> Path | None:
    """The file of a bundled set of narrow flaws."""
    packaged = flawed_sums.PACKAGED.get(source)
    return Path(str(BUNDLED / packaged)) if packaged else None


def flawed_sources(inputs: Inputs) -> dict[str, str]:
    """The sets of narrow flaws by name: bundled ones, files of such, and the user's maths."""
    found = {Path(source).stem: source for source in inputs.config.flawed}
    return {**found, **({MATHS: inputs.sources.maths} if inputs.sources.maths else {})}


def run(study: Study) -> SetsResult:
    """Raises what writing raises; a set that cannot be made is left out."""
    levels: list[SetLevel] = []
    left_out: list[LeftOut] = []
    makers = {trait: (elicited, trait) for trait in study.config.elicited}
    makers |= {name: (flawed, source) for name, source in flawed_sources(study.inputs).items()}
    for name, (make, source) in makers.items():
        try:
            levels += make(study, name, source)
        except (StorageError, SettingsMismatchError):
            raise
        except PersonavecError as error:
            left_out.append(LeftOut(what=name, why=str(error)))
    return SetsResult(levels=tuple(levels), left_out=tuple(left_out))


def elicited(study: Study, name: str, trait: str) -> list[SetLevel]:
    """A set that shows a trait. Raises TooFewRolloutsError."""
    config = study.config
    found: ElicitResults = elicit.run(
        study.loaded,
        study.spec(trait),
        _folder(study, name, trait),
        ElicitConfig(
            samples=config.elicited_answers,
            max_tokens=config.answer_tokens,
            seed=config.seed,
            trait_threshold=config.trait_threshold,
            coherence_floor=config.coherence_floor,
            batch_tokens=config.batch_tokens,
        ),
        judge=study.judge,
        engine=study.engine,
        progress=study.progress,
    )
    return [
        SetLevel(
            set=name,
            level=level,
            trait=trait,
            rows=own.rows,
            expression=Estimate(own.mean, own.low, own.high)
            if own.log_odds is None
            else Estimate(own.log_odds, own.log_odds_low, own.log_odds_high),
        )
        for level, own in found.levels.items()
    ]


def flawed(study: Study, name: str, source: str) -> list[SetLevel]:
    """A set with a narrow flaw. Raises DataError for one that is neither bundled nor a file."""
    if _bundled(source) is None and not Path(source).exists() and "/" not in source:
        raise DataError(f"no set of narrow flaws is called {source}: give a bundled one or a file")
    found: FlawedResults = flawed_sums.run(
        source, _folder(study, name, None), FlawedConfig(seed=study.config.seed)
    )
    return [
        SetLevel(set=name, level=level, trait=None, rows=own.rows, expression=Estimate())
        for level, own in found.levels.items()
    ]


def _folder(study: Study, name: str, trait: str | None) -> Path:
    """Where a set lies."""
    parent = study.folder("sets")
    return parent / name if trait else parent / _FLAWED / name


def datasets(study: Study) -> list[Dataset]:
    """Every level of every set that was made, with at most `set_rows` rows."""
    return list(_datasets(study, study.result(SetsResult).levels))


def _datasets(study: Study, levels: Iterable[SetLevel]) -> Iterable[Dataset]:
    config, sources = study.config, flawed_sources(study.inputs)
    for own in levels:
        path = _folder(study, own.set, own.trait) / f"{own.level}.jsonl"
        if own.trait is None and not path.exists():  # The stage came from evidence.
            flawed(study, own.set, sources[own.set])
        rows = read_training_rows(path)
        yield Dataset(own.set, own.level, own.trait, drawn(rows, config.set_rows, config.seed))


def expected(inputs: Inputs) -> list[tuple[str, str]]:
    """The sets and levels that a plan counts on."""
    names = [*inputs.config.elicited, *flawed_sources(inputs)]
    return [(name, level) for name in names for level in LEVELS]


STAGE = Stage(
    "sets",
    "finetuning sets",
    (),
    SetsResult,
    plan,
    settings,
    run,
    kept=tuple(f"*/{level}.jsonl" for level in LEVELS),
)
