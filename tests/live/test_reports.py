"""Reports of every verb in a real browser: they fit, they are accessible, and they need no script.

The results are real ones of a tiny model, whose texts and names have no place to break.
"""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_runs import COMMANDS, run, write_inputs

from personavec import load_vector
from personavec.extract import vector_report

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
expect = sync_api.expect

WIDTHS = (1280, 390)
LARGEST = 1_500_000
#: What is wider than its place, texts of marks and pictures left out.
CLIPPED = """[...document.querySelectorAll("main *")].filter((part) =>
  part.scrollWidth > part.clientWidth + 1 && part.clientWidth > 1 && !part.closest("svg")
  && getComputedStyle(part).display !== "inline").map((part) => part.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def reports(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every verb's report, and the page that a server draws of a vector."""
    folder = tmp_path_factory.mktemp("inputs")
    inputs = write_inputs(folder)
    found = {verb: run(verb, inputs, tmp_path_factory.mktemp(verb) / "out") for verb in COMMANDS}
    vector = load_vector("evil")
    drawn = folder / "vector.html"
    drawn.write_text(vector_report(vector.trait, vector.layer, vector.meta), encoding="utf-8")
    return {**found, "vector": drawn}


REPORTS = [*COMMANDS, "vector"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("verb", REPORTS)
def test_a_report_fits_and_is_accessible(
    verb: str, scheme: Any, browser: Any, reports: dict[str, Path]
) -> None:
    """At either width, with everything unfolded."""
    path = reports[verb]
    assert path.stat().st_size < LARGEST
    context = browser.new_context(color_scheme=scheme)
    page, wrong = context.new_page(), []
    page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
    page.goto(path.as_uri())
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, width
        assert page.evaluate(CLIPPED) == [], width
        found = axe.Axe().run(page).response["violations"]
        assert [(each["id"], [n["html"] for n in each["nodes"]]) for each in found] == [], width
    assert not wrong
    context.close()


@pytest.mark.parametrize("verb", REPORTS)
def test_numbers_have_true_minuses_and_texts_do_not_run_together(
    verb: str, browser: Any, reports: dict[str, Path]
) -> None:
    """But in settings, code and models' answers; an interval after its value is such a text."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(reports[verb].as_uri())
    left_out = "code, pre, style, script, .response, .facts, #answers, #data"
    page.evaluate(f"document.querySelectorAll('{left_out}').forEach((part) => part.remove())")
    text = page.evaluate("document.querySelector('main').textContent")
    assert re.findall(r"\S*(?<![\w.)/-])-\.?\d\S*", text) == []
    charts = page.evaluate(
        "[...document.querySelectorAll('.plot')].map((each) => each.textContent).join(' ')"
    )
    assert re.findall(r"\d(?!th|st|nd|rd|s\b)[A-Za-z]{2,}", charts) == []
    context.close()


class _Texts(HTMLParser):
    """The texts of cells, answers and headlines."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag in ("td", "th", "p", "h2")

    def handle_data(self, data: str) -> None:
        if self._inside and data.strip():
            self.found.append(data.strip())


@pytest.mark.parametrize("verb", COMMANDS)
def test_without_scripts_nothing_is_missing(
    verb: str, browser: Any, reports: dict[str, Path]
) -> None:
    """The conclusion comes first, a picture next, and every text of the file can be unfolded."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(reports[verb].as_uri())
    expect(page.locator(".headline")).to_be_visible()
    expect(page.locator("#in-short svg:visible")).to_have_count(1)
    first = page.locator("main > *").evaluate_all("parts => parts.slice(0, 3).map(p => p.tagName)")
    assert first == ["HEADER", "SECTION", "NAV"]
    assert page.locator("#in-short table").count() == 0
    for link in page.locator("nav a").all():
        assert page.locator(f"[id='{(link.get_attribute('href') or '')[1:]}']").count() == 1
    while page.locator("details:not([open]) > summary:visible").count():
        page.locator("details:not([open]) > summary:visible").first.click()
    parser = _Texts()
    parser.feed(reports[verb].read_text(encoding="utf-8"))
    shown = " ".join(page.locator("main").inner_text().split())
    missing = [text for text in parser.found if " ".join(text.split()) not in shown]
    assert len(parser.found) > 40
    assert missing == []
    context.close()


def test_rows_are_found_by_their_words_and_by_their_flags(
    browser: Any, reports: dict[str, Path]
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(reports["screen"].as_uri())
    rows = page.locator("[data-filter] > details:visible")
    field, every = page.get_by_role("searchbox").first, rows.count()
    question = rows.first.locator("summary").inner_text().split(maxsplit=1)[1]
    field.fill(question.upper())
    expect(rows.filter(has_text=question).first).to_be_visible()
    assert rows.count() == rows.filter(has_text=question.split()[-1]).count() < every
    field.fill("no row says this")
    expect(rows).to_have_count(0)
    expect(page.locator("output").first).to_have_text(f"0 of {every}")
    field.fill("")
    page.get_by_label("flagged rows only").check()
    flagged = page.locator("[data-filter] > details[data-flagged]:visible").count()
    assert rows.count() == flagged < every
    context.close()


def test_what_is_folded_is_printed(browser: Any, reports: dict[str, Path]) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(reports["extract"].as_uri())
    folded = page.locator("details:not([open])").count()
    assert folded
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.locator("details:not([open])")).to_have_count(0)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(page.locator("details:not([open])")).to_have_count(folded)
    context.close()
