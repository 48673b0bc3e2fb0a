"""Each lesson runs with every one of its parameters set otherwise, and shows something else then."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from turns import by_turns

from varlen_lab.course.comparing import text_of
from varlen_lab.course.lessons import find_lessons
from varlen_lab.course.notebooks import run_notebook

DATA = Path(__file__).resolve().parent.parent / "data" / "dialogues.jsonl"
OTHERWISE: dict[str, dict[str, Any]] = {
    "00_why_varlen": {"model": "stand-in", "place": "Paris", "quick": True},
    "01_install": {"device": "cpu", "lengths": [5, 90], "seed": 1},
    "02_find_a_config": {"words": "gemma 2b", "name": "tiny_llama_full_docstrings_e1"},
    "03_copy_the_config": {"name": "tiny_qwen_full_docstrings_e1"},
    "04_edit_the_config": {"max_length": 512, "first_row": 7},
    "05_train": {"quick": True, "device": "cpu", "steps": 2, "seed": 1, "model": "stand-in"},
    "06_convert": {"quick": True, "device": "cpu", "steps": 2, "model": "stand-in"},
    "07_three_arrays": {"steps": 20, "seed": 1, "quick": True},
    "08_for_loop": {"steps": 20, "documents": 50, "tokens": 4096, "seed": 1, "quick": True},
    "09_packing": {"data": str(DATA), "max_length": 256},
    "10_loss_and_steps": {"quick": True, "learning_rate": 1e-3, "seed": 1},
    "11_another_training": {"quick": True, "device": "cpu", "steps": 2, "seed": 1, "model": "stand-in"},
    "12_seven_traps": {"model": "stand-in", "quick": True},
    "13_states": {"kind": "mamba", "convolutions": 2, "tokens": 64, "seed": 1},
    "14_families": {"family": "qwen", "variant": "qwen3-8b", "classes": ["mamba"]},
    "15_your_model": {"quick": True, "model": "stand-in", "data": str(DATA), "steps": 3, "max_length": 128, "seed": 1}
    | {"compared": 1},
    "16_where_it_pays": {"quick": True, "seed": 1, "longest": 1024},
    "17_capstone": {"steps": 9, "quick": True},
}


def texts(path: Path) -> list[str]:
    """What the code cells of a notebook show, without the cell that papermill puts in."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    own = [cell for cell in cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    return [re.sub(r" at 0x\w+|\r", "", "".join(text_of(output) for output in cell.outputs)) for cell in own]


def test_every_parameter_of_every_lesson_is_tried() -> None:
    language = {"language"}  # the twins in notebooks/zh set it otherwise
    assert {lesson.name: set(lesson.parameters) - language for lesson in find_lessons()} == {
        name: set(parameters) for name, parameters in OTHERWISE.items()
    }


@pytest.mark.parametrize("name", by_turns(OTHERWISE, always=0))
def test_a_lesson_runs_with_other_parameters(name: str, tmp_path: Path) -> None:
    lesson = next(lesson for lesson in find_lessons() if lesson.name == name)
    outcome = run_notebook(lesson.path, tmp_path / "run.ipynb", OTHERWISE[name])
    assert outcome.error == ""
    others = zip(texts(lesson.path), texts(tmp_path / "run.ipynb"), strict=True)
    assert sum(kept != now for kept, now in others) >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("03_copy_the_config", {"name": "internlm_7b"}, "there is no config file and no config name 'internlm_7b'"),
        ("05_train", {"steps": 0}, "max_steps is 0, it must be at least 1"),
        ("08_for_loop", {"documents": 0}, "documents is 0, it must be from 1 to tokens"),
    ],
)
def test_a_value_of_the_type_that_cannot_be_is_said_in_a_sentence(
    name: str, parameters: dict[str, Any], said: str, tmp_path: Path
) -> None:
    lesson = next(lesson for lesson in find_lessons() if lesson.name == name)
    assert said in run_notebook(lesson.path, tmp_path / "run.ipynb", parameters).error
