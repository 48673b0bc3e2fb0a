"""The site in a real browser, opened as files: wide and narrow, light and dark, by mouse and by keyboard.

Needs what tests/test_viz_browser.py needs. The site is made of three small lessons, without a kernel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_lab import CANVAS, watched
from site_pages import comparison_html, dead_links, execute, lessons_in

from varlen_lab.course.outcomes import Outcome
from varlen_lab.course.site import begin_site, end_site

pytestmark = pytest.mark.browser
LOSSES = {"unpacked": [5.0, 4.0], "packed": [5.25, 4.0], "varlen": [5.0, 4.0 + 2e-7]}
WIDE, NARROW = (1280, 900), (420, 900)
each_way = pytest.mark.parametrize("scheme", ["light", "dark"])
each_size = pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280", "420"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second lesson ran in this walk, the first in an earlier one, the third never."""
    root = tmp_path_factory.mktemp("walk")
    lessons, folder = lessons_in(root / "notebooks"), root / "a site"
    folder.mkdir()
    execute(lessons[0], folder, "<p>EARLIER</p>")
    begin_site(folder, lessons, True)
    executed = execute(lessons[1], folder, comparison_html(LOSSES))
    (folder / "01_train.html").unlink()  # as a walk does, before it writes the new one
    outcomes = {"01_train": Outcome("01_train", "Train", "ok", 3.5, "", executed)}
    end_site(folder, lessons, outcomes, 4.0, True)
    return folder


@pytest.fixture
def opened(browser: Any, site: Path) -> Iterator[Any]:
    """``opened(name, size, scheme)``: a page of the site; at the end no page said an error or asked for anything."""
    errors: list[str] = []
    pages = []

    def go(name: str, size: tuple[int, int] = WIDE, scheme: str = "light") -> Any:
        how = {"viewport": {"width": size[0], "height": size[1]}, "color_scheme": scheme}
        page = watched(browser, errors, lambda url: ours(url, site), **how)
        page.goto((site / name).as_uri())
        pages.append(page)
        return page

    yield go
    for page in pages:
        page.close()
    assert errors == []


def ours(url: str, site: Path) -> bool:
    """Whether a request is for a page of the site, or for something inside one."""
    return url.startswith((f"{site.as_uri()}/", "data:", "blob:"))


def state(page: Any) -> dict[str, Any]:
    return json.loads(page.locator(CANVAS).first.get_attribute("data-state"))


@each_size
@each_way
def test_no_page_is_wider_than_the_window_or_says_an_error(
    size: tuple[int, int], scheme: str, opened: Any, site: Path
) -> None:
    for file in sorted(site.rglob("*.html")):
        page = opened(str(file.relative_to(site)), size, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], file.name


@each_size
@each_way
def test_words_are_dark_on_light_or_light_on_dark(size: tuple[int, int], scheme: str, opened: Any) -> None:
    """WCAG AA, 4.5 to 1, for every element of the landing page that holds words of its own."""
    page = opened("index.html", size, scheme)
    pale = page.evaluate(
        """() => {
          const linear = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
          const light = ([r, g, b]) => [r, g, b].map(linear)
            .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
          const numbers = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
          const under = (e) => {
            for (; e; e = e.parentElement) {
              const [r, g, b, a = 1] = numbers(getComputedStyle(e).backgroundColor);
              if (a > 0.5) return [r, g, b];
            }
            return [255, 255, 255];
          };
          const own = (e) => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
          const seen = [...document.querySelectorAll("body *")].filter(e => own(e) && e.getClientRects().length
            && !["SCRIPT", "STYLE", "NOSCRIPT"].includes(e.tagName) && !e.closest(".varlen-live"));
          return seen.map(e => {
            const [a, b] = [light(numbers(getComputedStyle(e).color)), light(under(e))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.className, e.textContent.trim().slice(0, 40)];
          }).filter(([ratio]) => ratio < 4.5);
        }"""
    )
    assert pale == []


def test_links_resolve_in_the_browser_too(opened: Any, site: Path) -> None:
    assert dead_links(site) == []
    page = opened("index.html")
    page.get_by_role("link", name="Train").first.click()
    assert page.url.endswith("/01_train.html") and page.locator("h1").count() == 1
    page.go_back()
    page.get_by_role("link", name="API").click()
    assert page.url.endswith("/api/index.html")


@each_size
def test_the_explorer_moves_without_a_kernel(size: tuple[int, int], opened: Any) -> None:
    page = opened("index.html", size)
    page.wait_for_selector(f"{CANVAS}[data-state]")
    before = state(page)
    slider = page.locator("#explorer input[type=range]").first
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        f"n => JSON.parse(document.querySelector('{CANVAS}').dataset.state).documents > n", arg=before["documents"]
    )
    assert state(page)["total"] == before["total"] == 2048
    page.locator(CANVAS).first.focus()
    page.keyboard.press("+")
    page.wait_for_function(f"JSON.parse(document.querySelector('{CANVAS}').dataset.state).view.size < 2048")


def test_the_keyboard_reaches_every_link_in_order_and_one_sees_where_it_is(opened: Any) -> None:
    page = opened("index.html")
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
               return [e.getAttribute('href') || e.tagName, s.outlineStyle !== 'none']; }"""
        )
        if at[0] == "BODY":
            break
        seen.append(at)
    assert [href for href, outlined in seen if not outlined] == []
    reached = [href for href, _ in seen]
    assert reached[0] == "#lessons"  # past the rest
    for link in ("#explorer", "api/index.html", "00_first.html", "01_train.html", "02_last.html"):
        assert link in reached


def test_without_scripts_the_page_still_says_what_the_explorer_shows(browser: Any, site: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((site / "index.html").as_uri())
    assert page.locator("#explorer .varlen-fallback").inner_text().strip()
    page.close()
