"""Tests of a judge on a spec's checks, answers whose verdict is known.

The checks are split by question: the tune half is for choosing and fitting, the report half for
reporting the final choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personavec.errors import DataError, SpecError
from personavec.judges.api_rubric import judge_notes
from personavec.judges.base import Answer, Judge, Score
from personavec.judges.config import Half
from personavec.judges.contrast import trait_score
from personavec.judges.control_notes import chat_formats, spec_notes
from personavec.judges.results import (
    CalibrationQuality,
    CheckedAnswer,
    CheckResults,
    Figure,
    HalfResults,
    ReportedCalibration,
    Undefined,
    UnreportedCalibration,
    estimate_or_reason,
)
from personavec.judges.thresholds import DEFAULT, Threshold, bundled_threshold
from personavec.progress import Progress
from personavec.stats import auc_interval, clustered_bootstrap, mean
from personavec.traits import Check, TraitSpec
from personavec.wording import plural

HALVES: tuple[Half, ...] = ("tune", "report")


@dataclass(frozen=True)
class Checked:
    """A check with its half and its score."""

    check: Check
    half: Half
    score: Score

    @property
    def is_scored(self) -> bool:
        return self.score.state == "scored"

    @property
    def raw(self) -> float:
        """What ranks it: the log-odds if the judge gives them, since scores near 0 and 100 tie."""
        log_odds, score = self.score.log_odds, self.score.trait_score
        assert score is not None
        return score if log_odds is None else log_odds

    def is_right(self, above: float) -> bool:
        """Whether the verdict is right if what scores above `above` shows the trait."""
        assert self.score.trait_score is not None
        return (self.score.trait_score > above) == self.check.shows


@dataclass(frozen=True)
class JudgeCalibration:
    """Platt scaling: 100 * sigmoid(slope * raw + intercept).

    It has two parameters, since a free curve (isotonic regression) would follow the noise of so
    few answers. It is strictly monotone and leaves ranks and AUC unchanged.
    """

    slope: float
    intercept: float

    def __call__(self, raw: float) -> float:
        """The calibrated score, 0 to 100."""
        return float(50 * (1 + np.tanh((self.slope * raw + self.intercept) / 2)))


def run(
    judge: Judge, spec: TraitSpec, half: Half | None = None, *, progress: Progress | None = None
) -> CheckResults:
    """Score the checks and measure, by half, how well the judge tells them apart.

    A calibration and a threshold are fitted on the tune half and tested on the report half. Where
    the tune half is not judged, the threshold is the bundled one, if there is one. Raises SpecError
    for a spec without checks, DataError when none of them could be scored.
    """
    checked = score_checks(judge, spec, half, progress or Progress())
    scored = [c for c in checked if c.is_scored]
    if not scored:
        raise _none_scored(checked)
    tune = [c for c in scored if c.half == "tune"]
    calibration = fit(tune)
    bundled = bundled_threshold(spec, judge.identity())
    threshold = _threshold(calibration, tune) if tune else bundled
    above = DEFAULT if threshold is None else threshold.trait_score
    return CheckResults(
        trait=spec.name,
        judge=judge.identity(),
        notes=[*judge_notes(judge), *spec_notes([spec], chat_formats(judge))],
        in_examples=len(spec.checks) - len(halves(spec)),
        halves={
            which: _summary([c for c in checked if c.half == which], threshold)
            for which in HALVES
            if half in (None, which)
        },
        threshold=threshold,
        calibration=_tested(calibration, [c for c in scored if c.half == "report"]),
        wrong=[_record(c) for c in scored if not c.is_right(above)],
        not_scored=[_record(c) for c in checked if not c.is_scored],
        scores=[_record(c) for c in checked],
    )


def halves(spec: TraitSpec, half: Half | None = None) -> list[tuple[Check, Half]]:
    """The checks of one half or both, each with its half.

    A check may name its half; otherwise questions belong to the tune half and the report half in
    turn. Questions of the judge pairs' examples are left out, since the contrast judge has seen
    their verdict. Raises SpecError for a spec without checks.
    """
    if not spec.checks:
        raise SpecError(
            f"trait '{spec.name}' has no checks; write answers with a known verdict under "
            "'checks' (question, answer, shows)"
        )
    order = {q: i for i, q in enumerate(dict.fromkeys(check.question for check in spec.checks))}
    found: list[tuple[Check, Half]] = [
        (check, check.half or HALVES[order[check.question] % 2])
        for check in spec.checks
        if check.question not in _examples(spec)
    ]
    return [(check, which) for check, which in found if half in (None, which)]


def _examples(spec: TraitSpec) -> set[str]:
    return {example.question for pair in spec.judge_instruction for example in pair.examples}


def answers(spec: TraitSpec, half: Half | None = None) -> list[Answer]:
    """The checks as answers to judge."""
    return [Answer(check.question, check.answer) for check, _ in halves(spec, half)]


def score_checks(
    judge: Judge, spec: TraitSpec, half: Half | None, progress: Progress
) -> list[Checked]:
    """Every check of the half with the judge's score."""
    asked = answers(spec, half)
    scores: list[Score] = []
    with progress.bar("checking", len(asked)) as bar:
        for start in range(0, len(asked), judge.group):
            group = asked[start : start + judge.group]
            scores += judge.score(spec, group)
            bar.advance(len(group))
    return [
        Checked(check, which, score)
        for (check, which), score in zip(halves(spec, half), scores, strict=True)
    ]


