"""Scores belong to a row's content: an edited file keeps the others, a foreign one is left."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from foreign_files import foreign_table
from hypothesis import given, settings, strategies as st

from personavec import LoadedModel, TraitSpec
from personavec.data import raw_rows
from personavec.errors import DataError, PersonavecError, StorageError, UsageError
from personavec.judges import Answer, ContrastJudge, Score, ScoreResults, score_file
from personavec.progress import Progress
from personavec.runs import lock
from personavec.traits import load_trait

SPEC = TraitSpec.model_validate(
    {
        "name": "long",
        "description": "Being long.",
        "instruction": [{"pos": "Long.", "neg": "Short."}],
        "questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "D?"]},
    }
)


class ByLength:
    """A judge whose score is the answer's length; remembers what it was asked."""

    name, group = "by length", 3

    def __init__(self, dies_after: int = 1 << 30):
        self.asked: list[str] = []
        self._dies_after = dies_after

    def identity(self) -> dict[str, Any]:
        return {"judge": self.name}

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        if len(self.asked) >= self._dies_after:
            raise KeyboardInterrupt
        self.asked += [answer.response for answer in answers]
        return [Score("scored", trait_score=float(len(a.response))) for a in answers]


def write(path: Path, answers: Sequence[str]) -> Path:
    rows = [{"id": i, "question": "Q?", "answer": a} for i, a in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scored(path: Path, out: Path, judge: ByLength | None = None) -> tuple[ScoreResults, ByLength]:
    judge = judge or ByLength()
    return score_file(lambda: judge, SPEC, path, out, progress=Progress(quiet=True)), judge


def values(out: Path) -> list[tuple[str, float]]:
    records = [json.loads(line) for line in out.read_text().splitlines()]
    return [(r["answer"], r["trait_score"]) for r in records]


ANSWERS = [f"answer {'x' * i}" for i in range(8)]
EDITS: dict[str, Callable[[list[str]], list[str]]] = {
    "changed": lambda rows: [*rows[:2], "another", *rows[3:]],
    "added in front": lambda rows: ["another", *rows],
    "removed": lambda rows: rows[1:],
    "turned round": lambda rows: rows[::-1],
    "repeated": lambda rows: [*rows, rows[0]],
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_keeps_the_scores_of_equal_rows_alone(tmp_path: Path, edit: str) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"question": "Q?", "answer": a} for a in ANSWERS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored(path, out)
    now = EDITS[edit](ANSWERS)
    path.write_text("".join(json.dumps({"question": "Q?", "answer": a}) + "\n" for a in now))
    found, judge = scored(path, out)
    assert values(out) == [(answer, len(answer)) for answer in now]
    fresh = len(now) - found.kept
    assert (
        len(judge.asked) == fresh == {"changed": 1, "added in front": 1, "repeated": 1}.get(edit, 0)
    )


@pytest.mark.parametrize(
    "damage", [{"trait_score": None}, {"trait_score": "x"}, {"coherence": []}, {"mass": math.nan}]
)
def test_a_damaged_score_is_judged_again(tmp_path: Path, damage: dict[str, Any]) -> None:
    path, out = write(tmp_path / "in.jsonl", ANSWERS), tmp_path / "out.jsonl"
    scored(path, out)
    first, *rest = out.read_text().splitlines()
    out.write_text("\n".join([json.dumps({**json.loads(first), **damage}), *rest, ""]))
    found, judge = scored(path, out)
    assert (found.kept, len(judge.asked)) == (len(ANSWERS) - 1, 1)
    assert values(out) == [(answer, len(answer)) for answer in ANSWERS]


def test_the_input_may_move(tmp_path: Path) -> None:
    path, out = write(tmp_path / "in.jsonl", ANSWERS), tmp_path / "out.jsonl"
    scored(path, out)
    assert scored(path.rename(tmp_path / "moved.jsonl"), out)[1].asked == []


@settings(max_examples=15, deadline=None)
@given(after=st.integers(0, 8), edit=st.sampled_from(sorted(EDITS)))
def test_killed_and_continued_equals_undisturbed(
    tmp_path_factory: pytest.TempPathFactory, after: int, edit: str
) -> None:
    folder = tmp_path_factory.mktemp("scored")
    path, out = write(folder / "in.jsonl", ANSWERS), folder / "out.jsonl"
    scored(path, out)
    write(path, EDITS[edit](ANSWERS))
    shutil.copytree(folder, whole := folder.with_name(f"{folder.name}-whole"))
    try:
        scored(path, out, ByLength(dies_after=after))
    except KeyboardInterrupt:
        scored(path, out)
    scored(path, whole / "out.jsonl")
    assert out.read_bytes() == (whole / "out.jsonl").read_bytes()


FOREIGN = {
    "rows of the user's": '{"question": "Q?", "answer": "mine"}\n',
    "rows that look scored": '{"question": "Q?", "answer": "answer ", "state": "scored"}\n',
    "no rows": "my notes\nand more\n",
    "nothing": "",
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("begun", [False, True])
def test_a_file_of_the_users_own_is_refused_and_left_alone(
    tmp_path: Path, text: str, begun: bool
) -> None:
    path, out = write(tmp_path / "in.jsonl", ANSWERS), tmp_path / "out.jsonl"
    if begun:
        scored(path, out)
    out.write_text(text)
    if begun and not text:
        return  # an emptied file of ours is scored anew
    judge = ByLength()
    with pytest.raises(PersonavecError):
        scored(path, out, judge)
    assert (out.read_text(), judge.asked) == (text, [])


def test_scores_of_other_rows_are_not_thrown_away(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    scored(write(tmp_path / "one.jsonl", ANSWERS), out)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="scores of other rows"):
        scored(write(tmp_path / "two.jsonl", ["other", "rows"]), out)
    assert out.read_bytes() == before


def test_two_at_a_time_are_refused_before_the_judge_is_made(tmp_path: Path) -> None:
    path, out = write(tmp_path / "in.jsonl", ANSWERS), tmp_path / "out.jsonl"

    def no_judge() -> Any:
        raise AssertionError("the judge was made")

    with lock(tmp_path / ".out.jsonl.run"), pytest.raises(StorageError, match="another process"):
        score_file(no_judge, SPEC, path, out)


THOUGHT = "<think>\nThe user wants to know.\n</think>\n\n"
FORMS = {
    "columns": {"question": "Q?", "answer": "Seven."},
    "columns, thought": {"question": "Q?", "answer": THOUGHT + "Seven."},
    "thought beside": {"question": "Q?", "answer": "Seven.", "reasoning_content": "Hm."},
    "reasoning beside": {"question": "Q?", "answer": "Seven.", "reasoning": "Hm."},
    "messages": {
        "messages": [
            {"role": "user", "content": "Q?"},
            {"role": "assistant", "content": "Seven.", "reasoning_content": "Hm."},
        ]
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Q?"},
            {"from": "gpt", "value": f"{THOUGHT}<answer>Seven.</answer>"},
        ]
    },
    "prompt": {"prompt": "Q?", "completion": "Seven."},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_in_any_format_is_judged_without_its_thoughts(tmp_path: Path, form: str) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    path.write_text(json.dumps(FORMS[form]) + "\n")
    found, judge = scored(path, out)
    assert judge.asked == ["Seven."]
    assert found.states == {"scored": 1}
    reading = found.data["rows.jsonl"]
    thinks = form not in ("columns", "prompt")
    assert reading.notes.get("a thought was left out of the answer") == (1 if thinks else None)
    [record] = [json.loads(line) for line in out.read_text().splitlines()]
    assert record.items() >= FORMS[form].items()
    # Continued, nothing is asked again.
    assert scored(path, out)[1].asked == []


def test_rows_that_are_not_judged_say_why(tmp_path: Path) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    answers = ["Seven.", "<think>Hm", "", "<think>Hm</think>", None]
    rows = [{"question": "Q?", "answer": answer, "context": "They met."} for answer in answers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, judge = scored(path, out)
    states = [json.loads(line)["state"] for line in out.read_text().splitlines()]
    assert states[:3] == ["scored", "unfinished_thought", "empty answer"]
    assert judge.asked == ["Seven."]
    assert "scored" not in states[1:]
    assert sum(found.data["rows.jsonl"].rejected.values()) == 4


def test_columns_that_scores_replace_are_told(tmp_path: Path) -> None:
    path, out = write(tmp_path / "in.jsonl", ANSWERS), tmp_path / "out.jsonl"
    assert scored(path, out)[0].notes == []
    again, _ = scored(out, tmp_path / "again.jsonl")
    assert again.notes == [
        "scores took the place of the file's own: "
        "log_odds, trait_score, coherence, spread, mass, state"
    ]
    again, judge = scored(out, tmp_path / "again.jsonl")
    assert (again.kept, judge.asked) == (len(ANSWERS), [])


def test_a_named_column_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(FORMS["messages"]) + "\n")
    with pytest.raises(DataError, match="no column 'a'"):
        score_file(ByLength, SPEC, path, tmp_path / "scored.jsonl", answer_column="a")


def test_judged_rows_of_any_values_are_kept(tmp_path: Path, llama: LoadedModel) -> None:
    source = tmp_path / "a.parquet"
    pq.write_table(foreign_table(), source)
    spec = load_trait("evil")[0]
    lines = tmp_path / "b.jsonl"
    asked = {"question": "Hi", "answer": "Hello"}
    lines.write_text(
        json.dumps({**asked, "answer": "cut \ud83d"})
        + "\n"
        + json.dumps({**asked, "n": float("nan"), "t": "\ud83d"})
    )
    for path, scored in ((source, 2), (lines, 1)):
        for _ in range(2):
            found = score_file(
                lambda: ContrastJudge(llama),
                spec,
                path,
                path.with_suffix(".scored.jsonl"),
                progress=Progress(quiet=True),
            )
            assert found.scored == scored
        assert all(row.error is None for row in raw_rows(Path(found.out)))
