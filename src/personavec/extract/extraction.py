"""One extraction under way: what it runs on, and how its stages collect their rollouts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from personavec.errors import TooFewRolloutsError
from personavec.extract.adopt import AdoptedRollouts, adopt
from personavec.extract.config import ExtractConfig
from personavec.judges import ContrastJudge, Judge, chat_formats, judge_notes, spec_notes
from personavec.model import LoadedModel
from personavec.model.engine import Engine, Sampling
from personavec.progress import Progress
from personavec.rollouts import (
    Rollout,
    Task,
    collect,
    elicitation_tasks,
    keep,
    load_activations,
    neutral_means,
    say_estimate,
    write_rollouts,
)
from personavec.runs import Settings
from personavec.traits import POLARITIES, Origin, TraitSpec
from personavec.wording import plural

#: A vector needs at least this many kept rollouts of each polarity.
MIN_KEPT = 10


class StageClock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Count the time since the last lap as this stage's."""
        now = time.monotonic()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        self.lap("summaries")
        return {stage: round(seconds, 2) for stage, seconds in self._seconds.items()}


@dataclass(frozen=True, eq=False)
class Extraction:
    """What one extraction runs on and what decides its result; collects the rollouts it needs."""

    loaded: LoadedModel
    spec: TraitSpec
    """The part that is used."""
    spec_hash: str
    """Of the whole spec."""
    selecting: Sequence[str]
    """Evaluation questions that select the layer."""
    testing: Sequence[str]
    """Evaluation questions that test the vector."""
    n_candidates: int
    """Candidate layers."""
    origin: Origin
    out: Path
    config: ExtractConfig
    judge: Judge
    """Decides which rollouts make the vector."""
    engine: Engine
    adopted: AdoptedRollouts | None
    """Rollouts from files, in place of generating."""
    progress: Progress
    added_samples: int = 0
    """Samples that were added to those of `config`, once these had made a vector."""
    clock: StageClock = field(default_factory=StageClock)

    @property
    def samples(self) -> int:
        """Responses per question, pair and polarity."""
        return self.config.samples + self.added_samples

    @property
    def sampling(self) -> Sampling:
        c = self.config
        return Sampling(c.max_tokens, c.temperature, c.top_p, c.seed)

    @cached_property
    def measuring_judge(self) -> Judge:
        """The contrast judge, which alone gives the log-odds that steering is measured in."""
        if isinstance(self.judge, ContrastJudge):
            return self.judge
        return ContrastJudge(self.loaded, wrote_answers=True)

    def settings(self) -> Settings:
        """What the result depends on, for the manifest."""
        return {
            "command": "extract",
            "trait": self.spec.name,
            "spec": self.spec_hash,
            "model": self.loaded.identity.as_dict(),
            "judge": self.judge.identity(),
            "engine": self.engine.name,
            "config": asdict(self.config),
            **({"rollouts": self.adopted.fingerprints} if self.adopted else {}),
            **({"added_samples": self.added_samples} if self.added_samples else {}),
        }

    def collect(
        self,
        tasks: Sequence[Task],
        label: str,
        *,
        judge: Judge | None = None,
        activations: Path | None = None,
        below: Path = Path(),
    ) -> list[Rollout]:
        """Rollouts of the tasks, with scores of `judge` (default: the measuring one).

        They are kept in a folder named by the label, `below` the run's.
        """
        found = collect(
            self.loaded,
            tasks,
            self.sampling,
            self.out / "run" / below / label.replace(" ", "-"),
            spec=self.spec,
            judge=judge or self.measuring_judge,
            activations=activations,
            include_thinking=self.config.include_thinking,
            engine=self.engine,
            label=label,
            progress=self.progress,
        )
        self.clock.lap(label)
        return found

    def collect_steered(self, tasks: Sequence[Task], label: str) -> list[Rollout]:
        """Rollouts that are steered by the vector, which rollouts that are added change."""
        below = Path(f"added-{self.added_samples}") if self.added_samples else Path()
        return self.collect(tasks, label, below=below)

    def elicit(self) -> list[Rollout]:
        """Judged rollouts of the extraction questions under both sides of every pair.

        Their activations are written into `activations/`.
        """
        if self.adopted is None:
            tasks = elicitation_tasks(self.spec, self.spec.questions.extraction, self.samples)
            activations = self.out / "activations"
            self._say_estimate(tasks)
            return self.collect(tasks, "extraction", judge=self.judge, activations=activations)
        return self._adopt(self.adopted)

    def _say_estimate(self, tasks: Sequence[Task]) -> None:
        """How long the whole will take, unless some of it is done."""
        folder = self.out / "run" / "extraction"
        if (folder / "generated.jsonl").exists():
            return
        first = partial(
            collect,
            self.loaded,
            sampling=self.sampling,
            folder=folder,
            activations=self.out / "activations",
            include_thinking=self.config.include_thinking,
            engine=self.engine,
            judge=self.judge,
            label="first answers",
            progress=self.progress,
        )
        to_judge = len(tasks) + self._steered() + 2 * len(self.spec.instruction) * len(self.testing)
        say_estimate(
            tasks,
            first,
            partial(first, spec=self.spec),
            to_write=to_judge + self.config.neutral_prompts,
            to_judge=to_judge,
            may_add=self._added_at_most(),
            progress=self.progress,
        )

    def _added_at_most(self) -> int:
        """Steered answers that checks may still need: at five doses, with controls at both ends."""
        c = self.config
        return (5 + 2 * c.random_directions) * len(self.testing) * c.end_samples

    def _steered(self) -> int:
        """Answers of the layer sweep and of the validation, in which both ends have controls."""
        c = self.config
        swept = len(c.estimators) * self.n_candidates * len(c.sweep_coefficients)
        doses = len(c.coefficients) + 2 * c.random_directions
        return swept * len(self.selecting) + doses * len(self.testing) * c.validation_samples

    def _adopt(self, adopted: AdoptedRollouts) -> list[Rollout]:
        """The adopted rollouts, judged."""
        adopted.write_rejected(self.out / "rejected.jsonl")
        found = adopt(
            self.loaded,
            adopted,
            self.spec,
            self.out / "run" / "extraction",
            judge=self.judge,
            activations=self.out / "activations",
            include_thinking=self.config.include_thinking,
            label="extraction",
            progress=self.progress,
        )
        self.clock.lap("extraction")
        return found

    def prompted(self, questions: Sequence[str]) -> PromptedRollouts:
        """Rollouts of the questions under both sides of every pair, without steering."""
        folder = self.out / "run" / "system-prompts"
        tasks = elicitation_tasks(self.spec, questions, 1)
        rollouts = self.collect(tasks, "system prompts", activations=folder)
        answered = [rollout for rollout in rollouts if rollout.n_tokens]
        means = load_activations(folder, [rollout.id for rollout in answered])
        return PromptedRollouts(rollouts, answered, means[:, 0])

    def neutral_means(self) -> Float[Tensor, "prompt span layer hidden"]:
        """Mean activations of answers to neutral prompts."""
        found = neutral_means(
            self.loaded,
            self.sampling,
            self.out / "run" / "neutral-prompts",
            n=self.config.neutral_prompts,
            engine=self.engine,
            progress=self.progress,
        )
        self.clock.lap("neutral prompts")
        return found

    def notes(self, added_answers: int) -> tuple[str, ...]:
        """Sentences that a reader of the result must see."""
        found = [self.adopted.note] if self.adopted else []
        if self.judge is not self.measuring_judge:
            found.append(
                f"The rollouts were kept by the {self.judge.name} judge; steering was measured in "
                "log-odds by the contrast judge."
            )
        if self.added_samples:
            found.append(
                "Rollouts were added after a verdict was known (--more). Adding until it passes "
                "makes a pass likelier than its intervals say."
            )
        if added_answers:
            found.append(
                f"{plural(added_answers, 'steered answer')} were added where a check was not "
                "decided; docs/extract.md says what that does to a verdict."
            )
        found += [*judge_notes(self.judge), *self.loaded.chat.notes]
        if self.origin == "template":
            found.append(
                "The trait spec was built from templates and a bundled question bank, from the "
                "trait's name and description alone; nobody has reviewed it."
            )
        if not self.spec.judge_instruction:
            found.append(
                "The spec has no judge pairs: each rollout was judged with the eliciting pairs it "
                "was not generated under."
            )
        return (*found, *spec_notes([self.spec], chat_formats(self.judge, self.loaded)))


