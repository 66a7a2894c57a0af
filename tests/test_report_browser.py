"""The pages of `bench report` in Chromium; skipped if it is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from tiny import bench, commit, named, worse

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def index(full, tmp_path_factory) -> str:
    home = tmp_path_factory.mktemp("home")
    for name, share in (("rgb", 0), ("middling", 0.3), ("poor", 0.6)):
        commit(worse(named(full, name), share), home)
    assert bench("report", "--results", home / "results", "--out", home / "out").code == 0
    return (home / "out" / "index.html").as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, index) -> Iterator[Any]:
    """Open the index page, and check that the console is empty at the end."""
    messages: list[str] = []
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(index)
    yield page
    page.close()
    assert messages == []


def backbones(page: Any) -> list[str]:
    return page.locator("section.group tbody tr:visible th").all_inner_texts()


def test_a_phone_scrolls_tables_not_the_page_and_shows_all_scores(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    cells = page.locator("section.group tbody tr td:nth-child(3)")
    assert cells.count() == 3
    for cell in cells.all():
        box = cell.bounding_box()
        assert box["x"] + box["width"] <= 390
    assert "dice" in page.locator("section.group thead th:nth-child(3)").inner_text()


def test_scrollable_tables_have_a_shadow_at_the_edge(page) -> None:
    look = page.locator("section.group .scroll").first.evaluate(
        "e => [e.scrollWidth > e.clientWidth, getComputedStyle(e).backgroundAttachment]"
    )
    assert look == [True, "local, local, scroll, scroll"]


def test_printing_unfolds_details_and_does_not_break_after_headings(page) -> None:
    closed = "document.querySelectorAll('details:not([open])').length"
    before = page.evaluate(closed)
    assert before > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(closed) == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(closed) == before
    page.emulate_media(media="print")
    for kind in ("h2", "h3", "summary", ".verdict"):
        place = page.locator(f"main {kind}").first
        assert place.evaluate("e => getComputedStyle(e).breakAfter") == "avoid"


def test_a_header_sorts_by_mouse_and_by_keyboard(page) -> None:
    assert backbones(page)[0] == "rgb"
    header = page.locator("section.group th", has_text="rank").first
    header.click()
    playwright.expect(header).to_have_attribute("aria-sort", "descending")
    assert backbones(page) == ["poor", "middling", "rgb"]
    header.get_by_role("button").press("Enter")
    playwright.expect(header).to_have_attribute("aria-sort", "ascending")
    assert backbones(page) == ["rgb", "middling", "poor"]


def test_the_first_click_on_a_score_shows_the_best_row_first(page) -> None:
    page.locator("section.group th", has_text="rank").first.click()
    assert backbones(page)[0] == "poor"
    header = page.locator("section.group thead th:nth-child(3)")
    header.click()
    playwright.expect(header).to_have_attribute("aria-sort", "descending")
    assert backbones(page) == ["rgb", "middling", "poor"]


def test_text_and_selects_filter_rows(page) -> None:
    message = page.get_by_text("No run matches the filters")
    playwright.expect(message).to_be_hidden()
    page.locator("input[name=text]").fill("nobody")
    playwright.expect(message).to_be_visible()
    page.locator("input[name=text]").fill("MID")
    playwright.expect(message).to_be_hidden()
    playwright.expect(page.locator("#count")).to_have_text("1 of 3 rows")
    assert backbones(page) == ["middling"]
    page.locator("input[name=text]").fill("")
    page.locator("select[name=protocol]").select_option("full")
    playwright.expect(page.locator("#count")).to_have_text("3 of 3 rows")
    assert len(backbones(page)) == 3


def test_a_row_links_to_its_run_and_back(page) -> None:
    page.locator("section.group tbody a", has_text="poor").click()
    assert page.locator("h1").inner_text() == "poor"
    page.locator("main a", has_text="All runs").click()
    assert page.locator("h1").inner_text() == "cmd-bench report"


def test_scores_on_a_run_page_are_sorted_numerically(page) -> None:
    page.locator("section.group tbody a", has_text="poor").click()
    table = page.get_by_role("region", name="Images", exact=True)
    table.locator("thead th", has_text="dice").first.click()
    table.locator("thead th", has_text="bf1").click()
    cells = "cells => cells.map(cell => Number(cell.dataset.order))"
    place = table.locator("thead th").all_inner_texts().index("bf1") + 1
    values = table.locator(f"tbody tr > :nth-child({place})").evaluate_all(cells)
    assert len(set(values)) > 1
    assert values == sorted(values)


def test_the_theme_can_be_chosen(page) -> None:
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_sufficient_contrast(page, scheme) -> None:
    page.emulate_media(color_scheme=scheme)
    names: list[str] = ["background", "tint", "text", "muted", "accent", "chip", "warn"]
    colours = page.evaluate(
        "names => { const style = getComputedStyle(document.documentElement);"
        " return names.map(name => style.getPropertyValue('--' + name).trim()) }",
        names,
    )
    luminances = {name: luminance(colour) for name, colour in zip(names, colours, strict=True)}
    for text, ground in [(t, "background") for t in ("text", "muted", "accent")] + [
        ("muted", "tint"),
        ("warn", "chip"),
    ]:
        high, low = sorted((luminances[text], luminances[ground]), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
