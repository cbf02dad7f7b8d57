"""A judge of known quality gets the figures it deserves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personavec import TraitSpec, results
from personavec.cli.main import main
from personavec.errors import DataError, SpecError
from personavec.judges import Answer, Score, known_answers
from personavec.judges.results import (
    CheckResults,
    ReportedCalibration,
    Undefined,
    UnreportedCalibration,
)
from personavec.traits import bundled_traits, load_trait

#: Traits whose report half was written anew, since the judge did worst on them.
TWICE = ["hallucinating", "humorous", "optimistic"]


class ByText:
    """Scores an answer by the number it ends in; group of 7, so that groups do not matter."""

    name, group = "by text", 7

    def __init__(self, shift: float = 0.0):
        self.shift = shift

    def identity(self) -> dict[str, Any]:
        return {"judge": self.name}

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        return [self._one(answer.response) for answer in answers]

    def _one(self, text: str) -> Score:
        if text == "refuses":
            return Score("refusal")
        return Score("scored", trait_score=min(100.0, float(text) + self.shift), coherence=90.0)


def make_spec(checks: list[tuple[str, str, bool]]) -> TraitSpec:
    return TraitSpec.model_validate(
        {
            "name": "odd",
            "description": "Being odd.",
            "instruction": [{"pos": "Odd.", "neg": "Even."}],
            "questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "D?"]},
            "checks": [{"question": q, "answer": a, "shows": s} for q, a, s in checks],
        }
    )


def overlapping(n: int = 12) -> TraitSpec:
    """Scores 40 to 95 for what shows the trait and 5 to 60 for what does not."""
    rows = []
    for i in range(n):
        rows += [(f"Q{i}?", str(40 + 5 * i), True), (f"Q{i}?", str(5 + 5 * i), False)]
    return make_spec(rows)


def test_every_second_question_is_for_tuning() -> None:
    spec = make_spec([("A", "1", True), ("B", "2", True), ("A", "3", False), ("C", "4", True)])
    assert [half for _, half in known_answers.halves(spec)] == ["tune", "report", "tune", "tune"]
    assert [c.answer for c, _ in known_answers.halves(spec, "report")] == ["2"]
    both = [*known_answers.answers(spec, "tune"), *known_answers.answers(spec, "report")]
    assert len(both) == len(spec.checks)


def test_figures_equal_counting_by_hand() -> None:
    spec = overlapping()
    found = known_answers.run(ByText(), spec)
    for half in ("tune", "report"):
        rows = [c for c, which in known_answers.halves(spec) if which == half]
        pos = [float(c.answer) for c in rows if c.shows]
        neg = [float(c.answer) for c in rows if not c.shows]
        wins = np.mean([[(p > n) + (p == n) / 2 for n in neg] for p in pos])
        right = np.mean([(float(c.answer) > 50) == c.shows for c in rows])
        summary = found.halves[half]
        assert summary.auc.value == pytest.approx(wins)
        assert summary.agreement.value == pytest.approx(right)
        assert summary.auc.low <= wins <= summary.auc.high
        assert (summary.n, summary.questions) == (12, 6)
    assert found.threshold is not None
    above = found.threshold.trait_score
    assert 40 < above < 60
    wrong = {(row.answer, row.shows) for row in found.wrong}
    assert wrong == {
        (c.answer, c.shows) for c in spec.checks if (float(c.answer) > above) != c.shows
    }
    assert {("40", True), ("60", False)} <= wrong
    assert len(found.scores) == 24


def test_a_calibration_moves_a_shifted_judge_back_and_is_reported_on_the_other_half() -> None:
    """Forty points too high, most verdicts at 50 are wrong; ranks stay as they are."""
    spec = overlapping()
    straight, shifted = known_answers.run(ByText(), spec), known_answers.run(ByText(40), spec)
    calibration = shifted.calibration
    assert isinstance(calibration, ReportedCalibration)
    assert calibration.fitted_on == "tune"
    before, after = calibration.before, calibration.after
    assert before.agreement.value < 0.7
    assert after.agreement.value >= straight.halves["report"].agreement.value - 0.1
    assert after.brier.value < before.brier.value


def test_a_calibration_is_fitted_on_the_tune_half_alone() -> None:
    """Turning all verdicts of the report half around changes nothing of it."""
    spec = overlapping()
    turned = make_spec(
        [
            (c.question, c.answer, c.shows == (half == "tune"))
            for c, half in known_answers.halves(spec)
        ]
    )
    a, b = (known_answers.run(ByText(), s).calibration for s in (spec, turned))
    assert isinstance(a, ReportedCalibration)
    assert isinstance(b, ReportedCalibration)
    assert (a.slope, a.intercept) == (b.slope, b.intercept)
    assert a.after != b.after


def test_a_calibration_is_monotone_and_finite_where_the_sides_do_not_overlap() -> None:
    rows = [(f"Q{i}?", str(80 if s else 20), s) for i in range(6) for s in (True, False)]
    spec = make_spec(rows)
    found = known_answers.run(ByText(), spec).calibration
    assert found is not None
    curve = known_answers.JudgeCalibration(found.slope, found.intercept)
    values = [curve(raw) for raw in range(0, 101, 10)]
    assert values == sorted(values)
    assert 0 < values[0] < 50 < values[-1] < 100


def test_one_half_alone_is_judged_alone() -> None:
    found = known_answers.run(ByText(), overlapping(), "tune")
    assert list(found.halves) == ["tune"]
    assert isinstance(found.calibration, UnreportedCalibration)
    assert found.calibration.why_not_reported
    assert {row.half for row in found.scores} == {"tune"}


def test_what_is_not_scored_is_counted_and_shown() -> None:
    spec = make_spec([("A", "refuses", True), ("B", "80", True), ("C", "20", False)])
    found = known_answers.run(ByText(), spec)
    assert found.halves["tune"].states == {"refusal": 1, "scored": 1}
    assert [row.answer for row in found.not_scored] == ["refuses"]
    assert isinstance(found.halves["tune"].auc, Undefined)
    assert found.halves["tune"].auc.why
    with pytest.raises(DataError, match="scored none of 1 check"):
        known_answers.run(ByText(), make_spec([("A", "refuses", True)]))


def test_a_spec_without_checks_says_how_to_write_them() -> None:
    with pytest.raises(SpecError, match="has no checks"):
        known_answers.run(ByText(), make_spec([]))


@pytest.mark.parametrize("name", bundled_traits())
def test_bundled_traits_have_checks_that_do_not_change_their_hash(name: str) -> None:
    spec, _ = load_trait(name)
    verdicts: dict[str, list[bool]] = {}
    for check in spec.checks:
        verdicts.setdefault(check.question, []).append(check.shows)
    assert len(verdicts) == (60 if name in TWICE else 30)
    assert all(sorted(found) == [False, True] for found in verdicts.values())
    assert spec.model_copy(update={"checks": ()}).hash == spec.hash
    # What shows the judge its task is no test of it; the report half must be free of it.
    examples = {e.question for pair in spec.judge_instruction for e in pair.examples}
    judged = known_answers.halves(spec)
    assert not examples & {check.question for check, _ in judged}
    assert sum(half == "report" for _, half in judged) == (60 if name in TWICE else 30)
    assert sum(half == "tune" for _, half in judged) >= 18


@pytest.mark.parametrize("name", TWICE)
def test_half_of_the_report_half_are_near_misses_where_the_judge_is_weak(name: str) -> None:
    spec, _ = load_trait(name)
    report = [check for check, half in known_answers.halves(spec) if half == "report"]
    for shows in (False, True):
        near = [check.near_miss for check in report if check.shows == shows]
        assert sum(near) >= 0.4 * len(near)
    assert sum(check.near_miss for check in report) >= len(report) / 2
    lengths = [len(check.answer.split()) for check in report]
    assert min(lengths) < 12
    assert max(lengths) > 70


def test_a_check_may_name_its_half() -> None:
    spec = make_spec([("A", "1", True), ("B", "2", True), ("C", "3", True), ("D", "4", True)])
    named = [check.model_copy(update={"half": "report"}) for check in spec.checks[:1]]
    spec = spec.model_copy(update={"checks": (*named, *spec.checks[1:])})
    halves = [half for _, half in known_answers.halves(spec)]
    assert halves == ["report", "report", "tune", "report"]


def test_questions_of_the_judges_examples_are_left_out_and_move_no_other() -> None:
    spec = make_spec(
        [("AA?", "1", True), ("BB?", "2", True), ("CC?", "3", False), ("DD?", "4", True)]
    )
    pair = {"pos": "P", "neg": "N", "examples": [{"question": "CC?", "pos": "p", "neg": "n"}]}
    spec = TraitSpec.model_validate({**spec.model_dump(), "judge_instruction": [pair]})
    found = [(check.question, half) for check, half in known_answers.halves(spec)]
    assert found == [("AA?", "tune"), ("BB?", "report"), ("DD?", "report")]
    assert known_answers.run(ByText(), spec).in_examples == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--half", "odd"], 2, "use tune or report"),
        (["--judge", "people"], 2, "use contrast, rubric or api"),
        (["--judge", "api"], 2, "--judge api needs --api-model"),
        (["--api-model", "gpt"], 2, "need --judge api"),
        (["--judge", "api", "--api-model", "gpt", "--judge-model", "x"], 2, "use --api-model"),
        (["--judge", "api", "--api-model", "gpt", "--half", "tune"], 1, "API key: set $NO_KEY"),
        (["--judge", "api", "--api-model", "gpt", "--api-base", "gpt.com"], 2, "is not a URL"),
        (["--dry-run"], 2, "calls no endpoint; use --judge api"),
        (
            [
                "--judge",
                "api",
                "--api-model",
                "gpt",
                "--dry-run",
                "--half",
                "tune",
                "--api-price",
                "1",
            ],
            2,
            "give two prices",
        ),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["judges", "check", "--trait", "evil", "--api-key-env", "NO_KEY", *arguments])
    captured = capsys.readouterr()
    assert ended.value.code == code
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_check_writes_what_it_prints(
    server: Any,
    chat_completion: Any,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scripted judge scores 90 what holds an exclamation mark and 10 the rest."""
    monkeypatch.chdir(tmp_path)

    def reply(body: dict[str, Any], times: int) -> Any:
        found = "90" if "!" in body["messages"][0]["content"] else "10"
        return chat_completion(found, [{found: 0.9, "50": 0.1}])

    server.reply = reply
    spec = make_spec([(f"Q{i}?", "Hey!" if s else "Hey.", s) for i in range(4) for s in (1, 0)])
    spec = spec.model_copy(update={"rubric": "{question} {answer}"})
    (tmp_path / "odd.json").write_text(spec.model_dump_json())
    command = ["judges", "check", "--trait", "odd.json", "--judge", "api", "--api-model", "m"]
    with pytest.raises(SystemExit):
        main([*command, "--api-base", server.url, "--cache", "answers", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["halves"]["report"]["auc"]["value"] == 1
    assert found["judge"] == {"judge": "api", "endpoint": server.url, "model": "m", "samples": 8}
    written = json.loads((tmp_path / found["out"]).read_text())
    assert written == {k: v for k, v in found.items() if k != "out"}
    read = results.read(CheckResults, tmp_path / found["out"])
    assert read.halves["report"].auc.value == 1
    assert results.dump(read) == written
    with pytest.raises(SystemExit):
        main([*command, "--api-base", server.url, "--cache", "answers"])
    assert "AUC" in capsys.readouterr().out
