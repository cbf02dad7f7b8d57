"""How far a judge can be trusted: its scores for a spec's checks, whose verdict is known.

The checks are split by question: the tune half is for choosing and fitting, the report half for
reporting what was chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from personavec.errors import DataError, SpecError
from personavec.judges.base import Answer, Judge, Score
from personavec.judges.control_notes import readers, spec_notes
from personavec.judges.rubric import judge_notes
from personavec.progress import Progress
from personavec.stats import Interval, auc_interval, clustered_bootstrap, mean
from personavec.traits import Check, TraitSpec
from personavec.wording import plural

Half = Literal["tune", "report"]
HALVES: tuple[Half, ...] = ("tune", "report")


@dataclass(frozen=True)
class Checked:
    """A check with its half and what the judge says of it."""

    check: Check
    half: Half
    score: Score

    @property
    def raw(self) -> float:
        """What ranks it: the log-odds where there are any, since scores near 0 and 100 tie."""
        log_odds, score = self.score.log_odds, self.score.trait_score
        assert score is not None
        return score if log_odds is None else log_odds

    @property
    def is_right(self) -> bool:
        assert self.score.trait_score is not None
        return (self.score.trait_score > 50) == self.check.shows


@dataclass(frozen=True)
class Calibration:
    """Platt's: 100 * sigmoid(slope * raw + intercept).

    Two numbers, since a half holds too few answers for a free curve (isotonic regression) not to
    follow their noise; strictly monotone, so ranks and AUC stay as they are.
    """

    slope: float
    intercept: float

    def __call__(self, raw: float) -> float:
        return float(50 * (1 + np.tanh((self.slope * raw + self.intercept) / 2)))


def halves(spec: TraitSpec, half: Half | None = None) -> list[tuple[Check, Half]]:
    """A spec's checks with their half: questions in their order, the first to tune, the second
    to report, and so on.

    Questions of the judge pairs' examples are left out: those answers have told the contrast
    judge their verdict. Raises SpecError where there are no checks.
    """
    if not spec.checks:
        raise SpecError(
            f"trait '{spec.name}' has no checks; write answers with a known verdict under "
            "'checks' (question, answer, shows)"
        )
    order = {q: i for i, q in enumerate(dict.fromkeys(check.question for check in spec.checks))}
    found: list[tuple[Check, Half]] = [
        (check, HALVES[order[check.question] % 2])
        for check in spec.checks
        if check.question not in _examples(spec)
    ]
    return [(check, which) for check, which in found if half in (None, which)]


def _examples(spec: TraitSpec) -> set[str]:
    return {example.question for pair in spec.judge_instruction for example in pair.examples}


def answers(spec: TraitSpec, half: Half | None = None) -> list[Answer]:
    """The checks as answers to judge."""
    return [Answer(check.question, check.answer) for check, _ in halves(spec, half)]


def run(
    judge: Judge, spec: TraitSpec, half: Half | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Score the checks and say how well the judge tells them apart, by half.

    With both halves, a calibration is fitted on the tune half and reported on the other. Raises
    SpecError for a spec without checks, DataError when none of them could be scored.
    """
    progress = progress or Progress()
    chosen, asked = halves(spec, half), answers(spec, half)
    scores: list[Score] = []
    with progress.bar("checking", len(asked)) as bar:
        for start in range(0, len(asked), judge.group):
            group = asked[start : start + judge.group]
            scores += judge.score(spec, group)
            bar.advance(len(group))
    checked = [
        Checked(check, which, score) for (check, which), score in zip(chosen, scores, strict=True)
    ]
    scored = [c for c in checked if c.score.state == "scored"]
    if not scored:
        states = ", ".join(f"{n} {state}" for state, n in _states(checked).items())
        why = next((c.score.why for c in checked if c.score.why), "no reason given")
        raise DataError(
            f"the judge scored none of {plural(len(checked), 'check')} ({states}: {why}); "
            "use another judge"
        )
    calibration = fit([c for c in scored if c.half == "tune"])
    return {
        "trait": spec.name,
        "judge": judge.identity(),
        "notes": [*judge_notes(judge), *spec_notes([spec], readers(judge))],
        "in_examples": len(spec.checks) - len(halves(spec)),
        "halves": {
            which: _summary([c for c in checked if c.half == which])
            for which in HALVES
            if half in (None, which)
        },
        "calibration": _calibrated(calibration, [c for c in scored if c.half == "report"]),
        "wrong": [_row(c) for c in scored if not c.is_right],
        "not_scored": [_row(c) for c in checked if c.score.state != "scored"],
        "scores": [_row(c) for c in checked],
    }


