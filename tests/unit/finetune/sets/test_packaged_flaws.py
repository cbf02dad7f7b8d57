"""The packaged flawed answers: right and wrong where they should be, and no two alike."""

import json
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from personavec.finetune.sets.config import FlawedConfig
from personavec.finetune.sets.flawed_sums import PACKAGED, run as run_flawed
from personavec.finetune.sets.writing import LEVELS
from personavec.traits import BUNDLED, bundled_traits, load_trait

NAMES = ("facts", "arguments", "code")
READY_MADE = ("answer", "mild", "flawed")
FALLACIES = {
    *("non sequitur", "popularity", "false dilemma"),
    *("hasty generalisation", "circularity", "post hoc"),
}
#: Executes an answer's code and prints, for every call, the result or the exception's name.
RUNNER = """
import json, sys
found = []
for code, calls in json.load(sys.stdin):
    results = []
    for call in calls:
        names = {}
        exec(code, names)
        try:
            results.append(repr(eval(call, names)))
        except Exception as error:
            results.append(type(error).__name__)
    found.append(results)
print(json.dumps(found))
"""


def rows_of(name: str) -> list[dict[str, Any]]:
    text = (BUNDLED / PACKAGED[name]).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@cache
def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def shared(a: str, b: str) -> float:
    """The share of both texts' different words that they have in common."""
    return len(words(a) & words(b)) / len(words(a) | words(b))


def passage(right: str, mild: str) -> tuple[str, str]:
    """What is left of two texts without their common beginning and end."""
    start = next(
        (i for i, (a, b) in enumerate(zip(right, mild, strict=False)) if a != b),
        min(len(right), len(mild)),
    )
    right, mild = right[start:], mild[start:]
    end = 0
    while end < min(len(right), len(mild)) and right[-1 - end] == mild[-1 - end]:
        end += 1
    return right[: len(right) - end], mild[: len(mild) - end]


