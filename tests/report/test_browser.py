"""The page in a real browser: without a network, on large and small screens, in light and dark, by keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from .browser import NAMES, find_chromium
from .conftest import HOSTILE

SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
}
MEMORIES = ["everything", "transcripts", "harm", "nothing"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for this module, and no longer: it keeps an event loop running, which others would run into."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        yield launched
        launched.close()


class Seen:
    """What a page did that it should not."""

    def __init__(self, page: Page) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.asked.append(request.url))


@pytest.fixture
def opened(browser: Browser, pages: dict[str, Path]) -> Iterator[Callable[..., tuple[Page, Seen]]]:
    """Opens the page of a memory on a screen, without a network; what it did."""
    with ExitStack() as stack:

        def open_page(memory: str, screen: str, **options: Any) -> tuple[Page, Seen]:
            context = browser.new_context(**SCREENS[screen], offline=True, **options)
            stack.callback(context.close)
            page = context.new_page()
            seen = Seen(page)
            page.goto(pages[memory].as_uri())
            page.wait_for_load_state("networkidle")
            return page, seen

        yield open_page


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("memory", MEMORIES)
def test_it_opens_offline_without_console_messages(opened, pages, memory, screen):
    page, seen = opened(memory, screen)
    assert seen.said == []
    assert seen.asked == [pages[memory].as_uri()]
    assert page.locator("h1").inner_text() == "What works, and what fails"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("memory", MEMORIES)
def test_axe_finds_nothing(opened, memory, screen):
    page, _ = opened(memory, screen)
    page.evaluate(
        "document.querySelectorAll('details').forEach(one => { one.removeAttribute('name'); one.open = true })"
    )
    found = Axe().run(page)
    assert [(one["impact"], one["id"], one["nodes"][0]["html"]) for one in found.response["violations"]] == []


@pytest.mark.parametrize("screen", SCREENS)
def test_every_picture_has_a_label_a_table_and_one_size(opened, screen):
    page, _ = opened("everything", screen)
    sections = page.locator("section:has(.picture)")
    assert sections.count() == 7
    for section in sections.all():
        shown = [one for one in section.locator("svg[role=img]").all() if one.is_visible()]
        assert len(shown) == 1
        assert len(shown[0].get_attribute("aria-label")) > 40
        assert shown[0].bounding_box()["width"] > 250
        assert section.locator("table tbody tr").count() > 1
        assert section.locator("path, line, rect, text").count() > 10


def test_what_is_under_the_pointer_has_its_numbers(opened):
    page, _ = opened("transcripts", "desktop")
    titles = page.locator("#tools .wide title").all_text_contents()
    assert any("succeeded (" in title for title in titles)


def test_text_that_means_harm_is_text(opened):
    page, seen = opened("harm", "desktop")
    page.evaluate(
        "document.querySelectorAll('details').forEach(one => { one.removeAttribute('name'); one.open = true })"
    )
    page.wait_for_timeout(100)
    assert seen.said == []
    assert page.locator("script, img, iframe, object, embed, [onload], [onerror], style >> nth=1").count() == 0
    assert page.locator(f"text={HOSTILE[1]}").count() > 3
    assert page.locator("body").evaluate("getComputedStyle(document.querySelector('main')).display") == "block"
    assert page.locator("text={{ 7 * 7 }} {% raw %}").count() > 3


def test_the_policy_lets_no_script_run(opened):
    page, seen = opened("everything", "desktop")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'owned'";
            document.body.append(script);
            const image = new Image();
            image.src = "http://127.0.0.1:9/leak";
            document.body.append(image);
        }"""
    )
    page.wait_for_timeout(100)
    assert page.title() != "owned"
    assert len([line for line in seen.said if "Content Security Policy" in line]) == 2


def test_it_can_be_read_with_the_keyboard_alone(opened):
    page, _ = opened("everything", "desktop")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
        if page.evaluate("document.activeElement.parentElement.className") == "episode":
            break
    assert {"SUMMARY", "DIV"} <= reached  # tables that scroll can be reached too
    page.keyboard.press("Enter")
    steps = page.locator("details.episode[open] .steps > li")
    assert steps.count() > 1
    assert steps.first.is_visible()


def test_one_episode_is_open_at_a_time(opened):
    page, _ = opened("everything", "phone")
    for summary in page.locator("details.episode > summary").all()[:3]:
        summary.click()
    assert page.locator("details.episode[open]").count() == 1


def test_dark_is_dark_and_light_is_light(opened):
    colours = []
    for screen in ("desktop", "dark"):
        page, _ = opened("everything", screen)
        colours.append(
            page.evaluate(
                """() => [getComputedStyle(document.body).backgroundColor,
                          getComputedStyle(document.querySelector("#tools .wide svg text")).fill]"""
            )
        )
    light, dark = ([_brightness(colour) for colour in pair] for pair in colours)
    assert light[0] > 200 > 120 > light[1]
    assert dark[0] < 50 < 120 < dark[1]


def _brightness(colour: str) -> float:
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    return 0.3 * red + 0.59 * green + 0.11 * blue


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("memory", ["everything", "transcripts"])
def test_a_picture_of_it_can_be_taken(opened, tmp_path, memory, screen):
    page, _ = opened(memory, screen)
    page.locator("details.episode > summary").first.click()
    page.screenshot(path=tmp_path / f"{memory}-{screen}.png", full_page=True)
    assert (tmp_path / f"{memory}-{screen}.png").stat().st_size > 50_000


def test_without_a_browser_the_tests_say_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MEMORY_STORAGE_CHROMIUM", raising=False)
    with pytest.raises(RuntimeError, match="apt-get install chromium-headless-shell"):
        find_chromium()
    assert len(NAMES) == 3
    monkeypatch.setenv("MEMORY_STORAGE_CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match=str(tmp_path / "none")):
        find_chromium()
