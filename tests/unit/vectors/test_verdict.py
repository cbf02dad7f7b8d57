"""The verdict on a vector, as its file and the commands say it."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from personavec.cli import app
from personavec.extract import vector_report
from personavec.model import terminal
from personavec.vectors import (
    TELLS_APART,
    bundled_vectors,
    bundled_verdicts,
    load_vector,
    said_check,
)
from personavec.vectors.verdict import verdict_of

RELIABLE = {
    "split_half_cosine": {"value": 0.8, "low": 0.7, "high": 0.9},
    "separability_auc": {"value": 0.9, "low": 0.8, "high": 0.95},
}
UNSURE = "other questions may give another direction"
SHOW = "answers that show the trait from those that do not"
UNSTABLE = {"split_half_cosine": {"value": 0.41, "low": 0.3, "high": 0.5}}


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"verdict": "passed", "checks": {"it rises": "passed"}}, "passed"),
        (
            {
                "verdict": "failed",
                "checks": {"it rises": "failed", "it is stable": "not decided", "a": "failed"},
            },
            "failed: the check 'it rises' failed; the check 'a' failed",
        ),
        # Files in which the verdict was of steering alone are held to their reliability too.
        ({"verdict": "passed", **RELIABLE}, "passed"),
        ({"passed": True, **RELIABLE}, "passed"),
        ({"verdict": "not decided", **RELIABLE}, "not decided: steering with it may not work"),
        (
            {"verdict": "failed", "passed": True, **RELIABLE},
            "failed: steering with it does not work",
        ),
        ({"passed": False, **RELIABLE}, "failed: steering with it does not work"),
        (
            {"verdict": "passed", **RELIABLE, **UNSTABLE},
            "failed: other questions give another direction",
        ),
        ({"verdict": "passed", **UNSTABLE}, "failed: other questions give another direction"),
        ({"verdict": "passed"}, f"not decided: {UNSURE}; projections may not tell {SHOW}"),
        (
            {"verdict": "passed", **RELIABLE, "split_half_cosine": {"low": "x"}},
            f"not decided: {UNSURE}",
        ),
        # Not verdicts.
        ({"verdict": "passed", **RELIABLE, "checks": {"it rises": ["passed"]}}, "passed"),
        ({"passed": "yes"}, None),
        ({"verdict": ["passed"]}, None),
        ({}, None),
    ],
)
def test_the_verdict_in_a_file(meta: dict[str, Any], expected: str | None) -> None:
    found = verdict_of(meta)
    assert (found and found.words) == expected


def test_a_check_that_did_not_pass_is_not_read_as_if_it_had() -> None:
    """Its name, which says what was asked for, stands alone only where it holds."""
    assert said_check(TELLS_APART.name, "passed") == TELLS_APART.name
    assert said_check(TELLS_APART.name, "failed") == f"projections do not tell {SHOW}"
    assert said_check(TELLS_APART.name, "not decided") == f"projections may not tell {SHOW}"


def test_a_vector_keeps_its_verdict_and_its_page_says_it(tmp_path: Path) -> None:
    for name in bundled_vectors():
        found = load_vector(name).verdict
        assert found is not None
        assert found.words == bundled_verdicts()[name]
    vector = load_vector("evil")
    checks = {"it rises": "passed", "it is stable": "not decided"}
    vector = replace(vector, meta={**vector.meta, "verdict": "not decided", "checks": checks})
    found = load_vector(vector.save(tmp_path))
    assert found.verdict is not None
    assert found.verdict.words == "not decided: the check 'it is stable' is not decided"
    report = unescape(vector_report(found.trait, found.layer, found.meta))
    assert found.verdict.words in report
    assert "not decided" not in vector_report(found.trait, found.layer, {})


def test_commands_say_the_verdict_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = {**bundled_verdicts(), "evil": "not decided: it rises", "humorous": "failed"}
    monkeypatch.setattr("personavec.vectors.bundled_verdicts", lambda: verdicts)
    app.run(["traits", "list", "--json"])
    assert json.loads(capsys.readouterr().out)["verdicts"] == verdicts
    app.run(["traits", "list"])
    listed = capsys.readouterr().out
    assert "not decided" in " ".join(listed.split())
    assert "failed" in listed
    app.run(["traits", "show", "evil"])
    assert "bundled vector: not decided: it rises\n" in capsys.readouterr().out
    app.run(["traits", "show", "evil", "--json"])
    assert json.loads(capsys.readouterr().out)["verdict"] == "not decided: it rises"
    assert "evil (not decided: it rises), " in terminal.said_verdicts(verdicts)
    assert terminal.said_verdicts({}) == "none"
