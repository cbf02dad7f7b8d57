"""Conversations as files of the page: saved, loaded again, and shared as one HTML file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_driver import WORDS, ask, expect, opened, serving, slider

from personavec import LoadedModel, PersonaVector

TAKEN = "<img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def url(markup: LoadedModel, vectors: dict[str, PersonaVector]) -> Iterator[str]:
    with serving(markup, vectors) as address:
        yield address


def pressed(page: Any, name: str, to: Path) -> Path:
    """The file that a button writes."""
    with page.expect_download() as found:
        page.get_by_role("button", name=name, exact=True).click()
    path = to / found.value.suggested_filename
    found.value.save_as(path)
    return path


def load(page: Any, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)


def coloured(page: Any) -> list[str]:
    """Every token with its colour."""
    return page.locator(".tokens span").evaluate_all(
        "all => all.map(one => one.className + one.getAttribute('style') + one.textContent)"
    )


def shown(page: Any) -> list[str]:
    """Everything about the replies that can be seen."""
    return page.locator("article").all_inner_texts() + coloured(page)


@pytest.fixture(scope="module")
def saved(browser: Any, url: str, tmp_path_factory: Any) -> dict[str, Any]:
    """A conversation of three turns, two of them with two replies: its files, and how it looks."""
    folder = tmp_path_factory.mktemp("files")
    with opened(browser, url, accept_downloads=True) as page:
        ask(page, TAKEN)
        # Away from a trait and toward it, so that both colours are strong.
        slider(page, "bold").press("Home")
        ask(page, "And now?")
        slider(page, "bold").press("End")
        ask(page, "And then?")
        return {
            "json": pressed(page, "Save", folder),
            "html": pressed(page, "Share", folder),
            "shown": shown(page),
            "coloured": coloured(page),
            "texts": page.locator(".reply-text").all_inner_texts(),
        }


def test_a_saved_conversation_comes_back_and_goes_on(
    browser: Any, url: str, saved: dict[str, Any]
) -> None:
    with opened(browser, url) as page:
        load(page, saved["json"])
        expect(page.locator("article")).to_have_count(3)
        # Sigmas are written to a thousandth; colours are whole percents of the 95th percentile.
        assert shown(page) == saved["shown"]
        expect(slider(page, "bold")).to_have_value("1.5")
        expect(page.locator("p[role=status]")).to_contain_text("Number of turns: 3")
        with page.expect_request("**/v1/chat/completions") as found:
            ask(page, "And at last?")
        said = [m["content"] for m in found.value.post_data_json["messages"]]
        assert said[0] == TAKEN
        assert said[1] == json.loads(saved["json"].read_text())["turns"][0]["both"]["text"]
        assert page.title() == "personavec"


def test_a_file_keeps_what_made_it(saved: dict[str, Any]) -> None:
    held = json.loads(saved["json"].read_text())
    assert (held["what"], held["format"]) == ("personavec conversation", 1)
    first, second, _ = held["turns"]
    assert (first["model"], first["question"]) == ("tiny", TAKEN)
    assert first["settings"] == {"system": "", "maxTokens": 8, "temperature": 0.7, "seed": 0}
    assert second["steer"] == {"a": [{"vector": "bold", "coefficient": -1}], "b": []}
    assert len(first["both"]["readings"][0]["sigmas"]) == 8
    assert set(second) & {"both", "a", "b"} == {"a", "b"}


def test_foreign_text_stays_text(browser: Any, url: str, saved: dict[str, Any], tmp_path: Path):
    """A file that somebody else wrote, with markup wherever there is text."""
    held = json.loads(saved["json"].read_text())
    reply = held["turns"][1]["a"]
    reply["text"] = TAKEN
    reply["pieces"] = [{"text": TAKEN, "token": 0}]
    reply["error"] = {"message": TAKEN}
    reply["guards"] = [{"condition": TAKEN, "forecast": 1, "did": "refuse", "steered": True}]
    reply["alarms"] = [
        {"trait": TAKEN, "scope": "server", "level": 2, "limit": 1, "steered": False}
    ]
    held["turns"][1]["model"] = TAKEN
    held["turns"][1]["steer"]["b"] = [{"vector": TAKEN, "coefficient": 1}]
    held["turns"][1]["settings"]["system"] = f"</style></main>{TAKEN}"
    path = tmp_path / "foreign.json"
    path.write_text(json.dumps(held))
    with opened(browser, url, accept_downloads=True) as page:
        load(page, path)
        expect(page.get_by_role("alert")).to_contain_text(f"was held with {TAKEN}")
        assert page.locator(".reply-text").all_inner_texts().count(TAKEN) == 1
        file = pressed(page, "Share", tmp_path)
        assert page.locator("main img, .problem img").count() == 0
        assert page.title() == "personavec"
        page.goto(file.as_uri())
        expect(page.locator(".settings-line").nth(1)).to_contain_text(TAKEN.replace('"', '\\"'))
        assert page.locator("img, script").count() == 0
        assert page.title() == f"A conversation with tiny and {TAKEN}"


def edited(held: Any, *place: Any, value: Any) -> Any:
    """A copy with one value changed; without a value, it is left out."""
    copy = json.loads(json.dumps(held))
    at = copy
    for step in place[:-1]:
        at = at[step]
    if value is ...:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return copy


BAD: dict[str, Any] = {
    "it is not JSON": "{",
    "it is no conversation that this page has saved": [1],
    "its format is 2, and this page reads 1": (("format",), 2),
    "it.turns must be a list": (("turns",), {}),
    "it.turns[0] must be an object": (("turns", 0), None),
    "it.turns[0] has no reply": (("turns", 0, "both"), ...),
    "it.turns[0].question must be text": (("turns", 0, "question"), 7),
    "it.turns[1].a.state must be one of": (("turns", 1, "a", "state"), "running"),
    "it.turns[1].a.pieces do not make up its text": (("turns", 1, "a", "text"), "other"),
    "it.turns[1].a.readings have too few tokens": (
        ("turns", 1, "a", "readings", 0, "sigmas"),
        [0.5],
    ),
    "it.turns[1].b.readings[1].sigmas[0] must be a number": (
        ("turns", 1, "b", "readings", 1, "sigmas", 0),
        "1",
    ),
    "it.turns[1].settings.temperature must be a number from 0 to 2": (
        ("turns", 1, "settings", "temperature"),
        3,
    ),
}


def test_a_bad_file_gets_one_clear_line(
    browser: Any, url: str, saved: dict[str, Any], tmp_path: Path
) -> None:
    held = json.loads(saved["json"].read_text())
    with opened(browser, url) as page:
        load(page, saved["json"])
        expect(page.locator("article")).to_have_count(3)
        for i, (said, bad) in enumerate(BAD.items()):
            path = tmp_path / f"bad-{i}.json"
            if isinstance(bad, tuple):
                bad = edited(held, *bad[0], value=bad[1])
            path.write_text(bad if isinstance(bad, str) else json.dumps(bad))
            load(page, path)
            alert = page.get_by_role("alert")
            expect(alert).to_contain_text(f"bad-{i}.json cannot be loaded: {said}")
            assert "\n" not in alert.locator("p").inner_text()
            # What was there is still there.
            assert page.locator("article").count() == 3
        page.get_by_role("button", name="Close").click()
        expect(page.get_by_role("alert")).to_have_count(0)
        # An overflowing number, which JSON's grammar has and JavaScript reads as infinite.
        path.write_text(saved["json"].read_text().replace('"seed":0', '"seed":1e999', 1))
        load(page, path)
        expect(page.get_by_role("alert")).to_contain_text("settings.seed must be a number")


def test_a_shared_file_is_read_without_scripts(browser: Any, saved: dict[str, Any]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page, fetched = context.new_page(), []
    page.on("request", lambda one: fetched.append(one.url))
    page.goto(saved["html"].as_uri())
    assert fetched == [saved["html"].as_uri()]
    expect(page.get_by_role("heading", name="A conversation with tiny")).to_be_visible()
    expect(page.locator(".question").first).to_have_text(TAKEN)
    assert page.locator(".reply-text").all_inner_texts() == saved["texts"]
    assert page.locator("script, img, em, link, iframe").count() == 0
    expect(page.get_by_role("group", name="Steered: bold −1.00")).to_be_visible()
    expect(page.locator(".settings-line").first).to_have_text(
        "Temperature 0.7, seed 0, at most 8 tokens, no system prompt"
    )
    expect(page.get_by_text("Vectors: bold (layer 2) and shy (layer 2).")).to_be_visible()
    page.locator(".readings summary").last.click()
    expect(page.get_by_role("row", name="shy").last).to_be_visible()
    context.close()
    text = saved["html"].read_text()
    assert all(text.count(word) == 0 for word in WORDS if word.startswith(("<script", "<em")))
    assert "default-src 'none'" in text


def test_the_colours_of_a_shared_file_are_those_of_the_page(
    browser: Any, saved: dict[str, Any]
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(saved["html"].as_uri())
    assert coloured(page) == saved["coloured"]
    for kind, sign in (("toward", "+"), ("away", "−")):
        found = page.locator(f".tokens .{kind}.strong").first
        assert sign in found.evaluate("one => getComputedStyle(one, '::after').content")
        assert found.evaluate("one => getComputedStyle(one).backgroundColor") != "rgba(0, 0, 0, 0)"
        assert found.get_attribute("title").startswith(sign)
    context.close()
