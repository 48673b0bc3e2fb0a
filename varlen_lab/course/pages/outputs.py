"""One output of a cell as HTML: the richest form that a page without a kernel can show, and that is safe."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from varlen_lab.course.lab import LAB_TYPE
from varlen_lab.course.pages.cleaning import Page, clean
from varlen_lab.course.pages.figures import figure
from varlen_lab.course.pages.pictures import from_base64
from varlen_lab.errors import InputError
from varlen_lab.language.saying import say
from varlen_lab.viz.policy import ROW_TYPE

WIDGET = "application/vnd.jupyter.widget-view+json"
NO_PICTURE = {"image/png": ""}
ERROR = '<pre id="error" '  # how the HTML of an error begins
LONGEST = 200_000  # characters of an output's text
COMMANDS = re.compile(r"\x1b\][^\x07\x1b]*(\x07|\x1b\\)?|\x1b[^\[\]]|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|\x1b$")
STRAY = re.compile(r"<IPython\.core\.display\.\w+ object>|Output\(\)")  # how a thing is called that shows nothing


def output_html(output: Any, cell: Any, page: Page) -> str:
    """An output as nbformat holds it; '' for one that says nothing here, such as a widget's name, or has lost parts."""
    kind, data = output.get("output_type"), output.get("data")
    if kind == "stream":
        return text_html(joined(output.get("text", "")), " stderr" if output.get("name") == "stderr" else "")
    if kind == "error":
        said = f"{output.get('ename', 'error')}: {output.get('evalue', '')}"
        lines = "\n".join(map(str, output.get("traceback") or [])) or said
        return text_html(lines, " traceback").replace("<pre ", ERROR, 1)
    for mime, show in SHOWN.items():
        if isinstance(data, dict) and mime in data and (html := show(data[mime], output, cell, page)):
            return html
    return ""


def text_html(text: str, kind: str = "") -> str:
    """Text with a terminal's colours, as a terminal leaves it; '' for none. Of very much its beginning and its end."""
    from nbconvert.filters import ansi2html

    if not text.strip():
        return ""
    if len(text) > LONGEST:
        words = say("… {count:,} characters are left out here; the notebook holds them …", count=len(text) - LONGEST)
        left_out = f"\n{words}\n"
        text = f"{text[: LONGEST // 2]}\x1b[0m{left_out}{text[-LONGEST // 2 :]}"
    html = ansi2html(rewritten(text))
    coloured = " coloured" if ' style="' in html else ""  # of 256; the sixteen of a terminal are classes
    return f'<pre class="text{kind}{coloured}">{html}</pre>'


def rewritten(text: str) -> str:
    """Lines as a terminal leaves them: what follows a carriage return stands in place of what was before.

    Commands to a terminal other than colours, such as its links and titles, are no text.
    """
    text = COMMANDS.sub("", text)
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def joined(value: Any) -> str:
    """Text that a notebook may keep as a list of lines."""
    return "".join(map(str, value)) if isinstance(value, list) else str(value)


def row_html(data: Any, output: Any, cell: Any, page: Page) -> str:
    """The live explorer; its own module checks the data, and what is no row is shown otherwise."""
    from varlen_lab.viz.explorer_page import fragment

    try:
        return fragment(data, label="Attention masks of a packed row")
    except InputError:
        return ""


def lab_html(data: Any, output: Any, cell: Any, page: Page) -> str:
    """The break-it lab, in the language that the notebook spoke; what is no lab is shown otherwise."""
    from varlen_lab.course.lab.page import fragment, read_asked

    try:
        language, switch = read_asked(data)
    except InputError:
        return ""
    return fragment(language, switch=switch)


def markup(value: Any, output: Any, cell: Any, page: Page) -> str:
    """HTML, cleaned; '' when nothing of it is left to see."""
    html = clean(joined(value), page)
    return f'<div class="html">{html}</div>' if re.sub(r"<(?!img)[^>]*>|\s", "", html) else ""


def markdown(value: Any, output: Any, cell: Any, page: Page) -> str:
    """Markdown of an output."""
    html = clean(markdown_html(joined(value)), page)
    return f'<div class="html prose">{html}</div>' if html.strip() else ""


def image(value: Any, output: Any, cell: Any, page: Page) -> str:
    """A picture with its alt text: its own, the cell's, or at least what page it stands on."""
    about = [
        each
        for mime, each in output.get("metadata", {}).items()
        if mime.startswith("image/") and isinstance(each, dict)
    ]
    details: dict[str, Any] = about[0] if about else {}
    alt = details.get("alt") or cell.metadata.get("alt") or say("Figure of {title}", title=page.title)
    data = joined(value).encode("utf-8") if joined(value).lstrip().startswith("<") else from_base64(joined(value))
    return figure(data, str(alt), details)


def plain(value: Any, output: Any, cell: Any, page: Page) -> str:
    """Text; the name of a widget is none, for the widget itself cannot be here."""
    text = joined(value)
    return "" if WIDGET in output.data or STRAY.fullmatch(text.strip()) else text_html(text)


def markdown_html(source: str, attachments: Any = None) -> str:
    """Markdown as nbconvert writes it, not clean yet; pictures stay addresses."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    attached = Attached(attachments if isinstance(attachments, dict) else {})
    renderer = IPythonRenderer(escape=False, attachments=attached, exclude_anchor_links=True)
    return str(MarkdownWithMath(renderer=renderer).render(source))


class Attached(dict[str, Any]):
    """The attachments of a cell; one that is not there, or is none, is a picture without anything in it."""

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> dict[str, str]:
        found = self.get(name)
        return {mime: joined(data) for mime, data in found.items()} if isinstance(found, dict) and found else NO_PICTURE


SHOWN: dict[str, Callable[[Any, Any, Any, Page], str]] = {  # richest first
    ROW_TYPE: row_html,
    LAB_TYPE: lab_html,
    "text/html": markup,
    "text/markdown": markdown,
    "image/svg+xml": image,
    "image/png": image,
    "image/jpeg": image,
    "image/gif": image,
    "image/webp": image,
    "text/latex": plain,
    "text/plain": plain,
}
