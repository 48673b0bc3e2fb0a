"""The site that a walk leaves: every link leads somewhere, nothing is asked for, numbers come from what was run."""

from __future__ import annotations

import re
import shutil
import signal
from html import unescape
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell
from site_pages import CAPTION, comparison_html, dead_links, execute, forbidden, lessons_in, read

from varlen_lab.course import notebooks
from varlen_lab.course.lessons import Lesson, find_lessons
from varlen_lab.course.outcomes import Outcome
from varlen_lab.course.pages import api
from varlen_lab.course.pages.index import claim
from varlen_lab.course.pages.numbers import LESSON, measured, written
from varlen_lab.course.pages.ours import BEGINS
from varlen_lab.course.site import begin_site, end_site
from varlen_lab.errors import InputError

LOSSES = {"unpacked": [5.0, 4.0], "packed": [5.25, 4.0], "varlen": [5.0, 4.0 + 2e-7]}


def interrupt() -> None:
    """Ctrl-C, also where whoever started the tests ignores it, as a shell does for what runs in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def lessons(tmp_path: Path) -> list[Lesson]:
    return lessons_in(tmp_path / "notebooks")


@pytest.fixture
def site(lessons: list[Lesson], tmp_path: Path) -> Path:
    """After a walk that ran the second of three lessons."""
    return walked(tmp_path / "site", lessons)


def walked(folder: Path, lessons: list[Lesson], html: str | None = None, **how: object) -> Path:
    """A walk over the second lesson, as ``walkthrough`` calls for its pages."""
    folder.mkdir(exist_ok=True)
    begin_site(folder, lessons, False)
    lesson = lessons[1]
    executed = execute(lesson, folder, html or comparison_html(LOSSES), **how)  # type: ignore[arg-type]
    error = str(how.get("error", ""))
    outcome = Outcome(lesson.name, lesson.title, "failed" if error else "ok", 3.5, error, executed)
    end_site(folder, lessons, {lesson.name: outcome}, 4.0, False)
    return folder


def text_of(page: Path) -> str:
    """The words of a page, without its styles and scripts."""
    html = page.read_text(encoding="utf-8")
    html = re.sub(r"<(style|script).*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).replace("\N{NO-BREAK SPACE}", " ").split())


# ------------------------------------------------------------------------------------------ links and requests


def test_every_link_leads_to_something_in_the_folder_wherever_it_lies(site: Path, tmp_path: Path) -> None:
    assert dead_links(site) == []
    shutil.move(site, tmp_path / "moved here")
    assert dead_links(tmp_path / "moved here") == []


def test_every_lesson_has_a_page_and_the_landing_page_leads_to_it(site: Path, lessons: list[Lesson]) -> None:
    links = read(site / "index.html").links
    assert all(f"{lesson.name}.html" in links for lesson in lessons) and "api/index.html" in links


@pytest.mark.parametrize(
    "link",
    ["03_gone.html", "#nothing", "00_first.html#nothing", "../notebooks/00_first.ipynb", "/etc/hosts", "file:///x"],
)
def test_a_planted_dead_link_is_found(site: Path, link: str) -> None:
    page = site / "01_train.html"
    page.write_text(
        page.read_text(encoding="utf-8").replace("</main>", f'<a href="{link}">x</a></main>'), encoding="utf-8"
    )
    assert dead_links(site) == [f"01_train.html: {link}"]


def test_pages_ask_for_nothing_and_run_only_the_scripts_their_policy_names(site: Path) -> None:
    assert {page.name: forbidden(page) for page in site.rglob("*.html") if forbidden(page)} == {}
    assert len(read(site / "index.html").scripts) == 1  # the explorer's
    assert "script-src 'none'" in read(site / "api" / "index.html").policy


@pytest.mark.parametrize(
    "html",
    [
        "<script>alert(1)</script>",
        '<img src="https://example.org/a.png">',
        "<style>a { background: url(b.png) }</style>",
        '<p onclick="x()">a</p>',
    ],
)
def test_a_planted_request_or_script_is_found(site: Path, html: str) -> None:
    page = site / "index.html"
    page.write_text(page.read_text(encoding="utf-8").replace("</main>", f"{html}</main>"), encoding="utf-8")
    assert len(forbidden(page)) == 1


def test_nothing_in_the_folder_names_the_folder_it_was_made_in(site: Path, tmp_path: Path) -> None:
    texts = {file.name: file.read_text(encoding="utf-8") for file in site.rglob("*") if file.is_file()}
    assert "01_train.ipynb" in texts and [name for name, text in texts.items() if str(tmp_path) in text] == []


# ------------------------------------------------------------------------------------------ numbers


def test_the_numbers_are_those_of_the_table_that_the_lesson_showed(site: Path) -> None:
    words = text_of(site / "index.html")
    assert "2.0 × 10 −7 largest difference" in words  # unpacked to varlen
    assert "0.25 the same difference" in words
    assert "60 % of the padded batches" in words  # 250 places for 100 tokens
    assert f"Measured by lesson 01 in this walk: {CAPTION}." in words


def test_other_measurements_are_other_numbers(lessons: list[Lesson], tmp_path: Path) -> None:
    words = text_of(walked(tmp_path / "b", lessons, comparison_html(LOSSES | {"packed": [5.0, 7.5]})) / "index.html")
    assert "3.5 the same difference" in words and "0.25" not in words


def test_without_the_lesson_the_place_of_a_number_says_so(lessons: list[Lesson], tmp_path: Path) -> None:
    begin_site(tmp_path, lessons, False)
    words = text_of(tmp_path / "index.html")
    assert words.count("not measured: lesson 01 was not run") == 3 and "walkthrough --only 01" in words


@pytest.mark.parametrize(
    ("html", "error", "why"),
    [
        ("<p>no table</p>", "", "lesson 01 shows no table"),
        ("<table><tr><th>mode</th></tr></table>", "", "lesson 01 shows no table"),
        ("<p>gone</p>", "max_length is 0", "lesson 01 failed before it had measured"),
    ],
)
def test_a_lesson_that_shows_no_numbers_gives_none(
    html: str, error: str, why: str, lessons: list[Lesson], tmp_path: Path
) -> None:
    assert why in text_of(walked(tmp_path / "b", lessons, html, error=error) / "index.html")


def test_a_mode_that_was_not_run_leaves_no_number() -> None:
    notebook = nbformat.v4.new_notebook(cells=[new_code_cell("x")])
    html = comparison_html(LOSSES)
    for wrong in (html.replace(">varlen<", ">other<"), html.replace("60%", "most"), html.replace("max |Δ|", "max")):
        notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", {"text/html": wrong})]
        assert measured(notebook) is None


def test_numbers_are_written_as_people_write_them() -> None:
    assert [written(value) for value in (0.0, 9.54e-7, 0.0222, 3.5, 1e-12)] == [
        ("0", ""), ("9.5", "−7"), ("0.022", ""), ("3.5", ""), ("1.0", "−12"),
    ]  # fmt: skip


def test_the_course_has_the_lesson_that_measures_and_every_lesson_its_claim() -> None:
    found = find_lessons()
    [lesson] = [lesson for lesson in found if lesson.name[3:] == LESSON]
    kept = measured(lesson.notebook)  # the outputs that are committed with it
    assert kept is not None and kept.varlen < 1e-4 < kept.packed and 0 < kept.padding < 1 and "seed" in kept.caption
    assert all(claim(lesson.notebook) for lesson in found)


# ------------------------------------------------------------------------------------------ what ran, now and earlier


def test_what_was_not_run_says_so_on_both_pages(site: Path) -> None:
    rows = re.findall(r'<li class="([\w-]+)">', (site / "index.html").read_text(encoding="utf-8"))
    assert rows == ["not-run", "ok", "not-run"]
    assert "was not run here" in text_of(site / "00_first.html")
    assert "1 of 3 ran in 4.0 s" in text_of(site / "index.html")


def test_an_earlier_walk_is_shown_with_its_date(lessons: list[Lesson], tmp_path: Path) -> None:
    execute(lessons[0], tmp_path, "<p>FOUND EARLIER</p>", quick=True)
    execute(lessons[2], tmp_path, "<p>x</p>", error="max_length is 0")
    site = walked(tmp_path, lessons)
    words = text_of(site / "index.html")
    assert "1 of 3 ran in 4.0 s" in words and "2 are from earlier walks" in words
    assert "2026-01-0" in words and ", quick" in words
    assert "FOUND EARLIER" in text_of(site / "00_first.html") and "2026-01-0" in text_of(site / "00_first.html")
    assert "failed after 3.5 s" in text_of(site / "02_last.html") and "ValueError: max_length is 0" in words


def test_a_lesson_that_changed_since_or_was_cut_short_is_not_taken_for_run(
    lessons: list[Lesson], tmp_path: Path
) -> None:
    execute(lessons[0], tmp_path, "<p>OLD</p>")
    notebook = nbformat.read(lessons[0].path, as_version=4)
    notebook.cells.append(new_markdown_cell("A new thought."))
    nbformat.write(notebook, lessons[0].path)
    execute(lessons[1], tmp_path, "<p>OLD</p>", stopped=True)
    (tmp_path / lessons[2].path.name).write_text("{", encoding="utf-8")
    begin_site(tmp_path, [Lesson(lesson.path) for lesson in lessons], False)
    pages = [text_of(tmp_path / f"{lesson.name}.html") for lesson in lessons]
    assert all("was not run here" in page and "OLD" not in page for page in pages)
    assert "A new thought." in pages[0]


def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: str = "", **how: object) -> int:
    """``walkthrough`` over the three lessons without kernels; Ctrl-C while ``stop_at`` runs."""

    def run_shown(lesson: Lesson, output: Path, *_: object) -> Outcome:
        output.with_suffix(".html").unlink(missing_ok=True)
        if lesson.name == stop_at:
            execute(lesson, output.parent, stopped=True)
            interrupt()
        executed = execute(lesson, output.parent, f"<p>RAN {lesson.name}</p>")
        output.with_suffix(".html").write_text(
            f'{BEGINS.decode()} content=""><p>RAN {lesson.name}</p>', encoding="utf-8"
        )
        return Outcome(lesson.name, lesson.title, "ok", 1.0, "", executed)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "run_shown", run_shown)
    return notebooks.walkthrough("out", api=False, **how)  # type: ignore[arg-type]


def test_a_walk_over_one_lesson_keeps_what_an_earlier_one_found(
    lessons: list[Lesson], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert walk(tmp_path, monkeypatch) == 0
    assert walk(tmp_path, monkeypatch, only=["01"]) == 0
    words = text_of(tmp_path / "out" / "index.html")
    assert "1 of 3 ran" in words and "2 are from earlier walks" in words
    assert dead_links(tmp_path / "out") == []
    assert "out/index.html" in capsys.readouterr().out


def test_ctrl_c_in_the_middle_leaves_a_whole_site(
    lessons: list[Lesson], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path, monkeypatch, stop_at="01_train")
    words = text_of(tmp_path / "out" / "index.html")
    assert "1 of 3 ran" in words and words.count("not run") >= 2
    assert "was not run here" in text_of(tmp_path / "out" / "01_train.html")
    assert dead_links(tmp_path / "out") == []


def test_while_a_walk_goes_on_the_page_says_so(lessons: list[Lesson], tmp_path: Path) -> None:
    begin_site(tmp_path, lessons, False)
    assert "a walk is under way" in text_of(tmp_path / "index.html")


@pytest.mark.parametrize("taken", ["index.html/x", "api", "00_first.html/x"])
def test_a_folder_that_cannot_be_written_is_one_sentence(taken: str, lessons: list[Lesson], tmp_path: Path) -> None:
    out = tmp_path / "out"
    place = out / taken
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("in the way", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot be written .*; choose another -o"):
        begin_site(out, lessons, False)


def test_the_folder_of_the_lessons_takes_no_site(
    lessons: list[Lesson], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {file.name: file.read_bytes() for file in (tmp_path / "notebooks").iterdir()}
    with pytest.raises(InputError, match="holds the lessons themselves"):
        notebooks.walkthrough("notebooks", api=False)
    assert {file.name: file.read_bytes() for file in (tmp_path / "notebooks").iterdir()} == before


def test_ctrl_c_before_the_first_lesson_leaves_a_whole_site(
    lessons: list[Lesson], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "begin_site", lambda *_: interrupt())
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path, monkeypatch)
    assert "none of 3 ran" in text_of(tmp_path / "out" / "index.html")
    assert dead_links(tmp_path / "out") == []


# ------------------------------------------------------------------------------------------ the functions


@pytest.fixture(scope="module")
def pages_of_functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pdoc")
    folder = tmp_path_factory.mktemp("site") / "api"
    (folder.parent / "index.html").write_text('<h1 id="lessons">x</h1>', encoding="utf-8")
    assert api.write_api(folder)
    return folder.parent


@pytest.mark.slow
def test_every_name_of_a_face_has_its_words_on_a_page_that_asks_for_nothing(pages_of_functions: Path) -> None:
    for module in api.faces():
        page = pages_of_functions / "api" / api.file_of(module.__name__)
        assert forbidden(page) == []
        ids = read(page).ids
        assert set(module.__all__) <= ids | {""}, set(module.__all__) - ids
    assert dead_links(pages_of_functions) == []


@pytest.mark.slow
def test_no_page_of_functions_names_a_folder_of_this_machine(pages_of_functions: Path) -> None:
    here = [str(Path(api.__file__).parents[3]), str(Path.home())]
    texts = [page.read_text(encoding="utf-8") for page in pages_of_functions.rglob("*.html")]
    assert not [folder for folder in here if folder != "/" and any(folder in text for text in texts)]


def test_every_room_is_on_the_pages() -> None:
    folder = Path(api.__file__).parents[2]
    rooms = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert rooms - {"cli"} == set(api.ROOMS)


def test_every_public_function_says_what_it_does() -> None:
    silent = [
        f"{module.__name__}.{name}"
        for module in api.faces()
        for name in module.__all__
        if callable(getattr(module, name)) and not (getattr(module, name).__doc__ or "").strip()
    ]
    assert silent == []


def test_without_pdoc_the_page_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pdoc.doc", None)
    assert not api.write_api(tmp_path / "api")
    assert "pip install 'varlen_lab[docs]'" in text_of(tmp_path / "api" / "index.html")
