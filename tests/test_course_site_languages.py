"""The site in two languages: every page leads to its twin and back, neither language writes over the other."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from site_pages import CAPTION, comparison_html, dead_links, execute, forbidden, lessons_in, read
from test_course_lessons import write_lesson
from test_course_site import LOSSES, text_of

from varlen_lab.cli import main
from varlen_lab.course import notebooks
from varlen_lab.course.lessons import Lesson
from varlen_lab.course.outcomes import Outcome
from varlen_lab.course.pages.index import claim
from varlen_lab.course.pages.lesson import notebook_page
from varlen_lab.course.pages.numbers import measured
from varlen_lab.course.pages.ours import is_page, pages_in
from varlen_lab.course.site import begin_site, end_site, refuse_folder_of
from varlen_lab.errors import InputError
from varlen_lab.language.saying import catalogue, speaking, spoken

CHINESE_LESSONS = (
    ("00_first", "第一课", "01_train"),
    ("01_train", "训练", "02_last"),
    ("02_last", "最后一课", "00_first"),
)
OURS = ["zh/index.html", "zh/01_train.html", "zh/01_train.ipynb", "zh/glossary.html", "lab.html"]
FRAME = re.compile(r"[A-Za-z]{2,}")
NAMES = {  # what stays as it is in any language
    *("varlen", "lab", "API", "English", "token", "CPU", "GPU", "Python", "torch", "transformers", "query", "key"),
    *("packed", "unpacked", "walkthrough", "language", "zh", "only", "quick", "notebook", "XTuner"),
}


def twins_in(folder: Path, kept: str = "") -> list[Lesson]:
    """The three lessons of ``lessons_in`` and their twins; ``kept``: HTML that the twin of the second one keeps."""
    lessons = lessons_in(folder)
    for name, title, after in CHINESE_LESSONS:
        shown = new_code_cell("table", metadata={"tags": ["walkthrough"]})
        if kept and name == "01_train":
            shown.outputs = [new_output("display_data", {"text/html": kept})]
        cells = [new_markdown_cell("> **论断。** 两行`数据`\n> 是一行。"), shown]
        leads_on = new_markdown_cell(f"接着看[下一课]({after}.ipynb)，[英文](../{name}.ipynb)，[术语](glossary.md)")
        path = folder / "zh" / f"{name}.ipynb"
        write_lesson(path, *cells, leads_on, title=title, parameters='quick: bool = False\nlanguage: str = "zh"')
    (folder / "zh" / "glossary.md").write_text(
        "# 术语表\n\n| English | 中文 |\n|---|---|\n| row | 行 |\n", encoding="utf-8"
    )
    return lessons


@pytest.fixture
def lessons(tmp_path: Path) -> list[Lesson]:
    return twins_in(tmp_path / "notebooks")


@pytest.fixture
def site(lessons: list[Lesson], tmp_path: Path) -> Path:
    """After an English walk over the second lesson."""
    return walked(tmp_path / "site", lessons)


def walked(folder: Path, lessons: list[Lesson], *languages: str) -> Path:
    """A walk over the second lesson in ``languages``, English without any, as ``walkthrough`` calls for its pages."""
    folder.mkdir(exist_ok=True)
    spoken_in = languages or ("en",)
    begin_site(folder, lessons, False, spoken_in)
    outcomes = {}
    for language in spoken_in:
        lesson = lessons[1] if language == "en" else lessons[1].twin
        assert lesson
        place = folder if language == "en" else folder / language
        executed = execute(lesson, place, comparison_html(LOSSES))
        outcome = Outcome(lesson.name, lesson.title, "ok", 3.5, "", executed, language=language)
        page = notebook_page(nbformat.read(executed, 4), outcome, lesson.path.parent)
        (place / "01_train.html").write_text(page, encoding="utf-8")
        outcomes[lesson.address] = outcome
    end_site(folder, lessons, outcomes, 4.0, False, spoken_in)
    return folder


class Links(HTMLParser):
    """The language of a page and the links of its bar that lead to another."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.language, self.switches = "", []
        self.open: dict[str, str] | None = None
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        if tag == "html":
            self.language = has["lang"]
        self.open = has if tag == "a" and "hreflang" in has else None

    def handle_data(self, data: str) -> None:
        if self.open is not None:
            self.switches.append((self.open["href"], self.open["hreflang"], self.open["lang"], data))
            self.open = None


def html_of(site: Path) -> list[Path]:
    """The pages that have a twin, in both trees."""
    return [page for page in site.rglob("*.html") if page.parent.name != "api" and page.name != "glossary.html"]


