"""The page's two sides and its sliders: two settings, ranges, and what steering explains."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from page_driver import ask, build, expect, opened, serving, slider

from personavec import LoadedModel, PersonaVector


@pytest.fixture(scope="module")
def url(markup: LoadedModel, vectors: dict[str, PersonaVector]) -> Iterator[str]:
    with serving(markup, vectors, guard=("shy>-1000sigma: steer -1",)) as address:
        yield address


def unmeasured(vectors: dict[str, PersonaVector]) -> dict[str, PersonaVector]:
    meta = {name: value for name, value in vectors["shy"].meta.items() if name != "coherent_range"}
    return {"bold": vectors["bold"], "new": replace(vectors["shy"], trait="new", meta=meta)}


def sent(page: Any) -> list[dict[str, Any]]:
    """The bodies of the requests for replies, from now on."""
    found: list[dict[str, Any]] = []
    page.on("request", lambda one: one.method == "POST" and found.append(one.post_data_json))
    return found


def test_two_settings_answer_side_by_side(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        bodies = sent(page)
        page.get_by_label("Compare with").select_option("second setting")
        slider(page, "bold", "A").press("End")
        slider(page, "shy", "B").press("Home")
        ask(page, tokens=16)
        a = page.get_by_role("group", name="A · Steered: bold +1.50")
        b = page.get_by_role("group", name="B · Steered: shy −1.00")
        texts = [side.locator(".reply-text").inner_text() for side in (a, b)]
        assert texts[0] != texts[1]
        left, right = a.bounding_box(), b.bounding_box()
        assert left["x"] + left["width"] <= right["x"]
        assert left["y"] == right["y"]
        # Each goes on with its own past, also with one of them unsteered.
        slider(page, "shy", "B").press("ArrowRight")
        for _ in range(3):
            slider(page, "shy", "B").press("ArrowRight")
        ask(page, "And now?")
        expect(page.get_by_role("group", name="B · Steered before, now not")).to_be_visible()
    steers = [{s["vector"]: s["coefficient"] for s in b["personavec"]["steer"]} for b in bodies]
    assert steers == [{"bold": 1.5}, {"shy": -1}, {"bold": 1.5}, {}]
    pasts = [[message["content"] for message in body["messages"]] for body in bodies]
    assert pasts[2:] == [["How are you?", text, "And now?"] for text in texts]


def test_both_sides_stream(browser: Any, url: str, markup: LoadedModel) -> None:
    """Both have text before either has ended."""
    slowed = markup.model.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    with opened(browser, url) as page:
        slider(page, "bold").press("End")
        page.get_by_label("Message").fill("How are you?")
        page.get_by_label("Message").press("Enter")
        texts = page.locator("[aria-busy=true] .reply-text")
        expect(texts).to_have_count(2)
        for i in (0, 1):
            expect(texts.nth(i)).to_contain_text("<", timeout=60_000)
        expect(texts).to_have_count(2)
        page.keyboard.press("Escape")
        expect(page.locator("[aria-busy=true]")).to_have_count(0)
    slowed.remove()


def test_equal_settings_are_one_reply(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        bodies = sent(page)
        page.get_by_label("Compare with").select_option("second setting")
        ask(page)
        assert page.locator(".reply").count() == len(bodies) == 1


def test_what_steering_explains_is_one_line(browser: Any, url: str) -> None:
    """Every reading of `bold` alarms and every forecast of `shy` trips the guard."""
    with opened(browser, url) as page:
        slider(page, "bold").press("End")
        ask(page)
        steered, plain = page.locator(".reply").all()
        line = steered.locator(".expected summary")
        expect(line).to_have_text(
            "Steered on purpose toward bold (+1.5), so an alarm of bold is expected."
        )
        # The guard acts without this steering too, and is told by itself.
        expect(steered.locator(".alert")).to_have_text(["Guard: " + guard_text(steered)])
        assert plain.locator(".expected").count() == 0
        expect(plain.locator(".alert")).to_have_text(["Guard: " + guard_text(plain)])
        line.click()
        expect(steered.locator(".expected li").first).to_contain_text("bold: Drift over this")
        page.get_by_role("button", name="Reset sliders").click()
        slider(page, "shy").press("End")
        ask(page, "And now?")
        expected = page.locator(".reply.a .expected summary").last
        expect(expected).to_contain_text("toward shy (+1.5), so")
        expect(expected).to_contain_text(
            "the guard shy>-1000sigma (the reply was steered by −1.00) is expected."
        )


def guard_text(reply: Any) -> str:
    text = reply.locator(".alert").first.inner_text()
    assert "(shy>-1000sigma), so the reply was steered by −1.00." in text
    return text.removeprefix("Guard: ")


def test_a_slider_ends_with_the_coherent_range(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        found = slider(page, "bold")
        assert (found.get_attribute("min"), found.get_attribute("max")) == ("-1", "1.5")
        expect(page.get_by_text("This server goes no further")).to_be_visible()
        assert page.get_by_label("Let sliders leave").count() == 0


def test_beyond_the_range_only_on_demand_and_with_a_warning(
    browser: Any, vectors: dict[str, PersonaVector]
) -> None:
    with (
        serving(build(), unmeasured(vectors), allow_any_coefficient=True) as url,
        opened(browser, url) as page,
    ):
        bodies = sent(page)
        found, plain = slider(page, "bold"), slider(page, "new")
        assert (found.get_attribute("max"), plain.get_attribute("max")) == ("1.5", "1")
        expect(page.get_by_text("so that this is a plain range")).to_be_visible()
        assert page.locator(".warning").count() == 0
        page.get_by_label("Let sliders leave the coherent ranges").check()
        expect(page.locator(".warning")).to_contain_text("replies repeat themselves or fall apart")
        found.press("End")
        expect(found).to_have_value("3")
        expect(page.get_by_text("Replies were coherent from −1 to +1.5 only.")).to_be_visible()
        assert "beyond the coherent range" in found.get_attribute("aria-valuetext")
        ask(page)
        assert bodies[0]["personavec"]["steer"] == [{"vector": "bold", "coefficient": 3}]
        assert "held at" not in page.locator(".foot").first.inner_text()
        # Without the demand, it is back where replies are coherent.
        page.get_by_label("Let sliders leave the coherent ranges").uncheck()
        expect(found).to_have_value("1.5")
        assert page.locator(".warning").count() == 0


def test_a_vector_without_a_range_says_so(browser: Any, vectors: dict[str, PersonaVector]) -> None:
    with serving(build(), unmeasured(vectors)) as url, opened(browser, url) as page:
        expect(slider(page, "new")).to_be_disabled()
        expect(slider(page, "bold")).to_be_enabled()
        said = page.get_by_role("region", name="new").locator("p", has_text="never measured")
        expect(said).to_contain_text("this server does not steer with it")


def test_colours_mean_one_thing_and_never_stand_alone(browser: Any, url: str) -> None:
    """Orange and + toward, blue and − away, of sliders and of tokens."""
    with opened(browser, url) as page:
        page.get_by_label("Compare with").select_option("second setting")
        slider(page, "bold", "A").press("End")
        slider(page, "bold", "B").press("Home")
        ask(page)
        page.get_by_label("Compare with").select_option("nothing")
        colours = """(element, [name, pseudo, property]) => {
            const probe = document.createElement("i");
            probe.style.color = `var(${name})`;
            document.body.append(probe);
            const wanted = getComputedStyle(probe).color;
            probe.remove();
            return [wanted, getComputedStyle(element, pseudo)[property]];
        }"""
        for kind, sign in (("toward", "+"), ("away", "−")):
            token = page.locator(f".tokens .{kind}.strong").first
            _, content = token.evaluate(colours, [f"--{kind}", "::after", "content"])
            assert sign in content
        for key, kind in (("End", "toward"), ("Home", "away")):
            slider(page, "bold").press(key)
            output = page.get_by_role("region", name="bold").locator("output")
            wanted, colour = output.evaluate(colours, [f"--{kind}-ink", None, "color"])
            assert colour == wanted
            assert output.inner_text()[0] == ("+" if kind == "toward" else "−")
