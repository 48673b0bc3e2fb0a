"""The explorer in a page without a kernel: what the file holds, what a hostile name does in it, and that it moves.

The tests of the file read it with Python's HTML parser. Those marked ``browser`` open it in Chromium.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from expect import refused
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.language import speaking
from varlen_lab.viz.explorer import example_lengths, explore_masks
from varlen_lab.viz.explorer_page import DOCUMENT_LIMIT, SCRIPT, STYLE, TEXT_BUDGET, fragment, page, row_data
from varlen_lab.viz.explorer_words import tables
from varlen_lab.viz.masks import PackedRow
from varlen_lab.viz.policy import ROW_TYPE, csp

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"' onmouseover=alert(1) x='",
    "<!--<script>",
    "\u2028\u2029",
    "\x1b[31mred\x07",
    "\ud800",
    "\u202etxt.exe",
    "&lt;b&gt;",
    "${alert(1)}",
]


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the texts of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and data.strip():
            self.scripts.append(data)

    @property
    def data(self) -> dict[str, Any]:
        """What the first container holds."""
        return json.loads(self.scripts[0])

    def policy(self) -> str | None:
        """The Content-Security-Policy of the page."""
        return next(each["content"] for _, each in self.elements if each.get("http-equiv") == "Content-Security-Policy")


# ------------------------------------------------------------------------------------------------- the file


def test_a_page_holds_its_row_and_runs_one_script() -> None:
    row = PackedRow([2, 4, 3], 5, ["note", "essay", "letter"], causal=False)
    read = Elements(page(row, list("abcdefghi")))
    assert read.data | {"lengths": [2, 4, 3], "window": 5, "causal": False} == read.data
    assert read.data["names"] == ["note", "essay", "letter"] and read.data["tokens"] == list("abcdefghi")
    assert read.scripts[1:] == [SCRIPT] and read.policy() == csp([SCRIPT])
    assert "default-src 'none'" in csp([SCRIPT]) and "unsafe" not in csp([SCRIPT]).split("script-src")[1]
    assert not [each for _, each in read.elements if "src" in each and not str(each["src"]).startswith("data:")]


def test_the_script_is_whole_wherever_it_stands() -> None:
    assert not any(end in SCRIPT.lower() for end in ("</script", "<!--", "export ", "innerhtml", "eval("))
    assert "</style" not in STYLE.lower() and "url(" not in STYLE and "@import" not in STYLE


@given(st.lists(st.text(max_size=9), min_size=2, max_size=2), st.lists(st.text(max_size=4), min_size=7, max_size=7))
def test_any_text_stays_text(names: list[str], tokens: list[str]) -> None:
    html = fragment(row_data(PackedRow([4, 3], None, names), tokens), label=names[0])
    html.encode("utf-8")
    read = Elements(html)
    assert [tag for tag, _ in read.elements] == ["div", "script", "p"]
    assert read.data["tokens"] == tokens  # st.text() makes no half characters


def test_hostile_names_tokens_and_titles_add_no_element() -> None:
    html = page(PackedRow([1] * len(HOSTILE), None, HOSTILE), HOSTILE, " ".join(HOSTILE))
    html.encode("utf-8")
    plain = page(PackedRow([1] * len(HOSTILE), None, None))
    assert [tag for tag, _ in Elements(html).elements] == [tag for tag, _ in Elements(plain).elements]
    assert "\x1b" not in html and "\u2028" not in html and "\u202e" not in html
    assert Elements(html).data["tokens"] == [text if text != "\ud800" else "\\ud800" for text in HOSTILE]


def test_a_wide_row_is_a_small_page() -> None:
    row = PackedRow(example_lengths(1000, 131_072), None, None)
    assert len(json.dumps(row_data(row))) < 20_000
    assert len(page(row)) < 60_000


def test_texts_have_a_budget() -> None:
    row = PackedRow(example_lengths(1000, 131_072), None, ["a name of a document " * 20] * 1000)
    data = row_data(row, (" token" for _ in range(row.total)))
    assert 1000 < len(data["tokens"]) < row.total and len("".join(data["tokens"])) < TEXT_BUDGET
    assert 0 < len(data["names"]) < 1000 and len(json.dumps(data)) < 3 * TEXT_BUDGET
    assert Elements(fragment(data, label="a row")).data["tokens"] == data["tokens"]


def test_the_widget_leaves_its_row_beside_the_picture() -> None:
    explorer = explore_masks([2, 4, 3], names=["note", "essay", "\ud800"], tokens=[*"abcdefgh", "\udfff"], window=2)
    explorer.mode.value = "varlen"
    data, _ = explorer._repr_mimebundle_()
    json.dumps(data, ensure_ascii=False).encode("utf-8")
    assert data[ROW_TYPE] == row_data(
        PackedRow([2, 4, 3], 2, ["note", "essay", "\\ud800"]), [*"abcdefgh", "\\udfff"], mode="varlen"
    )
    assert Elements(fragment(json.loads(json.dumps(data[ROW_TYPE])), label="")).data == data[ROW_TYPE]


def test_the_examples_of_the_widget_go_along() -> None:
    explorer = explore_masks(dark=True)
    explorer.total.value = 131_072
    data = explorer.row_data()
    assert [len(lengths) for lengths in data["rows"]] == [count for _, count in explorer.documents.options]
    assert {sum(lengths) for lengths in data["rows"]} == {131_072} and data["lengths"] in data["rows"]
    assert data["dark"] is True and len(json.dumps(data)) < 20_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": None}, "no row of the explorer|lengths"),
        ({"lengths": ["<b>"]}, "length"),
        ({"lengths": [3, -1]}, "length -1"),
        ({"lengths": [1] * (DOCUMENT_LIMIT + 1)}, "10,001 documents"),
        ({"names": "ab"}, "lists of texts"),
        ({"names": ["a"] * 9}, "no row of the explorer"),
        ({"tokens": [1, 2]}, "lists of texts"),
        ({"tokens": {"a": 1}}, "lists of texts"),
        ({"window": "<script>"}, "window"),
        ({"mode": "<script>"}, "no row of the explorer"),
        ({"mode": ["both"]}, "no row of the explorer"),
        ({"dark": "yes"}, "no row of the explorer"),
        ({"rows": 3}, "no row of the explorer"),
        ({"rows": [[1], ["x"]]}, "length"),
    ],
)
def test_data_of_a_file_is_checked(change: dict[str, Any], message: str) -> None:
    data = row_data(PackedRow([4, 3], None, None))
    fragment(data, label="as it was")
    with refused(message):
        fragment(data | change, label="changed")


@pytest.mark.parametrize("value", [None, [], "text", {}])
def test_data_that_is_no_mapping_is_refused(value: Any) -> None:
    with refused("no row of the explorer"):
        fragment(value, label="")


# ------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., SimpleNamespace]]:
    """Opens HTML as a file: ``page``, its ``canvas`` and ``state()``. Console errors or requests fail the test."""
    opened = []

    def show_page(html: str, width: int = 1280, scheme: str = "light", **options: Any) -> SimpleNamespace:
        file = tmp_path / "page.html"
        file.write_bytes(html.encode("utf-8"))
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        shown = context.new_page()
        wrong: list[str] = []
        shown.on("console", lambda message: wrong.append(message.text))
        shown.on("pageerror", lambda error: wrong.append(str(error)))
        shown.on("dialog", lambda dialog: wrong.append(dialog.message))
        own = (file.as_uri(), "data:")
        context.on("request", lambda one: None if one.url.startswith(own) else wrong.append(one.url))
        shown.goto(file.as_uri())
        canvas = shown.locator("canvas.varlen-canvas").first
        opened.append((context, wrong))
        return SimpleNamespace(
            page=shown, canvas=canvas, wrong=wrong, state=lambda: json.loads(canvas.get_attribute("data-state"))
        )

    yield show_page
    for context, wrong in opened:
        context.close()
        assert wrong == []


def spot(at: SimpleNamespace, panel: int, key: float, query: float) -> tuple[float, float]:
    """Pixels of a place in a square; ``key`` and ``query`` in tokens."""
    now, box = at.state(), at.canvas.bounding_box()
    square, view = now["panels"][panel], now["view"]
    scale = square["side"] / view["size"]
    return (
        box["x"] + square["x"] + (key - view["key"]) * scale,
        box["y"] + square["y"] + (query - view["query"]) * scale,
    )


def wait_for(at: SimpleNamespace, **wanted: Any) -> None:
    """Until the state holds what is wanted, five seconds at most. The page's policy lets no test evaluate there."""
    for _ in range(100):
        if at.state() | wanted == at.state():
            return
        at.page.wait_for_timeout(50)
    raise AssertionError(f"{at.state()} never held {wanted}")


