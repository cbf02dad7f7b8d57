"""Thoughts in answers: every marker, and texts that only look like one."""

import pytest

from personavec.data import split_thought

WITH = [
    ("<think>\nadd\n</think>\n\n5", ("add", "5")),
    ("  <THINK>add</Think>5", ("add", "5")),
    ("<think>\n\n</think>\n\n5", ("", "5")),
    ("<think></think><think>add</think>5", ("add", "5")),
    ("<think>add</think>", ("add", "")),
    ("[THINK]add[/THINK]5", ("add", "5")),
    ("<seed:think>add</seed:think>5", ("add", "5")),
    ("<thinking>add</thinking>\n<output>5</output>", ("add", "5")),
    ("<reasoning>add</reasoning><answer>5</answer>", ("add", "5")),
    ("<think>add</think><answer>5", ("add", "5")),
    ("<think>add</think>So <answer>5</answer>", ("add", "So <answer>5</answer>")),
    ("<think>add</think><answer>5</answer> ok", ("add", "<answer>5</answer> ok")),
    (
        "<|begin_of_thought|>add<|end_of_thought|>\n<|begin_of_solution|>5<|end_of_solution|>",
        ("add", "5"),
    ),
    (
        "<|channel|>analysis<|message|>add<|end|><|start|>assistant<|channel|>final<|message|>5"
        "<|return|>",
        ("add", "5"),
    ),
    ("<|channel|>final<|message|>5", ("", "5")),
    ("analysisadd itassistantfinal5", ("add it", "5")),
    ("<|channel>thought\nadd<channel|>5", ("add", "5")),
    ("Here is my thought process: add\nHere is my response: 5", ("add", "5")),
    # The prompt had opened the thought.
    ("Add them.\n</think>\n\n5", ("Add them.", "5")),
    ('He said "two"</think>5', ('He said "two"', "5")),
    # Unfinished.
    ("<think>add", ("add", None)),
    ("<think>a</think>\n<think>b", ("a\n\nb", None)),
    ("[THINK]add", ("add", None)),
    ("<|channel|>analysis<|message|>add", ("add", None)),
]
WITHOUT = [
    "5",
    "",
    "Write <think>x</think> around it.",
    "A thought ends with `</think>`.",
    'They end with "</think>", always.',
    "One </think> and two </think>.",
    "analysis of the data follows",
    "Here is my thought process: I add.",
    "<answer>5</answer>",
    "[THINKING about it] 5",
]


@pytest.mark.parametrize(("text", "expected"), WITH)
def test_thoughts_are_taken_out(text: str, expected: tuple[str, str | None]) -> None:
    assert split_thought(text) == expected


@pytest.mark.parametrize("text", WITHOUT)
def test_answers_without_a_thought_stay_as_they_are(text: str) -> None:
    assert split_thought(text) == (None, text)


def test_many_markers_take_linear_time() -> None:
    assert split_thought("<think></think>" * 100_000 + "5") == ("", "5")
    assert split_thought("</think>" * 100_000)[0] is None
