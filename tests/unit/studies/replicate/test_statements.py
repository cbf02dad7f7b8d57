"""The nine statements: every outcome on results that are made up to have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from personavec.results import Estimate
from personavec.studies.replicate.deciding import GAP, Found, correlated, forecasts, outcome_of
from personavec.studies.replicate.report import headline
from personavec.studies.replicate.results import Outcome, Statement
from personavec.studies.replicate.stages.expression import Contrast, ExpressionResult
from personavec.studies.replicate.stages.extraction import (
    ExtractedVector,
    ExtractionResult,
    SteeredAnswers,
)
from personavec.studies.replicate.stages.measuring import Expressed
from personavec.studies.replicate.stages.mitigation import MitigationArm, MitigationResult
from personavec.studies.replicate.stages.monitoring import Forecast, MonitoringResult
from personavec.studies.replicate.stages.persistence import Lagged, PersistenceResult
from personavec.studies.replicate.stages.real import RealContrast, RealResult
from personavec.studies.replicate.stages.rows import RowsResult, Separation, SetReading
from personavec.studies.replicate.statements import CLAIMS, decide, majority, rules_table

NOTHING = Estimate()
YES, NO, OPEN = "replicates", "does not replicate", "not decided"


def around(value: float, half: float = 0.1) -> Estimate:
    return Estimate(value, value - half, value + half)


def verdict(number: int, **found: Any) -> Statement:
    return decide(Found(**found))[number - 1]


# 1


def extraction(toward: Estimate, random: float = 0.5, end: float = 2.0) -> ExtractionResult:
    """One trait: unsteered at 0, with this log-odds at the upper end."""
    vector = ExtractedVector(
        trait="evil",
        layer=3,
        away=-2.0,
        toward=end,
        verdict="passed",
        words="passed",
        kept_pos=9,
        kept_neg=9,
    )
    doses = [
        ("vector", 0.0, around(0.0)),
        ("vector", 2.0, toward),
        ("random 0", 2.0, around(random)),
    ]
    return ExtractionResult(
        vectors=(vector,),
        doses=tuple(
            SteeredAnswers(
                trait="evil",
                direction=direction,
                coefficient=coefficient,
                log_odds=log_odds,
                coherence=around(90),
                coherent=True,
                n=10,
            )
            for direction, coefficient, log_odds in doses
        ),
        layers=(),
        transcripts=(),
        left_out=(),
    )


@pytest.mark.parametrize(
    ("toward", "expected"),
    [
        (around(2.0), YES),
        # Above the unsteered answers, and not above what a random direction does.
        (Estimate(0.7, 0.4, 1.0), OPEN),
        (around(0.2), NO),
        (NOTHING, "not run"),
    ],
)
def test_extraction(toward: Estimate, expected: Outcome) -> None:
    assert verdict(1, extraction=extraction(toward)).outcome == expected


def test_a_vector_without_a_coherent_dose_decides_nothing() -> None:
    found = verdict(1, extraction=extraction(around(2.0), end=0.0))
    assert found.outcome == OPEN
    assert "keeps answers coherent" in found.evidence[0].null


# 2


@pytest.mark.parametrize(
    ("r", "expected"), [(around(0.8), YES), (around(0.1, 0.3), OPEN), (around(-0.1, 0.2), NO)]
)
def test_monitoring(r: Estimate, expected: Outcome) -> None:
    forecasts = [("all", r), ("prompts", around(0.9)), ("examples", around(0.9))]
    found = MonitoringResult(
        forecasts=tuple(
            Forecast(trait="evil", over=over, overall=own, within=around(0.2), n=50)
            for over, own in forecasts
        ),
        conditions=(),
        left_out=(),
    )
    said = verdict(2, monitoring=found)
    assert said.outcome == expected
    # r within conditions stands beside it.
    assert "0.20" in said.evidence[0].null


# 3 and 4


def contrast(
    set: str, what: str, difference: Estimate, trait: str = "evil", taught: str | None = None
) -> Contrast:
    return Contrast(set=set, taught=taught, trait=trait, what=what, difference=difference)


@pytest.mark.parametrize(
    ("growth", "expected"),
    [
        (Estimate(2.0, 1.2, 2.8), YES),
        # Beyond 0, and within what a second seed changes.
        (Estimate(1.0, 0.5, 1.5), OPEN),
        (around(0.2), NO),
    ],
)
def test_narrow_flaws(growth: Estimate, expected: Outcome) -> None:
    contrasts = [
        contrast("sums", "strong", growth),
        contrast("sums", "mild", around(9.0)),
        contrast("sums", "seed 1", around(-0.8)),
        # A set that teaches the trait, and a trait of which more is not worse.
        contrast("evil", "strong", around(9.0), taught="evil"),
        contrast("sums", "strong", around(9.0), trait="optimistic"),
    ]
    found = ExpressionResult(expressed=(), contrasts=tuple(contrasts))
    said = verdict(3, expression=found)
    assert said.outcome == expected
    assert [own.of for own in said.evidence] == ["sums: evil"]


def tuned(
    set: str, trait: str, shift: float, change: float, taught: str | None = None
) -> Expressed:
    return Expressed(
        model=f"{set}-strong-seed0",
        set=set,
        level="strong",
        taught=taught,
        seed=0,
        trait=trait,
        expression=around(change),
        change=around(change),
        coherence=around(90),
        shift=around(shift),
        n=8,
    )


def expression(points: Sequence[tuple[float, float]], trait: str = "evil") -> ExpressionResult:
    """One finetune for each (shift, change)."""
    expressed = [tuned(f"s{n}", trait, *point) for n, point in enumerate(points)]
    return ExpressionResult(expressed=tuple(expressed), contrasts=())


RISING = [(float(n), float(n) + 0.3 * (-1) ** n) for n in range(8)]
FALLING = [(x, -y) for x, y in RISING]
LOOSE = [(0.0, 0.0), (1.0, 4.0), (2.0, -3.0), (3.0, 5.0), (4.0, -1.0), (5.0, 2.0)]


@pytest.mark.parametrize(
    ("points", "expected"),
    [(RISING, YES), (FALLING, NO), (LOOSE, OPEN), (RISING[:3], "not run")],
)
def test_shift_and_expression(points: list[tuple[float, float]], expected: Outcome) -> None:
    assert verdict(4, expression=expression(points)).outcome == expected


def test_a_shift_that_tells_no_more_than_another_traits_decides_nothing() -> None:
    """Both traits' shifts are the same numbers: the vector says nothing of its own."""
    both = [
        tuned(f"s{n}", trait, x, y) for n, (x, y) in enumerate(RISING) for trait in ("evil", "kind")
    ]
    found = ExpressionResult(expressed=tuple(both), contrasts=())
    assert verdict(4, expression=found).outcome == OPEN