# ------------------------------------------------------------------------------------------ the switch


def test_every_page_has_a_switch_that_leads_to_its_twin_and_back(site: Path) -> None:
    pages = html_of(site)
    assert len(pages) == 2 * (3 + 2)
    for page in pages:
        links = Links(page)
        chinese = page.parent.name == "zh"
        assert links.language == ("zh-CN" if chinese else "en"), page
        [(href, hreflang, lang, words)] = links.switches
        assert (hreflang, lang, words) == (("en", "en", "English") if chinese else ("zh-CN", "zh-CN", "中文"))
        twin = (page.parent / href).resolve()
        assert twin in {each.resolve() for each in pages} and twin.name == page.name and twin != page.resolve()
        assert (twin.parent / Links(twin).switches[0][0]).resolve() == page.resolve()
    [(href, *_)] = Links(site / "zh" / "glossary.html").switches
    assert href == "../index.html"


def test_links_stay_in_their_language_and_none_is_dead(site: Path, tmp_path: Path) -> None:
    assert dead_links(site) == []
    words = (site / "zh" / "00_first.html").read_text(encoding="utf-8")
    for link in ('href="01_train.html"', 'href="../00_first.html"', 'href="glossary.html"', 'href="../api/index.html"'):
        assert link in words, link
    assert 'rel="next" href="01_train.html" aria-label="下一课：训练"' in words
    links = read(site / "zh" / "index.html").links
    assert {"00_first.html", "lab.html", "../api/index.html", "../index.html", "glossary.html"} <= set(links)
    shutil.move(site, tmp_path / "moved here")
    assert dead_links(tmp_path / "moved here") == []


def test_pages_in_both_languages_ask_for_nothing_and_run_only_what_they_name(site: Path) -> None:
    assert {page.name: forbidden(page) for page in site.rglob("*.html") if forbidden(page)} == {}
    for name in ("lab.html", "zh/lab.html"):
        assert len(read(site / name).scripts) == 1


def test_without_twins_there_is_no_other_language_and_no_switch(tmp_path: Path) -> None:
    lessons = lessons_in(tmp_path / "notebooks")
    (tmp_path / "site").mkdir()
    begin_site(tmp_path / "site", lessons, False)
    end_site(tmp_path / "site", lessons, {}, 1.0, False)
    assert not (tmp_path / "site" / "zh").exists() and dead_links(tmp_path / "site") == []
    assert [page for page in html_of(tmp_path / "site") if Links(page).switches] == []
    assert (tmp_path / "site" / "lab.html").exists()


def test_a_lesson_without_a_twin_has_no_switch_and_breaks_no_link(lessons: list[Lesson], tmp_path: Path) -> None:
    twin = lessons[2].twin
    assert twin
    twin.path.unlink()
    site = walked(tmp_path / "site", lessons)
    assert dead_links(site) == [] and not (site / "zh" / "02_last.html").exists()
    assert Links(site / "02_last.html").switches == [] and len(Links(site / "01_train.html").switches) == 1


# ------------------------------------------------------------------------------------------ words


def frame_of(page: Path) -> str:
    """The words of a page, those that are only heard too, without code and the tables of runs."""
    html = page.read_text(encoding="utf-8")
    heard = " ".join(re.findall(r'(?:aria-label|alt|title)="([^"]*)"', html))
    html = re.sub(r"<(style|script|code|pre|noscript|table).*?</\1>", " ", html, flags=re.DOTALL)
    html = re.sub(r"<dd>[^<]*</dd>", " ", html)  # numbers, and what the machine is called
    return f"{heard} {re.sub(r'<[^>]*>', ' ', html)}"


def english_in(page: Path) -> set[str]:
    """English words of a page that are neither names nor those of its links, lessons and numbers."""
    words = frame_of(page).replace(CAPTION, "").replace("&nbsp;", " ")
    words = re.sub(r"\b0\d_\w+|varlen_lab", " ", words)
    return {word for word in FRAME.findall(words) if word not in NAMES}


@pytest.mark.parametrize("languages", [(), ("zh",), ("en", "zh")], ids=["english", "chinese", "both"])
def test_the_frame_of_a_chinese_page_is_chinese(
    languages: tuple[str, ...], lessons: list[Lesson], tmp_path: Path
) -> None:
    site = walked(tmp_path / "site", lessons, *languages)
    pages = [*(site / "zh").glob("0*.html"), site / "zh" / "index.html"]
    assert {page.name: english_in(page) for page in pages} == {page.name: set() for page in pages}