def fit(checked: Sequence[Checked]) -> Calibration | None:
    """A calibration from scored checks; None where one side is missing."""
    from sklearn.linear_model import LogisticRegression

    shows = [c.check.shows for c in checked]
    if len(set(shows)) < 2:
        return None
    raw = np.array([c.raw for c in checked])
    # Standardised, so that the penalty, which keeps the slope finite where the two sides do not
    # overlap, means the same for log-odds and for scores from 0 to 100.
    middle, scale = float(raw.mean()), float(raw.std()) or 1.0
    model = LogisticRegression().fit(((raw - middle) / scale)[:, None], shows)
    slope = float(model.coef_[0, 0]) / scale
    return Calibration(slope, float(model.intercept_[0]) - slope * middle)


def _summary(checked: Sequence[Checked]) -> dict[str, Any]:
    scored = [c for c in checked if c.score.state == "scored"]
    masses = [c.score.mass for c in scored if c.score.mass is not None]
    return {
        "n": len(checked),
        "questions": len({c.check.question for c in checked}),
        "states": _states(checked),
        "thoughts": sum(c.score.had_thought for c in checked),
        "mean_mass": mean(np.array(masses)) if masses else None,
        "auc": _auc(scored),
        "agreement": _agreement(scored, [c.is_right for c in scored]),
    }


def _calibrated(
    calibration: Calibration | None, report: Sequence[Checked]
) -> dict[str, Any] | None:
    """The calibration, and what it does to the half that it was not fitted on."""
    if calibration is None:
        return None
    found: dict[str, Any] = {"fitted_on": "tune", **asdict(calibration)}
    if not report:
        return {**found, "why_not_reported": "the report half was not judged"}
    shows = np.array([c.check.shows for c in report], float)
    for name, values in (
        ("before", [c.score.trait_score for c in report]),
        ("after", [calibration(c.raw) for c in report]),
    ):
        scores = np.array(values, float)
        right = (scores > 50) == (shows > 0)
        brier = (scores / 100 - shows) ** 2
        found[name] = {
            "agreement": _agreement(report, right.tolist()),
            "brier": _interval(lambda brier=brier: clustered_bootstrap(brier, _questions(report))),
        }
    return found


def _auc(scored: Sequence[Checked]) -> dict[str, Any]:
    pos = [c for c in scored if c.check.shows]
    neg = [c for c in scored if not c.check.shows]
    return _interval(
        lambda: auc_interval(
            [c.raw for c in pos], [c.raw for c in neg], _questions(pos), _questions(neg)
        )
    )


def _agreement(checked: Sequence[Checked], right: Sequence[bool]) -> dict[str, Any]:
    return _interval(lambda: clustered_bootstrap(np.array(right, float), _questions(checked)))


def _interval(compute: Any) -> dict[str, Any]:
    """A number with its interval, or why there is none."""
    try:
        found: Interval = compute()
    except DataError as error:
        return {"value": None, "low": None, "high": None, "why": str(error)}
    return asdict(found)


def _questions(checked: Sequence[Checked]) -> list[str]:
    return [c.check.question for c in checked]


def _states(checked: Sequence[Checked]) -> dict[str, int]:
    return dict(Counter(c.score.state for c in checked))


def _row(checked: Checked) -> dict[str, Any]:
    score = checked.score
    return {
        **checked.check.model_dump(),
        "half": checked.half,
        "state": score.state,
        "trait_score": score.trait_score,
        "log_odds": score.log_odds,
        "coherence": score.coherence,
        "spread": score.spread,
        "mass": score.mass,
        "why": score.why,
    }
