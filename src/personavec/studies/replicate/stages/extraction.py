"""A persona vector for every trait, with its dose-response, layer sweep and random directions."""

from __future__ import annotations

from dataclasses import dataclass

from personavec.errors import DataError, SpecError, TooFewRolloutsError
from personavec.extract import ExtractConfig, ExtractResults, run as extract
from personavec.results import Estimate
from personavec.runs import Settings
from personavec.studies.replicate.config import ReplicateConfig
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.study import Inputs, LeftOut, Study, sizes_of
from personavec.studies.replicate.work import Work, answered, judged, judging_pairs
from personavec.vectors import Verdict

#: Transcripts that are kept of each trait.
_SHOWN = 2


@dataclass(frozen=True, kw_only=True)
class ExtractedVector:
    """One trait's vector."""

    trait: str
    layer: int
    away: float
    """The coefficients at both ends of the coherent range."""
    toward: float
    verdict: Verdict
    words: str
    kept_pos: int
    kept_neg: int


@dataclass(frozen=True, kw_only=True)
class SteeredAnswers:
    """What a coefficient did to the answers of questions that chose nothing."""

    trait: str
    direction: str
    """`vector`, or `random N`."""
    coefficient: float
    log_odds: Estimate
    """In nats."""
    coherence: Estimate
    """0 to 100."""
    coherent: bool
    n: int


@dataclass(frozen=True, kw_only=True)
class SweptLayer:
    """A coefficient at a candidate layer."""

    trait: str
    layer: int
    coefficient: float
    log_odds: Estimate
    coherence: Estimate
    selected: bool


@dataclass(frozen=True, kw_only=True)
class SteeredTranscript:
    """One answer at one coefficient."""

    trait: str
    question: str
    coefficient: float
    response: str


@dataclass(frozen=True, kw_only=True)
class ExtractionResult:
    format: int = 1
    stage: str = "extraction"
    vectors: tuple[ExtractedVector, ...]
    doses: tuple[SteeredAnswers, ...]
    layers: tuple[SweptLayer, ...]
    transcripts: tuple[SteeredTranscript, ...]
    left_out: tuple[LeftOut, ...]


def extract_config(config: ReplicateConfig) -> ExtractConfig:
    """The sizes of the preset. No answers are added: the statements do not rest on the checks."""
    usual = ExtractConfig(preset=config.extraction_preset)
    return ExtractConfig(
        preset=config.extraction_preset,
        samples=config.rollouts,
        max_tokens=config.answer_tokens,
        judge_pairs=config.judge_pairs,
        validation_samples=config.dose_answers or usual.validation_samples,
        end_samples=0,
        trait_threshold=config.trait_threshold,
        coherence_floor=config.coherence_floor,
        seed=config.seed,
        batch_tokens=config.batch_tokens,
    )


def plan(inputs: Inputs) -> Work:
    config, work = extract_config(inputs.config), Work()
    for trait in inputs.config.traits:
        spec = inputs.specs[trait]
        pairs = min(len(spec.instruction), config.pairs or len(spec.instruction))
        questions = min(
            len(spec.questions.extraction), config.questions or len(spec.questions.extraction)
        )
        held_out = len(spec.questions.evaluation)
        sweeping = min(config.sweep_questions, held_out // 2)
        testing = min(config.validation_questions or held_out, held_out - sweeping)
        doses = len(config.coefficients) + 2 * config.random_directions
        prompted = 2 * pairs * (questions * config.samples + testing)
        steered = (
            config.candidates * len(config.sweep_coefficients) * sweeping
            + doses * testing * config.validation_samples
        )
        answers, tokens = prompted + steered, config.max_tokens
        work += answered(answers + config.neutral_prompts, tokens)
        work += judged(answers, tokens, judging_pairs(spec, config.judge_pairs), own=prompted)
    return work


def settings(inputs: Inputs) -> Settings:
    sizes = sizes_of(extract_config(inputs.config))
    return {**inputs.settings(("traits",), inputs.config.traits), "extract": sizes}


def run(study: Study) -> ExtractionResult:
    """Raises TooFewRolloutsError where no trait has a vector."""
    found: dict[str, ExtractResults] = {}
    left_out: list[LeftOut] = []
    for trait in study.config.traits:
        try:
            found[trait] = extract(
                study.loaded,
                study.spec(trait),
                study.folder("extraction") / trait,
                extract_config(study.config),
                judge=study.judge,
                engine=study.engine,
                progress=study.progress,
            )
        except (TooFewRolloutsError, SpecError, DataError) as error:
            left_out.append(LeftOut(what=trait, why=str(error)))
    if not found:
        raise TooFewRolloutsError(f"no trait has a vector: {left_out[0].what}: {left_out[0].why}")
    return ExtractionResult(
        vectors=tuple(_vector(trait, own) for trait, own in found.items()),
        doses=tuple(dose for trait, own in found.items() for dose in _doses(trait, own)),
        layers=tuple(layer for trait, own in found.items() for layer in _layers(trait, own)),
        transcripts=tuple(text for trait, own in found.items() for text in _texts(trait, own)),
        left_out=tuple(left_out),
    )


def _vector(trait: str, found: ExtractResults) -> ExtractedVector:
    return ExtractedVector(
        trait=trait,
        layer=found.layer,
        away=found.coherent_range[0],
        toward=found.coherent_range[1],
        verdict=found.verdict.verdict,
        words=found.verdict.words,
        kept_pos=found.rollouts["pos"].kept,
        kept_neg=found.rollouts["neg"].kept,
    )


def _doses(trait: str, found: ExtractResults) -> list[SteeredAnswers]:
    named = [("vector", dose) for dose in found.dose_response]
    named += [(f"random {dose.direction}", dose) for dose in found.control]
    return [
        SteeredAnswers(
            trait=trait,
            direction=name,
            coefficient=dose.coefficient,
            log_odds=dose.log_odds_estimate,
            coherence=dose.coherence_estimate,
            coherent=dose.coherent,
            n=dose.n,
        )
        for name, dose in named
    ]


def _layers(trait: str, found: ExtractResults) -> list[SweptLayer]:
    return [
        SweptLayer(
            trait=trait,
            layer=dose.layer,
            coefficient=dose.coefficient,
            log_odds=dose.log_odds_estimate,
            coherence=dose.coherence_estimate,
            selected=dose.layer == found.layer,
        )
        for dose in found.sweep
    ]


def _texts(trait: str, found: ExtractResults) -> list[SteeredTranscript]:
    return [
        SteeredTranscript(
            trait=trait,
            question=transcript.question,
            coefficient=answer.coefficient,
            response=answer.response,
        )
        for transcript in found.transcripts[:_SHOWN]
        for answer in transcript.answers
    ]


STAGE = Stage(
    "extraction",
    "extraction",
    (),
    ExtractionResult,
    plan,
    settings,
    run,
    kept=("*/vector.json", "*/vector.safetensors"),
)