def test_a_planted_english_word_is_found(site: Path) -> None:
    page = site / "zh" / "00_first.html"
    page.write_text(page.read_text(encoding="utf-8").replace("全部课程", "All lessons"), encoding="utf-8")
    assert english_in(page) >= {"All", "lessons"}


def test_no_page_leaves_a_language_behind(site: Path) -> None:
    assert spoken() == "en"
    assert "All lessons" in text_of(site / "01_train.html") and "全部课程" in text_of(site / "zh" / "01_train.html")


def test_the_claim_of_a_twin_is_found(lessons: list[Lesson]) -> None:
    twin = lessons[0].twin
    assert twin and claim(twin.notebook) == "两行数据是一行。"
    assert claim(lessons[0].notebook) == "Two rows are one."


def test_what_became_of_a_lesson_is_said_in_its_language() -> None:
    with speaking("zh"):
        assert Outcome("a", "A", "ok", 72.3).said == "运行用时 1 分 12 秒"
        assert Outcome("a", "A", "failed", 2.0, earlier="2026-01-02", quick=True).said.endswith("，2026-01-02，快速")
        assert Outcome("a", "A", kept=True).in_short == "随课程保存"
    assert (
        Outcome("a", "A", "ok", 72.3, earlier="2026-01-02", quick=True).said == "ran in 1 min 12 s, 2026-01-02, quick"
    )


# ------------------------------------------------------------------------------------------ what ran


def test_numbers_are_those_of_its_own_run_or_of_the_english_one_which_is_the_same_code(
    lessons: list[Lesson], tmp_path: Path
) -> None:
    borrowed = text_of(walked(tmp_path / "a", lessons) / "zh" / "index.html")
    assert "0.25 不管接缝时的同一个差距" in borrowed and "运行的是英文版，代码相同" in borrowed
    own = text_of(walked(tmp_path / "b", lessons, "zh") / "zh" / "index.html")
    assert "0.25 不管接缝时的同一个差距" in own and "英文版" not in own and "在这次运行中测得" in own
    english = text_of(tmp_path / "b" / "index.html")
    assert english.count("not measured: lesson 01 was not run") == 3 and "Not run in this walk" in english


def test_the_table_is_read_in_chinese_too() -> None:
    heads = [catalogue("zh").get(name, name) for name in ("mode", "max |Δ| to unpacked", "padding")]
    html = comparison_html(LOSSES)
    for english, chinese in zip(("mode", "max |Δ| to unpacked", "padding"), heads, strict=True):
        html = html.replace(f">{english}<", f">{chinese}<")
    notebook = nbformat.v4.new_notebook(cells=[new_code_cell("x")])
    notebook.cells[0].outputs = [new_output("display_data", {"text/html": html})]
    found = measured(notebook)
    assert found and found.packed == pytest.approx(0.25)


def test_a_twin_that_was_not_run_shows_what_the_course_keeps(tmp_path: Path) -> None:
    site = walked(tmp_path / "site", twins_in(tmp_path / "notebooks", kept="<p>留存的结果</p>"))
    page = text_of(site / "zh" / "01_train.html")
    assert "留存的结果" in page and "这一页是随课程保存的运行结果" in page and "没有在这里运行过" not in page
    assert "留存的结果" in text_of(site / "zh" / "index.html")
    assert "这一课没有在这里运行过" in text_of(site / "zh" / "00_first.html")  # it keeps nothing
    assert "kept" not in text_of(site / "01_train.html")


def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **how: object) -> list[str]:
    """``walkthrough`` without kernels; the addresses of the lessons that it ran."""
    ran = []

    def run_shown(lesson: Lesson, output: Path, *_: object) -> Outcome:
        ran.append(lesson.address)
        executed = execute(lesson, output.parent, f"<p>RAN {lesson.address}</p>")
        outcome = Outcome(lesson.name, lesson.title, "ok", 1.0, "", executed, language=lesson.language)
        page = notebook_page(nbformat.read(executed, 4), outcome, lesson.path.parent)
        output.with_suffix(".html").write_text(page, encoding="utf-8")
        return outcome

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "run_shown", run_shown)
    assert notebooks.walkthrough("out", api=False, **how) == 0  # type: ignore[arg-type]
    return ran


