"""In a lesson's kernel what a reader did is answered in a sentence, and papermill still sees the cell fail."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from test_course_lessons import write_lesson

from varlen_lab.course.explaining import sentence
from varlen_lab.course.notebooks import run_notebook
from varlen_lab.errors import InputError

CHECK = "from varlen_lab.course import check_parameters\n\ncheck_parameters()"


def test_a_name_that_is_not_there_yet_says_what_to_run() -> None:
    said = sentence(NameError("name 'boundarys' is not defined"), {"boundaries": 1, "_x": 2})
    assert "boundarys is not there yet; run the cells above first" in said and "did you mean 'boundaries'" in said
    assert sentence(InputError("steps is 0."), {}) == "steps is 0."
    assert sentence(NameError("odd"), {}) == "odd"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("print(boundaries)", "error: boundaries is not there yet; run the cells above first"),
        (
            "from varlen_lab import load_config\nload_config('tiny_lama_full_docstrings_e1')",
            "error: there is no config",
        ),
        ("1 / 0", "Traceback"),
    ],
)
def test_a_cell_out_of_order_or_refused_shows_one_sentence(source: str, said: str, tmp_path: Path) -> None:
    path = write_lesson(tmp_path / "00_a.ipynb", new_code_cell(CHECK), new_code_cell(source))
    outcome = run_notebook(path, tmp_path / "run.ipynb")
    assert outcome.status == "failed" and outcome.error
    outputs = nbformat.read(tmp_path / "run.ipynb", as_version=4).cells[-1].outputs
    [error] = [output for output in outputs if output.output_type == "error"]
    text = "\n".join(error.traceback)
    assert said in text and (said == "Traceback" or len(error.traceback) == 1)


def test_a_kernel_that_dies_is_a_sentence_with_what_to_do(tmp_path: Path) -> None:
    die = new_code_cell("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    path = write_lesson(tmp_path / "00_a.ipynb", die, parameters="model: str = 'auto'")
    outcome = run_notebook(path, tmp_path / "run.ipynb")
    assert outcome.error.startswith("the kernel died, mostly for want of memory") and "model=stand-in" in outcome.error