def _none_scored(checked: Sequence[Checked]) -> DataError:
    states = ", ".join(f"{n} {state}" for state, n in _states(checked).items())
    why = next((c.score.why for c in checked if c.score.why), "no reason given")
    return DataError(
        f"the judge scored none of {plural(len(checked), 'check')} ({states}: {why}); "
        "use another judge"
    )


def fit(checked: Sequence[Checked]) -> JudgeCalibration | None:
    """A calibration from scored checks; None if they all have the same verdict."""
    from sklearn.linear_model import LogisticRegression

    shows = [c.check.shows for c in checked]
    if len(set(shows)) < 2:
        return None
    raw = np.array([c.raw for c in checked])
    # The penalty keeps the slope finite where the two sides do not overlap. Standardised, it means
    # the same for log-odds and for scores from 0 to 100.
    middle, scale = float(raw.mean()), float(raw.std()) or 1.0
    model = LogisticRegression().fit(((raw - middle) / scale)[:, None], shows)
    slope = float(model.coef_[0, 0]) / scale
    return JudgeCalibration(slope, float(model.intercept_[0]) - slope * middle)


def _threshold(calibration: JudgeCalibration | None, tune: Sequence[Checked]) -> Threshold | None:
    """Where the calibration is 50; None for a judge that ranks the answers the wrong way round."""
    if calibration is None or calibration.slope <= 0:
        return None
    turn = -calibration.intercept / calibration.slope
    if all(c.score.log_odds is None for c in tune):
        return Threshold(trait_score=min(100.0, max(0.0, turn)), answers=len(tune))
    return Threshold(trait_score=trait_score(turn), log_odds=turn, answers=len(tune))


def _tested(
    calibration: JudgeCalibration | None, report: Sequence[Checked]
) -> ReportedCalibration | UnreportedCalibration | None:
    """The calibration with its effect on the report half, which it was not fitted on."""
    if calibration is None:
        return None
    slope, intercept = calibration.slope, calibration.intercept
    if not report:
        return UnreportedCalibration(slope=slope, intercept=intercept)
    return ReportedCalibration(
        slope=slope,
        intercept=intercept,
        before=_quality(report, [c.score.trait_score for c in report]),
        after=_quality(report, [calibration(c.raw) for c in report]),
    )


def _quality(report: Sequence[Checked], values: Sequence[float | None]) -> CalibrationQuality:
    """Agreement and Brier score of trait scores, 0 to 100."""
    scores = np.array(values, float)
    shows = np.array([c.check.shows for c in report], float)
    brier = (scores / 100 - shows) ** 2
    return CalibrationQuality(
        agreement=_agreement(report, ((scores > 50) == (shows > 0)).tolist()),
        brier=estimate_or_reason(lambda: clustered_bootstrap(brier, _questions(report))),
    )


def _summary(checked: Sequence[Checked], threshold: Threshold | None) -> HalfResults:
    scored = [c for c in checked if c.is_scored]
    masses = [c.score.mass for c in scored if c.score.mass is not None]
    return HalfResults(
        n=len(checked),
        questions=len({c.check.question for c in checked}),
        states=_states(checked),
        thoughts=sum(c.score.had_thought for c in checked),
        mean_mass=mean(np.array(masses)) if masses else None,
        auc=_auc(scored),
        agreement=_agreement(scored, [c.is_right(DEFAULT) for c in scored]),
        agreement_at_threshold=Undefined(why="no threshold was fitted")
        if threshold is None
        else _agreement(scored, [c.is_right(threshold.trait_score) for c in scored]),
    )


def _auc(scored: Sequence[Checked]) -> Figure:
    pos = [c for c in scored if c.check.shows]
    neg = [c for c in scored if not c.check.shows]
    return estimate_or_reason(
        lambda: auc_interval(
            [c.raw for c in pos], [c.raw for c in neg], _questions(pos), _questions(neg)
        )
    )


def _agreement(checked: Sequence[Checked], right: Sequence[bool]) -> Figure:
    return estimate_or_reason(
        lambda: clustered_bootstrap(np.array(right, float), _questions(checked))
    )


def _questions(checked: Sequence[Checked]) -> list[str]:
    return [c.check.question for c in checked]


def _states(checked: Sequence[Checked]) -> dict[str, int]:
    return dict(Counter(c.score.state for c in checked))


def _record(checked: Checked) -> CheckedAnswer:
    check, score = checked.check, checked.score
    return CheckedAnswer(
        question=check.question,
        answer=check.answer,
        shows=check.shows,
        half=checked.half,
        near_miss=check.near_miss,
        state=score.state,
        trait_score=score.trait_score,
        log_odds=score.log_odds,
        coherence=score.coherence,
        spread=score.spread,
        mass=score.mass,
        why=score.why,
    )
