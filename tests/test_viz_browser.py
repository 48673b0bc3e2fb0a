"""The mask explorer in a real browser: JupyterLab runs the mask notebook, and the canvas does what it is told.

Needs ``pip install varlen_lab[browser]`` and an installed Chromium. ``.ci/run`` sets VARLEN_LAB_BROWSER=1: there a
missing browser is a failure, elsewhere it is a skip. What is asserted is the picture's own state, which the canvas
keeps in ``data-state``, and its pixels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from axe import violations
from browser_lab import CANVAS, opened, served

from varlen_lab.viz.explorer import START, example_lengths
from varlen_lab.viz.masks import PackedRow
from varlen_lab.viz.style import LIGHT

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The notebook, run to its end in the browser: ``page``, ``canvas``, and what went wrong so far."""
    with served(tmp_path_factory.mktemp("lab")) as server, opened(server) as page:
        yield page


def state(lab: SimpleNamespace) -> dict[str, Any]:
    return json.loads(lab.canvas.get_attribute("data-state"))


def wait_for(lab: SimpleNamespace, condition: str) -> dict[str, Any]:
    """The state once ``condition`` (JavaScript, of ``state``) holds."""
    code = f"() => {{ const state = JSON.parse(document.querySelector('{CANVAS}').dataset.state); return {condition} }}"
    lab.page.wait_for_function(code)
    return state(lab)


def spot(lab: SimpleNamespace, panel: int, key: float, query: float) -> tuple[float, float]:
    """Page pixels of a place in a square; ``key`` and ``query`` in tokens."""
    now = state(lab)
    box, square = lab.canvas.bounding_box(), now["panels"][panel]
    scale = square["side"] / now["view"]["size"]
    x = square["x"] + (key - now["view"]["key"]) * scale
    return box["x"] + x, box["y"] + square["y"] + (query - now["view"]["query"]) * scale


def colour(lab: SimpleNamespace, panel: int, key: float, query: float) -> str:
    """The colour of the canvas at a place, ``#rrggbb``."""
    x, y = spot(lab, panel, key, query)
    box = lab.canvas.bounding_box()
    code = """(canvas, [x, y]) => {
        const ratio = canvas.width / canvas.clientWidth, pen = canvas.getContext("2d");
        return [...pen.getImageData(Math.round(x * ratio), Math.round(y * ratio), 1, 1).data];
    }"""
    return "#" + "".join(f"{part:02x}" for part in lab.canvas.evaluate(code, [x - box["x"], y - box["y"]])[:3])


def expect_picture(lab: SimpleNamespace, lengths: list[int]) -> None:
    """The canvas shows these documents: colours of places that only these seams explain."""
    ends = np.cumsum(lengths)
    for end, length in zip(ends.tolist(), lengths, strict=True):
        if length * state(lab)["panels"][0]["side"] < 12 * sum(lengths):
            continue  # thinner than twelve pixels
        corner = (end - 0.75 * length, end - 0.3 * length)  # key, query: inside its triangle
        assert colour(lab, 0, *corner) == colour(lab, 1, *corner) == LIGHT.own
        if end > length:
            outside = (0.5 * (end - length), end - 0.3 * length)
            assert colour(lab, 1, *outside) == LIGHT.empty
            assert colour(lab, 0, *outside) not in (LIGHT.empty, LIGHT.own)
        assert colour(lab, 0, min(end + 0.2 * length, 0.98 * sum(lengths)), end - 0.9 * length) == LIGHT.empty


def reset(lab: SimpleNamespace) -> None:
    lab.canvas.focus()
    lab.page.keyboard.press("0")
    lab.page.mouse.move(2, 2)


def handle(lab: SimpleNamespace, name: str) -> Any:
    """The handle of a slider, by the words in front of it."""
    return (
        lab.page.locator(".widget-hslider, .widget-select-slider, .jupyter-widgets")
        .filter(has=lab.page.locator(f".widget-label:text-is('{name}')"))
        .last.locator(".noUi-handle")
    )


def test_the_notebook_shows_the_row_python_sent(lab: SimpleNamespace) -> None:
    now = state(lab)
    assert (now["documents"], now["total"], now["mode"]) == (*START, "both")
    expect_picture(lab, example_lengths(*START))
    assert "packs 6 documents" in lab.canvas.get_attribute("aria-label")
    cells = PackedRow(example_lengths(*START), None, None).cells
    assert now["cells"] == {"full": str(cells.full), "own": str(cells.own)}
    assert lab.page.locator(".varlen-kind").all_inner_texts() == ["own document", "another document", "not seen"]


def test_a_slider_moves_by_keyboard_and_soon(lab: SimpleNamespace) -> None:
    slider = handle(lab, "documents")
    slider.focus()
    lab.page.keyboard.press("ArrowRight")
    now = wait_for(lab, "state.documents === 8")
    expect_picture(lab, example_lengths(8, now["total"]))
    seconds = []
    for key, documents in (("ArrowRight", 12), ("ArrowLeft", 8), ("ArrowRight", 12), ("ArrowLeft", 8)):
        start = time.perf_counter()
        lab.page.keyboard.press(key)
        wait_for(lab, f"state.documents === {documents}")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) <= 0.2, seconds  # kernel round trip, drawing included


def test_a_slider_moves_by_drag(lab: SimpleNamespace) -> None:
    box = handle(lab, "tokens").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    lab.page.mouse.move(x, y)
    lab.page.mouse.down()
    lab.page.mouse.move(x + 200, y, steps=8)
    lab.page.mouse.up()
    now = wait_for(lab, "state.total === 131072")
    assert now["view"] == {"key": 0, "query": 0, "size": 131072}
    expect_picture(lab, example_lengths(now["documents"], 131072))


