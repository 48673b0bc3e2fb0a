"""Pages of notebooks that are valid and odd: huge, torn, with lost parts, or greedy for files of the machine."""

from __future__ import annotations

import base64
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from nbformat import from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell
from test_course_pages import DOT, DOT_URI, bundle, watched

from varlen_lab.course.outcomes import Outcome
from varlen_lab.course.pages.lesson import cells_html, notebook_page
from varlen_lab.course.pages.pictures import file_picture, safe_svg
from varlen_lab.course.pages.twins import twins
from varlen_lab.course.site import write_page
from varlen_lab.viz import draw_masks
from varlen_lab.viz.policy import ROW_TYPE

HALF = "\ud800"  # half a character: JSON can hold it, UTF-8 cannot


def notebook(*cells: Any) -> Any:
    """As nbformat reads it: what does not agree with its schema stays."""
    return from_dict({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def shown(*cells: Any, folder: Path = Path(".")) -> str:
    return cells_html(notebook(*cells), folder, "A lesson")


def code(*outputs: Any, **more: Any) -> Any:
    made = {"cell_type": "code", "source": "x", "metadata": {}, "outputs": list(outputs)}
    return from_dict({key: value for key, value in (made | more).items() if value is not None})


def displayed(data: Any, **more: Any) -> Any:
    return code({"output_type": "display_data", "metadata": {}, "data": data} | more)


# ------------------------------------------------------------------------------------------ files of the machine


def test_a_notebook_takes_no_picture_from_outside_its_folder(tmp_path: Path) -> None:
    inside = tmp_path / "notebooks"
    (inside / "figures").mkdir(parents=True)
    (inside / "figures" / "dot.png").write_bytes(DOT)
    (tmp_path / "private.png").write_bytes(DOT)
    (inside / "link.png").symlink_to(tmp_path / "private.png")
    assert DOT_URI in shown(new_markdown_cell("![a](figures/dot.png)"), folder=inside)
    for name in ("../private.png", str(tmp_path / "private.png"), "figures/../../private.png", "link.png"):
        assert "<img" not in shown(new_markdown_cell(f"![a]({name})"), folder=inside), name


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_is_no_picture_to_wait_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert file_picture(tmp_path, "pipe.png", "a") == ""
    assert file_picture(tmp_path, "/dev/zero", "a") == ""


# ------------------------------------------------------------------------------------------ huge


def test_of_a_huge_log_a_page_shows_the_beginning_and_the_end() -> None:
    started = time.monotonic()
    html = shown(
        code({"output_type": "stream", "name": "stdout", "text": "first\n" + "\x1b[31mred\x1b[0m\n" * 200_000 + "last"})
    )
    assert "first" in html and "last" in html and re.search(r"[\d,]+ characters are left out here", html)
    assert len(html) < 2_000_000 and time.monotonic() - started < 30


def test_of_a_huge_table_a_page_shows_the_beginning() -> None:
    table = "<table>" + ("<tr>" + "<td>1</td>" * 10 + "</tr>") * 20_000 + "</table>"
    html = shown(displayed({"text/html": table}))
    assert "Only the beginning is shown here" in html and 1_000 < html.count("<td>") < 20_000
    assert html.index("</table>") < html.index("Only the beginning")


def test_a_tag_with_attributes_without_end_is_read_in_a_moment() -> None:
    started = time.monotonic()
    attributes = " ".join(f"a{number}=1" for number in range(20_000))
    assert "words" in shown(displayed({"text/html": f"<p {attributes} title=t>words</p>"}))
    assert time.monotonic() - started < 10


def test_a_drawing_nested_without_end_is_none() -> None:
    assert safe_svg(b"<svg>" + b"<g>" * 20_000 + b"</g>" * 20_000 + b"</svg>") == b""


# ------------------------------------------------------------------------------------------ lost and torn parts


@pytest.mark.parametrize(
    "output",
    [
        {"output_type": "stream", "text": "said"},
        {"output_type": "stream", "name": "stdout", "text": ["sa", "id"]},
        {"output_type": "error", "ename": "said"},
        {"output_type": "error", "ename": "E", "evalue": "said", "traceback": None},
        {"output_type": "display_data", "data": {"text/plain": "said"}},
        {"output_type": "display_data"},
        {"output_type": "display_data", "data": None, "metadata": {}},
        {"output_type": "unheard of"},
        {"output_type": "stream", "name": "stdout"},
        {},
    ],
    ids=str,
)
def test_an_output_that_lost_a_part_shows_the_rest(output: dict[str, Any]) -> None:
    nb = notebook(code(output))
    assert ("said" in notebook_page(nb, Outcome("00_a", "A", "ok", 1.0), Path("."))) == (
        "said" in str(output).replace("', '", "")
    )


@pytest.mark.parametrize("tags", [None, "abc", [5, None], {}])
def test_odd_tags_and_no_outputs_are_no_crash(tags: Any) -> None:
    assert "x" in shown(code(metadata={"tags": tags}), code(outputs=None))


@pytest.mark.parametrize("attachments", [{}, {"a.png": {}}, {"a.png": 5}, [], None])
@pytest.mark.parametrize(
    "source", ["![words](attachment:a.png)", "![words](<attachment:a b.png>)", "![words](&#97;ttachment:b.png)"]
)
def test_an_attachment_that_is_none_leaves_its_words(source: str, attachments: Any) -> None:
    cell = from_dict({"cell_type": "markdown", "source": source, "metadata": {}, "attachments": attachments})
    assert "words" in shown(cell) and "<img" not in shown(cell)


def test_an_attachment_in_lines_is_whole() -> None:
    data = base64.b64encode(DOT).decode()
    attached = {"a.png": {"image/png": [data[:20], data[20:]]}}
    assert DOT_URI in shown(new_markdown_cell("![a](attachment:a.png)", attachments=attached))


def test_half_a_character_becomes_a_page(tmp_path: Path) -> None:
    cells = [new_markdown_cell(f"a {HALF}"), new_code_cell(f"'{HALF}'")]
    cells += [displayed({mime: f"after {HALF}"}) for mime in ("text/html", "text/markdown", "text/plain")]
    page = notebook_page(notebook(*cells), Outcome("00_a", f"A {HALF}", "ok", 1.0), tmp_path)
    write_page(tmp_path / "a.html", page)
    assert (tmp_path / "a.html").read_text(encoding="utf-8").count("after ?") == 3


@pytest.mark.parametrize(
    "row", [{"lengths": [3], "window": 2**80}, {"lengths": [3], "rows": [[1]] * 100_000}], ids=("window", "rows")
)
def test_a_row_beyond_all_measure_is_shown_otherwise(row: Any) -> None:
    html = shown(displayed({ROW_TYPE: row, "text/plain": "otherwise"}))
    assert "varlen-page" not in html and "otherwise" in html


@pytest.mark.parametrize("fold", [["nan"] * 3, [1e308, float("inf"), 0]])
def test_a_fold_that_is_no_number_gives_no_twins(fold: list[Any]) -> None:
    data, details = bundle(draw_masks([2, 4, 3]))
    assert twins(data, details | {"fold": fold}).stacked == b""


# ------------------------------------------------------------------------------------------ text of terminals


def test_commands_to_a_terminal_are_no_text() -> None:
    text = "\x1b]8;;https://a.example\x1b\\link\x1b]8;;\x1b\\ \x1b]0;title\x07 \x1b[2K\x1b(Bbell\x07 \x00end\x1b"
    html = shown(code({"output_type": "stream", "name": "stdout", "text": text}))
    assert "link" in html and "bell" in html and "end" in html
    assert not re.search("[\x00-\x08\x0b-\x1f]|a.example|title", html)


def test_the_error_that_a_page_leads_to_is_the_last() -> None:
    def error(name: str) -> Any:
        return code({"output_type": "error", "ename": name, "evalue": "", "traceback": [f"{name} \x1b[38;5;28mgreen"]})

    html = shown(error("Expected"), error("Stopped"))
    assert html.count('id="error"') == 1 and html.index("Expected") < html.index('id="error"') < html.index("Stopped")


# ------------------------------------------------------------------------------------------ colours for white paper


@pytest.mark.parametrize(
    "html, coloured",
    [
        ('<div><p style="color: navy">x</p></div>', True),
        ('<div style="background: #eef">x</div>', True),
        ('<p style="margin: 3px; background-color: #eef">x</p>', True),
        ('<p style="border-left: 4px solid #0072b2">x</p>', False),
        ('<p class="coloured">x</p>', False),
    ],
)
def test_who_chose_colours_keeps_white_paper(html: str, coloured: bool) -> None:
    for cell in (displayed({"text/html": html}), new_markdown_cell(html)):
        assert ('class="coloured"' in shown(cell)) == coloured and watched(shown(cell)) == []
