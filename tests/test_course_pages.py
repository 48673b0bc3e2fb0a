"""Pages of notebooks: what somebody else wrote does nothing there, is whole, is inside, and has words."""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from varlen_lab.course.outcomes import Outcome
from varlen_lab.course.pages.lesson import cells_html, notebook_page
from varlen_lab.course.pages.pictures import MAGIC, safe_svg
from varlen_lab.course.pages.twins import twins
from varlen_lab.viz import draw_losses, draw_masks, draw_rows

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DOT_URI = "data:image/png;base64," + base64.b64encode(DOT).decode()


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


ACTIVE_SVG = "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script><rect width='1' height='1'/></svg>"
ATTACKS = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=https://evil.example/x.js></SCRIPT>",
    "<script>alert(1)",
    '<img src="https://evil.example/a.png">',
    '<img src=x onerror="alert(1)">',
    '<img src="//evil.example/a.png">',
    '<img src="data:text/html;base64,PHNjcmlwdD4=">',
    '<img srcset="https://evil.example/a.png 2x">',
    "<img src=`javascript:alert(1)`>",
    f'<img src="data:image/svg+xml;base64,{base64_of(ACTIVE_SVG)}">',
    '<a href="javascript:alert(1)">x</a>',
    '<a href=" java\tscript:alert(1)">x</a>',
    '<a href="&#106;avascript:alert(1)">x</a>',
    '<a href="data:text/html,<script>alert(1)</script>">x</a>',
    '<a href="vbscript:x">x</a>',
    '<a href="file:///etc/passwd">x</a>',
    '<a href="#" onclick="alert(1)">x</a>',
    '<div onmouseover="alert(1)">x</div>',
    "<iframe src=https://evil.example></iframe>",
    '<iframe srcdoc="<script>alert(1)</script>"></iframe>',
    "<object data=https://evil.example/x.swf></object>",
    "<embed src=https://evil.example/x.swf>",
    '<form action="https://evil.example"><input name=a><button>go</button></form>',
    '<base href="https://evil.example/">',
    '<meta http-equiv="refresh" content="0; url=https://evil.example">',
    '<link rel=stylesheet href="https://evil.example/a.css">',
    "<style>@import 'https://evil.example/a.css';</style>",
    "<style>body { background: url(https://evil.example/a.png) }</style>",
    "<style>@font-face { font-family: a; src: url(https://evil.example/a.woff) }</style>",
    '<p style="background: url(https://evil.example/a.png)">x</p>',
    '<p style="background: u\\72l(https://evil.example/a.png)">x</p>',
    "<p style=\"background: image-set('https://evil.example/a.png' 1x)\">x</p>",
    '<p style="position: fixed; top: 0; left: 0; width: 100%; height: 100%">x</p>',
    '<p style="width: expression(alert(1))">x</p>',
    '<p style="margin-top: -900px">x</p>',
    "<svg onload=alert(1)><rect/></svg>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><a xlink:href='javascript:alert(1)'><text>x</text></a></svg>",
    "<svg><image href='https://evil.example/a.png'/></svg>",
    "<svg><foreignObject><iframe src='https://evil.example'></iframe></foreignObject></svg>",
    "<svg><style>@import 'https://evil.example/a.css'</style></svg>",
    "<svg><use href='https://evil.example/a.svg#b'/></svg>",
    "<svg><set attributeName='onmouseover' to='alert(1)'/></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
    "<math href='javascript:alert(1)'>x</math>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
    "<video poster=https://evil.example/a.png src=https://evil.example/a.mp4></video>",
    "<audio src=https://evil.example/a.mp3 autoplay></audio>",
    "<table background=https://evil.example/a.png><tr><td>x</td></tr></table>",
    "<textarea><img src=x onerror=alert(1)></textarea>",
    "<template><script>alert(1)</script></template>",
    "<!--[if IE]><script>alert(1)</script><![endif]-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "</section></main><script>alert(1)</script>",
    '<div class="varlen-page"><script type="application/json">{}</script></div>',
    '<div class="top" id="error">looks like the page</div>',
    "<input autofocus onfocus=alert(1)>",
    '<marquee onstart="alert(1)">x</marquee>',
    '<a href="https://a.example" target="_blank" ping="https://evil.example">x</a>',
]

