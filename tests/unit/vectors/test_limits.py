"""Control charts: what they add up, when they alarm, and that ordinary talk rarely makes them."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from drift_talks import constant_talks
from hypothesis import given, strategies as st

from personavec.errors import DataError
from personavec.vectors import Chart, Ordinary
from personavec.vectors.limits import (
    FALSE_ALARMS,
    ChartRule,
    fit,
    from_record,
    interleaved,
    levels,
    stream_levels,
)

readings = st.lists(st.floats(-50, 50), max_size=40)
rules = st.builds(ChartRule, st.floats(0.01, 1), st.floats(0.5, 10))


@given(values=readings, rule=rules)
def test_a_chart_equals_the_weighted_sum_written_out(values: list[float], rule: ChartRule) -> None:
    """Weights (1 - w)^age, over the root of their squares' sum."""
    for n, level in enumerate(levels(values, rule), start=1):
        weights = rule.weight * (1 - rule.weight) ** np.arange(n)[::-1]
        expected = weights @ np.array(values[:n]) / math.sqrt(np.square(weights).sum())
        assert level == pytest.approx(expected, abs=1e-6)


@given(values=readings, rule=rules)
def test_it_alarms_at_every_upward_crossing_and_nowhere_else(
    values: list[float], rule: ChartRule
) -> None:
    chart = Chart(rule)
    alarms = [chart.update(value) for value in values]
    above = [level > rule.limit for level in levels(values, rule)]
    crossings = [now and not before for before, now in zip([False, *above], above, strict=False)]
    assert [alarm is not None for alarm in alarms] == crossings
    for n, alarm in enumerate(alarms, start=1):
        if alarm is not None:
            assert (alarm.n, alarm.reading) == (n, values[n - 1])
            assert alarm.level > alarm.limit == rule.limit


@given(values=readings, rule=rules, more=st.floats(0, 20))
def test_a_higher_reading_never_calms_a_chart(
    values: list[float], rule: ChartRule, more: float
) -> None:
    raised = levels([value + more for value in values], rule)
    assert all(b >= a - 1e-9 for a, b in zip(levels(values, rule), raised, strict=True))


def test_a_reading_that_is_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        Chart(ChartRule(0.5, 3)).update(math.nan)


RULE = ChartRule(0.05, 12.0)


def _talks(n: int, seed: int, *, drift: float = 0) -> list[list[float]]:
    """Conversations whose later turns read higher and wider, and share a level of their own."""
    rng = np.random.default_rng(seed)
    talks = []
    for _ in range(n):
        turns = np.arange(rng.integers(2, 12))
        noise = rng.normal(size=len(turns)) + rng.normal() * 0.5
        talks.append((0.4 * turns + (1 + 0.1 * turns) * noise + drift * (turns > 1)).tolist())
    return talks


def test_false_alarms_on_other_conversations_are_as_rare_as_asked_for() -> None:
    """Three times the share asked for would come by chance less than once in 10,000 fits."""
    ordinary = fit(_talks(2000, 1), false_alarms=0.01)
    others = _talks(2000, 2)
    alarmed = sum(_alarms(ordinary, talk) > 0 for talk in others)
    assert 0 < alarmed <= 60
    stream = [[ordinary.standardise(v, t) for t, v in enumerate(talk)] for talk in others]
    assert max(stream_levels(interleaved(stream), ordinary.server)) < ordinary.server.limit


def test_drift_is_caught_in_a_conversation_and_on_a_server() -> None:
    ordinary = fit(_talks(500, 1))
    drifting = [talk for talk in _talks(100, 3, drift=8) if len(talk) > 4]
    assert all(_alarms(ordinary, talk) == 1 for talk in drifting)
    server = ordinary.stream()
    stream = [[ordinary.standardise(v, t) for t, v in enumerate(talk)] for talk in drifting]
    assert any(server.update(*reading) for reading in interleaved(stream))


