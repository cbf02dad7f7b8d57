"""How long a run will take: whole batches, plain units."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from personavec.progress import Progress
from personavec.rollouts import Task, say_estimate
from personavec.wording import duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (240, "4 min"), (9000, "2.5 h")],
)
def test_a_duration_in_the_unit_that_a_person_would_take(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("to_write", "tried"), [(71, 0), (72, 24), (1000, 24)])
def test_a_run_that_is_hardly_longer_than_its_first_answers_is_not_estimated(
    to_write: int, tried: int, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, int]] = []

    def write(tasks: Sequence[Task]) -> None:
        asked.append(("write", len(tasks)))

    def judge(tasks: Sequence[Task]) -> None:
        asked.append(("judge", len(tasks)))

    tasks = [Task(id=str(i), question="?") for i in range(50)]
    say_estimate(tasks, write, judge, to_write=to_write, to_judge=9, progress=Progress())
    calls = [("write", tried), ("judge", tried // 3), ("judge", tried)]
    assert asked == (calls if tried else [])
    said = capsys.readouterr().err
    assert ("about 1 s for the whole" in said) == bool(tried)
    assert (f"{to_write} to write, 9 to judge" in said) == bool(tried)


def test_what_the_first_judgement_does_once_counts_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def write(tasks: Sequence[Task]) -> None:
        nonlocal now
        now += len(tasks) * 1.0

    def judge(tasks: Sequence[Task]) -> None:
        nonlocal now
        # Those that were judged before are not judged again.
        now += 1000.0 + 8 * 2.0 if len(tasks) == 8 else 16 * 2.0

    tasks = [Task(id=str(i), question="?") for i in range(24)]
    say_estimate(tasks, write, judge, to_write=10_000, to_judge=8_000, progress=Progress())
    expected = 10_000 * 1.0 + 1000.0 + 8_000 * 2.0
    assert f"about {duration(expected)} for the whole" in capsys.readouterr().err
