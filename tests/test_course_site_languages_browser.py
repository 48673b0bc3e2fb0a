"""The course's own pages in both languages in a real browser: no page scrolls sideways, every sign has a glyph.

Needs what tests/test_viz_browser.py needs, and a font for Chinese. No kernel runs: the pages show what is kept. Emoji
are left out: they ask for a font of their own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from varlen_lab.course.lessons import find_lessons
from varlen_lab.course.site import begin_site
from varlen_lab.viz.style import chinese_font

pytestmark = pytest.mark.browser
WIDE, NARROW = (1280, 900), (420, 900)
BOXED = """() => {
  // how a sign looks that no font has: planes for private use are empty in every font
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 40;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const drawn = (sign, font) => {
    context.clearRect(0, 0, 40, 40);
    context.font = font;
    context.fillText(sign, 4, 30);
    return context.getImageData(0, 0, 40, 40).data.join();
  };
  const boxes = new Map();
  const box = (font) => boxes.get(font) || boxes.set(font, drawn("\\u{10FFF0}", font)).get(font);
  const missing = new Set(), seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let chinese = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (parent.closest("script, style, noscript")) continue;
    const style = getComputedStyle(parent), font = `${style.fontWeight} 24px ${style.fontFamily}`;
    for (const sign of node.textContent) {
      if (/[\\s\\u200b-\\u200f\\ufe0f]|\\p{Emoji_Presentation}/u.test(sign) || seen.has(sign + font)) continue;
      seen.add(sign + font);
      chinese += /\\p{Script=Han}/u.test(sign);
      if (drawn(sign, font) === box(font)) missing.add(sign);
    }
  }
  return { missing: [...missing], chinese };
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the course before anything was run."""
    folder = tmp_path_factory.mktemp("site")
    begin_site(folder, find_lessons(), False)
    return folder


@pytest.fixture(scope="module", autouse=True)
def font() -> None:
    """Skips without a font for Chinese, and fails where a browser's tests are required."""
    if chinese_font() is None:
        missing = "no font for Chinese on this machine (apt install fonts-wqy-microhei)"
        (pytest.fail if os.environ.get("VARLEN_LAB_BROWSER") == "1" else pytest.skip)(missing)


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280", "420"])
@pytest.mark.parametrize("folder", ["", "zh"], ids=["en", "zh"])
def test_no_page_scrolls_sideways_or_says_an_error(
    folder: str, size: tuple[int, int], browser: Any, site: Path
) -> None:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
    wide = {}
    for file in sorted((site / folder).glob("*.html")):
        page.goto(file.as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        wide |= {file.name: width} if width > size[0] else {}
    page.close()
    assert (wide, errors) == ({}, [])


def test_every_sign_of_the_chinese_pages_is_drawn_by_a_font_that_has_it(browser: Any, site: Path) -> None:
    page = browser.new_page()
    found = {}
    for file in sorted((site / "zh").glob("*.html")):
        page.goto(file.as_uri())
        seen = page.evaluate(BOXED)
        assert seen["chinese"] > 40, file.name
        found |= {file.name: seen["missing"]} if seen["missing"] else {}
    page.close()
    assert found == {}


@pytest.mark.parametrize("sign", ["\U0010fffd", "\U000f1234"])
def test_a_planted_sign_that_no_font_has_is_found(sign: str, browser: Any, site: Path) -> None:
    page = browser.new_page()
    page.goto((site / "zh" / "index.html").as_uri())
    page.evaluate("sign => { document.querySelector('.claim').append(sign) }", sign)
    assert page.evaluate(BOXED)["missing"] == [sign]
    page.close()


@pytest.mark.parametrize("name", ["index", "05_train", "lab", "zh/index", "zh/05_train", "zh/lab"])
def test_the_keyboard_reaches_the_switch_and_it_leads_to_the_twin(name: str, browser: Any, site: Path) -> None:
    page = browser.new_page(viewport={"width": NARROW[0], "height": NARROW[1]})
    page.goto((site / f"{name}.html").as_uri())
    for _ in range(15):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('a[hreflang]')"):
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    twin = name.removeprefix("zh/") if name.startswith("zh/") else f"zh/{name}"
    page.wait_for_url((site / f"{twin}.html").as_uri())
    assert page.evaluate("document.documentElement.lang") == ("en" if name.startswith("zh/") else "zh-CN")
    page.close()
