"""What decides a replication; its fields are the options of `personavec replicate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from personavec.errors import UsageError
from personavec.options import (
    MAIN,
    MODEL,
    Count,
    Integers,
    Names,
    between,
    options,
    panel,
)
from personavec.presets import BySize, Preset, Scale, choose_sizes, scales
from personavec.studies.compare_mitigations.config import parse_arms

DATA = panel("Data")
STAGES_SHOWN = panel("Stages")
SIZES_SHOWN = panel("Sizes: --scale sets their defaults")
COST = panel("Cost")

#: An option with a form that turns it off.
ON_OR_OFF = Parameter(negative_bool=("no-",))

StageName = Literal[
    "naturals",
    "extraction",
    "monitoring",
    "sets",
    "rows",
    "finetunes",
    "expression",
    "mitigation",
    "real",
    "persistence",
]

#: The fields that name traits; those of the others are among those of the first.
TRAIT_FIELDS = ("traits", "monitored", "elicited", "mitigated", "real_traits", "persistent")
_ALL = ("evil", "sycophantic", "hallucinating", "optimistic", "apathetic", "impolite", "humorous")
#: The traits that the paper is about.
_PAPERS = _ALL[:3]
_ARMS = ("preventative:1,2,4", "random:4", "steering:-1,-2,-4")
_MORE_ARMS = ("caft", "penalty:0.1", "kl:0.1", "interleave:0.3", "inoculation", "drop-flagged")
_ALL_ARMS = (*_ARMS, *_MORE_ARMS)

#: None is all that there are. `docs/replication.md` says what each size of `small` buys.
SIZES = scales(
    #                    small, medium, paper
    traits=(_ALL, _ALL, _PAPERS),
    answer_tokens=(64, 64, 600),
    answers=(1, 2, 10),
    questions=(12, 12, None),
    expression_questions=(6, 8, None),
    judge_pairs=(1, 2, None),
    extraction_preset=("quick", "standard", "thorough"),
    rollouts=(1, 1, 10),
    monitored=(_PAPERS, _ALL, _PAPERS),
    monitoring_preset=("quick", "standard", "thorough"),
    shots=((0, 5, 10, 20), (0, 5, 10, 15, 20), (0, 5, 10, 15, 20)),
    elicited=((*_PAPERS, "impolite"), _ALL, _PAPERS),
    elicited_answers=(1, 2, 10),
    set_rows=(34, 96, 5000),
    judged_rows=(4, 12, 500),
    seeds=((0, 1), (0, 1), (0, 1, 2)),
    rank=(16, 16, 32),
    learning_rate=(1e-3, 1e-3, 1e-5),
    epochs=(2.0, 3.0, 1.0),
    accumulation=(2, 4, 8),
    mitigated=(("evil", "impolite"), ("evil", "impolite"), _PAPERS),
    arms=(_ARMS, _ALL_ARMS, _ALL_ARMS),
    elsewhere=(False, True, True),
    mitigation_seeds=((0, 1), (0, 1), (0, 1, 2)),
    capability_items=(24, 100, None),
    texts=(24, 48, 48),
    real_traits=(_PAPERS, _PAPERS, _PAPERS),
    chat_rows=(900, 6000, None),
    real_rows=(34, 150, 500),
    real_tokens=(128, 128, 512),
    real_seeds=((0, 1), (0, 1), (0, 1, 2)),
    persistent=(_PAPERS, _PAPERS, _PAPERS),
    persistence_questions=(8, 20, None),
    persistence_tokens=(160, 160, 512),
    dialogue_rows=(100, 400, 2000),
)


@options()
@dataclass(frozen=True)
class ReplicateConfig:
    """Everything that decides the figures, beside the model, the specs, the judge and the data."""

    scale: Scale = "small"
    """How large the study is: sets the defaults of all sizes."""
    traits: Annotated[Names, MAIN, Parameter(name="--trait")] = SIZES["traits"]
    """Traits whose vectors are extracted: bundled ones or spec files; default: all bundled ones."""
    answer_tokens: Annotated[Count, SIZES_SHOWN] = SIZES["answer_tokens"]
    """Longest answer to a trait's question, in tokens."""
    answers: Annotated[Count, SIZES_SHOWN] = SIZES["answers"]
    """Answers to a question by each finetuned model."""
    questions: Annotated[int | None, SIZES_SHOWN, between(2)] = SIZES["questions"]
    """Only the last N evaluation questions of a trait, for mitigations and real conversations."""
    expression_questions: Annotated[int | None, SIZES_SHOWN, between(2)] = SIZES[
        "expression_questions"
    ]
    """The same for the expression of every trait after each finetune."""
    judge_pairs: Annotated[int | None, SIZES_SHOWN, between(1)] = SIZES["judge_pairs"]
    """Only the first N judge pairs."""
    extraction_preset: Annotated[Preset, SIZES_SHOWN] = SIZES["extraction_preset"]
    """Preset of each extraction."""
    rollouts: Annotated[Count, SIZES_SHOWN] = SIZES["rollouts"]
    """Responses for a question, pair and polarity of an extraction."""
    dose_answers: Annotated[int | None, SIZES_SHOWN, between(1)] = None
    """Answers to a question at each coefficient of an extraction; default: the preset's."""
    monitored: Annotated[Names, SIZES_SHOWN] = SIZES["monitored"]
    """Traits whose vectors are calibrated."""
    monitoring_preset: Annotated[Preset, SIZES_SHOWN] = SIZES["monitoring_preset"]
    """Preset of each calibration."""
    shots: Annotated[Integers, SIZES_SHOWN] = SIZES["shots"]
    """Numbers of earlier turns that show the trait, in a calibration."""
    elicited: Annotated[Names, SIZES_SHOWN] = SIZES["elicited"]
    """Traits for which finetuning sets are elicited."""
    elicited_answers: Annotated[Count, SIZES_SHOWN] = SIZES["elicited_answers"]
    """Responses for a question and pair when a set is elicited."""
    flawed: Annotated[Names, DATA] = ("sums", "facts", "arguments", "code")
    """Bundled sets of narrow flaws, or files of such."""
    set_rows: Annotated[int, SIZES_SHOWN, between(2)] = SIZES["set_rows"]
    """Rows of each finetuning set, at most."""
    judged_rows: Annotated[int | None, SIZES_SHOWN, between(1)] = SIZES["judged_rows"]
    """Rows of each set that the judge reads."""
    seeds: Annotated[Integers, SIZES_SHOWN] = SIZES["seeds"]
    """Training seeds; all sets take the first, normal and strong ones take each."""
    rank: Annotated[Count, SIZES_SHOWN] = SIZES["rank"]
    """LoRA's rank; alpha is twice it."""
    learning_rate: Annotated[float, SIZES_SHOWN] = SIZES["learning_rate"]
    """Its highest value, after warmup."""
    epochs: Annotated[float, SIZES_SHOWN] = SIZES["epochs"]
    """Passes over the rows."""
    accumulation: Annotated[Count, SIZES_SHOWN] = SIZES["accumulation"]
    """Forward passes of two texts in a training step."""
    mitigated: Annotated[Names, SIZES_SHOWN] = SIZES["mitigated"]
    """Traits on whose strong sets mitigations are compared."""
    arms: Annotated[tuple[str, ...], SIZES_SHOWN, Parameter(metavar="ARM")] = SIZES["arms"]
    """Mitigations as compare-mitigations takes them; repeatable."""
    elsewhere: Annotated[bool, SIZES_SHOWN, ON_OR_OFF] = SIZES["elsewhere"]
    """Compare preventative steering at all layers and at all positions, too."""
    mitigation_seeds: Annotated[Integers, SIZES_SHOWN] = SIZES["mitigation_seeds"]
    """Training seeds of each mitigation."""
    capability: Annotated[str, SIZES_SHOWN] = "packaged"
    """The capability task: the packaged one, or one of lm-evaluation-harness, such as mmlu."""
    capability_items: Annotated[int | None, SIZES_SHOWN, between(2)] = SIZES["capability_items"]
    """Only the first items of the capability task."""
    texts: Annotated[int, SIZES_SHOWN, between(2)] = SIZES["texts"]
    """Neutral texts of which the perplexity is measured beside it."""
    real_traits: Annotated[Names, SIZES_SHOWN] = SIZES["real_traits"]
    """Traits for which real conversations are chosen."""
    chat_rows: Annotated[int | None, SIZES_SHOWN, between(2)] = SIZES["chat_rows"]
    """Real conversations that are scored, drawn at random."""
    real_rows: Annotated[int, SIZES_SHOWN, between(2)] = SIZES["real_rows"]
    """Rows of each part: high, random and low."""
    real_tokens: Annotated[int, SIZES_SHOWN, between(2)] = SIZES["real_tokens"]
    """Tokens at which the responses of real conversations are cut."""
    real_seeds: Annotated[Integers, SIZES_SHOWN] = SIZES["real_seeds"]
    """Training seeds of each part."""
    persistent: Annotated[Names, SIZES_SHOWN] = SIZES["persistent"]
    """Traits whose persistence is measured."""
    persistence_questions: Annotated[int | None, SIZES_SHOWN, between(2)] = SIZES[
        "persistence_questions"
    ]
    """Only the last N evaluation questions of each."""
    persistence_tokens: Annotated[int, SIZES_SHOWN, between(64)] = SIZES["persistence_tokens"]
    """Length of the answers in which it is measured, in tokens."""
    dialogue_rows: Annotated[int | None, SIZES_SHOWN, between(2)] = SIZES["dialogue_rows"]
    """Dialogues that are read, drawn at random."""
    trait_threshold: Annotated[float, SIZES_SHOWN] = 50
    """Trait score of what is kept as showing a trait."""
    coherence_floor: Annotated[float, SIZES_SHOWN] = 50
    """Coherence of what is kept."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""

    def __post_init__(self) -> None:
        by_scale = [n for n in TRAIT_FIELDS[1:] if isinstance(getattr(self, n), BySize)]
        choose_sizes(self, "scale")
        for name in by_scale:
            # Of the scale's traits, those that are there; of other traits all.
            kept = tuple(trait for trait in getattr(self, name) if trait in self.traits)
            object.__setattr__(self, name, kept or self.traits)
        for name in ("seeds", "mitigation_seeds", "real_seeds"):
            found: tuple[int, ...] = getattr(self, name)
            if not found or len(set(found)) < len(found):
                raise UsageError(f"{name}: give each seed once, and at least one")
        parse_arms(self.arms)  # Refuses now what would be refused after hours.
        if self.persistence_tokens % 32:
            raise UsageError("persistence_tokens is a multiple of 32, the length of a window")
        for name in TRAIT_FIELDS[1:]:
            if others := set(getattr(self, name)) - set(self.traits):
                raise UsageError(f"{name} has {min(others)}, which is not among the traits")


@options()
@dataclass(frozen=True)
class ReplicateInputs:
    """The data, the stages that run, and what the run would cost."""

    maths: Annotated[str | None, DATA] = None
    """Worked arithmetic as GSM8K has it: a file or a dataset."""
    chats: Annotated[str | None, MAIN] = None
    """Real conversations, such as LMSYS-Chat-1M: a file or a dataset."""
    dialogues: Annotated[str | None, DATA] = None
    """Conversations of many turns, such as WildChat: a file or a dataset."""
    only: Annotated[Names, STAGES_SHOWN] = ()
    """Run only these stages, and those that they need."""
    skip: Annotated[Names, STAGES_SHOWN] = ()
    """Leave out these stages."""
    evidence: Annotated[Path | None, STAGES_SHOWN] = None
    """Folder that keeps tables and figures of finished stages, which are then not run again."""
    ray: Annotated[str | None, MODEL, Parameter(metavar="[ADDRESS]")] = None
    """Finetune on a Ray cluster, whose nodes share --out; without ADDRESS on this one's."""
    dry_run: Annotated[bool, MAIN] = False
    """Print what every stage would take; run nothing."""
    rate: Annotated[float | None, COST, between(0.001)] = None
    """Tokens a second that the model reads, for --dry-run; default: measured here."""
    price_per_hour: Annotated[float | None, COST, between(0)] = None
    """Price of the machine, for a bill with --dry-run."""

    def __post_init__(self) -> None:
        known = get_args(StageName)
        for option, names in (("--only", self.only), ("--skip", self.skip)):
            if unknown := [name for name in names if name not in known]:
                raise UsageError(f"{option} {unknown[0]}: use {', '.join(known)}")
        if not self.dry_run and (self.rate is not None or self.price_per_hour is not None):
            raise UsageError("--rate and --price-per-hour are for --dry-run")
