"""The pages as people meet them who do not see, do not use a mouse, or cannot bear what moves.

axe-core says what it finds on real pages of the course, light and dark, wide and narrow; the laws it does not know are
asked here: the Tab key reaches every control in order and is never held, one sees where one is, the explorer's canvas
is told as it is seen, nothing moves for a reader who asked for that. What is broken on purpose is found.

Needs what tests/test_viz_browser.py needs, and the npm registry once (tests/axe.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from axe import violations
from browser_lab import CANVAS

from varlen_lab.course.lessons import Lesson
from varlen_lab.course.pages.api import write_api
from varlen_lab.course.site import begin_site
from varlen_lab.viz.explorer_page import page as explorer_page
from varlen_lab.viz.masks import PackedRow

pytestmark = pytest.mark.browser

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
LESSONS = ("00_why_varlen", "05_train", "12_seven_traps")  # the explorer; many outputs; solutions
PAGES = [
    *("index.html", "zh/index.html", "lab.html", "zh/lab.html"),
    *(f"{name}.html" for name in (*LESSONS, "zh/00_why_varlen", "zh/05_train")),
    "api/index.html",
    "api/varlen_lab/packing.html",
    "explorer.html",
]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 420, "height": 900}
CONTROLS = """() => {  // what the Tab key should stop at, in order: of radio buttons and switches that arrows walk one
    const seen = (e) => e.getClientRects().length && getComputedStyle(e).visibility === "visible";
    const other = (e) => e.parentElement.querySelector("[role=switch][tabindex='0']");
    const walked = (e) => e.type === "radio" ? !e.checked : e.role === "switch" && other(e) && other(e) !== e;
    const all = document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']");
    return [...all].filter((e) => seen(e) && !e.disabled && !walked(e));
}"""
WATCH = """(controls) => {  // what a focus changes on a control, beside it where the control itself is not seen
    const parts = (e) => [e, e.nextElementSibling].filter(Boolean).map((each) => {
        const s = getComputedStyle(each), drawn = s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2;
        return { ring: drawn ? s.outlineColor : "", shadow: s.boxShadow, box: each.getBoundingClientRect() };
    });
    const numbers = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
    const light = (colour) => numbers(colour).slice(0, 3).map((c) => (c /= 255) <= 0.03928 ? c / 12.92 :
        ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0.05);
    const ground = (e) => {
        for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor, alpha = numbers(colour)[3];
            if (alpha === undefined || alpha > 0.5) return colour;
        }
        return "rgb(255, 255, 255)";
    };
    const first = document.createElement("span"); // the way begins above all
    first.tabIndex = -1;
    document.body.prepend(first);
    first.focus();
    first.remove();
    window.controls = controls;
    window.where = () => {
        const e = document.activeElement, at = window.controls.indexOf(e), now = parts(e);
        if (e === document.body) return null;
        e.blur();
        const before = parts(e);
        e.focus({ preventScroll: true });
        const rung = now.filter((part, n) => part.ring && !before[n].ring);
        const shown = now.some((part, n) => part.shadow !== before[n].shadow) || rung.some((part) => {
            const [low, high] = [light(part.ring), light(ground(e.parentElement))].sort((a, b) => a - b);
            return high / low >= 3;
        });
        const box = e.getBoundingClientRect(), bar = document.querySelector(".top");
        const hidden = bar && !bar.contains(e) && box.bottom <= bar.getBoundingClientRect().bottom;
        const name = `${e.tagName} ${(e.ariaLabel || e.textContent || e.name).trim().slice(0, 40)}`;
        const scrolls = at < 0 && (e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight);
        return { at, name, shown, hidden: Boolean(hidden), scrolls };
    };
}"""
MOVING = """() => [
    ...document.getAnimations().map((each) => `animation ${each.animationName || each.transitionProperty}`),
    ...[document.documentElement, ...document.querySelectorAll("body, body *")].flatMap((e) => {
        const s = getComputedStyle(e), long = (times) => times.split(",").some((time) => parseFloat(time) > 0);
        const name = `${e.tagName} ${e.className}`;
        return [
            ...(long(s.transitionDuration) ? [`${name}: transition`] : []),
            ...(long(s.animationDuration) ? [`${name}: animation`] : []),
            ...(s.scrollBehavior === "smooth" ? [`${name}: smooth scrolling`] : []),
        ];
    }),
    ...window.glided,
]"""
GLIDED = """  // scripts that move the page or a part of it in steps
window.glided = [];
for (const [holder, name] of [
    [Element.prototype, "scrollIntoView"], [Element.prototype, "scrollTo"], [Element.prototype, "animate"],
    [window, "scrollTo"],
]) {
    const own = holder[name];
    holder[name] = function (...given) {
        if (name === "animate" || given[0]?.behavior === "smooth") window.glided.push(`${name} of a script`);
        return own.apply(this, given);
    };
}
"""
LEVELS = "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((head) => Number(head.tagName[1]))"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three lessons with the outputs they are kept with, in both languages, the functions, a file of the explorer."""
    folder = tmp_path_factory.mktemp("site")
    begin_site(folder, [Lesson(NOTEBOOKS / f"{name}.ipynb") for name in LESSONS], True)
    write_api(folder / "api")
    row = PackedRow([70, 300, 180], None, ["a", "b", ""])
    (folder / "explorer.html").write_text(explorer_page(row, [f"w{n}" for n in range(550)]), encoding="utf-8")
    return folder


