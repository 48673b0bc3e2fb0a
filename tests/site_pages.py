"""A small site without a kernel, and what its pages are looked through for: dead links, requests, foreign scripts."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from test_course_lessons import write_lesson

from varlen_lab.course.lessons import Lesson
from varlen_lab.studies.verdict import Comparison
from varlen_lab.training.history import History

CAPTION = "tiny · varlen backend sdpa · cpu · fp32 · seed 0"


def comparison_html(losses: dict[str, list[float]]) -> str:
    """The table of a comparison as the lesson shows it."""
    import pandas

    sizes = {"unpacked": 250, "packed": 100, "varlen": 100}  # tokens a step, padding included
    step = {"tokens": 100, "seconds": 1.0, "cpu_seconds": 1.0}
    histories = {
        mode: History(
            {"backend": "sdpa", "mode": mode}, [step | {"loss": loss, "padded_tokens": sizes[mode]} for loss in each]
        )
        for mode, each in losses.items()
    }
    style = pandas.DataFrame(Comparison(histories).table()).style.hide().set_caption(CAPTION)
    return style.format(precision=4, formatter={"max |Δ| to unpacked": "{:.1e}", "padding": "{:.0%}"}).to_html()


def lessons_in(folder: Path) -> list[Lesson]:
    """Three lessons as files: the second shows a comparison's table when it is run, each leads to the next."""
    claim = "> **Claim.** Two `rows`\n> are one."
    shown = new_code_cell("table", metadata={"tags": ["walkthrough"]})
    for name, title, after, cells in (
        ("00_first", "The <first> lesson", "01_train", [new_markdown_cell(claim)]),
        ("01_train", "Train", "02_last", [shown]),
        ("02_last", "The last lesson", "00_first", []),
    ):
        leads_on = new_markdown_cell(f"Next: [{after}]({after}.ipynb)")
        write_lesson(folder / f"{name}.ipynb", *cells, leads_on, title=title)
    return [Lesson(path) for path in sorted(folder.glob("*.ipynb"))]


def execute(lesson: Lesson, out: Path, *html: str, error: str = "", stopped: bool = False, quick: bool = False) -> Path:
    """What papermill leaves of a lesson in the folder ``out``: ``html`` are the outputs of its last code cell."""
    notebook = nbformat.read(lesson.path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code):
        cell.execution_count = None if stopped and number else number + 1
    code[-1].outputs = [new_output("display_data", {"text/html": each}) for each in html]
    if error:
        code[-1].outputs.append(new_output("error", ename="ValueError", evalue=error, traceback=[]))
    notebook.metadata.papermill = {
        "start_time": "2026-01-02T03:04:05.000000+00:00",
        "input_path": str(lesson.path.resolve()),
        "output_path": str((out / lesson.path.name).resolve()),
        "duration": 3.5,
        "parameters": {"quick": quick},
    }
    nbformat.write(notebook, out / lesson.path.name)
    return out / lesson.path.name


class Reader(HTMLParser):
    """What a page holds: its links, ids, scripts, policy, and what a browser would fetch to show it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.fetched: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self.handlers: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        self.ids.add(has.get("id", ""))
        self.handlers += [name for name in has if name.startswith("on")]
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
        self.fetched += [has[name] for name in ("src", "srcset", "data", "poster", "background") if name in has]
        self.fetched += [has["href"]] if tag == "link" else []
        if has.get("http-equiv", "").lower() == "content-security-policy":
            self.policy = has["content"]
        self.inside = tag
        if tag == "script" and has.get("type", "") != "application/json":
            self.scripts.append("")
        elif tag == "script":
            self.inside = "json"

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        if self.inside == "style":
            self.fetched += re.findall(r"url\(\s*['\"]?([^'\")]+)", data) + re.findall(r"@import[^;]+", data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def dead_links(site: Path) -> list[str]:
    """Links of all pages that lead out of the folder or to nothing in it; links to the web may be anything."""
    pages = {page: read(page) for page in site.rglob("*.html")}
    dead = []
    for page, reader in pages.items():
        for link in reader.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            known = target.is_file() and target.is_relative_to(site.resolve()) and not parts.path.startswith("/")
            anchored = not parts.fragment or (target in pages and parts.fragment in pages[target].ids)
            if parts.scheme or not known or not anchored:
                dead.append(f"{page.relative_to(site)}: {link}")
    return dead


def forbidden(page: Path) -> list[Any]:
    """What a page would fetch, handlers in its markup, and scripts that its own policy does not name."""
    reader = read(page)
    found: list[Any] = [each for each in reader.fetched if not each.startswith(("data:", "#"))]
    for script in reader.scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        found += [] if f"'sha256-{digest}'" in reader.policy else [f"script {script[:40]!r}"]
    return found + reader.handlers + ([] if "default-src 'none'" in reader.policy else ["no policy"])
