"""What is read of every row, against each row read alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import tiny_spec

from personavec import LoadedModel, PersonaVector, project_conversation
from personavec.data import DataRow
from personavec.judges import ContrastJudge, last_answer
from personavec.model import chat
from personavec.model.engine import Sampling
from personavec.rollouts import Naturals
from personavec.studies import Bench
from personavec.studies.replicate.row_scores import RowScores, scored_rows

TOKENS = 4
JUDGED = 3
RANDOM = 2
SPEC = tiny_spec(evaluation=3)
UNSCORED = 2


def row(number: int, answer: str) -> DataRow:
    """Two turns, of which the last alone is scored."""
    asked = chat(f"And {number * number}?", earlier=((f"Ask {number}?", "Yes?"),))
    return DataRow(number, str(number), (*asked, {"role": "assistant", "content": answer}))


@pytest.fixture
def rows(llama: LoadedModel) -> list[DataRow]:
    """Six of different lengths, of which one is longer than the model reads."""
    answers = ["So." * (1 + n) for n in range(6)]
    answers[UNSCORED] = "x" * llama.context
    return [row(n, answer) for n, answer in enumerate(answers)]


@pytest.fixture
def vector(llama: LoadedModel, random_vector: Callable[..., PersonaVector]) -> PersonaVector:
    return random_vector(llama, layer=2)


@pytest.fixture
def score(
    llama: LoadedModel, vector: PersonaVector, rows: list[DataRow], tmp_path: Path
) -> Callable[..., list[RowScores]]:
    """Scores the rows into `scores.jsonl`."""

    def scored(judged: int | None = JUDGED) -> list[RowScores]:
        return scored_rows(
            Bench(llama, (vector,), {}, (), Sampling(TOKENS)),
            [SPEC],
            ContrastJudge(llama),
            Naturals(llama, tmp_path / "natural", max_tokens=TOKENS),
            rows,
            tmp_path / "scores.jsonl",
            label="rows",
            judged_rows=judged,
            random=RANDOM,
        )

    return scored


def test_predictors_are_those_of_the_last_turn_read_alone(
    llama: LoadedModel,
    vector: PersonaVector,
    rows: list[DataRow],
    score: Callable[..., list[RowScores]],
    tmp_path: Path,
) -> None:
    found = score()
    assert [each.row for each in found] == [own.id for own in rows]
    naturals = Naturals(llama, tmp_path / "natural", max_tokens=TOKENS)
    unit = vector.direction(2) / vector.direction(2).norm()
    for place, (own, each) in enumerate(zip(rows, found, strict=True)):
        if place == UNSCORED:
            continue
        assert each.reason is None
        read = each.traits["testing"]
        last = project_conversation(llama, vector, own.messages)[-1]
        assert last.response_mean is not None
        assert last.prompt_last is not None
        assert read.projection == pytest.approx(last.response_mean, abs=1e-4)
        expected = last.response_mean - last.prompt_last
        assert read.last_prompt == pytest.approx(expected, abs=1e-4)
        assert read.length == len(llama.chat.response_ids(own.messages[-1]["content"]))
        prompt = tuple(llama.chat.prompt_ids(own.messages[:-1]))
        [mean] = naturals.means([prompt], [2]).values()
        assert mean is not None
        expected = last.response_mean - float(mean[0] @ unit)
        assert read.projection_difference == pytest.approx(expected, abs=1e-4)
        assert len({read.projection_difference, *read.random}) == 1 + RANDOM


def test_a_row_that_cannot_be_scored_says_why(score: Callable[..., list[RowScores]]) -> None:
    found = score()[UNSCORED]
    assert found.reason is not None
    assert "context" in found.reason
    read = found.traits["testing"]
    assert (read.projection, read.projection_difference, read.judge) == (None, None, None)
    assert read.random == (None,) * RANDOM


@pytest.mark.parametrize(("judged", "places"), [(JUDGED, (0, 2, 4)), (None, range(6))])
def test_the_judge_reads_rows_evenly(
    llama: LoadedModel,
    rows: list[DataRow],
    score: Callable[..., list[RowScores]],
    judged: int | None,
    places: tuple[int, ...],
) -> None:
    judge = ContrastJudge(llama)
    for place, each in enumerate(score(judged)):
        read = each.traits["testing"].judge
        if place in places and place != UNSCORED:
            [alone] = judge.score(SPEC, [last_answer(rows[place].messages)])
            assert read == pytest.approx(alone.log_odds, abs=1e-3)
        else:
            assert read is None


def test_rows_that_are_scored_stand(score: Callable[..., list[RowScores]], tmp_path: Path) -> None:
    found = score()
    path = tmp_path / "scores.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    # What stands is not read again, so that a changed figure stays.
    changed = lines[0].replace('"length": ', '"length": 9')
    assert changed != lines[0]
    path.write_text("".join([changed, *lines[1:4]]), "utf-8")
    again = score()
    assert again[0].traits["testing"].length != found[0].traits["testing"].length
    for own, before in zip(again[1:], found[1:], strict=True):
        read, was = own.traits["testing"], before.traits["testing"]
        assert read.projection == pytest.approx(was.projection, abs=1e-4)
        assert read.judge == pytest.approx(was.judge, abs=1e-3)
