"""The pages of the replications say what the evidence beside them says."""

import re

import replication_pages as pages

from personavec.studies.replicate.statements import CLAIMS


def test_the_pages_are_those_of_the_evidence() -> None:
    page = pages.PAGE.read_text("utf-8")
    assert pages.with_verdicts(page) == page
    for model in pages.models():
        assert (model / "README.md").read_text("utf-8") == pages.model_page(model)


def test_a_page_has_every_statement_and_says_what_was_not_run() -> None:
    (model, *_) = pages.models()
    page = pages.model_page(model)
    for number, claim in enumerate(CLAIMS, start=1):
        assert f"| {number} | {claim.title}: " in page
    run = {path.parent.name for path in model.glob("*/results.json")}
    for stage in pages.STAGES:
        assert (f"- {stage.title}: not run." in page) == (stage.name not in run)
    assert "not run" in pages.verdicts() or len(run) == len(pages.STAGES)


def test_evidence_stays_small_and_tells_no_paths() -> None:
    files = [path for path in pages.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000_000
    for path in files:
        if path.suffix in (".json", ".jsonl", ".csv", ".md"):
            assert not re.search(r'(?:^|["\s,])/\w+/', path.read_text("utf-8"))
