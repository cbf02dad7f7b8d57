"""The pages of the replications say what the evidence beside them says."""

import re

import pytest
import replication_pages as pages

from personavec.results import Estimate
from personavec.studies.replicate.results import Evidence, Outcome, Statement
from personavec.studies.replicate.statements import CLAIMS


def test_the_pages_are_those_of_the_evidence() -> None:
    page = pages.PAGE.read_text("utf-8")
    assert pages.with_tables(page) == page
    for model in pages.models():
        assert (model / "README.md").read_text("utf-8") == pages.model_page(model)


def test_a_table_without_a_place_is_not_written_elsewhere() -> None:
    page = pages.PAGE.read_text("utf-8").replace("<!-- figures -->", "")
    with pytest.raises(SystemExit, match="no place for the figures"):
        pages.with_tables(page)


def test_a_page_has_every_statement_and_says_what_was_not_run() -> None:
    (model, *_) = pages.models()
    page = pages.model_page(model)
    for number, claim in enumerate(CLAIMS, start=1):
        assert f"| {number} | {claim.title}: " in page
    run = {path.parent.name for path in model.glob("*/results.json")}
    for stage in pages.STAGES:
        assert (f"- {stage.title}: not run." in page) == (stage.name not in run)
    found = {model.name: pages.decide(pages.Found.of(pages.results_of(model)))}
    assert "not run" in pages.verdicts(found) or len(run) == len(pages.STAGES)


def test_only_what_two_models_have_stands_side_by_side() -> None:
    def statements(*evidence: Evidence) -> list[Statement]:
        words = dict.fromkeys(("title", "claim", "source", "papers", "rule", "ours"), "")
        return [Statement(number=5, **words, outcome="replicates", evidence=evidence)]

    def figure(of: str, value: float, outcome: Outcome = "replicates") -> Evidence:
        return Evidence(of=of, outcome=outcome, ours=Estimate(value, value - 1, value + 1), null="")

    found = {
        "one": statements(figure("evil: preventative 1", -2.0), figure("impolite", 3.0)),
        "two": statements(figure("evil: preventative 2", -4.0), figure("impolite", 0, "not run")),
    }
    minus = "\N{MINUS SIGN}"
    assert pages.figures(found).splitlines()[2:] == [
        f"| 5 | evil | {minus}2.00 [{minus}3.00, {minus}1.00] (preventative 1): replicates "
        f"| {minus}4.00 [{minus}5.00, {minus}3.00] (preventative 2): replicates |"
    ]


def test_evidence_stays_small_and_tells_no_paths() -> None:
    # Vectors are made again where they are needed, and are not kept.
    files = [p for p in pages.FOLDER.rglob("*") if p.is_file() and p.suffix != ".safetensors"]
    assert sum(path.stat().st_size for path in files) < 5_000_000
    for path in files:
        if path.suffix in (".json", ".jsonl", ".csv", ".md"):
            assert not re.search(r'(?:^|["\s,])/\w+/', path.read_text("utf-8"))
