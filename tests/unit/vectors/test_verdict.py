"""The verdict on a vector, as its file and the commands say it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from personavec.cli import app
from personavec.extract import vector_report
from personavec.model import terminal
from personavec.vectors import STABLE, TELLS_APART, bundled_vectors, bundled_verdicts, load_vector
from personavec.vectors.verdict import verdict_of

RELIABLE = {
    "split_half_cosine": {"value": 0.8, "low": 0.7, "high": 0.9},
    "separability_auc": {"value": 0.9, "low": 0.8, "high": 0.95},
}
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
            "failed: it rises; a",
        ),
        # Files in which the verdict was of steering alone are held to their reliability too.
        ({"verdict": "passed", **RELIABLE}, "passed"),
        ({"passed": True, **RELIABLE}, "passed"),
        ({"verdict": "not decided", **RELIABLE}, "not decided: steering with it"),
        ({"verdict": "failed", "passed": True, **RELIABLE}, "failed: steering with it"),
        ({"passed": False, **RELIABLE}, "failed: steering with it"),
        ({"verdict": "passed", **RELIABLE, **UNSTABLE}, f"failed: {STABLE.name}"),
        ({"verdict": "passed", **UNSTABLE}, f"failed: {STABLE.name}"),
        ({"verdict": "passed"}, f"not decided: {STABLE.name}; {TELLS_APART.name}"),
        (
            {"verdict": "passed", **RELIABLE, "split_half_cosine": {"low": "x"}},
            f"not decided: {STABLE.name}",
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
    assert found.verdict.words == "not decided: it is stable"
    assert found.verdict.words in vector_report(found.trait, found.layer, found.meta)
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
