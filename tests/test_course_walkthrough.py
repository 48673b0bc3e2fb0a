"""Walking through notebooks: pages that need no network, failures that are shown and counted, no silent typo."""

from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_course_lessons import write_lesson

from varlen_lab.cli import main
from varlen_lab.course.lessons import Lesson, find_lesson, find_lessons
from varlen_lab.course.notebooks import run_notebook, run_shown, walkthrough
from varlen_lab.course.outcomes import Outcome, duration, one_line
from varlen_lab.errors import InputError

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def shown(source: str, **metadata: object) -> object:
    return new_code_cell(source, metadata={"tags": ["walkthrough"], **metadata})


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after one quick walk over three small lessons, the second of which fails."""
    root = tmp_path_factory.mktemp("clone")
    lessons = root / "notebooks"
    lessons.mkdir()
    (lessons / "dot.png").write_bytes(DOT)
    picture = f"from IPython.display import Image\nImage(bytes.fromhex('{DOT.hex()}'), format='png')"
    write_lesson(
        lessons / "00_sees.ipynb",
        new_markdown_cell("![a red dot](dot.png)\n\n[a paper](https://example.org) and $x^2$"),
        new_code_cell("import os, sys; print(sys.executable); print('quick is', quick); print(os.getcwd())"),
        shown(picture, alt="a red dot & more"),
        title="Seeing is <b>believing</b>",
    )
    write_lesson(
        lessons / "01_breaks.ipynb",
        shown("print('SHOWN BEFORE')"),
        new_code_cell("raise ValueError('max_length is 0')"),
        shown("print('NEVER REACHED')"),
    )
    write_lesson(
        lessons / "02_after.ipynb",
        shown("from IPython.display import HTML\nHTML('<table><tr><td>5.2417</td></tr></table>')"),
        new_code_cell("print('not tagged')"),
    )
    write_lesson(lessons / "draft.ipynb", new_code_cell("1/0"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert walkthrough(quick=True, api=False) == 1
    return root / "runs" / "walkthrough"


def read(walk: Path, name: str) -> str:
    return (walk / f"{name}.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ no network


class Requests(HTMLParser):
    """Collects every address a browser would fetch to show a page (links a reader may click are not fetched)."""

    FETCHED = ("src", "srcset", "data", "poster", "background", "xlink:href")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in self.FETCHED or (name == "href" and tag not in ("a", "area")):
                self.found.append(value or "")
            if name == "style":
                self.css(value or "")
        if tag in ("iframe", "object", "embed"):  # scripts: tests/test_course_site.py
            self.found.append(f"<{tag}>")
        self.in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.css(data)

    def css(self, text: str) -> None:
        self.found += re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]?[^;]+", text)


def requests(html: str) -> list[str]:
    parser = Requests()
    parser.feed(html)
    return [address for address in parser.found if not address.startswith(("data:", "#"))]


@pytest.mark.parametrize("name", ["index", "00_sees", "01_breaks", "02_after"])
def test_page_requests_nothing(walk: Path, name: str) -> None:
    assert requests(read(walk, name)) == []


def test_request_finder_finds_what_nbconverts_own_page_loads() -> None:
    from nbconvert import HTMLExporter

    stock = HTMLExporter().from_notebook_node(new_notebook(cells=[new_markdown_cell("$x$")]))[0]
    assert any("cdnjs.cloudflare.com" in address for address in requests(stock))
    assert requests("<style>@import 'a.css'; b { background: url(c.png) }</style>") == [
        "c.png",
        "@import 'a.css'",
    ]
    assert requests("<link rel=stylesheet href=x.css><img src=y.png><a href=https://z>z</a>") == [
        "x.css",
        "y.png",
    ]


# ------------------------------------------------------------------------------------------ what ran


def test_lessons_run_in_this_python_in_their_own_folder_with_quick(walk: Path) -> None:
    page = read(walk, "00_sees")
    assert sys.executable in page
    assert "quick is True" in page
    assert str(walk.parent.parent / "notebooks") in page


def test_only_numbered_notebooks_are_lessons(walk: Path) -> None:
    assert sorted(path.name for path in walk.iterdir()) == sorted(
        [
            "index.html",
            "lab.html",
            "api",
            *(f"{n}.{e}" for n in ("00_sees", "01_breaks", "02_after") for e in ("html", "ipynb")),
        ]
    )


def test_index_lists_every_notebook_with_status_time_and_link(walk: Path) -> None:
    index = read(walk, "index")
    rows = re.findall(r'<li class="(ok|failed|not-run)">(.*?)</li>', index, flags=re.DOTALL)
    assert [status for status, _ in rows] == ["ok", "failed", "ok"]
    for (_, row), name in zip(rows, ("00_sees", "01_breaks", "02_after")):
        assert f'href="{name}.html"' in row and re.search(r"\d+\.\d s", row)
    assert "1 of 3" in index and "failed" in index


def test_index_shows_tagged_outputs_and_no_code(walk: Path) -> None:
    index = read(walk, "index")
    assert "5.2417" in index and "SHOWN BEFORE" in index
    assert "NEVER REACHED" not in index and "not tagged" not in index
    assert "from IPython.display" not in index


def test_index_says_versions_and_device(walk: Path) -> None:
    index = read(walk, "index")
    assert all(f"<dt>{fact}</dt>" in index for fact in ("Python", "torch", "transformers", "device"))


def test_titles_are_text_not_markup(walk: Path) -> None:
    assert "Seeing is &lt;b&gt;believing&lt;/b&gt;" in read(walk, "index")


def test_failing_page_shows_the_error_and_what_ran_before(walk: Path) -> None:
    page = read(walk, "01_breaks")
    assert "ValueError: max_length is 0" in page and 'id="error"' in page
    assert "SHOWN BEFORE" in page
    assert "papermill-error-cell" not in page


def test_pictures_are_inside_and_carry_their_alt_text(walk: Path) -> None:
    page = read(walk, "00_sees")
    assert len(re.findall(r'<img[^>]*src="data:image/png;base64,', page)) == 2
    assert 'alt="a red dot &amp; more"' in page and 'alt="a red dot"' in page
    assert "No description has been provided" not in page


# ------------------------------------------------------------------------------------------ bad input


def test_typo_in_a_parameter_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lesson(tmp_path / "notebooks" / "00_a.ipynb")
    assert main(["run", "00", "-p", "quik", "True"]) == 2
    assert "did you mean 'quick'?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_device_that_a_lesson_does_not_know_or_the_machine_has_not_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lesson(tmp_path / "notebooks" / "00_a.ipynb", parameters="steps: int = 3")
    write_lesson(tmp_path / "notebooks" / "01_b.ipynb", parameters="device: str = 'auto'")
    assert main(["walkthrough", "--device", "cpu"]) == 2
    assert "00_a has no parameter device" in capsys.readouterr().err
    assert main(["walkthrough", "--only", "01", "--device", "gpu"]) == 2
    assert "must be one of auto, cpu, cuda, mps" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["walkthrough", "--only", "01", "--device", "cuda"]) == 2
        said = capsys.readouterr().err
        assert "device = 'cuda' cannot be had" in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("word", ["05_trian", "99", "missing.ipynb"])
def test_unknown_lesson_is_named(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_lesson(tmp_path / "notebooks" / "05_train.ipynb")
    assert find_lesson("05") == find_lesson("05_train") == Lesson(Path("notebooks/05_train.ipynb"))
    with pytest.raises(InputError, match="05_train"):
        find_lesson(word)


def test_file_that_is_no_notebook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text("{}")
    with pytest.raises(InputError, match="not a notebook"):
        run_notebook(tmp_path / "a.ipynb", tmp_path / "out.ipynb")


def test_output_never_replaces_the_notebook(tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "00_a.ipynb")
    before = lesson.read_bytes()
    with pytest.raises(InputError, match="itself"):
        run_notebook(lesson, tmp_path / "x" / ".." / "00_a.ipynb")
    with pytest.raises(InputError, match=r"must end in \.ipynb"):
        run_notebook(lesson, tmp_path / "out.html")
    assert lesson.read_bytes() == before


def test_lessons_of_the_clone_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lessons = find_lessons()
    assert len(lessons) >= 10 and all(lesson.path.is_absolute() for lesson in lessons)


def test_kernel_that_dies_is_a_failed_notebook_with_a_page(tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "00_a.ipynb", new_code_cell("import os; os._exit(3)"))
    outcome = run_notebook(lesson, tmp_path / "out" / "00_a.ipynb", {"steps": 3})
    assert outcome.status == "failed" and "died" in outcome.error
    assert 'role="alert"' in (tmp_path / "out" / "00_a.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ small laws


def test_durations_read_as_people_say_them() -> None:
    assert [duration(s) for s in (0.04, 59.94, 72.3, 600)] == ["0.0 s", "59.9 s", "1 min 12 s", "10 min 00 s"]


def test_one_line_drops_colours_and_cuts() -> None:
    assert one_line("\x1b[31mred\x1b[0m\n  line") == "red line"
    assert len(one_line("x" * 999)) == 200


def test_what_a_notebook_keeps_is_not_taken_for_this_runs_when_no_kernel_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import papermill

    kept = new_code_cell("f()", outputs=[new_output("stream", name="stdout", text="OF ANOTHER DAY")])
    lesson = write_lesson(tmp_path / "00_a.ipynb", kept)

    def no_kernel(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel came")

    monkeypatch.setattr(papermill, "execute_notebook", no_kernel)
    assert run_notebook(lesson, tmp_path / "out" / "00_a.ipynb").status == "failed"
    page = (tmp_path / "out" / "00_a.html").read_text(encoding="utf-8")
    assert "no kernel came" in page and "OF ANOTHER DAY" not in page


def test_a_walk_says_what_became_of_a_lesson_on_any_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lesson = Lesson(write_lesson(tmp_path / "00_a.ipynb"))
    failed = Outcome("00_a", "A", "failed", 1.0, "ValueError: [red]\x1b[2J")
    monkeypatch.setattr("varlen_lab.course.notebooks.run_notebook", lambda *_, **__: failed)
    assert run_shown(lesson, tmp_path / "out.ipynb", {}) is failed
    assert capsys.readouterr().out == f"✗ {'00_a':<24}    1.0 s  ValueError: [red]\\x1b[2J\n"
