"""What a trait spec elicits: how many rollouts each pair and question keeps on a subject model.

Extraction questions only. Evaluation questions are not selected by what they elicit, so that the
measurements made on them later are not biased by the selection.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from personavec.author.results import ElicitedByQuestion, ElicitedCounts, ProbeCounts
from personavec.judges import Judge
from personavec.model import LoadedModel
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.rollouts import Rollout, Task, collect, elicitation_tasks, keep
from personavec.traits import POLARITIES, Flaw, TraitSpec
from personavec.wording import plural

#: Characters of a dropped response that the author is shown.
_SHOWN = 300


def probe(
    loaded: LoadedModel,
    judge: Judge,
    spec: TraitSpec,
    sampling: Sampling,
    folder: Path,
    known: Mapping[str, Rollout],
    *,
    batch_tokens: int,
    progress: Progress,
) -> dict[str, Rollout]:
    """Judged and filtered rollouts by id: a response to each question under both sides of a pair.

    An id holds all that a rollout and its score depend on, so those in `known`, from an earlier
    draft of the spec, are taken over. Writes the others into `folder`, resumably.
    """
    tasks = [
        replace(task, id=_id(task, spec))
        for task in elicitation_tasks(spec, spec.questions.extraction, 1)
    ]
    found = keep(
        collect(
            loaded,
            [task for task in tasks if task.id not in known],
            sampling,
            folder,
            spec=spec,
            judge=judge,
            batch_tokens=batch_tokens,
            label="probe",
            progress=progress,
        )
    )
    every = {**known, **{rollout.id: rollout for rollout in found}}
    return {task.id: every[task.id] for task in tasks}


def _id(task: Task, spec: TraitSpec) -> str:
    judged = [pair.model_dump_json() for pair in spec.judge_instruction]
    content = repr((task.system, task.earlier, task.question, judged))
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return f"{task.polarity}-p{task.pair}-{digest}"


def pairs_kept(spec: TraitSpec, rollouts: Sequence[Rollout]) -> tuple[ElicitedCounts, ...]:
    """The counts of each pair, over the extraction questions."""
    return tuple(_kept([r for r in rollouts if r.pair == i]) for i in range(len(spec.instruction)))


def _kept(rollouts: Sequence[Rollout]) -> ElicitedCounts:
    counts = Counter(r.polarity for r in rollouts if r.kept)
    of = sum(r.polarity == "pos" for r in rollouts)
    return ElicitedCounts(pos=counts["pos"], neg=counts["neg"], of=of)


def weak_entries(spec: TraitSpec, rollouts: Sequence[Rollout], share: float) -> list[Flaw]:
    """Pairs and questions that keep less than a share of their rollouts on either side.

    Questions are tried under the pairs that do elicit: under others no question could.
    """
    pairs = pairs_kept(spec, rollouts)
    failing_pairs = {i for i, kept in enumerate(pairs) if _too_few(kept, share)}
    found = [
        Flaw(_why(f"pair {i + 1}", [r for r in rollouts if r.pair == i]), "instruction", i)
        for i in sorted(failing_pairs)
    ]
    working = [r for r in rollouts if r.pair not in failing_pairs]
    if working:
        for i, question in enumerate(spec.questions.extraction):
            under = [r for r in working if r.question == question]
            if _too_few(_kept(under), share):
                found.append(Flaw(_why(f"question {question!r}", under), "extraction", i))
    return found


def _too_few(kept: ElicitedCounts, share: float) -> bool:
    return min(kept.pos, kept.neg) < max(1, share * kept.of)


def _why(what: str, rollouts: Sequence[Rollout]) -> str:
    """Counts of both sides, with the reasons of what was dropped."""
    sides = []
    for polarity, name in zip(POLARITIES, ("positive", "negative"), strict=True):
        of = [r for r in rollouts if r.polarity == polarity]
        reasons = Counter(r.why_dropped for r in of if not r.kept)
        why = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        kept = f"{sum(bool(r.kept) for r in of)} of {plural(len(of), f'{name} rollout')} kept"
        sides.append(f"{kept} ({why})" if why else kept)
    return f"{what} elicits too little: {' and '.join(sides)}"


def evidence(flaw: Flaw, spec: TraitSpec, rollouts: Sequence[Rollout]) -> str:
    """A dropped response of each side for the author to see; nothing for flaws of other kinds."""
    if flaw.part == "instruction":
        of = [r for r in rollouts if r.pair == flaw.index]
    elif flaw.part == "extraction" and flaw.index is not None:
        of = [r for r in rollouts if r.question == spec.questions.extraction[flaw.index]]
    else:
        return ""
    shown = []
    for polarity in POLARITIES:
        dropped = [r for r in of if r.polarity == polarity and not r.kept and r.response]
        for rollout in dropped[:1]:
            shown.append(
                f"under the {polarity} prompt {rollout.system!r} the model answered "
                f"{rollout.question!r} with {rollout.response[:_SHOWN]!r}"
            )
    return "".join(f"\n  For example, {line}" for line in shown)


def probe_counts(spec: TraitSpec, rollouts: Sequence[Rollout]) -> ProbeCounts:
    """What the spec elicited, in all, for each pair and for each question."""
    by_question = {
        question: _kept([r for r in rollouts if r.question == question])
        for question in spec.questions.extraction
    }
    return ProbeCounts(
        kept=_kept(rollouts),
        pairs=pairs_kept(spec, rollouts),
        questions=tuple(
            ElicitedByQuestion(question=question, **vars(kept))
            for question, kept in by_question.items()
        ),
    )