LETTERS = PackedRow([70, 300, 180], None, ["note", "essay", "letter"])


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_a_page_fits_and_follows_the_light(show: Callable[..., SimpleNamespace], width: int, scheme: str) -> None:
    at = show(page(LETTERS), width, scheme)
    now = at.state()
    assert (now["documents"], now["total"], now["mode"], now["dark"]) == (3, 550, "both", scheme == "dark")
    first, second = now["panels"]
    beside = first["y"] == second["y"] and first["x"] + first["side"] < second["x"]
    below = first["x"] == second["x"] and first["y"] + first["side"] < second["y"]
    assert (beside, below) == (width == 1280, width == 420)
    assert at.page.evaluate("document.documentElement.scrollWidth") <= width
    legend = at.page.locator(".varlen-kind")
    assert legend.all_inner_texts() == ["own document", "another document", "not seen"] and legend.first.is_visible()
    assert at.page.locator(".varlen-fallback").count() == 0
    at.page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    wait_for(at, dark=scheme == "light")


@pytest.mark.browser
def test_dark_stays_dark_and_paper_is_white(show: Callable[..., SimpleNamespace]) -> None:
    at = show(page(LETTERS, dark=True))
    background = "getComputedStyle(document.body).backgroundColor"
    assert at.state()["dark"] and at.page.evaluate(background) == "rgb(13, 17, 23)"
    at.page.emulate_media(media="print")
    wait_for(at, dark=False)
    assert at.page.evaluate(background) == "rgb(255, 255, 255)"
    assert not at.page.locator(".varlen-bar").is_visible() and at.page.locator(".varlen-legend").is_visible()


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 420, 700, 1280])
def test_a_wide_row_and_long_words_fit(show: Callable[..., SimpleNamespace], width: int) -> None:
    row = PackedRow([131] * 1000, 65_536, ["a_name_without_a_blank" * 9] * 1000)
    at = show(page(row, title="a_title_without_a_blank" * 9), width)
    at.page.mouse.move(*spot(at, 0, 65_000, 66_000))
    assert at.page.locator(".varlen-tip").is_visible()
    assert at.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_a_dark_explorer_is_read_on_a_light_page(show: Callable[..., SimpleNamespace]) -> None:
    part = fragment(row_data(LETTERS, dark=True), label="dark")
    at = show(f'<meta charset="utf-8"><style>{STYLE}</style>{part}<script>{SCRIPT}</script>')
    box = at.page.locator(".varlen-explorer")
    assert box.evaluate("(node) => getComputedStyle(node).backgroundColor") == "rgb(13, 17, 23)"
    assert box.evaluate("(node) => getComputedStyle(node).color") == "rgb(240, 246, 252)"


