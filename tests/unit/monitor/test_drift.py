"""The charts of a log."""

import numpy as np
from drift_talks import constant_talks

from personavec.monitor.drift import charted
from personavec.monitor.turns import LogTurns
from personavec.vectors.limits import fit


def _log(talks: list[list[float]]) -> LogTurns:
    index = np.repeat(np.arange(len(talks)), [len(talk) for talk in talks])
    turn = np.concatenate([np.arange(len(talk)) for talk in talks])
    values = {"odd": np.concatenate(talks)}
    return LogTurns(index, [str(i) for i in index], turn, turn, turn, values, values)


def test_an_ordinary_log_raises_no_alarm_of_the_server_and_a_drifting_one_does() -> None:
    """The limit, 1.25 times the highest level of as much talk, is exceeded about once in ten times.

    By the whole log in its order it was exceeded in 33 of 40.
    """
    alarmed = 0
    for seed in range(6):
        ordinary = fit(constant_talks(200, seed))
        found = charted(_log(constant_talks(200, 100 + seed)), "odd", ordinary)
        assert sorted(found.order.tolist()) == list(range(len(found.readings)))
        alarmed += bool(found.server_alarms.any())
    assert alarmed <= 2
    # What drifts late in the log alarms late: the order of conversations is kept.
    late = _log([*constant_talks(100, 300), *constant_talks(50, 400, more=2)])
    found = charted(late, "odd", fit(constant_talks(200, 0)))
    assert found.server_alarms.any()
    assert late.index[found.order[found.server_alarms]].min() >= 90