def test_a_click_lets_tokens_see_what_follows(lab: SimpleNamespace) -> None:
    reset(lab)
    now = state(lab)
    first = example_lengths(now["documents"], now["total"])[0]
    later = (0.8 * first, 0.2 * first)  # key, query: above the diagonal of the first document
    box = lab.page.locator("label:has-text('causal') input[type=checkbox]")
    assert colour(lab, 1, *later) == LIGHT.empty
    box.click()
    wait_for(lab, "!state.causal")
    assert colour(lab, 1, *later) == LIGHT.own
    box.click()
    wait_for(lab, "state.causal")
    assert colour(lab, 1, *later) == LIGHT.empty


def test_the_pointer_is_told_what_lies_under_it(lab: SimpleNamespace) -> None:
    reset(lab)
    now = state(lab)
    ends = np.cumsum(example_lengths(now["documents"], now["total"]))
    for panel, key, query in ((0, 0.1, 0.9), (1, 0.1, 0.9), (0, 0.9, 0.1)):
        lab.page.mouse.move(*spot(lab, panel, key * now["total"], query * now["total"]))
        cell = wait_for(lab, f"state.cell && Math.abs(state.cell.key - {key * now['total']}) < 999")["cell"]
        said = lab.page.locator(".varlen-tip").inner_text()
        document = int(np.searchsorted(ends, cell["query"], side="right"))
        assert f"query {cell['query']:,} (document {document + 1} +" in said
        assert ("full sees, varlen blocked" in said) == (key < query)


def test_a_dragged_square_is_zoomed_and_the_keyboard_walks_in_it(lab: SimpleNamespace) -> None:
    reset(lab)
    total = state(lab)["total"]
    lab.page.mouse.move(*spot(lab, 1, 0.5 * total, 0.5 * total))
    lab.page.mouse.down()
    lab.page.mouse.move(*spot(lab, 1, 0.75 * total, 0.75 * total), steps=6)
    lab.page.mouse.up()
    view = wait_for(lab, f"state.view.size < {total // 2}")["view"]
    assert abs(view["key"] / total - 0.5) < 0.02 and abs(view["size"] / total - 0.25) < 0.02
    before = state(lab)["cell"]
    lab.page.keyboard.press("ArrowLeft")
    lab.page.keyboard.press("Shift+ArrowUp")
    after = wait_for(lab, f"state.cell.query === {before['query'] - 10}")["cell"]
    assert after["key"] == before["key"] - 1
    assert lab.page.locator(".varlen-live").text_content() == state(lab)["says"] != ""
    lab.page.keyboard.press("+")
    assert wait_for(lab, f"state.view.size < {view['size']}")["view"]["size"] == pytest.approx(view["size"] / 2, abs=1)
    lab.page.keyboard.press("0")
    assert wait_for(lab, f"state.view.size === {total}")["view"]["key"] == 0


def test_one_mask_alone(lab: SimpleNamespace) -> None:
    lab.page.get_by_role("button", name="varlen", exact=True).click()
    assert [panel["kind"] for panel in wait_for(lab, "state.mode === 'varlen'")["panels"]] == ["varlen"]
    lab.page.get_by_role("button", name="both", exact=True).click()
    assert len(wait_for(lab, "state.mode === 'both'")["panels"]) == 2


def test_a_window_narrows_the_band(lab: SimpleNamespace) -> None:
    handle(lab, "window").focus()
    lab.page.keyboard.press("End")
    now = wait_for(lab, "state.reach === 4096")
    assert colour(lab, 0, 0.2 * now["total"], 0.8 * now["total"]) == LIGHT.empty
    lab.page.keyboard.press("Home")
    wait_for(lab, f"state.reach === {now['total']}")


def test_a_screen_reader_hears_what_a_control_is_and_where_it_stands(lab: SimpleNamespace) -> None:
    """axe on what is ours of the page, and the values that are told, not places in a list."""
    assert violations(lab.page, ".jp-OutputArea-output .widget-vbox") == []
    sliders = lab.page.get_by_role("slider").all()
    names = [each.get_attribute("aria-label") for each in sliders]
    assert names == ["documents", "tokens", "window"]
    sliders[0].focus()
    lab.page.keyboard.press("Home")
    now = wait_for(lab, "state.documents < 6")
    told = "documents => document.querySelector('[role=slider]').ariaValueText === documents"
    lab.page.wait_for_function(told, arg=str(now["documents"]))
    pressed = (
        "[...document.querySelectorAll('.widget-toggle-button')].filter(e => e.ariaPressed === 'true').length === 1"
    )
    lab.page.wait_for_function(pressed)
    sliders[0].evaluate("handle => handle.removeAttribute('aria-label')")
    lab.page.wait_for_timeout(100)
    found = violations(lab.page, ".jp-OutputArea-output .widget-vbox")
    assert [line for line in found if line.startswith("aria-input-field-name")]


def test_a_thousand_documents_are_drawn_in_ten_milliseconds(lab: SimpleNamespace) -> None:
    handle(lab, "documents").focus()
    lab.page.keyboard.press("End")
    wait_for(lab, "state.documents === 1000 && state.total === 131072")
    times = []
    for key in (0.1, 0.3, 0.5, 0.7):
        lab.page.mouse.move(*spot(lab, 0, key * 131072, 0.9 * 131072))
        times.append(state(lab)["milliseconds"])
    assert min(times) <= 10, times


def test_nothing_went_wrong_and_nothing_left_the_machine(lab: SimpleNamespace) -> None:
    assert lab.errors == [] and lab.abroad == []