@pytest.mark.browser
def test_everything_moves_by_keyboard(show: Callable[..., SimpleNamespace]) -> None:
    at = show(page(LETTERS))

    def step(*keys: str) -> dict[str, Any]:
        for key in keys:
            at.page.keyboard.press(key)
        ring = "(node) => node && getComputedStyle(node).outlineStyle !== 'none'"
        here, beside = (
            at.page.locator(each).evaluate_all(f"(all) => all.some({ring})") for each in (":focus", ":focus + *")
        )
        assert here or beside, "the focus is not seen"
        return at.state()

    def said() -> str:
        return at.page.locator(".varlen-summary").inner_text()

    assert step("Tab", "ArrowLeft")["documents"] == 2
    assert said() == PackedRow([70, 300], None, None).summary()
    assert step("ArrowRight", "Tab", "End")["reach"] == 512
    assert said() == PackedRow([70, 300, 180], 512, None).summary()
    assert step("Home", "Tab", "ArrowRight")["mode"] == "full"
    assert [each["kind"] for each in step("ArrowRight")["panels"]] == ["varlen"]
    assert step("ArrowRight")["mode"] == "both"
    assert step("Tab", "Space")["causal"] is False
    assert said() == PackedRow([70, 300, 180], None, None, causal=False).summary()
    step("Space", "Tab", "ArrowDown")
    now = step("Shift+ArrowDown", "ArrowRight")
    assert now["cell"] | {"key": 1, "query": 10} == now["cell"]
    assert at.page.locator(".varlen-live[aria-live]").text_content() == now["says"]
    assert now["says"] == "query 10 (note +10) → key 1 (note +1): full sees, varlen sees"
    assert step("+")["view"]["size"] == 275 and step("0")["view"]["size"] == 550
    assert step("Tab", "Tab", "Tab", "Enter", "Enter")["view"]["size"] == 137.5


