"""A page of a notebook in a real browser, wide and narrow, light and dark: nothing is asked for, nothing is cut.

Needs what test_viz_browser.py needs. The notebook has every kind of cell that a lesson has, and what people's have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from varlen_lab.course.outcomes import Outcome
from varlen_lab.course.pages.lesson import notebook_page
from varlen_lab.viz import draw_losses, draw_masks
from varlen_lab.viz.explorer_page import row_data
from varlen_lab.viz.masks import PackedRow
from varlen_lab.viz.policy import ROW_TYPE
from varlen_lab.viz.style import DARK, LIGHT

pytestmark = pytest.mark.browser

WORD = "unbreakable_" * 20
CUT = """() => {
    const limit = document.documentElement.clientWidth, cut = [];
    if (document.documentElement.scrollWidth > limit) cut.push("page " + document.documentElement.scrollWidth);
    for (const element of document.querySelectorAll("body *")) {
        if (element.closest(".wide, .varlen-page") || !element.getClientRects().length) continue;
        if (getComputedStyle(element).display !== "inline" && element.scrollWidth > element.clientWidth + 1 &&
            element.clientWidth) cut.push(element.tagName + " " + element.className);
        if (element.getBoundingClientRect().right > limit + 1) cut.push(element.tagName + " leaves");
    }
    return cut;
}"""


FAINT = """() => {  // texts that stand out from their ground by less than 4.5 to 1 (WCAG AA), large ones by less than 3
    const parts = (colour) => {
        const found = colour.match(/[\\d.]+/g).map(Number), unit = colour.startsWith("color(") ? 255 : 1;
        return [...found.slice(0, 3).map(each => each * unit), found.length > 3 ? found[3] : 1];
    };
    const over = (top, below) => [0, 1, 2].map(at => top[at] * top[3] + below[at] * (1 - top[3]));
    const light = (colour) => {
        const [r, g, b] = colour.map(each => ((each / 255 + 0.055) / 1.055) ** 2.4); // dark ones a little too light
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const ground = (element) => {
        if (!element) return [255, 255, 255];
        const own = parts(getComputedStyle(element).backgroundColor);
        return own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *")) {
        const texts = [...element.childNodes].filter(node => node.nodeType === 3 && node.textContent.trim());
        if (!texts.length || !element.getClientRects().length) continue;
        const style = getComputedStyle(element), below = ground(element);
        const two = [over(parts(style.color), below), below];
        const [low, high] = two.map(light).sort((a, b) => a - b);
        if (high / low < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5))
            faint.push(`${(high / low).toFixed(1)} ${element.className} ${texts[0].textContent.trim()}`);
    }
    return faint;
}"""
COLOURED = '<pre><span style="color: #000080; font-weight: bold">rich</span> plain</pre><a href="#error">link</a>'
CODE = """
%matplotlib inline
from os import path as place  # a comment
@place.cached(7, 1.5, None)
class Row(ValueError):
    \'\'\'Words.\'\'\'
    def cells(self, n: int = 0x1F) -> str:
        raise KeyError(f"{n!r}: {self.x:.2f} \\\\n" + 'x' % len(r"a")) if n is not True else self
