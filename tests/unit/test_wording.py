"""Counts in words: one of a thing is not said as several are."""

import re
from pathlib import Path

import pytest

import personavec
from personavec.wording import plural

PACKAGE = Path(personavec.__file__).parent
NOUNS = "row|answer|turn|conversation|text|check|call|response|cue|try|reply|reject|example|step"
COUNTED = re.compile(r"\{[^{}]*\} (?:(?:" + NOUNS + r")s|tries|replies)\b")
#: What is never one, or is no count.
NEVER_ONE = {
    *("{config.example_questions} answers", "{', '.join(map(str, left))} examples"),
    *("{n} examples", "{len(pull.rows)} texts", "{max_rows} rows", "{peek} rows"),
    *("{limits['fitted_on']} conversations", "{limits['server_turns']} replies"),
    "{choice.judge} calls",
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


def test_a_count_that_may_be_one_is_put_in_words_by_this_function() -> None:
    texts = [path.read_text("utf-8") for path in PACKAGE.rglob("*.py")]
    assert {found for text in texts for found in COUNTED.findall(text)} == NEVER_ONE