@pytest.mark.browser
def test_the_mouse_points_drags_and_goes_back(show: Callable[..., SimpleNamespace]) -> None:
    at = show(page(LETTERS))
    at.page.mouse.move(*spot(at, 0, 30.5, 100.5))
    assert at.state()["says"].endswith("full sees, varlen blocked, another document")
    at.page.mouse.move(*spot(at, 1, 100.5, 100.5))
    at.page.mouse.down()
    at.page.mouse.move(*spot(at, 1, 300.5, 300.5), steps=4)
    at.page.mouse.up()
    view = at.state()["view"]
    assert abs(view["key"] - 100) <= 2 and abs(view["size"] - 201) <= 3
    at.page.get_by_label("causal", exact=True).uncheck()
    assert at.state()["view"] == view, "another direction of the same row is looked at where one is"
    at.page.mouse.dblclick(*spot(at, 1, 200, 200))
    assert at.state()["view"]["size"] == 550
    at.page.get_by_role("radio", name="full causal").click()
    assert at.state()["mode"] == "full"


@pytest.mark.browser
def test_a_finger_points_and_scrolls(show: Callable[..., SimpleNamespace]) -> None:
    at = show(page(LETTERS), 420, has_touch=True, is_mobile=True)
    at.canvas.scroll_into_view_if_needed()
    at.page.touchscreen.tap(*spot(at, 0, 30.5, 100.5))
    assert at.state()["cell"] and at.page.locator(".varlen-tip").is_visible()
    assert at.canvas.evaluate("(canvas) => getComputedStyle(canvas).touchAction") == "manipulation"
    at.page.get_by_role("button", name="zoom in").tap()
    view = at.state()["view"]
    assert view["size"] == 275 and view["key"] <= at.state()["cell"]["key"] <= view["key"] + 275
    at.page.get_by_role("button", name="whole row").tap()
    assert at.state()["view"]["size"] == 550


@pytest.mark.browser
def test_hostile_texts_are_read_not_run(show: Callable[..., SimpleNamespace]) -> None:
    names = [HOSTILE[n % len(HOSTILE)] for n in range(len(HOSTILE))]
    at = show(page(PackedRow([2] * len(HOSTILE), None, names), [each for each in HOSTILE for _ in (0, 1)], HOSTILE[0]))
    for number, text in enumerate(HOSTILE):
        at.page.mouse.move(*spot(at, 0, 2 * number + 0.5, 2 * number + 0.5))
        tip = at.page.locator(".varlen-tip")
        assert tip.evaluate("(node) => node.childElementCount") == 0
        if "<" in text:
            assert text.replace(" ", "␣") in tip.inner_text()
        assert not set("\x1b\x07\u2028\u202e\ufffd") & set(tip.inner_text())
    assert at.page.locator("h1").inner_text() == HOSTILE[0] and at.page.locator("img").count() == 0


@pytest.mark.browser
def test_blanks_of_a_token_are_seen(show: Callable[..., SimpleNamespace]) -> None:
    at = show(page(PackedRow([5], None, None), [" a", "\n", "\t", "\x1b", "\u00a0"]))
    seen = []
    for token in range(5):
        at.page.mouse.move(*spot(at, 0, token + 0.5, token + 0.5))
        seen.append(at.page.locator(".varlen-tip").inner_text().split("“")[1].split("”")[0])
    assert seen == ["␣a", "↵", "⇥", "\\u{1b}", "\\u{a0}"]