@dataclass(frozen=True, eq=False)
class PromptedRollouts:
    """Unsteered rollouts under system prompts, and the activations of those with an answer."""

    rollouts: list[Rollout]
    answered: list[Rollout]
    response_means: Float[Tensor, "answered layer hidden"]


@dataclass(frozen=True, eq=False)
class KeptRollouts:
    """The rollouts that make the vector, with their mean activations over the engine's spans."""

    pos: list[Rollout]
    neg: list[Rollout]
    pos_means: Float[Tensor, "pos span layer hidden"]
    neg_means: Float[Tensor, "neg span layer hidden"]

    @property
    def questions(self) -> tuple[list[str], list[str]]:
        """The questions of the positive and of the negative rollouts."""
        return [r.question for r in self.pos], [r.question for r in self.neg]

    def residual_norms(self) -> Float[Tensor, " layer"]:
        """Mean norm of the response-mean activations at every layer."""
        return torch.cat([self.pos_means[:, 0], self.neg_means[:, 0]]).norm(dim=-1).mean(0)


def keep_contrasting(
    rollouts: Sequence[Rollout], out: Path, config: ExtractConfig
) -> tuple[list[Rollout], KeptRollouts]:
    """All rollouts marked as kept or dropped, and those that are kept with their activations.

    Writes `rollouts.jsonl`. Raises TooFewRolloutsError.
    """
    marked = keep(
        rollouts, trait_threshold=config.trait_threshold, coherence_floor=config.coherence_floor
    )
    write_rollouts(out / "rollouts.jsonl", marked)
    pos, neg = ([r for r in marked if r.kept and r.polarity == p] for p in POLARITIES)
    if min(len(pos), len(neg)) < MIN_KEPT:
        raise TooFewRolloutsError(_too_few(marked, len(pos), len(neg), out))
    means = load_activations(out / "activations", [r.id for r in (*pos, *neg)])
    return marked, KeptRollouts(pos, neg, means[: len(pos)], means[len(pos) :])


def _too_few(rollouts: Sequence[Rollout], pos: int, neg: int, out: Path) -> str:
    """How many are left of how many, why the others fell, and the remedy."""
    reasons = Counter(f"{r.polarity}: {r.why_dropped}" for r in rollouts if r.why_dropped)
    why = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
    positive = sum(r.polarity == "pos" for r in rollouts)
    negative = len(rollouts) - positive
    of = f"{positive} each" if positive == negative else f"{positive} and {negative}"
    unfinished = any(r.state == "unfinished_thought" for r in rollouts)
    remedy = "raise --max-tokens" if unfinished else "add rollouts with --more"
    return (
        f"only {pos} positive and {plural(neg, 'negative rollout')} of {of} are left, "
        f"{MIN_KEPT} of each are needed ({why}); {remedy}, or make the pairs or the "
        f"description plainer; the rollouts are kept in {out / 'rollouts.jsonl'}"
    )
