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
from personavec.vectors import bundled_vectors, bundled_verdicts, load_vector
from personavec.vectors.verdict import verdict_of


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"verdict": "not decided"}, "not decided"),
        ({"verdict": "failed", "passed": True}, "failed"),
        ({"passed": True}, "passed"),  # an earlier file
        ({"passed": False}, "failed"),
        ({"passed": "yes"}, None),
        ({"verdict": ["passed"]}, None),
        ({}, None),
    ],
)
def test_the_verdict_in_a_file(meta: dict[str, Any], expected: str | None) -> None:
    assert verdict_of(meta) == expected


def test_a_vector_keeps_its_verdict_and_its_page_says_it(tmp_path: Path) -> None:
    for name in bundled_vectors():
        assert load_vector(name).verdict == bundled_verdicts()[name]
    vector = load_vector("evil")
    vector = replace(vector, meta={**vector.meta, "verdict": "not decided"})
    found = load_vector(vector.save(tmp_path))
    assert found.verdict == "not decided"
    page = vector_report(found.trait, found.layer, found.meta, found.verdict)
    assert "not decided" in page
    assert "not decided" not in vector_report(found.trait, found.layer, found.meta)


def test_commands_say_the_verdict_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = {**bundled_verdicts(), "evil": "not decided", "humorous": "failed"}
    monkeypatch.setattr("personavec.vectors.bundled_verdicts", lambda: verdicts)
    app.run(["traits", "list", "--json"])
    assert json.loads(capsys.readouterr().out)["verdicts"] == verdicts
    app.run(["traits", "list"])
    listed = capsys.readouterr().out
    assert "not decided" in " ".join(listed.split())
    assert "failed" in listed
    app.run(["traits", "show", "evil"])
    assert "bundled vector: not decided\n" in capsys.readouterr().out
    app.run(["traits", "show", "evil", "--json"])
    assert json.loads(capsys.readouterr().out)["verdict"] == "not decided"
    assert "evil (not decided), " in terminal.said_verdicts(verdicts)
    assert terminal.said_verdicts({}) == "none"