"""
DIFF = "```diff\n@@ 1 @@\n- varlen = False\n+ varlen = True\n```\n\n```sh\nexport A=1; echo '$A' # c\n```"
TERMINAL = "".join(f"\x1b[{one}m{one} \x1b[1m{one} \x1b[0m" for one in (*range(30, 38), *range(90, 98)))


def shown(figure: Any) -> Any:
    data, details = figure._repr_mimebundle_()
    return new_code_cell("draw()", outputs=[new_output("display_data", data, metadata=details)])


def rich_notebook() -> Any:
    import pandas

    table = pandas.DataFrame({f"column_{n}": [n / 3] * 3 for n in range(14)})._repr_html_()
    row = row_data(PackedRow([70, 300, 180], None, None))
    return new_notebook(
        cells=[
            new_markdown_cell(
                f"# A title with `{WORD}`\n\ntext `{WORD}` and {WORD}\n\n| a | b |\n|---|---|\n| {WORD} | 2 |"
            ),
            new_code_cell(f"x = '{WORD}'  # a comment", outputs=[new_output("stream", text=f"{WORD} {WORD}\n" * 2)]),
            new_code_cell("table", outputs=[new_output("display_data", {"text/html": table})]),
            shown(draw_masks([70, 300, 180])),
            shown(draw_losses({"unpacked": [2.0, 1.0], "packed": [2.1, 1.2], "varlen": [2.0, 1.0]})),
            new_code_cell("explore()", outputs=[new_output("display_data", {ROW_TYPE: row})]),
            new_markdown_cell(
                f"<details><summary>Solution</summary>\n\n```python\nanswer = '{WORD}'\n```\n\nfolded\n\n</details>"
            ),
            new_code_cell(CODE, outputs=[new_output("stream", text="\x1b[38;5;28mgreen \x1b[34mblue\x1b[0m")]),
            new_markdown_cell(
                DIFF + '\n\n<div style="background: #eef">note</div>\n\nin <span style="color:navy">navy</span>'
            ),
            new_code_cell("x", outputs=[new_output("stream", text=TERMINAL)]),
            new_code_cell("x", outputs=[new_output("display_data", {"text/html": COLOURED})]),
            new_markdown_cell('<img src="https://a.example/x.png" onerror="document.title = \'ran\'">'),
            new_code_cell("1/0", outputs=[new_output("error", ename="E", evalue="e", traceback=[WORD])]),
        ]
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    html = notebook_page(rich_notebook(), Outcome("00_a", "A", "failed", 1.0, WORD), folder, ["index"])
    (folder / "00_a.html").write_text(html, encoding="utf-8")
    return folder / "00_a.html"


@pytest.fixture(params=[(width, scheme) for width in (1280, 420) for scheme in ("light", "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any, site: Path) -> Iterator[Any]:
    width, scheme = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.said, opened.asked = [], []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda made: opened.asked.append(made.url))
    opened.goto(site.as_uri())
    yield opened
    opened.close()


def test_the_page_opens_quietly_and_nothing_is_cut(page: Any, site: Path) -> None:
    page.wait_for_selector(".varlen-page canvas")
    assert page.said == []
    assert [each for each in page.asked if not each.startswith("data:")] == [site.as_uri()]
    assert page.title() == "A"
    assert page.evaluate(CUT) == []


def test_what_would_be_cut_is_found(page: Any) -> None:
    page.evaluate("document.querySelectorAll('pre').forEach(pre => { pre.style.whiteSpace = 'pre' })")
    assert any(each.startswith("PRE") for each in page.evaluate(CUT))


def test_all_text_stands_out_from_its_ground(page: Any) -> None:
    page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true })")
    assert page.evaluate(FAINT) == []


def test_faint_text_is_found(page: Any) -> None:
    page.evaluate("document.querySelector('.prose p').style.color = 'rgb(128 128 128 / 0.6)'")
    assert page.evaluate(FAINT)


def test_the_solution_is_folded_until_it_is_opened_by_keyboard(page: Any) -> None:
    folded = page.get_by_text("folded", exact=True)
    assert not folded.is_visible()
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    assert folded.is_visible()
    assert page.locator("summary").evaluate("element => getComputedStyle(element).outlineStyle") != "none"


def test_figures_follow_the_scheme_and_the_width(page: Any) -> None:
    image = page.locator("figure.ours img").first
    drawn = image.evaluate("""async image => {
        await image.decode();
        const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
        pen.drawImage(image, 0, 0);
        return [[...pen.getImageData(1, 1, 1, 1).data].slice(0, 3), image.naturalWidth / image.naturalHeight];
    }""")
    colour, ratio = "#" + "".join(f"{part:02x}" for part in drawn[0]), drawn[1]
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert colour == (DARK if dark else LIGHT).page
    assert (ratio < 0.7) == (page.viewport_size["width"] == 420)  # one square below the other


def test_every_picture_has_words_and_there_is_one_title(page: Any) -> None:
    assert page.locator("img").evaluate_all("images => images.every(image => image.alt)")
    assert page.locator("h1").count() == 1
