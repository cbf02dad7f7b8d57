"""From judged answers to results: expression by trait, differences, capability, transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from personavec.evaluate import capability
from personavec.evaluate.answers import Cell, Cells
from personavec.evaluate.capability import TaskScore
from personavec.evaluate.cues import Cue, Cues
from personavec.evaluate.results import (
    CapabilityResult,
    ComparedModel,
    ComparedUnderCues,
    CueResults,
    SubjectRecord,
    Transcript,
    TranscriptAnswer,
)
from personavec.evaluate.subject import Subject
from personavec.judges import Judge, contrast
from personavec.results import Estimate
from personavec.rollouts import Expression, ExpressionDifference, paired, summarise

#: Questions whose answers the report shows.
_SHOWN = 4


def expressions(
    by_trait: Mapping[str, Cells], cell: Cell, judge: Judge, seed: int
) -> dict[str, Expression]:
    """How strongly each trait shows in one cell."""
    return {
        trait: summarise(cells[cell], refusals=judge.name != contrast.NAME, seed=seed)
        for trait, cells in by_trait.items()
    }


def differences(
    by_trait: Mapping[str, Cells], ours: Cell, theirs: Cell, seed: int
) -> dict[str, ExpressionDifference]:
    """One cell minus another, for each trait."""
    return {trait: paired(cells[ours], cells[theirs], seed) for trait, cells in by_trait.items()}


def compared_model(
    other: Subject,
    by_trait: Mapping[str, Cells],
    ours: Mapping[str, TaskScore],
    theirs: Mapping[str, TaskScore],
    judge: Judge,
    seed: int,
) -> ComparedModel:
    """The other model, and what the evaluated one differs from it by."""
    return ComparedModel(
        **SubjectRecord.of(other).__dict__,
        model=other.name,
        traits=expressions(by_trait, ("other", "plain"), judge, seed),
        differences=differences(by_trait, ("model", "plain"), ("other", "plain"), seed),
        capability=capability_results(theirs, seed),
        capability_differences={
            task: Estimate.of(capability.difference(score, theirs[task], seed))
            for task, score in ours.items()
        },
    )


def cue_results(
    cues: Cues, used: Sequence[Cue], by_trait: Mapping[str, Cells], judge: Judge, seed: int
) -> CueResults:
    """What everyone showed under cues."""
    compared = None
    if any(("other", "cue") in cells for cells in by_trait.values()):
        compared = ComparedUnderCues(
            traits=expressions(by_trait, ("other", "cue"), judge, seed),
            differences=differences(by_trait, ("model", "cue"), ("other", "cue"), seed),
        )
    return CueResults(
        file=cues.file,
        rows=cues.rows,
        rejected=cues.rejected,
        system_prompts=sum(cue.system is not None for cue in cues.cues),
        opening_turns=sum(bool(cue.earlier) for cue in cues.cues),
        used=len(used),
        traits=expressions(by_trait, ("model", "cue"), judge, seed),
        differences=differences(by_trait, ("model", "cue"), ("model", "plain"), seed),
        compare_to=compared,
    )


def capability_results(scores: Mapping[str, TaskScore], seed: int) -> dict[str, CapabilityResult]:
    """The mean over items of each task, by its name."""
    return {
        name: CapabilityResult(
            **Estimate.of(capability.interval(score, seed)).__dict__,
            n=len(score.items),
            metric=score.metric,
            chance=score.chance,
        )
        for name, score in scores.items()
    }


def transcripts(cells: Cells) -> tuple[Transcript, ...]:
    """The first sample of each of the first questions, in every cell."""
    questions = list(dict.fromkeys(r.question for rs in cells.values() for r in rs))[:_SHOWN]
    return tuple(
        Transcript(
            question=question,
            answers=tuple(
                TranscriptAnswer(
                    arm=arm,
                    variant=variant,
                    response=r.response,
                    state=r.state,
                    trait_score=r.trait_score,
                    log_odds=r.log_odds,
                    coherence=r.coherence,
                )
                for (arm, variant), rs in cells.items()
                for r in rs
                if r.question == question and r.sample == 0
            ),
        )
        for question in questions
    )
