"""How long a run will take, measured on its first answers before the others are begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from personavec.progress import Progress
from personavec.rollouts.rollout import Task
from personavec.wording import duration, plural

#: Answers that the rates are measured on; they are part of the run.
TRIED = 24


def say_estimate(
    tasks: Sequence[Task],
    write: Callable[[Sequence[Task]], object],
    judge: Callable[[Sequence[Task]], object],
    *,
    to_write: int,
    to_judge: int,
    may_add: int = 0,
    progress: Progress,
) -> None:
    """Write and judge the first of the tasks, and say how long the whole will take.

    `write` stores the answers where the run finds them again, and `judge` the scores, so nothing
    is done twice. `to_write` and `to_judge` count all answers of the run, these included; up to
    `may_add` come beside them if they are needed. A run that is not much longer than its first
    answers is not estimated. The first call of `judge`, on a third of them, also encodes what its
    prompts share, which counts once.
    """
    tried = tasks[:TRIED]
    if not tried or to_write < 3 * len(tried):
        return
    start = time.monotonic()
    write(tried)
    written = time.monotonic()
    first = len(tried) // 3
    judge(tried[:first])
    begun = time.monotonic()
    judge(tried)
    judged = time.monotonic()
    writing = (written - start) * to_write / len(tried)
    judging = (judged - begun) * (to_judge - first) / (len(tried) - first)
    whole = writing + (begun - written) + judging
    progress.say(
        f"about {duration(whole)} for the whole, by the first {plural(len(tried), 'answer')}: "
        f"{to_write} to write, {to_judge} to judge"
        + (f"; up to {may_add} more where checks are not decided" if may_add else "")
    )
