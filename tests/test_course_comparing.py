"""The numbers of a lesson beside those it is kept with: a changed one is found and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from test_course_lessons import write_lesson

from varlen_lab.cli import main
from varlen_lab.course.comparing import compare_numbers, numbers_of, same


def cell(text: str, tolerance: float | None = 0.05, kind: str = "text/plain", **more: str) -> Any:
    metadata = {} if tolerance is None else {"tolerance": tolerance}
    output = new_output("execute_result", {kind: text, **more}, execution_count=3)
    return new_code_cell("f()", id="one", metadata=metadata, outputs=[output], execution_count=3)


def differences(kept: Any, executed: Any) -> list[str]:
    return compare_numbers(new_notebook(cells=[kept]), new_notebook(cells=[executed]), "05_train")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("8,475 documents in rows of 1,024: 99.7%", [8475, 1024, 99.7]),
        ("([84, 217, 151], (-1, 0))", [84, 217, 151, -1, 0]),
        ("fp32, tiny_llama_e1, sm_75, H100", []),
        ("max |Δ| = 9.5e-07, 1.87×, ÷ 474", [9.5e-07, 1.87, 474]),
        ("<Styler at 0x7f32> \x1b[32mok\x1b[0m 3.", [3]),
        ("", []),
    ],
)
def test_numbers_are_what_a_reader_sees_as_numbers(text: str, numbers: list[float]) -> None:
    assert numbers_of(cell(text)) == numbers


def test_a_table_is_read_from_its_html_and_a_picture_from_its_words() -> None:
    table = cell("<style>#T_1 {width: 9px}</style><td class='col7'>5.5</td>", kind="text/html", **{"text/plain": "0x1"})
    assert numbers_of(table) == [5.5]
    picture = cell("7.63 to 6.19", **{"image/png": "iVBOR1234"})
    assert numbers_of(picture) == [7.63, 6.19]


@pytest.mark.parametrize(
    ("was", "now", "tolerance", "equal"),
    [
        (7.63, 7.7, 0.05, True),
        (7.63, 8.1, 0.05, False),
        (9.5e-7, 0.0, 0.01, True),
        (9.5e-7, 1e-3, 0.01, False),
        (45, 45, 0, True),
        (45, 46, 0, False),
        (2e-5, 2.5e-5, 0, False),
        (float("nan"), 1.0, 0.05, False),
    ],
)
def test_what_a_tolerance_forgives(was: float, now: float, tolerance: float, equal: bool) -> None:
    assert same(was, now, tolerance) is equal


def test_a_changed_number_is_found_and_named() -> None:
    assert differences(cell("7.63 to 6.19"), cell("7.63 to 6.25")) == []
    assert differences(cell("7.63 to 6.19"), cell("7.63 to 5.02")) == [
        "05_train, cell [3], number 2 is 5.02, and 6.19 is kept (tolerance 0.05)"
    ]


def test_a_number_that_is_gone_or_never_was_is_said() -> None:
    assert "prints 1 number, and 2 numbers are kept" in differences(cell("7.63 to 6.19"), cell("7.63"))[0]
    assert "kept without a number" in differences(cell("none"), cell("7.63"))[0]
    assert "was not run" in differences(cell("7.63"), new_code_cell("f()", id="other"))[0]


def test_a_cell_without_tolerance_may_print_what_it_likes() -> None:
    assert differences(cell("7.63", tolerance=None), cell("-1", tolerance=None)) == []


def test_numbers_of_the_real_model_are_compared_where_it_is() -> None:
    kept, moved = cell("6.2"), cell("7.2")
    kept.metadata["tags"] = moved.metadata["tags"] = ["real"]
    books = new_notebook(cells=[kept]), new_notebook(cells=[moved])
    assert compare_numbers(*books, "00_a", real=False) == []
    assert len(compare_numbers(*books, "00_a", real=True)) == 1


@pytest.mark.slow
def test_a_walk_compares_what_ran_in_full_and_fails_where_a_number_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    right, moved = cell("6.2"), cell("6.2")
    right.source, moved.source = "6.2", "7.2"
    write_lesson(tmp_path / "notebooks" / "00_a.ipynb", right, parameters="steps: int = 3")
    write_lesson(tmp_path / "notebooks" / "01_b.ipynb", moved)
    assert main(["walkthrough", "--compare"]) == 1
    said = capsys.readouterr().out
    assert "differs: 01_b, cell [3], number 1 is 7.2, and 6.2 is kept" in said and "00_a, cell" not in said
    assert main(["walkthrough", "--compare", "--quick"]) == 0
    said = capsys.readouterr().out
    assert "not compared, for they ran quickly: 01_b" in said and "differs" not in said