@pytest.fixture
def opened(browser: Any, site: Path) -> Iterator[Callable[[str], Any]]:
    """``opened(name)``: a page of the site, 1280 pixels wide and light, for a reader who asked for less motion."""
    pages = []

    def go(name: str) -> Any:
        page = browser.new_page(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
        page.set_default_timeout(20_000)
        page.add_init_script(GLIDED)
        page.goto((site / name).as_uri())
        pages.append(page)
        return page

    yield go
    for page in pages:
        page.close()


def looked_through(page: Any) -> list[str]:
    """What axe finds with all folds open, light and dark, wide and narrow."""
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true })")
    # the shadows at the edges of what scrolls are pictures to axe, and on pictures it measures no contrast
    page.evaluate("document.querySelectorAll('.wide').forEach((box) => { box.style.background = 'none' })")
    found = []
    for size in (WIDE, NARROW):
        page.set_viewport_size(size)
        for scheme, rules in (
            ("light", ()),
            ("dark", ("color-contrast", "link-in-text-block")),
        ):  # as far as colours go
            page.emulate_media(color_scheme=scheme)
            page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            found += [f"{scheme} {size['width']} {line}" for line in violations(page, only=rules)]
    return found


def walked(page: Any) -> tuple[list[int], list[str]]:
    """Where the Tab key stops, as places among the controls, and what is wrong on the way."""
    controls = page.evaluate_handle(CONTROLS)
    page.evaluate(WATCH, controls)
    stops, wrong = [], []
    for _ in range(page.evaluate("window.controls.length") + 20):
        page.keyboard.press("Tab")
        if (at := page.evaluate("window.where()")) is None:
            break
        if not at["scrolls"]:  # the browser makes stops of what scrolls by itself
            stops.append(at["at"])
        wrong += [f"{at['name']} has the focus, and nothing shows it"] * (not at["shown"])
        wrong += [f"{at['name']} lies under the bar"] * at["hidden"]
    else:
        wrong.append(f"{at['name']} holds the Tab key")
    expected = list(range(page.evaluate("window.controls.length")))
    wrong += [] if stops == expected else [f"the Tab key stops at {stops}"]
    return stops, wrong


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_and_headings_are_in_order(name: str, opened: Callable[[str], Any]) -> None:
    page = opened(name)
    assert looked_through(page) == []
    levels = page.evaluate(LEVELS)
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.evaluate(MOVING) == []


@pytest.mark.parametrize("name", ["index.html", "lab.html", "00_why_varlen.html", *PAGES[-2:]])
def test_the_tab_key_reaches_every_control_and_one_sees_where_it_is(name: str, opened: Callable[[str], Any]) -> None:
    page = opened(name)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        stops, wrong = walked(page)
        assert len(stops) >= 8 and wrong == []
    for _ in range(6):  # backwards, where the bar that stays could lie over a control
        page.keyboard.press("Shift+Tab")
        assert not page.evaluate("window.where()")["hidden"]


def test_a_reader_who_does_not_see_the_canvas_hears_what_others_see(opened: Callable[[str], Any]) -> None:
    page = opened("explorer.html")
    canvas, live = page.locator(CANVAS), page.locator(".varlen-explorer .varlen-live")
    assert "550 tokens" in canvas.get_attribute("aria-label") and "Home" in canvas.get_attribute("aria-description")
    canvas.focus()
    heard = {}
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown", "PageDown", "End", "Home", "PageDown", "ArrowLeft"):
        page.keyboard.press(key)
        heard[key] = live.text_content()
        assert heard[key] == page.locator(".varlen-tip").inner_text()
    assert heard["Shift+ArrowDown"] == "query 10 “w10” (a +10) → key 1 “w1” (a +1): full sees, varlen sees"
    assert "query 70 " in heard["End"] and "key 549 " in heard["End"] and "full blocked, later" in heard["End"]
    assert "key 0 " in heard["Home"] and "varlen blocked, another document" in heard["Home"]
    assert heard["ArrowLeft"].startswith(
        "query 370 “w370” (document 3 +0) → key 369 “w369” (b +299): full sees, varlen"
    )
    place = canvas.evaluate(
        """(canvas) => { const { panels: [{ x, y, side }], view } = JSON.parse(canvas.dataset.state);
        const box = canvas.getBoundingClientRect(), at = (token) => (token + 0.5) * side / view.size;
        return [box.x + x + at(369), box.y + y + at(370)]; }"""
    )
    page.mouse.move(*place)
    assert page.locator(".varlen-tip").inner_text() == heard["ArrowLeft"]
    page.keyboard.press("+")
    assert live.text_content() == f"in view: queries 232 to 507, keys 231 to 506. {heard['ArrowLeft']}"
    page.keyboard.press("Escape")
    assert live.text_content() == "in view: queries 0 to 549, keys 0 to 549."
    assert not page.locator(".varlen-tip").is_visible()
    page.mouse.move(place[0] + 3, place[1])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == "zoom out"
    page.keyboard.press("Escape")  # the words under a resting pointer go, wherever the focus is
    assert not page.locator(".varlen-tip").is_visible()


