"""A lesson's parameters are read from its file, and a typo in one is refused before anything runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from varlen_lab.course.lessons import DIFFICULTIES, PAGES, RUNNING, Lesson, find_lesson, find_lessons
from varlen_lab.course.parameters import value_of
from varlen_lab.errors import InputError

PARAMETERS = "quick = False\ndevice = 'auto'\nsteps = 30\nlr: float = 1e-3\nname = None"


def write_lesson(path: Path, *cells: object, title: str = "A lesson", parameters: str = PARAMETERS) -> Path:
    head = [new_markdown_cell(f"# {title}"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = new_notebook(cells=[*head, *cells])
    notebook.metadata.kernelspec = {"name": "no-such-kernel", "display_name": "?", "language": "python"}
    nbformat.write(notebook, path)
    return path


def test_parameters_are_read_from_the_tagged_cell(tmp_path: Path) -> None:
    lesson = Lesson(write_lesson(tmp_path / "00_a.ipynb", new_code_cell("other = 1")))
    assert lesson.parameters == {"quick": False, "device": "auto", "steps": 30, "lr": 1e-3, "name": None}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"quik": True}, "did you mean 'quick'?"),
        ({"zzz": 1}, "it has quick, device, steps, lr, name"),
        ({"quick": 1}, "must be bool"),
        ({"steps": "many"}, "must be int"),
        ({"steps": True}, "must be int"),
    ],
)
def test_unknown_or_wrong_parameter_is_refused(tmp_path: Path, parameters: dict, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        Lesson(write_lesson(tmp_path / "00_a.ipynb")).check(parameters)


@pytest.mark.parametrize("parameters", [{"lr": 1}, {"name": "x"}, {"name": 3}, {"steps": 5, "quick": True}])
def test_fitting_parameter_is_accepted(tmp_path: Path, parameters: dict) -> None:
    Lesson(write_lesson(tmp_path / "00_a.ipynb")).check(parameters)


def test_parameters_cell_that_is_not_plain_python_is_named(tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "00_a.ipynb", parameters="%matplotlib inline\nquick = False")
    with pytest.raises(InputError, match="line 1"):
        Lesson(lesson).parameters  # noqa: B018


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20", 20),
        ("1e-3", 1e-3),
        ("True", True),
        ("false", False),
        ("none", None),
        ("cpu", "cpu"),
        ("a=b", "a=b"),
    ],
)
def test_words_of_the_command_line_become_values(text: str, value: object) -> None:
    assert value_of(text) == value and type(value_of(text)) is type(value)


def test_minutes_and_difficulty_are_read_from_metadata_and_may_be_missing(tmp_path: Path) -> None:
    path = write_lesson(tmp_path / "00_a.ipynb")
    assert (Lesson(path).minutes, Lesson(path).difficulty) == (None, None)
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata |= {"minutes": 12, "difficulty": "hard"}
    nbformat.write(notebook, path)
    assert (Lesson(path).minutes, Lesson(path).difficulty) == (12, "hard")
    notebook.metadata |= {"minutes": "long", "difficulty": "<b>"}
    nbformat.write(notebook, path)
    assert (Lesson(path).minutes, Lesson(path).difficulty) == (None, None)


def test_every_lesson_states_its_time_and_difficulty() -> None:
    for lesson in find_lessons():
        assert lesson.minutes and 5 <= lesson.minutes <= 30 and lesson.difficulty in DIFFICULTIES, lesson.name


def test_a_walk_gives_quick_to_the_lessons_that_have_it_and_a_device_only_where_there_is_one(tmp_path: Path) -> None:
    has = Lesson(write_lesson(tmp_path / "00_a.ipynb"))
    has_not = Lesson(write_lesson(tmp_path / "01_b.ipynb", parameters="steps: int = 3"))
    assert has.walked_with(quick=True, device="cpu") == {"quick": True, "device": "cpu"}
    assert has_not.walked_with(quick=True, device=None) == {} == has.walked_with(quick=False, device=None)
    with pytest.raises(InputError, match="01_b has no parameter device"):
        has_not.walked_with(quick=False, device="cpu")


@pytest.mark.parametrize("package", [*RUNNING, *PAGES])
def test_without_a_package_of_the_extra_a_lesson_is_refused_in_a_sentence(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lesson(tmp_path / "00_a.ipynb")
    assert Lesson(path).title == "A lesson"
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"^{package} is not installed; pip install 'varlen_lab\[notebooks\]'"):
        _ = Lesson(path).title


def test_a_lesson_is_found_by_its_number_with_and_without_the_nought() -> None:
    assert find_lesson("5").name == find_lesson("05").name == find_lesson("05_train.ipynb").name == "05_train"


def test_a_notebook_that_is_not_there_is_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the lessons, where there are none; and never a lesson of that name for a file of another folder."""
    write_lesson(tmp_path / "05_mine.ipynb")
    with pytest.raises(InputError, match="did you mean '05_mine"):
        find_lesson(str(tmp_path / "05_mime.ipynb"))

    def none() -> list[Lesson]:
        raise InputError("there are no notebooks here")

    monkeypatch.setattr("varlen_lab.course.lessons.find_lessons", none)
    with pytest.raises(InputError, match=r"no notebook nothere\.ipynb; check the path"):
        find_lesson("nothere.ipynb")
    with pytest.raises(InputError, match="there are no notebooks here"):
        find_lesson("05")