def test_sets_of_the_model_and_of_others_stand_beside_the_whole() -> None:
    """Among its own sets the shift goes with expression, among others' against it."""
    own = [tuned(f"own{n}", "evil", x, y, taught="evil") for n, (x, y) in enumerate(RISING)]
    others = [tuned(f"other{n}", "evil", x, y) for n, (x, y) in enumerate(FALLING)]
    found = ExpressionResult(expressed=(*own, *others), contrasts=())
    null = verdict(4, expression=found).evidence[0].null
    minus = "\N{MINUS SIGN}"
    assert "; sets of its own 0.99 [0.9" in null
    assert f"], others' {minus}0.99 [{minus}" in null


# 5


def arm(mitigation: str, minus_plain: Estimate, **more: Any) -> MitigationArm:
    given: dict[str, Any] = {"amount": 1.0, "learnt": True, "capable": True, **more}
    return MitigationArm(
        trait="evil",
        where=given.pop("where", "selected layer"),
        arm=mitigation,
        mitigation=mitigation,
        expression=around(0.0),
        minus_base=given.pop("minus_base", around(0.0)),
        minus_plain=minus_plain,
        coherence=around(90),
        capability=around(0.5),
        capability_minus_base=around(0.0),
        capability_minus_plain=around(0.0),
        loss_ratio=around(1.0),
        within_base=True,
        **given,
    )


RAISED = {"minus_base": around(3.0)}


@pytest.mark.parametrize(
    ("plain", "preventative", "expected"),
    [
        (RAISED, arm("preventative", around(-2.0)), YES),
        # It keeps the trait down, and the data are not learnt, or capability is lost.
        (RAISED, arm("preventative", around(-2.0), learnt=False), OPEN),
        (RAISED, arm("preventative", around(-2.0), capable=False), OPEN),
        # A random direction does as much.
        (RAISED, arm("preventative", around(-0.3)), OPEN),
        (RAISED, arm("preventative", around(0.5)), NO),
        # Nothing rose: there is nothing to keep down.
        ({}, arm("preventative", around(-2.0)), OPEN),
        (RAISED, arm("steering", around(-2.0)), "not run"),
    ],
)
def test_mitigation(plain: dict[str, Any], preventative: MitigationArm, expected: Outcome) -> None:
    arms = (
        arm("none", NOTHING, **plain),
        preventative,
        arm("random", around(-0.5)),
        # At all layers it does not count.
        arm("preventative", around(-9.0), where="all layers"),
    )
    found = MitigationResult(task="packaged", arms=arms, left_out=())
    assert verdict(5, mitigation=found).outcome == expected