@pytest.mark.browser
def test_the_browser_counts_as_python_does(show: Callable[..., SimpleNamespace]) -> None:
    """Forty rows in one page, halves to round among them, and one whose cells no double can count."""
    chance = np.random.default_rng(0)
    rows = [
        PackedRow(lengths, None, None) for lengths in ([1], [1, 1], [1, 7], [5, 3], [2**30 + 1, 2**29 + 1], [999, 1])
    ]
    for _ in range(34):
        lengths = chance.integers(1, 10 ** chance.integers(1, 5), chance.integers(1, 30)).tolist()
        window = None if chance.random() < 0.5 else int(chance.integers(1, 2000))
        rows.append(PackedRow(lengths, window, None, causal=bool(chance.random() < 0.6)))
    parts = "".join(fragment(row_data(row), label=f"row {n}") for n, row in enumerate(rows))
    html = f'<meta charset="utf-8"><style>{STYLE}</style>{parts}<script>{SCRIPT}</script>'
    at = show(html, 420)
    assert at.page.locator(".varlen-summary").all_inner_texts() == [row.summary() for row in rows]
    states = at.page.locator("canvas").evaluate_all("(all) => all.map((each) => JSON.parse(each.dataset.state).cells)")
    assert states == [{"full": str(row.cells.full), "own": str(row.cells.own)} for row in rows]
    words = at.page.locator("canvas").evaluate_all("(all) => all.map((each) => each.getAttribute('aria-label'))")
    assert all(f"{row.cells.own:,} cell" in said for row, said in zip(rows, words, strict=True))


@pytest.mark.browser
def test_examples_go_to_a_thousand_documents(show: Callable[..., SimpleNamespace]) -> None:
    part = fragment(explore_masks().row_data(), label="examples")
    at = show(f'<meta charset="utf-8"><style>{STYLE}</style>{part}<script>{SCRIPT}</script>')
    at.page.get_by_role("slider", name="documents").press("End")
    assert (at.state()["documents"], at.state()["total"]) == (1000, 2048)
    assert (
        at.page.locator(".varlen-summary").inner_text() == PackedRow(example_lengths(1000, 2048), None, None).summary()
    )


@pytest.mark.browser
def test_a_budget_that_is_spent_is_said(show: Callable[..., SimpleNamespace]) -> None:
    row = PackedRow([60_000, 40_000], None, None)
    at = show(page(row, (" token" for _ in range(row.total))))
    assert "the text of the first 11,111 of 100,000 tokens" in at.page.locator(".varlen-note").inner_text()


@pytest.mark.browser
def test_without_scripts_there_is_a_picture_and_its_words(show: Callable[..., SimpleNamespace]) -> None:
    at = show(page(LETTERS), java_script_enabled=False)
    assert at.page.locator("noscript img").is_visible() and "3 documents" in at.page.locator("img").get_attribute("alt")
    assert at.page.locator(".varlen-fallback").inner_text() == LETTERS.alt_text()


@pytest.mark.browser
def test_another_script_does_not_run(show: Callable[..., SimpleNamespace]) -> None:
    """The planted fault: one blank more than the policy knows."""
    at = show(page(LETTERS).replace(SCRIPT, SCRIPT + " "))
    assert at.canvas.count() == 0 and at.page.locator(".varlen-fallback").inner_text() == LETTERS.alt_text()
    assert "Content Security Policy" in at.wrong.pop() and at.wrong == []


# ------------------------------------------------------------------------------------------------------ in Chinese


