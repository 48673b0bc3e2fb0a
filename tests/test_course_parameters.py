"""Parameters of notebooks: read with their types, refused in one sentence by every way of running a notebook."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from test_course_lessons import write_lesson

from varlen_lab.cli import main
from varlen_lab.course import check_parameters
from varlen_lab.course.lessons import Lesson
from varlen_lab.course.parameters import INJECTED, Parameter, pairs_of, read_parameters
from varlen_lab.errors import InputError
from varlen_lab.language import spoken

CHECK = "from varlen_lab.course import check_parameters\n\ncheck_parameters()"
CELL = "steps: int = 30\nlr: float = 1e-3\nlengths: list[int] = [2, 3]\nname: str | None = None\nwidth = 2 + 3"


def test_types_are_read_as_they_are_written() -> None:
    assert read_parameters(CELL, "a") == {
        "steps": Parameter(30, "int"),
        "lr": Parameter(1e-3, "float"),
        "lengths": Parameter([2, 3], "list[int]"),
        "name": Parameter(None, "str | None"),
        "width": Parameter(..., ""),
    }


@pytest.mark.parametrize(
    ("kind", "fits", "fits_not"),
    [
        ("int", [3, -1], [True, 3.0, "3", None]),
        ("float", [3, 0.5], [True, "3"]),
        ("bool", [True], [1, "True"]),
        ("list[int]", [[], [1, 2]], ["[1]", [1, "2"], 3, [True]]),
        ("str | None", ["a", None], [3]),
        ("", [3, "a", None, [1]], []),
    ],
)
def test_a_value_fits_its_type_or_does_not(kind: str, fits: list[Any], fits_not: list[Any]) -> None:
    assert [Parameter(None, kind).takes(value) for value in fits + fits_not] == [True] * len(fits) + [False] * len(
        fits_not
    )


# ------------------------------------------------------------------------------------------ the command line


@pytest.mark.parametrize(
    ("words", "pairs", "rest"),
    [
        (["steps=50"], {"steps": 50}, []),
        (["steps", "50"], {"steps": 50}, []),
        (["steps", "50", "seed=1", "name", "a=b"], {"steps": 50, "seed": 1, "name": "a=b"}, []),
        (["name=a=b", "quick=true"], {"name": "a=b", "quick": True}, []),
        (["name="], {"name": ""}, []),
        (["lengths=[1, 2]"], {"lengths": [1, 2]}, []),
        (["steps", "-5"], {"steps": -5}, []),
        (["steps=50", "05_train"], {"steps": 50}, ["05_train"]),
        (["steps=50", "steps=60"], {"steps": 60}, []),
    ],
)
def test_words_behind_p_become_parameters(words: list[str], pairs: dict[str, Any], rest: list[str]) -> None:
    assert pairs_of(words) == (pairs, rest)


@pytest.mark.parametrize("words", [["=5"], ["2=5"], ["a-b=5"], ["a b", "5"]])
def test_what_is_no_name_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match="write -p steps=50"):
        pairs_of(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "run takes a notebook"),
        (["00", "-p", "quik=True"], "did you mean 'quick'?"),
        (["00", "-p", "steps=many"], "must be int"),
        (["00", "-p", "steps"], "write -p steps=VALUE"),
        (["-p", "steps=3", "-p", "quik", "True", "00"], "did you mean 'quick'?"),
        (["-p", "steps", "3", "quik=1", "00"], "did you mean 'quick'?"),
        (["-o", "x.ipynb", "00", "-p", "device=gpu"], "must be one of auto, cpu, cuda, mps"),
    ],
)
def test_run_says_what_is_wrong_and_runs_nothing(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lesson(tmp_path / "notebooks" / "00_a.ipynb")
    assert main(["run", *words]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notebooks"]


# ------------------------------------------------------------------------------------------ inside a notebook


def in_a_notebook(monkeypatch: pytest.MonkeyPatch, *cells: str) -> None:
    """``check_parameters`` in a shell whose history is ``cells``, a blank first, this cell last."""
    shell = SimpleNamespace(user_ns={"In": ["", *cells, CHECK]})
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    check_parameters()


@pytest.mark.parametrize(
    "injected", ["steps = 50", "lr = 1", "lengths = [4]\nname = 'x'", "name = None", "lr = float('nan')", ""]
)
def test_what_fits_goes_on_in_silence(injected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_notebook(monkeypatch, CELL, f"{INJECTED}\n{injected}\n")


@pytest.mark.parametrize(
    ("injected", "said"),
    [
        ("stepz = 50", "did you mean 'steps'?"),
        ('steps = "many"', "steps is 'many', it must be int, as in 30"),
        ('lengths = "[1, 2]"', r"it must be list\[int\], as in "),
        ("zzz = 1", "it has steps, lr, lengths, name, width"),
    ],
)
def test_what_does_not_fit_is_one_sentence(injected: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=said) as caught:
        in_a_notebook(monkeypatch, CELL, f"{INJECTED}\n{injected}\n")
    assert caught.value._render_traceback_() == [f"error: {caught.value}"]


@pytest.mark.parametrize(
    "cells",
    [
        [CELL],  # run all, in JupyterLab
        [],  # this cell first
        [CELL.replace("30", "'many'")],  # edited by hand
        [CELL, CHECK, "stepz = 50"],
        [CELL, f"{INJECTED}\nstepz = 50", "print(1)"],  # this cell again, by hand
        ["!ls", f"{INJECTED}\nstepz = 50"],
    ],
)
def test_by_hand_it_never_raises(cells: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_notebook(monkeypatch, *cells)


def test_outside_a_notebook_it_says_nothing() -> None:
    assert check_parameters() is None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("stepz", "50"), ("steps", "many")])
def test_plain_papermill_fails_with_the_sentence(name: str, value: str, tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "00_a.ipynb", new_code_cell(CHECK), new_code_cell("print('went on')"))
    notebook = lesson.read_text().replace("no-such-kernel", "python3")
    lesson.write_text(notebook)
    words = [str(lesson), str(tmp_path / "out.ipynb"), "-p", name, value, "-k", "python3"]
    done = subprocess.run([sys.executable, "-m", "papermill", *words], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    said = "has no parameter 'stepz'; it has" if name == "stepz" else ": steps is 'many', it must be int, as in 30."
    assert f"error: this notebook{' ' if name == 'stepz' else ''}{said}" in done.stderr
    assert "check_parameters()\n" not in done.stderr.split("Exception encountered")[-1]  # no traceback of the cell
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert executed.cells[-1].outputs == []


# ------------------------------------------------------------------------------------------ language


@pytest.mark.parametrize("language", ["fr", "", "ZH", 5, None, ["zh"], {}])
def test_a_language_that_there_is_not_is_a_sentence_in_a_kernel(language: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(user_ns={"In": ["", "language = 1", CHECK], "language": language})
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    with pytest.raises(InputError, match="is unknown, use one of en, zh"):
        check_parameters()
    assert spoken() == "en"


def test_a_language_that_there_is_not_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "05_train.ipynb"
    write_lesson(path, parameters='language: str = "en"')
    lesson = Lesson(path)
    lesson.check({"language": "zh"})
    with pytest.raises(InputError, match="language 'zhh' is unknown, use one of en, zh; did you mean 'zh'"):
        lesson.check({"language": "zhh"})
    write_lesson(path, parameters='language: str = "python"')  # not ours to judge
    Lesson(path).check({"language": "rust"})
    write_lesson(path, parameters='language: list = ["en"]')
    assert Lesson(path).language == "en"
