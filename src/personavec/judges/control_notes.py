"""Notes on texts that contain control tokens of the models that read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from personavec.data import Message, ReadingCounts
from personavec.judges.base import Judge
from personavec.judges.contrast import ContrastJudge
from personavec.judges.endpoint import Endpoint
from personavec.judges.local_rubric import LocalRubricJudge
from personavec.model import CONTROL_IN_TEXT, ChatFormat, LoadedModel, chat, control_notes
from personavec.traits import POLARITIES, TraitSpec
from personavec.wording import plural


def chat_formats(judge: Judge | None, *models: LoadedModel | Endpoint) -> list[ChatFormat]:
    """The chat formats of the models and the judge, without those of endpoints (unknown)."""
    judging = [judge.loaded] if isinstance(judge, ContrastJudge | LocalRubricJudge) else []
    every = dict.fromkeys([*models, *judging])
    return [model.chat for model in every if isinstance(model, LoadedModel)]


def count_control(
    counts: ReadingCounts, formats: Sequence[ChatFormat], rows: Iterable[Sequence[Message]]
) -> None:
    """Count the rows whose texts contain control tokens of one of the formats."""
    for messages in rows:
        counts.notes.update(control_notes(formats, messages))


def spec_notes(specs: Iterable[TraitSpec], formats: Sequence[ChatFormat]) -> list[str]:
    """A note for each spec whose texts contain control tokens of one of the formats."""
    found = []
    for spec in specs:
        texts = {(m["role"], m["content"]): m for m in _messages(spec)}.values()
        if n := sum(bool(control_notes(formats, [message])) for message in texts):
            found.append(f"Trait spec '{spec.name}', {plural(n, 'text')}: {CONTROL_IN_TEXT}.")
    return found


def _messages(spec: TraitSpec) -> Iterator[Message]:
    """All texts of a spec that a model may read."""
    for pair in (*spec.instruction, *spec.judge_instruction):
        for side in POLARITIES:
            yield from chat("", getattr(pair, side), pair.turns(side))
    for prompt in spec.monitoring:
        yield from chat("", prompt)
    for check in spec.checks:
        yield from chat("", earlier=((check.question, check.answer),))
    for text in (*spec.questions.extraction, *spec.questions.evaluation, spec.rubric):
        yield from chat(text)
