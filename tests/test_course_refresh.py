"""What ``make notebooks`` keeps of a run: pictures and numbers, and nothing of the machine it ran on."""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from test_course_lessons import write_lesson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "docs"))
import refresh

ROW = "application/vnd.varlen-lab.row+json"


def shown(**data: Any) -> Any:
    return new_output("execute_result", {name.replace("_", "/", 1): value for name, value in data.items()})


def kept(*outputs: Any, tags: list[str] | None = None) -> Any:
    """What is kept of a cell with these outputs."""
    cell = new_code_cell("f()", id="one", metadata={"tags": tags} if tags else {})
    ran = new_code_cell("f()", id="one", outputs=list(outputs), execution_count=7)
    ran.metadata.papermill = {"duration": 1}
    return refresh.cleaned(new_notebook(cells=[cell]), new_notebook(cells=[ran])).cells[0]


def picture(colours: int = 999) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (colours, 3), dtype=np.uint8)
    image = io.BytesIO()
    Image.fromarray(pixels[None].repeat(9, 0)).save(image, "png")
    return base64.b64encode(image.getvalue()).decode()


def test_a_cell_is_counted_anew_and_its_metadata_stay() -> None:
    cell = kept(shown(text_plain="5"), tags=["walkthrough"])
    assert cell.execution_count == cell.outputs[0].execution_count == 1
    assert cell.metadata == {"tags": ["walkthrough"]}


def test_streams_are_one_and_log_lines_of_others_go() -> None:
    first = new_output("stream", name="stdout", text="[2026-11-27 02:26:52,347] [WARNING] [a.py:3] no GPU\none\r\n")
    assert kept(first, new_output("stream", name="stdout", text="two")).outputs == [
        {"output_type": "stream", "name": "stdout", "text": "one\ntwo"}
    ]
    assert kept(new_output("stream", name="stdout", text="2026-11-27 02:26:52,347 x\n")).outputs == []


def test_bars_go_and_the_explorer_keeps_its_picture_and_its_row() -> None:
    view = {refresh.WIDGET: {"model_id": "a"}}
    assert kept(new_output("display_data", view | {"text/plain": "0%|   |"})).outputs == []
    both = view | {"text/plain": "words", "image/png": picture(), ROW: {"lengths": [2, 3]}}
    assert set(kept(new_output("display_data", both)).outputs[0].data) == {"text/plain", "image/png", ROW}


def test_what_is_drawn_at_random_is_the_same_again() -> None:
    table = shown(text_html="<style>#T_0a1b2 {}</style><i id=T_0a1b2>", text_plain="<Styler at 0x7fb577503e90>")
    assert kept(table).outputs[0].data == {
        "text/html": "<style>#T_one {}</style><i id=T_one>",
        "text/plain": "<Styler>",
    }


def test_a_picture_gets_a_palette() -> None:
    small = kept(shown(image_png=picture())).outputs[0].data["image/png"]
    image = Image.open(io.BytesIO(base64.b64decode(small)))
    assert image.mode == "P" and len(image.convert("RGB").getcolors()) <= refresh.COLOURS


def test_a_cell_about_the_machine_keeps_nothing() -> None:
    assert kept(shown(text_plain="Intel, 2 cores"), tags=["machine"]).outputs == []


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (new_output("stream", name="stderr", text="pink"), "pink box"),
        (new_output("error", ename="ValueError", evalue="no", traceback=[]), "fails: ValueError: no"),
        (shown(text_plain=f"{tempfile.gettempdir()}/tmpab/x"), "tells of a machine"),
        (shown(text_plain="('/home/ann/x',)"), "tells of a machine"),
        (shown(text_html="<td>C:\\Users\\ann</td>"), "tells of a machine"),
        (shown(text_plain="started 2026-11-27 02:26"), "tells of a machine"),
        (shown(text_plain="7 " * 150_000), "bytes, at most 250,000"),
    ],
)
def test_what_must_not_be_kept_is_found(output: Any, said: str) -> None:
    cell = kept(output)
    assert any(said in sentence for sentence in refresh.unfit(new_notebook(cells=[cell])))


def test_what_may_be_kept_is_not_taken_for_a_path_or_a_date() -> None:
    fine = "1/474 of the work; https://a.org/home/x; tokens/s; 2024-5; and/or ~/x"
    assert refresh.unfit(new_notebook(cells=[kept(shown(text_plain=fine))])) == []


@pytest.mark.slow
def test_two_refreshes_write_the_same_and_a_failing_notebook_stays(tmp_path: Path) -> None:
    good = write_lesson(tmp_path / "00_a.ipynb", new_code_cell("print(6 * 7)"))
    assert refresh.refresh(good, tmp_path / "out") == []
    once = good.read_bytes()
    assert nbformat.read(good, as_version=4).cells[-1].outputs[0].text == "42\n"
    assert refresh.refresh(good, tmp_path / "out") == [] and good.read_bytes() == once
    bad = write_lesson(tmp_path / "01_b.ipynb", new_code_cell("import sys; print('pink', file=sys.stderr)"))
    before = bad.read_bytes()
    assert "pink box" in refresh.refresh(bad, tmp_path / "out")[0]
    assert bad.read_bytes() == before
