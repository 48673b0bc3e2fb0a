"""A walk into a folder where a person's files lie writes over none of them."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from varlen_lab.course import notebooks
from varlen_lab.course.lessons import find_lessons
from varlen_lab.course.pages import api
from varlen_lab.course.pages.ours import is_page
from varlen_lab.course.site import begin_site, refuse_folder_of, write_page
from varlen_lab.errors import InputError


@pytest.mark.parametrize("name", ["index.html", "api/index.html", "05_train.html", "05_train.ipynb"])
def test_a_persons_file_by_a_name_of_the_site_stops_the_walk_before_it_begins(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("<!doctype html><title>My own page</title>")
    with pytest.raises(
        InputError, match=r"was not written by a walk and would be lost; move it away, or choose another"
    ):
        notebooks.walkthrough(tmp_path, only=["05"])
    assert theirs.read_text() == "<!doctype html><title>My own page</title>"
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [theirs]


@pytest.mark.slow
def test_a_site_of_ours_is_written_anew(tmp_path: Path) -> None:
    lessons = find_lessons()
    begin_site(tmp_path, lessons, quick=False)
    assert all(is_page(page) for page in tmp_path.rglob("*.html"))
    refuse_folder_of(lessons, tmp_path)
    begin_site(tmp_path, lessons, quick=False)


def test_a_page_that_is_not_named_is_not_written_over(tmp_path: Path) -> None:
    """``run mine.ipynb -o out.ipynb`` writes out.html, which nobody asked for."""
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "mine.ipynb")
    (tmp_path / "out.html").write_text("mine")
    with pytest.raises(InputError, match=r"out\.html was not written by a walk"):
        notebooks.run_notebook(tmp_path / "mine.ipynb", tmp_path / "out.ipynb")
    assert (tmp_path / "out.html").read_text() == "mine"


def test_what_else_lies_in_the_folder_of_the_functions_stays(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    (tmp_path / "api" / "v1").mkdir(parents=True)
    (tmp_path / "api" / "v1" / "server.py").write_text("mine")
    write_page(tmp_path / "api" / "index.html", api.no_api("not yet"))
    write_page(tmp_path / "api" / "gone.html", api.no_api("a room that is no more"))
    assert api.write_api(tmp_path / "api")
    assert (tmp_path / "api" / "v1" / "server.py").read_text() == "mine"
    assert not (tmp_path / "api" / "gone.html").exists() and is_page(tmp_path / "api" / "index.html")
