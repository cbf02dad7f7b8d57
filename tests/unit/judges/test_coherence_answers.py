"""The labelled answers are what their page says: enough, of every kind, and halved by prompt."""

from collections import Counter

import pytest
from broken_answers import BREAKS, broken, mixed
from coherence_answers import FOLDER, LabelledAnswer, has_shared, shared, unread, written

KINDS = {
    "steered",
    "loop",
    "salad",
    "gibberish words",
    "half-words",
    "topic loss",
    "language change",
    "cut-off",
}
needs_files = pytest.mark.skipif(
    not has_shared(), reason="chats.jsonl and dialogues.jsonl are not in COHERENCE_DATA"
)


@pytest.fixture(scope="module")
def answers() -> list[LabelledAnswer]:
    return written()


def test_there_are_enough_of_every_kind(answers: list[LabelledAnswer]) -> None:
    """At least 400, of which 100 sound ones were written for this, and in both halves."""
    sound = [answer for answer in answers if answer.sound]
    assert len(answers) >= 400
    assert sum(answer.source == "by hand" for answer in sound) >= 100
    for half in ("tune", "report"):
        kinds = Counter(a.kind for a in answers if not a.sound and a.half == half)
        assert set(kinds) >= KINDS
        assert sum(kinds.values()) >= 100
        assert sum(answer.half == half for answer in sound) >= 50


def test_steered_answers_are_of_many_directions_and_both_signs(
    answers: list[LabelledAnswer],
) -> None:
    """Seven traits and random directions, and models that never learned."""
    steered = [a.source for a in answers if a.kind == "steered" and not a.sound]
    assert sum("random" in source for source in steered) >= 30
    traits = {source.split(", ")[1].split(" at ")[0] for source in steered} - {"random"}
    assert len(traits) == 7
    assert min(sum(", -" in s for s in steered), sum(", +" in s for s in steered)) >= 50
    assert any(answer.source.startswith("tiny random") for answer in answers)


def test_no_answer_counts_twice(answers: list[LabelledAnswer]) -> None:
    """And one prompt's answers are in one half."""
    assert len({(a.question, a.answer) for a in answers}) == len(answers)
    halves = {(answer.question, answer.half) for answer in answers}
    assert len(halves) == len({question for question, _ in halves})


def test_shared_rows_hold_no_text() -> None:
    """Row ids, labels and kinds only."""
    lines = (FOLDER / "shared_rows.jsonl").read_text("utf-8").splitlines()
    assert len(lines) >= 150
    assert max(map(len, lines)) < 150


@needs_files
def test_shared_rows_are_there_with_their_earlier_turns() -> None:
    found = shared()
    dialogues = [answer for answer in found if answer.source.startswith("dialogues")]
    assert len(found) >= 150
    assert all(answer.question and answer.answer for answer in found)
    assert any(len(answer.earlier) > 2 for answer in dialogues)


@needs_files
def test_unread_turns_are_of_one_half_and_unlabelled() -> None:
    keys = {answer.key for answer in [*written(), *shared()]}
    for half in ("tune", "report"):
        turns = unread(half, 30)
        assert len(turns) == 60
        assert all(turn.half == half and turn.key not in keys for turn in turns)


def test_sound_answers_break_in_every_way(answers: list[LabelledAnswer]) -> None:
    """The same each time, and never what they were."""
    sound = [answer for answer in answers if answer.sound and answer.source == "by hand"]
    made = [*broken(sound, 5), *mixed(sound, sound, 5)]
    assert made == [*broken(sound, 5), *mixed(sound, sound, 5)]
    assert Counter(a.kind for a in made).keys() == {*BREAKS, "topic loss", "language change"}
    assert not any(answer.sound for answer in made)
    originals = {answer.answer for answer in sound}
    changed = [answer for answer in made if answer.kind != "topic loss"]
    assert not {answer.answer for answer in changed} & originals