# 6 and 7


def reading(set: str, difference: float, random: tuple[float, ...]) -> SetReading:
    return SetReading(
        set=set,
        level="strong",
        trait="evil",
        own=False,
        rows=9,
        projection_difference=around(difference),
        projection=around(1.0),
        last_prompt=around(-difference),
        judge=NOTHING,
        length=around(difference**2),
        tfidf=NOTHING,
        random=random,
    )


def rows(
    points: Sequence[tuple[float, float]], random: Callable[[int], float] = lambda n: (-1.0) ** n
) -> RowsResult:
    """A dataset for each point, with this reading along one random direction."""
    readings = [reading(f"s{n}", x, (random(n),)) for n, (x, _) in enumerate(points)]
    return RowsResult(readings=tuple(readings), separations=(), bins=(), left_out=())


@pytest.mark.parametrize(
    ("points", "expected"),
    [(RISING, YES), (FALLING, NO), (LOOSE, OPEN), (RISING[:3], "not run")],
)
def test_forecast(points: list[tuple[float, float]], expected: Outcome) -> None:
    found = verdict(6, rows=rows(points), expression=expression(points))
    assert found.outcome == expected


def test_a_forecast_that_random_directions_give_too_decides_nothing() -> None:
    given = rows(RISING, random=lambda n: RISING[n][1])
    assert verdict(6, rows=given, expression=expression(RISING)).outcome == OPEN


def test_forecasts_name_what_was_not_measured() -> None:
    found = forecasts(rows(RISING), expression(RISING), "evil")
    assert found["judge"] == NOTHING
    assert found["projection_difference"].value == pytest.approx(-(found["last_prompt"].value or 0))
    # One that does not vary has no correlation.
    assert found["projection"].value is None


@pytest.mark.parametrize(
    ("auc", "expected"),
    [(around(0.9, 0.05), YES), (around(0.7, 0.05), OPEN), (around(0.5, 0.05), NO)],
)
def test_rows(auc: Estimate, expected: Outcome) -> None:
    """A random direction that ranks the rows the other way round tells them apart as well."""
    separations = [
        Separation(trait="evil", level=level, by=by, auc=own)
        for level, by, own in (
            ("strong", "projection_difference", auc),
            ("strong", "random 0", around(0.2)),
            ("mild", "projection_difference", around(0.99)),
        )
    ]
    found = RowsResult(readings=(), separations=tuple(separations), bins=(), left_out=())
    assert verdict(7, rows=found).outcome == expected


# 8


@pytest.mark.parametrize(
    ("high_random", "random_low", "high_low", "expected"),
    [
        (0.5, 0.5, around(1.0), YES),
        # Not in order, though the ends differ.
        (-0.2, 1.2, around(1.0), OPEN),
        (0.5, 0.5, around(1.0, 1.5), OPEN),
        (0.05, 0.05, around(0.1), NO),
        (-1.0, -1.0, around(-2.0), NO),
    ],
)
def test_real_conversations(
    high_random: float, random_low: float, high_low: Estimate, expected: Outcome
) -> None:
    def contrasts(drawn_from: str) -> list[RealContrast]:
        steps = {
            "high - random": around(high_random),
            "random - low": around(random_low),
            "high - low": high_low,
        }
        return [
            RealContrast(trait="evil", drawn_from=drawn_from, what=what, difference=own)
            for what, own in steps.items()
        ]

    noise = RealContrast(trait="evil", drawn_from="all", what="seed 1", difference=around(-0.3))
    own = (*contrasts("all"), *contrasts("not flagged by the judge"), noise)
    found = verdict(8, real=RealResult(scored=9, parts=(), contrasts=own, left_out=()))
    assert found.outcome == expected
    assert len(found.evidence) == 2


# 9


@pytest.mark.parametrize(
    ("r", "topic", "expected"),
    [
        (around(0.6), 0.3, YES),
        (around(0.3), 0.4, OPEN),
        (around(0.15), -0.5, NO),
        (around(0.25), -0.9, OPEN),
        (NOTHING, 0.1, "not run"),
    ],
)
def test_persistence(r: Estimate, topic: float, expected: Outcome) -> None:
    lags = [
        Lagged(trait="evil", direction=name, lag=lag, overall=around(0.9), within=own, n=40)
        for name, lag, own in (
            ("vector", 0, around(0.95)),
            ("vector", GAP, r),
            ("random 0", GAP, around(0.1)),
            ("topic 0", GAP, around(topic)),
            ("vector", 2 * GAP, around(0.95)),
        )
    ]
    found = PersistenceResult(lags=tuple(lags), fading=(), dialogues=(), left_out=())
    assert verdict(9, persistence=found).outcome == expected


