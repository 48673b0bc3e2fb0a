"""The break-it lab in a real browser, by keyboard alone: on a page without a kernel, and in JupyterLab with one.

Needs what tests/test_viz_browser.py needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from axe import violations
from browser_lab import KERNEL, choose_theme, running, served, watched
from nbformat.v4 import new_code_cell, new_notebook

from varlen_lab.course.lab.page import SCRIPT, STYLE, fragment
from varlen_lab.course.lab.record import recorded
from varlen_lab.course.lab.switches import SWITCHES
from varlen_lab.language import speaking
from varlen_lab.viz.policy import csp

pytestmark = pytest.mark.browser
KNOB, NOW, SAYS, QUIZ = ".varlen-lab-switch", "figure:nth-child(2) svg", ".varlen-lab-answer", ".varlen-lab-quiz"
WIDE, NARROW = (1280, 900), (420, 900)
PAGE = """<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>lab</title>
<meta http-equiv="Content-Security-Policy" content="{policy}"><meta name="viewport" content="width=device-width">
<style>:root {{ color-scheme: light dark; }} body {{ margin: 20px; background: #fcfbf8; color: #1b2330; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #11151b; color: #e7eaee; }} }}
{style}</style></head><body><main><h1>lab</h1>{fragment}</main><script>{script}</script></body></html>"""
Opened = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """``opened(language, size, scheme)``: the lab on a page, which says no error and asks for nothing."""
    errors: list[str] = []
    pages = []

    def go(language: str = "en", size: tuple[int, int] = WIDE, scheme: str = "light", motion: str = "reduce") -> Any:
        place = tmp_path / f"{language}.html"
        parts = {"fragment": fragment(language), "style": STYLE, "script": SCRIPT, "policy": csp([SCRIPT])}
        place.write_text(PAGE.format(language=language, **parts), encoding="utf-8")
        how = {"viewport": {"width": size[0], "height": size[1]}, "color_scheme": scheme, "reduced_motion": motion}
        page = watched(browser, errors, place.as_uri().__eq__, **how)
        page.goto(place.as_uri())
        pages.append(page)
        return page

    yield go
    for page in pages:
        page.close()
    assert errors == []


def focused(page: Any) -> str:
    """The words of what has the focus."""
    return str(page.evaluate("document.activeElement.textContent"))


def shapes(page: Any) -> str:
    """All that the second picture is drawn of."""
    return str(page.locator(NOW).evaluate("svg => svg.innerHTML"))


def to_the_board(page: Any) -> None:
    """Tab until a switch has the focus."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate(f"document.activeElement.matches('{KNOB}')"):
            return
    raise AssertionError("no switch can be reached by Tab")


def choose(page: Any, label: str) -> str:
    """Name a bug by keyboard, from wherever the focus is on the veil; what is said."""
    select = page.locator(f"{QUIZ} select")
    select.focus()
    page.keyboard.press("Home")
    while select.evaluate("one => one.selectedOptions[0].textContent") != label:
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    return str(page.locator(SAYS).inner_text())


# ------------------------------------------------------------------------------------------------- the board


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_switch_is_turned_by_keyboard_alone_and_named_by_the_audit(opened: Opened, language: str) -> None:
    page = opened(language)
    with speaking(language):
        labels = {name: each.words()["label"] for name, each in SWITCHES.items()}
    right, seen = shapes(page), set()
    to_the_board(page)
    for place, (name, label) in enumerate(labels.items()):
        if place:
            page.keyboard.press("ArrowRight")
        assert focused(page) == label
        page.keyboard.press("Space" if place % 2 else "Enter")
        assert page.locator(f"{KNOB}[aria-checked=true]").all_inner_texts() == [label]
        drawn = shapes(page)
        assert drawn != right
        seen.add((drawn, page.locator(".varlen-lab-tables").inner_text()))
        kind = recorded()["switches"][name]["findings"][0]["kind"]
        assert page.locator(f"{SAYS} [lang=en] b").all_inner_texts() == [kind]
        assert page.locator(f"{SAYS} a").get_attribute("href") == SWITCHES[name].url
        news = page.locator(".varlen-lab-news[role=status]").inner_text()
        assert kind in news and f"{recorded()['truth']:.3f}" in news and focused(page) == label
    assert len(seen) == 12
    page.keyboard.press("Enter")  # the last one, off again
    assert page.locator(f"{KNOB}[aria-checked=true]").count() == 0 and shapes(page) == right


def test_the_board_is_one_stop_of_the_tab_key_and_arrows_have_no_end(opened: Opened) -> None:
    page = opened()
    to_the_board(page)
    labels = page.locator(KNOB).all_inner_texts()
    for key, at in (("ArrowLeft", 11), ("ArrowDown", 0), ("End", 11), ("ArrowUp", 10), ("Home", 0), ("x", 0)):
        page.keyboard.press(key)
        assert focused(page) == labels[at]
    page.keyboard.press("Tab")
    assert focused(page) == "Surprise me"
    page.keyboard.press("Shift+Tab")
    assert focused(page) == labels[0]


def test_the_focus_is_seen(opened: Opened) -> None:
    page = opened()
    to_the_board(page)
    for _ in range(2):
        width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert (width, style) == ("3px", "solid")
        page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"


# ------------------------------------------------------------------------------------------------- a hidden one


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_hidden_bug_is_named_by_keyboard_alone(opened: Opened, language: str) -> None:
    page = opened(language)
    with speaking(language):
        words = {name: each.words() for name, each in SWITCHES.items()}
    to_the_board(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(QUIZ).is_visible() and not page.locator(".varlen-lab-board").is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SELECT"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # nothing chosen
    assert page.locator(f"{SAYS} dl dd").count() == 1
    for word in words.values():
        said = choose(page, word["label"])
        if page.locator(QUIZ).is_hidden():
            break
        assert word["sign"] in said and page.locator(f"{SAYS} a").count() == 0
    else:
        raise AssertionError("none of the twelve is right")
    assert word["deed"] in said and word["fix"] in said
    assert page.locator(f"{KNOB}[aria-checked=true]").all_inner_texts() == [word["label"]]
    assert page.evaluate("document.activeElement.className").startswith("varlen-lab-button")
    assert "1" in page.locator(".varlen-lab-tally").inner_text().split("12")[0]


def test_nothing_gives_a_hidden_bug_away(opened: Opened) -> None:
    """The document is the same for all of them, but for what a reader is to look at."""
    page = opened()
    frames = set()
    for place, name in enumerate(SWITCHES):
        last = bool(place)  # the one before is not among those that may come
        page.evaluate(f"Math.random = () => {(place - last + 0.5) / (12 - last)}")
        page.get_by_role("button", name="Surprise me").click()
        tree = page.locator(".varlen-lab").aria_snapshot()
        assert "- switch" not in tree and "covered" in tree and "audit says" in tree
        kind, url = recorded()["switches"][name]["findings"][0]["kind"], SWITCHES[name].url
        html = page.locator(".varlen-lab").evaluate(
            """lab => { const copy = lab.cloneNode(true);
            const looked = ".varlen-lab-news, .varlen-lab-scene, .varlen-lab-tables";
            for (const one of copy.querySelectorAll(looked)) one.remove();
            return copy.outerHTML.replaceAll(/ tabindex="-?[0-9]"/g, ""); }"""
        )
        assert url not in html and 'aria-checked="true"' not in html
        assert SWITCHES[name].deed not in tree and SWITCHES[name].sign not in tree
        assert page.locator(".varlen-lab-news").inner_text().startswith("The loss is") and f"{kind}," not in tree
        frames.add(html)
        page.get_by_role("button", name="Tell me").click()
        assert page.locator(f"{KNOB}[aria-checked=true]").inner_text() == SWITCHES[name].label
        page.locator(f"{KNOB}[aria-checked=true]").click()
    assert len(frames) == 1


@pytest.mark.parametrize("chance", [0, 0.5, 0.999])
def test_no_surprise_comes_twice_in_a_row(opened: Opened, chance: float) -> None:
    page = opened()
    page.evaluate(f"Math.random = () => {chance}")
    words = {each.label: each.sign for each in SWITCHES.values()}
    before = ""
    for turn in range(26):  # all twelve are named before the middle
        page.get_by_role("button", name="Surprise me").click()
        for label in words:
            page.locator(f"{QUIZ} select").select_option(label=label)
            page.get_by_role("button", name="Name it").click()
            if page.locator(QUIZ).is_hidden():
                break
        assert label != before, turn
        before = label
        if turn % 2:
            page.locator(f"{KNOB}[aria-checked=true]").click()  # off before the next


def test_a_switch_that_the_mouse_turns_is_where_tab_stops(opened: Opened) -> None:
    page = opened()
    for place in (5, 2):
        page.locator(KNOB).nth(place).click()
        stops = page.locator(KNOB).evaluate_all("knobs => knobs.flatMap((knob, n) => knob.tabIndex ? [] : [n])")
        assert stops == [place]


def test_labs_that_load_their_own_module_share_no_id(opened: Opened) -> None:
    page = opened()
    page.evaluate(
        """() => { const one = document.querySelector(".varlen-lab-page"), two = one.cloneNode(true);
        two.querySelector(".varlen-lab").remove();
        one.after(two);
        one.classList.remove("varlen-lab-page"); }"""
    )
    page.evaluate(SCRIPT)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert page.locator(KNOB).count() == 24 and len(ids) == len(set(ids)) == 10


# ------------------------------------------------------------------------------------------------- how it looks


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280", "420"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_fits_its_page_and_keeps_the_ground_of_it(opened: Opened, language: str, size: tuple[int, int]) -> None:
    for scheme, ink in (("light", "#1f2328"), ("dark", "#f0f6fc")):
        page = opened(language, size, scheme)
        for place in range(12):
            page.locator(KNOB).nth(place).click()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = page.locator(".varlen-lab").evaluate("lab => lab.style.getPropertyValue('--varlen-ink')")
        assert found == ink
        if pictures := os.environ.get("PICTURES"):
            page.screenshot(path=Path(pictures) / f"lab-{language}-{size[0]}-{scheme}.png", full_page=True)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_table_scrolls_sideways_at_any_width(opened: Opened, language: str) -> None:
    page = opened(language)
    beyond = "tables => tables.some((table) => table.scrollWidth > table.clientWidth)"
    for width in (320, 360, 420, 640, 700, 800, 870, 1100):
        page.set_viewport_size({"width": width, "height": 900})
        for place in (2, 5, 6, 10):  # off, then on the next
            page.locator(KNOB).nth(place).click()
            assert not page.locator(".varlen-lab-wide").evaluate_all(beyond), (width, place)


def test_nothing_moves_where_motion_is_not_wanted(opened: Opened) -> None:
    moving = "getComputedStyle(document.querySelector('.varlen-lab-switch')).transitionDuration"
    assert opened(motion="reduce").evaluate(moving) == "0s"
    assert opened(motion="no-preference").evaluate(moving) != "0s"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_axe_finds_nothing(opened: Opened, language: str, scheme: str) -> None:
    page = opened(language, WIDE, scheme)
    for state in ("off", "on", "hidden"):
        if state == "on":
            page.locator(KNOB).nth(5).click()
        if state == "hidden":
            page.locator(".varlen-lab-bar button").click()
        assert violations(page) == [], state


# ------------------------------------------------------------------------------------------------- with a kernel


def test_a_kernel_runs_what_is_turned_on_in_jupyterlab(browser: Any, tmp_path: Path) -> None:
    code = "from varlen_lab.course import break_it\n\nbreak_it()"
    choose_theme(tmp_path, "JupyterLab Dark")
    with served(tmp_path) as server:
        cells = [new_code_cell(code), new_code_cell('break_it("label at the border")')]
        nbformat.write(new_notebook(cells=cells, metadata=KERNEL), tmp_path / "lab.ipynb")
        page, errors, abroad = running(browser, server, "lab.ipynb", (1300, 1400))
        one = page.locator(".varlen-lab").nth(1)
        one.locator(".varlen-lab-news", has_text="border label").wait_for()
        assert not one.locator(KNOB).is_visible() and not one.get_by_role("button", name="Surprise me").is_visible()
        lab = page.locator(".varlen-lab").first
        assert lab.evaluate("lab => lab.style.getPropertyValue('--varlen-ink')") == "#f0f6fc"
        lab.locator(KNOB).first.focus()
        for name in list(SWITCHES)[:2]:
            page.keyboard.press("Enter")
            kind = recorded()["switches"][name]["findings"][0]["kind"]
            lab.locator(f"{SAYS} b", has_text=kind).wait_for()  # the recorded run, at once
            lab.get_by_text("measured by your kernel just now").wait_for()
            assert lab.locator(f"{SAYS} [lang=en] b").all_inner_texts() == [kind]
            assert lab.locator(f"{KNOB}[aria-checked=true]").inner_text() == SWITCHES[name].label == focused(page)
            page.keyboard.press("ArrowRight")
        for key in "abxdd":  # in a notebook these add, cut and delete cells
            page.keyboard.press(key)
            assert page.locator(".jp-Notebook .jp-Cell").count() == 2 and lab.locator(KNOB).count() == 12, key
        if pictures := os.environ.get("PICTURES"):
            page.screenshot(path=Path(pictures) / "lab-jupyterlab.png")
        page.close()
    assert errors + abroad == []
