"""Counts in words: one of a thing is not said as several are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import personavec
from personavec.results import Estimate
from personavec.wording import joined, moved, plural, with_minus

PACKAGE = Path(personavec.__file__).parent
TREES = [ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))]
#: Nouns that are counted even if no call of `plural` has them now.
NOUNS = {"cues", "examples", "replies"}
#: How often the package may write a noun as a plural after a value that is never one, or is no
#: count: lengths and limits of texts, defaults, choices. A new place needs `plural`, or a reason
#: to raise the number here.
NEVER_ONE = {
    "answers": 1,
    "calls": 1,
    "conversations": 2,
    "examples": 2,
    "neutral prompts": 4,
    "others": 2,
    "questions": 8,
    "replies": 2,
    "rows": 3,
    "texts": 2,
    "tokens": 13,
}


@pytest.mark.parametrize(
    ("n", "noun", "many", "said"),
    [
        (0, "row", "", "0 rows"),
        (1, "row", "", "1 row"),
        (2, "row", "", "2 rows"),
        (1, "try", "tries", "1 try"),
        (3, "try", "tries", "3 tries"),
    ],
)
def test_one_is_said_as_one(n: int, noun: str, many: str, said: str) -> None:
    assert plural(n, noun, many) == said


def counted_nouns() -> set[str]:
    """The plurals of all nouns that the package counts somewhere with `plural`, and `NOUNS`."""
    found = set(NOUNS)
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "plural":
            words = [a.value for a in node.args[1:] if isinstance(a, ast.Constant)]
            if words:
                noun, many = (*words, "")[:2]
                found.add(str(many or f"{noun}s"))
    return found


def plurals_after_values() -> Iterator[tuple[str, str]]:
    """The word after each value in an f-string, with the code of the value."""
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                after = text.value if isinstance(text, ast.Constant) else ""
                word = re.match(r" (\w+(?: \w+)?)", str(after))
                if word and isinstance(value, ast.FormattedValue):
                    yield word[1], ast.unparse(value.value)


def test_a_count_that_may_be_one_is_put_in_words_by_this_function() -> None:
    nouns = counted_nouns()
    assert {"rows", "tries"} <= nouns
    found: dict[str, list[str]] = {}
    for words, value in plurals_after_values():
        noun = next((noun for noun in (words, words.split()[0]) if noun in nouns), None)
        if noun is not None:
            found.setdefault(noun, []).append(value)
    assert {n: values for n, values in found.items() if len(values) > NEVER_ONE.get(n, 0)} == {}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Estimate(2.0, 1.0, 3.0), "evil rises by 2.0 nats [1.0, 3.0]"),
        (Estimate(-2.0, -3.0, -1.0), "evil falls by 2.0 nats [1.0, 3.0]"),
        (Estimate(0.5, -1.0, 2.0), "no change of evil is shown (0.5 nats [−1.0, 2.0])"),
        (Estimate(-0.5), "evil changes by −0.5 nats, without an interval"),
        (Estimate(), "evil was not measured"),
    ],
)
def test_only_an_interval_beside_zero_shows_a_change(found: Estimate, said: str) -> None:
    assert moved("evil", found, "nats") == said


def test_names_are_listed_as_a_sentence_lists_them() -> None:
    assert [joined(["a", "b", "c"][:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert joined(["a", "b"], "or") == "a or b"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("-1.5 (-2 to -1)", "−1.5 (−2 to −1)"),
        ("split-half, 3-4, qwen-2, -a, 1e-5", "split-half, 3-4, qwen-2, -a, 1e-5"),
    ],
)
def test_a_number_has_a_true_minus_and_a_hyphen_stays_one(written: str, read: str) -> None:
    assert with_minus(written) == read


def test_a_number_with_its_sign_is_written_by_one_function() -> None:
    """A format with a sign stands nowhere but in ids, so that no text has a hyphen for a minus."""
    found = {
        ast.unparse(node)
        for tree in TREES
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue)
        and node.format_spec is not None
        and re.match(r"f['\"]\+", ast.unparse(node.format_spec))
    }
    assert len(found) <= 1, found