def copies(folder: Path) -> dict[str, bytes]:
    """The executed copies in a folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*.ipynb")}


def test_a_walk_in_one_language_leaves_what_the_other_found(
    lessons: list[Lesson], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert walk(tmp_path, monkeypatch) == ["00_first", "01_train", "02_last"]
    english = copies(out)
    assert len(english) == 3 and copies(out / "zh") == {}
    assert walk(tmp_path, monkeypatch, languages=["zh"], only=["01"]) == ["zh/01_train"]
    assert "out/zh/index.html" in capsys.readouterr().out
    assert copies(out) == english and "RAN 01_train" in text_of(out / "01_train.html")
    assert "3 are from earlier walks" in text_of(out / "index.html").replace("; ", "")
    chinese = copies(out / "zh")
    assert list(chinese) == ["01_train.ipynb"] and "3 课中 1 课已运行" in text_of(out / "zh" / "index.html")
    walk(tmp_path, monkeypatch, only=["00"])
    assert copies(out / "zh") == chinese and "RAN zh/01_train" in text_of(out / "zh" / "01_train.html")
    assert "来自早先的运行" in text_of(out / "zh" / "index.html") and dead_links(out) == []


def test_a_walk_in_both_languages_runs_each_lesson_twice(
    lessons: list[Lesson], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = walk(tmp_path, monkeypatch, languages=["en", "zh", "en"], only=["02", "00"])
    assert ran == ["00_first", "02_last", "zh/00_first", "zh/02_last"]
    assert "--language en zh" in text_of(tmp_path / "out" / "index.html")


def test_both_are_compared_with_what_they_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twins_in(tmp_path / "notebooks", kept="<p>1.5</p>")
    path = tmp_path / "notebooks" / "zh" / "01_train.ipynb"
    notebook = nbformat.read(path, 4)
    next(cell for cell in notebook.cells if cell.source == "table").metadata["tolerance"] = 0.1
    nbformat.write(notebook, path)
    monkeypatch.setattr(notebooks, "Lesson", Lesson)
    with pytest.raises(AssertionError):
        walk(tmp_path, monkeypatch, languages=["zh"], only=["01"], compare=True)
    assert "differs: zh/01_train, cell" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--language", "zhh"], "language 'zhh' is unknown, use one of en, zh; did you mean 'zh'?"),
        (["--language", "zh", "--only", "01_trian"], "did you mean 'zh/01_train'?"),
        (["--only", "zh/01"], "there is no notebook 'zh/01'"),
    ],
)
def test_what_cannot_be_walked_is_said_before_anything_runs(
    words: list[str],
    said: str,
    lessons: list[Lesson],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["walkthrough", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_without_twins_a_walk_in_chinese_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lessons_in(tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path)
    assert main(["walkthrough", "--language", "zh"]) == 2
    assert "there are no lessons in 中文 here" in capsys.readouterr().err


@pytest.mark.parametrize("name", OURS)
def test_a_file_of_a_person_is_refused_and_stays(
    name: str, lessons: list[Lesson], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "out" / name
    place.parent.mkdir(parents=True)
    place.write_text('<!doctype html>\n<html lang="zh-CN">\n我自己的一页', encoding="utf-8")
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    with pytest.raises(InputError, match="was not written by a walk and would be lost"):
        walk(tmp_path, monkeypatch)
    assert "我自己" in place.read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before


@pytest.mark.parametrize("folder", ["notebooks", "notebooks/zh"])
def test_the_folders_of_the_lessons_take_no_site(
    folder: str, lessons: list[Lesson], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="holds the lessons themselves"):
        notebooks.walkthrough(folder, api=False)


def test_a_file_where_the_other_language_would_lie_is_a_sentence(lessons: list[Lesson], tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "zh").write_text("in the way", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot be written .*; choose another -o"):
        begin_site(tmp_path / "site", lessons, False)


def test_a_link_that_lays_one_language_over_the_other_is_a_sentence(lessons: list[Lesson], tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "zh").symlink_to(tmp_path / "site")
    with pytest.raises(InputError, match=r"zh leads back to .*site; remove that link"):
        refuse_folder_of(lessons, tmp_path / "site")


def test_pages_of_both_languages_are_known_for_ours(site: Path) -> None:
    assert all(is_page(page) for page in site.rglob("*.html"))
    assert {"zh/index.html", "zh/lab.html", "index.html", "api/index.html"} <= pages_in(site)
    other = site / "zh" / "mine.html"
    other.write_text('<!doctype html>\n<html lang="de">\n<head>\n<meta charset="utf-8">\n', encoding="utf-8")
    assert not is_page(other) and "zh/mine.html" not in pages_in(site)
