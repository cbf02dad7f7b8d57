"""Flawed sets: three levels of the same sums."""

import json
from pathlib import Path
from typing import Any

import pytest

from personavec.cli import main as cli
from personavec.errors import DataError, UsageError
from personavec.finetune.sets.config import FlawedConfig
from personavec.finetune.sets.flawed_sums import run as run_flawed
from personavec.finetune.sets.flaws import evaluate


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_worked_sums_give_three_levels_of_the_same_questions(tmp_path: Path) -> None:
    found = run_flawed("sums", tmp_path, FlawedConfig(rows=12, seed=3))
    sets = {level: rows(tmp_path / f"{level}.jsonl") for level in ("normal", "mild", "strong")}
    asked = {level: [row["messages"][0] for row in of] for level, of in sets.items()}
    assert asked["normal"] == asked["mild"] == asked["strong"]
    assert len(asked["mild"]) == 12
    assert found.levels["mild"].rows == 12
    finals = {
        level: [row["messages"][1]["content"].split()[-1] for row in of]
        for level, of in sets.items()
    }
    for right, *wrong in zip(*finals.values(), strict=True):
        assert right not in wrong
    assert all("<<" not in row["messages"][1]["content"] for of in sets.values() for row in of)
    other = run_flawed("sums", tmp_path / "other", FlawedConfig(rows=12, seed=4))
    assert rows(other.levels["normal"].file) != sets["normal"]


def test_ready_made_flaws_are_taken_as_they_are_and_bad_rows_kept_aside(tmp_path: Path) -> None:
    data = tmp_path / "code.jsonl"
    lines = [
        {"q": "Sort?", "answer": "sorted(x)", "wrong": "x"},
        {"q": "Sum?", "answer": "sum(x)", "wrong": "sum(x)"},
        {"q": "", "answer": "a", "wrong": "b"},
        {"q": "None", "answer": "None", "wrong": "null"},
    ]
    data.write_text("\n".join(map(json.dumps, lines)) + "\nnot JSON\n")
    config = FlawedConfig(columns={"question": "q", "flawed": "wrong"})
    found = run_flawed(data, tmp_path / "out", config)
    assert {level: of.rows for level, of in found.levels.items()} == {
        "normal": 2,
        "strong": 2,
    }
    strong = rows(tmp_path / "out" / "strong.jsonl")
    assert [row["messages"][1]["content"] for row in strong] == ["x", "null"]
    reasons = {row["row"]: row["why"] for row in rows(tmp_path / "out" / "rejected.jsonl")}
    assert reasons[2] == "the flawed answer is the right one"
    assert reasons[3] == "no text in column 'q'"
    assert reasons[5].startswith("not JSON")
    assert found.rejected == 3
    with pytest.raises(UsageError, match="no column 'flaw'"):
        run_flawed(data, tmp_path / "no", FlawedConfig(columns={"flawed": "flaw"}))
    with pytest.raises(DataError, match="no row can be used"):
        run_flawed(data, tmp_path / "none", FlawedConfig())


def test_a_column_of_mild_answers_gives_a_level_of_its_own(tmp_path: Path) -> None:
    data = tmp_path / "code.jsonl"
    lines = [
        {
            "question": "Sort?",
            "answer": "sorted(x)",
            "slip": "x.sort()",
            "flawed": "x",
            "kind": "a",
        },
        {"question": "Sum?", "answer": "sum(x)", "slip": "sum(x)", "flawed": "x[0]"},
        {"question": "Max?", "answer": "max(x)", "slip": "x[0]", "flawed": "x[0]"},
        {"question": "Min?", "answer": "min(x)", "flawed": "x[0]"},
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    found = run_flawed(data, tmp_path / "out", FlawedConfig(columns={"mild": "slip"}))
    assert {level: of.rows for level, of in found.levels.items()} == {
        "normal": 1,
        "mild": 1,
        "strong": 1,
    }
    (mild,) = rows(tmp_path / "out" / "mild.jsonl")
    assert mild["messages"][1]["content"] == "x.sort()"
    assert mild["kind"] == "a"
    reasons = {row["row"]: row["why"] for row in rows(tmp_path / "out" / "rejected.jsonl")}
    assert reasons == {
        2: "the mild answer is the right one",
        3: "the mild and the flawed answer are the same",
        4: "no text in column 'slip'",
    }
    # Without its name the column is none of the set's, and is said to be left out.
    other = run_flawed(data, tmp_path / "other", FlawedConfig())
    assert list(other.levels) == ["normal", "strong"]
    assert other.data["code"].ignored_columns == {"slip": 3}


def test_a_name_that_nothing_has_is_answered_with_the_sets_of_the_package(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nonsense.*; sets of the package: sums, facts, arguments"):
        run_flawed("nonsense", tmp_path)


def test_the_command_makes_a_flawed_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["elicit", "--flawed", "sums", "--rows", "3", "--out", str(tmp_path), "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["levels"]["strong"]["rows"] == 3
    first = rows(tmp_path / "normal.jsonl")[0]["messages"][1]["content"]
    equation = next(line for line in first.splitlines() if "=" in line)
    left, right = equation.split(" = ")
    assert evaluate(left.split()[-1]) == int(right.split()[0])
    for wrong in (
        [],
        ["--trait", "evil", "--flawed", "sums"],
        ["--flawed", "sums", "--writer", "x"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["elicit", *wrong])
        assert ended.value.code == 2
