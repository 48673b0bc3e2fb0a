"""The Colab badge follows one setting, and its notebook runs where nothing is to be fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import badge  # noqa: E402

NOTEBOOK = ROOT / badge.NOTEBOOK


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "notebooks").mkdir()
    shutil.copy(NOTEBOOK, tmp_path / "notebooks")
    for name in badge.READMES:
        (tmp_path / name).write_text("# a\n\n<!-- badge -->\n<!-- /badge -->\nmore\n", encoding="utf-8")
    return tmp_path


def with_repository(clone: Path, repository: str) -> str:
    (clone / "pyproject.toml").write_text(f'[tool.varlen_lab]\nrepository = "{repository}"\n')
    return badge.write(clone)


def parameters(clone: Path) -> str:
    return str(nbformat.read(clone / badge.NOTEBOOK, as_version=4).cells[1].source)


def test_a_badge_comes_and_goes_with_the_setting(clone: Path) -> None:
    before = {path: path.read_bytes() for path in clone.rglob("*.*") if path.is_file()}
    assert with_repository(clone, "ann/lab") == ""
    for name in badge.READMES:
        page = MarkdownIt().render((clone / name).read_text(encoding="utf-8"))
        assert '<a href="https://colab.research.google.com/github/ann/lab/blob/main/notebooks/colab.ipynb"><img' in page
        assert "<p>more</p>" in page
    assert 'repository: str = "ann/lab"' in parameters(clone)
    assert with_repository(clone, "") == ""
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("repository", ["lab", "https://github.com/ann/lab", "ann/lab/x", "ann lab/x"])
def test_what_is_no_owner_and_name_is_refused(repository: str, clone: Path) -> None:
    assert "write it as owner/name" in with_repository(clone, repository)


def test_a_readme_without_a_place_for_it_is_named(clone: Path) -> None:
    (clone / "README_zh.md").write_text("# a\n")
    assert with_repository(clone, "") == ""
    assert "README_zh.md has no place" in with_repository(clone, "a/b")


def test_this_repository_shows_what_its_setting_says(tmp_path: Path) -> None:
    for name in (*badge.READMES, "pyproject.toml", badge.NOTEBOOK):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    assert badge.write(tmp_path) == ""
    assert all((tmp_path / name).read_bytes() == (ROOT / name).read_bytes() for name in badge.READMES)
    assert parameters(tmp_path) == parameters(ROOT)


def test_the_notebook_of_the_badge_is_no_lesson_and_installs_only_what_is_missing() -> None:
    code = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert 'if importlib.util.find_spec("varlen_lab") is None:' in code[1]
    assert not NOTEBOOK.name[0].isdigit()


@pytest.mark.slow
def test_the_notebook_of_the_badge_runs_by_papermill_without_a_network(tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    words = [str(NOTEBOOK), str(out), "-p", "steps", "3", "-k", "python3"]
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "papermill", *words],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    executed = nbformat.read(out, as_version=4)
    said = "".join(o.text for cell in executed.cells for o in cell.get("outputs", []) if o.output_type == "stream")
    assert "✗ not ok" in said and "✓ ok" in said and "varlen equals unpacked in all 3 steps" in said
