"""Lessons in a real JupyterLab: "Run All Cells" leaves no pink box, which is what JupyterLab makes of stderr.

Needs what tests/test_viz_browser.py needs. ``PICTURES=folder`` keeps a screenshot of each notebook, to look at.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from browser_lab import choose_theme, running, served, started
from nbformat.v4 import new_code_cell, new_notebook
from turns import by_turns

pytestmark = pytest.mark.browser

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
PINK = '.jp-RenderedText[data-mime-type*="stderr"]'
FAULTS = f'{PINK}, .jp-RenderedText[data-mime-type*="error"]'
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a JupyterLab, and the folder that it shows."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(NOTEBOOKS.parent / "data", home.parent / "data")  # where lessons look for it: ../data
    with served(home) as server:
        yield server, home


def run_all(lab: tuple[str, Path], path: Path, theme: str) -> list[str]:
    """What stands in boxes of stderr and errors once all cells of the notebook at ``path`` have run."""
    server, home = lab
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # what is seen is of this run
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, home / f"{theme}-{path.name}")
    choose_theme(home, THEMES[theme])
    with started() as browser:
        page, errors, abroad = running(browser, server, f"{theme}-{path.name}", (1100, 1000))
        assert page.locator("body").get_attribute("data-jp-theme-light") == str(theme == "light").lower()
        prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
        count = sum(cell.cell_type == "code" for cell in notebook.cells)
        page.wait_for_function(
            "count => [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]"
            ".filter(one => /\\d/.test(one.textContent)).length === count",
            arg=count,
            timeout=300_000,
        )
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.wait_for_timeout(500)
        assert prompts.count() == count
        found = page.locator(FAULTS).all_inner_texts()
        if pictures := os.environ.get("PICTURES"):
            page.set_viewport_size({"width": 1100, "height": 5000})
            page.locator(".jp-Notebook .jp-Cell").first.scroll_into_view_if_needed()
            page.wait_for_timeout(1000)
            page.screenshot(path=Path(pictures) / f"{path.stem}-{theme}.png")
    assert errors + abroad == []
    return found


@pytest.mark.parametrize(
    ("name", "theme"),
    by_turns(
        [
            (name, theme)
            for name in ("00_why_varlen", "04_edit_the_config", "05_train", "12_seven_traps", "15_your_model")
            for theme in THEMES
        ],
        always=0,
    ),
)
def test_run_all_cells_leaves_no_pink_box(lab: tuple[str, Path], name: str, theme: str) -> None:
    assert run_all(lab, NOTEBOOKS / f"{name}.ipynb", theme) == []


def test_a_pink_box_is_found(lab: tuple[str, Path], tmp_path: Path) -> None:
    notebook = new_notebook(cells=[new_code_cell("import sys; print('pink', file=sys.stderr)"), new_code_cell("1 / 0")])
    notebook.metadata = nbformat.read(NOTEBOOKS / "00_why_varlen.ipynb", as_version=4).metadata
    nbformat.write(notebook, tmp_path / "pink.ipynb")
    pink, error = run_all(lab, tmp_path / "pink.ipynb", "light")
    assert pink.strip() == "pink" and "ZeroDivisionError" in error