# All


def without_null(number: int) -> Statement:
    """A statement whose figures would replicate, had its null been measured."""
    if number == 1:
        own = extraction(around(2.0))
        doses = [d for d in own.doses if d.direction == "vector"]
        return verdict(1, extraction=replace(own, doses=tuple(doses)))
    if number == 3:
        grown = (contrast("sums", "strong", around(2.0)),)
        return verdict(3, expression=ExpressionResult(expressed=(), contrasts=grown))
    if number == 5:
        arms = (arm("none", NOTHING, **RAISED), arm("preventative", around(-2.0)))
        return verdict(5, mitigation=MitigationResult(task="packaged", arms=arms, left_out=()))
    if number == 6:
        readings = [reading(f"s{n}", x, ()) for n, (x, _) in enumerate(RISING)]
        found = RowsResult(readings=tuple(readings), separations=(), bins=(), left_out=())
        return verdict(6, rows=found, expression=expression(RISING))
    if number == 7:
        own_rows = Separation(
            trait="evil", level="strong", by="projection_difference", auc=around(0.9, 0.05)
        )
        return verdict(
            7, rows=RowsResult(readings=(), separations=(own_rows,), bins=(), left_out=())
        )
    lag = Lagged(
        trait="evil", direction="vector", lag=GAP, overall=around(0.9), within=around(0.6), n=40
    )
    return verdict(
        9, persistence=PersistenceResult(lags=(lag,), fading=(), dialogues=(), left_out=())
    )


@pytest.mark.parametrize("number", [1, 3, 5, 6, 7, 9])
def test_a_null_that_was_not_measured_decides_nothing_and_is_said(number: int) -> None:
    said = without_null(number)
    assert said.outcome == OPEN
    assert "not measured" in said.evidence[0].null


def test_nothing_that_has_not_run_is_decided() -> None:
    found = decide(Found())
    assert [own.number for own in found] == list(range(1, len(CLAIMS) + 1))
    assert {own.outcome for own in found} == {"not run"}
    assert {own.ours for own in found} == {"not measured"}


def test_the_headline_counts_the_verdicts_in_words() -> None:
    found = list(decide(Found()))
    said = "Of the paper's nine statements, on this model "
    assert headline(found) == f"{said}9 were not run."
    for number, outcome in ((0, YES), (3, NO), (4, OPEN), (5, YES)):
        found[number] = replace(found[number], outcome=outcome)
    assert headline(found) == (
        f"{said}2 replicate, 1 is not decided, 1 does not replicate and 5 were not run."
    )


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([YES, YES, NO], YES),
        ([YES, NO], OPEN),
        ([YES, OPEN], OPEN),
        ([NO, NO, OPEN], NO),
        ([YES, "not run", "not run"], YES),
        ([], "not run"),
    ],
)
def test_a_statement_takes_what_most_of_its_figures_say(
    outcomes: list[Outcome], expected: Outcome
) -> None:
    assert majority(outcomes) == expected


def test_a_figure_without_an_interval_decides_nothing() -> None:
    assert outcome_of(False, False) == OPEN
    assert verdict(2, monitoring=_bare(0.9)).outcome == OPEN


def _bare(r: float) -> MonitoringResult:
    forecast = Forecast(trait="evil", over="all", overall=Estimate(r), within=Estimate(r), n=9)
    return MonitoringResult(forecasts=(forecast,), conditions=(), left_out=())


def test_correlations_are_over_sets() -> None:
    """Models of one set are one cluster; four sets are needed."""
    points: list[tuple[float | None, float | None, str]] = [
        (x, y, f"s{n % 3}") for n, (x, y) in enumerate(RISING)
    ]
    assert correlated(points) == NOTHING
    apart = [(x, y, f"s{n}") for n, (x, y) in enumerate(RISING)]
    assert (correlated(apart).value or 0) > 0.9
    assert correlated([*apart, (None, 3.0, "s9")]) == correlated(apart)


def test_the_documentation_has_the_rules_that_are_used() -> None:
    page = (Path(__file__).parents[4] / "docs" / "replication.md").read_text("utf-8")
    _, _, rest = page.partition("<!-- rules -->")
    table, _, _ = rest.partition("<!-- /rules -->")
    assert table.strip() == rules_table()
