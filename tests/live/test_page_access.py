"""The page for every reader: nothing hidden at any width, keys, screen readers, contrast."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_driver import ask, expect, opened, serving, slider

from personavec import LoadedModel, PersonaVector

axe = pytest.importorskip("axe_playwright_python.sync_playwright")

#: Turns of two replies that fill every screen.
LONG = 40


@pytest.fixture(scope="module")
def url(markup: LoadedModel, vectors: dict[str, PersonaVector]) -> Iterator[str]:
    with serving(markup, vectors, allow_any_coefficient=True) as address:
        yield address


@pytest.fixture(scope="module")
def files(browser: Any, url: str, tmp_path_factory: Any) -> dict[str, Path]:
    """A conversation, steered and not, with alarms and what steering explains."""
    folder = tmp_path_factory.mktemp("files")
    with opened(browser, url, accept_downloads=True) as page:
        slider(page, "bold").press("End")
        ask(page)
        ask(page, "And now?", tokens=LONG)
        found = {}
        for name in ("Save", "Share"):
            with page.expect_download() as written:
                page.get_by_role("button", name=name, exact=True).click()
            found[name] = folder / written.value.suggested_filename
            written.value.save_as(found[name])
    return found


def load(page: Any, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)
    page.locator("article").first.wait_for()


def problems(page: Any) -> list[str]:
    """What axe finds, a line for each rule with the elements that break it."""
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]


#: Of every element: whether its middle is seen once it is scrolled to, and is not under another.
UNDER = """all => all.filter(one => {
    one.scrollIntoView({ block: "nearest" });
    const box = [...one.getClientRects()].at(-1);
    const found = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return !(found && (one.contains(found) || found.contains(one)));
}).map(one => one.className + one.textContent)"""

#: How far the end of a reply that is being written goes below the upper edge of the composer.
WATCH = """() => {
    window.worst = -Infinity;
    const look = () => {
        const edge = document.querySelector(".composer").getBoundingClientRect().top;
        for (const one of document.querySelectorAll(".writing")) {
            window.worst = Math.max(window.worst, one.getBoundingClientRect().bottom - edge);
        }
        requestAnimationFrame(look);
    };
    look();
}"""


@pytest.mark.parametrize("size", [(390, 844), (768, 1024), (1280, 800), (844, 390)])
def test_no_answer_hides_under_the_composer(
    browser: Any, url: str, files: dict[str, Path], size: tuple[int, int]
) -> None:
    narrow, low = size[0] < 880, size[1] < 480
    with opened(browser, url, *size) as page:
        load(page, files["Save"])

        def check(what: str) -> None:
            ends = page.locator(".foot, .tokens span:last-of-type, .expected summary, .alert")
            assert ends.evaluate_all(UNDER) == [], what
            turns, composer = (page.locator(one).bounding_box() for one in (".turns", ".composer"))
            assert turns["y"] + turns["height"] <= composer["y"] + 0.5, what
            assert turns["height"] >= 100, what
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= size[0], what

        check("as it opens")
        page.locator("summary", has_text="Settings").click()
        check("with the settings open")
        if narrow:
            page.locator(".panel > summary").click()
            check("with the panel open")
        else:
            page.locator("summary", has_text="Settings").click()
        if low:
            return  # Here the document scrolls as a whole.
        # While two replies are written, their ends stay in sight.
        slider(page, "shy").press("End")
        page.evaluate(WATCH)
        page.get_by_label("Message").fill("And then?")
        page.get_by_label("Message").press("Enter")
        expect(page.locator("article")).to_have_count(3)
        expect(page.locator("[aria-busy=true]")).to_have_count(0, timeout=60_000)
        assert -size[1] < page.evaluate("window.worst") <= 0
        check("after another turn")


def test_who_has_scrolled_up_stays_there(browser: Any, url: str, files: dict[str, Path]) -> None:
    with opened(browser, url, 390, 844) as page:
        load(page, files["Save"])
        page.locator("summary", has_text="Settings").click()
        page.get_by_label("Longest reply, tokens").fill("200")
        page.locator("summary", has_text="Settings").click()
        page.get_by_label("Message").fill("And then?")
        page.get_by_label("Message").press("Enter")
        expect(page.locator(".writing").first).to_be_visible()
        page.locator(".turns").evaluate("one => { one.scrollTop = 0; }")
        expect(page.locator("[aria-busy=true]")).to_have_count(0, timeout=60_000)
        assert page.locator(".turns").evaluate("one => one.scrollTop") == 0


def test_axe_finds_nothing(browser: Any, url: str, files: dict[str, Path]) -> None:
    with opened(browser, url) as page:
        assert problems(page) == [], "empty"
        load(page, files["Save"])
        page.get_by_label("Compare with").select_option("second setting")
        page.get_by_label("Let sliders leave the coherent ranges").check()
        slider(page, "bold", "A").press("End")
        slider(page, "shy", "B").press("Home")
        page.locator(".expected summary").click()
        page.locator("summary", has_text="Settings").click()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 800})
                if width == 390:
                    page.locator(".panel > summary").click()
                assert problems(page) == [], (scheme, width)


def test_axe_finds_nothing_in_a_shared_file(browser: Any, files: dict[str, Path]) -> None:
    # The file's own policy would refuse the auditor's script.
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(files["Share"].as_uri())
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            assert problems(page) == [], (scheme, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


#: The focused element: its name, and whether it is seen whole or in part, above others, and marked.
FOCUSED = """() => {
    const one = document.activeElement;
    const box = [...one.getClientRects()].find(({ width }) => width) ?? one.getBoundingClientRect();
    const x = Math.min(Math.max(box.x + box.width / 2, 0), innerWidth - 1);
    const y = Math.min(Math.max(box.y + box.height / 2, 0), innerHeight - 1);
    const found = document.elementFromPoint(x, y);
    const style = getComputedStyle(one);
    return {
        name: one.tagName + " " + (one.getAttribute("aria-label") ?? one.textContent.slice(0, 40)),
        seen: Boolean(found) && (one.contains(found) || found.contains(one)),
        inside: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
        marked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    };
}"""


@pytest.mark.parametrize("width", [390, 1280])
def test_everything_is_reached_and_seen_in_focus(
    browser: Any, url: str, files: dict[str, Path], width: int
) -> None:
    with opened(browser, url, width, 800) as page:
        load(page, files["Save"])
        page.get_by_label("Compare with").select_option("second setting")
        if width == 390:
            page.locator(".panel > summary").click()
        # Once round, from the message to the message.
        page.get_by_label("Message").focus()
        stops = [page.evaluate(FOCUSED)]
        for _ in range(80):
            page.keyboard.press("Tab")
            stop = page.evaluate(FOCUSED)
            if stop["name"].startswith("TEXTAREA"):
                break
            if not stop["name"].startswith("BODY"):
                stops.append(stop)
        else:
            pytest.fail(f"the message is never reached again: {stops}")
        names = [stop["name"] for stop in stops]
        for stop in stops:
            assert stop["seen"], stop
            assert stop["inside"], stop
            assert stop["marked"], stop
        for name in (
            "A To the message", "BUTTON New", "BUTTON Save", "BUTTON Load", "BUTTON Share",
            "INPUT bold: coefficient of A", "INPUT shy: coefficient of B", "DIV Conversation",
            "INPUT colour tokens by bold",
        ):  # fmt: skip
            assert name in names, names
        assert sum(name.startswith("A report") for name in names) == 2
        assert sum(name.startswith("FIGURE") for name in names) == 2
        assert sum(name.startswith("SPAN") for name in names) == 4
        assert any(name.startswith("SELECT") for name in names)


def test_a_screen_reader_hears_a_reply_once(browser: Any, url: str) -> None:
    """When it is complete, and not each of its tokens."""
    with opened(browser, url) as page:
        status = page.locator("body > p[role=status]")
        status.evaluate("""one => {
            window.heard = [];
            new MutationObserver(() => window.heard.push(one.textContent))
                .observe(one, { subtree: true, childList: true, characterData: true });
        }""")
        slider(page, "bold").press("End")
        ask(page, tokens=24)
        steered, plain = page.locator(".reply-text").all_inner_texts()
        heard = [text for text in page.evaluate("window.heard") if text]
        assert heard[0] == "Writing two replies."
        assert len(heard) == 2
        assert f"Reply steered complete. {steered[:100]}" in heard[1]
        assert f"Reply unsteered complete. {plain[:100]}" in heard[1]
        # No other live region holds text that grows.
        live = ".turns :is([aria-live], [role=log], [role=status])"
        assert page.locator(live).count() == 0


def test_nothing_moves_for_who_wants_no_motion(browser: Any, url: str) -> None:
    name = """() => {
        const one = document.createElement("span");
        one.className = "writing";
        document.body.append(one);
        return getComputedStyle(one).animationName;
    }"""
    for motion, expected in (("reduce", "none"), ("no-preference", "pulse")):
        with opened(browser, url, reduced_motion=motion) as page:
            assert page.evaluate(name) == expected