def test_a_servers_limit_holds_however_many_conversations_it_holds_at_a_time() -> None:
    """With the limit of other conversations, fitted on 16 at a time, as many of which it meets.

    With all readings of a log in its order, as they were charted once, at least 4 of 6 alarm.
    """
    false = in_a_row = 0
    for seed in range(6):
        rule = fit(constant_talks(200, seed)).server
        others = constant_talks(200, 100 + seed)
        for concurrent in (1, 4, 64):
            met = interleaved(others, concurrent=concurrent, seed=seed)
            false += max(stream_levels(met, rule)) > rule.limit
        in_a_row += max(levels([v for talk in others for v in talk], rule)) > rule.limit
        drifting = interleaved(constant_talks(40, 200 + seed, more=2), seed=seed)
        assert max(stream_levels(drifting, rule)) > rule.limit
    assert false <= 1
    assert in_a_row >= 4


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    concurrent=st.integers(1, 8),
    seed=st.integers(0, 9),
)
def test_turns_of_a_conversation_are_kept_apart_on_a_servers_chart(
    lengths: list[int], concurrent: int, seed: int
) -> None:
    """The level is that of a plain chart over those readings that three others precede."""
    rng = np.random.default_rng(seed)
    talks = [rng.normal(size=n).tolist() for n in lengths]
    met = list(interleaved(talks, concurrent=concurrent, seed=seed))
    counted: list[tuple[int, float]] = []
    for number, value in met:
        if number not in [n for n, _ in counted[-3:]]:
            counted.append((number, value))
    found = stream_levels(met, RULE)
    assert len(found) == len(met)
    if met:
        assert found[-1] == pytest.approx(levels([value for _, value in counted], RULE)[-1])


def _alarms(ordinary: Ordinary, talk: list[float]) -> int:
    chart = ordinary.chart()
    return sum(chart.update(ordinary.standardise(v, t)) is not None for t, v in enumerate(talk))


def test_the_baseline_is_that_of_each_turn() -> None:
    """Recomputed; turns that few reach are pooled into the last entry."""
    talks = _talks(400, 5)
    ordinary = fit(talks)
    for turn, (mean, spread) in enumerate(ordinary.turns[:-1]):
        values = [talk[turn] for talk in talks if len(talk) > turn]
        assert mean == pytest.approx(np.mean(values), abs=1e-3)
        assert spread == pytest.approx(np.std(values, ddof=1), abs=1e-3)
    last = len(ordinary.turns) - 1
    rest = [value for talk in talks for value in talk[last:]]
    assert ordinary.turns[-1][0] == pytest.approx(np.mean(rest), abs=1e-3)
    assert ordinary.standardise(ordinary.turns[-1][0], 10_000) == pytest.approx(0)


def test_limits_survive_their_file_and_damage_is_named() -> None:
    ordinary = fit(_talks(60, 1), false_alarms=FALSE_ALARMS)
    assert from_record(asdict(ordinary)) == ordinary
    for damage in ({"turns": []}, {"turns": [[0, 0]]}, {"conversation": {"weight": 1}}):
        with pytest.raises(DataError, match="fit them again"):
            from_record({**asdict(ordinary), **damage})


def test_what_cannot_be_fitted_says_so() -> None:
    with pytest.raises(DataError, match="got 49"):
        fit(_talks(49, 1))
    with pytest.raises(DataError, match="no spread"):
        fit([[1.0, 2.0]] * 60)


@given(
    lengths=st.lists(st.integers(0, 5), max_size=30),
    concurrent=st.integers(1, 8),
    shuffled=st.booleans(),
)
def test_interleaving_loses_nothing_and_keeps_each_order(
    lengths: list[int], concurrent: int, shuffled: bool
) -> None:
    talks = [[number + place / 10 for place in range(n)] for number, n in enumerate(lengths)]
    met = list(interleaved(talks, concurrent=concurrent, seed=1, shuffled=shuffled))
    if concurrent == 1 and not shuffled:
        assert [value for _, value in met] == [value for talk in talks for value in talk]
    for number, talk in enumerate(talks):
        assert [value for found, value in met if found == number] == talk
    assert len(met) == sum(lengths)