def test_a_page_is_in_the_language_spoken_and_a_fragment_in_its_own() -> None:
    english = row_data(LETTERS)
    with speaking("zh"):
        chinese = row_data(LETTERS)
        html = page(LETTERS)
        assert 'aria-label="Attention masks of a packed row"' in fragment(
            english, label="Attention masks of a packed row"
        )
    assert (
        html.startswith('<!doctype html>\n<html lang="zh-CN">')
        and page(LETTERS).split("<html ")[1][:10] == 'lang="en">'
    )
    assert "PingFang SC" in html and "Noto Sans CJK SC" in STYLE
    assert english["language"] == "en" and chinese["language"] == "zh"
    part = fragment(chinese, label="Attention masks of a packed row")
    assert 'lang="zh-CN"' in part and "篇文档" in part and not re.search("[a-z] attention|document", part)
    old = {name: value for name, value in english.items() if name != "language"}  # of a notebook that was kept
    assert Elements(fragment(old, label="")).data == english


@pytest.mark.parametrize("language", ["xx", "EN", ["zh"], None, 3, "__proto__", "<script>"])
def test_a_language_that_there_is_not_is_refused(language: Any) -> None:
    with refused("no row of the explorer .language"):
        fragment(row_data(LETTERS) | {"language": language}, label="")


def test_every_word_of_the_browser_is_in_every_table() -> None:
    english, chinese = tables()["en"], tables()["zh"]
    assert english.keys() == chinese.keys() and tables().keys() == {"en", "zh"}
    for name, template in english.items():
        same = [[template], [chinese[name]]] if isinstance(template, str) else [template, chinese[name]]
        assert [set(re.findall(r"{\w+}", one)) for one in same[0]] == [
            set(re.findall(r"{\w+}", one)) for one in same[1]
        ]
        assert name in ("axes", "varlen", "Varlen") or "".join(map(str, same[1])) != "".join(map(str, same[0])), name
    asked = set(re.findall(r"""(?:say|fill)\(\s*(?:table\.|")(\w[\w ]*)""", SCRIPT))
    assert {"help", "place with text", "counts", "summary"} <= asked <= set(english)


def test_the_widget_speaks_as_it_was_made() -> None:
    with speaking("zh"):
        explorer = explore_masks([70, 300, 180], names=["note", "essay", "letter"])
        assert explorer.canvas.table == tables()["zh"] and explorer.documents.description == "文档"
        assert explorer.summary.value == PackedRow([70, 300, 180], None, None).summary()
        assert explorer.row_data()["language"] == "zh"
        explorer.mode.value = "full causal"
        assert explorer.canvas.mode == "full" and explorer.mode.label == "完整因果"
    assert explore_masks([3]).canvas.table == tables()["en"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 420])
def test_a_chinese_page_says_nothing_in_english(show: Callable[..., SimpleNamespace], width: int) -> None:
    with speaking("zh"):
        at = show(page(PackedRow([70, 300, 180], None, None), ["Q"] * 99), width)
        assert at.page.locator(".varlen-summary").inner_text() == PackedRow([70, 300, 180], None, None).summary()
    said = []
    for key, query in ((30.5, 100.5), (30.5, 40.5), (100.5, 30.5)):
        at.page.mouse.move(*spot(at, 0, key, query))
        said.append(at.page.locator(".varlen-tip").inner_text())
        assert said[-1] == at.state()["says"]
    shown = [at.page.locator("body").inner_text(), *said]
    for name in ("title", "aria-label", "aria-description", "aria-roledescription", "aria-valuetext"):
        shown += [one.get_attribute(name) for one in at.page.locator(f"[{name}]").all()]
    words = {word for text in shown for word in re.findall("[A-Za-z]{2,}", text)}
    keys = {"Shift", "Home", "End", "Page", "Up", "Down", "Escape"}
    assert words <= keys | {"token", "varlen", "query", "key"}
    assert at.page.locator("body").evaluate("(body) => body.scrollWidth") <= width


@pytest.mark.browser
def test_fragments_of_two_languages_share_a_page(show: Callable[..., SimpleNamespace]) -> None:
    with speaking("zh"):
        parts = fragment(row_data(LETTERS), label="a") + fragment(row_data(PackedRow([1], None, None)), label="b")
        told = [LETTERS.summary(), PackedRow([1], None, None).summary()]
    parts += fragment(row_data(LETTERS), label="c")
    at = show(f'<meta charset="utf-8"><style>{STYLE}</style>{parts}<script>{SCRIPT}</script>')
    assert at.page.locator(".varlen-summary").all_inner_texts() == [*told, LETTERS.summary()]
