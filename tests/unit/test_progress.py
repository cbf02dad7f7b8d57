"""What long work says of how far it is, where stderr is no terminal and where it is one."""

from __future__ import annotations

import pytest
from rich.progress import Progress as RichProgress

from personavec import progress
from personavec.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that progress reads, in seconds, as a list of one."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_what_was_found_done_is_said_and_makes_no_rate(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress().bar("judging", 200) as bar:
        bar.found(120)
        clock[0] += 40
        bar.advance(40)
        clock[0] += 20
        bar.advance(40)
    assert capsys.readouterr().err.splitlines() == [
        "judging: continuing, 120 of 200 done",
        "judging 160/200, 40 s, 1.0/s, about 40 s left",
        "judging 200/200, 60 s, 1.3/s",
    ]


def test_the_time_left_is_said_within_seconds_and_then_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """But not by the first few of many, which may have taken longer than the others will."""
    for total in (200, 1000):
        with Progress().bar("judging", total) as bar:
            for _ in range(50):
                clock[0] += 1
                bar.advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "judging 10/200, 10 s, 1.0/s, about 3 min left",
        "judging 40/200, 40 s, 1.0/s, about 3 min left",
        "judging 30/1000, 30 s, 1.0/s, about 16 min left",
    ]


def test_stages_are_named_before_they_begin(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().stages("rows", "", "report")
    Progress(quiet=True).stages("unheard")
    assert capsys.readouterr().err == "stages: rows, report\n"


def test_work_that_is_all_done_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress().bar("judging", 200) as bar:
        bar.found(200)
    with Progress().bar("judging", 200) as bar:
        bar.found(0)
    assert capsys.readouterr().err == ""


def test_a_terminals_bar_counts_what_was_found_but_not_in_its_rate() -> None:
    with RichProgress(disable=True) as rich:
        bar = progress._LiveBar(rich, "judging", 200)
        bar.found(120)
        [task] = rich.tasks
        assert (task.completed, task.speed) == (120, None)
        bar.advance(5)
        assert task.completed == 125