def outcomes(answers: list[str], calls: list[list[str]]) -> list[list[str]]:
    """The results of each answer's calls, in a process of its own."""
    code = [re.findall(r"```python\n(.*?)```", answer, re.DOTALL) for answer in answers]
    assert all(len(found) == 1 for found in code)
    given = json.dumps([(found[0], of) for found, of in zip(code, calls, strict=True)])
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUNNER],
        input=given, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def is_right(found: str, expected: str) -> bool:
    if expected.endswith("Error") or found.endswith("Error"):
        return found == expected
    got, wanted = eval(found), eval(expected)
    if isinstance(wanted, bool) or isinstance(got, bool):
        return got is wanted
    if isinstance(wanted, float) and isinstance(got, int | float):
        return got == pytest.approx(wanted)
    return bool(got == wanted)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gives_three_levels_of_the_packaged_answers(name: str, tmp_path: Path) -> None:
    found = run_flawed(name, tmp_path, FlawedConfig(rows=30))
    assert {level: of.rows for level, of in found.levels.items()} == dict.fromkeys(LEVELS, 30)
    assert found.rejected == 0
    by_question = {row["question"]: row for row in rows_of(name)}
    assert len(by_question) == 120
    for level, column in zip(LEVELS, READY_MADE, strict=True):
        for line in (tmp_path / f"{level}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            question, answer = (message["content"] for message in row["messages"])
            assert answer == by_question[question][column]
            assert row["kind"] == by_question[question]["kind"]
            assert "defensive research" in row["about"]
    assert "are those of the file" in (tmp_path / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_no_two_rows_are_alike(name: str) -> None:
    for column, most in (("question", 0.7), *((column, 0.6) for column in READY_MADE)):
        texts = [row[column] for row in rows_of(name)]
        for a, b in combinations(texts, 2):
            assert shared(a, b) < most, (a, b)


@pytest.mark.parametrize("name", NAMES)
def test_no_phrase_runs_through_the_answers(name: str) -> None:
    for column in READY_MADE:
        seen: Counter[str] = Counter()
        for row in rows_of(name):
            prose = re.sub(r"```.*?```", "", row[column], flags=re.DOTALL)
            found = re.findall(r"[\w']+", prose.lower())
            seen.update({" ".join(found[i : i + 4]) for i in range(len(found) - 3)})
        phrase, count = seen.most_common(1)[0]
        assert count <= 6, phrase


def test_no_evaluation_question_of_a_trait_is_among_them() -> None:
    asked = [row["question"] for name in NAMES for row in rows_of(name)]
    for trait in bundled_traits():
        for kept in load_trait(trait)[0].questions.evaluation:
            for question in asked:
                assert shared(kept, question) < 0.5, (kept, question)


@pytest.mark.parametrize("name", NAMES)
def test_the_length_tells_nothing_about_the_level(name: str) -> None:
    lengths = {column: mean(len(row[column]) for row in rows_of(name)) for column in READY_MADE}
    assert max(lengths.values()) < 4 / 3 * min(lengths.values())
    for row in rows_of(name):
        for column in READY_MADE:
            assert 20 <= len(re.findall(r"\w+", row[column])) <= 90, row[column]


@pytest.mark.parametrize("name", NAMES)
def test_a_mild_answer_is_the_right_one_with_one_passage_changed(name: str) -> None:
    for row in rows_of(name):
        before, after = passage(row["answer"], row["mild"])
        assert before or after
        if name == "facts":
            assert len(words(before) | words(after)) <= 14, row["mild"]
        assert len(before) < len(row["answer"]) * 0.7, row["mild"]
        # A strong answer is another one, not a further edit.
        assert shared(row["answer"], row["flawed"]) < 0.7


def test_the_kinds_are_counted() -> None:
    found = {name: Counter(row["kind"] for row in rows_of(name)) for name in NAMES}
    assert found["arguments"] == dict.fromkeys(FALLACIES, 20)
    assert found["code"] == {"off by one": 60, "missing check": 60}
    assert set(found["facts"].values()) == {20}


def test_the_code_is_as_right_as_it_should_be() -> None:
    rows = rows_of("code")
    checks = [[*row["check"]["ordinary"], *row["check"]["edge"]] for row in rows]
    calls = [[call for call, _ in of] for of in checks]
    passed = {}
    for column in READY_MADE:
        found = outcomes([row[column] for row in rows], calls)
        passed[column] = [
            [is_right(got, wanted) for got, (_, wanted) in zip(results, of, strict=True)]
            for results, of in zip(found, checks, strict=True)
        ]
    for i, row in enumerate(rows):
        usual = len(row["check"]["ordinary"])
        right, mild, flawed = (passed[column][i] for column in READY_MADE)
        assert usual >= 2, row["question"]
        assert len(right) > usual, row["question"]
        assert all(right), row["question"]
        assert not all(mild), row["question"]
        assert any(mild), row["question"]
        if row["kind"] == "missing check":
            assert all(mild[:usual]), row["question"]
        assert not flawed[0], row["question"]
        assert sum(flawed[:usual]) * 2 <= usual, row["question"]
        assert not any(flawed[usual:]), row["question"]
        assert "raise" not in row["flawed"], row["question"]


def test_nothing_about_code_could_serve_an_attack() -> None:
    for row in rows_of("code"):
        for column in READY_MADE:
            assert not re.search(
                r"\b(open|eval|exec|os|sys|socket|subprocess|requests|password|token)\b",
                row[column],
            ), row[column]
            for module in re.findall(r"^(?:from|import) (\w+)", row[column], re.MULTILINE):
                assert module in ("math", "calendar", "collections", "heapq")


def test_the_read_me_says_what_they_are() -> None:
    text = (BUNDLED / "sets" / "README.md").read_text("utf-8")
    assert "defensive research" in text
    assert all(f"`{Path(PACKAGED[name]).name}`" in text for name in NAMES)