@pytest.mark.parametrize("name", ["lab.html", "zh/lab.html"])
def test_the_lab_keeps_the_laws_in_every_state(name: str, opened: Callable[[str], Any]) -> None:
    """A switch is on; nobody says which is on; a wrong guess was made; it was given up."""
    page = opened(name)
    quiz = page.locator("form.varlen-lab-quiz")
    for act in (
        lambda: page.get_by_role("switch").nth(3).click(),
        lambda: page.locator(".varlen-lab-bar button").click(),
        lambda: (quiz.locator("select").select_option(index=2), quiz.locator("button").first.click()),
        lambda: quiz.locator("button").last.click(),
    ):
        act()
        assert looked_through(page) == []
        assert walked(page)[1] == [] and page.evaluate(MOVING) == []


def test_where_the_system_chooses_the_colours_one_sees_what_is_chosen(opened: Callable[[str], Any]) -> None:
    page = opened("explorer.html")
    page.emulate_media(forced_colors="active")
    chosen, other = page.locator(".varlen-radio span").evaluate_all(
        "all => all.slice(0, 2).map(each => getComputedStyle(each).backgroundColor)"
    )
    assert chosen != other
    stops, wrong = walked(page)
    assert len(stops) == 8 and wrong == []
    page = opened("lab.html")
    page.emulate_media(forced_colors="active")
    page.get_by_role("switch").nth(1).click()
    on, off = page.get_by_role("switch").evaluate_all(
        "all => all.slice(1, 3).map(each => getComputedStyle(each, '::before').backgroundColor)"
    )
    assert on != off and walked(page)[1] == []


SPOILED = {
    "label": "document.querySelectorAll('.varlen-slider').forEach(e => e.replaceWith(e.querySelector('input')))",
    "color-contrast": "document.querySelector('.varlen-summary').style.color = '#8a8a8a'",
    "aria-input-field-name": "document.querySelector('main').insertAdjacentHTML('beforeend', "
    "'<div role=slider tabindex=0 aria-valuenow=1></div>')",
    "heading-order": "document.querySelector('main').insertAdjacentHTML('beforeend', '<h5>deep</h5>')",
    "empty-table-header": "document.querySelector('main').insertAdjacentHTML('beforeend', "
    "'<table><tr><th></th><th>a</th></tr><tr><td>1</td><td>2</td></tr></table>')",
    "target-size": "document.querySelectorAll('.varlen-buttons button').forEach(e => { e.style.width = '10px'; "
    "e.style.margin = '0 -3px' })",
}


@pytest.mark.parametrize("rule", SPOILED)
def test_what_is_broken_on_purpose_is_found(rule: str, opened: Callable[[str], Any]) -> None:
    page = opened("explorer.html")
    page.evaluate(SPOILED[rule])
    assert [line for line in violations(page) if line.startswith(f"{rule} at ")]


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ("document.styleSheets[0].insertRule('* { outline: none !important }', 0)", "nothing shows it"),
        ("document.styleSheets[0].insertRule('* { outline-color: #ddd !important }', 0)", "nothing shows it"),
        ("document.querySelector('.varlen-buttons button').tabIndex = -1", "stops at"),
        ("document.querySelector('.varlen-buttons button').tabIndex = 1", "stops at"),
        (
            "document.querySelector('canvas').addEventListener('keydown', (e) => { if (e.key === 'Tab') "
            "e.preventDefault() })",
            "holds the Tab key",
        ),
    ],
)
def test_a_control_without_focus_or_that_keeps_it_is_found(
    spoiled: str, said: str, opened: Callable[[str], Any]
) -> None:
    page = opened("explorer.html")
    page.evaluate(spoiled)
    assert [line for line in walked(page)[1] if said in line]


@pytest.mark.parametrize(
    "spoiled",
    [
        "document.querySelector('canvas').style.transition = 'opacity 0.3s'",
        "document.documentElement.style.scrollBehavior = 'smooth'",
        "document.querySelector('canvas').scrollIntoView({ behavior: 'smooth' })",
        "document.querySelector('canvas').animate([{ opacity: 0 }, { opacity: 1 }], 5000)",
    ],
)
def test_what_moves_for_a_reader_who_asked_for_rest_is_found(spoiled: str, opened: Callable[[str], Any]) -> None:
    page = opened("explorer.html")
    assert page.evaluate(MOVING) == []
    page.evaluate(f"void ({spoiled})")
    assert page.evaluate(MOVING) != []
