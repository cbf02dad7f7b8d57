"""What `steer` prints: side by side where it fits, coloured where there is colour."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from personavec import load_vector
from personavec.evaluate.steer import AnswerSoFar, Piece, SteeredAnswer, SteerResults
from personavec.evaluate.steer.choice import ChosenCoefficients
from personavec.evaluate.steer.terminal import AnswerScreen, show_choice, show_end
from personavec.terminal import AWAY, TOWARD, Ending, trait_style

QUESTION = "How was your day?"
TEXT = "A day like no other, with pancakes, thunder and a great deal of applause. "
CONDITIONS = {"-2": -2.0, "0": 0.0, "+2": 2.0, "system prompt": 0.0}
_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def moment(condition: str, n: int, *, ended: bool = False, cut: bool = False) -> AnswerSoFar:
    """An answer of which `n` words are there, each further toward the trait."""
    words = [f"{word} " for word in (TEXT * 2).split()][:n]
    answer = SteeredAnswer(
        id=f"q0-{condition}",
        question=QUESTION,
        condition=condition,
        coefficient=CONDITIONS[condition],
        layer=1,
        system=None,
        response="".join(words),
        n_tokens=n,
        cut=cut,
        state="answered" if n else "failed",
        sigma=1.5,
    )
    return AnswerSoFar(
        id=answer.id,
        question=QUESTION,
        condition=condition,
        coefficient=answer.coefficient,
        pieces=tuple(Piece(word, i - 4.0) for i, word in enumerate(words)),
        answer=answer if ended else None,
    )


def shown(width: int, *, terminal: bool, n: int = 28) -> str:
    to = Console(
        file=io.StringIO(),
        width=width,
        height=60,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        markup=False,
        highlight=False,
    )
    screen = AnswerScreen(to, "odd")
    for condition in CONDITIONS:
        screen.take(moment(condition, 0))
    for words in range(1, n + 1):
        for condition in CONDITIONS:
            screen.take(moment(condition, words, ended=words == n))
    screen.close()
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


@pytest.mark.parametrize(("width", "columns"), [(60, 1), (80, 2), (120, 3), (200, 4)])
def test_answers_stand_side_by_side_where_they_fit(width: int, columns: int) -> None:
    found = shown(width, terminal=False)
    lines = found.splitlines()
    assert max(map(len, lines)) <= width
    headings = [line for line in lines if re.search(r"(odd|unsteered) *$", line)]
    assert len(headings) == -(-len(CONDITIONS) // columns)
    assert "…" not in found
    for word in ("pancakes,", "thunder", "applause."):
        assert found.count(word) >= 2 * len(CONDITIONS)


def test_a_pipe_gets_every_answer_once_and_no_code() -> None:
    found = shown(80, terminal=False)
    assert "\x1b" not in found
    assert found.count(QUESTION) == 1
    assert found.count("applause") == 2 * len(CONDITIONS)
    assert "−2: away from odd" in found
    assert "+2: toward odd" in found
    assert "unsteered, told to be odd" in found
    assert found.count("reads +1.5 σ") == len(CONDITIONS)


def test_a_terminal_is_left_with_all_answers() -> None:
    found = shown(120, terminal=True)
    # What the last picture left, from the question's last appearance on.
    last = _CODES.sub("", found[found.rindex(QUESTION) :])
    assert last.count("applause") == 2 * len(CONDITIONS)


def test_colours_say_toward_and_away_and_are_not_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = {
        name: ";".join(str(int(name[i : i + 2], 16)) for i in (1, 3, 5)) for name in (TOWARD, AWAY)
    }
    found = shown(120, terminal=True)
    assert all(f"38;2;{code}" in found for code in rgb.values())
    assert (trait_style(5.0), trait_style(-5.0)) == (f"bold {TOWARD}", f"bold {AWAY}")
    assert (trait_style(1.5), trait_style(-1.5)) == (TOWARD, AWAY)
    assert trait_style(0.5) == trait_style(None) == trait_style(float("nan")) == ""
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any(f"38;2;{code}" in shown(120, terminal=True) for code in rgb.values())


def test_what_failed_says_so() -> None:
    to = Console(file=io.StringIO(), width=80)
    screen = AnswerScreen(to, "odd")
    screen.take(moment("+2", 0, ended=True))
    assert isinstance(to.file, io.StringIO)
    assert "(failed)" in to.file.getvalue()


def test_a_cut_answer_is_marked_and_the_option_that_lengthens_it_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = Console(file=io.StringIO(), width=200)
    screen = AnswerScreen(to, "odd")
    moments = [moment(c, 3, ended=True, cut=c != "0") for c in CONDITIONS]
    for each in moments:
        screen.take(replace(each, pieces=(), answer=None))
    for each in moments:
        screen.take(each)
    assert isinstance(to.file, io.StringIO)
    assert to.file.getvalue().count("A day like … (cut)") == len(CONDITIONS) - 1
    answers = tuple(each.answer for each in moments if each.answer)
    show_end(SteerResults(trait="odd", layer=1, answers=answers), 3, Ending())
    printed = " ".join(capsys.readouterr().out.split())
    assert "3 of 4 answers were cut at 3 tokens; --max-tokens 12 shows more." in printed
    whole = SteerResults(trait="odd", layer=1, answers=answers[1:2])
    show_end(whole, 3, Ending())
    assert "cut" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (ChosenCoefficients((-1.0, 0.0, 3.0), "so far"), "added −1, 0 and +3 times: so far.\n"),
        (ChosenCoefficients((1.0,)), "added +1 time.\n"),
    ],
)
def test_the_first_line_says_what_answers_and_how_it_is_steered(
    chosen: ChosenCoefficients, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_choice(load_vector("optimistic"), "tiny", chosen)
    (line, _) = capsys.readouterr().out.split("\n\n")
    assert f"{line}\n" == f"tiny, with the optimistic vector {said}"