HALF = "<scr<script>ipt>alert(1)</scr</script>ipt>"  # an attack only once something has removed its inner tags


class Watch(HTMLParser):
    """What a page has that acts or asks, as a browser reads it; drawings inside are opened too."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""

    GONE = ("script", "iframe", "object", "embed", "form", "input", "button", "base", "meta", "link", "video", "audio")
    GONE += ("svg", "math", "template", "textarea", "noscript", "style", "foreignobject", "set", "marquee", "image")
    FETCHED = ("src", "srcset", "data", "poster", "background", "xlink:href", "action", "ping")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        if tag in self.GONE:
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            value = (value or "").strip()
            if name.startswith("on"):
                self.found.append(name)
            elif name == "href" or name in self.FETCHED:
                self.address(tag, name, value)
            styled = name == "style" and re.search(r"url|image-set|expression|position|-\d|\\", value)
            if styled or (name in ("class", "id") and set(value.split()) & {"varlen-page", "top", "error"}):
                self.found.append(value)

    def address(self, tag: str, name: str, value: str) -> None:
        if value.startswith("data:image/svg+xml;base64,"):
            inner = Watch()
            inner.GONE = tuple(each for each in self.GONE if each not in ("svg", "style", "image"))
            inner.feed(base64.b64decode(value.partition(",")[2]).decode())
            self.found += inner.found
        elif name == "href":
            if not re.match(r"https?://|mailto:|#|[\w./-]+$", value) or tag != "a":
                self.found.append(value)
        elif not value.startswith("data:image/"):
            self.found.append(value)

    def handle_data(self, data: str) -> None:
        if self.inside == "style" and re.search(r"@import|url\(", data):
            self.found.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def unknown_decl(self, data: str) -> None:
        self.found.append(data)

    def handle_comment(self, data: str) -> None:
        if "script" in data:
            self.found.append(data)


def watched(html: str) -> list[str]:
    watch = Watch()
    watch.feed(html)
    return watch.found


def shown(*cells: Any, folder: Path = Path("."), **how: Any) -> str:
    return cells_html(new_notebook(cells=list(cells)), folder, "A lesson", **how)


def output(html: str = "", **data: str) -> Any:
    return new_code_cell("x", outputs=[new_output("display_data", {"text/html": html} if html else data)])


# ------------------------------------------------------------------------------------------ nothing acts, nothing asks


@pytest.mark.parametrize("attack", [*ATTACKS, HALF])
def test_no_attack_passes_in_any_cell(attack: str) -> None:
    inside = f"before\n\n{attack}\n\nafter"
    for cell in (
        new_markdown_cell(inside),
        new_markdown_cell(f"a line with {attack} in it"),
        output(f"<p>before</p>{attack}<p>after</p>"),
        new_code_cell("x", outputs=[new_output("display_data", {"text/markdown": inside})]),
        new_code_cell("x", outputs=[new_output("display_data", {"image/svg+xml": attack, "text/plain": attack})]),
        new_code_cell(attack, outputs=[new_output("stream", text=attack)], metadata={"tags": ['"><b onclick=']}),
        new_code_cell("x", outputs=[new_output("error", ename=attack, evalue=attack, traceback=[attack])]),
    ):
        found = [each for each in watched(shown(cell)) if each != "error" or "traceback" not in shown(cell)]
        assert found == [], shown(cell)


def test_the_watch_finds_the_attacks_in_nbconverts_own_page() -> None:
    from nbconvert import HTMLExporter

    stock = HTMLExporter(template_name="basic")
    unseen = []
    for attack in ATTACKS:
        made = stock.from_notebook_node(new_notebook(cells=[output(attack)]))[0]
        unseen += [] if watched(made) else [attack]
    assert unseen == []


@pytest.mark.parametrize("attack", ['"><script>alert(1)</script>', '" onerror="alert(1)'])
def test_metadata_and_pictures_are_not_markup(attack: str) -> None:
    details = {
        "image/png": {"alt": attack, "width": attack, "varlen_lab": {"dark": False, "inches": [attack], "fold": 3}}
    }
    data = base64.b64encode(DOT).decode()
    for png in (data, attack, data + attack):
        cell = new_code_cell("x", outputs=[new_output("display_data", {"image/png": png}, metadata=details)])
        assert watched(shown(cell)) == []
    nb = new_notebook(cells=[new_markdown_cell("x")])
    page = notebook_page(nb, Outcome("00_a", attack, "failed", 1.0, attack), Path("."))
    assert "<script" not in page and "onerror=" not in page.replace("&#34; onerror=&#34;", "")


def test_a_page_carries_a_policy_and_its_language() -> None:
    page = notebook_page(new_notebook(cells=[new_markdown_cell("x")]), Outcome("00_a", "A", "ok", 1.0), Path("."))
    assert (
        "default-src 'none'" in unescape(page) and "script-src 'none'" in unescape(page) and '<html lang="en">' in page
    )


def test_text_of_the_machinery_that_went_is_not_shown() -> None:
    html = shown(output("<style>td { color: red }</style><script>alert(1)</script><table><tr><td>5</td></tr></table>"))
    assert "color: red" not in html and "alert" not in html and "<td>5</td>" in html


def test_nested_without_end_is_text_or_clean_but_never_a_crash() -> None:
    assert watched(shown(output("<div>" * 30_000 + "<script>alert(1)</script>"))) == []
    assert watched(shown(new_markdown_cell("<![if" * 50 + "<b <script>"))) == []


# ------------------------------------------------------------------------------------------ what passes


def test_what_our_lessons_write_passes_whole() -> None:
    import pandas

    from varlen_lab.course.verdicts import right

    verdict = right("yes")._repr_html_()
    assert "border-left: 4px solid #0072b2" in shown(output(verdict)) and "✓ right: yes" in shown(output(verdict))
    table = shown(output(pandas.DataFrame({"a <b>": [1]})._repr_html_()))
    assert 'class="dataframe"' in table and "a &lt;b&gt;" in table and 'class="wide"' in table and "scoped" not in table
    code = shown(new_markdown_cell("```python\nx = 1  # c\n```"))
    assert 'class="highlight"' in code and 'class="c1"' in code


def test_inline_svg_becomes_a_picture_with_its_words() -> None:
    drawing = (
        "<svg viewBox='0 0 4 4'><title>Two <b></title><linearGradient id='g'/><rect width='1' fill='url(#g)'/></svg>"
    )
    html = shown(output(drawing))
    inside = base64.b64decode(re.findall(r"svg\+xml;base64,([^\"]+)", html)[0]).decode()
    assert "viewBox" in inside and "linearGradient" in inside and "url(#g)" in inside and 'alt="Two' in html


def test_matplotlibs_svg_stays_a_drawing() -> None:
    file = io.BytesIO()
    draw_masks([2, 4, 3]).savefig(file, format="svg")
    safe = safe_svg(file.getvalue())
    assert safe.count(b"<path") == file.getvalue().count(b"<path") > 10 and b"<desc>" in safe


@pytest.mark.parametrize(
    "bomb", ["<!DOCTYPE svg [<!ENTITY a 'aaaa'>]><svg>&a;</svg>", "<svg", "svg", "<html><svg/></html>"]
)
def test_what_is_no_drawing_is_none(bomb: str) -> None:
    assert safe_svg(bomb.encode()) == b""


# ------------------------------------------------------------------------------------------ folds


def open_close(html: str) -> tuple[int, int]:
    return len(re.findall(r"<details[ >]", html)), html.count("</details>")


@pytest.mark.parametrize(
    "inside",
    [
        "`answer`",
        "```python\nanswer = 21 / 30\n```",
        "- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |",
        "![dot](dot.png)",
    ],
)
def test_a_solution_stays_folded_with_all_of_it_inside(inside: str, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(DOT)
    source = f"<details><summary>Solution</summary>\n\n{inside}\n\n</details>\n\n## After"
    html = shown(new_markdown_cell(source), folder=tmp_path)
    assert open_close(html) == (1, 1) and "<details open" not in html
    folded = html[html.index("<details>") : html.index("</details>")]
    assert re.search("answer|<table>|<img", folded) and "After" not in folded
    assert "<summary>Solution</summary>" in folded


def test_stock_nbconvert_lets_the_solution_fall_out() -> None:
    """What this guards against: with pictures embedded, nbconvert closes details before what it folds."""
    from nbconvert import HTMLExporter

    cell = new_markdown_cell("<details><summary>Solution</summary>\n\nthe answer\n\n</details>")
    html = HTMLExporter(embed_images=True).from_notebook_node(new_notebook(cells=[cell]))[0]
    assert html.index("</details>") < html.index("the answer")


def test_a_fold_over_several_cells_holds_them_all() -> None:
    html = shown(
        new_markdown_cell("## Exercise\n\n<details><summary>The <b>solution</b></summary>\n\nfirst"),
        new_code_cell("answer = 42", outputs=[new_output("stream", text="42\n")]),
        new_markdown_cell("last\n\n</details>\n\n## After"),
    )
    assert open_close(html) == (1, 1)
    folded = html[html.index("<details>") : html.index("</details>")]
    assert all(word in folded for word in ("first", "answer", "42", "last", "<summary>The solution</summary>"))
    assert html.index("Exercise") < html.index("<details>") and html.index("</details>") < html.index("After")


@pytest.mark.parametrize(
    "sources",
    [
        ["<details><summary>a</summary>\n\nnever closed", "next"],
        ["</details>", "next"],
        ["```html\n<details>\n```", "next </details>"],
        ["`<details>` is a tag", "</details>next"],
        ["<details><details><summary>a</summary>x", "</details>next"],
    ],
)
def test_a_fold_that_does_not_match_closes_with_its_cell(sources: list[str]) -> None:
    html = shown(*map(new_markdown_cell, sources))
    opened, closed = open_close(html)
    assert opened == closed and "next" in html


# ------------------------------------------------------------------------------------------ links, pictures, headings


def test_links_to_lessons_lead_to_their_pages_and_dead_ones_are_words() -> None:
    cell = new_markdown_cell(
        "[next](06_convert.ipynb#b) [gone](99_x.ipynb) [up](../README.md) [web](https://a.example/b)"
    )
    html = shown(cell, pages=["06_convert"])
    assert re.findall(r'href="([^"]+)"', html) == ["06_convert.html#b", "https://a.example/b"]
    assert all(word in html for word in ("next", "gone", "up", "web"))


def test_a_page_leads_to_the_lessons_before_and_after(tmp_path: Path) -> None:
    from test_course_lessons import write_lesson

    for name in ("00_a", "01_b", "02_c"):
        write_lesson(tmp_path / f"{name}.ipynb", title=f"Lesson {name} <x>")
    nb, outcome = new_notebook(cells=[new_markdown_cell("# B")]), Outcome("01_b", "B", "ok", 1.0)
    page = notebook_page(nb, outcome, tmp_path, ["00_a", "01_b", "02_c", "index", "api/index"])
    assert page.count('rel="prev" href="00_a.html"') == page.count('rel="next" href="02_c.html"') == 2
    assert 'href="index.html"' in page and "Lesson 02_c &lt;x&gt;" in page and 'href="api/index.html"' in page
    alone = notebook_page(nb, outcome, tmp_path, [])
    assert '<a rel="' not in alone and "index.html" not in alone


@pytest.mark.parametrize(
    "source", ["![{alt}]({to})", '<img src="{to}" alt="{alt}">', '<p><img alt="{alt}" src="{to}"></p>']
)
def test_pictures_are_inside_or_become_words(source: str, tmp_path: Path) -> None:
    (tmp_path / "a dot.png").write_bytes(DOT)
    (tmp_path / "secret.png").write_text("no picture")
    local = shown(new_markdown_cell(source.format(alt="a dot", to="a%20dot.png")), folder=tmp_path)
    assert DOT_URI in local and 'alt="a dot"' in local
    remote = shown(new_markdown_cell(source.format(alt="far", to="https://a.example/x.png")), folder=tmp_path)
    assert "<img" not in remote and re.search(r'<a href="https://a.example/x.png"[^>]*>far</a>', remote)
    for gone in ("gone.png", "secret.png", "/etc/hosts", "../../etc/passwd", "a" * 5000):
        html = shown(new_markdown_cell(source.format(alt="words", to=gone)), folder=tmp_path)
        assert "<img" not in html and "words" in html


def test_an_attachment_is_inside_and_a_missing_one_is_no_crash() -> None:
    attached = {"dot.png": {"image/png": base64.b64encode(DOT).decode()}}
    assert DOT_URI in shown(new_markdown_cell("![a](attachment:dot.png)", attachments=attached))
    assert "words" in shown(new_markdown_cell("![words](attachment:gone.png)"))


@pytest.mark.parametrize("first", MAGIC)
def test_every_picture_has_alt_text(first: bytes) -> None:
    data = base64.b64encode(first + b"rest").decode()
    html = shown(
        output(**{MAGIC[first]: data}) if MAGIC[first] != "image/gif" else output(f'<img src="data:x;base64,{data}">'),
        output(f'<img src="data:{MAGIC[first]};base64,{data}">'),
        new_markdown_cell(f"![](data:{MAGIC[first]};base64,{data})"),
    )
    images = re.findall(r"<img[^>]*>", html)
    assert len(images) >= 2 and all(re.search(r'alt="[^"]+"', image) for image in images)


def test_headings_go_down_one_at_a_time_and_there_is_one_title() -> None:
    source = "# Title\n\n### deep\n\n###### deeper\n\n# Again\n\n## Two"
    levels = [int(level) for level in re.findall(r"<h(\d)", shown(new_markdown_cell(source)))]
    assert levels == [1, 2, 3, 2, 2]
    assert "<h3" in shown(new_markdown_cell("# Title"), code=False)
    untitled = notebook_page(new_notebook(cells=[]), Outcome("00_a", "T & T", "ok", 1.0), Path("."))
    assert untitled.count("<h1") == 1 and "T &amp; T" in untitled


def test_an_id_stands_once_in_a_page() -> None:
    html = shown(new_markdown_cell("## Same"), new_markdown_cell("## Same"), new_markdown_cell("## error"))
    ids = re.findall(r'id="([^"]*)"', html)
    assert len(ids) == len(set(ids)) and "error" not in ids


# ------------------------------------------------------------------------------------------ widgets, text


def test_a_widget_leaves_no_name_and_the_picture_beside_it_is_shown() -> None:
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}, "text/plain": "Output()"}
    for data in (widget, {"text/plain": "Output()"}, {"text/plain": "<IPython.core.display.Javascript object>"}):
        assert 'class="outputs"' not in shown(new_code_cell("x", outputs=[new_output("display_data", data)]))
    both = widget | {"image/png": base64.b64encode(DOT).decode()}
    assert DOT_URI in shown(new_code_cell("x", outputs=[new_output("display_data", both)]))


def test_a_row_becomes_the_live_explorer_and_what_is_none_does_not() -> None:
    from varlen_lab.viz.explorer_page import SCRIPT, row_data
    from varlen_lab.viz.masks import PackedRow

    row = "application/vnd.varlen-lab.row+json"
    data = row_data(PackedRow([2, 4, 3], None, ["</script><script>alert(1)</script>", "b", "c"]))

    def page(value: Any) -> str:
        nb = new_notebook(
            cells=[new_code_cell("x", outputs=[new_output("display_data", {row: value, "text/plain": "T"})])]
        )
        return notebook_page(nb, Outcome("00_a", "A", "ok", 1.0), Path("."))

    live = page(data)
    assert (
        '<div class="varlen-page"' in live
        and SCRIPT in live
        and "'sha256-" in unescape(live)
        and "alert(1)</script>" not in live
    )
    for wrong in ({"lengths": [-1]}, {"lengths": "<script>"}, {}, [], "x", {"lengths": [1], "names": 5}):
        assert '<div class="varlen-page"' not in page(wrong) and ">T<" in page(wrong)


def test_what_a_progress_bar_wrote_over_is_gone() -> None:
    html = shown(new_code_cell("x", outputs=[new_output("stream", text="10%\r50%\r100%\nend\r\n")]))
    assert "100%" in html and "50%" not in html and "end" in html


def test_html_that_says_nothing_gives_way_to_the_text() -> None:
    data = {"text/html": "<script>plot()</script><div id='p'></div>", "text/plain": "Plot(3 points)"}
    assert "Plot(3 points)" in shown(new_code_cell("x", outputs=[new_output("display_data", data)]))


# ------------------------------------------------------------------------------------------ twins of figures

LOSSES = {"unpacked": [2.0, 1.0, 0.5], "packed": [2.1, 1.2, 0.9], "varlen": [2.0, 1.0, 0.5 + 1e-7]}
FIGURES = {
    "masks": lambda dark: draw_masks([70, 300, 180], dark=dark),
    "cells": lambda dark: draw_masks([2, 4, 3], dark=dark),
    "rows": lambda dark: draw_rows([[4, 4], [7, 3], [3]], 10, dark=dark),
    "losses": lambda dark: draw_losses(LOSSES, dark=dark),
}


def bundle(figure: Any) -> tuple[bytes, dict[str, Any]]:
    data, details = figure._repr_mimebundle_()
    return base64.b64decode(data["image/png"]), details["image/png"]["varlen_lab"]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", FIGURES)
def test_the_dark_twin_is_the_figure_drawn_dark(name: str) -> None:
    twin = pixels(twins(*bundle(FIGURES[name](False))).dark)
    drawn = pixels(bundle(FIGURES[name](True))[0])
    off = np.abs(twin - drawn).max(axis=2)
    assert twin.shape == drawn.shape
    assert (off <= 16).mean() > 0.95 and off.mean() < 4  # edges are mixtures; surfaces are exact
    light = pixels(bundle(FIGURES[name](False))[0])
    assert np.abs(light - drawn).max(axis=2).mean() > 50  # planted: without a twin it is far off


@pytest.mark.parametrize("name", ["masks", "cells", "rows"])
def test_the_narrow_twin_holds_both_halves_at_their_scale(name: str) -> None:
    data, page = bundle(FIGURES[name](False))
    made = twins(data, page)
    whole, stack = pixels(data), pixels(made.stacked)
    assert stack.shape[1] < 0.62 * whole.shape[1] and made.narrow < 500
    ink = [(np.abs(each - [0, 0x72, 0xB2]).max(axis=2) < 9).sum() for each in (whole, stack)]
    assert abs(ink[0] - ink[1]) < 0.01 * ink[0]  # nothing blue is lost or drawn twice
    assert pixels(made.stacked_dark).shape == stack.shape


def test_a_figure_without_halves_and_a_dark_one_have_what_they_can_have() -> None:
    assert twins(*bundle(FIGURES["losses"](False))).stacked == b""
    dark = twins(*bundle(FIGURES["masks"](True)))
    assert dark.dark == dark.stacked_dark == b"" and dark.stacked


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"inches": None},
        {"inches": [0]},
        {"inches": ["a"]},
        {"inches": [8.3], "fold": [1]},
        {"inches": [8], "fold": [9, 9, 9]},
    ],
)
def test_what_was_said_wrongly_of_a_picture_is_no_crash(page: dict[str, Any]) -> None:
    twins(DOT, page)
    twins(b"no picture", page)
    twins(bundle(FIGURES["cells"](False))[0], page)


def test_a_page_has_the_twins_as_sources_and_one_alt_text() -> None:
    figure = FIGURES["masks"](False)
    data, details = figure._repr_mimebundle_()
    html = shown(new_code_cell("x", outputs=[new_output("display_data", data, metadata=details)]))
    media = re.findall(r'<source media="([^"]+)"', html)
    assert media == [
        "(max-width: 600px) and (prefers-color-scheme: dark)",
        "(max-width: 600px)",
        "(prefers-color-scheme: dark)",
    ]
    assert html.count("alt=") == 1 and "Two attention masks" in unquote(html)
