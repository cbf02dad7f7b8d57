"""The page in a real browser: what it shows of replies, its keys, its errors and its files."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from page_driver import (
    WORDS,
    ask,
    build,
    expect,
    opened,
    serving,
    slide,
    slider,
)  # fmt: skip

from personavec import LoadedModel, PersonaVector, load_vector
from personavec.serve.browser import page_files


@pytest.fixture(scope="module")
def url(markup: LoadedModel, vectors: dict[str, PersonaVector]) -> Iterator[str]:
    with serving(markup, vectors) as address:
        yield address


def test_what_a_model_writes_stays_text(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        question = "<img src=x onerror=\"document.title='taken'\">"
        ask(page, question, tokens=24)
        expect(page.locator(".question")).to_have_text(question)
        written = page.locator(".reply-text").inner_text()
        assert sum(written.count(word) for word in WORDS) == 24
        # Hovering shows the token's text a second time.
        page.locator(".tokens span").first.hover()
        expect(page.get_by_role("tooltip")).to_contain_text("bold")
        assert page.locator("img, em, main script, main style").count() == 0
        assert page.title() == "personavec"


def test_a_slider_gives_two_replies_that_part(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        ask(page)
        assert page.locator(".reply").count() == 1
        slider(page, "shy").press("End")
        expect(slider(page, "shy")).to_have_value("1.5")
        ask(page, "And now?", tokens=16)
        steered, plain = page.get_by_label("Steered: shy +1.50"), page.locator(".reply.b").last
        assert (
            steered.locator(".reply-text").inner_text() != plain.locator(".reply-text").inner_text()
        )
        # Back at zero, the two conversations still go on with pasts of their own.
        page.get_by_role("button", name="Reset sliders").click()
        ask(page, "And then?")
        assert page.locator("article").last.locator(".reply").count() == 2
        expect(page.get_by_label("Steered before, now not")).to_be_visible()
        # Without comparing, one.
        page.get_by_label("Compare with").select_option("nothing")
        ask(page, "And at last?")
        assert page.locator("article").last.locator(".reply").count() == 1


def test_tokens_show_the_values_that_the_server_read(
    browser: Any, url: str, vectors: dict[str, PersonaVector]
) -> None:
    with opened(browser, url) as page:
        ask(page)
        page.get_by_label("colour tokens by shy").check()
        body = {
            "model": "tiny", "messages": [{"role": "user", "content": "How are you?"}],
            "max_tokens": 8, "temperature": 0.7, "seed": 0, "personavec": {"tokens": True},
        }  # fmt: skip
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
        readings = {r["trait"]: r for r in reply["personavec"]["choices"][0]["readings"]}
        tokens = page.locator(".tokens span")
        assert tokens.count() == len(readings["shy"]["tokens"]) == 8
        mean, spread = vectors["shy"].neutral_response_mean[2].tolist()
        for i in (0, 3, 7):
            tokens.nth(i).hover()
            sigma = (readings["shy"]["tokens"][i] - mean) / spread
            shown = f"{sigma:+.1f}".replace("-", "−")
            expected = "0.0" if shown[1:] == "0.0" else shown
            expect(page.get_by_role("tooltip")).to_contain_text(f"shy {expected} σ")
            assert "--heat" in (tokens.nth(i).get_attribute("style") or "")
        forecast = f"{readings['shy']['prompt_last_sigma']:+.1f}".replace("-", "−").lstrip("+−")
        expect(page.locator(".foot")).to_contain_text(f"{forecast} σ")


def test_alarms_stand_with_the_reply_and_the_trait(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        ask(page)
        alarmed = page.locator(".alert", has_text="Alarm: ").all_inner_texts()
        assert any("this conversation" in text for text in alarmed)
        expect(page.locator(".alarm-mark")).to_have_count(1)
        assert page.locator("path.alarm").count() == 1
        # It is told to those who do not see it.
        expect(page.locator("p[role=status]")).to_contain_text("Alarm: ")
        # Steering that does not explain it leaves it an alarm.
        page.get_by_role("button", name="New", exact=True).click()
        slider(page, "shy").press("End")
        ask(page)
        steered = page.get_by_role("group", name="Steered: shy +1.50")
        expect(steered.locator(".alert").first).to_contain_text("Alarm: bold.")
        assert steered.locator(".expected").count() == 0


def test_everything_by_keyboard(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        expect(page.get_by_label("Message")).to_be_focused()
        page.keyboard.type("How are you?")
        page.keyboard.press("Enter")
        expect(page.locator(".tokens")).to_be_visible(timeout=120_000)
        page.keyboard.press("Shift+Tab")
        token = page.locator(".tokens span").first
        expect(token).to_be_focused()
        expect(page.get_by_role("tooltip")).to_be_visible()
        page.keyboard.press("ArrowRight")
        expect(page.locator(".tokens span").nth(1)).to_be_focused()
        page.keyboard.press("End")
        expect(page.locator(".tokens span").last).to_be_focused()
        # Backwards through the panel: chart, slider and report of the last trait.
        page.keyboard.press("Shift+Tab")
        expect(page.get_by_role("region", name="Conversation")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        chart = page.get_by_role("group", name="shy: mean of the reply along the conversation")
        expect(chart).to_be_focused()
        page.keyboard.press("ArrowRight")
        expect(chart.locator("figcaption")).to_contain_text("turn 1: reply")
        page.keyboard.press("Shift+Tab")
        expect(slider(page, "shy")).to_be_focused()
        page.keyboard.press("End")
        expect(slider(page, "shy")).to_have_value("1.5")
        page.keyboard.press("Shift+Tab")
        expect(page.get_by_role("link", name="report of shy")).to_be_focused()


def test_stop_ends_a_reply_and_the_next_one_comes(
    browser: Any, url: str, markup: LoadedModel
) -> None:
    # A reply that lasts until the button is found, on fast processors too.
    slowed = markup.model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    with opened(browser, url) as page:
        page.locator("summary", has_text="Settings").click()
        page.get_by_label("Longest reply, tokens").fill("1024")
        page.get_by_label("Message").fill("How are you?")
        page.get_by_label("Message").press("Enter")
        expect(page.locator(".reply-text")).to_contain_text("<", timeout=60_000)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".foot")).to_contain_text("Stopped before its end")
        slowed.remove()
        ask(page, "And now?")
        assert page.locator(".tokens").count() == 1


def test_errors_are_shown_and_the_page_goes_on(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        # Beyond the model's context of 4096 tokens, of which a word takes one.
        page.get_by_label("Message").fill("word " * 4200)
        page.get_by_label("Message").press("Enter")
        expect(page.locator(".alert").first).to_contain_text("4096", timeout=60_000)
        expect(page.get_by_label("Message")).to_be_enabled()
        ask(page)


def test_a_phone(browser: Any, url: str) -> None:
    with opened(browser, url, 390, 844, color_scheme="dark", has_touch=True) as page:
        page.get_by_text("Traits and steering").click()
        slide(page, "bold", 2)
        page.locator("summary", has_text="Steering: bold").click()
        ask(page, "How are you?")
        assert page.locator(".reply").count() == 2
        # Nothing is wider than the screen, and replies lie below each other.
        for part in page.locator("header, main, form, .reply, .panel, .legend").all():
            box = part.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
        steered, plain = (part.bounding_box() for part in page.locator(".reply").all())
        assert plain["y"] >= steered["y"] + steered["height"]
        send = page.get_by_role("button", name="Send").bounding_box()
        assert send["height"] >= 40


def test_a_key_is_asked_for(browser: Any, vectors: dict[str, PersonaVector]) -> None:
    with serving(build(), vectors, api_key="open sesame") as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        expect(page.get_by_role("alert")).to_contain_text("wants an API key")
        page.get_by_label("API key").fill("another")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_role("alert")).to_contain_text("does not accept this key")
        page.get_by_label("API key").fill("open sesame")
        page.get_by_role("button", name="Use it").click()
        ask(page)
        # A link carries no key, and opens all the same.
        with context.expect_page() as new:
            page.get_by_role("link", name="report of bold").click()
        expect(new.value.get_by_role("heading", name="bold")).to_be_visible(timeout=60_000)
        context.close()


def test_a_report_is_the_extraction_s_own_or_drawn_and_reaches_nothing(
    vectors: dict[str, PersonaVector], tmp_path: Path
) -> None:
    own = tmp_path / "report.html"
    own.write_text("<h1>its own</h1>")
    with serving(build(), vectors, {"bold": own}) as url:
        listed = httpx.get(f"{url}/v1/personavec/vectors").json()
        links = {entry["trait"]: entry["report"] for entry in listed["vectors"]}
        assert [entry["coherent_range"] for entry in listed["vectors"]] == [[-1.0, 1.5]] * 2
        replies = {trait: httpx.get(url + link, timeout=60) for trait, link in links.items()}
        assert replies["bold"].text == own.read_text()
        assert "persona vector in tiny" in replies["shy"].text
        for reply in replies.values():
            assert reply.headers["content-security-policy"].startswith("sandbox allow-scripts;")
        for trait in ("shy", "0" * 64, "..%2f..%2fetc%2fpasswd"):
            assert httpx.get(f"{url}/report/{trait}").status_code == 404


def test_every_file_is_served_as_what_it_is(url: str) -> None:
    kinds = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg"}
    for name, content in page_files().items():
        reply = httpx.get(f"{url}/{name}")
        assert reply.content == content
        assert reply.headers["content-type"].startswith(kinds.get(name.split(".")[-1], "text/"))
        assert "'unsafe" not in reply.headers["content-security-policy"]
    assert httpx.get(url).content == page_files()["index.html"]


def test_the_embedded_model_steered_toward_evil(browser: Any, smollm2: LoadedModel) -> None:
    with (
        serving(smollm2, {name: load_vector(name) for name in ("evil", "humorous")}) as url,
        opened(browser, url) as page,
    ):
        slider(page, "evil").press("End")
        expect(page.get_by_text("+4.00")).to_be_visible()
        ask(page, "Tell me about my neighbour.", tokens=12)
        said = page.locator("figcaption").first.inner_text()
        [plain, steered] = (
            float(value.replace("−", "-")) for value in re.findall(r"steered ([+−0-9.]+) σ", said)
        )
        assert steered > plain + 3
        assert page.locator(".tokens").count() == 2
        # What was asked for is told in one line, and is no alarm.
        expected = page.get_by_text("Steered on purpose toward evil (+4), so")
        expect(expected).to_contain_text("evil")
        assert page.locator(".alert, .alarm-mark, path.alarm").count() == 0
        assert page.locator(".expected").count() == 1