# ------------------------------------------------------------------------------------------ twins


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two lessons, one of which has a twin."""
    write_lesson(tmp_path / "notebooks" / "05_train.ipynb")
    write_lesson(tmp_path / "notebooks" / "06_convert.ipynb")
    write_lesson(tmp_path / "notebooks" / "zh" / "05_train.ipynb", title="训练", parameters='language: str = "zh"')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_twin_is_found_by_its_language_and_leads_back(clone: Path) -> None:
    [twin] = find_lessons("zh")
    for word in ("zh/05", "zh/5", "zh/05_train", "zh/05_train.ipynb", "notebooks/zh/05", "notebooks/zh/05_train.ipynb"):
        assert find_lesson(word) == twin, word
    assert find_lesson("05", [twin]) == twin and find_lesson("en/05") == find_lesson("05") == twin.twin
    assert (twin.title, twin.language, twin.address, twin.name) == ("训练", "zh", "zh/05_train", "05_train")
    lesson = find_lesson("05")
    assert lesson.twin == twin and (lesson.language, lesson.address) == ("en", "05_train")
    assert find_lesson("06").twin is None


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("zh/05_trian", "there is no notebook 'zh/05_trian'; did you mean 'zh/05_train'?; the lessons are zh/05_train"),
        ("zh/06", "there is no notebook 'zh/06'"),
        ("zhh/05", "language 'zhh' is unknown, use one of en, zh; did you mean 'zh'?"),
        ("05_trian", "did you mean '05_train'?"),
        ("notebooks/zh/05_trian.ipynb", "did you mean '05_train.ipynb'?"),
    ],
)
def test_a_twin_that_is_not_there_is_named_with_the_one_that_was_meant(word: str, words: str, clone: Path) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        find_lesson(word)


def test_a_folder_of_lessons_without_twins_has_none_and_does_not_borrow_those_of_the_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lesson(tmp_path / "notebooks" / "05_train.ipynb")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there are no lessons in 中文 here"):
        find_lessons("zh")
    with pytest.raises(InputError, match="language 'de' is unknown, use one of en, zh"):
        find_lessons("de")


def test_every_lesson_of_the_course_has_a_twin_that_says_its_language() -> None:
    assert [lesson.twin and lesson.twin.language for lesson in find_lessons()] == ["zh"] * len(find_lessons())
    assert [lesson.twin for lesson in find_lessons("zh")] == find_lessons()
