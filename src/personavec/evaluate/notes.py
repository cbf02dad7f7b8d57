"""What a reader must know before believing a number of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from personavec.data import ReadingCounts
from personavec.evaluate.answers import Cells, questions_of
from personavec.evaluate.config import EvaluateConfig
from personavec.evaluate.cues import Cues
from personavec.evaluate.subject import SteeredBy, Subjects
from personavec.judges import (
    COHERENCE_FLOOR,
    Judge,
    chat_formats,
    contrast,
    judge_notes,
    spec_notes,
)
from personavec.model import chat, control_notes
from personavec.traits import TraitSpec
from personavec.vectors import other_model_notes

#: With fewer questions, bootstrap intervals are too narrow.
_FEW_QUESTIONS = 10


def notes_of(
    subjects: Subjects,
    specs: Sequence[TraitSpec],
    config: EvaluateConfig,
    judge: Judge,
    cues: Cues | None,
    by_trait: Mapping[str, Cells],
) -> tuple[str, ...]:
    """All notes, in the order in which the report shows them."""
    notes = _model_notes(subjects, specs, config)
    if judge.name == contrast.NAME:
        notes.append("The contrast judge does not detect refusals: it scores them like any answer.")
    if min(len(questions_of(spec, config)) for spec in specs) < _FEW_QUESTIONS:
        notes.append("Intervals from fewer than ten questions are too narrow.")
    if cues and any(cue.earlier for cue in cues.cues):
        notes.append(
            "Training turns before a question change the answers of an untouched model too: "
            "compare with one under the same cues (--compare-to) before blaming the finetuning."
        )
    return (
        *dict.fromkeys(notes),
        *_incoherent(by_trait),
        *judge_notes(judge),
        *_control_notes(subjects, specs, config, judge),
    )


def cue_reading(cues: Cues, subjects: Subjects) -> ReadingCounts:
    """How the cues' rows were read, and which control tokens the models' tokenizers find there."""
    formats = chat_formats(None, *(subject.loaded for subject in subjects.values()))
    found = cues.reading + ReadingCounts()
    for cue, rows in cues.begun.items():
        for note in control_notes(formats, chat("", cue.system, cue.earlier)):
            found.notes[note] += rows
    return found


def _model_notes(
    subjects: Subjects, specs: Sequence[TraitSpec], config: EvaluateConfig
) -> list[str]:
    """Of the models, their chat templates, and the vectors that steer them."""
    notes: list[str] = []
    for subject in subjects.values():
        notes += subject.loaded.chat.notes
        for each in subject.steered_by:
            notes += other_model_notes([each.vector], subject.loaded.identity.lineage)
            notes += _layer_notes(each, specs, config)
    return notes


def _layer_notes(
    steered_by: SteeredBy, specs: Sequence[TraitSpec], config: EvaluateConfig
) -> list[str]:
    """Steering looks better on questions that its vector's layer was selected on."""
    meta = steered_by.vector.meta
    selected_on = meta.get("settings", {}).get("sweep_questions", 0)
    return [
        f"The layer of the {steered_by.vector.trait} vector was selected on {selected_on} of the "
        f"{len(spec.questions.evaluation)} evaluation questions; --questions "
        f"{len(spec.questions.evaluation) - selected_on} leaves them out."
        for spec in specs
        if steered_by.layer is None
        and selected_on
        and meta.get("spec_hash") == spec.hash
        and len(questions_of(spec, config)) > len(spec.questions.evaluation) - selected_on
    ]


def _incoherent(by_trait: Mapping[str, Cells]) -> list[str]:
    """The trait score of broken text means little, whatever it is."""
    found = []
    for trait, cells in by_trait.items():
        for (arm, variant), rollouts in cells.items():
            values = [r.coherence for r in rollouts if r.coherence is not None]
            if values and (mean := sum(values) / len(values)) < COHERENCE_FLOOR:
                who = "the model" if arm == "model" else "the model compared to"
                found.append(
                    f"Mean coherence of {who} on {trait}{' under cues' if variant == 'cue' else ''}"
                    f" is {mean:.0f}, below {COHERENCE_FLOOR:g}: its score there means little."
                )
    return found


def _control_notes(
    subjects: Subjects, specs: Sequence[TraitSpec], config: EvaluateConfig, judge: Judge
) -> list[str]:
    """Control tokens in specs and system prompt that a tokenizer takes as text."""
    formats = chat_formats(judge, *(subject.loaded for subject in subjects.values()))
    found = control_notes(formats, chat("", config.system))
    return [*spec_notes(specs, formats), *(f"System prompt: {note}." for note in found)]
